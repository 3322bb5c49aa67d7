#!/usr/bin/env python3
"""Checks Grafana's dashboards: that what their expressions name is measured, and that every panel can be read.

Before it reads them, it tries every check on one of them with one fault in it, which the check must find.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from engines import from_npm, promtool, verdict, with_node  # noqa: E402
from measured import METRICS, OF_THE_GATEWAY, ROUTES, Labels, asked, documented, never, series  # noqa: E402
from supervisor import Supervisor, supervised  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
MONITORING = ROOT / "manifests" / "components" / "monitoring"
DASHBOARDS = MONITORING / "dashboards"
# The grammar that Grafana's own editor has of LogQL: Apache-2.0, run and not shipped.
LOGQL_VERSION = "0.4.2"
WIDTH, COLUMNS = 120, 24
# On no dashboard: virtual memory says nothing beside the resident, and has no limit.
NOT_SHOWN = {"process_virtual_memory_bytes", "process_virtual_memory_max_bytes"}
# Those of Prometheus itself and of Traefik, and the labels that Prometheus gives to each target.
OF_OTHERS = {"up": {}, "ALERTS": dict.fromkeys(("alertname", "alertstate", "severity")), **OF_THE_GATEWAY}
TARGET_LABELS = ("job", "instance", "namespace", "role")
# What Grafana puts into an expression, and what stands for it here.
FILLED = {"__rate_interval": "1m", "__range": "1h", "__auto": "1m", "request_id": "x", "trace_id": "x"}
SOURCES = ("prometheus", "loki", "jaeger")

Dashboard = dict


@dataclass
class Known:
    """What the repository says beside the dashboards."""
    metrics: dict[str, Labels]
    documented: set[str]  # of these, the names in docs/metrics.md
    rules: dict[str, Labels]  # recorded, by manifests/components/monitoring/rules/
    runbooks: set[str]
    promtool: Path | None
    logql: Callable[[list[str]], list[str]] = field(default=lambda expressions: [""] * len(expressions))


def main(supervisor: Supervisor) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="format the files, as after an export from Grafana")
    arguments = parser.parse_args()
    texts = {path.stem: path.read_text() for path in sorted(DASHBOARDS.glob("*.json"))}
    if arguments.write:
        for name, text in texts.items():
            (DASHBOARDS / f"{name}.json").write_text(canonical(json.loads(text)))
        return 0
    known = known_of_the_repository(supervisor)
    dashboards = {name: json.loads(text) for name, text in texts.items()}
    problems = [f"{name}.json is not formatted: scripts/check_dashboards.py --write does it"
                for name, text in texts.items() if text != canonical(dashboards[name])]
    problems += [problem for check in CHECKS for problem in check(dashboards, known)]
    problems += list(controls(dashboards, known))
    if not known.promtool and os.environ.get("MICROBLOG_CI"):
        problems.append("there is no promtool, which checks the expressions")
    return verdict(
        problems,
        f"{len(dashboards)} dashboards, {sum(1 for _ in expressions(dashboards))} expressions: "
        "all can be parsed, and what they name is measured")


def canonical(value: object, indent: int = 0) -> str:
    """Sorted; what fits into a line is on one."""
    def lines(each: object, indent: int, before: int = 0) -> str:
        flat = json.dumps(each, sort_keys=True, ensure_ascii=False)
        if not isinstance(each, (dict, list)) or not each or indent + before + len(flat) <= WIDTH:
            return flat
        inner, outer = "\n" + " " * (indent + 1), "\n" + " " * indent
        if isinstance(each, list):
            return "[" + inner + f",{inner}".join(lines(item, indent + 1) for item in each) + outer + "]"
        entries = (f"{json.dumps(key)}: {lines(item, indent + 1, len(key) + 4)}" for key, item in sorted(each.items()))
        return "{" + inner + f",{inner}".join(entries) + outer + "}"
    return lines(value, indent) + "\n"


# --- what is known ----------------------------------------------------------------------------------------------

def known_of_the_repository(supervisor: Supervisor) -> Known:
    ours = documented(METRICS.read_text(), ROUTES.read_text())
    rules = "\n".join(path.read_text() for path in (MONITORING / "rules").glob("*.yml"))
    return Known(
        metrics={**series(ours), **OF_OTHERS}, documented=set(ours),
        rules=recorded(rules),
        runbooks={path.name for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README.md"},
        promtool=promtool(supervisor), logql=lambda texts: faults_of_logql(supervisor, texts))


def recorded(text: str) -> dict[str, Labels]:
    """The labels that each rule aggregates by, itself or in the rules that it is made of."""
    rules = dict(re.findall(r"- record: (\S+)\n(.*?)(?=\n *- (?:record|alert|name):|\Z)", text, re.DOTALL))

    def labels(name: str) -> set[str]:
        own = {label for found in re.findall(r"\bby \(([^)]*)\)", rules[name]) for label in re.findall(r"\w+", found)}
        return own.union(*(labels(word) for word in re.findall(r"[\w:]+", rules[name]) if word in rules)) - {"le"}

    return {name: dict.fromkeys(labels(name)) for name in rules}


# --- reading ----------------------------------------------------------------------------------------------------

def panels(dashboard: Dashboard) -> Iterator[dict]:
    """Those inside of rows, too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions(dashboards: dict[str, Dashboard]) -> Iterator[tuple[str, str, dict]]:
    """Where it is, its source's kind, and the query."""
    for name, dashboard in dashboards.items():
        for annotation in dashboard["annotations"]["list"]:
            yield f"{name}.json, annotation {annotation['name']}", annotation["datasource"]["type"], annotation
        for panel in panels(dashboard):
            for target in panel.get("targets", []):
                yield f"{name}.json, {panel['title']}", target["datasource"]["type"], target


