#!/usr/bin/env python3
"""Checks the rules of Prometheus, their tests and their runbooks: by themselves, by promtool, and against each other.

promtool calls a test that expects no alert of a misspelt name a success, a rule about a metric that nobody has valid,
and knows no runbooks: that is found here. `--write` writes what is made of the rules into the runbooks. Before it
reads the repository, it tries every check on a small one with one fault in it, which the check must find.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from check_manifests import KUBERNETES_VALIDATE_VERSION, PARSE, ask  # noqa: E402
from engines import from_wheel, promtool  # noqa: E402
from measured import (  # noqa: E402
    GATEWAY, METRICS, OF_THE_GATEWAY, ROUTES, SERVICES, Labels, asked, documented, never, series)
from supervisor import Supervisor, note, supervised  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RULES = "manifests/components/monitoring/rules"
RUNBOOKS = "docs/runbooks"
INDEX = f"{RUNBOOKS}/README.md"
NAMESPACE = "microblog"
SECTIONS = ("## Look", "## Act", "## Over", "## The rule")

COMMANDS = ("kubectl ", "curl ", "command-service ", "query-service ", "db.")


@dataclass
class Repository:
    """What is checked: rules, tests and runbooks as they are written, and what there is to measure."""
    rules: dict[str, dict] = field(default_factory=dict)
    tests: dict[str, dict] = field(default_factory=dict)
    runbooks: dict[str, str] = field(default_factory=dict)
    metrics: str = ""
    routes: str = ""
    workloads: set[str] = field(default_factory=set)
    scaled: set[str] = field(default_factory=set)  # of these, what an autoscaler has
    sources: str = ""

    def all_rules(self) -> Iterator[tuple[str, dict]]:
        for name, file in self.rules.items():
            for group in file["groups"]:
                for rule in group["rules"]:
                    yield name, rule

    def alerts(self) -> Iterator[tuple[str, dict]]:
        return ((name, rule) for name, rule in self.all_rules() if "alert" in rule)

    def alert_names(self) -> list[str]:
        return sorted({rule["alert"] for _, rule in self.alerts()})

    def checks(self) -> Iterator[tuple[str, dict]]:
        """Each time that a test looks at an alert."""
        for name, file in self.tests.items():
            for group in file["tests"]:
                for look in group.get("alert_rule_test", ()):
                    yield name, look


def main(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    blind = [name for name, check, fault, says in controls() if not any(says in found for found in check(fault))]
    for name in blind:
        note(f"error: scripts/check_rules.py: the check “{name}” does not find the fault that it is tried with")
    python = from_wheel(supervisor, "kubernetes-validate", KUBERNETES_VALIDATE_VERSION, "python3")
    repository = read(python)
    if arguments.write:
        write(repository)
    problems = [problem for check in CHECKS for problem in check(repository)]
    if program := promtool(supervisor):
        problems += promtool_finds(program, repository)
    elif os.environ.get("MICROBLOG_CI"):
        problems.append("continuous integration checks the rules with promtool, which cannot be had here: see above")
    for problem in problems:
        note(f"error: {problem}")
    if not problems and not blind:
        alerts = repository.alert_names()
        print(f"{sum(1 for _ in repository.all_rules())} rules, {len(alerts)} alerts: each fires and is silent in a "
              f"test{'' if program else ' (which was not run: no promtool)'}, and has its runbook")
    return 1 if problems or blind else 0


def read(python: Path) -> Repository:
    rules = sorted((ROOT / RULES).glob("*.yml"))
    tests = sorted((ROOT / RULES / "tests").glob("*.yml"))
    texts = json.dumps([path.read_text() for path in (*rules, *tests)])
    parsed = [documents[0] for documents in json.loads(ask([python, "-c", PARSE], texts))]
    return Repository(
        rules={path.name: file for path, file in zip(rules, parsed)},
        tests={path.name: file for path, file in zip(tests, parsed[len(rules):])},
        runbooks={path.name: path.read_text() for path in sorted((ROOT / RUNBOOKS).glob("*.md"))},
        metrics=METRICS.read_text(), routes=ROUTES.read_text(),
        workloads={name for path in (ROOT / "manifests").rglob("*.yaml")
                   for name in re.findall(r"app\.kubernetes\.io/name: ([\w-]+)", path.read_text())},
        scaled={name for path in (ROOT / "manifests").rglob("*.yaml")
                for name in re.findall(r"scaleTargetRef:\n.*\n *kind: \w+\n *name: ([\w-]+)", path.read_text())},
        sources="\n".join(path.read_text() for folder in ("command-service/src", "query-service/src", "shared/src",
                                                         "manifests/components")
                          for path in (ROOT / folder).rglob("*") if path.suffix in (".rs", ".conf", ".yaml")))


# --- the checks: each yields what is wrong ----------------------------------------------------------------------

def tested(repository: Repository) -> Iterator[str]:
    """Each alert fires in one test and is silent in another; each rule of it, by the labels that it sets."""
    names = set(repository.alert_names())
    fires, silent = [], set()
    for test, look in repository.checks():
        name = look["alertname"]
        if name not in names:
            yield f"{RULES}/tests/{test}: there is no alert {name}"
        expected = look.get("exp_alerts") or []
        fires += [(name, alert.get("exp_labels", {})) for alert in expected]
        if not expected:
            silent.add(name)
    for file, rule in repository.alerts():
        labels = rule.get("labels", {}).items()
        if not any(name == rule["alert"] and labels <= seen.items() for name, seen in fires):
            yield f"{RULES}/{file}: {rule['alert']} with {dict(labels)} fires in no test"
    yield from (f"{RULES}: {name} is silent in no test" for name in sorted(names - silent))
    loaded = {path for file in repository.tests.values() for path in file["rule_files"]}
    yield from (f"{RULES}/{name}: no test loads it" for name in repository.rules if f"../{name}" not in loaded)


def written(repository: Repository) -> Iterator[str]:
    """Names, labels and annotations are as operators rely on them."""
    for file, rule in repository.all_rules():
        if "record" in rule:
            if not re.fullmatch(r"microblog:[a-z_]+:[a-z0-9_]+", rule["record"]):
                yield f"{RULES}/{file}: {rule['record']} is not named microblog:what:how"
            continue
        name, labels, notes = rule["alert"], rule.get("labels", {}), rule.get("annotations", {})
        where = f"{RULES}/{file}: {name}"
        if labels.get("severity") not in ("page", "ticket"):
            yield f"{where} has no severity of page or ticket"
        for key in ("summary", "description"):
            if not notes.get(key):
                yield f"{where} has no {key}"
        if notes.get("runbook") != f"{RUNBOOKS}/{name}.md":
            yield f"{where} does not name {RUNBOOKS}/{name}.md as its runbook"
        for used in re.findall(r"\$labels\.(\w+)", " ".join(notes.values())):
            if used in labels:
                yield f"{where}: $labels has no {used}, which the rule itself sets: its text would have a hole"


def measured(repository: Repository) -> Iterator[str]:
    """What rules and runbooks ask for is measured, with these labels and values."""
    known = known_metrics(repository)
    for where, expression in expressions(repository):
        found = asked(expression)
        everywhere = {label for labels in known.values() for label in labels} | {"le"}
        yield from (f"{where}: no metric has the label {label}" for label in sorted(found.grouped - everywhere))
        for name, matchers in found.selectors:
            if name not in known:
                yield f"{where}: nothing measures {name}"
                continue
            if not name.startswith(("microblog:", "ALERTS")) and not any(label == "job" for label, _, _ in matchers):
                yield f"{where}: {name} without a job may be another program's"
            for matcher in matchers:
                yield from matched(where, name, known[name], *matcher)


def matched(where: str, name: str, labels: Labels, label: str, how: str, value: str) -> Iterator[str]:
    """Prometheus 3 writes the bound 1 of a bucket as 1.0, so that no rule may match it."""
    if label == "le":
        if re.fullmatch(r"\d+(\.0)?", value):
            yield f"{where}: {name} with le {value}: Prometheus 2 calls it 1, Prometheus 3 1.0"
    elif label not in labels:
        yield f"{where}: {name} has no label {label}"
    else:
        for each in never(labels, label, how, value):
            yield f"{where}: the label {label} of {name} is never {each}"


def explained(repository: Repository) -> Iterator[str]:
    """Each alert has its runbook, each runbook its alert, and what is made of the rules is up to date."""
    names = set(repository.alert_names())
    pages = {name.removesuffix(".md"): text for name, text in repository.runbooks.items() if name != "README.md"}
    yield from (f"{RUNBOOKS}/{name}.md is missing" for name in sorted(names - set(pages)))
    yield from (f"{RUNBOOKS}/{name}.md: there is no alert {name}" for name in sorted(set(pages) - names))
    for name in sorted(names & set(pages)):
        where, text = f"{RUNBOOKS}/{name}.md", pages[name]
        if not text.startswith(f"# {name}\n\n"):
            yield f"{where} does not begin with its name"
        headings = re.findall(r"^## .*$", text, re.MULTILINE)
        if headings != list(SECTIONS):
            yield f"{where} has {headings} and not {list(SECTIONS)}"
        elif with_rule(text, name, repository) != text:
            yield f"{where} does not say the rule as it is: python3 scripts/check_rules.py --write"
        if "../operations.md" not in text:
            yield f"{where} has no link to operations.md"
    if with_index(repository.runbooks.get("README.md", ""), repository) != repository.runbooks.get("README.md"):
        yield f"{INDEX} does not list the alerts as they are: python3 scripts/check_rules.py --write"


def named(repository: Repository) -> Iterator[str]:
    """What the runbooks' commands name is in the manifests."""
    for name, text in repository.runbooks.items():
        words = re.findall(r"\b(?:deployment|statefulset|service)/([\w-]+)|"
                           r"app\.kubernetes\.io/name(?:=| in )(\([^)]*\)|[\w-]+)", text)
        for word in sorted({each for pair in words for part in pair for each in re.findall(r"[\w-]+", part)}):
            if word not in repository.workloads:
                yield f"{RUNBOOKS}/{name}: the manifests have no {word}"


