#!/usr/bin/env python3
"""Schemathesis against a stack of its own: every operation of docs/openapi/microblog.json, through the gateway, with all
checks in all phases. Nothing may answer 5xx, and nothing otherwise than the document says.

Limits are off, or they would answer the most of it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from dev import gateway_of, start_temporary_stack  # noqa: E402
from engines import from_pypi  # noqa: E402
from supervisor import Supervisor, supervised  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "openapi" / "microblog.json"
TESTS = ROOT / "tests" / "openapi"
SCHEMATHESIS_VERSION = "4.32.5"


def main(supervisor: Supervisor) -> int:
    programs = from_pypi(supervisor, f"schemathesis-{SCHEMATHESIS_VERSION}", f"schemathesis=={SCHEMATHESIS_VERSION}")
    os.environ.update(IP_RATE_PER_SECOND="0", POST_QUOTA="1000000000")
    url = gateway_of(start_temporary_stack(supervisor)).url
    folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-schemathesis-")))
    statuses = folder / "statuses"
    environment = {
        **os.environ, "MICROBLOG_URL": url, "MICROBLOG_STATUSES": str(statuses), "PYTHONPATH": str(TESTS),
        "PYTHONDONTWRITEBYTECODE": "1", "NO_PROXY": "*", "no_proxy": "*"}
    code = supervisor.run("schemathesis", [
        str(programs / "schemathesis"), "--config-file", str(TESTS / "schemathesis.toml"), "--no-color", "run",
        str(DOCUMENT), "--url", url, *sys.argv[1:]], cwd=folder, env=environment)
    supervisor.check_alive()
    if statuses.exists():
        tell(json.loads(statuses.read_text()))
    return code


def tell(statuses: dict[str, dict[str, int]]) -> None:
    for operation, seen in statuses.items():
        print(f"{operation:<48} {'  '.join(f'{status}: {count}' for status, count in seen.items())}")
    total = sum(count for seen in statuses.values() for count in seen.values())
    faults = sum(count for seen in statuses.values() for status, count in seen.items() if status >= "500")
    print(f"{len(statuses)} operations, {total} answers, {faults} of them 5xx")


if __name__ == "__main__":
    sys.exit(supervised(main))
