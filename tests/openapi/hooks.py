"""What Schemathesis cannot know about this API, and checks of our own. `scripts/try_schemathesis.py` loads it.

Random ids, cursors and tokens are of nothing, so that each operation would answer 404 and 400 alone: a request that is
to be valid gets those that earlier answers had. It reads what it wrote, as every client should: with the last
`X-Consistency-Token`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import unicodedata
import uuid
from collections import Counter, defaultdict
from pathlib import Path

import requests
import schemathesis

URL = os.environ["MICROBLOG_URL"]
DOCUMENT = json.loads((Path(__file__).parents[2] / "docs" / "openapi" / "microblog.json").read_text())
PASSWORD = "correct horse"  # as in the examples of the document
# After these the account or its tokens are of no use: each call has a user of its own.
ENDS_SOMETHING = {"deactivate", "changePassword", "changeEmail", "endSession", "endSessions"}

random_choice = random.Random(20)
numbers = itertools.count(1)
seen_users: list[str] = []
seen_posts: list[str] = []
cursors: dict[tuple[str, str], list[str]] = defaultdict(list)
statuses: Counter = Counter()
last = {"token": "", "refresh": ""}


# --- users ----------------------------------------------------------------------------------------------------------

def post(path: str, body: dict) -> requests.Response:
    response = requests.post(f"{URL}{path}", json=body, timeout=10)
    response.raise_for_status()
    return response


def register(name: str) -> str:
    return post("/api/v1/users", {
        "username": name, "email": f"{name}@example.com", "password": PASSWORD}).json()["user_id"]


def login(name: str) -> dict:
    response = post("/api/v1/auth/login", {"username": name, "password": PASSWORD})
    last["token"] = response.headers["x-consistency-token"]
    return response.json()


ADA = register("ada")
seen_users += [register(f"friend_{next(numbers)}") for _ in range(3)]


def operation_id(case) -> str:
    return case.operation.definition.raw.get("operationId", "")


def whose(case, _context) -> str:
    """A user of its own for each call that ends something; everything else is ada's."""
    return f"user_{next(numbers)}" if operation_id(case) in ENDS_SOMETHING else "ada"


@schemathesis.auth(cache_by_key=whose, refresh_interval=300)
class Token:
    def get(self, case, _context):
        name = "ada"
        if operation_id(case) in ENDS_SOMETHING:
            name = f"leaver_{next(numbers)}"
            register(name)
        tokens = login(name)
        if name == "ada":
            last["refresh"] = tokens["refresh_token"]
        return tokens["access_token"]

    def set(self, case, data, _context):
        case.headers = case.headers or {}
        case.headers["Authorization"] = f"Bearer {data}"


# --- requests -------------------------------------------------------------------------------------------------------

def is_to_be_valid(case) -> bool:
    meta = getattr(case, "meta", None)
    return meta is None or meta.generation.mode.is_positive