def commands(repository: Repository) -> Iterator[str]:
    """Each command of kubectl can be typed as it stands, shows what it is meant to, and undoes nothing."""
    for name, text in repository.runbooks.items():
        where = f"{RUNBOOKS}/{name}"
        for block, span in re.findall(r"^ *(kubectl .*)$|`(kubectl [^`\n]*)`", text, re.MULTILINE):
            command = re.split(r" [|&]", block or span)[0]
            verb = command.split()[1] if " " in command else ""
            if f"--namespace {NAMESPACE}" not in command and " " in command.removeprefix("kubectl "):
                yield f"{where}: no namespace in “{command}”"
            if verb == "logs" and re.search(r"\b(?:deployment|statefulset)/", command):
                yield f"{where}: one pod of several, whichever it is, in “{command}”: select all, with --prefix"
            if verb == "logs" and "--selector" in command and not ("--tail=" in command and "--prefix" in command):
                yield f"{where}: ten lines of each pod, and not whose, in “{command}”: --prefix --tail=-1"
            if verb == "scale" and (found := re.search(r"\bdeployment/([\w-]+)", command)):
                if found[1] in repository.scaled and "where there is none" not in text.split(command)[0][-60:].lower():
                    yield f"{where}: an autoscaler undoes “{command}”"


