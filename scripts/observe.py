#!/usr/bin/env python3
"""Prometheus beside the stack that `make run` runs in another terminal: both services' metrics every few seconds,
with the rules in manifests/components/monitoring/rules. Where they are on the PATH, also Loki for logs, Jaeger (v2)
for traces, and Grafana with the dashboards. It prints where to look; Ctrl-C stops it.

Settings, from the environment: COMMAND_OPS_ADDR and QUERY_OPS_ADDR as for `make run`; where to listen:
PROMETHEUS_ADDR (127.0.0.1:9090), GRAFANA_ADDR (127.0.0.1:3000), LOKI_ADDR (127.0.0.1:3100), JAEGER_ADDR
(127.0.0.1:16686), OTLP_ADDR (127.0.0.1:4318, where Jaeger takes traces); DATA (.data): what is measured is kept
below it in observe/: by Prometheus for a week and up to 512 MB, by Loki for a week; traces go when it stops.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import re
import shutil
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from dev import ROOT, data_folder, exclusive, settings  # noqa: E402
from engines import (  # noqa: E402
    CACHE, START_DEADLINE_SECONDS, free_ports, on_path, prometheus, split_address, url_host)
from ports import check_ports_are_free  # noqa: E402
from readiness import ask_readiness, get  # noqa: E402
from supervisor import Failed, Process, Supervisor, note, say, supervised  # noqa: E402

MONITORING = ROOT / "manifests" / "components" / "monitoring"
RULES, DASHBOARDS = MONITORING / "rules", MONITORING / "dashboards"
SERVICES = {"command-service": "COMMAND_OPS_ADDR", "query-service": "QUERY_OPS_ADDR"}
ADDRESSES = {
    "PROMETHEUS_ADDR": "127.0.0.1:9090",
    "LOKI_ADDR": "127.0.0.1:3100",
    "JAEGER_ADDR": "127.0.0.1:16686",
    "OTLP_ADDR": "127.0.0.1:4318",
    "GRAFANA_ADDR": "127.0.0.1:3000",
}
SCRAPE_SECONDS = 5
KEPT_TIME, KEPT_SIZE = "7d", "512MB"
LOKI_AT_LEAST = (3, 0)  # the first that takes OTLP by default
JAEGER_AT_LEAST = (2, 0)
GRAFANA_AT_LEAST = (10, 0)
# What to look at first, and how to ask for it.
GRAPHS = (
    ("requests a second, by status", "sum by (job, status) (rate(http_requests_total[1m]))"),
    ("95th percentile, by route",
     "histogram_quantile(0.95, sum by (le, route) (rate(http_request_duration_seconds_bucket[1m])))"),
    ("post to visible, 99th percentile",
     "histogram_quantile(0.99, sum by (le) (rate(query_service_post_to_visible_seconds_bucket[1m])))"),
    ("why a dependency is not used", "max by (job, dependency, reason) (dependency_not_used) > 0"),
)


# --- Prometheus, also for scripts that have a stack of their own -------------------------------------------------

@dataclass(frozen=True)
class Prometheus:
    address: str
    process: Process
    # Where its pages are: Debian's has others than Prometheus' own.
    pages: str = ""

    @property
    def url(self) -> str:
        return f"http://{url_host(*split_address('the address', self.address))}"

    def page(self, name: str) -> str:
        return f"{self.url}{self.pages}/{name}"

    def graph(self, expression: str) -> str:
        return self.page("graph?" + urllib.parse.urlencode(
            {"g0.expr": expression, "g0.tab": 0, "g0.range_input": "15m"}, quote_via=urllib.parse.quote))

    def get(self, path: str, **parameters: str | float) -> dict | list:
        """What its API answers; fails with what it says against the question."""
        status, body = ask(self.address, f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(body) if body.startswith(b"{") else {}
        if answer.get("status") != "success":
            raise Failed(f"Prometheus answers {status} to {path} {parameters}: {answer.get('error', body[:200])}")
        return answer["data"]

    def query(self, expression: str, **parameters: str | float) -> list[dict]:
        return self.get("query", query=expression, **parameters)["result"]


def rule_files() -> list[Path]:
    return sorted(RULES.glob("*.yml"))


def start_prometheus(supervisor: Supervisor, folder: Path, log: Path, address: str, targets: dict[str, list[str]],
                     rules: list[Path], seconds: float = SCRAPE_SECONDS) -> Prometheus:
    """Starts it with `targets`, addresses for each job, and returns when it answers."""
    program = prometheus(supervisor)
    interval = f"{round(seconds * 1000)}ms"
    config = folder / "prometheus.yml"
    config.write_text(json.dumps({  # which is YAML as well
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(file) for file in rules],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": addresses}]}
                           for job, addresses in targets.items()],
    }, indent=1))
    command = [
        str(program), f"--config.file={config}", f"--web.listen-address={address}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--storage.tsdb.retention.time={KEPT_TIME}", f"--storage.tsdb.retention.size={KEPT_SIZE}",
    ]
    if program.is_relative_to(CACHE):
        command.append(f"--web.local-assets={program.parent.parent / 'share' / 'prometheus' / 'web'}")
    process = supervisor.start("prometheus", command, env=direct(), cwd=folder, log=log)
    wait_for(supervisor, "Prometheus", address, "/-/ready", log)
    pages = "" if ask(address, "/alerts")[0] == 200 else "/classic"
    return Prometheus(address, process, pages)


def direct() -> dict[str, str]:
    """An environment in which what runs on this machine is not asked for through a proxy."""
    return {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}


def ask(address: str, path: str) -> tuple[int | None, bytes]:
    return get(url_host(*split_address("the address", address)), path, timeout=30)


def wait_for(supervisor: Supervisor, name: str, address: str, path: str, log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_SECONDS
    while ask(address, path)[0] != 200:
        if time.monotonic() > deadline:
            raise Failed(f"{name} is not ready after {START_DEADLINE_SECONDS} s; its log is {log}")
        supervisor.check_alive()
        supervisor.pause(0.2)


# --- what is used where it is on the PATH ------------------------------------------------------------------------

@dataclass(frozen=True)
class Folders:
    data: Path
    logs: Path

    def of(self, name: str) -> Path:
        folder = self.data / name
        folder.mkdir(exist_ok=True)
        return folder

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def optional(program: str, at_least: tuple[int, ...], how: str = "--version") -> Path | None:
    """A program on the PATH. Others have these names too, such as Debian's `loki`."""
    return on_path(program, at_least, how, otherwise="it is left out")


