#!/usr/bin/env python3
"""Checks that the Postman collection and docs/api.md have every route of both services, and every request a test.

The routes are those of shared/src/web/routes.rs; that these are what is served, the services' tests check. The error
pages that gateways fetch (shared/src/web/gateway_errors.rs) are no routes of the API.

It also checks that every environment sets what the collection needs and no more, that every read carries the
consistency token, and that the scripts use nothing that is lost when the collection is converted to k6. Before, it
tries each of these on a collection with one fault in it.
"""

from __future__ import annotations

import copy
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
ENVIRONMENTS = ("ec2", "gateway", "local", "minikube")
TOKEN = "X-Consistency-Token"
# What Postman's scripts can do and those of @apideck/postman-to-k6 1.13.0 cannot, and what to write instead.
NOT_IN_K6 = {
    r"pm\.request\.url\.(?!toString\(\))": "the address in parts: take it as text, as the collection's own test does",
    r"pm\.request\.headers\b": "the request's headers: name them in the request",
    r"headers\.(?!get\()\w+\(": "headers.get(), and `.not.to.exist` for one that must not be there",
    r"pm\.(sendRequest|cookies|visualizer)\b|\bpostman\.": "requests of their own",
    r"\b(Buffer|btoa)\b": "plain JavaScript",
    r"expect\(pm\.response\.text\(\)\)": "`pm.response.text() || ''`: it is null where there is no body",
    r"\?\.(?!\d)": "`&&`: the converter takes the question mark out of `?.`",
    r"pm\.execution\.": "it only inside `if (pm.execution) {`",
}


def main() -> int:
    collection = json.loads((ROOT / COLLECTION).read_text())
    environments = {path.name.partition(".")[0]: json.loads(path.read_text())
                    for path in sorted((ROOT / "postman").glob("*.postman_environment.json"))}
    for name in blind(collection, environments):
        print(f"error: scripts/check_postman.py does not find a fault that it is tried with: {name}", file=sys.stderr)
        return 1
    requests = list(requests_of(collection["item"]))
    called = {(request["method"], pattern(address(request))) for _, request, _ in requests}
    documented = set(calls_in((ROOT / DOCUMENT).read_text()))
    routes = list(routes_of((ROOT / TABLE).read_text()))

    problems = [f"{COLLECTION}: “{name}” has no test" for name, _, tested in requests if not tested]
    problems += conventions(collection, environments)
    for service, method, base, path in routes:
        if (method, pattern(URLS[service] + base + path)) not in called:
            problems.append(f"{COLLECTION}: no request for {method} {base}{path} of the {service.lower()} service")
        if (method, pattern(path)) not in documented:
            problems.append(f"{DOCUMENT}: {method} {path} of the {service.lower()} service is missing")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not problems:
        print(f"{len(routes)} routes are in {COLLECTION} ({len(requests)} requests, each with a test) and in {DOCUMENT}; "
              f"{len(environments)} environments set what it needs")
    return 1 if problems else 0


# --- environments and scripts -----------------------------------------------------------------------------------

