"""The programs in docs/events.md and docs/tokens.md, and what they need: scripts/try_snippets.py runs them.

A comment `<!-- snippet: NAME -->` before a block says what file it is. What is installed stays in the cache.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from engines import CACHE, from_npm, from_pypi, locked, need_cargo, with_node
from supervisor import Failed, Supervisor

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("docs/events.md", "docs/tokens.md")
SNIPPET = re.compile(r"^<!-- snippet: (\S+) -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

FROM_PYPI = (
    "nats-py==2.16.0", "cloudevents==2.2.0", "pyjwt[crypto]==2.15.1", "jwcrypto==1.6.1", "joserfc==1.8.0",
    "python-jose==3.5.0")
FROM_NPM = (
    "@nats-io/jetstream@3.4.0", "@nats-io/transport-node@3.4.0", "cloudevents@10.0.0", "jose@6.2.18", "jwks-rsa@4.1.0",
    "jsonwebtoken@9.0.3")
MANIFEST = """\
[package]
name = "reader"
version = "0.0.0"
edition = "2024"
publish = false

[[bin]]
name = "reader"
path = "reader.rs"

[dependencies]
async-nats = { version = "=0.51.0", default-features = false, features = ["jetstream", "aws-lc-rs"] }
futures-util = { version = "0.3", default-features = false }
serde_json = "1"
tokio = { version = "1", features = ["macros", "rt", "time"] }

[profile.dev]
debug = false

[workspace]
"""


def snippets() -> dict[str, str]:
    """What stands in the documents, by name."""
    found: dict[str, str] = {}
    for document in DOCUMENTS:
        for name, text in SNIPPET.findall((ROOT / document).read_text()):
            if name in found:
                raise Failed(f"{document}: {name} is there twice")
            found[name] = text
    return found


def digest(*names: str) -> str:
    """A name for what is installed: other versions are another folder."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


class Toolbox:
    """Runs programs in the languages of the documents, each in a folder of its own below `folder`."""

    def __init__(self, supervisor: Supervisor, folder: Path):
        self.supervisor, self.folder = supervisor, folder
        self.python = from_pypi(supervisor, f"snippets-python-{digest(*FROM_PYPI)}", *FROM_PYPI) / "python3"
        self.modules = from_npm(supervisor, f"snippets-npm-{digest(*FROM_NPM)}", *FROM_NPM) / "node_modules"
        self.path = with_node(supervisor)["PATH"]

    def place(self, name: str, text: str) -> tuple[list[str], Path]:
        """Writes a program where it is run, and returns how, and where."""
        folder = self.folder / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text(text)
        if name.endswith(".py"):
            return [str(self.python), "-B", name], folder
        if name.endswith(".rs"):
            return [str(self.built(folder))], folder
        (folder / "node_modules").symlink_to(self.modules)
        return ["node", name], folder

    def built(self, folder: Path) -> Path:
        """The program of a Rust file. What it depends on is compiled once."""
        need_cargo()
        (folder / "Cargo.toml").write_text(MANIFEST)
        target = CACHE / f"snippets-rust-{digest(MANIFEST)}"
        with locked(self.supervisor, target.with_suffix(".lock"), f"Waiting for another run that builds in {target}"):
            if (kept := target / "Cargo.lock").exists():
                shutil.copy(kept, folder)
            command = ["cargo", "build", "--quiet", "--target-dir", str(target)]
            if self.supervisor.run("cargo build", command, cwd=folder):
                raise Failed("the program in Rust does not compile; the compiler's message is above")
            shutil.copy(folder / "Cargo.lock", kept)
            shutil.copy(target / "debug" / "reader", folder / "reader")
        return folder / "reader"
