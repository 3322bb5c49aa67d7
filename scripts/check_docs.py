#!/usr/bin/env python3
"""Checks that what the documents name is there: files, links, tests, Rust names, settings, error codes, metrics.

Before it reads the documents, it tries every check on a small tree with one fault in it, which the check must find.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INVARIANTS, SETTINGS, CONTRACT, METRICS = (
    f"docs/{name}.md" for name in ("invariants", "settings", "api", "metrics"))
# Documents that speak of the code: a CamelCase word in them is one of its types.
OF_THE_CODE = ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md", INVARIANTS)
FILE = re.compile(r"[\w.*/-]+(?:\.(?:rs|py|md|toml|sh|mjs|cjs|ndjson)|/)")
SCOPED_NAME = re.compile(r"\w+(?:::\w+)+(?:\(\))?")
TYPE_OR_FUNCTION = re.compile(r"(?:[A-Z][a-z]+){2,}|[a-z]\w*\(\)")
TEST = re.compile(r"#\[(?:\w+::)?test\b[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:async )?fn (\w+)")
# Of `command-service/tests/store/conformance.rs`: a macro makes a test of each.
PROMISE = re.compile(r"pub async fn (\w+)\(world: &impl World\)")
METRIC = re.compile(r'^ {4}([A-Z_]+): (?:Counter|Gauge|Histogram(?:\(\w+\))?)\s+"(\w+)"', re.MULTILINE)

# Those of the crate metrics-process, which has no rows of ours.
PROCESS_METRICS = {
    "process_cpu_seconds_total", "process_max_fds", "process_open_fds", "process_resident_memory_bytes",
    "process_start_time_seconds", "process_threads", "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes"}

Tree = dict[str, str]


def main() -> int:
    blind = [name for name, check, tree, fault in controls() if not any(fault in found for found in check(tree))]
    for name in blind:
        print(f"error: scripts/check_docs.py: the check “{name}” does not find the fault that it is tried with",
              file=sys.stderr)
    tree = tracked_files()
    problems = [problem for check in CHECKS for problem in check(tree)]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not problems and not blind:
        print(f"{sum(name.endswith('.md') for name in tree)} documents: every file, link, test, name, setting, code "
              "and metric in them is there")
    return 1 if problems or blind else 0


def tracked_files() -> Tree:
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True)
    files = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    return {name: (ROOT / name).read_text(errors="replace") for name in files}


# --- the checks: each yields what is wrong ----------------------------------------------------------------------

def links(tree: Tree) -> Iterator[str]:
    """Relative links, with their anchors."""
    for name, text in documents(tree):
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            there = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            if there not in tree and there not in folders(tree):
                yield f"{name}: the link to {target} leads nowhere"
            elif anchor and anchor not in anchors(tree.get(there, "")):
                yield f"{name}: {there} has no heading for #{anchor}"


def paths(tree: Tree) -> Iterator[str]:
    """Files and folders: whole, or as the end of a path (`http/mod.rs`)."""
    everything = [*tree, *(f"{folder}/" for folder in folders(tree))]
    for name, text in documents(tree):
        for span in spans(text):
            if FILE.fullmatch(span) and not span.startswith(("/", ".")):
                wanted = (span, f"*/{span}")
                if not any(fnmatch.fnmatch(path, pattern) for path in everything for pattern in wanted):
                    yield f"{name}: there is no {span}"


def names(tree: Tree) -> Iterator[str]:
    """Names of the code: `a::b` everywhere; types and `functions()` where the code is spoken of; a file's function."""
    words = set(re.findall(r"\w+", "\n".join(text for path, text in tree.items() if path.endswith((".rs", ".toml")))))
    for name, text in documents(tree):
        for span in spans(text):
            if SCOPED_NAME.fullmatch(span) or name in OF_THE_CODE and TYPE_OR_FUNCTION.fullmatch(span):
                for word in re.findall(r"\w+", span):
                    if word not in words:
                        yield f"{name}: no Rust source has the name {word} of `{span}`"
        for file, function in re.findall(r"`([\w/.-]+\.rs)`, `(\w+)\(\)`", text):
            if not re.search(rf"\bfn {function}\b", tree.get(file, "")):
                yield f"{name}: {file} has no function {function}"


def invariants(tree: Tree) -> Iterator[str]:
    """The tables of tests: each is in the file of its row, or in its folder; each system test is in a table."""
    listed = set()
    for first, second in re.findall(r"^\|([^|]*)\|([^|]*)\|", tree.get(INVARIANTS, ""), re.MULTILINE):
        for file in (span for span in spans(first) if FILE.fullmatch(span)):
            folder = f"{file.removesuffix('.rs').rstrip('/')}/"
            there = {test for path, text in tree.items() if path == file or path.startswith(folder)
                     for test in tests_in(text)}
            for test in (span for span in spans(second) if span.count("_") >= 2):
                listed.add(test)
                if test not in there:
                    yield f"{INVARIANTS}: {file} has no test {test}"
    for path, text in tree.items():
        if path.startswith("tests/tests/"):
            for test in sorted(tests_in(text) - listed):
                yield f"{INVARIANTS}: {test} of {path} is in no table"


