"""Many live streams at once, each on a connection of its own, read by one thread that counts their bytes."""

from __future__ import annotations

import selectors
import socket
import threading

from supervisor import Failed


class LiveStreams:
    def __init__(self, port: int, tokens: list[str]):
        self.port, self.tokens = port, tokens
        self.bytes = self.ended = 0
        self.selector = selectors.DefaultSelector()
        self.closing = threading.Event()

    def __enter__(self) -> LiveStreams:
        for token in self.tokens:
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            connection.sendall(f"GET /api/v1/timeline/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
                               "\r\n".encode())
            first = connection.recv(65536)
            if not first.startswith(b"HTTP/1.1 200"):
                raise Failed(f"a live stream does not begin: {first[:200].decode(errors='replace')}")
            connection.setblocking(False)
            self.selector.register(connection, selectors.EVENT_READ)
        self.reading = threading.Thread(target=self.read, daemon=True)
        self.reading.start()
        return self

    def read(self) -> None:
        while not self.closing.is_set():
            for key, _ in self.selector.select(0.2):
                try:
                    got = len(key.fileobj.recv(1 << 20))
                except OSError:
                    got = 0
                self.bytes += got
                if not got:
                    self.ended += 1
                    self.selector.unregister(key.fileobj)
                    key.fileobj.close()

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.reading.join(5)
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()
