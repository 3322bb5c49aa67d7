"""A stack to measure: each role in a process of its own, what each process has used, and loads for it."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from engines import free_ports, mongodb_command  # noqa: E402
from observe import ask  # noqa: E402
from own_stack import Broker, Client, Role, Stack  # noqa: E402
from supervisor import Failed, Supervisor  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
# How long nothing happens before it counts as quiet, and how long that is measured.
IDLE_SECONDS = 6
POLL_SECONDS = 0.25
BUSY_TRIES = 10
FOLD_PATIENCE_SECONDS = 900
API = "/api/v1"
TEXT = "Sixty characters of what somebody had to say today, or more. "
SETTINGS = {"IP_RATE_PER_SECOND": "0", "POST_QUOTA": "10000000", "STREAM_HEARTBEAT_SECS": "15"}
# The sums below name processes by these.
SPARE = "query-service-api-2"


@dataclass(frozen=True)
class Used:
    """CPU seconds and resident bytes of each process, at a moment or, after subtraction, in a time."""
    at: float
    cpu: dict[str, float]
    resident: dict[str, int]

    def since(self, before: Used, idle: dict[str, float] | None = None) -> dict[str, float]:
        """CPU seconds since then, without what the processes use when nothing happens."""
        idle, seconds = idle or {}, self.at - before.at
        return {name: max(0.0, cpu - before.cpu[name] - seconds * idle.get(name, 0.0))
                for name, cpu in self.cpu.items() if name in before.cpu}


class BenchStack(Stack):
    """One process of each role, and a second query API that nobody asks: what it uses, it uses to listen."""

    def __init__(self, supervisor: Supervisor, partitions: int = 4, **settings: str):
        super().__init__(supervisor, 1, PARTITIONS=str(partitions), **{**SETTINGS, **settings})
        self.partitions = partitions
        self.add("query-service", "api")
        self.idle: dict[str, float] = {}

    def add(self, job: str, role: str) -> Role:
        """One more process of a role; it starts with the stack, or by `start_role`."""
        number = len(self.all(job, role)) + 1
        added = Role(job, role, number, *free_ports(2), self.folder / f"{job}-{role}-{number}.log")
        self.roles.append(added)
        return added

    # --- what was used ---

    def processes(self) -> dict[str, int]:
        pids = {name: process.pid for name, process in self.engines.items()}
        return pids | {role.name: role.process.pid for role in self.roles if role.process}

    def used(self) -> Used:
        cpu, resident = {}, {}
        for name, pid in self.processes().items():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu[name] = (int(fields[11]) + int(fields[12])) / TICKS
            resident[name] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        return Used(time.monotonic(), cpu, resident)

    def settle(self) -> None:
        """Waits until everything is folded, then measures what the processes use when nothing happens."""
        self.wait_until_folded()
        before = self.used()
        self.supervisor.pause(IDLE_SECONDS)
        after = self.used()
        self.idle = {name: cpu / (after.at - before.at) for name, cpu in after.since(before).items()}

    def measure(self, work: Callable[[], object]) -> dict[str, float]:
        """CPU seconds of each process during `work`, above idle."""
        before = self.used()
        work()
        return self.used().since(before, self.idle)

    # --- where it stands ---

    def metric(self, role: Role, name: str, **labels: str) -> float:
        """The sum of all series of a metric that have these labels."""
        total = 0.0
        for line in ask(role.ops, "/metrics")[1].decode().splitlines():
            if re.match(rf"{name}[{{ ]", line) and all(f'{label}="{value}"' in line for label, value in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total

    def projector(self) -> Role:
        return self.first("query-service", "projector")

    def checkpoint(self) -> int:
        """The sequence that all partitions have passed, whoever folds them."""
        reached: dict[str, float] = {}
        for role in self.all("query-service", "projector"):
            for line in ask(role.ops, "/metrics")[1].decode().splitlines():
                if found := re.match(r'query_service_checkpoint_sequence\{partition="(\d+)"\} (\S+)', line):
                    reached[found[1]] = max(reached.get(found[1], 0), float(found[2]))
        return int(min(reached.values())) if len(reached) == self.partitions else 0

    def stream(self) -> dict:
        broker = Broker(self.nats_port)
        try:
            return broker.ask("$JS.API.STREAM.INFO.MICROBLOG").get("state", {"last_seq": 0, "bytes": 0, "messages": 0})
        finally:
            broker.close()

    def wait_until_published(self, events: int) -> None:
        self.patiently("all events are on the stream", lambda: self.stream()["last_seq"] >= events)

    def wait_until_folded(self) -> None:
        relay = self.first("command-service", "relay")
        self.patiently("all events are on the stream", lambda: self.metric(relay, "relay_lag_events") == 0)
        last = self.stream()["last_seq"]
        self.patiently("all partitions have folded everything", lambda: self.checkpoint() >= last)

    def patiently(self, what: str, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + FOLD_PATIENCE_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise Failed(f"waited {FOLD_PATIENCE_SECONDS} s in vain: {what}")
            self.supervisor.check_alive()
            self.supervisor.pause(POLL_SECONDS)

    def entries(self) -> float:
        return self.metric(self.projector(), "query_service_timeline_entries_total")

    def size_of(self, database: str) -> dict:
        """What the database says of its own size."""
        return mongodb_command(self.mongodb_port, {"dbStats": 1}, database)

    @contextmanager
    def paused(self, *roles: Role):
        """Processes that do nothing meanwhile, so that what the others do can be told apart."""
        for role in roles:
            role.process.popen.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for role in roles:
                role.process.popen.send_signal(signal.SIGCONT)

    # --- loads ---

    def load(self, lines: Iterable[dict], *arguments: str) -> None:
        """Users, follows and posts, by the operator's command."""
        file = self.folder / "input.ndjson"
        with file.open("w") as output:
            output.writelines(f"{json.dumps(line)}\n" for line in lines)
        self.operate("command-service", "import", *arguments, str(file))

    def call(self, role: Role, requests: list[tuple], threads: int = 4) -> list:
        """`(method, path, body, token, headers)`, from several threads; each must be a success, if not at once."""
        waiting, answers, failures = iter(requests), [], []
        turn = threading.Lock()

        def work() -> None:
            client = Client(role.port)
            while not failures:
                with turn:
                    request = next(waiting, None)
                if request is None:
                    return
                method, path, body, token, headers = (*request, {})[:5]
                answer = client(method, path, body, token, **headers)
                for _ in range(BUSY_TRIES):
                    if answer.status != 503:
                        break
                    # The machine is too busy with other things: what is refused costs next to nothing.
                    time.sleep(1)
                    answer = client(method, path, body, token, **headers)
                if answer.status not in (200, 201, 204, 304):
                    failures.append(f"{method} {path} answers {answer.status}: {answer.body[:200].decode()}")
                answers.append(answer)

        running = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
        for thread in running:
            thread.start()
        while any(thread.is_alive() for thread in running):
            self.supervisor.pause(0.05)
        if failures:
            raise Failed(failures[0])
        if len(answers) != len(requests):
            raise Failed(f"{len(requests) - len(answers)} of {len(requests)} requests have no answer")
        return answers

    def post(self, authors: list[str], count: int, tokens: dict[str, str]) -> list:
        """Posts over HTTP, authors taking turns."""
        requests = [("POST", f"{API}/posts", {"content": f"{TEXT}{number}"}, tokens[authors[number % len(authors)]])
                    for number in range(count)]
        return self.call(self.first("command-service", "api"), requests)


class InvalidationMessages:
    """Listens to the invalidation messages beside the replicas, and counts them."""

    def __init__(self, port: int):
        self.broker = Broker(port)
        self.messages = self.bytes = 0
        self.broker.socket.sendall(b"SUB microblog.notices 1\r\nPING\r\n")
        self.broker.socket.settimeout(None)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        try:
            while words := self.broker.lines.readline().split():
                if words[0] == b"MSG":
                    size = int(words[-1])
                    self.broker.lines.read(size + 2)
                    self.messages, self.bytes = self.messages + 1, self.bytes + size
                elif words[0] == b"PING":
                    self.broker.socket.sendall(b"PONG\r\n")
        except (OSError, ValueError):
            return  # closed

    def count(self) -> tuple[int, int]:
        return self.messages, self.bytes
