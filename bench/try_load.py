#!/usr/bin/env python3
"""Tries whether the load scripts notice wrong answers: between k6 and a real gateway it puts one fault at a time.

For each fault the smoke test must not be met, and must say what is wrong; without one it must be met. Binaries are those
in MICROBLOG_BIN_DIR, or are built. It takes a minute or two.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from load import NOT_MET, LoadStack, parse, start_k6  # noqa: E402
from engines import k6  # noqa: E402
from supervisor import Supervisor, note, say, supervised  # noqa: E402

HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "keep-alive"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def page(self) -> dict:
        return json.loads(self.body)

    def say(self, content: object) -> None:
        self.body = json.dumps(content).encode()


@dataclass
class Fault:
    """One thing that goes wrong: with which calls, how, and what k6 must say that was not met."""
    calls: str  # method and path
    change: Callable[[Answer], object]
    noticed: str


def posts(change: Callable[[list], object]) -> Callable[[Answer], None]:
    """Changes the posts of a page."""
    def changed(answer: Answer) -> None:
        page = answer.page()
        change(page["posts"])
        answer.say(page)
    return changed


def replaced(name: str, value: object) -> Callable[[Answer], None]:
    """Changes one field of the answer, or of the first post of a page."""
    def changed(answer: Answer) -> None:
        content = answer.page()
        (content["posts"][0] if "posts" in content else content)[name] = value
        answer.say(content)
    return changed


def last(answer: Answer) -> None:
    """A page without its last post, and without a cursor."""
    page = answer.page()
    answer.say({"posts": page["posts"][:-1], "next_cursor": None})


def refused(status: int, **headers: str) -> Callable[[Answer], None]:
    def changed(answer: Answer) -> None:
        answer.status, answer.headers = status, {"content-type": "application/problem+json"}
        answer.headers.update((name.replace("_", "-"), value) for name, value in headers.items())
        answer.say({"status": status})
    return changed


HOME, USER, POST, FOLLOW = "GET /timeline", r"GET /users/\d+/posts", "POST /posts", r"POST /users/\d+/follow"
FAULTS = {
    "a page that ends early": Fault(HOME, posts(lambda page: page.pop()), "home: a full page"),
    "a page that is short, and the last one": Fault(HOME, last, "answers_wrong: count==0"),
    "a page that is empty": Fault(USER, posts(lambda page: page.clear()), "user: a full page"),
    "the oldest first": Fault(HOME, posts(lambda page: page.reverse()), "home: newest first"),
    "a post without text": Fault(HOME, replaced("content", ""), "home: posts that can be shown"),
    "a home timeline that is late": Fault(HOME, posts(lambda page: page.pop(0)), "home: what the client wrote last"),
    "somebody else's post": Fault(USER, replaced("user_id", "1"), "user: nobody else"),
    "another text": Fault(POST, replaced("content", "x"), "post: as it was written"),
    "a write without a token": Fault(POST, lambda answer: answer.headers.pop("x-consistency-token"),
                                     "post: a consistency token"),
    "another follow": Fault(FOLLOW, lambda answer: answer.say({"relationship": {}}), "follow: the relationship"),
    "a slow follow": Fault(FOLLOW, lambda answer: time.sleep(0.15), "http_req_duration{name:follow}"),
    "a refusal": Fault(HOME, refused(503, retry_after="1"), "http_req_failed: rate==0"),
    "a refusal that says no time": Fault(HOME, refused(429), "answers_wrong: count==0"),
    "a crash": Fault(USER, refused(500), "answers_wrong: count==0"),
    "an answer that is no JSON": Fault(HOME, lambda answer: setattr(answer, "body", b"{"), "iterations_broken: count==0"),
}


class Between(ThreadingHTTPServer):
    """Passes everything on to the gateway, and puts the fault into what it answers."""
    daemon_threads = True

    def __init__(self, gateway: str):
        super().__init__(("127.0.0.1", 0), Passing)
        self.gateway, self.fault, self.began = gateway, None, False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def use(self, fault: Fault | None) -> None:
        """The people of the smoke test get ready without it: it begins when the first of them composes."""
        self.fault, self.began = fault, False


class Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Between

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        connection = http.client.HTTPConnection(self.server.gateway.removeprefix("http://"), timeout=30)
        connection.request(self.command, self.path, body or None, {
            name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP})
        said = connection.getresponse()
        answer = Answer(said.status, {name.lower(): value for name, value in said.getheaders()}, said.read())
        connection.close()
        self.server.began |= "idempotency-key" in self.headers
        fault, path = self.server.fault, self.path.partition("?")[0].removeprefix("/api/v1")
        if fault and self.server.began and re.fullmatch(fault.calls, f"{self.command} {path}"):
            fault.change(answer)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = pass_on

    def log_message(self, *_arguments: object) -> None:
        pass


def smoke(supervisor: Supervisor, program: Path, url: str, output: Path) -> tuple[int, str]:
    """The exit code of the smoke test, and what it printed."""
    arguments = parse(["--scenario", "smoke"])
    process = start_k6(supervisor, program, arguments, url, output.parent, log=output)
    while process.returncode() is None:
        supervisor.pause()
    supervisor.stop(process)
    return process.returncode(), output.read_text()


def only_slow(printed: str) -> bool:
    """Whether times alone were not met: this machine may have other things to do."""
    missed = re.search(r"that were not met: (.*)", printed)
    return bool(missed) and all(name.startswith("http_req_duration{") for name in missed[1].split("; "))


def run(supervisor: Supervisor) -> int:
    program, stack = k6(supervisor), LoadStack(supervisor)
    stack.start()
    between = Between(stack.start_gateway().url)
    failures = 0
    for number, (name, fault) in enumerate([("no fault", None), *FAULTS.items()]):
        between.use(fault)
        code, printed = smoke(supervisor, program, between.url, stack.folder / f"smoke-{number}")
        right = code == NOT_MET and fault.noticed in printed if fault else code == 0 or only_slow(printed)
        say(f"{'noticed' if fault and right else 'met' if right else 'NOT AS IT SHOULD BE'}: {name}")
        if not right:
            failures += 1
            note(f"k6 ended with {code} and printed:\n{printed[-2000:]}")
    say(f"{len(FAULTS)} faults, {failures} not as they should be")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(supervised(run))
