"""The checks of rendered manifests that are about the network: who may reach whom, and where the gateway's routes lead.
Each yields what is wrong."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator

from manifests_references import Known, has_port
from manifests_tree import Object, Pods, Tree, called, matches, name_of

ROLES = ("command-api", "command-relay", "query-api", "query-projector")
# Who connects to whom, at which port. Nothing else may be allowed between pods.
CONNECTIONS = {
    *((client, "mongodb", "mongodb") for client in (*ROLES, "mongodb", "mongodb-init", "backup")),
    *((client, "nats", "nats") for client in ("command-relay", "query-api", "query-projector")),
    ("nats", "nats", "cluster"),
    ("query-api", "command-api", "http"), ("query-projector", "command-api", "http"),
    ("gateway", "command-api", "http"), ("gateway", "query-api", "http"),
    *(("prometheus", scraped, "ops") for scraped in (*ROLES, "gateway")), ("prometheus", "alertmanager", "alertmanager"),
    ("grafana", "prometheus", "prometheus"), ("grafana", "alertmanager", "alertmanager"),
    ("grafana", "loki", "loki"), ("grafana", "jaeger", "query"),
    *((role, "loki", "loki") for role in ROLES), *((role, "jaeger", "otlp") for role in ROLES),
}
NAMES = {name for source, target, _ in CONNECTIONS for name in (source, target)}
# Reached from the namespace `monitoring`.
SCRAPED = {*((role, "ops") for role in ROLES), ("gateway", "ops"), ("nats", "monitor")}
ADDRESS = re.compile(r"(?<![\w-])([\w-]{1,63})\.microblog\.svc\.cluster\.local:(\d+)")
# Reached from everywhere.
PUBLIC = {("gateway", "web"), ("gateway", "websecure")}
# What the gateway has as on a laptop.
SETTINGS = ("readTimeout", "graceTimeOut", "maxHeaderBytes", "aliasHeadersStrategy", "dialTimeout", "idleConnTimeout",
            "responseHeaderTimeout")
OF_MIDDLEWARES = ("attempts", "initialInterval", "timeout", "query", "status")
MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
DNS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
       "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
LOCAL_DNS = {"ipBlock": {"cidr": "169.254.20.10/32"}}
API_SERVER = {443, 6443, 8443}
# Where backups go has public addresses, and no fixed ones.
PRIVATE = ["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"]
STORAGE = {"ipBlock": {"cidr": "0.0.0.0/0", "except": PRIVATE}}
# Who asks the API server.
CONTROLLERS = ("gateway", "prometheus")


# --- policies ---------------------------------------------------------------------------------------------------

def policy_selectors(tree: Tree, _known: Known) -> Iterator[str]:
    """What policies select is there, with the ports that they name; and a list of rules is in force."""
    for policy, rule, direction, peers in every_rule(tree):
        if direction.capitalize() not in policy["spec"]["policyTypes"]:
            yield f"{called(policy)}: its {direction} has no effect without the policyType"
        for peer in peers:
            yield from names_in(tree, policy, peer.get("podSelector", {}))
            if "podSelector" in peer and is_of_pods(peer) and selects_none(tree, peer["podSelector"]):
                yield f"{called(policy)}: one of its peers selects no pods"
        for pods in targets(tree, policy, peers, direction):
            for port in rule.get("ports", []):
                if port["port"] not in [*pods.ports(), *pods.ports().values()]:
                    yield f"{called(policy)}: {pods} has no port {port['port']}"
    for policy in tree.of("NetworkPolicy"):
        yield from names_in(tree, policy, policy["spec"]["podSelector"])
        if selects_none(tree, policy["spec"]["podSelector"]):
            yield f"{called(policy)} selects no pods"


def selects_none(tree: Tree, selector: dict) -> bool:
    names = selector.get("matchLabels", {"": ""}).values()
    return not tree.selected(selector) and not all(elsewhere(tree, name) for name in names)


def elsewhere(tree: Tree, name: str) -> bool:
    """A component names pods of others, which are not there where it is rendered alone."""
    return tree.name.count("+") == 1 and name in NAMES


def every_rule(tree: Tree) -> Iterator[tuple[Object, dict, str, list[dict]]]:
    """Each rule with its policy, direction and peers; no peers: everybody."""
    for policy in tree.of("NetworkPolicy"):
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                yield policy, rule, direction, rule.get(side) or []


def targets(tree: Tree, policy: Object, peers: list[dict], direction: str) -> list[Pods]:
    """The pods whose ports a rule names."""
    if direction == "ingress":
        return tree.selected(policy["spec"]["podSelector"])
    return [pods for peer in peers if is_of_pods(peer) for pods in tree.selected(peer["podSelector"])]


def is_of_pods(peer: dict) -> bool:
    return set(peer) == {"podSelector"}


def names_in(tree: Tree, policy: Object, selector: dict) -> Iterator[str]:
    """Each name of a list, for one that is misspelt is not seen where another matches."""
    for wanted in selector.get("matchExpressions", []):
        for value in wanted.get("values", []):
            there = any(each.labels.get(wanted["key"]) == value for each in tree.pods())
            if not there and not elsewhere(tree, value):
                yield f"{called(policy)}: there are no pods {value}"


def connections(tree: Tree, _known: Known) -> Iterator[str]:
    """Allowed is what is needed between pods, and nothing else; both sides have to allow it."""
    for pods in tree.pods():
        for direction in ("Ingress", "Egress"):
            if not any(direction in policy["spec"]["policyTypes"] for policy in about(tree, pods)):
                yield f"{pods}: no policy denies its {direction}"
        if not allows(rules(tree, pods, "egress"), "to", lambda peer: peer == DNS, 53, None, "UDP"):
            yield f"{pods} cannot ask DNS"
        for port, number in pods.ports().items():
            yield from inbound(tree, pods, port, number)
            for source in tree.pods():
                yield from connection(tree, source, pods, port, number)


def inbound(tree: Tree, pods: Pods, port: str, number: int) -> Iterator[str]:
    """From outside the namespace."""
    ingress = rules(tree, pods, "ingress")
    public = any(not rule.get("from") and opens(rule, number, port) for rule in ingress)
    if public != ((name_of(pods), port) in PUBLIC):
        yield f"{pods}: the port {port} is {'open to everybody' if public else 'closed to the world'}"
    scraped = any(rule.get("from") and opens(rule, number, port) and MONITORING in rule["from"] for rule in ingress)
    if scraped != ((name_of(pods), port) in SCRAPED):
        yield f"{pods}: the namespace monitoring {'reaches' if scraped else 'does not reach'} the port {port}"


def outside(tree: Tree, _known: Known) -> Iterator[str]:
    """Who is none of our pods: Prometheus comes in; DNS and, for who watches pods or routes, the API server are asked;
    backups go out."""
    for policy, rule, direction, peers in every_rule(tree):
        where, ports = f"{called(policy)}, {direction}", {each["port"] for each in rule.get("ports", [])}
        if direction == "egress" and not peers:
            yield f"{where}: everything may be reached"
        for peer in peers:
            if is_of_pods(peer):
                continue
            api_server = "ipBlock" in peer and policy["metadata"]["name"] in CONTROLLERS and ports <= API_SERVER
            asked = peer in (DNS, LOCAL_DNS) and ports == {53} or api_server and private(peer["ipBlock"])
            asked |= peer == STORAGE and policy["metadata"]["name"] == "backup-to-storage" and ports == {443}
            if not (direction == "ingress" and peer == MONITORING or direction == "egress" and ports and asked):
                yield f"{where}: {peer} is none of those who are wanted"


def private(block: dict) -> bool:
    return ipaddress.ip_network(block["cidr"]).is_private


def connection(tree: Tree, source: Pods, target: Pods, port: str, number: int) -> Iterator[str]:
    needed = (name_of(source), name_of(target), port) in CONNECTIONS

    def selects(pods: Pods):
        return lambda peer: is_of_pods(peer) and matches(peer["podSelector"], pods.labels)

    out = allows(rules(tree, source, "egress"), "to", selects(target), number, port)
    into = allows(rules(tree, target, "ingress"), "from", selects(source), number, port)
    for side, allowed, policy in ((source, out, "egress of"), (target, into, "ingress of")):
        if needed and not allowed:
            yield f"{name_of(source)} must reach {name_of(target)} at {port}: no policy allows it, {policy} {name_of(side)}"
        if allowed and not needed:
            yield f"{name_of(source)} needs nothing of {name_of(target)} at {port}, and {policy} {name_of(side)} allows it"


def addresses(tree: Tree, _known: Known) -> Iterator[str]:
    """What configurations and settings name in the cluster are Services, with these ports."""
    for each in tree.of("ConfigMap"):
        for service, port in ADDRESS.findall(json.dumps(each.get("data", {}))):
            if not has_port(tree, service, int(port)) and not elsewhere(tree, service):
                yield f"{called(each)}: no Service {service} with the port {port}"


def about(tree: Tree, pods: Pods) -> list[Object]:
    return [policy for policy in tree.of("NetworkPolicy") if matches(policy["spec"]["podSelector"], pods.labels)]


def rules(tree: Tree, pods: Pods, direction: str) -> list[dict]:
    return [rule for policy in about(tree, pods) for rule in policy["spec"].get(direction, [])]


def allows(of: list[dict], side: str, peers, number: int, port: str | None, protocol: str = "TCP") -> bool:
    return any(opens(rule, number, port, protocol) and any(map(peers, rule.get(side) or [])) for rule in of)


def opens(rule: dict, number: int, port: str | None, protocol: str = "TCP") -> bool:
    return not rule.get("ports") or any(
        each.get("protocol", "TCP") == protocol and (each["port"] in (number, port) or "endPort" in each)
        for each in rule["ports"])


# --- the gateway ------------------------------------------------------------------------------------------------

def gateways(tree: Tree, known: Known) -> Iterator[str]:
    for gateway in tree.of("Gateway"):
        spec = gateway["spec"]
        if not tree.find("GatewayClass", spec["gatewayClassName"]):
            yield f"{called(gateway)}: no GatewayClass {spec['gatewayClassName']}"
        proxies = [pods for pods in tree.pods() if name_of(pods) == "gateway"]
        for listener in spec["listeners"]:
            where = f"{called(gateway)}, listener {listener['name']}"
            if not any(listener["port"] in pods.ports().values() for pods in proxies):
                yield f"{where}: Traefik has no port {listener['port']}"
            certificates = listener.get("tls", {}).get("certificateRefs", [])
            if (listener["protocol"] == "HTTPS") != bool(certificates):
                yield f"{where}: {listener['protocol']} with {len(certificates)} certificates"
            for certificate in certificates:
                if not {"tls.crt", "tls.key"} <= known.secrets.get(certificate["name"], set()):
                    yield f"{where}: no Secret {certificate['name']} with a certificate in manifests/secrets.json"


def figures_in(text: str) -> dict[str, str]:
    """The first value of each in a configuration of Traefik."""
    found = {key: re.search(rf"^ +{key}: (.+)$", text, re.MULTILINE) for key in (*SETTINGS, *OF_MIDDLEWARES)}
    return {key: value[1].replace('"', "") for key, value in found.items() if value}


def entry_points(tree: Tree, known: Known) -> Iterator[str]:
    """Traefik listens where the container's ports are, with the settings that it has on a laptop."""
    for pods in tree.pods():
        if name_of(pods) != "gateway":
            continue
        for volume in pods.spec["volumes"]:
            text = (tree.find("ConfigMap", volume["configMap"]["name"]) or {}).get("data", {}).get("traefik.yml", "")
            ports = {int(port) for port in re.findall(r'^    address: ":(\d+)"$', text, re.MULTILINE)}
            if ports != set(pods.ports().values()):
                yield f"{pods}: traefik.yml listens at {sorted(ports)}, and the ports are {pods.ports()}"
            if re.search(r"^(api|.*insecure):", text, re.MULTILINE):
                yield f"{pods}: traefik.yml has settings of its own API"
            here = figures_in(text)
            for key in SETTINGS:
                if here.get(key) != known.gateway.get(key):
                    yield f"{pods}: {key} is {here.get(key)}, and {known.gateway.get(key)} on a laptop"


