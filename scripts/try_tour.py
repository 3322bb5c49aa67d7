#!/usr/bin/env python3
"""Runs docs/tour.md as it stands there, in one shell, against a stack of its own, and compares what is answered.

A block of `json` or `text` is the output of the commands before it. Ids, times and tokens may be other ones, and what
`grep` finds among headers may come in any order; everything else must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from dev import start_temporary_stack  # noqa: E402
from engines import need  # noqa: E402
from procedures import ROOT  # noqa: E402
from supervisor import Failed, Supervisor, say, supervised  # noqa: E402

DOCUMENT = ROOT / "docs" / "tour.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8080"
# No call waits, but the live stream for its one entry.
BLOCK_SECONDS = 30
VARIES = (
    (re.compile(r"\b[0-9]{15,19}\b"), "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"(?<=X-Consistency-Token: )\S+"), "TOKEN"),
    (re.compile(r'(?<="posts";r=299;t=)\d+|(?<="address";r=)\d+;t=\d+'), "LEFT"),
    (re.compile(r'(?<="request_id":")[^"]*'), "REQUEST"),
)


def steps(document: str) -> list[tuple[str, str | None]]:
    """Each block of commands, with what it must print where that is told."""
    found: list[tuple[str, str | None]] = []
    for kind, text in BLOCK.findall(document):
        if kind == "sh":
            found.append((text, None))
        elif kind not in ("json", "text") or not found or found[-1][1] is not None:
            raise Failed(f"{DOCUMENT.name}: a block of `{kind}` follows no commands: {text[:60]!r}")
        else:
            found[-1] = (found[-1][0], text)
    if not any(wanted for _, wanted in found):
        raise Failed(f"{DOCUMENT.name} has no commands with an answer")
    return found


def alike(text: str) -> list[object]:
    """What two outputs have in common if they say the same."""
    for pattern, word in VARIES:
        text = pattern.sub(word, text)
    lines = text.strip().splitlines()
    if lines and lines[0].startswith("HTTP/"):
        lines = lines[:1] + sorted(lines[1:], key=str.lower)
    return [json.loads(line) if line.startswith("{") else line.strip() for line in lines]


def run(supervisor: Supervisor, _arguments: argparse.Namespace) -> int:
    need("curl", "the tour is made of calls of it")
    blocks = steps(DOCUMENT.read_text())
    environment = start_temporary_stack(supervisor)
    if "GATEWAY_ADDR" not in environment:
        raise Failed("the tour goes through the gateway, which GATEWAY=off leaves out")
    folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-tour-")))
    # What runs on this machine is not asked for through a proxy.
    shell = subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             cwd=folder, env={**os.environ, "NO_PROXY": "*", "no_proxy": "*", "TMPDIR": str(folder)})
    wrong = 0
    try:
        for number, (commands, wanted) in enumerate(blocks, 1):
            commands = commands.replace(ADDRESS, f"http://{environment['GATEWAY_ADDR']}")
            printed = ask(shell, commands)
            supervisor.check_alive()
            if wanted is None and not printed or wanted is not None and same(printed, wanted):
                continue
            wrong += 1
            say(f"block {number} of {DOCUMENT.name}:\n{commands}\nwanted: {wanted or 'no output'}\nprinted: {printed}")
    finally:
        shell.kill()
        shell.wait()
    say(f"{DOCUMENT.name}: {len(blocks)} blocks run, {sum(1 for _, wanted in blocks if wanted)} answers compared, "
        f"{wrong} wrong")
    return 1 if wrong else 0


def same(printed: str, wanted: str) -> bool:
    try:
        return alike(printed) == alike(wanted)
    except ValueError:
        return False


def ask(shell: subprocess.Popen, commands: str) -> str:
    """What the shell prints until it has carried them out."""
    end = "-- end of the block --"
    watchdog = threading.Timer(BLOCK_SECONDS, shell.kill)
    watchdog.start()
    try:
        shell.stdin.write(f"{commands}\necho; echo '{end}'\n")
        shell.stdin.flush()
        lines = []
        for line in shell.stdout:
            if line.strip() == end:
                return "".join(lines).strip()
            lines.append(line)
    except OSError as error:
        raise Failed(f"the shell ended: {error}") from None
    finally:
        watchdog.cancel()
    raise Failed(f"these commands took more than {BLOCK_SECONDS} s, or ended the shell:\n{commands}")


def main(argv: list[str]) -> int:
    arguments = argparse.ArgumentParser(description=__doc__,
                                        formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    return supervised(lambda supervisor: run(supervisor, arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