def said(repository: Repository) -> Iterator[str]:
    """What the runbooks quote of the log or of a configuration, some source says; … stands for what differs."""
    for name, text in repository.runbooks.items():
        prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
        for span in re.findall(r"`([^`\n]+)`", prose):
            is_quoted = ": " in span or span.count(" ") > 2
            if is_quoted and not span.startswith(COMMANDS):
                if any(part.strip() not in repository.sources for part in span.split("…")):
                    yield f"{RUNBOOKS}/{name}: no source says “{span}”"


def together(repository: Repository) -> Iterator[str]:
    """What a rule reads of other rules is recorded in its own group: groups are evaluated at the same time, in no
    order, and promtool's tests succeed or fail with that order."""
    groups = [(file, group) for file, content in repository.rules.items() for group in content["groups"]]
    recorded = [{rule["record"] for rule in group["rules"] if "record" in rule} for _, group in groups]
    everywhere = set().union(*recorded)
    for (file, group), own in zip(groups, recorded):
        for rule in group["rules"]:
            names = {name for name, _ in asked(rule["expr"]).selectors}
            for name in sorted(names & (everywhere - own)):
                yield f"{RULES}/{file}: {rule.get('alert') or rule.get('record')} reads {name} of another group"


CHECKS = (tested, written, measured, together, explained, named, commands, said)