def routes(tree: Tree, known: Known) -> Iterator[str]:
    for route in tree.of("HTTPRoute"):
        for parent in route["spec"]["parentRefs"]:
            gateway = tree.find("Gateway", parent["name"])
            if not gateway:
                yield f"{called(route)}: no Gateway {parent['name']}"
            elif parent.get("sectionName") not in [listener["name"] for listener in gateway["spec"]["listeners"]]:
                yield f"{called(route)}: the Gateway has no listener {parent.get('sectionName')}"
        for rule in route["spec"]["rules"]:
            yield from rule_of(tree, known, route, rule)
            names = [each["extensionRef"]["name"] for each in rule.get("filters", []) if "extensionRef" in each]
            wanted = known.middlewares.get(route["metadata"]["name"], [])
            if names != wanted:
                yield f"{called(route)} has the Middlewares {names}, and {wanted} on a laptop"


def rule_of(tree: Tree, known: Known, route: Object, rule: dict) -> Iterator[str]:
    redirects = any(each["type"] == "RequestRedirect" for each in rule.get("filters", []))
    if not rule.get("backendRefs") and not redirects:
        yield f"{called(route)} leads nowhere"
    for backend in rule.get("backendRefs", []):
        if not has_port(tree, backend["name"], backend["port"]):
            yield f"{called(route)}: no Service {backend['name']} with the port {backend['port']}"
    for match in rule["matches"]:
        if match["path"]["type"] == "Exact" and match["path"]["value"] != known.key_set:
            yield f"{called(route)}: no service has {match['path']['value']}"
    for extension in [each["extensionRef"] for each in rule.get("filters", []) if each["type"] == "ExtensionRef"]:
        if not tree.find(extension["kind"], extension["name"]):
            yield f"{called(route)}: no {extension['kind']} {extension['name']}"


