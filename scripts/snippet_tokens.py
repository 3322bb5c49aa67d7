"""Tokens, good ones and bad ones, through the programs of docs/tokens.md."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from own_stack import Stack
from snippets import Toolbox
from supervisor import Failed

PROGRAMS = ("verify_pyjwt.py", "verify_jose.mjs", "verify_jwks_rsa.mjs", "verify_jwcrypto.py", "verify_joserfc.py")
# Those that ask for the key set again when a token names a key they do not know.
ASK_AGAIN = ("verify_pyjwt.py", "verify_jose.mjs", "verify_jwks_rsa.mjs")
PATIENCE_SECONDS = 30
PRIVATE_KEY = re.compile(r"-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n?", re.DOTALL)

# Reads a good token and the key that has signed it; writes others by what is wrong with them.
FORGE = '''
import base64, hashlib, hmac, json, sys, time
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

given = json.load(sys.stdin)
ours, other = load_pem_private_key(given["key"].encode(), None), Ed25519PrivateKey.generate()
header = jwt.get_unverified_header(given["good"])
claims = jwt.decode(given["good"], options={"verify_signature": False})
kid = header["kid"]

def signed(key=ours, kid=kid, without=(), **changed):
    said = {name: value for name, value in {**claims, **changed}.items() if name not in without}
    return jwt.encode(said, key, algorithm="EdDSA", headers={"kid": kid})

def by_hand(alg, secret=None):
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")
    text = part({"typ": "JWT", "alg": alg, "kid": kid}) + b"." + part(claims)
    tag = base64.urlsafe_b64encode(hmac.digest(secret, text, "sha256")).rstrip(b"=") if secret else b""
    return (text + b"." + tag).decode()

public = ours.public_key()
now = int(time.time())
print(json.dumps({
    "signed again": signed(),
    "another audience": signed(aud="elsewhere"),
    "another issuer": signed(iss="elsewhere"),
    "expired": signed(iat=now - 1000, exp=now - 100),
    "without exp": signed(without=["exp"]),
    "without aud": signed(without=["aud"]),
    "another key under our kid": signed(key=other),
    "another key": signed(key=other, kid="unheard-of"),
    "none": by_hand("none"),
    "HS256 with the public key": by_hand("HS256", public.public_bytes(Encoding.Raw, PublicFormat.Raw)),
    "HS256 with the public key in PEM": by_hand(
        "HS256", public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
}))
'''
GOOD = "signed again"

# What the page says cannot verify our tokens, and the words in which they refuse.
CANNOT = {
    "cannot_jsonwebtoken.mjs": ('''
import { createPublicKey } from 'node:crypto'
import jsonwebtoken from 'jsonwebtoken'
const { keys } = await (await fetch(process.env.JWKS_URL)).json()
const key = createPublicKey({ key: keys[0], format: 'jwk' })
for (const options of [{}, { algorithms: ['EdDSA'] }]) {
  try {
    console.log('accepted', jsonwebtoken.verify(process.env.TOKEN, key, options).sub)
  } catch (error) {
    console.log('refused', error.message)
  }
}
''', ("invalid algorithm", 'Unknown key type "ed25519".')),
    "cannot_python_jose.py": ('''
import json, os
from urllib.request import urlopen
from jose import jwt
from jose.exceptions import JOSEError
keys = json.load(urlopen(os.environ["JWKS_URL"], timeout=5))
for given in (keys, keys["keys"][0]):
    try:
        claims = jwt.decode(os.environ["TOKEN"], given, algorithms=["EdDSA"], audience="microblog", issuer="microblog")
        print("accepted", claims["sub"])
    except JOSEError as error:
        print("refused", error)
''', ("Unable to find an algorithm for key",) * 2),
    "cannot_joserfc_untold.py": ('''
import json, os
from urllib.request import urlopen
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
keys = KeySet.import_key_set(json.load(urlopen(os.environ["JWKS_URL"], timeout=5)))
try:
    print("accepted", jwt.decode(os.environ["TOKEN"], keys).claims)
except JoseError as error:
    print("refused", error)
''', ("unsupported_algorithm: Algorithm of 'EdDSA' is not recommended",)),
}


@dataclass
class Verifier:
    """A program of the page, which reads tokens."""
    name: str
    process: subprocess.Popen
    said: dict[str, str] = field(default_factory=dict)

    def ask(self, token: str) -> str:
        try:
            self.process.stdin.write(f"{token}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline().strip()
        except OSError:
            line = ""
        if not line:
            raise Failed(f"{self.name} has ended; what it says of that is above")
        return line


class Tokens:
    """Asks every program about every token."""

    def __init__(self, stack: Stack, toolbox: Toolbox, texts: dict[str, str]):
        self.stack, self.toolbox, self.texts = stack, toolbox, texts
        self.environment = {"PATH": toolbox.path, "JWKS_URL": stack.environment(stack.roles[0])["JWKS_URL"]}
        self.key_file = stack.folder / "jwt.pem"

    def judge(self, user: str, user_id: str) -> int:
        """Returns how many verdicts there were."""
        good = self.stack.tokens(user)[user]
        tokens = {"good": good, **self.forged(good)}
        verdicts = 0
        verifiers = [self.verifier(name) for name in PROGRAMS]
        try:
            for verifier in verifiers:
                for what, token in tokens.items():
                    answer = verifier.ask(token)
                    expected = f"accepted {user_id}" if what in ("good", GOOD) else "refused"
                    if not answer.startswith(expected):
                        raise Failed(f"{verifier.name}: of a token that is {what} it says `{answer}`")
                    verifier.said[what] = answer
                    verdicts += 1
            self.rotated(user, user_id, [verifier for verifier in verifiers if verifier.name in ASK_AGAIN])
        finally:
            for verifier in verifiers:
                verifier.process.kill()
                verifier.process.wait()
        self.others(good)
        return verdicts

    def verifier(self, name: str) -> Verifier:
        command, folder = self.toolbox.place(name, self.texts[name])
        process = subprocess.Popen(command, cwd=folder, env=self.environment, text=True, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        return Verifier(name, process)

    def forged(self, good: str) -> dict[str, str]:
        given = json.dumps({"good": good, "key": PRIVATE_KEY.search(self.key_file.read_text())[0]})
        made = subprocess.run([self.toolbox.python, "-c", FORGE], input=given, capture_output=True, text=True)
        if made.returncode:
            raise Failed(f"no tokens could be made: {made.stderr.strip()}")
        return json.loads(made.stdout)

    def rotated(self, user: str, user_id: str, verifiers: list[Verifier]) -> None:
        """Another key signs, and theirs is still published: they find it by themselves."""
        before = self.key_file.read_text()
        genpkey = ["openssl", "genpkey", "-algorithm", "ed25519"]
        made = subprocess.run(genpkey, capture_output=True, text=True, check=True)
        partial = self.key_file.with_suffix(".part")
        partial.touch(mode=0o600)
        partial.write_text(made.stdout + before)
        partial.rename(self.key_file)
        published = self.stack.commands()
        self.stack.wait("both keys are published",
                        lambda: len(published("GET", "/.well-known/jwks.json").json()["keys"]) == 2)
        after = self.stack.tokens(user)[user]
        for verifier in verifiers:
            self.stack.wait(f"{verifier.name} finds the new key",
                            lambda: verifier.ask(after) == f"accepted {user_id}", PATIENCE_SECONDS)

    def others(self, token: str) -> None:
        """The page says of these that they cannot."""
        for name, (text, words) in CANNOT.items():
            command, folder = self.toolbox.place(name, text)
            environment = {**self.environment, "TOKEN": token}
            ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            lines = ran.stdout.splitlines()
            if lines != [f"refused {why}" for why in words]:
                raise Failed(f"{name}: docs/tokens.md says that it refuses our tokens, {' and '.join(words)}: "
                             f"{ran.stdout}{ran.stderr}")


