#!/usr/bin/env python3
"""Lints the OpenAPI documents with Redocly's linter. That they are what the code says, unit tests of the services check."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from engines import redocly, with_node  # noqa: E402
from supervisor import Supervisor, supervised  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ROOT / "docs" / "openapi"


def main(supervisor: Supervisor) -> int:
    # It would ask other hosts for a later version, and tell them that it runs.
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "CI": "true"}
    files = sorted(str(file.relative_to(ROOT)) for file in DOCUMENTS.glob("*.json"))
    lint = [str(redocly(supervisor)), "lint", "--config", str(DOCUMENTS / "redocly.yaml"), *files]
    output = supervisor.temporary_folder(Path(os.environ.get("TMPDIR", "/tmp")) / f"microblog-lint-{os.getpid()}")
    output.mkdir()
    log = output / "log"
    if code := supervisor.run("redocly", lint, cwd=ROOT, env={**with_node(supervisor), **quiet}, log=log):
        print(log.read_text(), file=sys.stderr)
        return code
    print(f"{len(files)} OpenAPI documents: Redocly finds nothing wrong with them")
    return 0


if __name__ == "__main__":
    sys.exit(supervised(main))