# --- what is made of the rules ----------------------------------------------------------------------------------

def with_rule(text: str, name: str, repository: Repository) -> str:
    """The runbook, with its last section as the rules are now."""
    parts = []
    for file, rule in repository.alerts():
        if rule["alert"] == name:
            after = f"after {rule['for']}" if "for" in rule else "at once"
            parts.append(f"`{RULES}/{file}`, {rule['labels']['severity']}, {after}:\n"
                         f"```promql\n{rule['expr'].strip()}\n```\n")
    return text.split("## The rule\n")[0] + "## The rule\n" + "".join(parts)


def with_index(text: str, repository: Repository) -> str:
    """The list of runbooks, with its last section as they are now."""
    rows = []
    for name in repository.alert_names():
        severity = next(rule["labels"]["severity"] for _, rule in repository.alerts() if rule["alert"] == name)
        rows.append((severity, name, first_sentence(repository.runbooks.get(f"{name}.md", ""))))
    table = "".join(f"| [{name}]({name}.md) | {severity} | {sentence} |\n" for severity, name, sentence in sorted(rows))
    head = text.split("## Alerts\n")[0]
    return f"{head}## Alerts\n| alert | severity | what it means for users |\n|---|---|---|\n{table}"


def first_sentence(text: str) -> str:
    paragraph = text.partition("\n\n")[2].partition("\n")[0]
    return re.split(r"(?<=\.)\s", paragraph)[0]


def write(repository: Repository) -> None:
    for name in repository.alert_names():
        if f"{name}.md" in repository.runbooks:
            repository.runbooks[f"{name}.md"] = with_rule(repository.runbooks[f"{name}.md"], name, repository)
    repository.runbooks["README.md"] = with_index(repository.runbooks.get("README.md", ""), repository)
    for name, text in repository.runbooks.items():
        (ROOT / RUNBOOKS / name).write_text(text)


# --- reading ----------------------------------------------------------------------------------------------------

def known_metrics(repository: Repository) -> dict[str, Labels]:
    """Every metric with its labels and their values, None where any may be; of docs/metrics.md, and our recordings."""
    # No role, which targets have on Kubernetes alone: rules must do without it. `build_info` says its own.
    target = {"job": list(SERVICES), "instance": None}
    known = {"up": {**target, "job": [*SERVICES, GATEWAY]},
             "ALERTS": {"alertname": repository.alert_names(), "alertstate": None}, **OF_THE_GATEWAY,
             **{name: {**target, **labels}
                for name, labels in series(documented(repository.metrics, repository.routes)).items()}}
    every = {label: None for labels in known.values() for label in labels}
    known.update({rule["record"]: every for _, rule in repository.all_rules() if "record" in rule})
    return known


