#!/usr/bin/env python3
"""Makes clients of docs/openapi/microblog.json with generators from npm and PyPI, and has each of them sign up, post and
read, through the gateway of a stack of its own or at the address in URL."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from dev import gateway_of, start_temporary_stack  # noqa: E402
from engines import from_npm, from_pypi, with_node  # noqa: E402
from supervisor import Failed, Supervisor, supervised  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "openapi" / "microblog.json"
PROGRAMS = ROOT / "tests" / "openapi"

OPENAPI_TYPESCRIPT_VERSION = "7.13.0"
OPENAPI_FETCH_VERSION = "0.17.0"
TYPESCRIPT_VERSION = "5.9.3"
NODE_TYPES_VERSION = "20.19.0"
PYTHON_CLIENT_VERSION = "0.29.1"


def main(supervisor: Supervisor) -> int:
    folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-clients-")))
    url = os.environ.get("URL") or gateway_of(start_temporary_stack(supervisor)).url
    environment = {"URL": url, "NO_PROXY": "*", "no_proxy": "*"}
    typescript(supervisor, folder, environment)
    python(supervisor, folder, environment)
    return 0


def typescript(supervisor: Supervisor, folder: Path, environment: dict[str, str]) -> None:
    """openapi-typescript's types, checked by the compiler, and openapi-fetch."""
    root = from_npm(
        supervisor, f"openapi-typescript-{OPENAPI_TYPESCRIPT_VERSION}",
        f"openapi-typescript@{OPENAPI_TYPESCRIPT_VERSION}", f"openapi-fetch@{OPENAPI_FETCH_VERSION}",
        f"typescript@{TYPESCRIPT_VERSION}", f"@types/node@{NODE_TYPES_VERSION}")
    (folder / "node_modules").symlink_to(root / "node_modules")
    (folder / "package.json").write_text(json.dumps({"type": "module"}))
    (folder / "client.ts").write_text((PROGRAMS / "client.ts").read_text())
    node = with_node(supervisor)
    programs = root / "node_modules" / ".bin"
    run(supervisor, folder, node, str(programs / "openapi-typescript"), str(DOCUMENT), "--output", "microblog.d.ts")
    run(supervisor, folder, node, str(programs / "tsc"), "--strict", "--module", "nodenext", "--target", "es2022",
        "--skipLibCheck", "--types", "node", "client.ts")
    run(supervisor, folder, {**node, **environment}, "node", "client.js")


def python(supervisor: Supervisor, folder: Path, environment: dict[str, str]) -> None:
    programs = from_pypi(supervisor, f"openapi-python-client-{PYTHON_CLIENT_VERSION}",
                         f"openapi-python-client=={PYTHON_CLIENT_VERSION}")
    inside = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    run(supervisor, folder, inside, "openapi-python-client", "generate", "--path", str(DOCUMENT), "--meta", "none",
        "--output-path", str(folder / "microblog_client"), "--fail-on-warning")
    run(supervisor, folder, {**inside, **environment, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        "python3", str(PROGRAMS / "client.py"))


def run(supervisor: Supervisor, folder: Path, environment: dict[str, str], *command: str) -> None:
    if code := supervisor.run(Path(command[0]).name, list(command), cwd=folder, env=environment):
        raise Failed(f"{' '.join(command)} ended with {code}; its message is above")


if __name__ == "__main__":
    sys.exit(supervised(main))
