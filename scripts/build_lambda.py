#!/usr/bin/env python3
"""Packs what manifests/aws/serverless.yaml deploys into target/lambda/: a zip for each function, with `bootstrap` and the
service's binary, and one for the layer, with the adapter between Lambda and HTTP.

The binaries are those in MICROBLOG_BIN_DIR, else they are built. They are for x86_64 and Amazon Linux 2023.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from engines import from_crate, need  # noqa: E402
from dev import binaries  # noqa: E402
from supervisor import Failed, Supervisor, say, supervised  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "target" / "lambda"
BOOTSTRAPS = ROOT / "manifests" / "aws" / "lambda"
SERVICES = ("command-service", "query-service")
# AWS Lambda Web Adapter: Apache-2.0, it is run, never linked.
ADAPTER_VERSION = "0.9.1"
# Of Amazon Linux 2023, in which functions run.
GLIBC = (2, 34)
# Lambda's limit for a function and its layers, unpacked.
UNPACKED_BYTES = 250 * 1024 * 1024


def main(supervisor: Supervisor) -> int:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Failed("functions are packed on Linux for x86_64 only, so far; build in a container of that kind")
    need("strip", "install binutils (Debian, Ubuntu: apt install binutils)")
    adapter, folder = lambda_adapter(supervisor), binaries(supervisor)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="microblog-lambda-") as temporary:
        layer = stripped(adapter, Path(temporary))
        pack(FOLDER / "adapter.zip", {"extensions/lambda-adapter": layer})
        for service in SERVICES:
            program = stripped(folder / service, Path(temporary))
            size = program.stat().st_size + layer.stat().st_size
            if size > UNPACKED_BYTES:
                raise Failed(f"{service} and the adapter have {size} bytes, and Lambda takes {UNPACKED_BYTES}")
            pack(FOLDER / f"{service}.zip", {"bootstrap": BOOTSTRAPS / f"{service}.sh", service: program})
    return 0


def lambda_adapter(supervisor: Supervisor) -> Path:
    """The adapter, as crates.io has it."""
    return from_crate(
        supervisor, "lambda-adapter", "lambda_web_adapter", ADAPTER_VERSION, "lambda-adapter",
        f"Building the adapter (lambda_web_adapter {ADAPTER_VERSION}): a minute or two, once.",
        "the adapter could not be built, see above")


def stripped(program: Path, folder: Path) -> Path:
    """A copy without symbols, which runs on Amazon Linux."""
    if not program.exists():
        raise Failed(f"there is no {program}")
    copy = folder / program.name
    subprocess.run(["strip", "-o", copy, program], check=True)
    versions = {tuple(map(int, found)) for found in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", copy.read_bytes())}
    if max(versions, default=GLIBC) > GLIBC:
        raise Failed(f"{program.name} needs glibc {'.'.join(map(str, max(versions)))}, and Amazon Linux 2023 has "
                     f"{'.'.join(map(str, GLIBC))}: build it on Debian 12, for example in rust:1.95-slim-bookworm")
    return copy


def pack(path: Path, files: dict[str, Path]) -> None:
    """The same zip for the same files, so that what has not changed is not deployed again."""
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            entry = zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0))
            entry.external_attr = 0o100755 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())
    partial.replace(path)
    say(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e6:.1f} MB: {', '.join(files)}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.exit(supervised(main))
