"""Takes OTLP over HTTP, as a collector does, and reads of the spans what a script wants to know."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]  # the traces it is linked to


class Receiver(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        self.spans: list[Span] = []
        self.logs = 0
        super().__init__(("127.0.0.1", 0), Taken)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Taken(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            self.server.spans.extend(spans_of(body))
        elif self.path == "/v1/logs":
            self.server.logs += 1
        self.send_response(200 if self.path in ("/v1/traces", "/v1/logs") else 404)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()


# --- just enough of Protocol Buffers; the numbers are those of opentelemetry-proto, which do not change ------------

def spans_of(request: bytes) -> list[Span]:
    """Of an ExportTraceServiceRequest."""
    spans = []
    for resource_spans in fields(request).get(1, []):
        parts = fields(resource_spans)
        attributes = [fields(attribute) for resource in parts.get(1, []) for attribute in fields(resource).get(1, [])]
        service = next((text(fields(attribute[2][0]), 1) for attribute in attributes
                        if text(attribute, 1) == "service.name"), "")
        for scope in parts.get(2, []):
            for raw in fields(scope).get(2, []):
                span = fields(raw)
                links = tuple(fields(link).get(1, [b""])[0].hex() for link in span.get(13, []))
                trace, own, parent = (span.get(number, [b""])[0].hex() for number in (1, 2, 4))
                spans.append(Span(service, text(span, 5), trace, own, parent, links))
    return spans


def text(message: dict[int, list], number: int) -> str:
    return message.get(number, [b""])[0].decode()


def fields(message: bytes) -> dict[int, list]:
    """The values of each field, in order."""
    found: dict[int, list] = {}
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = varint(message, at)
        elif kind == BYTES:
            length, at = varint(message, at)
            value, at = message[at:at + length], at + length
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
            value, at = message[at:at + length], at + length
        else:
            raise ValueError(f"a field of kind {kind}")
        found.setdefault(key >> 3, []).append(value)
    return found


def varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
