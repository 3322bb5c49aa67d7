#!/usr/bin/env python3
"""Tries whether the right alert fires: a stack of its own, Prometheus with the rules as they are, posts and reads all
the time, and one fault after the other. For each it says which alerts fire after how many seconds, and when they end
after the fault is mended; an alert that was not expected, or none that was, is a failure.

All faults take a quarter of an hour. It uses the binaries in MICROBLOG_BIN_DIR, and builds them if that is not set.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from dev import ROOT  # noqa: E402
from observe import SCRAPE_SECONDS  # noqa: E402
from own_stack import Broker, Stack, Traffic  # noqa: E402
from supervisor import Failed, Supervisor, say, supervised  # noqa: E402

# Scraped, evaluated, and seen by this script.
DELAY_SECONDS = 3 * SCRAPE_SECONDS
RESOLVED_SECONDS = 150
FULL_STORE_MB = 48
# What they say is true, of minutes or an hour: they may begin late and end late.
LOOKING_BACK = ("AvailabilityBurnsFast", "AvailabilityBurnsSlowly", "PostToVisibleSlow")
JOBS = ("command-service", "query-service")

Labels = dict[str, str]


@dataclass(frozen=True)
class Expected:
    """An alert that has to fire so many seconds after the fault at the latest."""
    name: str
    seconds: float
    labels: Labels = field(default_factory=dict)

    def is_met_by(self, alert: Labels) -> bool:
        return alert["alertname"] == self.name and self.labels.items() <= alert.items()

    def __str__(self) -> str:
        return f"{self.name}{said(self.labels)} within {self.seconds:g} s"


@dataclass(frozen=True)
class Fault:
    what: str
    seconds: float  # how long it lasts
    begin: Callable[[Stack], None]
    mend: Callable[[Stack], None]
    expected: tuple[Expected, ...]
    # What may fire as well, for it is true and does not lead astray.
    also: tuple[str, ...] = ()


# --- the faults --------------------------------------------------------------------------------------------------

def signal_projectors(number: int) -> Callable[[Stack], None]:
    def do(stack: Stack) -> None:
        for role in stack.all("query-service", "projector"):
            role.process.popen.send_signal(number)
    return do


def stop_projectors(stack: Stack) -> None:
    for role in stack.all("query-service", "projector"):
        stack.supervisor.stop(role.process)


def start_projectors(stack: Stack) -> None:
    for role in stack.all("query-service", "projector"):
        stack.start_role(role)


def set_password(password: str) -> Callable[[Stack], None]:
    def do(stack: Stack) -> None:
        stack.broker["password"] = password
        stack.reload_nats()
    return do


def fill_store(stack: Stack) -> None:
    """Somebody else's stream takes all the room there is on the broker."""
    broker = Broker(stack.nats_port)
    made = broker.ask("$JS.API.STREAM.CREATE.FILLER", {
        "name": "FILLER", "subjects": ["filler"], "storage": "file", "retention": "limits", "num_replicas": 1})
    if "error" in made:
        raise Failed(f"the stream that shall fill the store cannot be made: {made['error']}")
    for size in (900_000, 30_000, 1_000, 10):
        while "error" not in broker.ask("filler", bytes(size)):
            pass
    broker.close()


def enlarge_store(stack: Stack) -> None:
    """As the runbook says. The server takes it up without a restart."""
    stack.broker["store"] = f"max_file_store: {2 * FULL_STORE_MB}MB"
    stack.reload_nats()


def stop_engine(name: str) -> Callable[[Stack], None]:
    return lambda stack: stack.supervisor.stop(stack.engines[name])


FAULTS = {
    "projector": Fault(
        "the projectors stand still for a minute", 60, signal_projectors(signal.SIGSTOP),
        signal_projectors(signal.SIGCONT),
        (Expected("FoldBehind", 30 + DELAY_SECONDS),), ("TargetDown",)),
    "no-projector": Fault(
        "there is no projector for a minute and a half", 90, stop_projectors, start_projectors,
        (Expected("FoldBehind", 30 + DELAY_SECONDS), Expected("PartitionsNotHeld", 60 + DELAY_SECONDS)),
        ("TargetDown",)),
    "password": Fault(
        "the broker refuses the password", 140, set_password("second"), set_password("first"),
        (Expected("RelayStuck", 30 + DELAY_SECONDS),
         *(Expected("DependencyRefused", 30 + 2 * DELAY_SECONDS,
                    {"job": job, "dependency": "nats", "reason": "sign_in"}) for job in JOBS)),
        # Readers are behind: nothing new reaches them.
        ("FoldBehind", "RelayInactive", "FoldLagUnknown")),
    "storage": Fault(
        "the broker's storage is full", 100, fill_store, enlarge_store,
        (Expected("RelayStuck", 30 + DELAY_SECONDS),
         Expected("DependencyRefused", 30 + 2 * DELAY_SECONDS,
                  {"job": "command-service", "dependency": "nats", "reason": "no_room"}))),
    "broker": Fault(
        "the broker does not run", 100, stop_engine("nats"), Stack.start_nats,
        (Expected("RelayStuck", 30 + DELAY_SECONDS),
         *(Expected("DependencyAway", 30 + 2 * DELAY_SECONDS, {"job": job, "dependency": "nats"})
           for job in JOBS)),
        ("FoldBehind", "RelayInactive", "FoldLagUnknown")),
    "mongodb": Fault(
        "MongoDB does not run", 100, stop_engine("mongodb"), Stack.start_mongodb,
        tuple(Expected("DependencyAway", 30 + 2 * DELAY_SECONDS, {"job": job, "dependency": "mongodb"})
              for job in JOBS),
        ("AvailabilityBurnsFast", "AvailabilityBurnsSlowly", "FoldLagUnknown", "RelayInactive", "PartitionsNotHeld",
         "FoldBehind")),
}


