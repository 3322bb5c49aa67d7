#!/usr/bin/env python3
"""Checks every crate we depend on against deny.toml: its licence, where it comes from, and that it is welcome.

The file is cargo-deny's; this enforces the part of it that we use, in a second and without building cargo-deny.
The lock file must be up to date.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

try:
    import tomllib
except ImportError:  # before Python 3.11; pip brings the same parser
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
KNOWN_KEYS = {
    "licenses": {"allow"},
    "bans": {"multiple-versions", "deny"},
    "sources": {"unknown-registry", "unknown-git", "allow-registry"},
}


def main() -> int:
    policy = tomllib.loads((ROOT / "deny.toml").read_text())
    unknown = [f"{section}.{key}" for section, keys in policy.items() for key in keys
               if key not in KNOWN_KEYS.get(section, ())]
    if unknown:
        print(f"error: deny.toml: {', '.join(unknown)} would not be enforced", file=sys.stderr)
        return 1
    metadata = subprocess.run(["cargo", "metadata", "--locked", "--all-features", "--format-version", "1"],
                              cwd=ROOT, stdout=subprocess.PIPE)
    if metadata.returncode:
        return metadata.returncode  # cargo has said why
    metadata = json.loads(metadata.stdout)
    packages = metadata["packages"]
    crates = [package for package in packages if package["source"]]  # without our own
    problems = [*licences(crates, policy), *bans(crates, policy), *sources(crates, policy),
                *crypto_providers(metadata["resolve"])]
    for problem in sorted(problems):
        print(f"error: {problem}", file=sys.stderr)
    if not problems:
        print(f"{len(crates)} dependencies: licences, sources and bans are in order, and one crypto provider")
    return 1 if problems else 0


def licences(crates: list[dict], policy: dict):
    allowed = set(policy["licenses"]["allow"])
    for crate in crates:
        if not crate["license"]:
            yield f"{described(crate)} names no licence"
        elif not accepts(crate["license"], allowed):
            yield f"{described(crate)}: its licence, {crate['license']}, is not allowed"


def bans(crates: list[dict], policy: dict):
    by_name = defaultdict(list)
    for crate in crates:
        by_name[crate["name"]].append(crate["version"])
    for ban in policy["bans"]["deny"]:
        versions = by_name[ban["crate"]]
        if not ban.get("deny-multiple-versions"):
            yield from (f"{ban['crate']} {version} is banned" for version in versions)
        elif len(versions) > 1:
            yield f"{ban['crate']} is here in {len(versions)} versions: {', '.join(versions)}"


def sources(crates: list[dict], policy: dict):
    allowed = {f"registry+{registry}" for registry in policy["sources"]["allow-registry"]}
    for crate in crates:
        if crate["source"] not in allowed:
            yield f"{described(crate)} comes from {crate['source']}"


def crypto_providers(resolve: dict):
    """rustls panics at the first handshake where it has two providers and none is installed; we install aws-lc-rs."""
    for node in resolve["nodes"]:
        name = re.search(r"(?:/|#)([\w-]+)[@#]?[\d.]*$", node["id"])
        if name and name[1] == "rustls":
            providers = sorted({"aws_lc_rs", "aws-lc-rs", "ring"} & set(node["features"]))
            if "ring" in providers or not providers:
                yield (f"rustls is compiled with {', '.join(providers) or 'no provider'}: `cargo tree -e features -i "
                       "rustls` says who asks for it; aws-lc-rs alone is wanted")
            return
    yield "rustls is not among the dependencies: check crypto_providers in scripts/check_dependencies.py"


def described(crate: dict) -> str:
    return f"{crate['name']} {crate['version']}"


def accepts(expression: str, allowed: set[str]) -> bool:
    """Evaluates an SPDX expression: AND binds before OR; a slash is the old way to write OR."""
    tokens = re.findall(r"[()]|[^()\s]+", re.sub(r"\s*/\s*", " OR ", expression))
    tokens = re.sub(r" (?i:with) ", "\0", " ".join(tokens)).split(" ")  # a licence and its exception are one

    def either() -> bool:
        verdict = both()
        while tokens and tokens[0].upper() == "OR":
            tokens.pop(0)
            verdict = both() or verdict
        return verdict

    def both() -> bool:
        verdict = one()
        while tokens and tokens[0].upper() == "AND":
            tokens.pop(0)
            verdict = one() and verdict
        return verdict

    def one() -> bool:
        token = tokens.pop(0)
        if token != "(":
            return token.replace("\0", " WITH ") in allowed
        verdict = either()
        tokens.pop(0)  # the closing parenthesis
        return verdict

    return either()


if __name__ == "__main__":
    sys.exit(main())
