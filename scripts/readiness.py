"""Whether a service is ready, by its /readyz, and if not, what it says is missing."""

from __future__ import annotations

import http.client
import json

from engines import url_host
from supervisor import Process, Supervisor, say

STILL_WAITING_SECONDS = 15


def wait_until_ready(supervisor: Supervisor, service: Process, host: str, port: int) -> None:
    waited = 0
    while True:
        for _ in range(STILL_WAITING_SECONDS * 5):
            supervisor.check_alive()
            status, body = get(url_host(host, port), "/readyz")
            if status == 200:
                return
            supervisor.pause(0.2)
        waited += STILL_WAITING_SECONDS
        what = missing(body) or f"/readyz answers {status}" if status else "nothing answers on its operations port"
        say(f"{service.name} is not ready after {waited} s: {what}")


def ask_readiness(address: str) -> int | None:
    return get(address, "/readyz")[0]


def get(address: str, path: str, timeout: float = 2) -> tuple[int | None, bytes]:
    """Status and body of the answer; nothing if there is none."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None, b""
    finally:
        connection.close()


def missing(body: bytes) -> str:
    """What the body of /readyz misses, in one line; nothing if it is another one."""
    try:
        reasons = {what: str(why) for what, why in json.loads(body)["missing"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    # What merely waits for something else hides what that is.
    told = {what: why for what, why in reasons.items() if why != "not yet"} or reasons
    return " ".join("; ".join(f"{what}: {why}" for what, why in told.items()).split())
