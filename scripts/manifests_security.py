"""The checks of rendered manifests that are about rights and secrets. Each yields what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from manifests_references import NAMESPACE, Known
from manifests_tree import Pods, Tree, called, environment

# What the checks know how to look at. Another kind wants a look first.
KINDS = {
    "ClusterRole", "ClusterRoleBinding", "ConfigMap", "CronJob", "Deployment", "ExternalSecret", "Gateway", "GatewayClass",
    "HTTPRoute", "HorizontalPodAutoscaler", "Job", "Middleware", "Namespace", "NetworkPolicy", "PodDisruptionBudget",
    "Role", "RoleBinding", "SecretStore", "Service", "ServiceAccount", "StatefulSet", "StorageClass",
}
VOLUMES = {"configMap", "emptyDir", "secret"}
IN_CLEAR = re.compile(r"://[^/\s:@]+:[^/\s@]+@|PRIVATE KEY")
# What the engines' configurations must say, by their files.
LINES = {
    "mongod.conf": ["mode: requireTLS", "authorization: enabled", "keyFile: /run/mongodb/keyfile",
                    "CAFile: /etc/mongodb-tls/ca.crt", "replSetName: rs0"],
    "nats.conf": ["tls {", 'include "../nats-users/users.conf"', "sync_interval: always", "system_account: SYS"],
}


def kinds(tree: Tree, _known: Known) -> Iterator[str]:
    for each in tree.objects:
        if each["kind"] not in KINDS and each["kind"] != "Secret":
            yield f"{called(each)}: this check does not know the kind"


def no_secrets(tree: Tree, _known: Known) -> Iterator[str]:
    for each in tree.of("Secret"):
        yield f"{called(each)} is in the manifests: Secrets are made outside"


def secrets_in_clear(tree: Tree, _known: Known) -> Iterator[str]:
    """Nothing that looks like one stands anywhere, and addresses with passwords come from Secrets."""
    for each in tree.objects:
        if IN_CLEAR.search(json.dumps(each)):
            yield f"{called(each)} has what looks like a password or a key in clear"
    for pods in filter(Pods.is_role, tree.pods()):
        variables = environment(tree, pods.spec["containers"][0])
        for name in ("MONGODB_URI", "VIEWS_MONGODB_URI", "NATS_URL"):
            if variables.get(name) is not None:
                yield f"{pods}: {name} does not come from a Secret"


def engines(tree: Tree, _known: Known) -> Iterator[str]:
    """Credentials and TLS are on."""
    for each in tree.of("ConfigMap"):
        for file, lines in LINES.items():
            text = each["data"].get(file)
            written = {line.split("#")[0].strip() for line in (text or "").splitlines()}
            for line in lines if text else ():
                if not any(line in here for here in written):
                    yield f"{file} does not say “{line}”"
        cluster = each["data"].get("cluster.conf", "")
        if "routes:" in cluster and "verify: true" not in cluster:
            yield "cluster.conf does not ask servers for a certificate"


def rights(tree: Tree, _known: Known) -> Iterator[str]:
    """What the Pod Security Standard `restricted` wants, a root file system that is read-only, and bounds."""
    for pods in tree.pods():
        context = pods.spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{pods} may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pods} has no seccomp profile"
        for each in ("hostNetwork", "hostPID", "hostIPC"):
            if pods.spec.get(each):
                yield f"{pods} has {each}"
        for volume in pods.spec.get("volumes", []):
            for kind in sorted(set(volume) - {"name"} - VOLUMES):
                yield f"{pods} has a volume of the kind {kind}"
        for container in pods.containers():
            own, where = container.get("securityContext", {}), f"{pods}, container {container['name']}"
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{where} may get more rights"
            # The pod says the rest, and a container nothing else.
            for key in sorted(set(own) - {"allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"}):
                yield f"{where} has its own {key}"
            if any("hostPort" in port for port in container.get("ports", [])):
                yield f"{where} takes a port of the node"
            if not own.get("readOnlyRootFilesystem"):
                yield f"{where} may write its root file system"
            resources = container.get("resources", {})
            if not resources.get("requests", {}).get("cpu") or not resources.get("requests", {}).get("memory"):
                yield f"{where} requests no CPU or no memory"
            if not resources.get("limits", {}).get("memory"):
                yield f"{where} has no limit of memory"


def accounts(tree: Tree, _known: Known) -> Iterator[str]:
    """ServiceAccounts, and no token but for who has a Role."""
    bound = {(subject["kind"], subject["name"]) for binding in tree.of("RoleBinding", "ClusterRoleBinding")
             for subject in binding["subjects"]}
    for pods in tree.pods():
        name = pods.spec.get("serviceAccountName", "default")
        if not tree.find("ServiceAccount", name):
            yield f"{pods}: no ServiceAccount {name}"
        token = pods.spec.get("automountServiceAccountToken", True)
        if token != (("ServiceAccount", name) in bound):
            yield f"{pods} {'has' if token else 'lacks'} a token, and its account {name} has " \
                  f"{'no' if token else 'a'} Role"
    for binding in tree.of("RoleBinding", "ClusterRoleBinding"):
        role = binding["roleRef"]
        if not tree.find(role["kind"], role["name"]):
            yield f"{called(binding)}: no {role['kind']} {role['name']}"
        for subject in binding["subjects"]:
            if subject.get("namespace") != NAMESPACE or not tree.find(subject["kind"], subject["name"]):
                yield f"{called(binding)}: no {subject['kind']} {subject['name']}"


CHECKS = [kinds, no_secrets, secrets_in_clear, engines, rights, accounts]