def conventions(collection: dict, environments: dict[str, dict]) -> list[str]:
    """What is wrong with the environments, the reads and the scripts."""
    problems = [f"postman/: there is no environment {name}" for name in ENVIRONMENTS if name not in environments]
    needed = needed_variables(collection)
    for name, environment in environments.items():
        where = f"postman/{name}.postman_environment.json"
        keys = [value["key"] for value in environment["values"] if value.get("enabled", True)]
        problems += [f"{where} does not set {key}, which the collection uses" for key in sorted(needed - set(keys))]
        problems += [f"{where} sets {key}, which the collection does not use" for key in sorted(set(keys) - needed)]
        problems += [f"{where} sets a variable twice" for _ in keys[len(set(keys)):]]
        # k6 does not look for variables in the values of variables.
        problems += [f"{where}: {value['key']} wants a URL, without a slash at its end"
                     for value in environment["values"] if not re.fullmatch(r"https?://[^/{}]+", value["value"])]
    for name, request, _ in requests_of(collection["item"]):
        read = request["method"] == "GET" and address(request).startswith(f"{URLS['Query']}/api/v1/")
        carries = [header["value"] for header in request.get("header", []) if header["key"] == TOKEN]
        if read and not carries:
            problems.append(f"{COLLECTION}: “{name}” does not carry {TOKEN}: add {{{{consistency_token}}}}")
    for name, code in scripts_of(collection):
        code = re.sub(r"if \(pm\.execution\) \{\s*pm\.execution\.", "", code)
        problems += [f"{COLLECTION}: “{name}”: converted to k6, a script has no {found[0]!r}; use {instead}"
                     for wrong, instead in NOT_IN_K6.items() if (found := re.search(wrong, code))]
        # Case matters there, and Go writes them like this.
        problems += [f"{COLLECTION}: “{name}”: converted to k6, a script finds {header} only as {as_in_go(header)}"
                     for header in re.findall(r"(?:headers\.get\(|\d{3}: )'([\w-]+)'", code) if header != as_in_go(header)]
    return problems


def as_in_go(header: str) -> str:
    return "-".join(part.capitalize() for part in header.split("-"))


def needed_variables(collection: dict) -> set[str]:
    """Those that requests use and the collection does not set."""
    code = "\n".join(code for _, code in scripts_of(collection))
    used = set(re.findall(r"\{\{([^{}$]+)\}\}", json.dumps([collection["item"], collection.get("auth")])))
    used |= set(re.findall(r"pm\.(?:environment|globals|variables)\.get\('(\w+)'\)", code))
    return used - {variable["key"] for variable in collection["variable"]} - set(
        re.findall(r"pm\.collectionVariables\.set\('(\w+)'", code))


def scripts_of(item: dict, name: str = ""):
    """Where each script is, and its code."""
    for event in item.get("event", []):
        lines = event["script"]["exec"]
        yield name or "the collection itself", lines if isinstance(lines, str) else "\n".join(lines)
    for inner in item.get("item", []):
        yield from scripts_of(inner, f"{name} / {inner['name']}" if name else inner["name"])


def blind(collection: dict, environments: dict[str, dict]) -> list[str]:
    """The faults that `conventions` does not find, of some that it must find."""
    def with_script(line: str) -> tuple[dict, dict]:
        changed = copy.deepcopy(collection)
        changed["event"].append({"listen": "test", "script": {"exec": ["const a = 1;", line]}})
        return changed, environments

    def with_values(change) -> tuple[dict, dict]:
        changed = copy.deepcopy(environments)
        change(next(iter(changed.values()))["values"])
        return collection, changed

    bare = copy.deepcopy(collection)
    next(request for _, request, _ in requests_of(bare["item"])
         if request["method"] == "GET" and "/api/v1/" in address(request))["header"] = []
    more = copy.deepcopy(collection)
    next(requests_of(more["item"]))[1]["header"].append({"key": "X-More", "value": "{{somewhere}}"})
    faults = {
        "a read without the token": (bare, environments), "a variable that nobody sets": (more, environments),
        "an environment less": (collection, dict(list(environments.items())[1:])),
        "a value less": with_values(lambda values: values.pop()),
        "a value more": with_values(lambda values: values.append({"key": "x", "value": "http://x"})),
        "a value twice": with_values(lambda values: values.append(values[0])),
        "a value with a variable": with_values(lambda values: values[0].update(value="{{base_url}}")),
        **{line: with_script(line) for line in (
            "pm.request.url.getPath();", "pm.request.headers.has('A');", "pm.response.headers.has('A');",
            "pm.response.headers.get('ETag');", "pm.execution.setNextRequest('a');", "pm.sendRequest('a');",
            "answer?.posts;", "pm.expect(pm.response.text()).to.equal('');", "Buffer.from('a');")}}
    known = set(conventions(collection, environments))
    return [name for name, changed in faults.items() if not set(conventions(*changed)) - known]


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
