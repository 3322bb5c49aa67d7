#!/usr/bin/env python3
"""Tries whether operators can see what happens: a stack of its own, Prometheus with the rules, and a load that touches
everything. Then every expression of every dashboard must have data, every counter that rose must show it in increase(),
every line of the logs must be JSON, and a request's id and a trace's id must find what belongs to them.

It takes some two minutes. It uses the binaries in MICROBLOG_BIN_DIR, and builds them if that is not set.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import re
import secrets
import signal
import socket
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from check_dashboards import DASHBOARDS, expressions, filled  # noqa: E402
from engines import free_ports, traefik  # noqa: E402
from observe import LOKI_AT_LEAST, Folders, ask, direct, optional, start_loki  # noqa: E402
from otlp_receiver import Receiver, Span  # noqa: E402
from own_stack import PASSWORD, Broker, Client, Role, Stack, Traffic, User  # noqa: E402
from supervisor import Failed, Supervisor, say, supervised  # noqa: E402

SCRAPE_SECONDS = 2
LOAD_SECONDS = 45
USERS = 14
SETTINGS = {
    # In a partition three followers make a celebrity, and the sixth post is refused.
    "PARTITIONS": "2", "CELEBRITY_THRESHOLD": "4", "POST_QUOTA": "200", "IP_RATE_PER_SECOND": "5000",
    "STREAM_HEARTBEAT_SECS": "5", "OTEL_TRACES_SAMPLER": "parentbased_always_on",
}
WANTED_IN_A_LINE = ("timestamp", "level", "target", "message", "service", "instance", "version")
HOPS = (
    ("command-service", "POST /api/v1/posts"), ("command-service", "append"), ("command-service", "publish "),
    ("query-service", "fold "), ("query-service", "GET /api/v1/timeline"))
BROKEN_MESSAGE = b"{ this is no event"
API = "/api/v1"
OTLP_LOGS_GO_ELSEWHERE = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"


class Report:
    """A line for each thing that was tried."""

    def __init__(self) -> None:
        self.failures = 0

    def check(self, what: str, good: object, detail: str = "") -> None:
        say(f"{'ok  ' if good else 'BAD '} {what}{': ' if detail else ''}{detail}")
        self.failures += not good


# --- the load ----------------------------------------------------------------------------------------------------

class Load:
    def __init__(self, stack: Stack):
        self.stack = stack
        self.users: list[User] = []
        self.answers: dict[tuple[str, str], dict[int, int]] = {}
        self.commands, self.queries = stack.commands(), stack.queries()

    def call(self, client: Client, wanted: int, method: str, path: str, *arguments, **headers):
        answer = client(method, path, *arguments, **headers)
        if answer.status != wanted:
            raise Failed(f"{method} {path} answers {answer.status}, not {wanted}: {answer.body[:300].decode()}")
        return answer

    def run(self) -> tuple[Traffic, list[http.client.HTTPConnection]]:
        self.users = self.stack.register(USERS)
        self.follow()
        streams = [self.stream(user) for user in self.users[1:4]]
        traffic = Traffic(self.stack, self.users[:6])
        self.every_command()
        self.every_query()
        self.every_refusal()
        self.limits()
        return traffic, streams

    def follow(self) -> None:
        famous = self.users[0]
        for user in self.users[1:-1]:
            self.call(self.commands, 200, "POST", f"{API}/users/{famous.id}/follow", {}, user.token)
        for user in self.users[2:5]:
            self.call(self.commands, 200, "POST", f"{API}/users/{self.users[1].id}/follow", {}, user.token)
        self.call(self.commands, 200, "DELETE", f"{API}/users/{famous.id}/follow", None, self.users[5].token)

    def stream(self, user: User) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.stack.first("query-service", "api").port, timeout=30)
        connection.request("GET", f"{API}/timeline/stream", headers={"authorization": f"Bearer {user.token}"})
        if connection.getresponse().status != 200:
            raise Failed("a live stream does not begin")
        return connection

    def post(self, user: User, content: str, **more) -> str:
        answer = self.call(self.commands, 201, "POST", f"{API}/posts", {"content": content, **more}, user.token)
        return answer.json()["post_id"]

    def every_command(self) -> None:
        famous, other = self.users[:2]
        call, commands = self.call, self.commands
        post = self.post(famous, "Hello, world")
        reply = self.post(other, "Hello", reply_to_post_id=post)
        for what in ("like", "repost"):
            for method in ("POST", "POST", "DELETE", "POST"):
                call(commands, 200, method, f"{API}/posts/{post}/{what}", None, other.token)
        call(commands, 204, "DELETE", f"{API}/posts/{reply}", None, other.token)
        call(commands, 200, "PATCH", f"{API}/users/me", {"bio": "Famous"}, famous.token)
        token = {}
        for wanted, path, body in ((200, "login", {"username": other.name, "password": PASSWORD}),
                                   (200, "refresh", token), (204, "logout", token)):
            answer = call(commands, wanted, "POST", f"{API}/auth/{path}", body)
            token.update(refresh_token=answer.json()["refresh_token"] if answer.body else None)
        call(commands, 200, "GET", "/.well-known/jwks.json")
        secret = {"password": PASSWORD, "new_password": PASSWORD}
        call(commands, 204, "PUT", f"{API}/users/me/password", secret, other.token)
        address = {"password": PASSWORD, "email": f"{other.name}.two@example.com"}
        call(commands, 200, "PUT", f"{API}/users/me/email", address, other.token)
        call(commands, 204, "DELETE", f"{API}/auth/sessions/AAAAAAAAAAAAAAAAAAAAAA", None, other.token)
        call(commands, 204, "DELETE", f"{API}/auth/sessions", None, other.token)
        leaver = self.users[-1]
        call(commands, 204, "DELETE", f"{API}/users/me", {"password": PASSWORD}, leaver.token)
        self.stack.operate("command-service", "admin", "verify", other.name)
        self.stack.operate("command-service", "admin", "suspend", self.users[-2].name)
        self.stack.operate("command-service", "admin", "unsuspend", self.users[-2].name)

    def every_query(self) -> None:
        user = self.users[1]
        # What is read must be there, so that no answer is 404.
        posted = self.call(self.commands, 201, "POST", f"{API}/posts", {"content": "To be read"}, user.token)
        post, token = posted.json()["post_id"], posted.headers["x-consistency-token"]
        self.stack.wait("the post can be read", lambda: self.queries(
            "GET", f"{API}/posts/{post}", None, user.token, x_consistency_token=token).status == 200)
        for path in ("timeline", f"posts/{post}", f"posts/{post}/replies", f"posts/{post}/thread", f"posts/{post}/likes",
                     f"posts/{post}/reposts", f"posts?ids={post}", f"users?ids={user.id}", "users/me", "auth/sessions",
                     f"relationships?ids={self.users[0].id}", f"users/{user.id}",
                     f"users/by-username/{user.name}", f"users/{user.id}/posts", f"users/{user.id}/followers",
                     f"users/{user.id}/following", f"users/{user.id}/mutuals",
                     f"users/{self.users[0].id}/relationship"):
            for _ in range(3):  # the caches have it then
                self.call(self.queries, 200, "GET", f"{API}/{path}", None, user.token)
        tag = self.call(self.queries, 200, "GET", f"{API}/posts/{post}", None, user.token).headers.get("etag", "")
        self.call(self.queries, 304, "GET", f"{API}/posts/{post}", None, user.token, if_none_match=tag)

    def every_refusal(self) -> None:
        token, other = self.users[0].token, self.users[1]
        call, commands, queries = self.call, self.commands, self.queries
        call(commands, 400, "POST", f"{API}/posts", {"content": ""}, token)
        call(commands, 400, "POST", f"{API}/posts", b"{", token, content_type="application/json")
        call(commands, 401, "POST", f"{API}/posts", {"content": "Hello"})
        call(commands, 401, "POST", f"{API}/auth/login", {"username": other.name, "password": "wrong horse"})
        call(commands, 403, "POST", f"{API}/posts/1/like", {"user_id": other.id}, token)
        call(commands, 404, "POST", f"{API}/posts/1/like", None, token)
        call(commands, 405, "PUT", f"{API}/posts", b"", token)
        call(commands, 409, "POST", f"{API}/users", {
            "username": other.name, "email": "new@example.com", "password": PASSWORD})
        call(commands, 413, "POST", f"{API}/posts", {"content": "x" * 20_000}, token)
        call(commands, 415, "POST", f"{API}/posts", b"content", token, content_type="text/plain")
        call(commands, 404, "POST", f"{API}/nowhere", b"", token)
        call(queries, 400, "GET", f"{API}/timeline?cursor=bad", None, token)
        call(queries, 401, "GET", f"{API}/timeline")
        call(queries, 404, "GET", f"{API}/posts/1", None, token)
        call(queries, 404, "GET", f"{API}/nowhere", None, token)

    def limits(self) -> None:
        """Quotas, which all replicas count together; sign-ins, which each counts for itself."""
        eager, token = self.users[6], self.users[6].token
        statuses = [self.commands("POST", f"{API}/posts", {"content": f"Post {number}"}, token).status
                    for number in range(int(SETTINGS["POST_QUOTA"]) + 5)]
        if statuses[-1] != 429:
            raise Failed(f"the quota of posts refuses nothing: {statuses[-1]}")
        for _ in range(int(SETTINGS["POST_QUOTA"]) + 5):
            status = self.commands("PATCH", f"{API}/users/me", {"bio": secrets.token_hex(4)}, token).status
        if status != 429:
            raise Failed(f"the quota of edits refuses nothing: {status}")
        for _ in range(12):
            wrong = {"username": eager.name, "password": "wrong horse"}
            status = self.commands("POST", f"{API}/auth/login", wrong).status
        if status != 429:
            raise Failed(f"nobody limits sign-ins: {status}")

    def first_failures(self) -> None:
        """A read that the fold is too late for, which is the first 503; a client that does not wait; a dead letter."""
        projectors = self.stack.all("query-service", "projector")
        for role in projectors:
            role.process.popen.send_signal(signal.SIGSTOP)
        user = self.users[1]
        try:
            token = self.call(self.commands, 201, "POST", f"{API}/posts", {"content": "Not yet"}, user.token).headers[
                "x-consistency-token"]
            self.call(self.queries, 503, "GET", f"{API}/timeline", None, user.token, x_consistency_token=token)
            for _ in range(3):
                impatient = socket.create_connection(("127.0.0.1", self.stack.first("query-service", "api").port))
                impatient.sendall(f"GET {API}/timeline HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {user.token}\r\n"
                                  f"x-consistency-token: {token}\r\n\r\n".encode())
                self.stack.supervisor.pause(0.3)
                impatient.close()
        finally:
            for role in projectors:
                role.process.popen.send_signal(signal.SIGCONT)
        broker = Broker(self.stack.nats_port)
        taken = broker.ask("microblog.events.relay.tick", BROKEN_MESSAGE)
        broker.close()
        if "seq" not in taken:
            raise Failed(f"the stream does not take a broken message: {taken}")
        self.stack.wait("the dead letter is kept", lambda: total(self.stack, "query_service_dead_letters_total") > 0)


def total(stack: Stack, name: str) -> float:
    """What all processes say now, summed up."""
    lines = (line for role in stack.roles for line in ask(role.ops, "/metrics")[1].decode().splitlines())
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[{{ ]", line))


def start_gateway(stack: Stack) -> tuple[int, str]:
    """Traefik with metrics, as in a cluster, and in front of nothing: its port, and where its metrics are."""
    port, ops, nothing = free_ports(3)
    routes, settings = stack.folder / "routes.yml", stack.folder / "traefik.yml"
    routes.write_text(json.dumps({"http": {
        "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "nothing", "entryPoints": ["web"]}},
        "services": {"nothing": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{nothing}"}]}}}}}))
    settings.write_text(json.dumps({
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False}, "ping": {"entryPoint": "ops"},
        "metrics": {"prometheus": {"entryPoint": "ops"}}, "providers": {"file": {"filename": str(routes)}},
        "entryPoints": {"web": {"address": f"127.0.0.1:{port}"}, "ops": {"address": f"127.0.0.1:{ops}"}}}))
    stack.supervisor.start("gateway", [str(traefik(stack.supervisor)), f"--configFile={settings}"], env=direct(),
                           cwd=stack.folder, log=stack.folder / "gateway.log")
    address = f"127.0.0.1:{ops}"
    stack.wait("the gateway serves", lambda: ask(address, "/ping")[0] == 200)
    return port, address


# --- Prometheus --------------------------------------------------------------------------------------------------

def counters(stack: Stack) -> dict[str, dict[str, float]]:
    """Every series of every counter, buckets of histograms included, as Prometheus has it now."""
    names = [f"{name}{suffix}" for name, kinds in stack.prometheus.get("metadata").items()
             for suffix in {"counter": ("",), "histogram": ("_count", "_sum", "_bucket")}.get(kinds[0]["type"], ())]
    found = {}
    for name in names:
        for series in stack.prometheus.query(f'{name}{{job=~"command-service|query-service"}}'):
            labels = {label: value for label, value in series["metric"].items() if label != "__name__"}
            found.setdefault(name, {})[json.dumps(labels, sort_keys=True)] = float(series["value"][1])
    return found


def may_be_born(name: str, labels: dict[str, str]) -> bool:
    """Routes by each status below 500, and how long each route takes, would be thousands of series of 0."""
    return name.startswith("http_request_duration_seconds") or (
        name == "http_requests_total" and labels["status"] < "5")


def check_counters(stack: Stack, report: Report, before: dict, began: float) -> None:
    """What rose must show in increase(), also where it rose for the first time."""
    after = counters(stack)
    window = math.ceil(time.time() - began) + 3 * SCRAPE_SECONDS
    born, unseen, rose, first = [], [], 0, 0
    for name, series in after.items():
        increases = stack.prometheus.query(f'increase({name}{{job=~"command-service|query-service"}}[{window}s])')
        seen = {json.dumps(each["metric"], sort_keys=True): float(each["value"][1]) for each in increases}
        for labels, value in series.items():
            was = before.get(name, {}).get(labels)
            if value <= (was or 0):
                continue
            rose += 1
            first += not was
            if was is None:
                born.append((name, json.loads(labels)))
            # It reckons from the first sample in the window to the last, and stretches that a little.
            elif seen.get(labels, 0) < 0.7 * (value - was):
                unseen.append(f"{name}{labels} rose from {was:g} to {value:g}, increase() says "
                              f"{seen.get(labels, 0):.1f}")
    wrongly = [f"{name}{labels}" for name, labels in born if not may_be_born(name, labels)]
    report.check(f"of {rose} counters that rose, {first} for the first time, increase() sees each", not unseen,
                 "; ".join(unseen[:5]))
    report.check(f"no counter is born above 0 but those that may ({len(born) - len(wrongly)})", not wrongly,
                 "; ".join(wrongly[:5]))
    for what, expression in (
        ("the first dead letters", "query_service_dead_letters_total"),
        ("the first answers 5xx", 'http_requests_total{status=~"5.."}'),
        ("the first quota refusals", "command_service_quota_refusals_total"),
        ("the first abandoned requests", "http_requests_abandoned_total"),
    ):
        found = stack.prometheus.query(f"sum(increase({expression}[{window}s]))")
        value = float(found[0]["value"][1]) if found else 0.0
        report.check(f"increase() shows {what}", value > 0.5, f"{value:.1f}")


def dashboards_of_the_repository() -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def check_dashboards(stack: Stack, report: Report) -> None:
    dashboards = dashboards_of_the_repository()
    misses, asked = [], 0
    for where, kind, target in expressions(dashboards):
        if kind != "prometheus":
            continue
        asked += 1
        values = [float(series["value"][1]) for series in stack.prometheus.query(filled(target["expr"]))]
        if not any(math.isfinite(value) for value in values):
            misses.append(f"{where}: {'not a number' if values else 'no data'}: {filled(target['expr'])}")
    for miss in misses:
        say(f"     {miss}")
    report.check(f"{asked} expressions of {len(dashboards)} dashboards have data", not misses,
                 f"{len(misses)} have none" if misses else "")
    for dashboard in dashboards.values():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query" and variable["name"] != "namespace":  # only a cluster has that label
                series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
                found = stack.prometheus.query(f"count by ({label}) ({filled(series)})")
                report.check(f"{dashboard['uid']}: values of ${variable['name']}", found, f"{len(found)}")


def check_rules(stack: Stack, report: Report) -> None:
    groups = stack.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    broken = [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]
    report.check(f"{len(rules)} rules are evaluated", rules and not broken, "; ".join(broken))
    recorded = sorted({rule["name"] for rule in rules if rule["type"] == "recording"})
    empty = [name for name in recorded if not stack.prometheus.query(name)]
    report.check(f"{len(recorded)} recording rules have data", not empty, ", ".join(empty))


# --- logs and traces ---------------------------------------------------------------------------------------------

def lines_of(role: Role) -> Iterator[bytes]:
    *whole, last = role.log.read_bytes().split(b"\n")
    yield from whole
    if last:
        yield last


def check_logs(stack: Stack, report: Report, receiver: Receiver) -> tuple[str, str]:
    """Returns the ids of a request and of a trace."""
    user = User("user_1", "", stack.tokens("user_1")["user_1"])
    trace = secrets.token_hex(16)
    answer = stack.commands()("POST", f"{API}/posts", {"content": "To be found"}, user.token,
                              traceparent=f"00-{trace}-{secrets.token_hex(8)}-01")
    request = answer.headers["x-request-id"]
    read = stack.queries()("GET", f"{API}/timeline", None, user.token,
                           x_consistency_token=answer.headers["x-consistency-token"],
                           traceparent=f"00-{trace}-{secrets.token_hex(8)}-01")
    report.check("a post, and a read that reflects it", (answer.status, read.status) == (201, 200),
                 f"{answer.status}, {read.status}")
    wanted = {("command-service", "request.id", request), ("query-service", "request.id", read.headers["x-request-id"]),
              ("command-service", "trace.id", trace), ("query-service", "trace.id", trace)}

    def found() -> set[tuple[str, str, str]]:
        lines = [(role.job, line) for role in stack.roles for line in map(parsed, lines_of(role)) if line]
        return {(job, name, value) for job, name, value in wanted if any(
            where == job and line.get(name) == value for where, line in lines)}

    try:
        stack.wait("the lines of the requests", lambda: found() == wanted, 10)
    except Failed:
        pass  # told below
    for job, name, value in sorted(wanted):
        report.check(f"{name} of the answer finds the request's line in the log of {job}",
                     (job, name, value) in found())
    check_spans(stack, report, receiver.spans, trace)

    every = [(role.name, line) for role in stack.roles for line in lines_of(role)]
    bad = [f"{name}: {line[:120].decode(errors='replace')}" for name, line in every if parsed(line) is None]
    report.check(f"all of {len(every)} lines are JSON objects", every and not bad, "; ".join(bad[:3]))
    lacking = {field for _, line in every for field in WANTED_IN_A_LINE if field not in (parsed(line) or {})}
    report.check(f"each line says {', '.join(WANTED_IN_A_LINE)}", not lacking,
                 f"not always {', '.join(sorted(lacking))}" if lacking else "")
    leaked = [name for name, line in every for secret in (PASSWORD, "example.com", "To be found", user.token)
              if secret.encode() in line]
    report.check("no line has a password, an address, a post or a token", not leaked, ", ".join(leaked[:3]))
    if OTLP_LOGS_GO_ELSEWHERE not in stack.settings:
        report.check("the logs come over OTLP, too", receiver.logs, f"{receiver.logs} batches")
    return request, trace


def parsed(line: bytes) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def check_spans(stack: Stack, report: Report, spans: list[Span], trace: str) -> None:
    """All hops of a post: the request, its append to the log, its publication by the relay, its fold."""
    def missing() -> list[tuple[str, str]]:
        there = [(span.service, span.name) for span in spans if span.trace == trace]
        return [(service, name) for service, name in HOPS
                if not any(service == where and span.startswith(name) for where, span in there)]

    try:
        stack.wait("the spans of the trace", lambda: not missing(), 15)
    except Failed:
        pass  # told below
    report.check(f"the trace has the spans {', '.join(name.strip() for _, name in HOPS)}", not missing(),
                 "; ".join(f"no {name} of {service}" for service, name in missing()))
    ids = {span.id for span in spans if span.trace == trace}
    roots = [span.name for span in spans if span.trace == trace and span.parent not in ids]
    report.check("they hang together: only the requests have a parent elsewhere", len(roots) == 2, ", ".join(roots))


# --- Loki --------------------------------------------------------------------------------------------------------

def check_loki(stack: Stack, report: Report, address: str | None, request: str, trace: str) -> None:
    if not address:
        say("--   the dashboards' LogQL against a Loki: left out, there is no Loki (3.0 or later) on the PATH")
        return
    for where, kind, target in expressions(dashboards_of_the_repository()):
        if kind != "loki":
            continue
        expression = filled(target["expr"].replace("$request_id", request).replace("$trace_id", trace))

        def found() -> list:
            status, body = ask(address, "/loki/api/v1/query_range?" + urllib.parse.urlencode(
                {"query": expression, "since": "15m", "limit": 10}))
            if status != 200:
                raise Failed(f"Loki answers {status} to {expression}: {body[:300].decode()}")
            return json.loads(body)["data"]["result"]

        try:
            lines = stack.wait("Loki has the lines", found, 15)
        except Failed as failure:
            report.check(f"Loki: {where}", False, str(failure))
        else:
            report.check(f"Loki: {where}", lines)


def loki_beside(supervisor: Supervisor) -> str | None:
    """The address of a Loki of our own, where there is one."""
    program = optional("loki", LOKI_AT_LEAST)
    if not program:
        return None
    folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-loki-")))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    start_loki(supervisor, program, Folders(folder, folder), address)
    return address


# --- all of it ---------------------------------------------------------------------------------------------------

def run(supervisor: Supervisor, each: int) -> int:
    report = Report()
    receiver = Receiver()
    settings = {**SETTINGS, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_LOGS_EXPORTER": "otlp"}
    loki = loki_beside(supervisor)
    if loki:
        settings[OTLP_LOGS_GO_ELSEWHERE] = f"http://{loki}/otlp/v1/logs"
    stack = Stack(supervisor, each, **settings)
    stack.start()
    gateway, gateway_ops = start_gateway(stack)
    stack.start_prometheus(SCRAPE_SECONDS, gateway=gateway_ops)
    before, began = counters(stack), time.time()
    say(f"{len(stack.roles)} processes run, Prometheus reads them; the load begins")
    if Client(gateway)("GET", f"{API}/timeline").status != 502:
        raise Failed("the gateway has an answer, though nothing is behind it")
    load = Load(stack)
    traffic, streams = load.run()
    load.first_failures()
    supervisor.pause(max(0.0, LOAD_SECONDS - (time.time() - began)))
    # While the load runs: a rate without requests is not a number.
    check_rules(stack, report)
    check_dashboards(stack, report)
    say(f"     the load: {traffic.stop()}")
    for stream in streams:
        stream.close()
    supervisor.pause(2 * SCRAPE_SECONDS)
    check_counters(stack, report, before, began)
    request, trace = check_logs(stack, report, receiver)
    check_loki(stack, report, loki, request, trace)
    say(f"{report.failures} of what was tried is not as it should be" if report.failures else "all is as it should be")
    return 1 if report.failures else 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=2, metavar="N", help="processes of each role (%(default)s)")
    arguments = parser.parse_args(argv)
    return supervised(lambda supervisor: run(supervisor, arguments.each))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
