#!/usr/bin/env python3
"""Runs and tests Microblog on this machine. `make help` lists the usual ways in."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from check_streams import check_streams  # noqa: E402
from engines import (  # noqa: E402
    CACHE, ROOT, MongoDB, Nats, faketime, free_ports, locked, make_folder, need, need_cargo, newman, note, port_number,
    promtool, reachable, shellcheck, split_address, traefik, url_host, with_node)
from gateway import RATE_FACTOR, Gateway, Servers, check_certificate  # noqa: E402
from ports import check_ports_are_free  # noqa: E402
from readiness import wait_until_ready  # noqa: E402
from supervisor import Failed, Process, Speech, Supervisor, say, supervised  # noqa: E402
from welcome import print_welcome, servers  # noqa: E402

# The services' own defaults, needed here to check the ports and to print the addresses.
ADDRESSES = {
    "COMMAND_ADDR": "127.0.0.1:8081",
    "COMMAND_OPS_ADDR": "127.0.0.1:9081",
    "QUERY_ADDR": "127.0.0.1:8082",
    "QUERY_OPS_ADDR": "127.0.0.1:9082",
}
SERVICES = ("command-service", "query-service")
GATEWAY_ADDR = "127.0.0.1:8080"
GATEWAY_CERTIFICATE = ("GATEWAY_TLS_CERT_FILE", "GATEWAY_TLS_KEY_FILE")
# After Ctrl-C the gateway takes no more requests and finishes those it has. Live streams end only with the query
# service: so the services stop after this time, whether or not the gateway has ended.
GATEWAY_GRACE_SECONDS = 1.5


# --- run --------------------------------------------------------------------------------------------------------

def run(supervisor: Supervisor, _arguments: argparse.Namespace) -> int:
    """start engines and services, show the logs, stop everything on Ctrl-C; data stays in DATA (.data)"""
    data = data_folder()
    with exclusive(data, f"another `make run` uses {data}: stop it, or name another folder in DATA"):
        return run_with(supervisor, data)


def data_folder() -> Path:
    data = (ROOT / (os.environ.get("DATA") or ".data")).resolve()
    make_folder(data, "DATA", mode=0o700)  # the signing key lives there
    return data


def run_with(supervisor: Supervisor, data: Path) -> int:
    environment = settings()
    own_mongodb, own_nats = "MONGODB_URI" not in environment, "NATS_URL" not in environment
    gateway = gateway_of(environment)
    listeners = (*ADDRESSES, "GATEWAY_ADDR") if gateway else ADDRESSES
    ports = {name: split_address(name, environment[name]) for name in listeners}
    if own_mongodb:
        ports["MONGODB_PORT"] = ("127.0.0.1", port_from(environment, "MONGODB_PORT", 27017))
    if own_nats:
        ports["NATS_PORT"] = ("127.0.0.1", port_from(environment, "NATS_PORT", 4222))
    check_ports_are_free(ports)
    need_cargo()
    need("cc", "install a C compiler (Debian, Ubuntu: apt install build-essential)")

    mongodb = find_mongodb_for(supervisor, data) if own_mongodb else None
    nats = Nats.find(supervisor) if own_nats else None
    gateway_program = find_traefik(supervisor) if gateway else None
    Speech.on_stderr = environment.get("LOG_FORMAT") == "json"
    binaries = target_directory() / "release"
    built_before = any((binaries / name).exists() for name in SERVICES)
    say("Building the services" if built_before else "Building the services: five to ten minutes the first time; "
        "the last few of some 450 crates take most of it")
    build(supervisor, "--release", "--bin", "command-service", "--bin", "query-service")

    logs = data / "logs"
    logs.mkdir(exist_ok=True)
    new = own_mongodb and not (data / "mongodb").exists()
    if mongodb:
        say(f"Starting MongoDB ({mongodb.kind}) on port {ports['MONGODB_PORT'][1]}")
        mongodb.start(supervisor, data, logs, ports["MONGODB_PORT"][1])
        environment["MONGODB_URI"] = mongodb.uri(ports["MONGODB_PORT"][1])
    if nats:
        say(f"Starting NATS on port {ports['NATS_PORT'][1]}")
        nats.start(supervisor, data, logs, ports["NATS_PORT"][1])
        environment["NATS_URL"] = nats.uri(ports["NATS_PORT"][1])

    environment.setdefault("LOG_FORMAT", "pretty")
    front: list[Process] = []
    services = start_services(supervisor, environment, binaries, data, gateway)
    try:
        for service, ops in zip(services, ("COMMAND_OPS_ADDR", "QUERY_OPS_ADDR")):
            wait_until_ready(supervisor, service, *ports[ops])
        if gateway:
            front.append(gateway.start(supervisor, gateway_program, logs / "gateway.log"))
        addresses = {what: environment[name] if own else servers(name, environment[name]) for what, name, own in (
            ("MongoDB", "MONGODB_URI", own_mongodb), ("NATS", "NATS_URL", own_nats))}
        print_welcome(gateway, *service_urls(environment), addresses, data, new)
        while True:
            supervisor.check_alive()
            supervisor.pause()
    finally:
        # Those who ask before those who answer; the engines, which both services need, come last.
        for process in front:
            supervisor.ask_to_stop(process, GATEWAY_GRACE_SECONDS)
        supervisor.stop(*front, *reversed(services))


def find_traefik(supervisor: Supervisor) -> Path:
    try:
        return traefik(supervisor)
    except Failed as failure:
        raise Failed(f"{failure}; or leave the gateway out, with GATEWAY=off") from None


def settings() -> dict[str, str]:
    """What the environment says, and our addresses where it says nothing."""
    said = {name: value for name, value in os.environ.items() if value}
    return {**ADDRESSES, "GATEWAY_ADDR": GATEWAY_ADDR, **said}


def gateway_of(environment: dict[str, str]) -> Gateway | None:
    """The gateway that the settings GATEWAY* describe; none if it is left out."""
    wanted = environment.get("GATEWAY", "on")
    if wanted not in ("on", "off"):
        raise Failed("GATEWAY wants on or off")
    if wanted == "off":
        return None
    limit = environment.get("IP_RATE_PER_SECOND", "200")
    commands, queries = (Servers((url,)) for url in service_urls(environment))
    return Gateway(
        environment["GATEWAY_ADDR"], commands, queries,
        check_certificate(*(environment.get(name, "") for name in GATEWAY_CERTIFICATE), GATEWAY_CERTIFICATE),
        # What is no number, the services refuse.
        RATE_FACTOR * (int(limit) if limit.isdecimal() else 0))


def source_address(host: str, port: int) -> str:
    """From which of our addresses a connection to that one comes. Nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as unconnected:
        unconnected.connect((reachable(host), port))
        return unconnected.getsockname()[0]