def changed(file: str, instead: dict[str, str]) -> str:
    """The cluster's configuration, with its addresses and folders here."""
    text = (ROOT / "manifests" / "components" / file).read_text()
    for there, here in instead.items():
        if there not in text:
            raise Failed(f"{file} has no `{there}` any more, which is something else on a laptop")
        text = text.replace(f"{there}\n", f"{here}\n")
    return text


def start_loki(supervisor: Supervisor, program: Path, folders: Folders, address: str) -> None:
    host, port = split_address("LOKI_ADDR", address)
    folder = folders.of("loki")
    config = folder / "loki.yml"
    config.write_text(changed("loki/loki.yml", {
        "http_listen_port: 3100": f"http_listen_address: {json.dumps(host)}\n  http_listen_port: {port}\n"
                                  "  grpc_listen_address: 127.0.0.1\n  grpc_listen_port: 0",
        **{f": /loki{path}": f": {json.dumps(f'{folder}{path}')}" for path in ("/chunks", "/rules", "/compactor", "")},
    }))
    supervisor.start("loki", [str(program), f"-config.file={config}"], env=direct(), cwd=folder,
                     log=folders.log("loki"))
    wait_for(supervisor, "Loki", address, "/ready", folders.log("loki"))


def start_jaeger(supervisor: Supervisor, program: Path, folders: Folders, address: str, otlp: str) -> None:
    folder = folders.of("jaeger")
    config = folder / "jaeger.yml"
    health, grpc = free_ports(2)
    config.write_text(changed("jaeger/jaeger.yml", {
        "0.0.0.0:13133": f"127.0.0.1:{health}", "127.0.0.1:16685": f"127.0.0.1:{grpc}",
        "0.0.0.0:16686": json.dumps(address), "0.0.0.0:4318": json.dumps(otlp),
    }))
    supervisor.start("jaeger", [str(program), f"--config={config}"], env=direct(), cwd=folder,
                     log=folders.log("jaeger"))
    wait_for(supervisor, "Jaeger", address, "/", folders.log("jaeger"))


