#!/usr/bin/env python3
"""Makes the Secrets that manifests/ refers to: passwords, keys, and certificates of an authority of their own.

What is there is kept, so that it can run again at any time: delete a file to have it made anew. Nothing of it may
be committed; the default folder is one that git ignores.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import secrets
import shutil
import string
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "manifests" / "secrets.json"
NAMESPACE = "microblog"
CLUSTER = f"{NAMESPACE}.svc.cluster.local"
LOOPBACK = ["localhost", "127.0.0.1"]
# Browsers and Apple's systems refuse server certificates that are valid for longer than 825 days.
CERTIFICATE_DAYS, AUTHORITY_DAYS = 820, 3650
# In front of the 32 bytes of an Ed25519 key, this makes it PKCS#8 (RFC 8410, section 7).
ED25519_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
HOSTS = {
    "mongodb-tls": ["mongodb", f"mongodb.{CLUSTER}", f"*.mongodb.{CLUSTER}", *LOOPBACK],
    "nats-tls": ["nats", f"nats.{CLUSTER}", f"nats-headless.{CLUSTER}", f"*.nats-headless.{CLUSTER}", *LOOPBACK],
    "gateway-tls": ["microblog.local", *LOOPBACK],
}


class Failed(Exception):
    """The work cannot go on; the message is one line that says what to do."""


class Folder:
    """A file for each key of each Secret, and beside them the authority that signs the certificates."""

    def __init__(self, path: Path):
        self.path = path
        self.made: list[str] = []

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def once(self, name: str, make) -> str:
        """The file's content, made if the file is not there."""
        if not (self.path / name).exists():
            self.write(name, make())
            self.made.append(name)
        return self.read(name)

    def write(self, name: str, content: str) -> None:
        """Renamed into place: a file that is there is whole."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_name(f".{path.name}.partial")
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(content)
        partial.replace(path)


# --- What they are ----------------------------------------------------------------------------------------------

def make(folder: Folder, mongodb_nodes: int, more_hosts: dict[str, list[str]]) -> None:
    """Makes what is missing. `more_hosts`: further names and addresses for the certificate of a Secret."""
    folder.once("jwt-key/jwt.pem", ed25519_key)
    folder.once("mongodb-keyfile/keyfile", lambda: base64.b64encode(secrets.token_bytes(567)).decode() + "\n")
    user, word = credentials(folder, "mongodb-credentials", "", "microblog")
    credentials(folder, "mongodb-credentials", "root-", "root")
    # Follows from the others, so it is written again each time.
    nodes = ",".join(f"mongodb-{node}.mongodb.{CLUSTER}:27017" for node in range(mongodb_nodes))
    folder.write("mongodb-credentials/uri",
                 f"mongodb://{user}:{word}@{nodes}/microblog?replicaSet=rs0&authSource=admin"
                 "&tls=true&tlsCAFile=/etc/microblog/mongodb-tls/ca.crt")
    nats_user(folder)
    folder.once("grafana-admin/password", password)
    authority(folder)
    for name, hosts in HOSTS.items():
        certificate(folder, name, hosts + more_hosts.get(name, []))
    for name in ("mongodb-tls", "nats-tls"):
        folder.write(f"{name}/ca.crt", folder.read("authority/ca.crt"))


def nats_user(folder: Folder) -> None:
    """The broker's user. Once made it is left alone, for it is another one, or there are two, while it rotates."""
    # Versions before had the user in two files, from which this one follows.
    before = [folder.path / "nats-credentials" / name for name in ("username", "password")]
    user, word = (path.read_text() if path.exists() else new for path, new in zip(before, ("microblog", password())))
    made = folder.once("nats-credentials/users.conf", lambda: nats_users([(user, word)]))
    user, word = read_nats_users(made)[-1]
    folder.once("nats-credentials/url", lambda: f"tls://{user}:{word}@nats.{CLUSTER}:4222")
    for path in before:
        path.unlink(missing_ok=True)


def nats_users(users: list[tuple[str, str]]) -> str:
    """What nats.conf includes. Quoted: a password such as 12345, 10k or true would be no string."""
    listed = ", ".join(f'{{user: "{user}", password: "{word}"}}' for user, word in users)
    return f"users: [{listed}]\n"


def read_nats_users(text: str) -> list[tuple[str, str]]:
    return re.findall(r'\{user: "([^"]+)", password: "([^"]+)"\}', text)


def credentials(folder: Folder, secret: str, prefix: str, user: str) -> tuple[str, str]:
    return (folder.once(f"{secret}/{prefix}username", lambda: user),
            folder.once(f"{secret}/{prefix}password", password))


def password() -> str:
    """190 bits. Letters and digits, a letter first: neither a URI nor any configuration reads anything else into it."""
    return secrets.choice(string.ascii_letters) + "".join(
        secrets.choice(string.ascii_letters + string.digits) for _ in range(31))


def ed25519_key() -> str:
    body = base64.b64encode(ED25519_PKCS8 + secrets.token_bytes(32)).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"