@schemathesis.hook
def before_call(_context, case, _kwargs):
    case.headers = case.headers or {}
    # The header wins: beside it, nobody looks whether the parameter is one.
    if "lastEventId" in (case.query or {}) and str(case.headers.get("Last-Event-ID", "")).isdigit():
        del case.headers["Last-Event-ID"]
    if not is_to_be_valid(case):
        return
    name = operation_id(case)
    if case.method == "GET":
        case.headers.pop("X-Consistency-Token", None)
        if last["token"] and case.operation.definition.raw.get("security"):
            case.headers["X-Consistency-Token"] = last["token"]
    if "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    path, query = case.path_parameters or {}, case.query or {}
    # A link has led to one, or else it is one of those seen.
    is_led = case._override is not None and "id" in case._override.path_parameters
    if "id" in path and not is_led and random_choice.random() < 0.8:
        known = {"users": seen_users, "posts": seen_posts}.get(case.operation.path.split("/")[3])
        if known:
            path["id"] = random_choice.choice(known)
    if name in ("follow", "unfollow") and path["id"] == ADA:
        path["id"] = seen_users[0]  # nobody follows themselves
    if "name" in path and random_choice.random() < 0.8:
        path["name"] = "ada"
    if "ids" in query and random_choice.random() < 0.8:
        known = seen_posts if "/posts" in case.operation.path else seen_users
        query["ids"] = ",".join(random_choice.sample(known, min(3, len(known)))) or query["ids"]
    # Whoever is named once more must be the caller, and the one of the path.
    named = {"user_id": ADA, "follower_id": ADA, "followee_id": path.get("id")}
    for values in (query, case.body):
        if isinstance(values, dict) and random_choice.random() < 0.7:
            values |= {name: named[name] for name in values if name in named}
    if "cursor" in query:
        del query["cursor"]
        if known := cursors[case.operation.label, path.get("id", "")]:
            query["cursor"] = random_choice.choice(known)
    if isinstance(case.body, dict) and name == "register" and case.body.get("username") == "ada":
        someone = f"someone_{next(numbers)}"
        case.body |= {"username": someone, "email": f"{someone}@example.com"}
    if isinstance(case.body, dict) and name in ("refresh", "logout") and random_choice.random() < 0.5:
        case.body["refresh_token"] = login("ada")["refresh_token"]


@schemathesis.hook
def after_call(_context, case, response):
    status = response.status_code
    statuses[case.operation.label, status] += 1
    headers = {name.lower(): values for name, values in response.headers.items()}
    if token := headers.get("x-consistency-token"):
        last["token"] = token[0] if isinstance(token, list) else token
    if status not in (200, 201) or operation_id(case) == "streamTimeline":
        return
    body = json.loads(response.content)
    if status == 201 and operation_id(case) == "register":
        seen_users.append(body["user_id"])
    if status == 201 and operation_id(case) == "createPost":
        seen_posts.append(body["post_id"])
    if body.get("next_cursor"):
        cursors[case.operation.label, (case.path_parameters or {}).get("id", "")].append(body["next_cursor"])


def shows(text: object) -> bool:
    """Whether a reader would see something: no pattern of the document says which characters are invisible."""
    return not isinstance(text, str) or not text or any(unicodedata.category(c)[0] in "LNPS" for c in text)


@schemathesis.hook
def filter_body(_context, body):
    texts = [body.get(name) for name in ("content", "bio", "display_name")] if isinstance(body, dict) else []
    return all(map(shows, texts))


# --- checks of our own ----------------------------------------------------------------------------------------------

@schemathesis.check
def problem_has_a_code_of_the_operation(_context, response, case):
    """Which codes an operation answers with, the examples of its problems say."""
    if response.status_code < 400:
        return
    method = case.method.lower()
    known = DOCUMENT["paths"][case.operation.path].get(method)
    if known is None or known["operationId"] != operation_id(case):
        return  # a method that the path does not have
    answer = known["responses"].get(str(response.status_code), {})
    answer = DOCUMENT["components"]["responses"].get(answer.get("$ref", "").rpartition("/")[2], {})
    codes = answer.get("content", {}).get("application/problem+json", {}).get("examples", {})
    code = json.loads(response.content)["code"]
    assert code in codes, f"{response.status_code} {code}: the document knows {', '.join(codes) or 'none'}"


@schemathesis.check
class EveryOperationSucceeds:
    """Each operation has answered 2xx at least once."""

    def after_response(self, _context, _response, _case):
        pass

    def after_run(self, _context):
        answered = {label for (label, status) in statuses if 200 <= status < 300}
        every = {f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items() for method in item}
        summary = {label: {status: count for (of, status), count in sorted(statuses.items()) if of == label}
                   for label in sorted(every)}
        Path(os.environ["MICROBLOG_STATUSES"]).write_text(json.dumps(summary))
        assert every <= answered, f"never 2xx: {', '.join(sorted(every - answered))}"