def expressions(repository: Repository) -> Iterator[tuple[str, str]]:
    """Those of rules and those of runbooks, with where they stand."""
    for file, rule in repository.all_rules():
        yield f"{RULES}/{file}: {rule.get('alert') or rule.get('record')}", rule["expr"]
    yield from runbook_expressions(repository)


def runbook_expressions(repository: Repository) -> Iterator[tuple[str, str]]:
    for name, text in repository.runbooks.items():
        for block in re.findall(r"^```promql\n(.*?)^```", text.split("## The rule\n")[0], re.MULTILINE | re.DOTALL):
            yield from ((f"{RUNBOOKS}/{name}", expression) for expression in re.split(r"\n(?=\S)", block.strip()))


# --- promtool ---------------------------------------------------------------------------------------------------

def promtool_finds(program: Path, repository: Repository) -> list[str]:
    rules = [f"{RULES}/{name}" for name in repository.rules]
    with tempfile.TemporaryDirectory(prefix="microblog-rules-") as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        questions = Path(folder) / "runbooks.yml"
        # JSON is YAML. promtool parses an expression only in a rule.
        questions.write_text(json.dumps({"groups": [{"name": "runbooks", "rules": [
            {"record": f"asked:{number}", "expr": expression, "labels": {"where": where}}
            for number, (where, expression) in enumerate(runbook_expressions(repository))]}]}))
        commands = [["check", "rules", "--lint-fatal", *rules], ["check", "rules", str(questions)],
                    # Each by itself: they run beside each other.
                    *(["test", "rules", f"{RULES}/tests/{name}"] for name in repository.tests)]
        return [problem for found in pool.map(lambda each: complaints(program, each), commands) for problem in found]


def complaints(program: Path, command: list[str]) -> list[str]:
    ran = subprocess.run([program, *command], cwd=ROOT, capture_output=True, text=True)
    return [f"promtool {' '.join(command)}:\n{ran.stdout}{ran.stderr}"] if ran.returncode else []


# --- negative controls: a check that has never failed proves nothing ----------------------------------------------

