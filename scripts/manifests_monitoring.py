"""The checks of rendered manifests that are about monitoring, by Prometheus' and Alertmanager's own programs.

Debian's Prometheus 2.42.0 is built without discovery by Kubernetes: `promtool check config` calls the field unknown. (That
of 3.5.3 has it.) So the pods are given to it as a list, with the labels that the discovery would give them; relabelling is its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from manifests_network import ROLES, SCRAPED
from manifests_tree import Pods, Tree, name_of

DISCOVERY = [{"role": "pod", "namespaces": {"names": ["microblog"]}}]
ACCESS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
RULES = "/etc/prometheus-rules"
# promtool looks for targets until then, even where all are listed.
LOOK_SECONDS = 1


def faults(tree: Tree, promtool: Path | None, amtool: Path | None, read: Callable[[str], dict]) -> list[str]:
    """What is wrong with the configurations; a program that is not there finds nothing. `read` parses YAML."""
    files = {name: text for each in tree.of("ConfigMap") for name, text in each["data"].items()}
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="microblog-monitoring-") as name:
        folder = Path(name)
        if promtool and "prometheus.yml" in files:
            (folder / "rules").mkdir()
            for each in tree.of("ConfigMap"):
                if each["metadata"]["name"].startswith("prometheus-rules-"):
                    for file, text in each["data"].items():
                        (folder / "rules" / file).write_text(text)
            problems += of_prometheus(tree, promtool, read(files["prometheus.yml"]), folder)
        if amtool and "alertmanager.yml" in files:
            (folder / "alertmanager.yml").write_text(files["alertmanager.yml"])
            problems += run([amtool, "check-config", folder / "alertmanager.yml"])[1] or routes(amtool, folder)
    return [f"{tree.name}: {problem}" for problem in problems]


def of_prometheus(tree: Tree, promtool: Path, config: dict, folder: Path) -> list[str]:
    problems = []
    listed = [target for pods in tree.pods() for target in discovered(pods)]
    for job in config["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None) != DISCOVERY:
            problems.append(f"the job {job['job_name']} does not discover {json.dumps(DISCOVERY)}")
        job["static_configs"] = listed
    if ACCESS not in (tree.find("Role", "prometheus") or {"rules": []})["rules"]:
        problems.append(f"the Role prometheus does not allow {json.dumps(ACCESS)}")
    config["rule_files"] = [file.replace(RULES, f"{folder}/rules") for file in config["rule_files"]]
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(config))  # JSON is YAML
    output, wrong = run([promtool, "check", "config", path])
    if not re.search(r"[1-9]\d* rules found", output):
        problems.append(f"Prometheus finds no rules in {RULES}")
    return problems + (wrong or targets(tree, promtool, path, [job["job_name"] for job in config["scrape_configs"]]))


def routes(amtool: Path, folder: Path) -> list[str]:
    """Each severity goes to the receiver of its name."""
    return [problem for severity in ("page", "ticket") for problem in run([
        amtool, "config", "routes", "test", f"--config.file={folder}/alertmanager.yml",
        f"--verify.receivers={severity}", f"severity={severity}"])[1]]


def discovered(pods: Pods) -> list[dict]:
    """A target for each port, as Kubernetes' discovery has it: one pod that runs, and one that has ended."""
    name = pods.owner["metadata"]["name"]
    return [{"targets": [f"{name}.{phase}:{number}"], "labels": {
        "__meta_kubernetes_namespace": "microblog", "__meta_kubernetes_pod_name": f"{name}-0",
        "__meta_kubernetes_pod_phase": phase, "__meta_kubernetes_pod_container_port_name": port,
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": name_of(pods)}}
        for phase in ("Running", "Failed") for port, number in pods.ports().items()]


def targets(tree: Tree, promtool: Path, config: Path, jobs: list[str]) -> list[str]:
    """Each process of ours, and the gateway, is a target of one job, under the names that rules and dashboards know."""
    def of(job: str) -> str:
        return run([promtool, "check", "service-discovery", f"--timeout={LOOK_SECONDS}s", config, job])[0]

    with ThreadPoolExecutor(len(jobs)) as pool:
        found = [each["labels"] for text in pool.map(of, jobs) for each in json.loads(text) if each["labels"]]
    here = sorted((each["__address__"], each["__metrics_path__"], each["job"], each.get("role", ""), each["instance"],
                   each.get("namespace", "")) for each in found)
    wanted = []
    for pods in tree.pods():
        name, (service, _, role) = pods.owner["metadata"]["name"], name_of(pods).partition("-")
        for port, number in pods.ports().items():
            if (name_of(pods), port) in SCRAPED and port == "ops":  # NATS' monitor speaks another language
                job = f"{service}-service" if name_of(pods) in ROLES else name
                wanted.append((f"{name}.Running:{number}", "/metrics", job, role, f"{name}-0", "microblog"))
    return [] if here == sorted(wanted) else [f"Prometheus has the targets {here}, and not {sorted(wanted)}"]


def run(command: list[str | Path]) -> tuple[str, list[str]]:
    """What it has printed, and what is wrong."""
    ran = subprocess.run(command, capture_output=True, text=True)
    said = (ran.stdout + ran.stderr).strip()
    return ran.stdout, [f"{Path(command[0]).name} {command[1]}: {said}"] if ran.returncode else []
