"""Renders the overlay and makes Pods of it that `podman play kube` runs on this machine's network.

What is changed, and why, stands at each function; everything else of the rendered Pods stays as it is.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from supervisor import Failed

NAMESPACE = "microblog"
DOMAIN = f"{NAMESPACE}.svc.cluster.local"
# Every Pod has an address of its own in the loopback network, so all keep the ports that the manifests give them.
ADDRESS = "127.0.55.{}"
API_ADDRESS, API_PORT = ADDRESS.format(254), 6443
# From there the gateway calls, since all of this is one machine.
LOOPBACK = "127.0.0.1"
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass
class Workload:
    """A Deployment or StatefulSet of one replica, and where its Pod listens."""
    name: str
    address: str
    kind: str
    spec: dict
    objects: list[dict] = field(default_factory=list)  # the ConfigMaps that its Pod reads

    @property
    def pod_name(self) -> str:
        return f"{self.name}-0" if self.kind == "StatefulSet" else self.name

    @property
    def labels(self) -> dict:
        return self.spec["template"]["metadata"]["labels"]

    @property
    def container(self) -> dict:
        return self.spec["template"]["spec"]["containers"][0]

    def port(self, name_or_number: str | int) -> int:
        if isinstance(name_or_number, int):
            return name_or_number
        return next(port["containerPort"] for port in self.container["ports"] if port["name"] == name_or_number)


def render(kubectl: Path, folder: Path) -> list[dict]:
    """The objects of an overlay. kubectl prints YAML, which Python cannot read; kubectl itself makes JSON of it."""
    rendered = command(kubectl, "kustomize", folder)
    text = command(kubectl, "annotate", "--local", "--output", "json", "--filename", "-", "nothing-", given=rendered)
    objects, at = [], 0
    while text[at:].strip():
        item, length = json.JSONDecoder().raw_decode(text[at:].lstrip())
        at = len(text) - len(text[at:].lstrip()) + length
        objects.append(item)
    return objects


def command(*argv: Path | str, given: str | None = None) -> str:
    answer = subprocess.run(list(map(str, argv)), input=given, capture_output=True, text=True)
    if answer.returncode:
        raise Failed(f"{Path(argv[0]).name} {argv[1]} failed: {answer.stderr.strip()}")
    return answer.stdout


def of_kind(objects: list[dict], kind: str) -> list[dict]:
    return [item for item in objects if item["kind"] == kind]


def workloads(objects: list[dict]) -> list[Workload]:
    found = sorted((*of_kind(objects, "Deployment"), *of_kind(objects, "StatefulSet")),
                   key=lambda item: item["metadata"]["name"])
    for item in found:
        if item["spec"].get("replicas", 1) != 1:
            raise Failed(f"{item['metadata']['name']} has {item['spec']['replicas']} replicas: only one of each is tried")
    return [Workload(item["metadata"]["name"], ADDRESS.format(number), item["kind"], copy.deepcopy(item["spec"]))
            for number, item in enumerate(found, 1)]


def host_names(objects: list[dict], all_workloads: list[Workload]) -> dict[str, str]:
    """What a cluster's DNS would answer."""
    names = {}
    for service in of_kind(objects, "Service"):
        name, selector = service["metadata"]["name"], service["spec"]["selector"]
        for workload in all_workloads:
            if selector.items() <= workload.labels.items():
                for each in (name, f"{name}.{NAMESPACE}", f"{name}.{NAMESPACE}.svc", f"{name}.{DOMAIN}"):
                    names[each] = workload.address
                names[f"{workload.pod_name}.{name}.{DOMAIN}"] = workload.address
    return names


def endpoint_slices(objects: list[dict], all_workloads: list[Workload]) -> list[dict]:
    """What a cluster's controller would make of Services and ready Pods."""
    slices = []
    for service in of_kind(objects, "Service"):
        for workload in all_workloads:
            if not service["spec"]["selector"].items() <= workload.labels.items():
                continue
            ports = [{"name": port["name"], "port": workload.port(port["targetPort"]), "protocol": "TCP"}
                     for port in service["spec"]["ports"]]
            name = service["metadata"]["name"]
            slices.append({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": ports,
                "metadata": {"name": f"{name}-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": name}},
                "endpoints": [{"addresses": [workload.address], "conditions": {"ready": True, "serving": True}}],
            })
    return slices


# --- Pods -------------------------------------------------------------------------------------------------------

