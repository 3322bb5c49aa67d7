"""The checks of rendered manifests: whatever an object names must be there. Each yields what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from manifests_tree import CLUSTER_SCOPED, Object, Pods, Tree, called, environment, matches, name_of, our_image

NAMESPACE = "microblog"
ANNOTATIONS = 256 * 1024  # bytes
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# What each role cannot do without, beside MONGODB_URI. The command api does not speak to NATS.
REQUIRED = {
    "command-api": {"JWT_PRIVATE_KEY_FILE"}, "command-relay": {"JWT_PRIVATE_KEY_FILE", "NATS_URL"},
    "query-api": {"JWKS_URL", "NATS_URL"}, "query-projector": {"JWKS_URL", "NATS_URL"},
}
# What others than our services answer to probes.
FOREIGN_PATHS = {
    "traefik": {"/ping"}, "nats": {"/healthz"}, "prom/prometheus": {"/-/healthy", "/-/ready"},
    "prom/alertmanager": {"/-/healthy", "/-/ready"}, "grafana/grafana": {"/api/health"},
    "grafana/loki": {"/ready", "/loki/api/v1/status/buildinfo"}, "jaegertracing/jaeger": {"/status"},
}


@dataclass
class Known:
    """What the repository says beside the manifests."""
    secrets: dict[str, set[str]]  # made outside, with their keys: manifests/secrets.json
    settings: set[str]  # docs/settings.md
    numbers: set[str]  # of these settings, those that are one
    roles: dict[str, set[str]]  # of each service
    operator_paths: set[str]  # shared/src/web/ops.rs
    key_set: str  # the path of the keys that access tokens are signed with
    error_page: str  # where the services have a body for what the gateway answers itself
    gateway: dict[str, str]  # the figures of the laptop's gateway
    middlewares: dict[str, list[str]]  # of its routers
    services: dict[str, str]  # the folders that an image is built from, with the image's user
    version: str  # of the workspace, and so of the images
    drain: int  # seconds


# --- objects ----------------------------------------------------------------------------------------------------

def places(tree: Tree, _known: Known) -> Iterator[str]:
    """Everything is in the namespace, but what belongs to none; and nothing is there twice."""
    seen = set()
    for each in tree.objects:
        namespace = each["metadata"].get("namespace")
        wanted = None if each["kind"] in CLUSTER_SCOPED else NAMESPACE
        if namespace != wanted:
            yield f"{called(each)} is in the namespace {namespace}, and belongs into {wanted or 'none'}"
        if called(each) in seen:
            yield f"{called(each)} is there twice"
        seen.add(called(each))


def sizes(tree: Tree, _known: Known) -> Iterator[str]:
    """`kubectl apply` keeps the whole object in an annotation, and annotations have a bound."""
    for each in tree.of("ConfigMap"):
        size = len(json.dumps(each, ensure_ascii=False).encode())
        if size > ANNOTATIONS:
            yield f"{called(each)} has {size} bytes, and kubectl apply takes up to {ANNOTATIONS}"


def made_secrets(tree: Tree, known: Known) -> Iterator[str]:
    """Where an operator makes the Secrets, it makes all, with all keys."""
    made = {each["spec"]["target"]["name"]: {entry["secretKey"] for entry in each["spec"]["data"]}
            for each in tree.of("ExternalSecret")}
    for name, keys in known.secrets.items():
        for key in sorted(keys - made.get(name, set())) if made else ():
            yield f"no ExternalSecret makes the key {key} of {name}"
    for each in tree.of("ExternalSecret"):
        for entry in each["spec"]["data"]:
            wanted = {"key": f"microblog/{each['metadata']['name']}", "property": entry["secretKey"]}
            if entry["remoteRef"] != wanted:
                yield f"{called(each)}: {entry['secretKey']} comes from {entry['remoteRef']}, and not from {wanted}"
    for each in tree.of("ExternalSecret"):
        store = each["spec"]["secretStoreRef"]
        if not tree.find(store["kind"], store["name"]):
            yield f"{called(each)}: no {store['kind']} {store['name']}"
    for claim in (claim for each in tree.of("StatefulSet") for claim in each["spec"].get("volumeClaimTemplates", [])):
        storage = claim["spec"].get("storageClassName")
        if storage and not tree.find("StorageClass", storage):
            yield f"the claim {claim['metadata']['name']}: no StorageClass {storage}"


def secret_key(known: Known, name: str, keys: list[str], where: str) -> Iterator[str]:
    if name not in known.secrets:
        yield f"{where}: no Secret {name} in manifests/secrets.json"
        return
    for key in keys:
        if key not in known.secrets[name]:
            yield f"{where}: the Secret {name} has no key {key}"


def config_key(tree: Tree, name: str, keys: list[str], where: str) -> Iterator[str]:
    found = tree.find("ConfigMap", name)
    if not found:
        yield f"{where}: no ConfigMap {name}"
        return
    for key in keys:
        if key not in found.get("data", {}):
            yield f"{where}: the ConfigMap {name} has no key {key}"


def variables(tree: Tree, known: Known) -> Iterator[str]:
    """ConfigMaps and Secrets that variables come from."""
    for pods in tree.pods():
        for container in pods.containers():
            where = f"{pods}, container {container['name']}"
            for source in container.get("envFrom", []):
                yield from config_key(tree, source.get("configMapRef", {}).get("name", "(none)"), [], where)
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                if reference := source.get("secretKeyRef"):
                    yield from secret_key(known, reference["name"], [reference["key"]], where)
                if reference := source.get("configMapKeyRef"):
                    yield from config_key(tree, reference["name"], [reference["key"]], where)


def volumes(tree: Tree, known: Known) -> Iterator[str]:
    """Volumes, what they hold, and who mounts them."""
    for pods in tree.pods():
        for volume in pods.spec.get("volumes", []):
            where = f"{pods}, volume {volume['name']}"
            if source := volume.get("secret"):
                yield from secret_key(known, source["secretName"], item_keys(source), where)
            if source := volume.get("configMap"):
                yield from config_key(tree, source["name"], item_keys(source), where)
        there = {volume["name"] for volume in pods.spec.get("volumes", [])}
        there |= {claim["metadata"]["name"] for claim in pods.owner["spec"].get("volumeClaimTemplates", [])}
        mounted = {mount["name"] for container in pods.containers() for mount in container.get("volumeMounts", [])}
        for name in sorted(mounted - there):
            yield f"{pods} mounts {name}, which is no volume"
        for name in sorted(there - mounted):
            yield f"{pods}: nobody mounts the volume {name}"


def files_in_commands(tree: Tree, known: Known) -> Iterator[str]:
    """What commands and probes name below /etc is a key that is mounted there."""
    for pods in tree.pods():
        for container in pods.containers():
            probes_of = [container.get(kind, {}) for kind in PROBES] + [container.get("lifecycle", {}).get("preStop", {})]
            words = [*container.get("command", []), *container.get("args", []),
                     *(word for each in probes_of for word in each.get("exec", {}).get("command", []))]
            for path in re.findall(r"/etc/[\w./-]+", " ".join(words)):
                if not is_mounted(tree, pods, container, path, known):
                    yield f"{pods}, container {container['name']}: nothing is mounted at {path}, which a command names"


def item_keys(source: dict) -> list[str]:
    return [item["key"] for item in source.get("items", [])]


# --- pods -------------------------------------------------------------------------------------------------------

def images(tree: Tree, known: Known) -> Iterator[str]:
    """Ours are those that the Dockerfiles build. The base leaves the tags to the overlays."""
    for pods in tree.pods():
        for container in pods.containers():
            image, _, tag = container["image"].partition(":")
            ours = our_image(container)
            if ours and ours not in known.services:
                yield f"{pods}: no folder of ours makes the image {image}"
            elif ours and str(pods.spec.get("securityContext", {}).get("runAsUser")) != known.services[ours]:
                yield f"{pods}: the image {image} is made for the user {known.services[ours]}"
            if not tree.name.startswith("overlays/"):
                continue
            if not tag or tag == "latest":
                yield f"{pods}: the image {image} has no version"
            elif ours and tag != known.version:
                yield f"{pods}: the image {image} has the tag {tag}, and the version is {known.version}"


def settings(tree: Tree, known: Known) -> Iterator[str]:
    """Names that the services know, roles that they have, and files that are mounted."""
    for pods in filter(Pods.is_role, tree.pods()):
        container = pods.spec["containers"][0]
        variables_of = environment(tree, container)
        for name in sorted(set(variables_of) - known.settings):
            yield f"{pods}: the services have no setting {name}"
        for name in sorted({"MONGODB_URI", *REQUIRED[name_of(pods)]} - set(variables_of)):
            yield f"{pods}: {name} is not set"
        for name, value in variables_of.items():
            if name in known.numbers and value is not None and not value.isdigit():
                yield f"{pods}: {name} is {value}, and no number"
            if name.endswith("_FILE") and value and not is_mounted(tree, pods, container, value, known):
                yield f"{pods}: nothing is mounted at {value}, which {name} names"
        service = our_image(container)
        arguments = container.get("args", [])
        if arguments[:1] != ["--role"] or arguments[1] not in known.roles.get(service, ()):
            yield f"{pods}: {service} does not take {' '.join(arguments)}"


def is_mounted(tree: Tree, pods: Pods, container: dict, path: str, known: Known) -> bool:
    folder, _, file = path.rpartition("/")
    for mount in container.get("volumeMounts", []):
        if mount["mountPath"].rstrip("/") == folder:
            volume = next((each for each in pods.spec.get("volumes", []) if each["name"] == mount["name"]), {})
            source = volume.get("secret") or volume.get("configMap") or {}
            names = {item["path"] for item in source.get("items", [])}
            config = tree.find("ConfigMap", source.get("name", "")) or {}
            return file in (names or known.secrets.get(source.get("secretName")) or config.get("data", ()))
    return False


def spread(tree: Tree, _known: Known) -> Iterator[str]:
    """Pods are spread among themselves, over nodes that are there."""
    for pods in tree.pods():
        for constraint in pods.spec.get("topologySpreadConstraints", []):
            if not matches(constraint["labelSelector"], pods.labels):
                yield f"{pods} is spread among others"
            if constraint.get("nodeTaintsPolicy") != "Honor":
                yield f"{pods}: nodes that are away count as places"


def listening(tree: Tree, _known: Known) -> Iterator[str]:
    """The ports of a container of ours are those of its settings."""
    for pods in filter(Pods.is_role, tree.pods()):
        container = pods.spec["containers"][0]
        prefix = "COMMAND" if "command" in container["image"] else "QUERY"
        variables_of = environment(tree, container)
        for port, name in (("http", f"{prefix}_ADDR"), ("ops", f"{prefix}_OPS_ADDR")):
            address, number = variables_of.get(name) or "", pods.ports().get(port)
            if number and address.rpartition(":")[2] != str(number):
                yield f"{pods}: the port {port} is {number}, and {name} is {address or 'not set'}"
            if address.startswith(("127.", "localhost")):
                yield f"{pods}: nobody reaches {name}={address}"


def probes(tree: Tree, known: Known) -> Iterator[str]:
    """All three for whatever runs on; ports that are there, paths that are served."""
    for pods in tree.pods():
        if pods.owner["kind"] in ("Job", "CronJob"):
            continue
        for container in pods.spec["containers"]:
            for kind in PROBES:
                where = f"{pods}, {kind}"
                if kind not in container:
                    yield f"{where}: there is none"
                yield from probe(container, container.get(kind, {}), known, where)


def probe(container: dict, wanted: dict, known: Known, where: str) -> Iterator[str]:
    action = wanted.get("httpGet") or wanted.get("tcpSocket")
    if not action:
        return
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    if action["port"] not in [*ports, *ports.values()]:
        yield f"{where}: the container has no port {action['port']}"
    if "path" in action:
        path = action["path"].partition("?")[0]
        image = container["image"].partition(":")[0]
        ours = our_image(container)
        if path not in (known.operator_paths if ours else FOREIGN_PATHS.get(image, ())):
            yield f"{where}: {image} does not serve {path}"
        if ours and action["port"] != "ops":
            yield f"{where}: {path} is served on the port ops"


def grace(tree: Tree, known: Known) -> Iterator[str]:
    """The grace period is longer than what comes before the drain, and the drain."""
    for pods in tree.pods():
        container = pods.spec["containers"][0]
        stop = container.get("lifecycle", {}).get("preStop", {})
        before = stop.get("sleep", {}).get("seconds", 0)
        drain = 0
        if pods.is_role():
            drain = known.drain + int(environment(tree, container).get("DRAIN_SECS") or 0)
        for text in files_of(tree, pods):
            drain += sum(int(seconds) for seconds in re.findall(
                r"^\s*(?:graceTimeOut|lame_duck_\w+): (\d+)s$", text, re.MULTILINE))
        given = pods.spec.get("terminationGracePeriodSeconds", 30)
        if given <= before + drain:
            yield f"{pods}: terminationGracePeriodSeconds is {given}, and stopping may take {before} + {drain} s"


def files_of(tree: Tree, pods: Pods) -> Iterator[str]:
    """The files of ConfigMaps that are mounted in these pods."""
    for volume in pods.spec.get("volumes", []):
        found = tree.find("ConfigMap", volume.get("configMap", {}).get("name", ""))
        yield from (found or {}).get("data", {}).values()


# --- who finds whom ---------------------------------------------------------------------------------------------

def services(tree: Tree, _known: Known) -> Iterator[str]:
    for service in tree.of("Service"):
        pods = tree.selected({"matchLabels": service["spec"]["selector"]})
        if not pods:
            yield f"{called(service)} selects no pods"
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for each in pods:
                if target not in [*each.ports(), *each.ports().values()]:
                    yield f"{called(service)}: {each} has no port {target}"
    for each in tree.of("StatefulSet"):
        headless = tree.find("Service", each["spec"]["serviceName"])
        if not headless or headless["spec"].get("clusterIP") != "None":
            yield f"{called(each)}: {each['spec']['serviceName']} is no headless Service"


def key_set_url(tree: Tree, known: Known) -> Iterator[str]:
    for pods in filter(Pods.is_role, tree.pods()):
        url = urlsplit(environment(tree, pods.spec["containers"][0]).get("JWKS_URL") or "")
        if url.path != known.key_set or not has_port(tree, url.hostname or "", url.port):
            yield f"{pods}: JWKS_URL does not lead to the keys of a Service"


def has_port(tree: Tree, service: str, port: int | None) -> bool:
    found = tree.find("Service", service.partition(".")[0])
    return bool(found) and port in [each["port"] for each in found["spec"]["ports"]]


def workload_selectors(tree: Tree, _known: Known) -> Iterator[str]:
    for owner in tree.of("Deployment", "StatefulSet"):
        if owner not in [pods.owner for pods in tree.selected(owner["spec"]["selector"])]:
            yield f"{called(owner)} does not select its own pods"
        if len(tree.selected(owner["spec"]["selector"])) > 1:
            yield f"{called(owner)} selects the pods of others"


def disruption(tree: Tree, _known: Known) -> Iterator[str]:
    """A PodDisruptionBudget for whatever runs on, and none for nothing."""
    kept: list[Object] = []
    for budget in tree.of("PodDisruptionBudget"):
        pods = tree.selected(budget["spec"]["selector"])
        if not pods:
            yield f"{called(budget)} selects no pods"
        if budget["spec"].get("maxUnavailable") != 1:
            yield f"{called(budget)} does not let one pod go at a time"
        kept += [each.owner for each in pods]
    for owner in tree.of("Deployment", "StatefulSet"):
        if owner not in kept:
            yield f"{called(owner)} has no PodDisruptionBudget"


def scaling(tree: Tree, _known: Known) -> Iterator[str]:
    for scaler in tree.of("HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        target = tree.find(spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
        if not target:
            yield f"{called(scaler)}: no {spec['scaleTargetRef']['kind']} {spec['scaleTargetRef']['name']}"
        elif "replicas" in target["spec"]:
            yield f"{called(target)} has `replicas`, by which each apply undoes what {called(scaler)} has done"
        if spec["minReplicas"] > spec["maxReplicas"]:
            yield f"{called(scaler)}: minReplicas is greater than maxReplicas"


CHECKS = [places, sizes, made_secrets, variables, volumes, files_in_commands, spread, images, settings, listening, probes, grace, services, key_set_url, workload_selectors, disruption, scaling]