# --- what fires --------------------------------------------------------------------------------------------------

def firing(stack: Stack) -> dict[str, Labels]:
    """By their names and labels, each with its runbook."""
    alerts = [each for each in stack.prometheus.get("alerts")["alerts"] if each["state"] == "firing"]
    return {named(each["labels"]): each["labels"] | {"runbook": each["annotations"].get("runbook", "")}
            for each in alerts}


def said(labels: Labels) -> str:
    shown = {name: value for name, value in labels.items() if name not in ("alertname", "severity", "runbook")}
    return f"{{{', '.join(f'{name}={value}' for name, value in sorted(shown.items()))}}}" if shown else ""


def named(alert: Labels) -> str:
    return f"{alert['alertname']}{said(alert)} ({alert['severity']})"


class Watch:
    """Since when which alerts fire, and since when no more."""

    def __init__(self, stack: Stack):
        self.stack, self.before = stack, set(firing(stack))
        self.began = time.monotonic()
        self.alerts: dict[str, Labels] = {}
        self.fired: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def look(self, besides: tuple[str, ...] = ()) -> bool:
        """Whether any other fires."""
        now = firing(self.stack)
        for name in now.keys() - self.before:
            self.alerts.setdefault(name, now[name])
            if name not in self.fired:
                self.fired[name] = self.seconds()
                say(f"     {self.fired[name]:5.0f} s  {name} fires")
            self.ended.pop(name, None)
        for name in self.fired.keys() - now.keys() - self.ended.keys():
            self.ended[name] = self.seconds()
            say(f"     {self.ended[name]:5.0f} s  {name} has ended")
        return any(now[name]["alertname"] not in besides for name in now.keys() - self.before)

    def until(self, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not enough():
            self.look()
            self.stack.supervisor.check_alive()
            self.stack.supervisor.pause(1)


def provoke(stack: Stack, fault: Fault) -> list[str]:
    """What was not as it should be."""
    say(f"\n{fault.what}, for {fault.seconds:.0f} s:")
    watch = Watch(stack)
    fault.begin(stack)
    try:
        watch.until(fault.seconds)
    except BaseException:
        signal_projectors(signal.SIGCONT)(stack)  # what stands still cannot be stopped
        raise
    mended = watch.seconds()
    fault.mend(stack)
    say(f"     {mended:5.0f} s  mended")
    watch.until(RESOLVED_SECONDS, lambda: not watch.look(besides=LOOKING_BACK))
    wrong = []
    for expected in fault.expected:
        seconds = [watch.fired[name] for name, alert in watch.alerts.items() if expected.is_met_by(alert)]
        if not seconds:
            wrong.append(f"{expected} does not fire")
        elif min(seconds) > expected.seconds:
            wrong.append(f"{expected} fires after {min(seconds):.0f} s")
    for name, alert in watch.alerts.items():
        if alert["alertname"] not in (*fault.also, "PostToVisibleSlow", *(each.name for each in fault.expected)):
            wrong.append(f"{name} fires, and was not expected")
        if not (ROOT / alert["runbook"]).is_file() or not alert["runbook"]:
            wrong.append(f"{name} names no runbook that is there: {alert['runbook']!r}")
        if name not in watch.ended and alert["alertname"] not in LOOKING_BACK:
            wrong.append(f"{name} still fires {watch.seconds() - mended:.0f} s after the fault was mended")
    for each in wrong:
        say(f"BAD  {each}")
    if not wrong:
        say(f"ok   {', '.join(map(str, fault.expected))}")
    return wrong


def run(supervisor: Supervisor, names: list[str], each: int) -> int:
    stack = Stack(supervisor, each, PARTITIONS="2", POST_QUOTA="1000000", IP_RATE_PER_SECOND="0")
    stack.broker["store"] = f"max_file_store: {FULL_STORE_MB}MB"
    stack.start()
    stack.start_prometheus(SCRAPE_SECONDS)
    traffic = Traffic(stack, stack.register(6))
    # The rates of the rules want a past.
    supervisor.pause(30)
    if early := firing(stack):
        raise Failed(f"before the first fault there fires {', '.join(early)}")
    wrong = []
    for name in names:
        wrong += provoke(stack, FAULTS[name])
        for role in stack.roles:
            stack.wait_until_ready(role)
    say(f"\nThe load: {traffic.stop()}")
    outcome = f"{len(wrong)} things are not as they should be" if wrong else "the right alerts fire"
    say(f"{len(names)} faults: {outcome}")
    return 1 if wrong else 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"{', '.join(FAULTS)} (all)")
    parser.add_argument("--each", type=int, default=1, metavar="N", help="processes of each role (%(default)s)")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.faults) - FAULTS.keys():
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    return supervised(lambda supervisor: run(supervisor, arguments.faults or list(FAULTS), arguments.each))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
