#!/usr/bin/env python3
"""Runs the gateway, Traefik: one address in front of both services, with the configuration in manifests/gateway/.

It prints one line when it serves, and stops on Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from string import Template

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from engines import START_DEADLINE_SECONDS, reachable, split_address, traefik, url_host  # noqa: E402
from supervisor import Failed, Process, Supervisor, say, supervised  # noqa: E402

TEMPLATES = Path(__file__).resolve().parent.parent / "manifests" / "gateway"
# Requests a second of one address, as a multiple of what each process of a service allows it (IP_RATE_PER_SECOND): it
# may call both services, and several processes of each.
RATE_FACTOR = 5
RATE = RATE_FACTOR * 200


@dataclass(frozen=True)
class Servers:
    """The processes of one service."""
    urls: tuple[str, ...]
    # Of all of them, with /readyz: only with it those that are not ready are left out, where there are several.
    ops_port: int | None = None

    def service(self, name: str) -> str:
        """Which of its services in microblog.yml to use."""
        return f"ready-{name}" if self.ops_port and len(self.urls) > 1 else name


@dataclass(frozen=True)
class Gateway:
    address: str  # host:port, to listen on
    commands: Servers
    queries: Servers
    certificate: tuple[str, str] | None = None  # files: the chain and its key
    rate: int = RATE  # 0: no limit

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{url_host(*split_address('the address', self.address))}"

    def render(self, folder: Path) -> Path:
        """Writes the configuration, and returns the file that Traefik is started with."""
        certificates = None
        if self.certificate:
            chain, key = (str(Path(file).absolute()) for file in self.certificate)
            certificates = {"stores": {"default": {"defaultCertificate": {"certFile": chain, "keyFile": key}}}}
        values = {
            "address": self.address, "routes": str(folder / "microblog.yml"),
            "tls": {} if certificates else None, "certificates": certificates,
            "rate": self.rate, "burst": 2 * self.rate,
        }
        for singular, plural, servers in (("command", "commands", self.commands), ("query", "queries", self.queries)):
            values[plural] = [{"url": url} for url in servers.urls]
            values[f"{singular}_service"] = servers.service(plural)
            values[f"{singular}_ops_port"] = servers.ops_port
        for name in ("traefik.yml", "microblog.yml"):
            template = Template((TEMPLATES / name).read_text())
            (folder / name).write_text(template.substitute({key: json.dumps(value) for key, value in values.items()}))
        return folder / "traefik.yml"

    def start(self, supervisor: Supervisor, program: Path, log: Path) -> Process:
        """Starts Traefik, and returns when it serves, or fails with what it says against the configuration."""
        host, port = split_address("the address", self.address)
        try:
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as error:
            # What listens there would answer in its place below.
            raise Failed(f"the gateway cannot listen on {self.address}: "
                         f"{str(error.strerror).partition(' (while')[0]}") from None
        folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-gateway-")))
        begin = log.stat().st_size if log.exists() else 0
        # Settings in our environment are for another Traefik, and the services are not asked through a proxy.
        environment = {name: value for name, value in os.environ.items()
                       if not name.upper().startswith("TRAEFIK_") and not name.upper().endswith("_PROXY")}
        process = supervisor.start("gateway", [str(program), f"--configFile={self.render(folder)}"], env=environment,
                                   cwd=folder, log=log)
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        serves = False
        while not serves:
            if time.monotonic() > deadline:
                raise Failed(f"the gateway does not serve at {self.url}; its log is {log}")
            supervisor.check_alive()
            supervisor.pause(0.05)
            serves = self.serves()
            # It leaves out a router, a certificate or a whole file that it cannot use, and serves the rest.
            if complaints := errors_in(log, begin):
                raise Failed(f"the gateway's configuration is not right: {complaints[0]}")
        return process

    def serves(self) -> bool:
        """Whether the routes are in force: it listens before, and answers 404 to everything."""
        host, port = split_address("the address", self.address)
        if self.certificate:
            context = ssl._create_unverified_context()  # it may be for another name than the address
            connection = http.client.HTTPSConnection(reachable(host), port, timeout=2, context=context)
        else:
            connection = http.client.HTTPConnection(reachable(host), port, timeout=2)
        try:
            connection.request("GET", "/gateway/ping")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def check_certificate(chain: str, key: str, names: tuple[str, str]) -> tuple[str, str] | None:
    """The two files, if they are a pair; none if neither is named. Traefik would break every handshake off."""
    if not chain and not key:
        return None
    if not chain or not key:
        raise Failed(f"{names[0]} needs {names[1]}, and the other way round: set both for TLS, or neither")
    for file, name in zip((chain, key), names):
        try:
            with open(file, "rb"):
                pass
        except OSError as error:
            raise Failed(f"{name}: {file}: {error.strerror}") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, password="")  # not asked on the terminal
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "no PEM, or a key with a password"
        raise Failed(f"{names[0]} and {names[1]} want a certificate chain and its private key, without a password, "
                     f"in PEM: {reason}") from None
    return chain, key


def errors_in(log: Path, begin: int) -> list[str]:
    """What it logged as errors since."""
    with log.open("rb") as file:
        file.seek(begin)
        *lines, _half_written = file.read().decode(errors="replace").split("\n")
    entries = []
    for line in lines:
        with contextlib.suppress(ValueError):  # what a crash prints is plain text
            entries.append(json.loads(line))
    return [f"{entry.get('message', '')} {entry.get('error', '')}".strip()
            for entry in entries if entry.get("level") in ("error", "fatal")]


# --- the command line -------------------------------------------------------------------------------------------

def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="gateway.py",
        epilog="for example: gateway.py --commands http://127.0.0.1:8081 --queries http://127.0.0.1:8082")
    parser.add_argument("--addr", default="127.0.0.1:8080", metavar="HOST:PORT", help="where to listen (%(default)s)")
    parser.add_argument("--tls-cert", default="", metavar="FILE", help="certificate chain, in PEM: https and HTTP/2")
    parser.add_argument("--tls-key", default="", metavar="FILE", help="its private key, in PEM")
    parser.add_argument("--rate", type=int, default=RATE, metavar="N",
                        help="requests a second of one address, 0 for no limit (%(default)s)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="Traefik's log and access log, in JSON, is appended "
                        "here (by default to a temporary file, which the line names)")
    parser.add_argument("--program", type=Path, metavar="FILE",
                        help="Traefik (by default the one on the PATH, else it is installed)")
    for plural, what in (("commands", "command"), ("queries", "query")):
        parser.add_argument(f"--{plural}", required=True, metavar="URL,URL", help=f"the {what} services")
        parser.add_argument(f"--{plural}-ops-port", type=int, metavar="PORT", help="where each of them has /readyz: "
                            "with it, one of several that is not ready gets no requests")
    return parser.parse_args(argv)


def run(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    split_address("--addr", arguments.addr)  # checked before anything else
    names = ("--tls-cert", "--tls-key")
    gateway = Gateway(
        arguments.addr,
        Servers(tuple(arguments.commands.split(",")), arguments.commands_ops_port),
        Servers(tuple(arguments.queries.split(",")), arguments.queries_ops_port),
        check_certificate(arguments.tls_cert, arguments.tls_key, names), arguments.rate)
    program = arguments.program.absolute() if arguments.program else traefik(supervisor)
    log = arguments.log
    if not log:
        log = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-gateway-"))) / "gateway.log"
    process = gateway.start(supervisor, program, log.absolute())
    say(f"the gateway serves {gateway.url} (process {process.pid}, log {log})")
    while True:
        supervisor.check_alive()
        supervisor.pause()


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    return supervised(lambda supervisor: run(supervisor, arguments), stopped=(0, ""))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
