#!/usr/bin/env python3
"""Runs the procedures of docs/operations.md, as they stand there, while clients post and read through the gateway.

Each block is run by `sh -eu` in a folder with the layout that the document describes, on addresses of this machine.
What a procedure promises is looked at after it: how many requests failed, that every acknowledged post is there, and
that `query-service verify` finds no difference. Binaries are those in MICROBLOG_BIN_DIR, or are built. With
MICROBLOG_BEFORE, a folder with those of an earlier version, the upgrade is from these.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from dev import binaries  # noqa: E402
from engines import MongoDB, Nats, free_ports, traefik  # noqa: E402
from own_stack import PASSWORD, Answer, Client  # noqa: E402
from procedures import DOCUMENT, NAMES, ROOT, blocks, misplaced  # noqa: E402
from supervisor import Failed, Process, Supervisor, say, supervised  # noqa: E402

# The ports of the document, on each of three hosts, and the gateway's.
PORTS = [port + more for port in (8081, 8082, 8083, 8084) for more in (0, 1000)]
GATEWAY_PORT = 8080
# A procedure that takes longer hangs.
BLOCK_SECONDS = 600
# How long until an acknowledged post is in its author's timeline.
VISIBLE_SECONDS = 60
USERS = 6
# What a client waits before a request, in seconds: so dense that some request is always under way, and all together
# below 200 a second, which an API takes from one address. Where requests may fail, ten times as long, or `rebuild` and
# `verify` take minutes.
PAUSE = (0.02, 0.08)
# How often a client reads after each post.
READS = 8
# How often a client asks again that is told to come back later.
ATTEMPTS = 5
# Access tokens are good for 15 minutes.
SIGN_IN_AGAIN_SECONDS = 600


def has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# --- the clients ------------------------------------------------------------------------------------------------

@dataclass
class User:
    name: str
    id: str = ""
    token: str = ""
    signed_in: float = 0.0
    posts: set[str] = field(default_factory=set)  # acknowledged


def expect(status: int, answer: Answer) -> Answer:
    if answer.status != status:
        raise Failed(f"the gateway answers {answer.status} and not {status}: {answer.body.decode(errors='replace')}")
    return answer


class Load:
    """Clients, each with a connection of its own, that post and read until they are stopped."""

    def __init__(self, host: str):
        self.host, self.ended, self.goes_on = host, threading.Event(), threading.Event()
        self.goes_on.set()
        self.users = [User(f"user_{number}") for number in range(USERS)]
        self.turn = threading.Lock()
        self.answered = self.later = 0
        self.slower = 1  # a factor of PAUSE
        self.slowest = 0.0  # seconds
        self.failed: Counter = Counter()
        self.threads: list[threading.Thread] = []

    def client(self) -> Client:
        client = Client(GATEWAY_PORT)
        client.connection = http.client.HTTPConnection(self.host, GATEWAY_PORT, timeout=30)
        return client

    def start(self) -> None:
        """Registers everybody; each follows the next."""
        client = self.client()
        for user in self.users:
            account = {"username": user.name, "password": PASSWORD}
            body = {**account, "email": f"{user.name}@example.com"}
            user.id = expect(201, client("POST", "/api/v1/users", body)).json()["user_id"]
            answer = expect(200, client("POST", "/api/v1/auth/login", account))
            user.token, user.signed_in = answer.json()["access_token"], time.monotonic()
        for user, other in zip(self.users, [*self.users[1:], self.users[0]]):
            expect(200, client("POST", f"/api/v1/users/{other.id}/follow", None, user.token))
        self.threads = [threading.Thread(target=self.run, args=(user,), daemon=True) for user in self.users]
        for thread in self.threads:
            thread.start()

    def run(self, user: User) -> None:
        client, number = self.client(), 0
        while not self.ended.wait(random.uniform(*PAUSE) * self.slower):
            self.goes_on.wait()
            if time.monotonic() > user.signed_in + SIGN_IN_AGAIN_SECONDS:
                answer = self.call("sign in", client, "POST", "/api/v1/auth/login",
                                   {"username": user.name, "password": PASSWORD})
                if not answer:
                    continue
                user.token, user.signed_in = answer.json()["access_token"], time.monotonic()
            number += 1
            if answer := self.call("post", client, "POST", "/api/v1/posts", {"content": f"Post {number}"}, user.token,
                                   idempotency_key=f"{number}"):
                with self.turn:
                    user.posts.add(answer.json()["post_id"])
            for _ in range(READS):
                self.ended.wait(random.uniform(*PAUSE) * self.slower)
                self.call("read", client, "GET", "/api/v1/timeline", None, user.token)

    def call(self, what: str, client: Client, *request, **headers: str) -> Answer | None:
        """The answer, if it is the one that is wanted. Who is told to come back later does, as clients should."""
        began = time.monotonic()
        for _ in range(ATTEMPTS):
            try:
                answer = client(*request, **headers)
                outcome = f"{answer.status}"
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
                break
            if answer.status in (200, 201):
                with self.turn:
                    self.answered += 1
                    self.slowest = max(self.slowest, time.monotonic() - began)
                return answer
            if answer.status != 503 or "retry-after" not in answer.headers:
                break
            with self.turn:
                self.later += 1
            self.ended.wait(int(answer.headers["retry-after"]))
        with self.turn:
            self.failed[f"{what}: {outcome}"] += 1
        return None

    def stop(self) -> None:
        self.ended.set()
        self.goes_on.set()
        for thread in self.threads:
            thread.join(35)

    def not_there_yet(self) -> dict[str, set[str]]:
        """The posts that are acknowledged now, by their authors' ids."""
        with self.turn:
            return {user.id: set(user.posts) for user in self.users}

    def look_for(self, wanted: dict[str, set[str]]) -> bool:
        """Removes those that are in their authors' timelines, and tells whether none is left."""
        client = self.client()
        for user, posts in wanted.items():
            path = f"/api/v1/users/{user}/posts?limit=100"
            cursor = ""
            while posts and cursor is not None:
                answer = client("GET", path + cursor)
                if answer.status != 200:
                    return False
                page = answer.json()
                posts -= {post["post_id"] for post in page["posts"]}
                cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
        return not any(wanted.values())