def middlewares(tree: Tree, known: Known) -> Iterator[str]:
    used = {rule["extensionRef"]["name"] for route in tree.of("HTTPRoute") for each in route["spec"]["rules"]
            for rule in each.get("filters", []) if rule["type"] == "ExtensionRef"}
    for each in tree.of("Middleware"):
        if each["metadata"]["name"] not in used:
            yield f"{called(each)} is used by no route"
        if page := each["spec"].get("errors"):
            service = page["service"]
            if not has_port(tree, service["name"], service["port"]):
                yield f"{called(each)}: no Service {service['name']} with the port {service['port']}"
            if page["query"] != known.error_page:
                yield f"{called(each)}: no service has {page['query']}"
        yield from figures(each, known)
        if retry := each["spec"].get("retry"):
            for forbidden in {"status", "retryNonIdempotentMethod"} & set(retry):
                yield f"{called(each)}: {forbidden} sends again what may have been carried out"


def figures(middleware: Object, known: Known) -> Iterator[str]:
    """Those of the laptop's gateway."""
    for kind in ("rateLimit", "retry", "errors"):
        for key, value in middleware["spec"].get(kind, {}).items():
            if key in known.gateway and json.dumps(value).replace('"', "") != known.gateway[key]:
                yield f"{called(middleware)}: {key} is {value}, and {known.gateway[key]} on a laptop"


