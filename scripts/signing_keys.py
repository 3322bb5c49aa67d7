"""The file of signing keys, JWT_PRIVATE_KEY_FILE, and the steps by which its key changes.

The first key of the file signs, and all of them are published. In front of the second stands what it is, which is all
that a rotation has to remember: `next` has never signed, `before` signed until now, `returned` signed for a while and
gave its place back.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import time
from dataclasses import dataclass
from typing import Callable, Protocol

from make_secrets import Failed, ed25519_key

BLOCK = re.compile(r"-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n?", re.DOTALL)
NEXT, BEFORE, RETURNED = "next", "before", "returned"
# The key set may be kept for so long, by its `Cache-Control`.
KEPT_SECONDS = 300
# The life of an access token, and by how much clocks may differ, with some room.
LIFETIME_SECONDS = 900 + 30


class Place(Protocol):
    """Where the keys are, and what works with them."""

    def read_keys(self) -> str: ...
    def write_keys(self, text: str) -> None: ...
    def replicas(self, only_ready: bool) -> list[tuple[str, dict]]: ...


@dataclass(frozen=True)
class Key:
    pem: str
    id: str
    what: str = ""

    def text(self, what: str) -> str:
        return f"{what}: {self.id}\n{self.pem}"


def read(text: str) -> list[Key]:
    """The keys of a file, each with what is said of it in front of it."""
    keys, end = [], 0
    for block in BLOCK.finditer(text):
        pem = block.group().rstrip("\n") + "\n"
        lines = text[end:block.start()].strip().splitlines()
        keys.append(Key(pem, key_id(pem), lines[-1].split(":")[0] if lines else ""))
        end = block.end()
    if not keys:
        raise Failed("the file of signing keys holds no key")
    if len(keys) > 2 or len(keys) == 2 and keys[1].what not in (NEXT, BEFORE, RETURNED):
        raise Failed(f"the file of signing keys holds {len(keys)} keys, and this script did not put them there: leave the one "
                     "that signs, the first, and beside it at most another with a line `next:`, `before:` or `returned:` "
                     "in front of it")
    return keys


def key_id(pem: str) -> str:
    """The thumbprint of the public key (RFC 7638, RFC 8037)."""
    answer = subprocess.run(["openssl", "pkey", "-pubout", "-outform", "DER"], input=pem.encode(), capture_output=True)
    if answer.returncode or len(answer.stdout) < 32:
        raise Failed("openssl cannot read a key of the file of signing keys: is it Ed25519, in PKCS #8 PEM?")
    public = {"crv": "Ed25519", "kty": "OKP", "x": base64url(answer.stdout[-32:])}
    return base64url(hashlib.sha256(json.dumps(public, separators=(",", ":")).encode()).digest())


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Rotation:
    """Goes on from what the file says, so that it may be interrupted anywhere and run again."""

    def __init__(self, place: Place, say: Callable[[str], None], waits: bool = True, leaked: bool = False,
                 patience: float = 600):
        self.place, self.say, self.patience = place, say, patience
        self.waits, self.leaked = waits and not leaked, leaked

    def forward(self, stop_after: str | None) -> None:
        keys = self.begin()
        if len(keys) == 2 and self.leaked:
            # Whoever had the file has both: neither may be the one that signs in the end.
            self.say(f"{keys[1].id} was in the file too: another key takes its place")
            keys = keys[:1]
        if len(keys) == 1:
            new = ed25519_key()
            keys = self.write(keys[0], Key(new, key_id(new)), NEXT)
            self.say(f"published the next key {keys[1].id}, beside {keys[0].id}, which signs")
        if keys[1].what == NEXT:
            self.until_all(keys[0].id, {key.id for key in keys})
            if stop_after == "publish":
                return
            self.wait(KEPT_SECONDS, "others may have kept the key set from before")
            # Once more: a replica may have come, or looked at the key set of one that was behind.
            self.until_all(keys[0].id, {key.id for key in keys})
            keys = self.write(keys[1], keys[0], BEFORE)
            self.say(f"the key {keys[0].id} signs now; {keys[1].id} is still good")
        self.until_all(keys[0].id, {key.id for key in keys})
        if stop_after == "sign":
            return
        self.withdraw(keys)

    def begin(self) -> list[Key]:
        keys = read(self.place.read_keys())
        if len(keys) == 1:
            # A run that was interrupted at its end may have left replicas with the key from before.
            self.until_all(keys[0].id, {keys[0].id})
        return keys

    def back(self, stop_after: str | None) -> None:
        """Gives the place to the key from before, or withdraws the next one."""
        keys = self.begin()
        if len(keys) == 1:
            self.say(f"nothing to take back: {keys[0].id} is the only key")
            return
        if keys[1].what == BEFORE:
            keys = self.write(keys[1], keys[0], RETURNED)
            self.say(f"the key {keys[0].id} signs again; {keys[1].id} is still good")
        if keys[1].what == RETURNED:
            self.until_all(keys[0].id, {key.id for key in keys})
            if stop_after == "sign":
                return
        self.withdraw(keys)

    def withdraw(self, keys: list[Key]) -> None:
        if keys[1].what != NEXT:
            self.wait(LIFETIME_SECONDS, f"tokens of {keys[1].id} are still good")
        self.place.write_keys(keys[0].text("signs"))
        self.say(f"withdrew the key {keys[1].id}")
        self.until_all(keys[0].id, {keys[0].id})
        self.say(f"done: {keys[0].id} is the only key")

    def write(self, first: Key, second: Key, what: str) -> list[Key]:
        text = first.text("signs") + second.text(what)
        self.place.write_keys(text)
        return read(text)

    def until_all(self, signs: str, verifies: set[str]) -> None:
        """Waits until every replica of the command service signs with the key, and every replica of both services
        verifies with these keys and no others."""
        give_up, told = time.monotonic() + self.patience, None
        while True:
            # In an emergency, one that takes no requests must not keep the key that others know alive.
            behind = sorted(name for name, ids in self.place.replicas(only_ready=self.leaked)
                            if set(ids.get("verifies", ())) != verifies or ids.get("signs") not in (None, signs))
            if not behind:
                return
            if behind != told:
                self.say(f"waiting for {', '.join(behind)} to take over the keys")
                told = behind
            if time.monotonic() > give_up:
                raise Failed(f"{', '.join(behind)} did not take over the keys in {self.patience:.0f} s: see the log there, then run "
                             "this again. Nothing is refused meanwhile"
                             + ("" if not self.leaked else ", nor are tokens that somebody else makes with a key from before"))
            time.sleep(0.5)

    def wait(self, seconds: int, why: str) -> None:
        if not self.waits:
            self.say(f"not waiting {seconds} s, as you asked, though {why}")
            return
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.say(f"waiting {left:.0f} s more: {why}")
            time.sleep(min(left, 60))