class Pods:
    """Makes the Pods; `secrets` holds the values by Secret and key, `images` what stands in for an image."""

    def __init__(self, objects: list[dict], secrets: dict[str, dict[str, str]], images: dict[str, str], hosts: Path):
        self.config = {item["metadata"]["name"]: item["data"] for item in of_kind(objects, "ConfigMap")}
        self.secrets, self.images, self.hosts = secrets, images, hosts

    def of(self, workload: Workload) -> list[dict]:
        """The Pod of a workload, after the ConfigMaps that it reads."""
        template = copy.deepcopy(workload.spec["template"])
        pod = template["spec"]
        pod["hostNetwork"] = True
        pod["volumes"] = [*pod.get("volumes", []), *(
            {"name": claim["metadata"]["name"], "emptyDir": {}} for claim in workload.spec.get("volumeClaimTemplates", []))]
        pod["volumes"] = [self.volume(workload, volume) for volume in pod["volumes"]]
        pod["volumes"].append({"name": self.own(workload, "hosts"), "hostPath": {"path": str(self.hosts), "type": "File"}})
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            self.change(workload, container)
        return [*workload.objects, {"apiVersion": "v1", "kind": "Pod", "spec": pod,
                                    "metadata": {"name": workload.pod_name, "labels": workload.labels}}]

    @staticmethod
    def own(workload: Workload, name: str) -> str:
        """podman names a volume as the Pod does, and shares it between all Pods that use the name."""
        return f"{workload.pod_name}-{name}"

    def change(self, workload: Workload, container: dict) -> None:
        container["image"] = self.images.get(container["image"], container["image"])
        # podman asks with curl, in the container, where there is no curl. We ask ourselves, from outside.
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            container.pop(probe, None)
        container.pop("ports", None)  # with hostNetwork podman 4.3 refuses them
        container["env"] = self.variables(workload, container)
        for mount in container.get("volumeMounts", []):
            mount["name"] = self.own(workload, mount["name"])
        # With hostNetwork, podman 4.3 forgets hostAliases.
        container.setdefault("volumeMounts", []).append(
            {"name": self.own(workload, "hosts"), "mountPath": "/etc/hosts", "readOnly": True})

    def variables(self, workload: Workload, container: dict) -> list[dict]:
        """All variables with their values. For podman 4.3 a variable of `envFrom` wins over one of `env`, and it cannot
        take one from a Secret that it has from YAML (containers/podman#16269). Every Pod listens on its own address, and
        believes those who forward from the loopback network."""
        variables = {}
        for source in container.pop("envFrom", []):
            for name, value in self.config[source["configMapRef"]["name"]].items():
                value = value.replace("0.0.0.0", workload.address)
                variables[name] = {"name": name, "value": LOOPBACK if name == "TRUSTED_PROXIES" else value}
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                variable = {"name": variable["name"], "value": self.secrets[reference["name"]][reference["key"]]}
            variables[variable["name"]] = variable
        return list(variables.values())

    def volume(self, workload: Workload, volume: dict) -> dict:
        """A volume under a name of its own. Of a Secret or ConfigMap podman mounts every key, whatever `items` says, so
        the Pod gets one that has these keys only."""
        name = self.own(workload, volume["name"])
        if "emptyDir" in volume:
            return {"name": name, "emptyDir": {}}
        if "secret" in volume:
            chosen = items(self.secrets[volume["secret"]["secretName"]], volume["secret"])
            return {"name": name, "hostPath": {"path": str(self.files(workload, name, chosen)), "type": "Directory"}}
        if "configMap" in volume:
            chosen = items(self.config[volume["configMap"]["name"]], volume["configMap"])
            workload.objects.append(config_map(name, chosen))
            return {"name": name, "configMap": {"name": name}}
        raise Failed(f"{workload.name}: the volume {volume['name']} is of a kind that this script does not know")

    def files(self, workload: Workload, name: str, values: dict[str, str]) -> Path:
        """A folder that only the Pod's user can read: podman 4.3 would mount the values of a Secret as base64, and ends
        in a nil pointer where `optional` is missing."""
        user = workload.spec["template"]["spec"]["securityContext"]["runAsUser"]
        folder = self.hosts.parent / name
        folder.mkdir(mode=0o700, exist_ok=True)
        for key, value in values.items():
            (folder / key).write_text(value)
            (folder / key).chmod(0o400)
        for path in (*folder.iterdir(), folder):
            os.chown(path, user, user)
        return folder


def items(values: dict[str, str], source: dict) -> dict[str, str]:
    if "items" not in source:
        return dict(values)
    return {item["path"]: values[item["key"]] for item in source["items"]}


def config_map(name: str, values: dict[str, str]) -> dict:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": values}


def secret(name: str, values: dict[str, str]) -> dict:
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": name},
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}}


# --- What the engines and the gateway need on top ---------------------------------------------------------------

def use_secantus(workload: Workload) -> None:
    """There is no mongod here. The server that `make run` falls back to takes its place, with the same certificate,
    authorization and data folder; mongod.conf and the init containers are not tried."""
    pod = workload.spec["template"]["spec"]
    pod.pop("initContainers", None)
    container = workload.container
    container["command"] = [
        "secantusd-rs", "--config", "/secantus.toml", "--host", workload.address, "--port", "27017", "--auth",
        "--storage-path", "/data/db", "--sync-on-commit", "--oplog-max-entries", "5000000", "--cache-size", "256M",
        "--log-file-max", "16MB", "--tls-cert-file", "/etc/mongodb-tls/tls.crt", "--tls-key-file", "/etc/mongodb-tls/tls.key"]


def bind_nats(workload: Workload) -> None:
    """The server listens on the Pod's address instead of on all."""
    workload.container["command"] += ["--addr", workload.address]


def bind_traefik(workload: Workload, objects: list[dict]) -> None:
    """The entry points listen on the Pod's address instead of on all, and the API is at an address of ours."""
    for item in of_kind(objects, "ConfigMap"):
        if text := item["data"].get("traefik.yml"):
            item["data"]["traefik.yml"] = text.replace('address: ":', f'address: "{workload.address}:')
    pod = workload.spec["template"]["spec"]
    pod["volumes"].append({"name": "service-account", "secret": {"secretName": "service-account"}})
    workload.container["volumeMounts"].append(
        {"name": "service-account", "mountPath": SERVICE_ACCOUNT, "readOnly": True})
    workload.container.setdefault("env", []).extend([
        {"name": "KUBERNETES_SERVICE_HOST", "value": API_ADDRESS}, {"name": "KUBERNETES_SERVICE_PORT", "value": str(API_PORT)}])