def of_prometheus(dashboards: dict[str, Dashboard]) -> Iterator[tuple[str, dict]]:
    return ((where, target) for where, kind, target in expressions(dashboards) if kind == "prometheus")


def filled(expression: str) -> str:
    """Without variables; all namespaces and instances are chosen."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: FILLED.get(found[1], ".*"), expression)


# --- the checks: each yields what is wrong ----------------------------------------------------------------------

def metrics(dashboards: dict[str, Dashboard], known: Known) -> Iterator[str]:
    """Every metric, label and value is one that docs/metrics.md has; every metric is on a dashboard."""
    shown = set()
    for where, target in of_prometheus(dashboards):
        question = asked(filled(target["expr"]))
        names = [name for name, _ in question.selectors]
        shown |= set(names)
        if not names:
            yield f"{where}: the expression names no metric"
        for name in names:
            if name not in known.metrics and name not in known.rules:
                yield f"{where}: nothing is called {name}"
        there = {} if set(names) <= set(known.rules) else dict.fromkeys(TARGET_LABELS)
        for name in names:
            there.update(known.rules.get(name) or known.metrics.get(name, {}))
        made = set(re.findall(r'label_replace\(.*?, "(\w+)"', target["expr"]))
        matchers = [matcher for _, of_one in question.selectors for matcher in of_one]
        for label in {*question.grouped, *(matcher[0] for matcher in matchers), *in_legend(target)} - set(there) - made:
            yield f"{where}: {' and '.join(names)} have no label {label}"
        for name, of_one in question.selectors:
            for label, how, value in of_one:
                for each in never(known.metrics.get(name, {}), label, how, value):
                    yield f"{where}: {label} is never {each}"
    shown |= {re.sub("_(bucket|count|sum)$", "", name) for name in shown}
    for name in sorted(known.documented - shown - NOT_SHOWN):
        yield f"{name} is on no dashboard: put it on one, or say in NOT_SHOWN of scripts/check_dashboards.py why not"
    for name in sorted(NOT_SHOWN & shown):
        yield f"{name} is on a dashboard, and in NOT_SHOWN"


def in_legend(target: dict) -> list[str]:
    return re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "") + target.get("titleFormat", ""))


def syntax(dashboards: dict[str, Dashboard], known: Known) -> Iterator[str]:
    """By promtool, as the expressions of rules: it knows functions, types and durations. It says all faults at once."""
    wanted = list(of_prometheus(dashboards))
    if known.promtool:
        rules = [{"record": f"expression:{number}", "expr": filled(target["expr"])}
                 for number, (_, target) in enumerate(wanted)]
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            json.dump({"groups": [{"name": "dashboards", "rules": rules}]}, file)  # JSON is YAML
            file.flush()
            ran = subprocess.run([known.promtool, "check", "rules", file.name], capture_output=True, text=True)
        if ran.returncode:
            faults = re.findall(r'rule \d+, "expression:(\d+)": (.*)', ran.stderr)
            yield from (f"{wanted[int(number)][0]}: {fault}" for number, fault in faults)
            if not faults:
                yield f"promtool: {ran.stderr.strip()}"
    wanted = [(where, target) for where, kind, target in expressions(dashboards) if kind == "loki"]
    for (where, _), fault in zip(wanted, known.logql([filled(target["expr"]) for _, target in wanted])):
        if fault:
            yield f"{where}: {fault}"


def faults_of_logql(supervisor: Supervisor, texts: list[str]) -> list[str]:
    modules = from_npm(supervisor, f"lezer-logql-{LOGQL_VERSION}", f"@grafana/lezer-logql@{LOGQL_VERSION}")
    ran = subprocess.run(["node", ROOT / "scripts" / "parse_logql.mjs", modules], input=json.dumps(texts),
                         capture_output=True, text=True, env=with_node(supervisor))
    return json.loads(ran.stdout) if not ran.returncode else [ran.stderr.strip()] * len(texts)


def sources(dashboards: dict[str, Dashboard], _known: Known) -> Iterator[str]:
    """By variable, so that a dashboard works wherever it is imported; and each variable is there, and used."""
    for name, dashboard in dashboards.items():
        variables = {each["name"]: each for each in dashboard["templating"]["list"]}
        places = [*dashboard["annotations"]["list"], *variables.values(), *panels(dashboard),
                  *(target for panel in panels(dashboard) for target in panel.get("targets", []))]
        for place in places:
            source = place.get("datasource")
            called = place.get("title") or place.get("name") or place.get("refId")
            if source and (source["type"] not in SOURCES or source["uid"] != "${" + source["type"] + "}"):
                yield f"{name}.json, {called}: its source is {source}, and no variable"
            elif not source and place.get("type") not in ("row", "datasource", "textbox"):
                yield f"{name}.json, {called}: it has no source"
        for source in SOURCES:
            if variables.get(source, {}).get("type") != "datasource" or variables[source]["query"] != source:
                yield f"{name}.json: there is no variable for the source {source}"
        text = json.dumps([dashboard["panels"], dashboard["annotations"], *variables.values()])
        used = set(re.findall(r"\$\{?([a-z]\w*)", text))  # Grafana's own begin with __
        yield from (f"{name}.json: there is no variable {each}" for each in sorted(used - set(variables)))
        yield from (f"{name}.json: nothing uses the variable {each}"
                    for each in sorted(set(variables) - used - {"jaeger"}))


def readable(dashboards: dict[str, Dashboard], _known: Known) -> Iterator[str]:
    """What a panel must say to be understood."""
    for name, dashboard in dashboards.items():
        if dashboard["uid"] != f"microblog-{name}" or dashboard["id"] is not None:
            yield f"{name}.json: its uid is not microblog-{name}, or it has the id of one Grafana"
        if not dashboard["refresh"] or "microblog" not in dashboard["tags"]:
            yield f"{name}.json: it does not refresh, or the others do not find it by its tag"
        for panel in panels(dashboard):
            where, defaults = f"{name}.json, {panel['title']}", panel.get("fieldConfig", {}).get("defaults", {})
            if panel["type"] == "row":
                continue
            if not re.search(r"\b(Bad|Empty):|runbooks", panel.get("description", "")):
                yield f"{where}: its description does not say what a bad value is"
            if panel["type"] not in ("logs", "traces"):
                yield from (f"{where}: it has no {key}" for key in ("unit", "thresholds", "noValue") if key not in defaults)
            legends = [target.get("legendFormat") for target in panel["targets"]]
            if panel["type"] in ("timeseries", "state-timeline", "bargauge") and not all(legends):
                yield f"{where}: a series has no name"


def layout(dashboards: dict[str, Dashboard], _known: Known) -> Iterator[str]:
    for name, dashboard in dashboards.items():
        ids = [panel["id"] for panel in panels(dashboard)]
        yield from (f"{name}.json: two panels have the id {each}" for each in sorted({i for i in ids if ids.count(i) > 1}))
        for group in (dashboard["panels"], *(panel["panels"] for panel in dashboard["panels"] if panel.get("panels"))):
            taken: dict[tuple[int, int], str] = {}
            for panel in group:
                at = panel["gridPos"]
                if at["x"] + at["w"] > COLUMNS:
                    yield f"{name}.json, {panel['title']}: it is wider than the dashboard"
                cells = [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
                for other in sorted({taken[cell] for cell in cells if cell in taken}):
                    yield f"{name}.json: {panel['title']} lies over {other}"
                taken.update(dict.fromkeys(cells, panel["title"]))


def links(dashboards: dict[str, Dashboard], known: Known) -> Iterator[str]:
    """Runbooks are there, a panel leads to each, and nothing leads to a host of one installation."""
    linked = set()
    for name, dashboard in dashboards.items():
        for host in set(re.findall(r"https?://[^\s\"\\]*", json.dumps(dashboard))):
            yield f"{name}.json: {host} is an address of one installation"
        for panel in panels(dashboard):
            for link in panel.get("links", []):
                found = re.fullmatch(r"\$\{runbooks\}/(\w+\.md)", link["url"])
                linked.add(found and found[1])
                if not found or found[1] not in known.runbooks:
                    yield f"{name}.json, {panel['title']}: there is no runbook {link['url']}"
    yield from (f"no panel leads to docs/runbooks/{name}" for name in sorted(known.runbooks - linked))


CHECKS = (metrics, syntax, sources, readable, layout, links)


# --- negative controls: a check that has never failed proves nothing ----------------------------------------------

def controls(dashboards: dict[str, Dashboard], known: Known) -> Iterator[str]:
    for fault, check, make, told in FAULTS:
        broken = copy.deepcopy(dashboards)
        make(broken["overview"])
        if check is syntax and not known.promtool:
            continue
        if not any(told in problem for problem in check(broken, known)):
            yield f"the check “{check.__name__}” does not find {fault}"


def target_of(dashboard: Dashboard, kind: str = "stat") -> dict:
    return next(panel for panel in panels(dashboard) if panel["type"] == kind)["targets"][0]


def expression(text: str, kind: str = "stat") -> Callable[[Dashboard], None]:
    return lambda dashboard: target_of(dashboard, kind).update(expr=text)


def first(dashboard: Dashboard) -> dict:
    return next(panel for panel in dashboard["panels"] if panel["type"] == "stat")


FAULTS = (
    ("a metric that there is not", metrics,
     expression("sum(rate(http_request_total[5m]))"), "nothing is called http_request_t"),
    ("a histogram without its buckets", metrics,
     expression("rate(mongodb_pool_wait_seconds[5m])"), "nothing is called mongodb"),
    ("a label that there is not", metrics, expression("sum by (path) (http_requests_total)"), "no label path"),
    ("a label in a name", metrics,
     lambda dashboard: target_of(dashboard).update(expr="up", legendFormat="{{path}}"), "no label path"),
    ("a label that a rule drops", metrics,
     expression("sum by (instance) (microblog:fold_lag_seconds:least)"), "no label instance"),
    ("a value that there is not", metrics, expression('circuit_open{dependency="redis"}'), "dependency is never redis"),
    ("a route that there is not", metrics,
     expression('http_requests_total{route="/timeline"}'), "route is never /timeline"),
    ("a metric that nobody sees", metrics,
     lambda dashboard: dashboard["panels"].clear(), "build_info is on no dashboard"),
    ("PromQL that is none", syntax, expression("sum(rate(up[5m])"), "unclosed left parenthesis"),
    ("a type that does not fit", syntax, expression("rate(up)"), "expected type range vector"),
    ("LogQL that is none", syntax,
     lambda dashboard: target_of(dashboard, "logs").update(expr='{a="b"} |= | json'), "LogQL"),
    ("a source by its name", sources,
     lambda dashboard: target_of(dashboard)["datasource"].update(uid="prom"), "no variable"),
    ("a variable that there is not", sources, expression('up{job="$jobs"}'), "no variable jobs"),
    ("no description", readable, lambda dashboard: first(dashboard).update(description="Lag."), "what a bad value is"),
    ("no unit", readable, lambda dashboard: first(dashboard)["fieldConfig"]["defaults"].pop("unit"), "it has no unit"),
    ("another uid", readable, lambda dashboard: dashboard.update(uid="x"), "its uid is not"),
    ("an id twice", layout, lambda dashboard: first(dashboard).update(id=1), "two panels have the id 1"),
    ("a panel over another", layout, lambda dashboard: first(dashboard)["gridPos"].update(x=4), "lies over"),
    ("a panel beside the dashboard", layout, lambda dashboard: first(dashboard)["gridPos"].update(x=22), "wider than"),
    ("a runbook that there is not", links, lambda dashboard: first(dashboard).update(
        links=[{"url": "${runbooks}/Gone.md"}]), "no runbook ${runbooks}/Gone.md"),
    ("a runbook that nobody finds", links, lambda dashboard: dashboard["panels"].clear(), "no panel leads to"),
    ("a host", links,
     lambda dashboard: first(dashboard).update(description="http://grafana:3000"), "of one installation"),
)


if __name__ == "__main__":
    sys.exit(supervised(main))
