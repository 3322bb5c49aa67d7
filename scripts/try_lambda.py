#!/usr/bin/env python3
"""Runs the functions of manifests/aws/serverless.yaml on this machine: their `bootstrap`, the services' binaries, and the
adapter itself, AWS Lambda Web Adapter, with the template's variables. What Lambda does is a stand-in for its Runtime API,
which hands out events as an HTTP API sends them (payload format 2.0).

Engines, relay and projector are a stack of its own. It takes the binaries in MICROBLOG_BIN_DIR, or builds them.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import urllib.parse
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from build_lambda import ADAPTER_VERSION, BOOTSTRAPS, lambda_adapter  # noqa: E402
from check_aws import AwsTools, evaluate, read  # noqa: E402
from engines import free_ports  # noqa: E402
from own_stack import PASSWORD, Answer, Client, Stack  # noqa: E402
from readiness import ask_readiness  # noqa: E402
from supervisor import Failed, Supervisor, supervised  # noqa: E402

CALLER, OTHER = "203.0.113.7", "198.51.100.20"
# Between SIGTERM and SIGKILL, for a function with an external extension.
SHUTDOWN_SECONDS = 2
PATIENCE_SECONDS = 30


# --- Lambda -----------------------------------------------------------------------------------------------------

class RuntimeApi(ThreadingHTTPServer):
    """Lambda's Runtime API and Extensions API, of one environment. It notes how ready the service is when the first event
    is asked for."""
    daemon_threads = True

    def __init__(self):
        self.events: queue.Queue[tuple[str, dict]] = queue.Queue()
        self.answers: dict[str, queue.Queue[tuple[str, bytes]]] = {}
        self.extensions: list[str] = []
        self.asked = threading.Event()
        self.on_first_ask = lambda: None
        self.ending = threading.Event()
        super().__init__(("127.0.0.1", 0), RuntimeApiAnswer)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_request) -> None:
        """The adapter is killed while it asks."""


class RuntimeApiAnswer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments) -> None:
        pass

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/2020-01-01/extension/event/next":
            self.server.ending.wait()
        elif self.path == "/2018-06-01/runtime/invocation/next":
            if not self.server.asked.is_set():
                self.server.on_first_ask()
                self.server.asked.set()
            number, event = self.server.events.get()
            self.say(200, json.dumps(event).encode(), Content_Type="application/json",
                     Lambda_Runtime_Aws_Request_Id=number,
                     Lambda_Runtime_Deadline_Ms=str(int((time.time() + PATIENCE_SECONDS) * 1000)),
                     Lambda_Runtime_Invoked_Function_Arn="arn:aws:lambda:eu-central-1:111122223333:function:microblog",
                     Lambda_Runtime_Trace_Id="Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0")
        else:
            self.say(404)

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/2020-01-01/extension/register":
            self.server.extensions.append(self.headers["Lambda-Extension-Name"])
            self.say(200, b"{}", Lambda_Extension_Identifier=str(uuid.uuid4()))
        elif self.path.startswith("/2018-06-01/runtime/invocation/"):
            number, _, kind = self.path.removeprefix("/2018-06-01/runtime/invocation/").partition("/")
            self.server.answers[number].put((kind, body))
            self.say(202, b"{}")
        else:
            self.say(404)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)


@dataclass
class Function:
    """One environment of a function: its `bootstrap`, and the adapter beside it, as Lambda starts them."""
    name: str

    def start(self, stack: Stack, supervisor: Supervisor, adapter: Path, variables: dict[str, str]) -> None:
        self.supervisor = supervisor
        self.port, self.ops_port = free_ports(2)
        self.runtime = RuntimeApi()
        self.runtime.on_first_ask = self.note_readiness
        self.began = time.monotonic()
        root = stack.folder / f"lambda-{self.name}"
        root.mkdir()
        shutil.copy(BOOTSTRAPS / f"{self.name}.sh", root / "bootstrap")
        (root / self.name).symlink_to(stack.binaries / self.name)
        prefix = "COMMAND" if self.name == "command-service" else "QUERY"
        environment = {
            **variables,
            # What differs from Lambda: several environments share this machine.
            "AWS_LWA_PORT": str(self.port), "AWS_LWA_READINESS_CHECK_PORT": str(self.ops_port),
            f"{prefix}_ADDR": f"127.0.0.1:{self.port}", f"{prefix}_OPS_ADDR": f"127.0.0.1:{self.ops_port}",
            "MONGODB_URI": stack.environment(stack.roles[0])["MONGODB_URI"],
            "NATS_URL": stack.environment(stack.roles[0])["NATS_URL"],
            "JWKS_URL": stack.environment(stack.roles[0])["JWKS_URL"],
            # Lambda's own.
            "PATH": os.environ["PATH"], "LAMBDA_TASK_ROOT": str(root), "_HANDLER": "bootstrap",
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.runtime.server_port}", "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512", "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_LOG_GROUP_NAME": "log", "AWS_LAMBDA_LOG_STREAM_NAME": "stream"}
        if key_file := variables.get("JWT_PRIVATE_KEY_FILE"):
            environment["JWT_PRIVATE_KEY_FILE"] = str(root / Path(key_file).name)
            environment["JWT_PRIVATE_KEY"] = (stack.folder / "jwt.pem").read_text()
        self.key_file = Path(environment.get("JWT_PRIVATE_KEY_FILE", "/"))
        self.log = root / "log"
        # Extensions come first.
        self.adapter = supervisor.start(f"adapter-{self.name}", [str(adapter)], env=environment, cwd=root, log=self.log)
        self.service = supervisor.start(f"lambda-{self.name}", ["/bin/sh", str(root / "bootstrap")], env=environment,
                                        cwd=root, log=self.log)

    def note_readiness(self) -> None:
        self.cold_start = time.monotonic() - self.began
        self.readiness = ask_readiness(f"127.0.0.1:{self.ops_port}")

    def wait_until_asked(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.runtime.asked.is_set():
            self.supervisor.check_alive()
            self.supervisor.pause()
            if time.monotonic() > deadline:
                raise Failed(f"the adapter of {self.name} asked for no event within {PATIENCE_SECONDS} s")

    def __call__(self, method: str, path: str, body: object = None, token: str | None = None, **headers: str) -> Answer:
        return self.invoke(event(method, path, body, token, **headers))

    def invoke(self, what: dict, seconds: float = PATIENCE_SECONDS) -> Answer:
        """What the HTTP API makes of the function's answer."""
        number = str(uuid.uuid4())
        answer = self.runtime.answers[number] = queue.Queue()
        self.runtime.events.put((number, what))
        kind, content = answer.get(timeout=seconds)
        if kind != "response":
            raise Failed(f"{self.name} fails: {kind} {content[:300]!r}")
        said = json.loads(content)
        if not isinstance(said.get("statusCode"), int):
            raise Failed(f"an HTTP API takes no such answer: {said}")
        text = said.get("body") or ""
        return Answer(said["statusCode"], {name.lower(): value for name, value in said["headers"].items()},
                      base64.b64decode(text) if said.get("isBase64Encoded") else text.encode())


