"""What `make run` says when everything runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gateway import Gateway
from supervisor import say

# One server of a URL, perhaps behind a user and a password, with the database that may follow.
SERVER = re.compile(r"(?:[a-z+]+://(?:[^/@]*@)?)?([\w.-]+(?::\d+)?|\[[\da-fA-F:.]+\](?::\d+)?)(?:/[^@]*)?")


def servers(name: str, url: str) -> str:
    """The hosts of a URL that somebody has set. No password: options may hold one too, so all else is left out."""
    before, _, options = url.partition("?")
    found = [SERVER.fullmatch(part) for part in before.split(",")]
    # An @ there means that the password itself holds the question mark.
    if "@" in options or not all(found):
        return f"the one in {name}"
    return ", ".join(match[1] for match in found)


def print_welcome(gateway: Gateway | None, command_url: str, query_url: str, engines: dict[str, str], data: Path,
                  new: bool) -> None:
    # curl asks even for what is on this machine through a proxy of the environment.
    proxied = any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)
    curl = "curl --noproxy '*' -sw '\\n'" if proxied else "curl -sw '\\n'"
    as_json = "-H 'content-type: application/json'"
    token_of = """sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/'"""
    to_commands, to_queries, hints = command_url, query_url, []
    if gateway:
        to_commands = to_queries = gateway.url
        if gateway.certificate:
            curl = f"{curl} -k"
            hints.append("-k: whoever has signed the certificate")
    if not new:
        hints.append("409 if ada is there already: go on with the next")
    hint = f" ({'; '.join(hints)})" if hints else ""
    addresses = "".join(f"  {what:<44} {where}\n" for what, where in (
        *([("a page to try it with, in a browser", f"{gateway.url}/"),
           ("every call, described", f"{gateway.url}/docs"),
           ("base of the API's paths", f"{gateway.url}/api/v1")] if gateway else []),
        ("base for commands (POST, PUT, PATCH, DELETE)", f"{command_url}/api/v1"),
        ("base for queries (GET)", f"{query_url}/api/v1"),
        *engines.items(),
        ("data, keys, and logs in files", str(data)),
    ))
    say(f"""
Microblog is ready.

{addresses}
Try these in another terminal, one after the other{hint}:

{curl} {to_commands}/api/v1/users {as_json} -d '{{"username":"ada","email":"ada@example.com","password":"correct horse"}}'

TOKEN=$({curl} {to_commands}/api/v1/auth/login {as_json} -d '{{"username":"ada","password":"correct horse"}}' | {token_of}) && {curl} {to_commands}/api/v1/posts {as_json} -H "authorization: Bearer $TOKEN" -d '{{"content":"Hello, world"}}'

{curl} {to_queries}/api/v1/timeline -H "authorization: Bearer $TOKEN"

Ctrl-C stops everything; the next `make run` continues with the data.
""")