def start_services(supervisor: Supervisor, environment: dict[str, str], binaries: Path, data: Path,
                   gateway: Gateway | None, log: Path | None = None) -> list[Process]:
    """Both services, with their logs on our terminal unless they go to a file."""
    command_url, _ = service_urls(environment)
    if gateway:
        # Where its connections come from. Whoever can open one from there is on this machine.
        sources = {source_address(*split_address(name, environment[name])) for name in ("COMMAND_ADDR", "QUERY_ADDR")}
        environment = {"TRUSTED_PROXIES": ",".join(sorted(sources)), **environment}
    # What runs on this machine is not asked for through a proxy.
    hosts = {reachable(split_address(name, environment[name])[0]) for name in ("COMMAND_ADDR", "QUERY_ADDR")}
    direct = ",".join(filter(None, (environment.get("NO_PROXY") or environment.get("no_proxy"), *sorted(hosts))))
    environment = {**environment, "NO_PROXY": direct, "no_proxy": direct}
    environment = {"JWKS_URL": f"{command_url}/.well-known/jwks.json", **environment}
    # Only the one that signs needs the key; it makes one where there is none.
    signing = {"JWT_PRIVATE_KEY_FILE": str(data / "jwt.pem"), **environment}
    # A collector reads lines of JSON as they are.
    labels = ("", "") if Speech.on_stderr else ("command", "query  ")
    return [
        supervisor.start(name, [str(binaries / name)], env=variables, cwd=ROOT, log=log, label=None if log else label)
        for name, variables, label in zip(("command-service", "query-service"), (signing, environment), labels)
    ]


def service_urls(environment: dict[str, str]) -> tuple[str, str]:
    """Where to send commands, and where queries."""
    command, query = (url_host(*split_address(name, environment[name])) for name in ("COMMAND_ADDR", "QUERY_ADDR"))
    return f"http://{command}", f"http://{query}"


