"""The procedures of docs/operations.md: the blocks of commands that scripts/try_operations.py runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from supervisor import Failed

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "operations.md"
SECTION = re.compile(r"^## Procedures\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^(?:<!-- (procedure|file): (\S+) -->\n)?```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What the script's own names for them are, in their order there.
NAMES = (
    "deploy", "scale-out", "spread-partitions", "scale-in", "upgrade", "go-back", "more-partitions",
    "partitions-back", "partitions-done", "lost-host", "lost-views", "lost-broker", "second-deployment")
FILES = ("settings.env", "processes")


@dataclass(frozen=True)
class Block:
    kind: str  # "procedure" or "file"
    name: str
    text: str


def blocks(document: str) -> list[Block]:
    section = SECTION.search(document)
    if not section:
        raise Failed(f"{DOCUMENT.name} has no section “Procedures”")
    return [Block(*found) for found in BLOCK.findall(section[1])]


def misplaced(found: list[Block]) -> list[str]:
    """Blocks that are missing, unknown, twice or in another order than they are run in."""
    if unmarked := [block.text.splitlines()[0] for block in found if not block.kind]:
        return [f"no comment before it says what runs the block that begins with `{first}`" for first in unmarked]
    problems = []
    for kind, wanted in (("file", FILES), ("procedure", NAMES)):
        names = tuple(block.name for block in found if block.kind == kind)
        if names != wanted:
            problems.append(f"the blocks marked {kind} are {', '.join(names)}, and not {', '.join(wanted)}")
    return problems
