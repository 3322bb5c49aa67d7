"""Starts child processes and makes sure that none of them outlives us.

Every child leads a session of its own, so a Ctrl-C in the terminal reaches only this process, which then
stops the children in the order it chooses. Signals only set a flag; everything that waits does so through
`pause`, which raises `Stopped`, so no cleanup is ever interrupted half way.

Should this process itself be killed outright, a forked guard, which notices because a pipe closes, kills the
sessions that are left and removes the temporary folders.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Callable

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TICK_SECONDS = 0.05
# Longer than the services allow themselves for requests in flight and background tasks.
STOP_DEADLINE_SECONDS = 20
# One Ctrl-C or `kill` can reach us twice, directly and through make.
SAME_SIGNAL_SECONDS = 0.5
# How many of its last lines are shown when a process dies.
TAIL_LINES = 15


class Failed(Exception):
    """The work cannot go on; the message is one line that says what to do."""


class Stopped(Exception):
    """Somebody asked us to stop."""


class Speech:
    """Where we say things: on stdout, unless that is for lines that programs read."""
    on_stderr = False
    # Several threads pass on what processes say.
    turn = threading.Lock()


def say(line: str = "") -> None:
    """Says something to people."""
    show(line, sys.stderr if Speech.on_stderr else sys.stdout)


def show(line: str, file: IO) -> None:
    """Prints a line, and nothing of another thread's within it."""
    pass_on(f"{line}\n".encode(errors="replace"), file)


def pass_on(line: bytes, file: IO) -> None:
    """Writes a line as it is; when nobody reads any more, that is as if the terminal had been closed."""
    try:
        with Speech.turn:
            file.buffer.write(line)
            file.buffer.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        os.kill(os.getpid(), signal.SIGHUP)


def note(line: str) -> None:
    """Progress goes to stderr: the output of some commands is for other programs."""
    print(line, file=sys.stderr, flush=True)


