#!/usr/bin/env python3
"""Rotates a secret while everything runs: the key that signs access tokens, or the password of the services at the broker
or at the database. No request is refused and nothing is lost on the way.

It looks at what is there and goes on from that: it may be interrupted at any point, and run again. `--back` goes back to
what was before instead. It prints no secret, and hands none over in arguments. docs/rotation.md says what it does when.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import stat
import sys
import time
import urllib.request
from pathlib import Path
from typing import Iterator

import signing_keys
from make_secrets import NAMESPACE, ROOT, Failed
from rotate_cluster import Cluster
from rotate_passwords import Broker, Database


# How long somebody may be away before it is said.
LOOK_SECONDS = 5


def say(line: str) -> None:
    print(line, flush=True)


class Files:
    """Processes that read the keys from one file: those of `make run`, or replicas on machines of your own."""

    def __init__(self, path: Path, ops: list[str]):
        self.path, self.ops, self.known = path, ops, ""

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Two at once would undo each other's steps. The folder is locked, for the file is replaced."""
        self.read_keys()
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Failed(f"somebody else rotates {self.path} at this moment: wait for that, or interrupt it") from error
            yield
        finally:
            os.close(folder)

    def read_keys(self) -> str:
        try:
            self.known = self.path.read_text()
            return self.known
        except OSError as error:
            raise Failed(f"{self.path} cannot be read ({error.strerror}): a service makes it at its first start") from error

    def write_keys(self, text: str) -> None:
        """Renamed into place with the rights and the owner of the one before: whoever reads it finds it whole."""
        if self.path.read_text() != self.known:
            raise Failed(f"somebody else has changed {self.path} meanwhile: nothing was written. Look at it, then run this again, "
                         "or with --back")
        before, partial = self.path.stat(), self.path.with_name(f".{self.path.name}.partial")
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)
        self.known = text

    def look(self) -> None:
        """Fails where nobody answers at all, before anything is changed. One that is away may be in a restart."""
        end = time.monotonic() + LOOK_SECONDS
        while away := [address for address in self.ops if not self.ask(address)]:
            if time.monotonic() > end:
                if len(away) == len(self.ops):
                    raise Failed(f"nothing answers at {', '.join(away)}: start the services first (`make run`), or name where they "
                                 "are with --ops. The keys were not changed")
                say(f"nothing answers at {', '.join(away)}, which is waited for: start it, or leave it out of --ops")
                return
            time.sleep(0.5)

    def replicas(self, only_ready: bool) -> list[tuple[str, dict]]:
        """All whose addresses were named: of these somebody said that they are there."""
        return [(address, self.ask(address)) for address in self.ops]

    @staticmethod
    def ask(address: str) -> dict:
        """What a replica says of its keys; nothing if it does not answer."""
        # No proxy of the environment: it is one of ours.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{address}/keys", timeout=2) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return {}


def rotate_key(arguments: argparse.Namespace) -> None:
    place = cluster(arguments) if arguments.cluster else Files(arguments.file, arguments.ops)
    if arguments.leaked and (arguments.back or arguments.stop_after):
        raise Failed("--leaked goes to the end: without --back and --stop-after")
    rotation = signing_keys.Rotation(place, say, waits=not arguments.no_wait, leaked=arguments.leaked)
    with contextlib.nullcontext() if arguments.cluster else place.alone():
        if not arguments.cluster:
            place.look()
        if arguments.back:
            rotation.back(arguments.stop_after)
        else:
            rotation.forward(arguments.stop_after)
    if arguments.cluster and arguments.leaked:
        # Whoever had the key may have made a token that never ends, and a live stream is asked for its token once.
        place.restart("query-api")


def rotate_broker(arguments: argparse.Namespace) -> None:
    Broker(cluster(arguments), say).rotate(arguments.back)


def rotate_database(arguments: argparse.Namespace) -> None:
    Database(cluster(arguments), say).rotate(arguments.back)


def cluster(arguments: argparse.Namespace) -> Cluster:
    return Cluster(arguments.cluster, NAMESPACE, say, mirror=arguments.mirror, aws=arguments.aws,
                   overlay=getattr(arguments, "overlay", None))


def addresses(text: str) -> list[str]:
    return [address.strip() for address in text.split(",") if address.strip()]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    secrets = parser.add_subparsers(dest="secret", required=True, metavar="SECRET")
    key = secrets.add_parser("key", help="the key that signs access tokens",
                             description="Without --cluster: where all replicas read one file, as with `make run`.")
    key.set_defaults(rotate=rotate_key)
    key.add_argument("--stop-after", choices=["publish", "sign"], help="leave the rest to a later run")
    key.add_argument("--leaked", action="store_true",
                     help="others know the file: with --no-wait, to the end, with a key that was not in it; waits only for replicas "
                          "that are ready, and restarts the query API in a cluster. Clients are refused once, and refresh")
    key.add_argument("--no-wait", action="store_true",
                     help=f"waits for the replicas, but not until tokens of the old key have ended ({signing_keys.LIFETIME_SECONDS} "
                          f"s), nor for those who keep the key set ({signing_keys.KEPT_SECONDS} s)")
    data = Path(os.environ.get("DATA") or ROOT / ".data")
    key.add_argument("--file", type=Path, default=data / "jwt.pem", help="JWT_PRIVATE_KEY_FILE; default: that of make run")
    ops = ",".join([os.environ.get("COMMAND_OPS_ADDR") or "127.0.0.1:9081", os.environ.get("QUERY_OPS_ADDR") or "127.0.0.1:9082"])
    key.add_argument("--ops", type=addresses, default=addresses(ops), metavar="ADDRESS,…",
                     help="the operator's ports of all replicas of both services; default: those of make run")
    broker = secrets.add_parser("broker", help="the services' password at NATS")
    broker.set_defaults(rotate=rotate_broker)
    database = secrets.add_parser("database", help="the services' password at MongoDB")
    database.set_defaults(rotate=rotate_database)
    database.add_argument("--overlay", type=Path, required=True, metavar="FOLDER",
                          help="the manifests that were applied, such as manifests/overlays/minikube: its Job runs")
    for one in (key, broker, database):
        one.add_argument("--back", action="store_true", help="go back to what was before")
        one.add_argument("--cluster", metavar="CONTEXT", required=one is not key, help="a context of kubectl")
        one.add_argument("--mirror", type=Path, metavar="FOLDER",
                         help="the folder of make_secrets.py that the cluster's Secrets were made from (.data/minikube): it is "
                              "kept in step")
        one.add_argument("--aws", action="store_true",
                         help="secrets are in AWS Secrets Manager, and External Secrets brings them into the cluster")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    os.umask(0o077)
    try:
        arguments.rotate(arguments)
    except (Failed, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run it again to go on from here, or with --back", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
