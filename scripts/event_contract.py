#!/usr/bin/env python3
"""What docs/asyncapi.yaml says of a message: subject, headers and body.

A reader is to ignore what the document does not mention. Here that is a fault: nothing is published that is not in it.

As a program it compares the document with the kinds of events in shared/src/contract/events.rs and with the messages
in shared/golden/messages/, and tries on these that a fault of each kind is found. It runs in the Python of the cache,
which has what it imports: `make events` (scripts/check_events.py).
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema_rs
import xxhash
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "asyncapi.yaml"
GOLDEN = ROOT / "shared" / "golden" / "messages"
EVENTS = ROOT / "shared" / "src" / "contract" / "events.rs"
TICK, TICK_ID = "relay.tick", 0
# Headers of the contract, by which the relay's messages are known.
EVENT_ID, CHAIN, RESUME = "ce-id", "Microblog-Chain", "Microblog-Resume"
# What a message may be without.
OPTIONAL = {"traceparent", "Microblog-Log", "Microblog-Last-Event", "revision", "reply_to"}
SAME = (("ce-id", "id"), ("ce-type", "type"), ("ce-time", "at"), ("ce-subject", "stream"))
Headers = dict[str, str]


class Contract:
    """The document, ready to judge messages."""

    def __init__(self, document: dict):
        self.document = document
        components = closed(document["components"])
        self.messages: dict[str, dict[str, jsonschema_rs.Validator]] = {}
        for kind, channel in document["channels"].items():
            self.messages[kind] = {name: validator(components, name) for name in channel["messages"]}

    def faults(self, prefix: str, subject: str, headers: Headers, body: bytes) -> list[str]:
        """What is wrong with a message of a deployment; nothing if it fits."""
        start = f"{prefix}.events."
        kind = subject.removeprefix(start)
        if not subject.startswith(start) or kind not in self.messages:
            return [f"no channel has the subject {subject}"]
        try:
            payload = json.loads(body)
        except ValueError as error:
            return [f"the body is not JSON: {error}"]
        message = {"headers": headers, "payload": payload}
        found = {name: [told(error) for error in validator.iter_errors(message)]
                 for name, validator in self.messages[kind].items()}
        fitting = [name for name, faults in found.items() if not faults]
        if len(fitting) > 1:
            return [f"it is {' and '.join(fitting)} at once"]
        if not fitting:
            # Of several forms the one that fits best tells most.
            return min(found.values(), key=len)
        return list(disagreements(prefix, kind, headers, payload))

    def settings(self, prefix: str) -> dict:
        """The settings of the stream of a deployment."""
        text = json.dumps(self.document["x-nats-jetstream"]["stream"])
        return json.loads(text.replace("{PREFIX}", prefix.upper()).replace("{prefix}", prefix))


def load() -> Contract:
    return Contract(yaml.safe_load(DOCUMENT.read_text()))


def validator(components: dict, message: str) -> jsonschema_rs.Validator:
    """Of headers and body together. What is not told is not allowed."""
    of = f"#/components/messages/{message}"
    return jsonschema_rs.Draft202012Validator({
        "components": components,
        "type": "object",
        "properties": {
            "headers": {"$ref": f"{of}/headers", "unevaluatedProperties": False},
            "payload": {"$ref": f"{of}/payload", "unevaluatedProperties": False},
        },
    }, validate_formats=True)


def closed(components: dict) -> dict:
    """The components with every object that a property holds taken literally, so that it has no other fields."""
    components = copy.deepcopy(components)

    def is_object(schema: dict) -> bool:
        if "$ref" in schema:
            schema = components["schemas"][schema["$ref"].rpartition("/")[2]]
        return "properties" in schema

    def walk(schema: dict) -> None:
        for value in schema.get("properties", {}).values():
            if is_object(value):
                value["unevaluatedProperties"] = False
            walk(value)
        for part in schema.get("allOf", ()):
            walk(part)

    for schema in components["schemas"].values():
        walk(schema)
    for message in components["messages"].values():
        walk(message["headers"])
        walk(message["payload"])
    return components


def told(error: jsonschema_rs.ValidationError) -> str:
    place = "/".join(map(str, error.instance_path))
    return f"{place}: {error.message}" if place else error.message


def disagreements(prefix: str, kind: str, headers: Headers, payload: dict) -> Iterator[str]:
    """Headers against subject and body: what no schema can say."""
    if headers["ce-type"] != kind:
        yield f"ce-type is {headers['ce-type']} under the subject of {kind}"
    if headers["ce-source"] != f"/{prefix}/log":
        yield f"ce-source is {headers['ce-source']}, and not /{prefix}/log"
    if kind != TICK:
        for header, field in SAME:
            if headers[header] != payload[field]:
                yield f"{header} is {headers[header]}, and {field} is {payload[field]}"


# --- the chain ----------------------------------------------------------------------------------------------------

def chained(before: int, event_id: int) -> int:
    """The chain up to a message, after the chain before it."""
    return xxhash.xxh3_128_intdigest(before.to_bytes(16, "big") + event_id.to_bytes(8, "big"))


def continues(before: int, headers: Headers) -> int | None:
    """The chain up to this message, if it is the relay's next one after `before`. Nothing else fits by chance."""
    event_id, chain = headers.get(EVENT_ID, ""), headers.get(CHAIN, "")
    if RESUME not in headers or not re.fullmatch("[0-9]{1,19}", event_id):
        return None
    expected = chained(before, int(event_id))
    return expected if chain == f"{expected:032x}" else None


