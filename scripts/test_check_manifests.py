#!/usr/bin/env python3
"""One deliberate fault of each kind in the rendered manifests, which scripts/check_manifests.py must find."""

from __future__ import annotations

import copy
import json
import sys
import unittest
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from check_manifests import (MANIFESTS, Tools, faults, invalid, known_of_the_repository,  # noqa: E402
                             monitoring_configuration, nats_configuration, parse, render, unmounted_files,
                             unused_secrets)
from manifests_tree import Object, Tree  # noqa: E402
from supervisor import Supervisor  # noqa: E402

OVERLAYS = ("overlays/minikube", "overlays/ec2", "overlays/minikube-observe")


# --- ways into a tree -------------------------------------------------------------------------------------------

def get(tree: Tree, name: str) -> Object:
    """`Deployment query-api`; a generated name is found by its beginning."""
    kind, _, wanted = name.partition(" ")
    exact = tree.find(kind, wanted)
    return exact or next(each for each in tree.of(kind) if each["metadata"]["name"].startswith(f"{wanted}-"))


def pod(tree: Tree, name: str) -> dict:
    return get(tree, name)["spec"]["template"]["spec"]


def container(tree: Tree, name: str) -> dict:
    return pod(tree, name)["containers"][0]


def variable(tree: Tree, owner: str, name: str) -> dict:
    return next(each for each in container(tree, owner)["env"] if each["name"] == name)


def rule(tree: Tree, route: str) -> dict:
    return get(tree, f"HTTPRoute {route}")["spec"]["rules"][0]


def setting(name: str, value: str | None) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        data = get(tree, "ConfigMap settings")["data"]
        data.pop(name, None)
        if value is not None:
            data[name] = value
    return change


def text(config: str, file: str, old: str, new: str) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        data = get(tree, f"ConfigMap {config}")["data"]
        assert old in data[file], f"{file} has no {old}"
        data[file] = data[file].replace(old, new)
    return change


def put(into: Callable[[Tree], dict], **values) -> Callable[[Tree], None]:
    """Sets keys; None removes one, which must be there."""
    def change(tree: Tree) -> None:
        place = into(tree)
        for key, value in values.items():
            if value is None:
                del place[key]
            else:
                place[key] = value
    return change


def without(name: str) -> Callable[[Tree], None]:
    return lambda tree: tree.objects.remove(get(tree, name))


def another(name: str, called: str | None = None) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        each = copy.deepcopy(get(tree, name))
        each["metadata"]["name"] = called or each["metadata"]["name"]
        tree.objects.append(each)
    return change


def secret(tree: Tree) -> None:
    tree.objects.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "microblog"}})


# --- the faults -------------------------------------------------------------------------------------------------

