#!/usr/bin/env python3
"""Tries the web page in Chromium, on a stack of its own with the gateway in front: tests/web/page.mjs says what.

It takes half a minute. It wants `chromium` on the PATH (Debian, Ubuntu: apt install chromium), gets playwright-core and
axe-core from npm into the cache, and uses the binaries in MICROBLOG_BIN_DIR, or builds them if that is not set.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from engines import free_ports, from_npm, traefik, with_node  # noqa: E402
from gateway import Gateway, Servers  # noqa: E402
from own_stack import Stack  # noqa: E402
from supervisor import Failed, Process, Supervisor, say, supervised  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "web"
PLAYWRIGHT_VERSION = "1.65.1"
AXE_VERSION = "4.14.1"
# What Chromium is called by those who pack it.
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def find_browser() -> str:
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise Failed("Chromium is not on the PATH: install it (Debian, Ubuntu: apt install chromium)")


def run(supervisor: Supervisor, arguments: argparse.Namespace) -> int:
    browser = find_browser()
    npm = from_npm(supervisor, f"web-{PLAYWRIGHT_VERSION}-{AXE_VERSION}",
                   f"playwright-core@{PLAYWRIGHT_VERSION}", f"axe-core@{AXE_VERSION}")
    environment = with_node(supervisor)
    if supervisor.run("node", ["node", "--test", str(TESTS / "units.test.mjs")], env=environment):
        return 1
    program = traefik(supervisor)
    stack = Stack(supervisor, TRUSTED_PROXIES="127.0.0.1", STREAM_HEARTBEAT_SECS="5")
    stack.start()
    commands, queries = (stack.first(job, "api") for job in ("command-service", "query-service"))
    servers = (Servers((f"http://127.0.0.1:{role.port}",)) for role in (commands, queries))
    gateway = Gateway(f"127.0.0.1:{free_ports(1)[0]}", *servers)
    gateway.start(supervisor, program, stack.folder / "gateway.log")
    wishes = stack.folder / "wishes"
    wishes.mkdir()
    pictures = arguments.screenshots or supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-web-")))
    pictures.mkdir(parents=True, exist_ok=True)
    # The page is on this machine.
    environment = {name: value for name, value in environment.items() if not name.lower().endswith("_proxy")}
    test = supervisor.start("page.mjs", ["node", str(TESTS / "page.mjs")], env={
        **environment, "MICROBLOG_NPM": str(npm), "MICROBLOG_BROWSER": browser, "MICROBLOG_PAGE": gateway.url,
        "MICROBLOG_READS": f"http://127.0.0.1:{queries.port}", "MICROBLOG_WISHES": str(wishes),
        "MICROBLOG_PICTURES": str(pictures.absolute())})
    while test.returncode() is None:
        supervisor.pause()
        fulfil(stack, wishes)
    if test.returncode() == 0 and arguments.screenshots:
        say(f"pictures are in {pictures}")
    return end(supervisor, test)


def fulfil(stack: Stack, wishes: Path) -> None:
    """What the test wants to happen to the query service's API: a file asks for it, and its end says that it is done."""
    role = stack.first("query-service", "api")
    if (kill := wishes / "kill").exists():
        role.process.popen.send_signal(signal.SIGKILL)
        stack.supervisor.stop(role.process)
        kill.unlink()
    if (start := wishes / "start").exists():
        stack.start_role(role)
        start.unlink()


def end(supervisor: Supervisor, test: Process) -> int:
    code = test.returncode()
    supervisor.stop(test)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="keep pictures of the page here")
    arguments = parser.parse_args()
    return supervised(lambda supervisor: run(supervisor, arguments))


if __name__ == "__main__":
    sys.exit(main())