# --- the engines ------------------------------------------------------------------------------------------------

def clusters(tree: Tree, _known: Known) -> Iterator[str]:
    """As many members as there are pods, with their names; and no more copies of the stream than servers."""
    mongodb, nats = tree.find("StatefulSet", "mongodb"), tree.find("StatefulSet", "nats")
    for engine, port in ((mongodb, 27017), (nats, 4222)):
        if engine and not has_port(tree, engine["metadata"]["name"], port):
            yield f"no Service {engine['metadata']['name']} with the port {port}"
        if engine and engine["spec"].get("podManagementPolicy") != "Parallel":
            yield f"{called(engine)}: a member would wait for one that waits for it"
        headless = engine and tree.find("Service", engine["spec"]["serviceName"])
        if headless and not headless["spec"].get("publishNotReadyAddresses"):
            yield f"{called(headless)}: members would not find each other before they are ready"
    if mongodb:
        text = "\n".join(each["data"].get("MONGODB_MEMBERS", "") for each in tree.of("ConfigMap"))
        yield from members(mongodb, re.findall(r"([\w.-]+):27017", text))
    if nats:
        text = "\n".join(each["data"].get("cluster.conf", "") for each in tree.of("ConfigMap"))
        yield from members(nats, re.findall(r"nats-route://([\w.-]+):6222", text))
        copies = next(int(each["data"].get("STREAM_REPLICAS", 1)) for each in tree.of("ConfigMap")
                      if each["metadata"]["name"].startswith("settings"))
        if copies > nats["spec"]["replicas"]:
            yield f"STREAM_REPLICAS is {copies}, and there are {nats['spec']['replicas']} servers"


def members(owner: Object, hosts: list[str]) -> Iterator[str]:
    spec, own = owner["spec"], owner["metadata"]["name"]
    wanted = [f"{own}-{number}.{spec['serviceName']}.microblog.svc.cluster.local" for number in range(spec["replicas"])]
    if hosts != wanted and (hosts or len(wanted) > 1):
        yield f"{called(owner)} has {len(wanted)} pods, and its configuration names {', '.join(hosts) or 'none'}"


def believed(tree: Tree, _known: Known) -> Iterator[str]:
    """Behind the gateway all clients have its address, unless it is believed; and nobody else is."""
    networks = [network for each in tree.of("ConfigMap") for network in each["data"].get("TRUSTED_PROXIES", "").split(",")]
    for network in filter(None, networks):
        if not ipaddress.ip_network(network).is_private:
            yield f"TRUSTED_PROXIES believes {network}"
    if tree.name.startswith("overlays/") and tree.of("Gateway") and not any(networks):
        yield "TRUSTED_PROXIES does not name the gateway: all clients would have its address"


CHECKS = [policy_selectors, connections, outside, addresses, gateways, entry_points, routes, middlewares, clusters, believed]