def settings(tree: Tree) -> Iterator[str]:
    """The rows of the table of variables; their defaults are compared by a unit test beside it."""
    table = "\n".join(text for path, text in tree.items() if path.endswith("/settings/variables.rs"))
    read = set(re.findall(r'^ {8}([A-Z][A-Z_]+)(?:: .+?)? = "', table, re.MULTILINE))
    yield from differences(SETTINGS, "setting", first_column(tree.get(SETTINGS, ""), r"[A-Z][A-Z_]+"), read)


def codes(tree: Tree) -> Iterator[str]:
    sources = [text for path, text in tree.items() if path.endswith("/problem.rs")]
    known = set(re.findall(r'^ +\w+ "(\w+)" \d{3} "', "\n".join(sources), re.MULTILINE))
    section = re.search(r"^## Codes\n(.*?)(?=^## |\Z)", tree.get(CONTRACT, ""), re.MULTILINE | re.DOTALL)
    yield from differences(CONTRACT, "code", first_column(section[1] if section else "", r"[a-z_]+"), known)


def metrics(tree: Tree) -> Iterator[str]:
    """The rows of the table of metrics: all are told, and each is recorded somewhere. Unit tests compare the lines."""
    tables = {path: text for path, text in tree.items() if path.endswith("/metric_rows.rs")}
    rows = [row for text in tables.values() for row in METRIC.findall(text)]
    told = first_column(tree.get(METRICS, ""), r"[a-z_]+")
    yield from differences(METRICS, "metric", told, {name for _, name in rows} | PROCESS_METRICS)
    code = "\n".join(text for path, text in tree.items() if path.endswith(".rs") and path not in tables)
    recorded = set(re.findall(r"\b[A-Z_]+\b", re.sub(r"(?s)\buse [^;]*;", "", code)))
    for row, name in rows:
        if row not in recorded:
            yield f"{METRICS}: nothing records {name}: no source uses {row}"


CHECKS = (links, paths, names, invariants, settings, codes, metrics)


# --- reading ----------------------------------------------------------------------------------------------------

def documents(tree: Tree) -> Iterator[tuple[str, str]]:
    return ((name, text) for name, text in tree.items() if name.endswith(".md"))


def prose(text: str) -> str:
    """Without fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """What stands in single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def folders(tree: Tree) -> set[str]:
    return {str(parent) for name in tree for parent in Path(name).parents} - {"."}


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tests_in(text: str) -> set[str]:
    return {*TEST.findall(text), *PROMISE.findall(text)}


def first_column(text: str, pattern: str) -> set[str]:
    cells = re.findall(r"^\|([^|]*)\|", text, re.MULTILINE)
    return {span for cell in cells for span in spans(cell) if re.fullmatch(pattern, span)}


def differences(document: str, what: str, told: set[str], known: set[str]) -> Iterator[str]:
    yield from (f"{document}: the {what} {name} does not exist" for name in sorted(told - known))
    yield from (f"{document}: the {what} {name} is missing" for name in sorted(known - told))


# --- negative controls: a check that has never failed proves nothing ----------------------------------------------

def controls() -> Iterator[tuple[str, object, Tree, str]]:
    """A name, a check, a tree with one fault, and what the check must say."""
    test = "#[tokio::test(flavor = \"multi_thread\")]\nasync fn a_b_c() {}\n"
    table = "| where | tests |\n|---|---|\n| `tests/tests/x.rs` | `a_b_c`, `d_e_f` |\n"
    yield "links", links, {"README.md": "[a](docs/b.md)"}, "docs/b.md leads nowhere"
    yield "anchors", links, {"README.md": "# A\n[a](#b)"}, "no heading for #b"
    yield "paths", paths, {"README.md": "`src/x.rs`", "src/y.rs": ""}, "no src/x.rs"
    yield "names", names, {"README.md": "`a::gone`", "src/a.rs": "mod a;"}, "the name gone"
    yield "types", names, {"CONTRIBUTING.md": "`GoneType`", "src/a.rs": ""}, "the name GoneType"
    yield "functions", names, {"README.md": "`src/a.rs`, `gone()`", "src/a.rs": "fn here() {}"}, "no function gone"
    yield "tests", invariants, {INVARIANTS: table, "tests/tests/x.rs": test}, "no test d_e_f"
    yield "system tests", invariants, {INVARIANTS: "", "tests/tests/x.rs": test}, "a_b_c of tests/tests/x.rs is in no"
    source = '        BB: Vec<u8> = "", "bytes", bytes;\n'
    yield "settings", settings, {SETTINGS: "| `A` |\n", "shared/src/runtime/settings/variables.rs": source}, "setting BB is missing"
    source = '    Gone "gone" 404 "It is gone";\n'
    yield "codes", codes, {CONTRACT: "## Codes\n| `here` |\n", "shared/src/web/problem.rs": source}, "code gone is missing"
    source = '    AA: Counter "a_total" "events" [] "Events.";\n    BB: Gauge "b" "events" [] "Events.";\n'
    table = {"shared/src/runtime/metric_rows.rs": source, "shared/src/c.rs": "use rows::{AA, BB};\nBB.only();"}
    yield "metrics", metrics, {METRICS: "| `b` |\n", **table}, "metric a_total is missing"
    yield "unused metrics", metrics, {METRICS: "| `a_total` |\n| `b` |\n", **table}, "nothing records a_total"


if __name__ == "__main__":
    sys.exit(main())
