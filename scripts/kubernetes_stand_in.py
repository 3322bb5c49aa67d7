"""Just enough of the Kubernetes API for a controller: lists and watches objects, takes their status, and allows what the
Roles among the objects allow. What it is asked for and does not allow, or has not, it remembers."""

from __future__ import annotations

import json
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from manifests_tree import CLUSTER_SCOPED, Object

# Group, version, perhaps namespace, resource, perhaps name and subresource.
PATH = re.compile(r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
                  r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?")
END_OF_LIST = {"k8s.io/initial-events-end": "true"}
# A client knows an empty list by its kind.
KINDS = {f"{kind.lower()}s": kind for kind in (
    "ConfigMap", "EndpointSlice", "GRPCRoute", "Gateway", "HTTPRoute", "IngressRoute", "IngressRouteTCP",
    "IngressRouteUDP", "ListenerSet", "Middleware", "MiddlewareTCP", "Namespace", "ReferenceGrant", "Secret",
    "ServersTransport", "ServersTransportTCP", "Service", "TLSOption", "TLSRoute", "TLSStore", "TraefikService")}
KINDS.update(backendtlspolicies="BackendTLSPolicy", gatewayclasses="GatewayClass")


class StandIn:
    """Serves the objects to one account: on a free port of this machine, or at an address, with TLS where there is a
    certificate and its key."""

    def __init__(self, objects: list[Object], account: str, address: tuple[str, int] = ("127.0.0.1", 0),
                 certificate: tuple[Path, Path] | None = None):
        self.changed = threading.Condition()
        self.events: list[tuple[str, Object]] = []
        self.refused: set[str] = set()
        self.used: set[tuple[str, str, str]] = set()
        self.statuses: dict[str, Object] = {}
        self.rules = list(rules_of(objects, account))
        for each in objects:
            self.put(each)
        self.server = Server(address, Handler)
        self.server.stand_in = self
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(*certificate)
            # A client that is slow to greet holds up nobody but its own thread.
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"http{'s' if certificate else ''}://{address[0]}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, each: Object) -> None:
        """Adds the object, or changes it for all who watch it."""
        with self.changed:
            kind = "MODIFIED" if any(same(each, old) for _, old in self.events) else "ADDED"
            for port in each.get("spec", {}).get("ports", []) if each["kind"] == "Service" else []:
                port.setdefault("protocol", "TCP")  # the API server's default
            each = {**each, "metadata": {"uid": name_of(each), "generation": 1, **each["metadata"],
                                         "resourceVersion": str(len(self.events) + 1)}}
            self.events.append((kind, each))
            self.changed.notify_all()

    def now(self, wanted) -> list[Object]:
        """The newest state of each object."""
        found: dict[str, Object] = {}
        for _, each in self.events:
            if wanted(each):
                found[name_of(each)] = each
        return list(found.values())

    def allows(self, verb: str, group: str, resource: str, namespace: str | None) -> bool:
        self.used.add((verb, group, resource))
        return any(verb in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"]
                   and where in (None, namespace) for rule, where in self.rules)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def unused(self) -> list[str]:
        """What the account may do and never tried to. A client that watches lists where it is told no other way."""
        listed = {("list", *what) for verb, *what in self.used if verb == "watch"}
        return sorted(f"{verb} {resource} of {group or 'core'}" for rule, _ in self.rules for verb in rule["verbs"]
                      for group in rule["apiGroups"] for resource in rule["resources"]
                      if (verb, group, resource) not in self.used | listed)


def rules_of(objects: list[Object], account: str):
    """The account's rules, each with its namespace, or none if it holds everywhere."""
    roles = {(each["kind"], each["metadata"]["name"]): each for each in objects if each["kind"].endswith("Role")}
    for binding in objects:
        if not binding["kind"].endswith("RoleBinding") or account not in [s["name"] for s in binding["subjects"]]:
            continue
        role = roles[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
        for rule in role["rules"]:
            yield rule, binding["metadata"].get("namespace")


def name_of(each: Object) -> str:
    return f"{each['kind']}/{each['metadata'].get('namespace', '')}/{each['metadata']['name']}"


def same(one: Object, other: Object) -> bool:
    return name_of(one) == name_of(other)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    stand_in: StandIn

    def handle_error(self, *_request) -> None:
        """A client that has gone."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        found, query = PATH.fullmatch(url.path), parse_qs(url.query)
        if not found or found["resource"] not in KINDS:
            self.refuse(404, url.path)
            return
        watches = query.get("watch", ["false"])[0] in ("1", "true")
        verb = "watch" if watches else "get" if found["name"] else "list"
        if not self.may(verb, found):
            return
        version = found["core"] or f"{found['group']}/{found['version']}"

        def wanted(each: Object) -> bool:
            return (each["apiVersion"] == version and each["kind"] == KINDS.get(found["resource"])
                    and (each["kind"] in CLUSTER_SCOPED or found["namespace"] in (None, each["metadata"]["namespace"])))

        if watches:
            self.watch(wanted, query)
        elif found["name"]:
            items = [each for each in self.stand_in.now(wanted) if each["metadata"]["name"] == found["name"]]
            self.answer(200, items[0]) if items else self.refuse(404, url.path)
        else:
            with self.stand_in.changed:
                items, at = self.stand_in.now(wanted), len(self.stand_in.events)
            self.answer(200, {"kind": f"{KINDS[found['resource']]}List", "apiVersion": version,
                              "metadata": {"resourceVersion": str(at)}, "items": items})

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = PATH.fullmatch(urlsplit(self.path).path)
        if not found or found["sub"] != "status":
            self.refuse(405, self.path)
        elif self.may("update", found):
            self.stand_in.statuses[name_of(body)] = body["status"]
            self.answer(200, body)

    @property
    def stand_in(self) -> StandIn:
        return self.server.stand_in

    def may(self, verb: str, found: re.Match) -> bool:
        resource = "/".join(filter(None, (found["resource"], found["sub"])))
        group = found["group"] or ""
        if self.stand_in.allows(verb, group, resource, found["namespace"]):
            return True
        where = f" in {found['namespace']}" if found["namespace"] else ""
        self.refuse(403, f"{verb} {resource} of {group or 'core'}{where}")
        return False

    def watch(self, wanted, query: dict) -> None:
        """Events from a version on, or the whole state first and then a bookmark, as newer clients want it."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        at = int(query.get("resourceVersion", ["0"])[0] or 0)
        with self.stand_in.changed:
            if query.get("sendInitialEvents", ["false"])[0] == "true":
                at = len(self.stand_in.events)
                for each in self.stand_in.now(wanted):
                    self.event("ADDED", each)
                self.event("BOOKMARK", self.bookmark(at))
        try:
            self.follow(wanted, at)
        except OSError:
            pass  # the client has gone

    def bookmark(self, at: int) -> Object:
        found = PATH.fullmatch(urlsplit(self.path).path)
        return {"kind": KINDS[found["resource"]], "apiVersion": found["core"] or f"{found['group']}/{found['version']}",
                "metadata": {"resourceVersion": str(at), "annotations": END_OF_LIST}}

    def follow(self, wanted, at: int) -> None:
        while True:
            with self.stand_in.changed:
                self.stand_in.changed.wait_for(lambda: len(self.stand_in.events) > at)
                news, at = self.stand_in.events[at:], len(self.stand_in.events)
            for kind, each in news:
                if wanted(each):
                    self.event(kind, each)

    def event(self, kind: str, each: Object) -> None:
        self.wfile.write(json.dumps({"type": kind, "object": each}).encode() + b"\n")
        self.wfile.flush()

    def refuse(self, code: int, what: str) -> None:
        self.stand_in.refused.add(f"{code} {what}")
        self.answer(code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": what,
                           "reason": {403: "Forbidden", 404: "NotFound"}.get(code, "MethodNotAllowed")})

    def answer(self, code: int, body: Object) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