@contextlib.contextmanager
def exclusive(folder: Path, otherwise: str):
    """One run at a time in a data folder."""
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(otherwise) from None
        yield


def find_mongodb_for(supervisor: Supervisor, data: Path) -> MongoDB:
    """The server that wrote the data; on a first run the best there is, which is then remembered."""
    written_by = data / "mongodb.kind"
    mongodb = MongoDB.find(supervisor, written_by.read_text().strip() if written_by.exists() else None)
    written_by.write_text(f"{mongodb.kind}\n")
    return mongodb


def port_from(environment: dict[str, str], name: str, default: int) -> int:
    try:
        return port_number(environment.get(name, str(default)))
    except ValueError:
        raise Failed(f"{name} wants a port from 1 to 65535") from None


# --- test, up, engines, shellcheck ------------------------------------------------------------------------------

def test(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    """run the tests on fresh engines of their own; arguments after -- go to cargo test"""
    need_cargo()
    profile = ["--release"] if arguments.release else []
    environment = start_temporary_engines(supervisor)
    # With a test among what it builds, cargo builds dependencies with the features that tests need: the same ones as
    # below. Without one it builds a hundred of them, tokio and the drivers too, for the services alone and once more.
    build(supervisor, *profile, "--workspace", "--bins", "--test", "architecture")
    if library := faketime(supervisor):
        environment["MICROBLOG_FAKETIME"] = str(library)
    if program := promtool(supervisor):
        environment["MICROBLOG_PROMTOOL"] = str(program)
    elif "MICROBLOG_CI" in os.environ:
        raise Failed("continuous integration checks metrics with promtool, which cannot be had here: see above")
    environment["MICROBLOG_BIN_DIR"] = str(target_directory() / ("release" if arguments.release else "debug"))
    streams = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-streams-")))
    environment["MICROBLOG_STREAMS"] = str(streams)
    cargo = ["cargo", "test", *profile]
    code = run_beside_engines(
        supervisor, [*cargo, *(arguments.rest or ["--workspace", "--lib", "--bins", "--tests"])], environment)
    code = code or check_streams(supervisor, streams, environment["NATS_URL"], all_kinds=not arguments.rest)
    if code or arguments.rest:
        return code
    # Last, so that it ends with a summary of the test runner.
    return run_beside_engines(supervisor, [*cargo, "--workspace", "--doc"], environment)


def upgrade(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    """replace the version before this one under load, take it back, and compare the speed of both"""
    before = (arguments.before or version_before(supervisor)).resolve()
    for name in SERVICES:
        if not (before / name).is_file():
            raise Failed(f"{before} has no {name}: --before names a folder with both binaries of a version before")
    os.environ |= {"MICROBLOG_BEFORE": str(before), "MICROBLOG_CHAOS": "long"}
    rest = ["--workspace", "--test", "roles", "--test", "upgrade", "the_version_before", "--", "--nocapture"]
    return test(supervisor, argparse.Namespace(release=True, rest=rest))


def version_before(supervisor: Supervisor) -> Path:
    """The folder with the binaries of the last tagged version before this commit, built once."""
    def git(*arguments: str, **more) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, **more)

    described = git("describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^", text=True)
    if described.returncode:
        raise Failed("no version before this commit has a tag here: fetch them (git fetch --tags --unshallow), "
                     "or name a folder with its binaries: make upgrade BEFORE=folder")
    tag = described.stdout.strip()
    commit = git("rev-parse", f"{tag}^{{commit}}", text=True, check=True).stdout.strip()
    folder = CACHE / "versions" / f"{tag}-{commit[:12]}"
    if all((folder / name).is_file() for name in SERVICES):
        return folder
    need_cargo()
    with locked(supervisor, CACHE / "versions.lock", "Waiting for another run that builds a version before"):
        folder.mkdir(parents=True, exist_ok=True)
        say(f"Building {tag}, once")
        sources = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-")))
        archive = git("archive", "--format=tar", commit, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(sources)], input=archive, check=True)
        # What it depends on is mostly built already; its own crates are other ones to cargo, by their path.
        target = target_directory()
        if supervisor.run("cargo build", ["cargo", "build", "--release", "--locked", "--bins"], cwd=sources,
                          env={**os.environ, "CARGO_TARGET_DIR": str(target)}):
            raise Failed(f"{tag} could not be built; the compiler's message is above")
        for name in SERVICES:
            # Whole or not at all: whoever looks without the lock must not find half a binary.
            shutil.copy2(target / "release" / name, folder / f"{name}.part")
            (folder / f"{name}.part").replace(folder / name)
    return folder