# --- the folder and what is in it ---------------------------------------------------------------------------------

class Site:
    """Engines, the folder that the document describes, and a session in which its blocks are run."""

    def __init__(self, supervisor: Supervisor, document: str):
        self.supervisor = supervisor
        found = blocks(document)
        if problems := misplaced(found):
            raise Failed(f"{DOCUMENT.name}: {'; '.join(problems)}")
        self.files = {block.name: block.text for block in found if block.kind == "file"}
        self.procedures = {block.name: block.text for block in found if block.kind == "procedure"}
        new = binaries(supervisor)
        old = Path(os.environ.get("MICROBLOG_BEFORE") or new).absolute()
        self.gateway_program = traefik(supervisor)
        self.mongodb, self.nats = MongoDB.find(supervisor), Nats.find(supervisor)
        self.folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-operations-")))
        *ports, self.nats_port = free_ports(4)
        self.mongodb_ports = dict(zip(("log", "views", "new-views"), ports))
        self.hosts = free_hosts(4)
        self.engines: dict[str, Process] = {}
        self.lay_out(old, new)
        for name in ("log", "views"):
            self.start_mongodb(name)
        self.start_nats()
        self.session = self.open_session()
        self.load = Load(self.hosts[0])

    def lay_out(self, old: Path, new: Path) -> None:
        for number, binaries_of in enumerate((old, new), 1):
            release = self.folder / "releases" / f"{number}"
            release.mkdir(parents=True)
            for name in ("command-service", "query-service"):
                if not (binaries_of / name).is_file():
                    raise Failed(f"there is no {binaries_of / name}")
                (release / name).symlink_to(binaries_of / name)
        gateway, *hosts = self.hosts
        values = {
            **{f"HOST{number}": host for number, host in enumerate(hosts, 1)},
            "GATEWAY_ADDR": f"{gateway}:{GATEWAY_PORT}", "TRUSTED_PROXIES": "127.0.0.1",
            "MONGODB_URI": self.mongodb_uri("log"), "VIEWS_MONGODB_URI": self.mongodb_uri("views"),
            "NEW_VIEWS_MONGODB_URI": self.mongodb_uri("new-views"),
            "SECOND_MONGODB_URI": self.mongodb_uri("log", "second"),
            "NATS_URL": self.nats.uri(self.nats_port), "CLONE": str(ROOT),
        }
        settings = self.files["settings.env"]
        for name, value in values.items():
            settings, count = re.subn(rf"^{name}=.*$", lambda _: f"{name}={shlex.quote(value)}", settings,
                                      flags=re.MULTILINE)
            if count != 1:
                raise Failed(f"{DOCUMENT.name}: settings.env has {count} lines for {name}")
        # The load is a few users who post without end.
        (self.folder / "settings.env").write_text(f"{settings}POST_QUOTA=1000000\n")
        (self.folder / "processes").write_text(self.files["processes"])

    # --- engines ---

    def mongodb_uri(self, name: str, database: str = "microblog") -> str:
        return self.mongodb.uri(self.mongodb_ports[name]).replace("/?", f"/{database}?")

    def start_mongodb(self, name: str) -> None:
        data = self.folder / f"mongodb-{name}"
        data.mkdir(exist_ok=True)
        self.engines[name] = self.mongodb.start(self.supervisor, data, data, self.mongodb_ports[name])

    def start_nats(self) -> None:
        data = self.folder / "broker"
        data.mkdir(exist_ok=True)
        self.engines["broker"] = self.nats.start(self.supervisor, data, data, self.nats_port)

    def lose_engine(self, name: str, folder: str) -> None:
        """With all that it has stored."""
        process = self.engines.pop(name)
        process.popen.kill()
        self.supervisor.stop(process)
        shutil.rmtree(self.folder / folder)

    # --- running blocks ---

    def open_session(self) -> Process:
        """A shell that runs the blocks it is told of; what they leave running ends with it."""
        os.mkfifo(self.folder / "blocks")
        # Both ways, or opening waits for the other side, and the shell ends with the first block.
        self.told = os.open(self.folder / "blocks", os.O_RDWR)
        loop = ('while read -r block; do sh -eu "$block" >"$block.out" 2>&1; echo $? >"$block.part"; '
                'mv "$block.part" "$block.code"; done <blocks')
        keep = ("HOME", "TMPDIR", "XDG_CACHE_HOME")
        environment = {name: os.environ[name] for name in keep if name in os.environ}
        environment["PATH"] = f"{self.gateway_program.parent}{os.pathsep}{os.environ['PATH']}"
        return self.supervisor.start("sh", ["sh", "-c", loop], env=environment, cwd=self.folder,
                                     log=self.folder / "session.log")

    def run(self, name: str, text: str) -> str:
        """What the block says; it must end well."""
        block, code = self.folder / f"{name}.sh", self.folder / f"{name}.sh.code"
        code.unlink(missing_ok=True)
        block.write_text(text)
        os.write(self.told, f"{block.name}\n".encode())
        self.wait(f"the block {name} ends", code.exists, BLOCK_SECONDS)
        said = (self.folder / f"{name}.sh.out").read_text(errors="replace")
        if (ended := code.read_text().strip()) != "0":
            self.show_warnings()
            for line in said.splitlines()[-25:]:
                say(f"{name} | {line}")
            raise Failed(f"{DOCUMENT.name}: the block {name} ends with {ended}; what it said is above")
        return said

    def show_warnings(self) -> None:
        """The last that each process complains of."""
        for log in sorted(self.folder.glob("*-service-*.log")):
            complaints = [line for line in log.read_text(errors="replace").splitlines() if '"level":"INFO"' not in line]
            for line in complaints[-2:]:
                say(f"{log.stem} | {line}")

    def wait(self, what: str, done: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise Failed(f"waited {seconds:.0f} s in vain: {what}")
            self.supervisor.check_alive()
            self.supervisor.pause(0.1)

    # --- what goes wrong ---

    def kill_host(self) -> None:
        """All of a host's processes at once, without a word."""
        killed = []
        for file in self.folder.glob(f"*-{self.hosts[1]}.pid"):
            killed.append(int(file.read_text()))
            os.kill(killed[-1], signal.SIGKILL)
            file.unlink()
        # Its ports are free only once it has ended.
        self.wait("the end of what was killed", lambda: all(map(has_ended, killed)), 30)

    def lose_views(self) -> None:
        self.lose_engine("views", "mongodb-views")
        self.start_mongodb("new-views")

    def lose_broker(self) -> None:
        self.lose_engine("broker", "broker")
        self.start_nats()


def free_hosts(count: int) -> list[str]:
    """Addresses of this machine on which nobody listens at the document's ports."""
    for number in random.sample(range(1, 255), 50):
        hosts = [f"127.{number}.0.{last}" for last in range(1, count + 1)]
        try:
            for host in hosts:
                for port in (GATEWAY_PORT, *PORTS):
                    socket.create_server((host, port)).close()
        except OSError as error:
            reason = error
            continue
        return hosts
    raise Failed(f"no addresses like 127.x.0.1 to 127.x.0.{count} can be listened on here: {reason.strerror}; "
                 "Linux has them all")


# --- what is promised ---------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Promise:
    """What clients may notice of a procedure."""
    nobody_notices: bool = True
    before: Callable[[Site], None] | None = None  # what goes wrong first


PROMISES = {
    "lost-host": Promise(nobody_notices=False, before=Site.kill_host),
    "lost-views": Promise(nobody_notices=False, before=Site.lose_views),
    "lost-broker": Promise(nobody_notices=False, before=Site.lose_broker),
}


def step(site: Site, name: str) -> list[str]:
    """Runs one procedure; what is not as it should be after it."""
    promise = PROMISES.get(name, Promise())
    load, began = site.load, time.monotonic()
    failed, answered, later, load.slowest = Counter(load.failed), load.answered, load.later, 0.0
    load.slower = 1 if promise.nobody_notices else 10
    if promise.before:
        promise.before(site)
    site.run(name, site.procedures[name])
    took = time.monotonic() - began
    if not load.threads:
        load.start()
    # What it has broken shows itself in the next requests.
    enough = load.answered + 10 * USERS
    site.wait(f"{10 * USERS} more answers after {name}", lambda: load.answered > enough, 60)
    noticed, failed = load.failed - failed, Counter(load.failed)
    wanted = load.not_there_yet()
    site.wait(f"every acknowledged post is in its author's timeline after {name}", lambda: load.look_for(wanted),
              VISIBLE_SECONDS)
    # Which compares the log with views that stand still.
    load.goes_on.clear()
    verified = site.run(f"verify-{name}", ". ./processes\nquery-service verify\n")
    load.goes_on.set()
    wrong = []
    if promise.nobody_notices and noticed:
        wrong.append(f"requests failed: {dict(noticed)}")
    if after := load.failed - failed:
        wrong.append(f"requests still fail after it: {dict(after)}")
    say(f"{'BAD' if wrong else 'ok '} {name}: {took:.1f} s; {load.answered - answered} requests answered, "
        f"{noticed.total()} failed{f' {dict(noticed)}' if noticed else ''}, {load.later - later} told to come back, "
        f"the slowest took {load.slowest:.1f} s; {verified.strip().splitlines()[-1]}")
    return [f"{name}: {each}" for each in wrong]


def run(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    try:
        document = arguments.document.read_text()
    except OSError as error:
        raise Failed(f"{arguments.document}: {error.strerror}") from None
    if arguments.list:
        for block in blocks(document):
            say(f"{block.kind} {block.name}")
        return 0
    site = Site(supervisor, document)
    wrong = []
    for name in NAMES[:NAMES.index(arguments.until) + 1]:
        wrong += step(site, name)
    site.load.stop()
    for each in wrong:
        say(f"error: {each}")
    posts = sum(map(len, site.load.not_there_yet().values()))
    say(f"{site.load.answered} requests answered, {posts} posts acknowledged; "
        f"{len(wrong)} things are not as they should be")
    return 1 if wrong else 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the blocks, and run none")
    parser.add_argument("--until", choices=NAMES, default=NAMES[-1], metavar="NAME",
                        help="the last procedure to run, of those that --list names: each needs those before it "
                        "(%(default)s)")
    parser.add_argument("--document", type=Path, default=DOCUMENT, metavar="FILE",
                        help="another copy of docs/operations.md")
    arguments = parser.parse_args(argv)
    return supervised(lambda supervisor: run(supervisor, arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