# --- Certificates -----------------------------------------------------------------------------------------------

def authority(folder: Folder) -> None:
    if (folder.path / "authority/ca.crt").exists() and (folder.path / "authority/ca.key").exists():
        return
    key = folder.once("authority/ca.key", ec_key)
    extensions = ("basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\n"
                  "subjectKeyIdentifier = hash\n")
    folder.once("authority/ca.crt", lambda: sign("Microblog local authority", key, extensions, AUTHORITY_DAYS))


def certificate(folder: Folder, name: str, hosts: list[str]) -> None:
    """Server and client in one: the nodes of a cluster are both to each other."""
    key = folder.once(f"{name}/tls.key", ec_key)
    kinds = ("IP" if host.replace(".", "").isdigit() or ":" in host else "DNS" for host in hosts)
    names = ", ".join(f"{kind}:{host}" for kind, host in zip(kinds, hosts))
    extensions = ("basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n"
                  f"extendedKeyUsage = serverAuth, clientAuth\nsubjectAltName = {names}\n"
                  "subjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\n")
    folder.once(f"{name}/tls.crt", lambda: sign(hosts[0], key, extensions, CERTIFICATE_DAYS, folder))


def ec_key() -> str:
    return openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


def sign(common_name: str, key: str, extensions: str, days: int, authority: Folder | None = None) -> str:
    """A certificate for a key, signed by the authority, or by the key itself."""
    with tempfile.TemporaryDirectory(prefix="microblog-") as name:  # only its owner may look into it
        work = Path(name)
        (work / "key").write_text(key)
        (work / "request.cnf").write_text(
            f"[req]\nprompt = no\ndistinguished_name = subject\n[subject]\nO = Microblog\nCN = {common_name}\n")
        (work / "extensions.cnf").write_text(extensions)
        openssl("req", "-new", "-key", str(work / "key"), "-config", str(work / "request.cnf"),
                "-out", str(work / "request"))
        by = ["-signkey", str(work / "key")]
        if authority:
            by = ["-CA", str(authority.path / "authority/ca.crt"), "-CAkey", str(authority.path / "authority/ca.key")]
        return openssl("x509", "-req", "-in", str(work / "request"), *by, "-sha256", "-days", str(days),
                       "-set_serial", str(secrets.randbits(126) + 1), "-extfile", str(work / "extensions.cnf"))


def openssl(*arguments: str) -> str:
    answer = subprocess.run(["openssl", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if answer.returncode:
        raise Failed(f"openssl {arguments[0]} failed: {answer.stderr.strip()}")
    return answer.stdout


# --- For kubectl ------------------------------------------------------------------------------------------------

def listed() -> dict[str, dict]:
    """Those that can be made; others are about what is elsewhere, and are made by hand."""
    return {secret["name"]: secret for secret in json.loads(LIST.read_text())["secrets"] if not secret.get("by-hand")}


def check_complete(folder: Folder) -> None:
    """The manifests' list and what is here must name the same keys."""
    wanted = {f"{name}/{key}" for name, secret in listed().items() for key in secret["keys"]}
    here = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*")
            if path.is_file() and not path.name.startswith(".") and path.parent.name != "authority"}
    if missing := sorted(wanted - here):
        raise Failed(f"{LIST} names {', '.join(missing)}, which this script does not make")
    if unknown := sorted(here - wanted):
        raise Failed(f"{LIST} does not name {', '.join(unknown)}, which stand in {folder.path}: delete what is not used")


def as_list(folder: Folder) -> dict:
    """A List for `kubectl apply`."""
    return {"apiVersion": "v1", "kind": "List", "items": [{
        "apiVersion": "v1", "kind": "Secret", "type": secret["type"],
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": NAMESPACE}},
        "data": {key: base64.b64encode(folder.read(f"{name}/{key}").encode()).decode() for key in secret["keys"]},
    } for name, secret in listed().items()]}


# --- The command line -------------------------------------------------------------------------------------------

def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".data" / "minikube", help="default: .data/minikube")
    parser.add_argument("--mongodb-nodes", type=int, default=1, metavar="N",
                        help="how many nodes the replica set has (1 on Minikube, 3 in the overlay ec2)")
    parser.add_argument("--gateway-host", action="append", default=[], metavar="NAME",
                        help="one more name or address that the gateway's certificate is for")
    parser.add_argument("--print", action="store_true", help="print all of them for `kubectl apply --server-side -f -`")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    os.umask(0o077)
    folder = Folder(arguments.folder.resolve())
    try:
        if not shutil.which("openssl"):
            raise Failed("`openssl` is not on the PATH: install it (Debian, Ubuntu: apt install openssl)")
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        make(folder, arguments.mongodb_nodes, {"gateway-tls": arguments.gateway_host})
        check_complete(folder)
    except (Failed, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for name in folder.made:
        print(f"made {name}", file=sys.stderr)
    print(f"The secrets are in {folder.path}", file=sys.stderr)
    if arguments.print:
        json.dump(as_list(folder), sys.stdout, indent=1)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
