#!/usr/bin/env python3
"""Computes what the system needs at each size, from bench/measured.json and stated assumptions: the tables of
docs/capacity.md. It prints them; --write puts them into the document, --check says where the document differs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

from report import Report  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
MEASURED, DOCUMENT = ROOT / "bench" / "measured.json", ROOT / "docs" / "capacity.md"
BLOCK = re.compile(r"(<!-- simulate: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def differences(document: str, blocks: dict[str, str]) -> list[str]:
    """What is wrong with the document: a table that is another than the computed one, is missing, or is unknown."""
    found = {name: text.removesuffix("\n") for _, name, text, _ in BLOCK.findall(document)}
    wrong = [f"the table {name} is not in the document" for name in blocks if name not in found]
    wrong += [f"the document has a table {name} that nobody computes" for name in found if name not in blocks]
    for name, text in found.items():
        if name in blocks and text != blocks[name]:
            lines, wanted = text.splitlines(), blocks[name].splitlines()
            at = next((n for n, (has, should) in enumerate(zip(lines, wanted)) if has != should),
                      min(len(lines), len(wanted)))
            wrong.append(f"the table {name} differs in line {at + 1}: it has “{at_line(lines, at)}”, "
                         f"computed is “{at_line(wanted, at)}”")
    return wrong


def at_line(lines: list[str], at: int) -> str:
    return lines[at] if at < len(lines) else "nothing"


def written(document: str, blocks: dict[str, str]) -> str:
    def block(match: re.Match) -> str:
        return f"{match[1]}{blocks[match[2]]}\n{match[4]}" if match[2] in blocks else match[0]

    return BLOCK.sub(block, document)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="put the tables into docs/capacity.md")
    what.add_argument("--check", action="store_true", help="fail if a table of docs/capacity.md is another one")
    arguments = parser.parse_args()
    blocks = Report(json.loads(MEASURED.read_text())).blocks()
    if arguments.write:
        DOCUMENT.write_text(written(DOCUMENT.read_text(), blocks))
    if arguments.write or arguments.check:
        wrong = differences(DOCUMENT.read_text(), blocks)
        for line in wrong:
            print(f"error: docs/capacity.md: {line}; `make capacity` writes all of them", file=sys.stderr)
        if not wrong:
            print(f"docs/capacity.md: all {len(blocks)} tables are as computed from bench/measured.json")
        return 1 if wrong else 0
    for name, text in blocks.items():
        print(f"--- {name}\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
