#!/usr/bin/env python3
"""Converts the Postman collection to a script for k6, runs it through a gateway, and says whether all of it has run.

k6 ends with 0 where a script breaks off half way or a check fails, and the converter where it cannot convert. So this
fails if a check has failed, if anything was logged as an error, or if there were fewer requests than the collection
has. Before, it lets the second request's test break off, and fails if that would not be noticed.

Without --url it starts a stack of its own, with the binaries in MICROBLOG_BIN_DIR or those that it builds.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from check_postman import COLLECTION, ROOT, requests_of  # noqa: E402
from engines import k6, postman_to_k6, with_node  # noqa: E402
from own_stack import Stack  # noqa: E402
from supervisor import Failed, Supervisor, say, supervised  # noqa: E402

# The collection asks faster than people do, from one address.
SETTINGS = {"IP_RATE_PER_SECOND": "1000", "TRUSTED_PROXIES": "127.0.0.1"}


def run(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    programs = postman_to_k6(supervisor), k6(supervisor)
    url = arguments.url
    if not url:
        stack = Stack(supervisor, **SETTINGS)
        say("Starting a stack")
        stack.start()
        url = stack.start_gateway().url
    collection = json.loads((ROOT / COLLECTION).read_text())
    folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-k6-")))
    if not problems_of(supervisor, programs, broken(collection), url.rstrip("/"), folder / "broken")[0]:
        raise Failed("a test that breaks off is not noticed")
    problems, figures = problems_of(supervisor, programs, collection, url.rstrip("/"), folder / "whole")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    say(f"postman-to-k6: {figures}, {len(problems)} problems")
    return 1 if problems else 0


def broken(collection: dict) -> dict:
    """The same with a test that cannot run to its end."""
    changed = copy.deepcopy(collection)
    folder = changed["item"][0]
    test = next(event for event in folder["item"][1]["event"] if event["listen"] == "test")
    test["script"]["exec"] = ["pm.no_such_thing.at_all();"]
    return changed


def problems_of(supervisor: Supervisor, programs: tuple[Path, Path], collection: dict, url: str,
                folder: Path) -> tuple[list[str], str]:
    """Converts and runs it in the folder, which it makes. Returns what is wrong, and how much there was."""
    converter, runner = programs
    folder.mkdir()
    environment = {"name": "here", "_postman_variable_scope": "environment", "values": [
        {"key": name, "value": url, "enabled": True} for name in ("command_url", "query_url")]}
    for name, content in (("collection.json", collection), ("environment.json", environment)):
        (folder / name).write_text(json.dumps(content))
    script, log, summary = folder / "script.js", folder / "log", folder / "summary.json"
    said = {**with_node(supervisor), "NO_PROXY": "*", "no_proxy": "*"}
    code = supervisor.run("postman-to-k6", [
        str(converter), "collection.json", "--environment", "environment.json", "--output", str(script)],
        env=said, cwd=folder, log=folder / "converted")
    if code or not script.exists():
        raise Failed(f"the collection cannot be converted: {(folder / 'converted').read_text().strip()}")
    code = supervisor.run("k6", [
        str(runner), "run", "--quiet", "--no-usage-report", "--address", "", "--summary-export", str(summary),
        "--log-output", f"file={log}", "--log-format", "json", str(script)],
        env={name: value for name, value in said.items() if not name.startswith("K6_")}, cwd=folder,
        log=folder / "printed")
    if not summary.exists():
        raise Failed(f"k6 ended with {code}: {(folder / 'printed').read_text().strip()[-2000:]}")
    return judge(code, json.loads(summary.read_text()), log.read_text(), sum(1 for _ in requests_of(collection["item"])))


def judge(code: int, summary: dict, log: str, requests: int) -> tuple[list[str], str]:
    """What is wrong with a run of so many requests, by k6's exit code, summary and log; and a line about it."""
    made = summary["metrics"].get("http_reqs", {}).get("count", 0)
    checks = list(checks_of(summary["root_group"]))
    problems = [f"k6 ends with exit code {code}"] if code else []
    if made < requests:
        problems.append(f"{made} requests of {requests} were made")
    problems += [f"“{check['path'].removeprefix('::').replace('::', ' / ')}” failed {check['fails']} times"
                 for check in checks if check["fails"]]
    for line in log.splitlines():
        entry = json.loads(line)
        if entry.get("level") in ("error", "fatal", "panic"):
            problems.append(f"k6 says: {entry['msg']}")
    passed = sum(check["passes"] for check in checks)
    if not passed:
        problems.append("nothing was checked")
    return problems, f"{made} requests of {requests}, {passed} checks passed"


def checks_of(group: dict):
    yield from group["checks"].values() if isinstance(group["checks"], dict) else group["checks"]
    for inner in group["groups"].values() if isinstance(group["groups"], dict) else group["groups"]:
        yield from checks_of(inner)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     prog="postman_k6.py")
    parser.add_argument("--url", help="a gateway that serves already; SSL_CERT_FILE names the authority that signed its "
                        "certificate, if the system does not know it")
    arguments = parser.parse_args(argv)
    return supervised(lambda supervisor: run(supervisor, arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