# --- the document against the code --------------------------------------------------------------------------------

def problems_of(document: dict, source: str, golden: dict[str, dict]) -> Iterator[str]:
    """`source` is events.rs, `golden` the messages by name."""
    contract = Contract(document)
    kinds = [*re.findall(r'^ {4}"([a-z_.]+)" => \w+\(\w+\),$', source, re.MULTILINE), TICK]
    yield from (f"no channel is for {kind}" for kind in kinds if kind not in document["channels"])
    yield from (f"the channel {kind} is for no event" for kind in document["channels"] if kind not in kinds)
    sent = {operation["channel"]["$ref"].rpartition("/")[2] for operation in document["operations"].values()}
    yield from (f"no operation publishes {kind}" for kind in document["channels"] if kind not in sent)
    for kind, channel in document["channels"].items():
        if channel["address"] != f"{{prefix}}.events.{kind}":
            yield f"the channel {kind} has the address {channel['address']}"
    shown = {}
    for name, message in document["components"]["messages"].items():
        for example in message.get("examples", ()):
            shown[example["name"]] = name, {"headers": example["headers"], "payload": example["payload"]}
        if not message.get("examples"):
            yield f"{name} has no example"
    for name, message in golden.items():
        subject, parts = message["subject"], {part: message[part] for part in ("headers", "payload")}
        found = contract.faults("microblog", subject, parts["headers"], json.dumps(parts["payload"]).encode())
        yield from (f"{name}.json does not fit: {fault}" for fault in found)
        if name not in shown:
            yield f"{name}.json is no example of a message"
        elif shown[name][1] != parts:
            yield f"the example {name} is not what {name}.json has"
        elif not contract.messages[subject.removeprefix("microblog.events.")][shown[name][0]].is_valid(parts):
            yield f"{name} is an example of {shown[name][0]} and does not fit it"
    where = GOLDEN.relative_to(ROOT)
    yield from (f"the example {name} is in no file of {where}" for name in shown if name not in golden)


# --- negative controls: a check that has never failed proves nothing ------------------------------------------------

def spoilt(message: dict) -> Iterator[tuple[str, dict]]:
    """The message with one fault in it, for every fault that there can be."""
    def change(what: str, *path: str, value: object = None) -> tuple[str, dict]:
        changed = copy.deepcopy(message)
        place = changed
        for key in path[:-1]:
            place = place[key]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return f"{what} {'/'.join(path)}", changed

    objects = [("headers",), ("payload",), *([("payload", "data")] if "data" in message["payload"] else [])]
    for path in objects:
        part = message
        for key in path:
            part = part[key]
        yield change("unknown", *path, "unheard-of", value="x")
        yield from (change("without", *path, key) for key in part if key not in OPTIONAL)
        yield from (change("a number as", *path, key, value=7) for key in part if not isinstance(part[key], int))
    yield change("another", "subject", value="microblog.events.user.cloned")
    yield change("another", "headers", "ce-source", value="/elsewhere/log")
    yield change("another", "headers", "ce-id", value="12345")
    if message["payload"]:
        yield change("another", "payload", "id", value="12345")
        yield change("a newer", "payload", "schema", value=2)
        yield change("an unknown", "payload", "revision", value=99)


def blind(document: dict, source: str, golden: dict[str, dict]) -> Iterator[str]:
    """Faults that are not found."""
    contract = Contract(document)
    for name, message in golden.items():
        for what, changed in spoilt(message):
            body = json.dumps(changed["payload"]).encode()
            if not contract.faults("microblog", changed["subject"], changed["headers"], body):
                yield f"{name} with {what}"
    more = source.replace('payloads! {\n', 'payloads! {\n    "user.cloned" => UserCloned(NoData),\n')
    if not any("user.cloned" in problem for problem in problems_of(document, more, golden)):
        yield "a kind of event that has no channel"
    fewer = dict(list(golden.items())[1:])
    if not any("in no file" in problem for problem in problems_of(document, source, fewer)):
        yield "an example without its golden message"


def main() -> int:
    document, source = yaml.safe_load(DOCUMENT.read_text()), EVENTS.read_text()
    golden = {path.stem: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*.json"))}
    problems = list(problems_of(document, source, golden))
    problems += [f"scripts/event_contract.py does not find {fault}" for fault in blind(document, source, golden)]
    for problem in problems:
        print(f"error: docs/asyncapi.yaml: {problem}", file=sys.stderr)
    if not problems:
        tried = sum(1 for message in golden.values() for _ in spoilt(message))
        print(f"{len(document['channels'])} subjects, {len(document['components']['messages'])} messages, "
              f"{len(golden)} golden ones: the document has them all, and finds each of {tried} faults in them")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