def start_grafana(supervisor: Supervisor, program: Path, folders: Folders, address: str,
                  sources: dict[str, str]) -> None:
    host, port = split_address("GRAFANA_ADDR", address)
    folder = folders.of("grafana")
    provisioning = folder / "provisioning"
    shutil.rmtree(provisioning, ignore_errors=True)  # what the last run had and this one has not
    dashboards = dashboards_for(folder, serve_runbooks())
    provider = (MONITORING / "provider.yml").read_text().replace("/etc/grafana/dashboards", json.dumps(str(dashboards)))
    for name, content in (("datasources", data_sources(sources)), ("dashboards", provider)):
        (provisioning / name).mkdir(parents=True)
        (provisioning / name / "microblog.yml").write_text(content)
    environment = {
        **direct(),
        "GF_SERVER_HTTP_ADDR": host, "GF_SERVER_HTTP_PORT": str(port),
        "GF_PATHS_DATA": str(folder / "data"), "GF_PATHS_LOGS": str(folder / "log"),
        "GF_PATHS_PLUGINS": str(folder / "plugins"), "GF_PATHS_PROVISIONING": str(provisioning),
        # Whoever reaches it is on this machine, unless its address was chosen otherwise: then they may look.
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_AUTH_ANONYMOUS_ORG_ROLE": "Editor" if host in ("127.0.0.1", "::1") else "Viewer",
        # And nobody is more: Grafana's first user would be admin with the password admin.
        "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
        "GF_AUTH_DISABLE_LOGIN_FORM": "true", "GF_AUTH_BASIC_ENABLED": "false",
        "GF_ANALYTICS_REPORTING_ENABLED": "false", "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false", "GF_NEWS_NEWS_FEED_ENABLED": "false",
        "GF_PLUGINS_PREINSTALL_DISABLED": "true",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": str(dashboards / "overview.json"),
    }
    home = grafana_home(program)
    supervisor.start("grafana", [str(program), "server", *([f"--homepath={home}"] if home else [])], env=environment,
                     cwd=home or folder, log=folders.log("grafana"))
    wait_for(supervisor, "Grafana", address, "/api/health", folders.log("grafana"))


def dashboards_for(folder: Path, runbooks: str) -> Path:
    """The dashboards as they are, but for where their links to the runbooks lead."""
    copies = folder / "dashboards"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    for file in DASHBOARDS.glob("*.json"):
        (copies / file.name).write_text(file.read_text().replace("${runbooks}", runbooks).replace("docs/runbooks", runbooks))
    return copies


class AsText(http.server.SimpleHTTPRequestHandler):
    """Files below docs/, for a browser on this machine: it would not show a page of Markdown."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, directory=str(ROOT / "docs"), **options)

    def guess_type(self, path: str) -> str:
        return "text/plain; charset=utf-8"

    def log_message(self, *_arguments) -> None:
        """Nobody waits for it."""


def serve_runbooks() -> str:
    """Where the runbooks can be read as long as this process runs."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), AsText)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/runbooks"


def data_sources(urls: dict[str, str]) -> str:
    """Those of a cluster, as far as they are here, at their addresses here."""
    head, *blocks = re.split(r"^(?=  - name: )", (MONITORING / "sources.yml").read_text(), flags=re.MULTILINE)
    here = []
    for kind, url in urls.items():
        block = next(block for block in blocks if f"\n    uid: {kind}\n" in block)
        block = re.sub(r"^    url: .*$", f"    url: {url}", block, flags=re.MULTILINE)
        here.append(re.sub(r"timeInterval: .*", f"timeInterval: {SCRAPE_SECONDS}s", block))
    return "".join((head, *here))


def grafana_home(program: Path) -> Path | None:
    """Its pages and defaults: beside its program in the archive, elsewhere in packages."""
    real = program.resolve()
    places = (real.parent.parent, real.parent.parent / "share" / "grafana", Path("/usr/share/grafana"))
    return next((place for place in places if (place / "conf" / "defaults.ini").is_file()), None)


# --- the command -------------------------------------------------------------------------------------------------

