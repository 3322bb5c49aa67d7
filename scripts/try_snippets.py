#!/usr/bin/env python3
"""Runs the programs of docs/events.md and docs/tokens.md as they stand there, against a stack of its own: the engines,
the command service and its relay.

Readers must have each event once and in order: from the beginning, after they were stopped, after the broker was, and
again when the stream was made anew. Verifiers must accept a good token and refuse every other. It takes the binaries in
MICROBLOG_BIN_DIR, or builds them; what the programs need is installed into the cache.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from own_stack import PASSWORD, Broker, Stack, User  # noqa: E402
from snippet_tokens import PROGRAMS, Tokens  # noqa: E402
from snippets import Toolbox, snippets  # noqa: E402
from supervisor import Failed, Process, Supervisor, say, supervised  # noqa: E402

READERS = ("reader.py", "reader.mjs", "reader.rs")
CLOUD_EVENTS = ("cloudevent.py", "cloudevent.mjs")
USERS = "users.conf"
READER, READER_PASSWORD = "reader", "READER"
EVENT = re.compile(r"[a-z_]+\.[a-z_]+ [a-z]+:[0-9:]+ [0-9]+")
ANEW = "another stream: from its beginning"
# What readers must not do to the stream, or with it.
FORBIDDEN = (
    "microblog.events.post.created", "microblog.notices", "$JS.API.STREAM.DELETE.MICROBLOG",
    "$JS.API.STREAM.PURGE.MICROBLOG", "$JS.API.STREAM.UPDATE.MICROBLOG", "$JS.API.STREAM.MSG.DELETE.MICROBLOG",
    "$JS.API.STREAM.CREATE.MINE", "$JS.API.CONSUMER.DELETE.MICROBLOG.X", "$JS.API.CONSUMER.NAMES.MICROBLOG")


class ReadableStack(Stack):
    """The command service and its relay, and a broker that has the reader of the page."""

    def __init__(self, supervisor: Supervisor, reader: str):
        super().__init__(supervisor, IP_RATE_PER_SECOND="0")
        self.reader = reader
        self.roles = [role for role in self.roles if role.job == "command-service"]

    def nats_configuration(self) -> str:
        return super().nats_configuration().replace("users: [", f"users: [\n{self.reader}", 1)

    def events(self) -> list[dict]:
        """The events on the stream, in order, as the broker's own interface has them."""
        broker = Broker(self.nats_port)
        try:
            last = broker.ask("$JS.API.STREAM.INFO.MICROBLOG").get("state", {"last_seq": 0})["last_seq"]
            bodies = [broker.ask("$JS.API.STREAM.MSG.GET.MICROBLOG", {"seq": sequence})["message"]
                      for sequence in range(1, last + 1)]
        finally:
            broker.close()
        events = [json.loads(base64.b64decode(message["data"])) for message in bodies]
        return [event for event in events if event]  # a tick's body is {}