class Process:
    """A child that leads a session, with its output in a log file, on our terminal, or labelled line by line.

    With an empty label its lines of JSON are on our stdout as they are, and nothing else is: a last line that was cut
    off, or what a crash prints, goes to stderr."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str] | None, cwd: Path | None,
                 log: Path | None, label: str | None, stdout: IO | None):
        self.name, self.log = name, log
        self._pump: threading.Thread | None = None
        output = stdout
        if log:
            output = log.open("ab")
        elif label is not None:
            output = subprocess.PIPE
        try:
            self.popen = subprocess.Popen(argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output,
                                          stderr=subprocess.STDOUT if output else None, start_new_session=True)
        except OSError as error:
            raise Failed(f"{argv[0]} does not start: {error.strerror}") from error
        finally:
            if log:
                output.close()
        if label is not None:
            self._pump = threading.Thread(target=self._show_output, args=(label,), daemon=True)
            self._pump.start()

    def _show_output(self, label: str) -> None:
        for raw in self.popen.stdout:
            if not label and raw.startswith(b"{") and raw.endswith(b"}\n"):
                pass_on(raw, sys.stdout)
            else:
                say(f"{label or self.name} | {raw.decode(errors='replace').rstrip()}")

    @property
    def pid(self) -> int:
        return self.popen.pid

    def returncode(self) -> int | None:
        return self.popen.poll()

    def last_lines(self) -> list[str]:
        if not self.log:
            return []  # they are on the terminal already
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 8192))
            return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]

    def died(self) -> Failed:
        """What to tell when it ended though it should not have."""
        code = self.returncode()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        for line in self.last_lines():
            say(f"{self.name} | {line}")
        return Failed(f"{self.name} {how}; its last lines are above")

    def join_output(self) -> None:
        if self._pump:
            self._pump.join(timeout=1)


class Supervisor:
    """Owns every child and temporary folder. Create it first: the guard must inherit nothing and hold nothing."""

    def __init__(self) -> None:
        self._guard = start_guard()
        self._running: list[Process] = []
        self._folders: list[Path] = []
        self._stops = 0
        self._last_signal = float("-inf")
        # Under make, make is our parent, and its end is ours.
        self._make = os.getppid() if "MAKELEVEL" in os.environ else None
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: object) -> None:
        now = time.monotonic()
        if now - self._last_signal > SAME_SIGNAL_SECONDS:
            self._stops += 1
        self._last_signal = now

    def pause(self, seconds: float = TICK_SECONDS) -> None:
        """Sleeps; raises `Stopped` as soon as somebody asked for it."""
        until = time.monotonic() + seconds
        while True:
            if self._stops or make_has_stopped(self._make):
                self._stops = max(self._stops, 1)
                raise Stopped
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, TICK_SECONDS))

    def start(self, name: str, argv: list[str], *, env: dict[str, str] | None = None, cwd: Path | None = None,
              log: Path | None = None, label: str | None = None, stdout: IO | None = None) -> Process:
        self.pause(0)
        process = Process(name, argv, env, cwd, log, label, stdout)
        self._running.append(process)
        self._tell_guard(f"+session {process.pid}")
        return process

    def run(self, name: str, argv: list[str], **options) -> int:
        """Runs to the end and returns the exit code."""
        process = self.start(name, argv, **options)
        while process.returncode() is None:
            self.pause()
        self.stop(process)
        return process.returncode()

    def check_alive(self) -> None:
        """Raises when a process that should be running has ended."""
        for process in self._running:
            if process.returncode() is not None:
                process.join_output()
                raise process.died()

    def temporary_folder(self, path: Path) -> Path:
        """Promises that the folder is gone when we are."""
        self._folders.append(path)
        self._tell_guard(f"+folder {path}")
        return path

    def ask_to_stop(self, process: Process, patience: float) -> None:
        """Asks a process to end, and waits for it a while. `stop` is still needed."""
        if process.returncode() is None:
            process.popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + patience
        while process.returncode() is None and time.monotonic() < deadline and not self._in_a_hurry():
            time.sleep(TICK_SECONDS)

    def stop(self, *processes: Process) -> None:
        """Ends processes and whatever they started: asks, waits, then insists. A second Ctrl-C insists at once."""
        for process in processes:
            if process.returncode() is None:
                process.popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_DEADLINE_SECONDS
        for process in processes:
            while process.returncode() is None and time.monotonic() < deadline and not self._in_a_hurry():
                time.sleep(TICK_SECONDS)
            if process.returncode() is None and not self._in_a_hurry():
                say(f"{process.name} did not stop within {STOP_DEADLINE_SECONDS} s and is killed")
            kill_session(process.pid)
            process.popen.wait()
            process.join_output()
            self._running.remove(process)
            self._tell_guard(f"-session {process.pid}")

    def _in_a_hurry(self) -> bool:
        return self._stops > 1

    def close(self) -> None:
        """Stops what still runs, the last started first, and removes the temporary folders."""
        while self._running:
            self.stop(self._running[-1])
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(self._guard)

    def _tell_guard(self, line: str) -> None:
        os.write(self._guard, f"{line}\n".encode())


def make_has_stopped(make: int | None) -> bool:
    """Whether our parent `make` is gone, or waits inside its signal handler for us to end.

    A signal sent to make alone, rather than to the terminal's whole group, would otherwise never reach us:
    make passes on only SIGTERM. While its handler runs, the kernel lists the signal as blocked there.
    """
    if make is None:
        return False
    if os.getppid() != make:
        return True
    try:
        status = Path(f"/proc/{make}/status").read_text()
    except OSError:
        return False  # no /proc on this system
    blocked = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:")), 0)
    return any(blocked & 1 << number - 1 for number in STOP_SIGNALS)


def kill_session(leader: int) -> None:
    """Kills all that is left of a session, including those who moved to a process group of their own."""
    members = {leader}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which ends with the last parenthesis: state, parent, group, session.
            session = int(stat.read_text().rpartition(")")[2].split()[3])
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile
        if session == leader:
            members.add(int(stat.parent.name))
    for kill, target in [(os.killpg, leader), *((os.kill, member) for member in members - {leader})]:
        try:
            kill(target, signal.SIGKILL)
        except OSError:
            pass  # it ended meanwhile


def start_guard() -> int:
    """Forks the guard and returns the pipe to it; the guard acts when that pipe closes."""
    receive, send = os.pipe()
    if os.fork():
        os.close(receive)
        return send
    os.close(send)
    os.setsid()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for inherited in (0, 1, 2):
        os.dup2(nowhere, inherited)
    left: dict[str, None] = {}
    with os.fdopen(receive) as lines:
        for line in lines:
            if line.startswith("+"):
                left[line[1:].rstrip("\n")] = None
            else:
                left.pop(line[1:].rstrip("\n"), None)
    for kind, _, value in (entry.partition(" ") for entry in reversed(left)):
        if kind == "session":
            kill_session(int(value))
        else:
            shutil.rmtree(value, ignore_errors=True)
    os._exit(0)


def supervised(work: Callable[[Supervisor], int], stopped: tuple[int, str] = (130, "")) -> int:
    """Does it, ends whatever it has started, and returns the exit code of this process.

    `stopped` is that code and a last line for when somebody asks it to stop.
    """
    supervisor = Supervisor()
    try:
        code, message = work(supervisor), ""
    except Stopped:
        code, message = stopped
    except Failed as failure:
        code, message = 1, f"error: {failure}"
    finally:
        supervisor.close()
    if message:
        (note if code else say)(message)
    return 128 - code if code < 0 else code