def up(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    """run a command beside fresh engines: up -- COMMAND [ARGUMENTS]"""
    if not arguments.rest:
        raise Failed("name a command: dev.py up -- COMMAND [ARGUMENTS]")
    environment = start_temporary_engines(supervisor)
    return run_beside_engines(supervisor, arguments.rest, environment)


def start_temporary_engines(supervisor: Supervisor) -> dict[str, str]:
    """Fresh engines on free ports, and the environment that leads to them."""
    mongodb, nats = MongoDB.find(supervisor), Nats.find(supervisor)
    folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-")))
    mongodb_port, nats_port = free_ports(2)
    mongodb.start(supervisor, folder, folder, mongodb_port)
    nats.start(supervisor, folder, folder, nats_port)
    return {
        **os.environ,
        "MONGODB_URI": mongodb.uri(mongodb_port),
        "NATS_URL": nats.uri(nats_port),
        # For tests that start engines of their own, to kill them.
        "MICROBLOG_MONGODB_KIND": mongodb.kind,
        "MICROBLOG_MONGODB_BIN": str(mongodb.program),
        "MICROBLOG_NATS_BIN": str(nats.program),
        **traefik_for_tests(supervisor),
    }


def traefik_for_tests(supervisor: Supervisor) -> dict[str, str]:
    """Without it, only the tests of the gateway fail."""
    try:
        return {"MICROBLOG_TRAEFIK_BIN": str(traefik(supervisor))}
    except Failed as failure:
        note(f"No Traefik, so tests of the gateway will fail: {failure}")
        return {}


def run_beside_engines(supervisor: Supervisor, command: list[str], environment: dict[str, str]) -> int:
    code = supervisor.run(command[0], command, env=environment)
    if code:
        supervisor.check_alive()  # a dead engine explains the failure, so it is reported instead
    return code


def engines(supervisor: Supervisor, _arguments: argparse.Namespace) -> int:
    """install what is missing of the engines and the gateway, and print their paths"""
    mongodb, nats = MongoDB.find(supervisor), Nats.find(supervisor)
    say(f"{mongodb.kind} {mongodb.program}")
    say(f"nats-server {nats.program}")
    say(f"traefik {traefik(supervisor)}")
    return 0


def lint_shell(supervisor: Supervisor, _arguments: argparse.Namespace) -> int:
    """check the shell scripts with shellcheck"""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        raise Failed(f"the list of files could not be had from git: {listed.stderr.strip()}")
    scripts = [name for name in listed.stdout.splitlines() if is_shell(ROOT / name)]
    return supervisor.run("shellcheck", [str(shellcheck(supervisor)), *scripts], cwd=ROOT)


def is_shell(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            first_line = file.readline(80)
    except OSError:
        return False  # a link to nowhere, or deleted but not yet in the index
    return path.suffix in (".sh", ".bash") or first_line.startswith(b"#!") and first_line.rstrip().endswith(b"sh")


# --- postman ----------------------------------------------------------------------------------------------------

def postman(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    """run the Postman collection against the running stack, with --own against a fresh one"""
    program = newman(supervisor)
    environment = start_temporary_stack(supervisor) if arguments.own else settings()
    gateway = None if arguments.url else gateway_of(environment)
    if arguments.url:
        urls = [arguments.url.rstrip("/")] * 2
    else:
        urls, names = service_urls(environment), ("COMMAND_ADDR", "QUERY_ADDR")
        if gateway:
            urls, names = [gateway.url] * 2, ("GATEWAY_ADDR",)
        for name, url in zip(names, urls):
            if not listens(*split_address(name, environment[name])):
                raise Failed(f"nothing answers at {url} ({name}): start the stack with `make run`, "
                             "or let `python3 scripts/dev.py postman --own` start one")
    folder = ROOT / "postman"
    command = [
        str(program), "run", str(folder / "microblog.postman_collection.json"),
        *(argument for name, url in zip(("command_url", "query_url"), urls)
          for argument in ("--env-var", f"{name}={url}")),
        "--timeout-request", "20000", "--reporter-cli-no-banner", "--reporter-cli-no-success-assertions",
    ]
    if arguments.ca_file:
        command += ["--ssl-extra-ca-certs", arguments.ca_file]
    elif gateway and gateway.certificate:
        command.append("--insecure")  # this machine's own gateway: whoever has signed its certificate
    # What runs on this machine is not asked for through a proxy.
    environment.update(NO_PROXY="*", no_proxy="*", PATH=with_node(supervisor)["PATH"])
    if not sys.stdout.isatty():
        environment["FORCE_COLOR"] = "0"  # or its table of failures is coloured in logs too
    return run_beside_engines(supervisor, command, environment)


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((reachable(host), port), timeout=5).close()
    except OSError:
        return False
    return True


def start_temporary_stack(supervisor: Supervisor) -> dict[str, str]:
    """Fresh engines, both services and the gateway on free ports, and the environment that leads to them."""
    programs = binaries(supervisor, "debug")
    data = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-")))
    environment = {name: value for name, value in start_temporary_engines(supervisor).items() if value}
    for elsewhere in ("JWKS_URL", "JWT_PRIVATE_KEY_FILE", "VIEWS_MONGODB_URI"):
        environment.pop(elsewhere, None)
    names = (*ADDRESSES, "GATEWAY_ADDR")
    environment.update((name, f"127.0.0.1:{port}") for name, port in zip(names, free_ports(len(names))))
    gateway = gateway_of(environment)
    services = start_services(supervisor, environment, programs, data, gateway, data / "services.log")
    for service, ops in zip(services, ("COMMAND_OPS_ADDR", "QUERY_OPS_ADDR")):
        wait_until_ready(supervisor, service, *split_address(ops, environment[ops]))
    if gateway:
        gateway.start(supervisor, find_traefik(supervisor), data / "gateway.log")
    return environment


# --- cargo ------------------------------------------------------------------------------------------------------

def build(supervisor: Supervisor, *arguments: str) -> None:
    if supervisor.run("cargo build", ["cargo", "build", *arguments], cwd=ROOT):
        raise Failed("the services could not be built; the compiler's message is above")


def binaries(supervisor: Supervisor, profile: str = "release") -> Path:
    """Those in MICROBLOG_BIN_DIR, else those that are built now: "release", or "debug"."""
    if folder := os.environ.get("MICROBLOG_BIN_DIR"):
        return Path(folder).absolute()
    need_cargo()
    build(supervisor, *(["--release"] if profile == "release" else []), *(
        argument for service in SERVICES for argument in ("--bin", service)))
    return target_directory() / profile


def target_directory() -> Path:
    """Where cargo builds, whatever the environment or a configuration says."""
    metadata = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT,
                              capture_output=True, text=True)
    if metadata.returncode:
        raise Failed(f"cargo metadata: {metadata.stderr.strip()}")
    return Path(json.loads(metadata.stdout)["target_directory"])


# --- the command line -------------------------------------------------------------------------------------------

def parse(argv: list[str]) -> argparse.Namespace:
    ours, rest = argv, []
    if "--" in argv:
        at = argv.index("--")
        ours, rest = argv[:at], argv[at + 1:]
    parser = argparse.ArgumentParser(description=__doc__, prog="dev.py")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, work in (("run", run), ("test", test), ("upgrade", upgrade), ("up", up), ("postman", postman),
                       ("engines", engines), ("shellcheck", lint_shell)):
        command = commands.add_parser(name, help=work.__doc__, description=work.__doc__)
        command.set_defaults(work=work, rest=rest)
        if name == "test":
            command.add_argument("--release", action="store_true", help="optimised, as in production")
        elif name == "upgrade":
            command.add_argument("--before", type=Path, metavar="FOLDER",
                                 help="its binaries are there; else the last tagged version is built")
        elif name == "postman":
            command.add_argument("--own", action="store_true", help="start engines, services and a gateway of its own")
            command.add_argument("--url", help="another gateway than the settings name")
            command.add_argument("--ca-file", metavar="FILE", help="the authority that signed its certificate, in PEM")
    arguments = parser.parse_args(ours)
    if rest and arguments.work not in (test, up):
        parser.error(f"unexpected: {shlex.join(rest)}")
    return arguments


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    # For `run` that is how it ends; anything else was cut short.
    stopped = (0, "Stopped.") if arguments.work is run else (130, "")
    return supervised(lambda supervisor: arguments.work(supervisor, arguments), stopped)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
