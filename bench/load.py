#!/usr/bin/env python3
"""Loads a graph into a stack of its own, with the gateway in front, and lets k6 use it as people would.

The mix is 60 % home timeline, 30 % user timeline, 10 % compose, at a steady rate, with some follows beside it; the
scripts are in bench/k6/. At the end k6 says how long requests took and which limits were met: the mission's, and ours,
which are ten times tighter. An answer that is wrong, 429 or 5xx counts as failed. Binaries are those in
MICROBLOG_BIN_DIR, or are built. Ctrl-C ends it early: k6 still says what it has seen, and nothing is left behind.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from bench_stack import ROOT, SPARE, BenchStack, Used  # noqa: E402
from graph import friends  # noqa: E402
from engines import k6  # noqa: E402
from observe import direct  # noqa: E402
from supervisor import Failed, Process, Supervisor, say, supervised  # noqa: E402

SCENARIOS = {  # how long each is by default; the smoke test counts rounds instead
    "smoke": "1m", "mix": "1m", "spike": "20s", "soak": "30m"}
POSTS_EACH = 10
# More people than these do not act: what matters is how many there are, and a token for each takes time.
ACTORS = 2000
# Access tokens are good for 15 minutes, and k6 asks for others a minute before.
RENEW_SECONDS = 300
SAMPLE_SECONDS = 5
MEGABYTE = 1_000_000
# k6's exit code when a threshold is not met.
NOT_MET = 99


class LoadStack(BenchStack):
    """One process of each role, without limits for the one address that asks; and k6 counts as one of its processes."""

    def __init__(self, supervisor: Supervisor):
        super().__init__(supervisor, TRUSTED_PROXIES="127.0.0.1")
        self.roles = [role for role in self.roles if role.name != SPARE]
        self.k6: Process | None = None

    def processes(self) -> dict[str, int]:
        return super().processes() | ({"k6": self.k6.pid} if self.k6 else {})

    def check_alive(self) -> None:
        """Raises when one of the stack's own processes has ended."""
        for process in [*self.engines.values(), *(role.process for role in self.roles)]:
            if process.returncode() is not None:
                raise process.died()


class Tokens:
    """Gives k6 the access tokens of those who act, as they are now: {username: token}."""

    def __init__(self, stack: BenchStack, names: list[str]):
        self.stack, self.names = stack, names
        self.renew()
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(tokens.now).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/tokens"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def renew(self) -> None:
        self.now = self.stack.tokens(*self.names)
        self.made = time.monotonic()

    def renew_in_time(self) -> None:
        if time.monotonic() - self.made > RENEW_SECONDS:
            self.renew()


# --- the graph --------------------------------------------------------------------------------------------------

def edges_of(lines: Iterable[str]) -> list[tuple[int, int]]:
    """The edges of a list, as `command-service import` reads it; what it refuses, it reports."""
    edges = []
    for line in lines:
        words = line.removeprefix("\ufeff").split()
        if len(words) == 2 and all(word.isdecimal() for word in words) and words[0] != words[1]:
            edges.append((int(words[0]), int(words[1])))
    return edges


def followees_of(edges: list[tuple[int, int]], directed: bool) -> dict[int, set[int]]:
    """Whom each person of the graph follows."""
    follows: dict[int, set[int]] = defaultdict(set)
    for one, other in edges:
        follows[one].add(other)
        follows[other].update(() if directed else (one,))
    return follows


def people(follows: dict[int, set[int]], tokens: dict[str, str]) -> list[dict]:
    """What the scripts know of those who act."""
    return [{"user_id": subject(token), "username": name, "token": token, "posts": POSTS_EACH,
             "entries": POSTS_EACH * (1 + len(follows[int(name.removeprefix("user_"))]))}
            for name, token in tokens.items()]


def subject(token: str) -> str:
    """Whose access token it is."""
    claims = token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"])


