#!/usr/bin/env bash
# AWS Lambda Web Adapter 0.9.1 (crates.io), with events of an HTTP API, payload format 2.0: which of a server's headers reach
# the client, what of a stage's name reaches the server, and when a server counts as ready.
# Needs cargo, crates.io and Python 3; two minutes to build. Exits with 1 if anything is not as it was seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cargo install --quiet lambda_web_adapter --version =0.9.1 --locked --no-track --root "$folder" --target-dir "$folder/target"
python3 - "$folder/bin/lambda-adapter" <<'PYTHON'
import json
import os
import queue
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

events, answers, asked = queue.Queue(), queue.Queue(), queue.Queue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, status, body=b"{}", headers=()):
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Lambda(Handler):
    """The Runtime API, as AWS documents it."""

    def do_GET(self):
        if self.path.endswith("/extension/event/next"):
            threading.Event().wait()
        self.say(200, json.dumps(events.get()).encode(), [
            ("Lambda-Runtime-Aws-Request-Id", "1"), ("Lambda-Runtime-Deadline-Ms", "4000000000000"),
            ("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-central-1:1:function:f"),
            ("Content-Type", "application/json")])

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/response"):
            answers.put(json.loads(body))
        self.say(200, headers=[("Lambda-Extension-Identifier", "1")])


class Server(Handler):
    """What the adapter stands in front of. It has no page at `/`, which the adapter asks for."""

    def do_GET(self):
        asked.put(self.path)
        if self.path == "/":
            self.say(404)
        else:
            self.say(200, headers=[("Link", "<1>; rel=first"), ("Link", "<2>; rel=next"), ("Set-Cookie", "a=1"),
                                   ("Set-Cookie", "b=2")])


def serve(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def expect(what, seen, wanted):
    print(f"{what}: {seen}")
    if seen != wanted:
        sys.exit(f"not as it was seen: {wanted}")


runtime, server = serve(Lambda), serve(Server)
adapter = subprocess.Popen([sys.argv[1]], env={
    "PATH": os.environ["PATH"], "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{runtime}", "AWS_LWA_PORT": str(server),
    "AWS_LAMBDA_FUNCTION_NAME": "f", "AWS_LAMBDA_FUNCTION_VERSION": "1", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
    "AWS_LAMBDA_LOG_GROUP_NAME": "g", "AWS_LAMBDA_LOG_STREAM_NAME": "s"})
try:
    # The stage `prod` of an HTTP API: its name is in rawPath.
    events.put({"version": "2.0", "routeKey": "$default", "rawPath": "/prod/posts", "rawQueryString": "",
                "headers": {"host": "a.execute-api.eu-central-1.amazonaws.com"}, "isBase64Encoded": False,
                "requestContext": {"accountId": "1", "apiId": "a", "stage": "prod", "requestId": "1", "routeKey": "$default",
                                   "time": "28/Nov/2026:04:00:00 +0000", "timeEpoch": 1795838400000,
                                   "http": {"method": "GET", "path": "/prod/posts", "protocol": "HTTP/1.1",
                                            "sourceIp": "203.0.113.7", "userAgent": "x"}}})
    answer = answers.get(timeout=30)
finally:
    adapter.kill()
expect("a server that answers the readiness check with 404 is sent events", asked.get(), "/")
expect("the server is asked for", asked.get(), "/prod/posts")
expect("of two lines of the header Link the client gets", [answer["headers"].get("link"), answer["multiValueHeaders"]],
       ["<1>; rel=first", {}])
expect("of two lines of Set-Cookie it gets", answer["cookies"], ["a=1", "b=2"])
PYTHON