def event(method: str, path: str, body: object = None, token: str | None = None, *, stage: str = "$default",
          source: str = CALLER, encoded: bool = False, cookies: tuple[str, ...] = (), **headers: str) -> dict:
    """As AWS documents payload format 2.0. A header that came several times has commas; X-Forwarded-For ends with the
    address that API Gateway saw."""
    path, _, query = path.partition("?")
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    said["x-forwarded-for"] = ", ".join(filter(None, (said.get("x-forwarded-for"), source)))
    said.update({"host": "abc123.execute-api.eu-central-1.amazonaws.com", "x-forwarded-port": "443",
                 "x-forwarded-proto": "https", "x-amzn-trace-id": "Root=1-5759e988-bd862e3fe1be46a994272793"})
    if token:
        said["authorization"] = f"Bearer {token}"
    found = {
        "version": "2.0", "routeKey": "$default", "rawPath": path if stage == "$default" else f"/{stage}{path}",
        "rawQueryString": query, "headers": said, "isBase64Encoded": encoded,
        "requestContext": {
            "accountId": "111122223333", "apiId": "abc123", "domainName": said["host"], "domainPrefix": "abc123",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": source, "userAgent": "try"},
            "requestId": "JKJaXmPLvHcESHA=", "routeKey": "$default", "stage": stage,
            "time": "28/Nov/2026:04:00:00 +0000", "timeEpoch": 1795838400000}}
    if cookies:
        found["cookies"] = list(cookies)
    if query:
        found["queryStringParameters"] = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    if body is not None:
        text = json.dumps(body, ensure_ascii=False).encode()
        said.setdefault("content-type", "application/json")
        said["content-length"] = str(len(text))
        found["body"] = base64.b64encode(text).decode() if encoded else text.decode()
    return found