api, relay, gateway = "Deployment query-api", "Deployment command-relay", "Deployment gateway"
REFERENCES = {
    "a ConfigMap that is not there": (
        put(lambda tree: container(tree, api)["envFrom"][0], configMapRef={"name": "x"}), "no ConfigMap x"),
    "a key that a ConfigMap lacks": (
        put(lambda tree: pod(tree, "StatefulSet nats")["volumes"][0]["configMap"], items=[{"key": "x", "path": "x"}]),
        "has no key x"),
    "a Secret that nobody makes": (
        put(lambda tree: pod(tree, relay)["volumes"][0]["secret"], secretName="x"), "no Secret x"),
    "a key that a Secret lacks": (
        put(lambda tree: variable(tree, api, "MONGODB_URI")["valueFrom"]["secretKeyRef"], key="url"),
        "the Secret mongodb-credentials has no key url"),
    "a Secret in the manifests": (secret, "Secrets are made outside"),
    "a mount without a volume": (
        put(lambda tree: container(tree, relay)["volumeMounts"][0], name="x"), "mounts x, which is no volume"),
    "a volume that nobody mounts": (
        lambda tree: pod(tree, api)["volumes"].append({"name": "x", "emptyDir": {}}), "nobody mounts the volume x"),
    "another namespace": (put(lambda tree: get(tree, api)["metadata"], namespace="default"), "belongs into microblog"),
    "a namespace where none is": (
        put(lambda tree: get(tree, "GatewayClass microblog")["metadata"], namespace="microblog"), "belongs into none"),
    "an object twice": (another(api), "is there twice"),
    "an account that is not there": (put(lambda tree: pod(tree, api), serviceAccountName="x"), "no ServiceAccount x"),
    "a token without a Role": (put(lambda tree: pod(tree, api), automountServiceAccountToken=True), "has a token"),
    "a Role that is not there": (without("Role gateway"), "no Role gateway"),
    "a Service without pods": (
        put(lambda tree: get(tree, "Service query-api")["spec"]["selector"], **{"app.kubernetes.io/name": "x"}),
        "Service query-api selects no pods"),
    "a port that pods lack": (
        put(lambda tree: get(tree, "Service query-api")["spec"]["ports"][0], targetPort="web"), "has no port web"),
    "a Deployment that selects others": (
        put(lambda tree: get(tree, api)["spec"]["selector"]["matchLabels"], **{"app.kubernetes.io/name": "gateway"}),
        "does not select its own pods"),
    "a budget for nothing": (
        put(lambda tree: get(tree, "PodDisruptionBudget nats")["spec"], selector={"matchLabels": {"x": "y"}}),
        "PodDisruptionBudget nats selects no pods"),
    "no budget": (without("PodDisruptionBudget nats"), "StatefulSet nats has no PodDisruptionBudget"),
}
PODS = {
    "a probe at no port": (put(lambda tree: container(tree, api)["livenessProbe"]["httpGet"], port="x"), "no port x"),
    "a probe of a path of others": (
        put(lambda tree: container(tree, api)["readinessProbe"]["httpGet"], path="/healthz"), "does not serve /healthz"),
    "a probe of a path that Traefik lacks": (
        put(lambda tree: container(tree, gateway)["livenessProbe"]["httpGet"], path="/livez"), "does not serve /livez"),
    "a probe at the public port": (
        put(lambda tree: container(tree, api)["livenessProbe"]["httpGet"], port="http"), "is served on the port ops"),
    "no probe": (put(lambda tree: container(tree, relay), startupProbe=None), "startupProbe: there is none"),
    "a setting that the services do not know": (setting("POST_QUOTTA", "1"), "no setting POST_QUOTTA"),
    "a file that is not mounted": (
        put(lambda tree: variable(tree, relay, "JWT_PRIVATE_KEY_FILE"), value="/etc/microblog/jwt/x.pem"),
        "nothing is mounted at /etc/microblog/jwt/x.pem"),
    "a role that there is not": (put(lambda tree: container(tree, api), args=["--role", "relay"]), "does not take"),
    "another port than the setting's": (
        put(lambda tree: container(tree, api)["ports"][0], containerPort=8080), "the port http is 8080"),
    "an address that nobody reaches": (setting("QUERY_ADDR", "127.0.0.1:8082"), "nobody reaches QUERY_ADDR"),
    "keys where there are none": (setting("JWKS_URL", "http://query-api:8082/jwks.json"), "JWKS_URL does not lead"),
    "an image that nobody builds": (put(lambda tree: container(tree, api), image="microblog/query:1"), "no folder"),
    "an image of another version": (
        put(lambda tree: container(tree, api), image="microblog/query-service:9.9.9"), "has the tag 9.9.9"),
    "an image without a version": (put(lambda tree: container(tree, gateway), image="traefik"), "has no version"),
    "too little time to stop": (
        put(lambda tree: pod(tree, api), terminationGracePeriodSeconds=20), "terminationGracePeriodSeconds is 20"),
    "too little time for NATS": (
        put(lambda tree: pod(tree, "StatefulSet nats"), terminationGracePeriodSeconds=35), "is 35"),
    "too little time for the gateway": (put(lambda tree: pod(tree, gateway), terminationGracePeriodSeconds=25), "is 25"),
    "another user than the image's": (
        put(lambda tree: pod(tree, api)["securityContext"], runAsUser=1000), "is made for the user 65532"),
    "root": (put(lambda tree: pod(tree, api)["securityContext"], runAsNonRoot=None), "may run as root"),
    "a root file system that may be written": (
        put(lambda tree: container(tree, "StatefulSet mongodb")["securityContext"], readOnlyRootFilesystem=False),
        "may write its root file system"),
    "more rights": (
        put(lambda tree: container(tree, gateway)["securityContext"], allowPrivilegeEscalation=True), "more rights"),
    "no profile": (put(lambda tree: pod(tree, api)["securityContext"], seccompProfile=None), "no seccomp profile"),
    "the node's network": (put(lambda tree: pod(tree, api), hostNetwork=True), "has hostNetwork"),
    "no bound of memory": (put(lambda tree: container(tree, api)["resources"], limits=None), "no limit of memory"),
}
RIGHTS = {
    "a container that is root": (
        lambda tree: container(tree, api)["securityContext"].update(runAsUser=0), "has its own runAsUser"),
    "a container with all rights": (
        lambda tree: container(tree, api)["securityContext"].update(privileged=True), "has its own privileged"),
    "a container without a profile": (
        lambda tree: container(tree, api)["securityContext"].update(seccompProfile={"type": "Unconfined"}),
        "has its own seccompProfile"),
    "one right more": (
        lambda tree: container(tree, api)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]), "more rights"),
    "a folder of the node": (
        lambda tree: pod(tree, api)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "of the kind hostPath"),
    "a port of the node": (
        lambda tree: container(tree, api)["ports"][0].update(hostPort=80), "takes a port of the node"),
    "a kind that nobody looks at": (
        put(lambda tree: get(tree, api), kind="DaemonSet"), "does not know the kind"),
    "a Role of another namespace's account": (
        put(lambda tree: get(tree, "RoleBinding gateway")["subjects"][0], namespace="default"), "no ServiceAccount gateway"),
    "a password in a setting": (
        setting("PUBLIC_URL", "https://user:secret@example.org"), "what looks like a password"),
    "a key in a setting": (setting("X", "-----BEGIN PRIVATE KEY-----"), "what looks like a password"),
    "an address that is no Secret": (
        lambda tree: variable(tree, api, "NATS_URL").update(value="nats://nats:4222", valueFrom={}),
        "NATS_URL does not come from a Secret"),
    "no address of the database": (
        lambda tree: container(tree, api)["env"].remove(variable(tree, api, "MONGODB_URI")), "MONGODB_URI is not set"),
    "no signing key": (
        lambda tree: container(tree, relay)["env"].remove(variable(tree, relay, "JWT_PRIVATE_KEY_FILE")),
        "JWT_PRIVATE_KEY_FILE is not set"),
    "MongoDB without TLS": (
        text("mongodb-config", "mongod.conf", "mode: requireTLS", "mode: disabled"), "does not say “mode: requireTLS”"),
    "MongoDB without passwords": (
        text("mongodb-config", "mongod.conf", "authorization: enabled", "# authorization: enabled"),
        "does not say “authorization: enabled”"),
    "NATS that loses what it has acknowledged": (
        text("nats-config", "nats.conf", "sync_interval: always", "sync_interval: 2m"), "does not say “sync_interval"),
    "a command of a file that is not there": (
        put(lambda tree: container(tree, "StatefulSet nats"), command=["nats-server", "--config", "/etc/nats/x.conf"]),
        "nothing is mounted at /etc/nats/x.conf"),
    "a probe of a file that is not there": (
        put(lambda tree: container(tree, "StatefulSet nats")["readinessProbe"]["exec"], command=["sh", "/etc/nats/x.sh"]),
        "nothing is mounted at /etc/nats/x.sh"),
    "a number that is none": (setting("STREAM_HEARTBEAT_SECS", "abc"), "STREAM_HEARTBEAT_SECS is abc"),
    "a spread among others": (
        put(lambda tree: pod(tree, api)["topologySpreadConstraints"][0], labelSelector={"matchLabels": {"x": "y"}}),
        "is spread among others"),
    "a spread over nodes that are away": (
        put(lambda tree: pod(tree, api)["topologySpreadConstraints"][0], nodeTaintsPolicy=None), "nodes that are away"),
    "a budget that lets nothing go": (
        put(lambda tree: get(tree, "PodDisruptionBudget nats")["spec"], maxUnavailable=0), "one pod go at a time"),
}
NETWORK = {
    "no Service of an engine": (without("Service nats"), "no Service nats with the port 4222"),
    "members that wait for each other": (
        put(lambda tree: get(tree, "StatefulSet mongodb")["spec"], podManagementPolicy="OrderedReady"), "would wait for"),
    "members that do not find each other": (
        put(lambda tree: get(tree, "Service mongodb")["spec"], publishNotReadyAddresses=None), "would not find each other"),
    "a route without a Middleware": (
        lambda tree: rule(tree, "commands")["filters"].pop(0), "HTTPRoute commands has the Middlewares"),
    "a gateway that shows its settings": (
        text("gateway-config", "traefik.yml", "\nping:\n", "\napi:\n  insecure: true\nping:\n"), "of its own API"),
    "a gateway that is everybody": (setting("TRUSTED_PROXIES", "0.0.0.0/0"), "TRUSTED_PROXIES believes 0.0.0.0/0"),
    "a connection that no policy allows": (without("NetworkPolicy to-mongodb"), "query-api must reach mongodb"),
    "a connection that nobody needs": (
        lambda tree: get(tree, "NetworkPolicy nats")["spec"]["ingress"].append({"from": [{"podSelector": {}}]}),
        "gateway needs nothing of nats"),
    "a policy for everybody": (
        lambda tree: get(tree, "NetworkPolicy from-gateway")["spec"]["ingress"].append({"ports": [{"port": "http"}]}),
        "the port http is open to everybody"),
    "nothing that denies": (without("NetworkPolicy default-deny"), "no policy denies its Ingress"),
    "everything may be reached": (
        lambda tree: get(tree, "NetworkPolicy to-nats")["spec"]["egress"].append({}), "everything may be reached"),
    "another namespace comes in": (
        lambda tree: get(tree, "NetworkPolicy nats")["spec"]["ingress"][0]["from"].append(
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}), "is none of those"),
    "the whole namespace comes in": (
        lambda tree: get(tree, "NetworkPolicy mongodb")["spec"]["ingress"][0]["from"].append(
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "microblog"}}}), "is none of those"),
    "an address comes in": (
        lambda tree: get(tree, "NetworkPolicy mongodb")["spec"]["ingress"][0]["from"].append(
            {"ipBlock": {"cidr": "10.0.0.0/8"}}), "is none of those"),
    "the gateway may reach the world": (
        put(lambda tree: get(tree, "NetworkPolicy gateway")["spec"]["egress"][1]["to"][0], ipBlock={"cidr": "0.0.0.0/0"}),
        "is none of those"),
    "another protocol": (
        put(lambda tree: get(tree, "NetworkPolicy to-nats")["spec"]["egress"][0]["ports"][0], protocol="UDP"),
        "query-api must reach nats"),
    "rules that are not in force": (
        put(lambda tree: get(tree, "NetworkPolicy to-nats")["spec"], policyTypes=["Ingress"]), "has no effect"),
    "no DNS": (without("NetworkPolicy dns"), "cannot ask DNS"),
    "metrics that nobody reads": (without("NetworkPolicy scrape"), "monitoring does not reach the port ops"),
    "a name that no pods have": (
        lambda tree: get(tree, "NetworkPolicy scrape")["spec"]["podSelector"]["matchExpressions"][0]["values"].append("x"),
        "there are no pods x"),
    "a policy at no port": (
        put(lambda tree: get(tree, "NetworkPolicy scrape")["spec"]["ingress"][0]["ports"][0], port="x"), "no port x"),
    "a route to no port": (put(lambda tree: rule(tree, "queries")["backendRefs"][0], port=80), "with the port 80"),
    "a route to no Service": (put(lambda tree: rule(tree, "queries")["backendRefs"][0], name="x"), "no Service x"),
    "a route of no Gateway": (
        put(lambda tree: get(tree, "HTTPRoute queries")["spec"]["parentRefs"][0], name="x"), "no Gateway x"),
    "a route of no listener": (
        put(lambda tree: get(tree, "HTTPRoute queries")["spec"]["parentRefs"][0], sectionName="x"), "no listener x"),
    "a route with no Middleware": (
        put(lambda tree: rule(tree, "queries")["filters"][0]["extensionRef"], name="x"), "no Middleware x"),
    "a route of a path that nobody has": (
        put(lambda tree: rule(tree, "commands")["matches"][0]["path"], value="/jwks.json"), "no service has /jwks.json"),
    "a Middleware that nobody uses": (
        another("Middleware rate", "x"), "Middleware x is used by no route"),
    "an error page of nobody": (
        put(lambda tree: get(tree, "Middleware query-errors")["spec"]["errors"]["service"], port=1), "with the port 1"),
    "an error page that nobody serves": (
        put(lambda tree: get(tree, "Middleware query-errors")["spec"]["errors"], query="/x"), "no service has /x"),
    "commands sent again": (
        put(lambda tree: get(tree, "Middleware again")["spec"]["retry"], status=["500-599"]), "sends again what"),
    "other figures than on a laptop": (
        put(lambda tree: get(tree, "Middleware rate")["spec"]["rateLimit"], average=7), "average is 7"),
    "another setting than on a laptop": (
        text("gateway-config", "traefik.yml", "idleConnTimeout: 20s", "idleConnTimeout: 90s"), "idleConnTimeout is 90s"),
    "a listener at no port": (
        put(lambda tree: get(tree, "Gateway microblog")["spec"]["listeners"][0], port=80), "Traefik has no port 80"),
    "a listener with no certificate": (
        put(lambda tree: get(tree, "Gateway microblog")["spec"]["listeners"][1]["tls"]["certificateRefs"][0], name="x"),
        "no Secret x with a certificate"),
    "an entry point at no port": (
        text("gateway-config", "traefik.yml", '":8443"', '":443"'), "traefik.yml listens at"),
    "more members than pods": (
        put(lambda tree: get(tree, "StatefulSet mongodb")["spec"], replicas=2), "StatefulSet mongodb has 2 pods"),
    "more copies than servers": (setting("STREAM_REPLICAS", "5"), "STREAM_REPLICAS is 5"),
    "a gateway that nobody believes": (setting("TRUSTED_PROXIES", None), "TRUSTED_PROXIES does not name"),
}
ONLY_EC2 = {
    "a backup that does not reach MongoDB": (without("NetworkPolicy mongodb-from-backup"), "backup must reach mongodb"),
    "a backup that reaches what is inside": (
        put(lambda tree: get(tree, "NetworkPolicy backup-to-storage")["spec"]["egress"][0]["to"][0],
            ipBlock={"cidr": "0.0.0.0/0"}), "is none of those who are wanted"),
    "a scaler of nothing": (
        put(lambda tree: get(tree, "HorizontalPodAutoscaler query-api")["spec"]["scaleTargetRef"], name="x"),
        "no Deployment x"),
    "a scaler and a number": (put(lambda tree: get(tree, api)["spec"], replicas=2), "by which each apply undoes"),
    "a Secret that an operator makes without a key": (
        lambda tree: get(tree, "ExternalSecret jwt-key")["spec"]["data"].clear(), "no ExternalSecret makes the key"),
    "a Secret from another place": (
        put(lambda tree: get(tree, "ExternalSecret jwt-key")["spec"]["data"][0]["remoteRef"], property="x"), "comes from"),
    "storage of no class": (without("StorageClass gp3-encrypted"), "no StorageClass gp3-encrypted"),
    "a Secret of no store": (without("SecretStore aws"), "no SecretStore aws"),
    "routes to fewer servers": (
        put(lambda tree: get(tree, "StatefulSet nats")["spec"], replicas=5), "StatefulSet nats has 5 pods"),
}
MONITORING = {
    "metrics that Prometheus does not reach": (
        without("NetworkPolicy scraped-by-prometheus"), "prometheus must reach query-projector at ops"),
    "a Prometheus that does not reach them": (
        without("NetworkPolicy prometheus"), "ingress of prometheus"),
    "a Prometheus that reaches the world": (
        put(lambda tree: get(tree, "NetworkPolicy prometheus")["spec"]["egress"][2]["to"][0], ipBlock={"cidr": "0.0.0.0/0"}),
        "is none of those"),
    "log lines that do not arrive": (without("NetworkPolicy to-loki"), "command-relay must reach loki at loki"),
    "spans that do not arrive": (without("NetworkPolicy jaeger"), "command-api must reach jaeger at otlp"),
    "a Grafana that gets no logs": (without("NetworkPolicy grafana-to-loki"), "grafana must reach loki"),
    "a Grafana that sends spans": (
        lambda tree: get(tree, "NetworkPolicy jaeger")["spec"]["ingress"][1]["ports"].append({"port": "otlp"}),
        "grafana needs nothing of jaeger at otlp"),
    "an API server that Alertmanager asks": (
        put(lambda tree: get(tree, "NetworkPolicy prometheus")["metadata"], name="alertmanager-out"), "is none of those"),
    "a source that there is not": (
        text("grafana-sources", "sources.yml", "//loki.microblog", "//logs.microblog"), "no Service logs with the port 3100"),
    "a source at no port": (
        text("grafana-sources", "sources.yml", ":16686", ":16687"), "no Service jaeger with the port 16687"),
    "an endpoint of nobody": (
        setting("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://jaeger.microblog.svc.cluster.local:4317/v1/traces"),
        "no Service jaeger with the port 4317"),
    "a configuration that is not mounted": (
        put(lambda tree: container(tree, "StatefulSet loki"), args=["-config.file=/etc/loki/local.yml"]),
        "nothing is mounted at /etc/loki/local.yml"),
    "a probe that Grafana does not answer": (
        put(lambda tree: container(tree, "Deployment grafana")["readinessProbe"]["httpGet"], path="/ready"),
        "does not serve /ready"),
    "a password of nobody": (
        put(lambda tree: pod(tree, "Deployment grafana")["volumes"][0]["secret"], secretName="grafana"), "no Secret grafana"),
    "a Prometheus without a Role": (without("RoleBinding prometheus"), "its account prometheus has no Role"),
    "more than an annotation takes": (
        lambda tree: get(tree, "ConfigMap grafana-dashboards")["data"].update(x="x " * 131072), "kubectl apply takes up to"),
}
SCHEMAS = {
    "a field that there is not": (put(lambda tree: container(tree, api), imagePullPolcy="Never"), "imagePullPolcy"),
    "a value of another type": (put(lambda tree: pod(tree, api), terminationGracePeriodSeconds="45"), "'45' is not"),
    "a kind that there is not": (put(lambda tree: get(tree, api), kind="Deploiment"), "no schema"),
    "a custom field that there is not": (
        put(lambda tree: rule(tree, "queries")["matches"][0], methods=["GET"]), "/spec/rules/0/matches/0/methods: no such"),
    "a custom value that there is not": (
        put(lambda tree: rule(tree, "queries")["matches"][0], method="FETCH"), "/spec/rules/0/matches/0/method: enum"),
    "an option that Traefik lacks": (
        put(lambda tree: get(tree, "Middleware again")["spec"]["retry"], tries=3), "/spec/retry/tries: no such field"),
}


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.supervisor = Supervisor()
        cls.tools, cls.known = Tools(cls.supervisor), known_of_the_repository()
        texts = [render(cls.tools, MANIFESTS / path) for path in OVERLAYS]
        cls.trees = [Tree(name, objects) for name, objects in zip(OVERLAYS, parse(cls.tools, texts))]

    @classmethod
    def tearDownClass(cls) -> None:
        cls.supervisor.close()

    def each(self, table: dict, tree: Tree, check: Callable[[Tree], list[str]]) -> None:
        self.assertEqual(check(tree), [])
        whole = json.dumps(tree.objects)  # a faster copy than deepcopy
        for name, (make, told) in table.items():
            with self.subTest(name):
                broken = Tree(tree.name, json.loads(whole))
                make(broken)
                found = check(broken)
                self.assertTrue(any(told in problem for problem in found), f"{told!r} is not in {found}")

    def resolved(self, tree: Tree) -> list[str]:
        return faults(tree, self.known)

    def test_references(self) -> None:
        self.each(REFERENCES, self.trees[0], self.resolved)

    def test_pods(self) -> None:
        self.each(PODS, self.trees[0], self.resolved)

    def test_rights(self) -> None:
        self.each(RIGHTS, self.trees[0], self.resolved)

    def test_network(self) -> None:
        self.each(NETWORK, self.trees[0], self.resolved)

    def test_production(self) -> None:
        self.each(ONLY_EC2, self.trees[1], self.resolved)

    def test_monitoring(self) -> None:
        self.each(MONITORING, self.trees[2], self.resolved)

    def test_schemas(self) -> None:
        """All at once: each look starts two programs."""
        whole = json.dumps(self.trees[0].objects)
        broken = [Tree(name, json.loads(whole)) for name in SCHEMAS]
        for tree in broken:
            SCHEMAS[tree.name][0](tree)
        found = invalid(self.tools, [self.trees[0], *broken])
        self.assertEqual([problem for problem in found if problem.startswith("overlays/")], [])
        for name, (_, told) in SCHEMAS.items():
            with self.subTest(name):
                self.assertTrue(any(problem.startswith(name) and told in problem for problem in found), found)

    def test_configuration_of_nats(self) -> None:
        bad = {"a duration that NATS refuses": (
            text("nats-config", "nats.conf", "lame_duck_duration: 30s", "lame_duck_duration: 20s"), "minimum is 30")}
        self.each(bad, self.trees[0], lambda tree: nats_configuration(self.tools, tree))

    def test_configuration_of_monitoring(self) -> None:
        if not (self.tools.promtool and self.tools.amtool):
            self.skipTest("there is no promtool or no amtool")
        bad = {
            "a discovery that there is not": (
                text("prometheus-config", "prometheus.yml", "role: pod", "role: node"), "does not discover"),
            "a job under another name": (
                text("prometheus-config", "prometheus.yml", "job_name: query-service", "job_name: query"), "has the targets"),
            "a role that no job takes": (
                text("prometheus-config", "prometheus.yml", "(?:api|relay);ops", "(?:api|relays);ops"), "has the targets"),
            "pods that have ended": (
                text("prometheus-config", "prometheus.yml", "Succeeded|Failed", "Succeeded"), "has the targets"),
            "relabelling that there is not": (
                text("prometheus-config", "prometheus.yml", "action: drop", "action: omit"), "unknown relabel action"),
            "rules that are not found": (
                text("prometheus-config", "prometheus.yml", "/etc/prometheus-rules/*.yml", "/etc/rules/*.yml"), "finds no rules"),
            "pods that it may not see": (
                lambda tree: get(tree, "Role prometheus")["rules"].clear(), "the Role prometheus does not allow"),
            "a rule that is none": (text("prometheus-rules", "reach.yml", "absent(up", "absent(up("), "could not parse"),
            "a receiver that there is not": (
                text("alertmanager-config", "alertmanager.yml", "receiver: page", "receiver: pager"), "undefined receiver"),
            "a page that is a ticket": (
                text("alertmanager-config", "alertmanager.yml", "severity = page", "severity = pages"), "Expected receivers"),
        }
        whole = json.dumps(self.trees[2].objects)
        broken = {"": Tree("none", json.loads(whole)), **{name: Tree(name, json.loads(whole)) for name in bad}}
        for name, (make, _) in bad.items():
            make(broken[name])
        # At once: each look waits for a second.
        with ThreadPoolExecutor(len(broken)) as pool:
            found = dict(zip(broken, pool.map(lambda tree: monitoring_configuration(self.tools, tree), broken.values())))
        self.assertEqual(found.pop(""), [])
        for name, problems in found.items():
            with self.subTest(name):
                self.assertIn(bad[name][1], "\n".join(problems))

    def test_files_that_nobody_mounts(self) -> None:
        self.assertEqual(unmounted_files(self.trees), [])
        self.assertIn("no ConfigMap has components/monitoring/dashboards/overview.json",
                      "\n".join(unmounted_files(self.trees[:1])))

    def test_secrets_that_nobody_uses(self) -> None:
        self.assertEqual(unused_secrets(self.trees, self.known), [])
        known = copy.deepcopy(self.known)
        known.secrets["x"] = set()
        self.assertIn("nobody uses x", unused_secrets(self.trees, known)[0])


if __name__ == "__main__":
    unittest.main()
