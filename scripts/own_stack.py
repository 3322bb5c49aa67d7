"""A stack of its own, each role in processes of its own, with Prometheus beside it: for scripts that try something.

Engines, services and Prometheus listen on free ports, and all that they write is in a temporary folder.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dev import binaries
from engines import MongoDB, Nats, free_ports, traefik
from gateway import Gateway, Servers
from observe import Prometheus, direct, rule_files, start_prometheus
from readiness import ask_readiness
from supervisor import Failed, Process, Supervisor

PATIENCE_SECONDS = 60
PASSWORD = "correct horse"
# The order in which they start: the first makes the signing key.
ROLES = (
    ("command-service", "api"), ("command-service", "relay"), ("query-service", "projector"), ("query-service", "api"))


@dataclass
class Role:
    """One process of a service."""
    job: str
    role: str
    number: int
    port: int
    ops_port: int
    log: Path
    process: Process | None = None

    @property
    def name(self) -> str:
        return f"{self.job}-{self.role}-{self.number}"

    @property
    def ops(self) -> str:
        return f"127.0.0.1:{self.ops_port}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)


class Client:
    """Calls a service on one connection; not for several threads."""

    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def __call__(self, method: str, path: str, body: object = None, token: str | None = None, **headers: str) -> Answer:
        """`headers` are written with underscores. A body that is no bytes is sent as JSON."""
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            said["authorization"] = f"Bearer {token}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            said.setdefault("content-type", "application/json")
        try:
            self.connection.request(method, path, body, said)
            answer = self.connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        except (OSError, http.client.HTTPException):
            self.connection.close()  # the next call connects again
            raise


@dataclass(frozen=True)
class User:
    name: str
    id: str
    token: str


class Stack:
    """Engines, `each` processes of every role, and Prometheus."""

    def __init__(self, supervisor: Supervisor, each: int = 1, **settings: str):
        self.supervisor = supervisor
        self.folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-try-")))
        self.binaries = binaries(supervisor)
        self.mongodb, self.nats = MongoDB.find(supervisor), Nats.find(supervisor)
        self.mongodb_port, self.nats_port, self.prometheus_port, *ports = free_ports(3 + 2 * each * len(ROLES))
        self.broker = {"store": "", "password": "first"}
        pairs = iter(zip(ports[::2], ports[1::2]))
        self.roles = [Role(job, role, number, *next(pairs), self.folder / f"{job}-{role}-{number}.log")
                      for job, role in ROLES for number in range(1, each + 1)]
        self.settings = settings
        self.prometheus: Prometheus | None = None
        self.engines: dict[str, Process] = {}

    # --- starting ---

    def start(self) -> None:
        self.start_mongodb()
        self.start_nats()
        for role in self.roles:
            self.start_role(role)
            if role is self.roles[0]:
                self.wait_until_ready(role)
        for role in self.roles:
            self.wait_until_ready(role)

    def start_mongodb(self) -> None:
        self.engines["mongodb"] = self.mongodb.start(self.supervisor, self.folder, self.folder, self.mongodb_port)

    def start_nats(self) -> None:
        self.engines["nats"] = self.nats.start(self.supervisor, self.folder, self.folder, self.nats_port,
                                               self.nats_configuration())

    def nats_configuration(self) -> str:
        return f"""\