def controls() -> Iterator[tuple[str, object, Repository, str]]:
    """A name, a check, a repository with one fault, and what the check must say."""
    metrics = ("| `a_total` | counter, things | `kind`: x, y | Things. |\n"
               "| `h_seconds` | histogram, seconds | `route`: patterns of the routes, unmatched | How long. |\n")
    notes = {"summary": "s", "description": "d", "runbook": f"{RUNBOOKS}/A.md"}
    expr = 'a_total{job="query-service", kind="x"} > 1'
    look = {"alertname": "A", "exp_alerts": [{"exp_labels": {"severity": "page"}}]}

    def of(rule: dict | None = None, looks: tuple = (), tests_of: str = "../a.yml", **others) -> Repository:
        alert = {"alert": "A", "expr": expr, "labels": {"severity": "page"}, "annotations": notes, **(rule or {})}
        return Repository(rules={"a.yml": {"groups": [{"rules": [alert]}]}},
                          tests={"t.yml": {"rule_files": [tests_of], "tests": [{"alert_rule_test": list(looks)}]}},
                          **{"metrics": metrics, "routes": '"/api/v1/posts"', **others})

    yield "misspelt alert", tested, of(looks=(look, {"alertname": "AA", "exp_alerts": []})), "no alert AA"
    yield "never fires", tested, of(looks=({"alertname": "A", "exp_alerts": []},)), "fires in no test"
    other = {"alertname": "A", "exp_alerts": [{"exp_labels": {"severity": "ticket"}}]}
    yield "another rule of the alert fires", tested, of(looks=(other,)), "fires in no test"
    yield "never silent", tested, of(looks=(look,)), "A is silent in no test"
    yield "not loaded", tested, of(looks=(look,), tests_of="../b.yml"), "no test loads it"
    yield "severity", written, of({"labels": {"severity": "high"}}), "no severity"
    yield "description", written, of({"annotations": {**notes, "description": ""}}), "has no description"
    yield "runbook", written, of({"annotations": {**notes, "runbook": "elsewhere"}}), "does not name"
    hole = {"labels": {"severity": "page", "window": "1h"},
            "annotations": {**notes, "summary": "in {{ $labels.window }}"}}
    yield "hole", written, of(hole), "$labels has no window"
    recorded = Repository(rules={"a.yml": {"groups": [{"rules": [{"record": "Mine", "expr": "1"}]}]}})
    apart = Repository(rules={"a.yml": {"groups": [{"rules": [{"record": "microblog:a:b", "expr": "1"}]},
                                                   {"rules": [{"alert": "A", "expr": "microblog:a:b > 1"}]}]}})
    yield "another group", together, apart, "of another group"
    yield "name of a recording", written, recorded, "not named"
    for name, bad, says in (
            ("metric", 'b_total{job="query-service"} > 1', "nothing measures b_total"),
            ("metric in a call", 'sum by (kind) (rate(b_total{job="query-service"}[5m]))', "nothing measures b_total"),
            ("histogram without a suffix", 'h_seconds{job="query-service"}', "nothing measures h_seconds"),
            ("job", "a_total > 1", "without a job"),
            ("value of job", 'a_total{job="query"}', "the label job of a_total is never query"),
            ("label", 'a_total{job="query-service", sort="x"}', "no label sort"),
            ("grouping", 'sum by (sort) (a_total{job="query-service"})', "no metric has the label sort"),
            ("value", 'a_total{job="query-service", kind="z"}', "is never z"),
            ("value of several", 'a_total{job="query-service", kind=~"x|z"}', "is never z"),
            ("route", 'h_seconds_count{job="query-service", route="/api/v1/{gone}"}', "is never"),
            ("bucket", 'h_seconds_bucket{job="query-service", le="1"}', "Prometheus 3")):
        yield name, measured, of({"expr": bad}), says
    page = "# A\n\nNobody reads. Really.\n\n## Look\n## Act\n[operations](../operations.md)\n## Over\n## The rule\n"
    yield "no runbook", explained, of(), "A.md is missing"
    yield "no alert", explained, of(runbooks={"B.md": page}), "no alert B"
    yield "sections", explained, of(runbooks={"A.md": page.replace("## Over", "")}), "and not"
    yield "old rule", explained, of(runbooks={"A.md": page}), "does not say the rule as it is"
    yield "index", explained, of(runbooks={"A.md": page, "README.md": "## Alerts\n"}), "does not list"
    asked = page.replace("## Act", '```promql\na_total{job="query-service"}\nb_total{job="query-service"}\n```\n## Act')
    command = page.replace("## Act", "kubectl get pods --selector app.kubernetes.io/name=gone\n## Act")
    yield "command of a runbook", named, of(runbooks={"A.md": command}, workloads={"here"}), "no gone"
    for name, line, says in (
            ("namespace", "`kubectl logs mongodb-0`", "no namespace"),
            ("namespace of a block", "```console\nkubectl get pods | grep x\n```", "no namespace"),
            ("log of a deployment", "`kubectl logs --namespace microblog deployment/here`", "one pod of several"),
            ("ten lines", "`kubectl logs --namespace microblog --selector a=b --prefix`", "ten lines"),
            ("autoscaler", "`kubectl scale --namespace microblog deployment/here --replicas=6`", "undoes")):
        yield name, commands, of(runbooks={"A.md": page.replace("## Act", f"{line}\n## Act")}, scaled={"here"}), says
    quoted = page.replace("## Act", "It says `partition … is gone`.\n## Act")
    yield "quoted line of a log", said, of(runbooks={"A.md": quoted}, sources="partition {} is here"), "is gone"
    yield "question of a runbook", measured, of(runbooks={"A.md": asked}), "A.md: nothing measures b_total"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="checks the rules of Prometheus, their tests and their runbooks")
    parser.add_argument("--write", action="store_true", help="write the rules into the runbooks, and the list of them")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    sys.exit(supervised(lambda supervisor: main(supervisor, given)))
