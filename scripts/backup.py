#!/usr/bin/env python3
"""Backups of the log's database in a repository of restic, encrypted: on a disk, or in object storage.

The same steps as the CronJob in manifests/components/backup: take, check, store, forget what is old, look at the
repository. A step begins when the one before it has ended well, so that no part of a backup is ever stored. Settings of
the services and of restic come from the environment: MONGODB_URI; RESTIC_REPOSITORY, RESTIC_PASSWORD or
RESTIC_PASSWORD_FILE, and what the storage wants (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).

  init             makes the repository, once
  take             makes a backup
  list             shows what there is
  fetch FILE       gets the newest backup, or the one that --snapshot names, out of the repository, and checks it
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from engines import restic  # noqa: E402
from supervisor import Failed, Supervisor, note, supervised  # noqa: E402

# Of what restic keeps in the repository, ours. The folder is another one each time.
HOST, NAME = "microblog", "microblog.backup"
KEEP = ("--keep-hourly=24", "--keep-daily=14", "--keep-weekly=8", "--keep-monthly=12")


class Commands:
    def __init__(self, supervisor: Supervisor, binary: str):
        self.supervisor = supervisor
        self.service, self.restic = binary, str(restic(supervisor))

    def run(self, name: str, *argv: str) -> None:
        code = self.supervisor.run(name, list(argv))
        if code:
            raise Failed(f"{name} ended with exit code {code}; the message above says why")

    def init(self, _arguments: argparse.Namespace) -> None:
        self.run("restic init", self.restic, "init")

    def take(self, _arguments: argparse.Namespace) -> None:
        folder = Path(tempfile.mkdtemp(prefix="microblog-backup-"))  # only its owner may look into it
        self.supervisor.temporary_folder(folder)
        try:
            file = str(folder / NAME)
            self.run("backup", self.service, "backup", file)
            self.run("check", self.service, "restore", "--check", file)
            # A restic that was killed has left its lock. One that runs keeps its own.
            self.run("restic unlock", self.restic, "unlock")
            self.run("restic backup", self.restic, "backup", "--host", HOST, file)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.run("restic forget", self.restic, "forget", "--host", HOST, "--group-by", "host", *KEEP, "--prune")
        self.run("restic check", self.restic, "check", "--read-data-subset=1%")

    def list(self, _arguments: argparse.Namespace) -> None:
        self.run("restic snapshots", self.restic, "snapshots", "--host", HOST)

    def fetch(self, arguments: argparse.Namespace) -> None:
        file = Path(arguments.file).absolute()
        if file.exists():
            raise Failed(f"{file} is there already")
        with tempfile.TemporaryDirectory(prefix=".microblog-", dir=file.parent) as folder:
            self.run("restic restore", self.restic, "restore", arguments.snapshot, "--host", HOST, "--target", folder)
            found = list(Path(folder).rglob(NAME))
            if len(found) != 1:
                raise Failed(f"the snapshot {arguments.snapshot} holds {len(found)} files named {NAME}")
            self.run("check", self.service, "restore", "--check", str(found[0]))
            found[0].rename(file)
        note(f"{file} can be restored: command-service restore {file}")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.environ.get("COMMAND_SERVICE") or "command-service", metavar="PROGRAM",
                        help="the command service, by default the one on the PATH")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in ("init", "take", "list"):
        commands.add_parser(name)
    fetch = commands.add_parser("fetch")
    fetch.add_argument("file", metavar="FILE")
    fetch.add_argument("--snapshot", default="latest", metavar="ID", help="as `list` shows it")
    return parser.parse_args(argv)


def main(supervisor: Supervisor) -> int:
    arguments = parse(sys.argv[1:])
    if not shutil.which(arguments.binary):
        raise Failed(f"there is no program {arguments.binary}: name the command service with --binary")
    if not os.environ.get("RESTIC_REPOSITORY") and not os.environ.get("RESTIC_REPOSITORY_FILE"):
        raise Failed("RESTIC_REPOSITORY is not set: a folder, or s3:https://s3.REGION.amazonaws.com/BUCKET/microblog")
    getattr(Commands(supervisor, arguments.binary), arguments.command)(arguments)
    return 0


if __name__ == "__main__":
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        parse(sys.argv[1:])
    sys.exit(supervised(main))
