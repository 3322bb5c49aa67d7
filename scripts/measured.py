"""What there is to measure, and what an expression of PromQL asks for: for the checks of rules and of dashboards."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
METRICS, ROUTES = ROOT / "docs" / "metrics.md", ROOT / "shared" / "src" / "web" / "routes.rs"
SERVICES, GATEWAY = ("command-service", "query-service"), "gateway"
STATUSES = [str(status) for status in range(100, 600)]
# What Traefik measures at the gateway. Seen with Traefik 3.7.15.
OF_THE_GATEWAY = {"traefik_entrypoint_requests_total": {
    "job": [GATEWAY], "instance": None, "code": STATUSES, "entrypoint": ["web", "websecure", "ops"], "method": None,
    "protocol": None}}

# A metric's labels, each with its values, None where any may be.
Labels = dict[str, "list[str] | None"]

STRING = r'"(?:[^"\\]|\\.)*"'
MATCHER = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({STRING})")
SELECTOR = re.compile(rf"([a-zA-Z_:][\w:]*)\s*(\{{(?:[^\"}}]|{STRING})*\}})?(?!\s*\(|[\w:])")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
OPERATORS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}


@dataclass(frozen=True)
class Asked:
    """What an expression asks for: each metric with its matchers, and the labels that it groups or joins by."""
    selectors: list[tuple[str, list[tuple[str, str, str]]]]
    grouped: set[str]


def asked(expression: str) -> Asked:
    grouped = {label for labels in GROUPING.findall(expression) for label in re.findall(r"\w+", labels)}
    bare = GROUPING.sub(" ", re.sub(r"#.*", "", expression))
    bare = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", " ", bare)
    # What is an argument in quotes, as in label_replace, is no metric.
    bare = re.sub(rf"(?<=[(,])\s*{STRING}", " ", bare)
    return Asked([(name, [(label, how, json.loads(value)) for label, how, value in MATCHER.findall(braces)])
                  for name, braces in SELECTOR.findall(bare) if name.lower() not in OPERATORS], grouped)


def documented(metrics: str, routes: str) -> dict[str, Labels]:
    """The rows of the tables in docs/metrics.md, by their names there; `series` says what Prometheus calls them."""
    special = {
        "patterns of the routes, unmatched": [*re.findall(r'"(/[^"]*)"', routes), "unmatched"],
        "one in each build": None, "status codes": STATUSES,
        "0 to `PARTITIONS` - 1": [str(partition) for partition in range(256)]}
    found: dict[str, Labels] = {}
    for names, kind, labels in re.findall(r"^\| (`[^|]*`) \|([^|]*)\|([^|]*)\|", metrics, re.MULTILINE):
        told = dict(re.findall(r"`(\w+)`: ((?:[^;`]|`[A-Z]+`)+)", labels))
        values = {label: special[text.strip()] if text.strip() in special else text.strip().split(", ")
                  for label, text in told.items()}
        histogram = kind.strip().startswith("histogram")
        found.update((name, {**values, "le": None} if histogram else values) for name in re.findall(r"`(\w+)`", names))
    return found


def series(documented: dict[str, Labels]) -> dict[str, Labels]:
    """Of a histogram, which has the label `le`, the three that Prometheus makes of it."""
    found: dict[str, Labels] = {}
    for name, labels in documented.items():
        rest = {label: values for label, values in labels.items() if label != "le"}
        found.update({f"{name}_bucket": labels, f"{name}_count": rest, f"{name}_sum": rest} if "le" in labels
                     else {name: labels})
    return found


def never(labels: Labels, label: str, how: str, value: str) -> list[str]:
    """What a matcher wants of a label that the label never is."""
    if labels.get(label) is None:
        return []
    wanted = value.split("|") if how in ("=~", "!~") else [re.escape(value)]
    return [each for each in wanted if not any(re.fullmatch(each, known) for known in labels[label])]
