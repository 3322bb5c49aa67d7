#!/usr/bin/env bash
# httpx-sse 0.4.3 (Python): what it makes of comments, of `retry:` and of the two ways a body can end.
# Needs python3 and PyPI. Exits with 1 if anything is not as it was seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install httpx-sse==0.4.3 httpx==0.28.1
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata, socket, threading
import httpx, httpx_sse

EVENT = "event: post\nid: 7\ndata: x\n\n"

def serve(listener, body, in_order):
    """Answers one request with one chunk, and ends the body in order or breaks it off."""
    connection, _ = listener.accept()
    while b"\r\n\r\n" not in connection.recv(65536):
        pass
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    last_chunk = "0\r\n\r\n" if in_order else ""
    connection.sendall(f"{head}{len(body):x}\r\n{body}\r\n{last_chunk}".encode())
    connection.close()

def read(body, in_order=True):
    """The events that are delivered, and how the loop over them ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener, body, in_order))
        thread.start()
        events, end = [], "loop ends"
        try:
            with httpx.Client(trust_env=False) as client:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
                with httpx_sse.connect_sse(client, "GET", url) as source:
                    for event in source.iter_sse():
                        events.append((event.event, event.data, event.id))
        except httpx.TransportError as error:
            end = type(error).__name__
        thread.join()
        return events, end

POST, EMPTY = ("post", "x", "7"), ("message", "", "7")
seen = [
    ("a comment and one newline, before and after an event", read(": a\n" + EVENT + ": b\n"), ([POST], "loop ends")),
    ("a comment and an empty line before the first event", read(": a\n\n" + EVENT), ([POST], "loop ends")),
    ("a comment and an empty line after an event", read(EVENT + ": b\n\n"), ([POST, EMPTY], "loop ends")),
    ("retry: and one newline", read("retry: 1000\n" + EVENT), ([POST], "loop ends")),
    ("retry: and an empty line", read("retry: 1000\n\n" + EVENT), ([("message", "", ""), POST], "loop ends")),
    ("a body that is broken off", read(EVENT, in_order=False), ([POST], "RemoteProtocolError")),
]
print("httpx-sse", importlib.metadata.version("httpx-sse"), "httpx", httpx.__version__)
wrong = 0
for what, got, expected in seen:
    wrong += got != expected
    print(f"{what}: {got}" + ("" if got == expected else f", where {expected} was seen before"))
raise SystemExit(1 if wrong else 0)
PYTHON