class Reader:
    """A program of the page that reads the stream, and prints a line for each event."""

    def __init__(self, stack: ReadableStack, toolbox: Toolbox, name: str, text: str):
        self.stack, self.name = stack, name
        self.command, self.folder = toolbox.place(name, text)
        self.log = self.folder / "log"
        self.environment = {
            "PATH": toolbox.path, "NATS_URL": f"nats://127.0.0.1:{stack.nats_port}", "NATS_USER": READER,
            "NATS_PASSWORD": READER_PASSWORD}
        self.process: Process | None = None

    def start(self) -> None:
        self.process = self.stack.supervisor.start(self.name, self.command, cwd=self.folder, log=self.log,
                                                   env=self.environment)

    def stop(self) -> None:
        self.stack.supervisor.stop(self.process)

    def lines(self) -> list[str]:
        """What it says of events, and of another stream."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line == ANEW or EVENT.fullmatch(line)]

    def has_read(self, expected: list[str]) -> None:
        try:
            self.stack.wait(f"{self.name} has read {len(expected)} events", lambda: len(self.lines()) >= len(expected))
        except Failed:
            say("".join(f"{self.name} | {line}\n" for line in self.log.read_text().splitlines()[-15:]))
            raise
        if self.lines() != expected:
            raise Failed(f"{self.name} has read\n" + "\n".join(self.lines()) + "\nand not\n" + "\n".join(expected))


class Try:
    def __init__(self, supervisor: Supervisor):
        self.supervisor, self.texts = supervisor, snippets()
        if wrong := set(self.texts) ^ {USERS, *READERS, *CLOUD_EVENTS, *PROGRAMS}:
            raise Failed(f"in the documents or here, and not in both: {', '.join(sorted(wrong))}")
        self.stack = ReadableStack(supervisor, self.texts[USERS])
        self.toolbox = Toolbox(supervisor, self.stack.folder)
        # The one in Rust is compiled here.
        self.programs = [Reader(self.stack, self.toolbox, name, self.texts[name]) for name in READERS]
        self.users: list[User] = []
        self.expected: list[str] = []

    def start(self) -> None:
        self.stack.start()
        self.users = self.stack.register(4)
        self.everything_happens()
        self.is_published(18)

    def call(self, user: User, method: str, path: str, body: object = None) -> dict:
        answer = self.stack.commands()(method, f"/api/v1{path}", body, user.token)
        if answer.status >= 300:
            raise Failed(f"{method} {path}: {answer.status} {answer.body.decode()}")
        return answer.json() if answer.body else {}

    def everything_happens(self) -> None:
        """Every kind of event, once at least."""
        ada, bob, eve, zoe = self.users
        self.call(ada, "PATCH", "/users/me", {"display_name": "Ada L.", "bio": "engines"})
        post = self.call(ada, "POST", "/posts", {"content": "Grüße, \"Welt\" 🦀"})["post_id"]
        reply = self.call(bob, "POST", "/posts", {"content": "hello, Ada", "reply_to_post_id": post})["post_id"]
        for method in ("POST", "DELETE"):
            self.call(bob, method, f"/users/{ada.id}/follow")
            self.call(bob, method, f"/posts/{post}/like")
            self.call(bob, method, f"/posts/{post}/repost")
        self.call(bob, "DELETE", f"/posts/{reply}")
        for action in ("verify", "suspend", "unsuspend"):
            self.stack.operate("command-service", "admin", action, eve.name)
        self.call(zoe, "DELETE", "/users/me", {"password": PASSWORD})

    def is_published(self, count: int) -> None:
        """The relay has published so many events. Whoever reads must say a line of each."""
        self.stack.wait(f"{count} events are on the stream", lambda: len(self.stack.events()) >= count)
        self.expected = [f"{event['type']} {event['stream']} {event['version']}" for event in self.stack.events()]

    def post(self) -> None:
        self.call(self.users[0], "POST", "/posts", {"content": f"At {time.time()}"})
        self.is_published(len(self.expected) + 1)

    def readers(self) -> None:
        kinds = {line.split()[0] for line in self.expected}
        readers = self.programs
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.has_read(self.expected)
        for reader in readers:
            reader.stop()
        self.post()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.has_read(self.expected)  # and nothing twice
        self.supervisor.stop(self.stack.engines["nats"])
        self.stack.start_nats()
        self.post()
        for reader in readers:
            reader.has_read(self.expected)
        before, count = self.expected, len(self.expected)
        self.make_the_stream_anew()
        self.is_published(count)
        for reader in readers:
            reader.has_read([*before, ANEW, *self.expected])
            reader.stop()
        say(f"{', '.join(READERS)}: {count} events of {len(kinds)} kinds, and all again after the stream was made anew")

    def make_the_stream_anew(self) -> None:
        relay = self.stack.first("command-service", "relay")
        self.supervisor.stop(relay.process)
        broker = Broker(self.stack.nats_port)
        if not broker.ask("$JS.API.STREAM.DELETE.MICROBLOG").get("success"):
            raise Failed("the stream could not be deleted")
        broker.close()
        self.stack.start_role(relay)
        self.stack.wait_until_ready(relay)

    def rights(self) -> None:
        """The reader of the page may do nothing but read."""
        for subject in FORBIDDEN:
            broker = Broker(self.stack.nats_port, READER, READER_PASSWORD)
            broker.socket.sendall(f"PUB {subject} 2\r\n{{}}\r\nPING\r\n".encode())
            answers = list(iter(broker.lines.readline, b"PONG\r\n"))
            if not any(answer.startswith(b"-ERR 'Permissions Violation for Publish") for answer in answers):
                raise Failed(f"the reader may publish to {subject}: {answers}")
            broker.close()
        say(f"{USERS}: {len(FORBIDDEN)} things that a reader may not do are refused")

    def cloud_events(self) -> None:
        [*_, last] = [event for event in self.stack.events() if event["type"] == "post.created"]
        for name in CLOUD_EVENTS:
            command, folder = self.toolbox.place(name, self.texts[name])
            ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env={
                "PATH": self.toolbox.path, "NATS_URL": f"nats://127.0.0.1:{self.stack.nats_port}", "NATS_USER": READER,
                "NATS_PASSWORD": READER_PASSWORD})
            words = ran.stdout.strip()
            for part in (last["id"], "post.created", "/microblog/log", last["stream"], "application/json",
                         last["at"][:19], last["data"]["content"]):
                if part not in words:
                    raise Failed(f"{name} says `{words}`, without {part}: {ran.stderr.strip()}")
            say(f"{name}: {words}")

    def tokens(self) -> None:
        ada = self.users[0]
        verdicts = Tokens(self.stack, self.toolbox, self.texts).judge(ada.name, ada.id)
        say(f"{', '.join(PROGRAMS)}: {verdicts} verdicts on tokens, all right")


def main(supervisor: Supervisor) -> int:
    trying = Try(supervisor)
    began = time.monotonic()
    trying.start()
    for step in (trying.rights, trying.readers, trying.cloud_events, trying.tokens):
        step()
    say(f"The programs of docs/events.md and docs/tokens.md: as the pages say, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.exit(supervised(main))