server_name: microblog
listen: "127.0.0.1:{self.nats_port}"
authorization {{
  users: [
    {{ user: "microblog", password: "{self.broker['password']}" }}
    {{ user: "somebody", password: "else" }}
  ]
}}
jetstream {{
  store_dir: {json.dumps(str(self.folder / "nats"))}
  sync_interval: always
  {self.broker['store']}
}}
"""

    def reload_nats(self) -> None:
        """It takes up what it can of a changed configuration, and closes connections that may not be there any more."""
        (self.folder / "nats.conf").write_text(self.nats_configuration())
        self.engines["nats"].popen.send_signal(signal.SIGHUP)

    def environment(self, role: Role) -> dict[str, str]:
        command_port = self.first("command-service", "api").port
        # What this terminal says for a stack of its own is not for this one.
        ours = {name: value for name, value in direct().items() if name in ("PATH", "HOME", "TMPDIR")}
        return {
            **ours,
            "MONGODB_URI": self.mongodb.uri(self.mongodb_port),
            "NATS_URL": f"nats://microblog:first@127.0.0.1:{self.nats_port}",
            "JWT_PRIVATE_KEY_FILE": str(self.folder / "jwt.pem"),
            "JWKS_URL": f"http://127.0.0.1:{command_port}/.well-known/jwks.json",
            "COMMAND_ADDR": f"127.0.0.1:{role.port}", "QUERY_ADDR": f"127.0.0.1:{role.port}",
            "COMMAND_OPS_ADDR": role.ops, "QUERY_OPS_ADDR": role.ops,
            "LOG_FORMAT": "json", **self.settings,
        }

    def start_role(self, role: Role) -> None:
        role.process = self.supervisor.start(role.name, [str(self.binaries / role.job), "--role", role.role],
                                             env=self.environment(role), cwd=self.folder, log=role.log)

    def start_prometheus(self, seconds: float, **more: str) -> None:
        """With all processes as targets, and `more`, addresses of other jobs. Returns when it has read them all."""
        targets = {job: [address] for job, address in more.items()}
        for role in self.roles:
            targets.setdefault(role.job, []).append(role.ops)
        self.prometheus = start_prometheus(
            self.supervisor, self.folder, self.folder / "prometheus.log", f"127.0.0.1:{self.prometheus_port}", targets,
            rule_files(), seconds)
        self.wait("Prometheus has read all targets",
                  lambda: len(self.prometheus.query("up == 1")) == len(self.roles) + len(more))

    def start_gateway(self, rate: int = 0) -> Gateway:
        """In front of all APIs; without a limit for one address, unless it is told one. The services are to trust it:
        TRUSTED_PROXIES=127.0.0.1."""
        commands, queries = (Servers(tuple(f"http://127.0.0.1:{role.port}" for role in self.all(job, "api")))
                             for job in ("command-service", "query-service"))
        gateway = Gateway(f"127.0.0.1:{free_ports(1)[0]}", commands, queries, rate=rate)
        self.engines["gateway"] = gateway.start(self.supervisor, traefik(self.supervisor), self.folder / "gateway.log")
        return gateway

    # --- looking ---

    def first(self, job: str, role: str) -> Role:
        return self.all(job, role)[0]

    def all(self, job: str, role: str | None = None) -> list[Role]:
        return [each for each in self.roles if each.job == job and role in (None, each.role)]

    def commands(self) -> Client:
        return Client(random.choice(self.all("command-service", "api")).port)

    def queries(self) -> Client:
        return Client(random.choice(self.all("query-service", "api")).port)

    def wait_until_ready(self, role: Role) -> None:
        self.wait(f"{role.name} is ready (its log is {role.log})", lambda: ask_readiness(role.ops) == 200)

    def wait(self, what: str, done: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> object:
        """Until `done` returns something; while it waits, nothing may end by itself."""
        deadline = time.monotonic() + seconds
        while not (result := done()):
            if time.monotonic() > deadline:
                raise Failed(f"waited {seconds:.0f} s in vain: {what}")
            self.supervisor.check_alive()
            self.supervisor.pause(0.1)
        return result

    # --- users ---

    def register(self, count: int) -> list[User]:
        """Users, with tokens that the operator command makes: signing in takes a core's time."""
        names = [f"user_{number}" for number in range(count)]
        ids = {}
        commands = self.commands()
        for name in names:
            answer = commands("POST", "/api/v1/users", {
                "username": name, "email": f"{name}@example.com", "password": PASSWORD})
            if answer.status != 201:
                raise Failed(f"{name} cannot register: {answer.status} {answer.body.decode()}")
            ids[name] = answer.json()["user_id"]
        return [User(name, ids[name], token) for name, token in self.tokens(*names).items()]

    def tokens(self, *names: str) -> dict[str, str]:
        printed = self.operate("command-service", "token", *names)
        pairs = (line.rpartition("\t") for line in printed.splitlines())
        return {name or names[0]: token for name, _, token in pairs}

    def operate(self, program: str, *arguments: str) -> str:
        """What an operator's command prints."""
        output = self.folder / "printed"
        with output.open("wb") as file:
            code = self.supervisor.run(program, [str(self.binaries / program), *arguments], stdout=file,
                                       env={**self.environment(self.roles[0]), "RUST_LOG": "off"}, cwd=self.folder)
        printed = output.read_text()
        if code:
            raise Failed(f"{program} {' '.join(arguments)} ended with {code}: {printed.strip()}")
        return printed


class Broker:
    """Just enough of NATS' protocol to ask JetStream for something, as a user who is not one of the services."""

    def __init__(self, port: int, user: str = "somebody", password: str = "else"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.lines = self.socket.makefile("rb")
        self.lines.readline()  # INFO
        self.inboxes = itertools.count(1)
        options = {"verbose": False, "pedantic": False, "name": "try", "lang": "python", "version": "1", "protocol": 1,
                   "user": user, "pass": password}
        self.socket.sendall(f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode())
        if not (answer := self.lines.readline()).startswith(b"PONG"):
            raise Failed(f"NATS answers {answer!r}")

    def ask(self, subject: str, body: bytes | dict = b"") -> dict:
        """What JetStream answers; its errors are answers too."""
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        number = next(self.inboxes)
        inbox = f"_INBOX.try.{number}"
        head = f"SUB {inbox} {number}\r\nUNSUB {number} 1\r\nPUB {subject} {inbox} {len(body)}\r\n"
        self.socket.sendall(head.encode() + body + b"\r\n")
        while True:
            words = self.lines.readline().split()
            if not words or words[0] == b"-ERR":
                raise Failed(f"NATS answers {words} to {subject}")
            if words[0] == b"PING":
                self.socket.sendall(b"PONG\r\n")
            elif words[0] == b"MSG":
                payload = self.lines.read(int(words[-1]))
                self.lines.readline()
                return json.loads(payload)

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


@dataclass
class Traffic:
    """Posts and reads, one after the other, from several threads until it is stopped. It counts what is answered."""
    stack: Stack
    users: list[User]
    pause: float = 0.1
    threads: int = 2
    statuses: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.ended = threading.Event()
        self.running = [threading.Thread(target=self.run, args=(seed,), daemon=True) for seed in range(self.threads)]
        for thread in self.running:
            thread.start()

    def run(self, seed: int) -> None:
        random_user = random.Random(seed)
        commands, queries = self.stack.commands(), self.stack.queries()
        while not self.ended.wait(self.pause):
            user = random_user.choice(self.users)
            for what, call in (
                ("post", lambda: commands("POST", "/api/v1/posts", {"content": f"At {time.time()}"}, user.token)),
                ("read", lambda: queries("GET", "/api/v1/timeline", None, user.token)),
            ):
                try:
                    status = call().status
                except (OSError, http.client.HTTPException) as error:
                    status = type(error).__name__
                self.statuses[what, status] += 1

    def stop(self) -> str:
        self.ended.set()
        for thread in self.running:
            thread.join(35)
        return ", ".join(f"{count} {what} {status}" for (what, status), count in sorted(self.statuses.items(), key=str))
