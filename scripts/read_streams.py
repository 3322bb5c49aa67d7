#!/usr/bin/env python3
"""Reads every stream of events of the brokers at the given URLs, from its first message, and checks each message
against docs/asyncapi.yaml. It runs in the Python of the cache (scripts/check_streams.py).

Tests put messages of others on streams, as strangers would. Those are told apart as the product does it: what does not
go on with the chain is not the relay's. They are counted, and not checked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from dataclasses import dataclass, field

import nats
from nats.js.api import AckPolicy, ConsumerConfig

from event_contract import TICK, Contract, continues, load

BATCH = 2_000
MOST_FAULTS = 20


@dataclass
class Seen:
    streams: int = 0
    others: int = 0  # streams with settings that the services refuse
    foreign: int = 0  # messages that are not the relay's
    kinds: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Reader:
    """Checks the messages of one stream, in their order."""

    def __init__(self, contract: Contract, prefix: str, seen: Seen):
        self.contract, self.prefix, self.seen = contract, prefix, seen
        self.chain = 0
        self.versions: Counter = Counter()

    def take(self, sequence: int, subject: str, headers: dict[str, str], body: bytes) -> None:
        chain = continues(self.chain, headers)
        if chain is None:
            self.seen.foreign += 1
            return
        self.chain = chain
        kind = subject.removeprefix(f"{self.prefix}.events.")
        self.seen.kinds[kind] += 1
        faults = self.contract.faults(self.prefix, subject, headers, body)
        if not faults and kind != TICK:
            faults = self.out_of_order(json.loads(body))
        self.seen.faults += [f"{self.prefix}, message {sequence}, {kind}: {fault}" for fault in faults]

    def out_of_order(self, event: dict) -> list[str]:
        self.versions[event["stream"]] += 1
        expected = self.versions[event["stream"]]
        if event["version"] == expected:
            return []
        return [f"version {event['version']} of {event['stream']} comes where {expected} is due"]


async def read_broker(url: str, contract: Contract, seen: Seen) -> None:
    connection = await nats.connect(url, max_reconnect_attempts=0)
    try:
        for info in await streams(connection):
            prefix = info["config"]["name"].lower()
            if info["config"].get("subjects") != [f"{prefix}.events.>"]:
                continue
            wanted = contract.settings(prefix)
            # JetStream leaves out what is false or 0.
            if wrong := {key for key, value in wanted.items() if (info["config"].get(key) or 0) != value}:
                seen.others += 1
                print(f"{prefix}: its {', '.join(sorted(wrong))} is not as documented: it is not read", flush=True)
                continue
            seen.streams += 1
            await read_stream(connection, info, Reader(contract, prefix, seen))
    finally:
        await connection.close()


async def streams(connection: nats.NATS) -> list[dict]:
    """What JetStream says of each, as it says it: the library's own types leave out what they do not know."""
    found: list[dict] = []
    while True:
        request = json.dumps({"offset": len(found)}).encode()
        page = json.loads((await connection.request("$JS.API.STREAM.LIST", request, timeout=20)).data)
        if "error" in page:
            raise SystemExit(f"error: JetStream answers {page['error']}")
        found += page["streams"] or []
        if len(found) >= page["total"]:
            return found


async def read_stream(connection: nats.NATS, info: dict, reader: Reader) -> None:
    last = info["state"]["last_seq"]
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=60)
    consumer = await connection.jetstream().pull_subscribe(
        info["config"]["subjects"][0], stream=info["config"]["name"], config=config)
    sequence = 0
    while sequence < last:
        for message in await consumer.fetch(min(BATCH, last - sequence), timeout=20):
            sequence += 1
            if message.metadata.sequence.stream != sequence:
                raise SystemExit(f"error: {reader.prefix} has no message {sequence}, or it did not arrive")
            reader.take(sequence, message.subject, message.headers or {}, message.data)
    await consumer.unsubscribe()


def told(seen: Seen) -> str:
    events = seen.kinds.total() - seen.kinds[TICK]
    kinds = len(seen.kinds) - (TICK in seen.kinds)
    return (f"{seen.streams} streams: {events:,} events of {kinds} kinds and {seen.kinds[TICK]:,} ticks, "
            f"and {seen.foreign:,} messages of others")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--all-kinds", action="store_true", help="fail where a kind of event has not been published")
    arguments = parser.parse_args()
    contract, seen = load(), Seen()
    for url in arguments.urls:
        asyncio.run(read_broker(url, contract, seen))
    if arguments.all_kinds:
        seen.faults += [f"no test has published {kind}" for kind in contract.messages if not seen.kinds[kind]]
    for fault in seen.faults[:MOST_FAULTS]:
        print(f"error: {fault}", file=sys.stderr)
    print(f"{told(seen)}; {len(seen.faults)} do not fit docs/asyncapi.yaml" if seen.faults
          else f"{told(seen)}. All that the relay has published fits docs/asyncapi.yaml")
    return 1 if seen.faults else 0


if __name__ == "__main__":
    sys.exit(main())
