"""What was measured: each figure several times, and where."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

from engines import MongoDB
from supervisor import Supervisor, say

MICROSECONDS = 1e6


class Results:
    """What was measured: each figure several times."""

    def __init__(self, measure: str):
        self.measure = measure
        self.values: dict[str, list[float]] = defaultdict(list)
        self.units: dict[str, str] = {}

    def add(self, name: str, unit: str, value: float) -> None:
        self.values[name].append(value)
        self.units[name] = unit

    def cpu(self, name: str, used: dict[str, float], units: float, *processes: str) -> None:
        """Microseconds of these processes for one unit of work."""
        by_name = {short(process): seconds for process, seconds in used.items()}
        for process in processes:
            self.add(f"{name}.{process}", "µs", by_name[process] / units * MICROSECONDS)

    def rows(self) -> dict[str, dict]:
        return {name: {"unit": self.units[name], "median": rounded(statistics.median(values)),
                       "low": rounded(min(values)), "high": rounded(max(values)), "times": len(values),
                       "command": f"make bench ONLY={self.measure}"} for name, values in self.values.items()}


def short(process: str) -> str:
    return {"command-service-api-1": "command_api", "command-service-relay-1": "relay",
            "query-service-projector-1": "projector", "query-service-api-1": "query_api"}.get(process, process)


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def per_more(of_more: float, of_less: float, more: float) -> float:
    """What one more unit costs; noise can make it less than nothing, which it is not."""
    return max(0.0, of_more - of_less) / more


def kind_of_database(supervisor: Supervisor) -> str:
    kind = MongoDB.find(supervisor).kind
    return kind if kind == "mongod" else f"{kind}, the embedded engine: not mongod"


def cpu_kind() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def show(found: Results) -> None:
    for name, row in found.rows().items():
        say(f"{name:<48} {row['median']:>12,g} {row['unit']:<28} {row['low']:,g} to {row['high']:,g}, "
            f"{row['times']} times")