# --- what is tried ----------------------------------------------------------------------------------------------

def expect(what: str, found, wanted) -> None:
    if found != wanted:
        raise Failed(f"{what}: {found!r}, and not {wanted!r}")


class Try:
    def __init__(self, supervisor: Supervisor):
        self.supervisor = supervisor
        tools = AwsTools(supervisor)
        self.template = read(tools).templates["serverless.yaml"]
        self.stack = Stack(supervisor)
        self.stack.start()
        adapter = lambda_adapter(supervisor)
        self.command, self.query = Function("command-service"), Function("query-service")
        for function, resource in ((self.command, "CommandFunction"), (self.query, "QueryFunction")):
            function.start(self.stack, supervisor, adapter, self.variables(resource))
        self.direct = Client(self.stack.first("query-service", "api").port)

    def variables(self, resource: str) -> dict[str, str]:
        """The template's, those of all functions included."""
        both = {}
        for place in (self.template["Globals"]["Function"], self.template["Resources"][resource]["Properties"]):
            both.update(place["Environment"]["Variables"])
        return evaluate(both, self.template, {"Environment": "dev", "Secrets": "microblog-dev"})

    def steps(self) -> tuple:
        return (self.waits_for_readiness, self.the_key_is_a_file, self.commands, self.queries, self.not_modified_and_head,
                self.every_header_passes, self.the_callers_address, self.limits, self.another_stage, self.no_streams,
                self.frozen, self.sigterm)

    def waits_for_readiness(self) -> None:
        """No event is asked for before /readyz says 200; the adapter is registered as an extension."""
        for function in (self.command, self.query):
            function.wait_until_asked()
            expect(f"readiness of {function.name} at the first event", function.readiness, 200)
            expect("extensions", function.runtime.extensions, ["lambda-adapter"])

    def the_key_is_a_file(self) -> None:
        """The bootstrap writes it for its user alone, and the service does not have it in its environment."""
        expect("the key's mode", oct(self.command.key_file.stat().st_mode & 0o777), "0o600")
        environment = Path(f"/proc/{self.command.service.pid}/environ")
        # `exec` keeps the process; its environment is the one that the service was started with.
        names = {entry.partition(b"=")[0] for entry in environment.read_bytes().split(b"\0")}
        expect("the key among the variables", b"JWT_PRIVATE_KEY" in names, False)
        direct = Client(self.stack.first("command-service", "api").port)
        keys, wanted = (ask("GET", "/.well-known/jwks.json").json() for ask in (self.command, direct))
        expect("keys", keys, wanted)

    def commands(self) -> None:
        """Bodies as text and in base64, cookies that nobody reads, an idempotency key."""
        account = {"username": "zoe", "email": "zoe@example.com", "password": PASSWORD, "display_name": "Zoé ✓"}
        made = self.command.invoke(event("POST", "/api/v1/users", account, encoded=True, cookies=("a=1", "b=2")))
        expect("a registration in base64", made.status, 201)
        expect("its name", made.json()["display_name"], "Zoé ✓")
        expect("Location", made.headers["location"], f"{self.public_url()}/api/v1/users/{made.json()['user_id']}")
        signed_in = self.command("POST", "/api/v1/auth/login", {"username": "zoe", "password": PASSWORD})
        expect("a sign-in", signed_in.status, 200)
        self.user, self.token = made.json()["user_id"], signed_in.json()["access_token"]
        post = {"content": "Ünïcode ✓"}
        first, again = (self.command("POST", "/api/v1/posts", post, self.token, idempotency_key='"once"')
                        for _ in range(2))
        expect("a post", (first.status, "idempotent-replayed" in first.headers), (201, False))
        expect("the same again", (again.status, again.headers.get("idempotent-replayed"), again.json()),
               (201, "true", first.json()))
        self.post, self.seen = first.json()["post_id"], first.headers["x-consistency-token"]
        refused = self.command("POST", "/api/v1/posts", {"content": "else"}, self.token, idempotency_key='"once"')
        expect("another body", (refused.status, refused.headers["content-type"]), (422, "application/problem+json"))
        expect("without a body", self.command("DELETE", f"/api/v1/posts/{self.post}/like", None, self.token).status, 200)

    def public_url(self) -> str:
        return self.variables("CommandFunction")["PUBLIC_URL"].lower()  # as a name of DNS is written

    def queries(self) -> None:
        """Query strings arrive as they were written, reads see what was written before."""
        read_back = self.query("GET", f"/api/v1/posts/{self.post}", None, None, x_consistency_token=self.seen)
        expect("the post", (read_back.status, read_back.json()["content"]), (200, "Ünïcode ✓"))
        second = self.command("POST", "/api/v1/posts", {"content": "second"}, self.token)
        page = self.query("GET", "/api/v1/timeline?limit=1&cursor=", None, self.token,
                          x_consistency_token=second.headers["x-consistency-token"])
        expect("a page", (page.status, [post["content"] for post in page.json()["posts"]]), (200, ["second"]))
        following = page.headers["link"].partition("<")[2].partition(">")[0]
        if not following.startswith(f"{self.public_url()}/api/v1/timeline?"):
            raise Failed(f"Link leads to {following}")
        path = following.removeprefix(self.public_url())
        expect("the next page", [post["content"] for post in self.query("GET", path, None, self.token).json()["posts"]],
               ["Ünïcode ✓"])
        bad = self.query("GET", "/api/v1/timeline?cursor=a%2Bb", None, self.token)
        expect("a bad cursor", bad.json()["code"], "bad_cursor")
        expect("no such path", self.query("GET", "/api/v1/%C3%A9?a=1&a=2").status, 404)

    def not_modified_and_head(self) -> None:
        path = f"/api/v1/users/{self.user}"
        whole = self.query("GET", path)
        unchanged = self.query("GET", path, None, None, if_none_match=whole.headers["etag"])
        expect("not modified", (unchanged.status, unchanged.body, unchanged.headers["etag"]),
               (304, b"", whole.headers["etag"]))
        head = self.query("HEAD", path)
        expect("HEAD", (head.status, head.body, head.headers["content-length"]), (200, b"", str(len(whole.body))))

    def every_header_passes(self) -> None:
        """The adapter keeps one line of a header that an answer has several times: none of ours has."""
        for path, token in (("/api/v1/timeline?limit=1", self.token), (f"/api/v1/posts/{self.post}", None),
                            ("/api/v1/timeline", None), ("/nowhere", None)):
            headers = {"X-Forwarded-For": CALLER, "Origin": "https://example.org"}
            if token:
                headers["Authorization"] = f"Bearer {token}"
            connection = http.client.HTTPConnection("127.0.0.1", self.query.port, timeout=PATIENCE_SECONDS)
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            names = [name.lower() for name, _ in answer.getheaders()]
            connection.close()
            expect(f"headers of {path} that come twice", sorted({name for name in names if names.count(name) > 1}), [])
            passed = self.query("GET", path, None, token, origin="https://example.org").headers
            expect(f"headers of {path} that are lost", sorted(set(names) - set(passed)), [])

    def the_callers_address(self) -> None:
        """Limits count the address that API Gateway saw, whatever a client says of itself."""
        def left(**options: str) -> tuple[str, ...]:
            answer = self.command.invoke(event("POST", "/api/v1/auth/login", {"username": "nobody", "password": PASSWORD},
                                               **options))
            return answer.status, answer.headers.get("ratelimit")

        before = [left(source=CALLER) for _ in range(10)][-1]
        expect("sign-ins of one address", before[0], 401)
        expect("one more", left(source=CALLER)[0], 429)
        expect("one more that lies", left(source=CALLER, x_forwarded_for="192.0.2.1")[0], 429)
        expect("another address", left(source=OTHER)[0], 401)

    def limits(self) -> None:
        answer = self.command("POST", "/api/v1/auth/login", {"username": "nobody", "password": PASSWORD})
        expect("a limit", (answer.status, answer.json()["code"]), (429, "too_many_requests"))
        for name in ("retry-after", "ratelimit", "ratelimit-policy", "x-request-id"):
            if not answer.headers.get(name):
                raise Failed(f"429 has no {name}: {answer.headers}")

    def another_stage(self) -> None:
        """A stage with a name stands in front of the path, and nothing takes it away: hence `$default`."""
        expect("the template's stage", self.template["Resources"]["Stage"]["Properties"]["StageName"], "$default")
        found = self.query.invoke(event("GET", f"/api/v1/posts/{self.post}", stage="prod"))
        expect("with a stage's name", found.status, 404)

    def no_streams(self) -> None:
        """Through the adapter a live stream is nothing until the time is up; the route in its place says so at once."""
        try:
            self.query.invoke(event("GET", "/api/v1/timeline/stream", token=self.token), seconds=3)
            raise Failed("a live stream was answered: docs/aws.md and the template say that it cannot be")
        except queue.Empty:
            pass
        # Lambda ends such an environment when its time is up, and starts another one.
        self.supervisor.stop(self.query.adapter, self.query.service)
        self.query = Function("query-service")
        shutil.rmtree(self.stack.folder / "lambda-query-service")
        self.query.start(self.stack, self.supervisor, lambda_adapter(self.supervisor), self.variables("QueryFunction"))
        self.query.wait_until_asked()
        names: dict = {}
        exec(self.template["Resources"]["NoStreams"]["Properties"]["InlineCode"], names)
        answer = names["answer"](event("GET", "/api/v1/timeline/stream"), None)
        problem = json.loads(answer["body"])
        expect("instead", (answer["statusCode"], problem["status"], problem["code"]), (503, 503, "unavailable"))

    def frozen(self) -> None:
        """Between two events an environment stands still, for minutes. What it remembers is then not believed."""
        before = self.query("GET", f"/api/v1/posts/{self.post}")
        expect("before", before.json()["likes_count"], 0)
        processes = [self.query.adapter.pid, self.query.service.pid]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        liked = self.command("POST", f"/api/v1/posts/{self.post}/like", None, self.token)
        expect("a like", liked.status, 200)
        path = f"/api/v1/posts/{self.post}"
        self.stack.wait("the like is folded", lambda: self.direct("GET", path).json()["likes_count"] == 1)
        # Longer than the silence of 3 s after which a cache is not believed.
        self.supervisor.pause(4)
        for pid in reversed(processes):
            os.kill(pid, signal.SIGCONT)
        after = self.query("GET", f"/api/v1/posts/{self.post}")
        expect("after", (after.status, after.json()["likes_count"]), (200, 1))

    def sigterm(self) -> None:
        """The services end in the time that Lambda gives."""
        for function in (self.command, self.query):
            began = time.monotonic()
            function.service.popen.send_signal(signal.SIGTERM)
            code = function.service.popen.wait(timeout=PATIENCE_SECONDS)
            took = time.monotonic() - began
            if code or took > SHUTDOWN_SECONDS:
                raise Failed(f"{function.name} ends with {code} after {took:.1f} s; Lambda gives {SHUTDOWN_SECONDS} s")
            self.supervisor.stop(function.adapter, function.service)


def main(supervisor: Supervisor) -> int:
    began = time.monotonic()
    trying = Try(supervisor)
    for step in trying.steps():
        step()
    print(f"The functions of manifests/aws/serverless.yaml with lambda_web_adapter {ADAPTER_VERSION}: "
          f"{len(trying.steps())} steps in {time.monotonic() - began:.0f} s; the first event was asked for after "
          f"{trying.command.cold_start:.1f} s of commands, {trying.query.cold_start:.1f} s of queries")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.exit(supervised(main))