def graph_of(file: Path | None) -> str:
    """The list of edges, as the file has it, or one that is drawn."""
    if not file:
        return "".join(f"{one} {other}\n" for one, other in friends())
    try:
        text = file.read_text()
    except (OSError, ValueError) as error:
        raise Failed(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    if not edges_of(text.splitlines()):
        raise Failed(f"{file} has no edges: a line `a b` for each friendship is wanted, two numbers")
    return text


def load_graph(stack: LoadStack, graph: str, directed: bool) -> Tokens:
    """Imports it and waits until it is folded; writes what the scripts are to know beside it."""
    target = stack.folder / "graph.edges"
    target.write_text(graph)
    edges = edges_of(graph.splitlines())
    follows = followees_of(edges, directed)
    say(f"Importing {len(follows):,} people, {sum(map(len, follows.values())):,} follows, {POSTS_EACH} posts of each")
    importing = [str(stack.binaries / "command-service"), "import", "--edges", str(target),
                 "--posts-per-user", str(POSTS_EACH), *([] if directed else ["--undirected"])]
    environment = {**stack.environment(stack.roles[0]), "RUST_LOG": "off"}
    if code := stack.supervisor.run("import", importing, env=environment, cwd=stack.folder):
        raise Failed(f"the graph could not be imported (exit code {code}), see above")
    say("Folding it")
    started = time.monotonic()
    stack.wait_until_folded()
    say(f"Folded after {time.monotonic() - started:.0f} s more")
    names = [f"user_{number}" for number in sorted(follows)]
    if len(names) > ACTORS:
        names = random.Random(1).sample(names, ACTORS)
    tokens = Tokens(stack, names)
    (stack.folder / "people.json").write_text(json.dumps(people(follows, tokens.now)))
    return tokens


# --- k6 ---------------------------------------------------------------------------------------------------------

def start_k6(supervisor: Supervisor, program: Path, arguments: argparse.Namespace, url: str, folder: Path,
             log: Path | None = None, **more: str) -> Process:
    """Starts the script of the scenario, with its output on the terminal or in the file. `more` is what it is told."""
    said = {
        "BASE_URL": url, "THRESHOLDS": arguments.thresholds, "RATE": str(arguments.rate), "VUS": str(arguments.vus),
        "DURATION": arguments.duration or SCENARIOS[arguments.scenario], **more}
    if arguments.summary:
        said["SUMMARY"] = str(arguments.summary.absolute())
    command = [str(program), "run", "--no-usage-report", "--address", "", *(
        word for name, value in said.items() for word in ("--env", f"{name}={value}"))]
    if not sys.stdout.isatty():
        command += ["--no-color"]
    script = ROOT / "bench" / "k6" / f"{arguments.scenario}.js"
    # What this terminal says for another k6 is not for this one, and our own stack is not asked through a proxy.
    environment = {name: value for name, value in (os.environ if arguments.url else direct()).items()
                   if not name.startswith("K6_")}
    return supervisor.start("k6", [*command, str(script)], env=environment, cwd=folder, log=log)


def follow_through(supervisor: Supervisor, process: Process, stack: LoadStack | None, tokens: Tokens | None) -> int:
    """Waits until k6 has ended; meanwhile renews tokens and looks after the stack. Returns k6's exit code."""
    samples: list[Used] = []
    sample_at = time.monotonic() + SAMPLE_SECONDS  # k6 has read its script by then
    while process.returncode() is None:
        if stack:
            stack.check_alive()
            if tokens:
                tokens.renew_in_time()
            if time.monotonic() > sample_at:
                samples.append(stack.used())
                sample_at = time.monotonic() + SAMPLE_SECONDS
        supervisor.pause()
    code = process.returncode()
    supervisor.stop(process)
    if len(samples) > 1:
        say(used(samples))
    return code


def used(samples: list[Used]) -> str:
    """A line for each process: cores, and memory at the beginning and at the end."""
    first, last = samples[0], samples[-1]
    seconds = last.at - first.at
    lines = [f"{name:<28}{cpu / seconds:5.2f} cores  {first.resident[name] / MEGABYTE:6.0f} MB, then "
             f"{last.resident[name] / MEGABYTE:6.0f} MB" for name, cpu in sorted(last.since(first).items())]
    return "\n".join([f"In {seconds:.0f} s these used:", *lines])


def run(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    program = k6(supervisor)
    if arguments.url:
        folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-load-")))
        process = start_k6(supervisor, program, arguments, arguments.url, folder, ACCOUNTS=str(arguments.accounts))
        code = follow_through(supervisor, process, None, None)
    else:
        # One client of the smoke test needs few people: k6 registers them.
        graph = graph_of(arguments.graph) if arguments.graph or arguments.scenario != "smoke" else None
        stack = LoadStack(supervisor)
        say(f"Starting a stack in {stack.folder}")
        stack.start()
        gateway = stack.start_gateway()
        tokens, more = None, {}
        if graph:
            tokens = load_graph(stack, graph, arguments.directed)
            more = {"USERS": str(stack.folder / "people.json"), "TOKENS_URL": tokens.url}
        say(f"k6 runs bench/k6/{arguments.scenario}.js against {gateway.url}")
        process = stack.k6 = start_k6(supervisor, program, arguments, gateway.url, stack.folder, **more)
        code = follow_through(supervisor, process, stack, tokens)
    if code not in (0, NOT_MET):
        raise Failed(f"k6 ended with exit code {code}, see above")
    return 1 if code else 0


# --- the command line -------------------------------------------------------------------------------------------

def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     prog="load.py")
    parser.add_argument("--scenario", choices=SCENARIOS, default="mix",
                        help="smoke: each call ten times; mix: steadily; spike: ten times as much in the middle; soak: "
                        "for long (%(default)s)")
    parser.add_argument("--duration", metavar="TIME", help="such as 90s or 1m30s; of a spike, of each of its three phases "
                        f"({', '.join(f'{name} {time}' for name, time in SCENARIOS.items() if name != 'smoke')})")
    parser.add_argument("--rate", type=positive, default=100, metavar="N",
                        help="requests a second, and a twentieth of it follows (%(default)s)")
    parser.add_argument("--vus", type=positive, default=100, metavar="N", help="requests at once, at most (%(default)s)")
    parser.add_argument("--thresholds", choices=("mission", "own"), default="mission",
                        help="which limits decide about the exit code; both are reported (%(default)s)")
    parser.add_argument("--graph", type=Path, metavar="FILE", help="who follows whom: a line `a b` for each friendship, "
                        "as in network repositories (a drawn graph of 962 people and 18,812 friendships)")
    parser.add_argument("--directed", action="store_true", help="a line `a b` says only that a follows b")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="k6's figures, in JSON")
    parser.add_argument("--url", help="a gateway that serves already: nothing is started or imported, and its limits "
                        "hold; k6 registers people through the API")
    parser.add_argument("--accounts", type=positive, default=20, metavar="N",
                        help="how many it registers, with --url (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.url and arguments.graph:
        parser.error("--graph is for a stack of its own: not with --url")
    return arguments


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    return supervised(lambda supervisor: run(supervisor, arguments), stopped=(130, "Stopped."))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
