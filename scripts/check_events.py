#!/usr/bin/env python3
"""Checks docs/asyncapi.yaml: by the parser of the AsyncAPI initiative, and against the kinds of events and the golden
messages (scripts/event_contract.py). That messages which are really published fit it, `make test` checks
(scripts/check_streams.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from engines import from_npm, from_wheel, with_node  # noqa: E402
from supervisor import Supervisor, note, supervised  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PARSER_VERSION = "3.6.3"
# What reads streams and judges messages. xxhash computes the chain.
LIBRARIES = (("nats-py", "2.16.0"), ("jsonschema-rs", "0.60.3"), ("xxhash", "4.1.0"), ("pyyaml", "6.0.4"))


def main(supervisor: Supervisor) -> int:
    document = ROOT / "docs" / "asyncapi.yaml"
    modules = from_npm(supervisor, f"asyncapi-parser-{PARSER_VERSION}", f"@asyncapi/parser@{PARSER_VERSION}")
    parsed = subprocess.run(["node", ROOT / "scripts" / "parse_asyncapi.mjs", modules, document],
                            capture_output=True, text=True, env=with_node(supervisor))
    for line in (parsed.stdout + parsed.stderr).splitlines():
        note(f"error: docs/asyncapi.yaml: {line}")
    checked = supervisor.run("event_contract", [str(python_with_libraries(supervisor)), "-B",
                                                str(ROOT / "scripts" / "event_contract.py")])
    return parsed.returncode or checked


def python_with_libraries(supervisor: Supervisor) -> Path:
    """A Python in the cache that has what event_contract.py and read_streams.py import."""
    return [from_wheel(supervisor, package, version, "python3") for package, version in LIBRARIES][-1]


if __name__ == "__main__":
    sys.exit(supervised(main))
