#!/usr/bin/env python3
"""Checks that the Postman collection and docs/api.md have every route of both services, and every request a test.

The routes are those of shared/src/web/routes.rs; that these are what is served, the services' tests check. The error
pages that gateways fetch (shared/src/web/gateway_errors.rs) are no routes of the API.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLLECTION = "postman/microblog.postman_collection.json"
DOCUMENT = "docs/api.md"
TABLE = "shared/src/web/routes.rs"
KEY_SET = "shared/src/auth/token.rs"
URLS = {"Command": "{{command_url}}", "Query": "{{query_url}}"}
METHOD = "GET|POST|PUT|PATCH|DELETE"


def main() -> int:
    requests = list(requests_of(json.loads((ROOT / COLLECTION).read_text())["item"]))
    called = {(request["method"], pattern(address(request))) for _, request, _ in requests}
    documented = set(calls_in((ROOT / DOCUMENT).read_text()))
    routes = list(routes_of((ROOT / TABLE).read_text()))

    problems = [f"{COLLECTION}: “{name}” has no test" for name, _, tested in requests if not tested]
    for service, method, base, path in routes:
        if (method, pattern(URLS[service] + base + path)) not in called:
            problems.append(f"{COLLECTION}: no request for {method} {base}{path} of the {service.lower()} service")
        if (method, pattern(path)) not in documented:
            problems.append(f"{DOCUMENT}: {method} {path} of the {service.lower()} service is missing")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not problems:
        print(f"{len(routes)} routes are in {COLLECTION} ({len(requests)} requests, each with a test) and in {DOCUMENT}")
    return 1 if problems else 0


def routes_of(code: str):
    """Service, method, base and path of each route."""
    table = re.search(r"const ROUTES\b[^=]*= \[(.*?)\];", code, re.DOTALL)
    base = re.search(r'const BASE: &str = "([^"]+)"', code)
    if not table or not base:
        sys.exit(f"error: {TABLE}: ROUTES or BASE is not as this check looks for it")
    key_set = re.search(r'const KEY_SET: &str = "([^"]+)"', (ROOT / KEY_SET).read_text())[1]
    for service, method, path in re.findall(r'route\((\w+), "([A-Z]+)", (KEY_SET|"[^"]+")\)', table[1]):
        if path == "KEY_SET":
            yield service, method, "", key_set
        else:
            yield service, method, base[1], path.strip('"').removeprefix(base[1])


def requests_of(items: list[dict], folder: str = ""):
    """Name, request, and whether it has a test of its own, of each request in these folders."""
    for item in items:
        name = f"{folder}{item['name']}"
        if "item" in item:
            yield from requests_of(item["item"], f"{name} / ")
            continue
        scripts = [event["script"]["exec"] for event in item.get("event", []) if event["listen"] == "test"]
        code = "\n".join(line for script in scripts for line in ([script] if isinstance(script, str) else script))
        yield name, item["request"], "pm.test(" in code


def address(request: dict) -> str:
    url = request["url"]
    return url if isinstance(url, str) else url["raw"]  # Postman writes the long form


def pattern(path: str) -> str:
    """The path without its query, and with nothing where a segment varies: `{id}`, `{{post_id}}` or `:id`."""
    base, *segments = path.partition("?")[0].split("/")
    return "/".join([base, *("{}" if re.search(r"\{|^:", segment) else segment for segment in segments)])


def calls_in(document: str):
    """The calls that the tables' first columns name: `POST` / `DELETE /a/{id}/b`, or `GET /a/{id}/b` · `/c`."""
    for cell in re.findall(r"^\| *(`[^|]+)\|", document, re.MULTILINE):
        methods, alone, path = [], [], ""
        for code in re.findall(r"`([^`]+)`", cell):
            if re.fullmatch(METHOD, code):
                alone.append(code)
            elif found := re.fullmatch(rf"({METHOD}) (/\S*)", code):
                methods, alone, path = [*alone, found[1]], [], found[2]
                yield from ((method, pattern(path)) for method in methods)
            elif code.startswith("/") and path:
                sibling = path.rpartition("/")[0] + code
                yield from ((method, pattern(sibling)) for method in methods)


if __name__ == "__main__":
    sys.exit(main())