def observe(supervisor: Supervisor) -> int:
    said = settings()
    services = {job: said[name] for job, name in SERVICES.items()}
    addresses = {name: said.get(name, default) for name, default in ADDRESSES.items()}
    look_for_stack(services)
    loki = optional("loki", LOKI_AT_LEAST)
    jaeger = optional("jaeger", JAEGER_AT_LEAST, "version")
    grafana = optional("grafana", GRAFANA_AT_LEAST)
    wanted = ["PROMETHEUS_ADDR", *(["LOKI_ADDR"] if loki else []), *(["JAEGER_ADDR", "OTLP_ADDR"] if jaeger else []),
              *(["GRAFANA_ADDR"] if grafana else [])]
    check_ports_are_free({name: split_address(name, addresses[name]) for name in wanted}, "make observe")
    data = data_folder()
    folders = Folders(data / "observe", data / "logs")
    for folder in (folders.data, folders.logs):
        folder.mkdir(exist_ok=True)
    busy = f"another `make observe` uses {folders.data}: stop it, or name another folder in DATA"
    with exclusive(folders.data, busy):
        found = start_prometheus(supervisor, folders.data, folders.log("prometheus"), addresses["PROMETHEUS_ADDR"],
                                 {job: [url_host(*split_address(job, address))] for job, address in services.items()},
                                 rule_files())
        sources = {"prometheus": found.url}
        if loki:
            start_loki(supervisor, loki, folders, addresses["LOKI_ADDR"])
            sources["loki"] = url_of(addresses["LOKI_ADDR"])
        if jaeger:
            start_jaeger(supervisor, jaeger, folders, addresses["JAEGER_ADDR"], addresses["OTLP_ADDR"])
            sources["jaeger"] = url_of(addresses["JAEGER_ADDR"])
        if grafana:
            start_grafana(supervisor, grafana, folders, addresses["GRAFANA_ADDR"], sources)
        print_welcome(found, services, sources, addresses, grafana is not None, folders)
        while True:
            supervisor.check_alive()
            supervisor.pause()


def look_for_stack(services: dict[str, str]) -> None:
    """One service that answers is enough: that the other does not is something to look at."""
    away = [job for job, address in services.items()
            if ask_readiness(url_host(*split_address(SERVICES[job], address))) is None]
    where = {job: f"{services[job]} ({SERVICES[job]})" for job in away}
    if len(away) == len(services):
        raise Failed(f"no service answers at {' and '.join(where.values())}: start the stack in another terminal with "
                     "`make run`, or say with these settings where it is")
    for job in away:
        note(f"{job} does not answer at {where[job]}; it is observed all the same")


def url_of(address: str) -> str:
    return f"http://{url_host(*split_address('the address', address))}"


def print_welcome(found: Prometheus, services: dict[str, str], sources: dict[str, str], addresses: dict[str, str],
                  grafana: bool, folders: Folders) -> None:
    dashboards = DASHBOARDS.relative_to(ROOT)
    rows = [
        ("alerts", found.page("alerts")),
        ("rules", found.page("rules")),
        ("graphs", found.page("graph")),
        ("whether the services answer", found.page("targets")),
        *((f"{job}: metrics, readiness", f"{url_of(address)}/metrics  {url_of(address)}/readyz")
          for job, address in services.items()),
        ("dashboards", f"{url_of(addresses['GRAFANA_ADDR'])}/dashboards, by Grafana" if grafana else
         f"{dashboards}/*.json, for a Grafana of yours: there is none on the PATH"),
        ("traces", f"{sources['jaeger']}, by Jaeger" if "jaeger" in sources else
         "no Jaeger (2.0 or later) on the PATH"),
        ("logs", "by Loki, in Grafana" if "loki" in sources and grafana else f"by Loki, {sources['loki']}"
         if "loki" in sources else "the terminal of `make run`: there is no Loki (3.0 or later) on the PATH"),
        ("what to do about an alert", "docs/runbooks/"),
        ("data, and logs in files", f"{folders.data}, {folders.logs}"),
    ]
    say(f"\nBoth services' metrics are read every {SCRAPE_SECONDS} s.\n")
    for what, where in rows:
        say(f"  {what:<36} {where}")
    say("\nGraphs to begin with:\n")
    for what, expression in GRAPHS:
        say(f"  {what}\n    {found.graph(expression)}")
    exports = []
    if "jaeger" in sources:
        exports += [f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={url_of(addresses['OTLP_ADDR'])}/v1/traces",
                    "OTEL_TRACES_SAMPLER=always_on"]
    if "loki" in sources:
        exports += ["OTEL_LOGS_EXPORTER=otlp",
                    f"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT={sources['loki']}/otlp/v1/logs"]
    if exports:
        what = " and ".join(name for name, kind in (("traces", "jaeger"), ("logs", "loki")) if kind in sources)
        say(f"\nThe services send {what} if they are started like this:\n\n  {' '.join(exports)} make run")
    say("\nCtrl-C stops it. What was measured stays, and the next `make observe` continues; traces do not.\n")


def main(argv: list[str]) -> int:
    argparse.ArgumentParser(prog="observe.py", description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    return supervised(observe, stopped=(0, "Stopped."))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
