"""Rendered manifests as one set of objects, and how they find each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

Object = dict

CLUSTER_SCOPED = ("ClusterRole", "ClusterRoleBinding", "GatewayClass", "Namespace", "StorageClass")
# The kinds that make pods, and where their template is.
WORKLOADS = ("Deployment", "StatefulSet", "Job", "CronJob")


class Pods(NamedTuple):
    """The pods that a workload makes."""
    owner: Object
    labels: dict[str, str]
    spec: dict

    def __str__(self) -> str:
        return called(self.owner)

    def containers(self) -> list[dict]:
        return self.spec.get("initContainers", []) + self.spec["containers"]

    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for container in self.containers()
                for port in container.get("ports", [])}

    def is_role(self) -> bool:
        """One of our own services, not an engine, not the gateway, and no command of a service."""
        return "Job" not in self.owner["kind"] and any(our_image(container) for container in self.spec["containers"])


@dataclass
class Tree:
    """What `kubectl kustomize` has printed."""
    name: str
    objects: list[Object]

    def of(self, *kinds: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] in kinds]

    def find(self, kind: str, name: str) -> Object | None:
        return next((each for each in self.of(kind) if each["metadata"]["name"] == name), None)

    def pods(self) -> Iterator[Pods]:
        for owner in self.of(*WORKLOADS):
            spec = owner["spec"]["jobTemplate"]["spec"] if owner["kind"] == "CronJob" else owner["spec"]
            template = spec["template"]
            yield Pods(owner, template["metadata"]["labels"], template["spec"])

    def selected(self, selector: dict) -> list[Pods]:
        """By a label selector of the long form; an empty one selects all."""
        return [pods for pods in self.pods() if matches(selector, pods.labels)]


def name_of(pods: Pods) -> str:
    return pods.labels["app.kubernetes.io/name"]


def our_image(container: dict) -> str | None:
    """`command-service` of `registry/microblog/command-service:1.2.3`."""
    found = re.fullmatch(r"(?:.+/)?microblog/([\w-]+)(?::.+)?", container["image"])
    return found[1] if found else None


def called(each: Object) -> str:
    return f"{each['kind']} {each['metadata']['name']}"


def matches(selector: dict, labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for wanted in selector.get("matchExpressions", []):
        value = labels.get(wanted["key"])
        holds = {"In": value in wanted.get("values", []), "NotIn": value not in wanted.get("values", []),
                 "Exists": value is not None, "DoesNotExist": value is None}[wanted["operator"]]
        if not holds:
            return False
    return True


def environment(tree: Tree, container: dict) -> dict[str, str | None]:
    """The variables of a container with their values; None where a Secret or the pod has the value."""
    variables: dict[str, str | None] = {}
    for source in container.get("envFrom", []):
        found = tree.find("ConfigMap", source.get("configMapRef", {}).get("name", ""))
        variables.update(found.get("data", {}) if found else {})
    for variable in container.get("env", []):
        variables[variable["name"]] = variable.get("value")
    return variables
