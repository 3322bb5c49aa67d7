"""The steps by which the services' passwords change: a second user comes, the services go over to it, the first one goes.

Both go on from what the Secret says, so that they may be interrupted anywhere and run again.
"""

from __future__ import annotations

import re
from typing import Callable

from make_secrets import Failed, nats_users, password, read_nats_users
from rotate_cluster import Cluster, Values

NATS, MONGODB = "nats-credentials", "mongodb-credentials"
PREVIOUS, RETURNED = ("previous-username", "previous-password"), "returned"
USER = re.compile(r"(?<=://)([^:/@]+):([^@/]*)(?=@)")


def other(user: str) -> str:
    """Two names in turn."""
    return user.removesuffix("-b") if user.endswith("-b") else f"{user}-b"


def user_of(url: str, what: str) -> tuple[str, str]:
    """Name and password in a URL, or in the first of several."""
    found = USER.search(url)
    if not found:
        raise Failed(f"{what} has no user and password")
    return found[1], found[2]


def with_user(url: str, user: str, word: str) -> str:
    return USER.sub(lambda _: f"{user}:{word}", url)


class Broker:
    """`users.conf` has the user of `url`, and while the password rotates another: the older first."""

    roles = ("command-relay", "query-api", "query-projector")

    def __init__(self, cluster: Cluster, say: Callable[[str], None]):
        self.cluster, self.say = cluster, say

    def rotate(self, back: bool) -> None:
        secret = self.cluster.secret(NATS)
        users, used = read_nats_users(secret["users.conf"]), user_of(secret["url"], "the url of the broker")
        if used not in users or len(users) > 2:
            raise Failed("users.conf must list the user of the url, and at most one other")
        if len(users) == 1:
            if back:
                # A run that was interrupted at its end may have left the servers with the user from before.
                self.cluster.reload_broker(secret["users.conf"])
                self.say(f"nothing to take back: {used[0]} is the only user")
                return
            users.append((other(used[0]), password()))
            secret = self.put(secret, users, used)
            self.say(f"made the user {users[1][0]} beside {used[0]}")
        # Also when this was done before: whether it came to its end then is not known.
        self.cluster.reload_broker(secret["users.conf"])
        old, new = reversed(users) if back else users
        if used != new:
            secret = self.put(secret, users, new)
        self.cluster.restart(*self.roles)
        self.cluster.until_nobody_is(old[0])
        secret = self.put(secret, [new], new)
        self.cluster.reload_broker(secret["users.conf"])
        self.say(f"done: {new[0]} is the only user")

    def put(self, secret: Values, users: list[tuple[str, str]], used: tuple[str, str]) -> Values:
        secret = {**secret, "users.conf": nats_users(users), "url": with_user(secret["url"], *used)}
        self.cluster.put(NATS, secret)
        return secret


class Database:
    """`username` and `password` are those of the user whom the Job makes, and whom the services shall use; `uri` has whom
    they use. `previous-username` is there as long as a rotation is under way, and `returned` if it goes back."""

    roles = ("command-api", "command-relay", "query-api", "query-projector")

    def __init__(self, cluster: Cluster, say: Callable[[str], None]):
        self.cluster, self.say = cluster, say

    def rotate(self, back: bool) -> None:
        secret = self.cluster.secret(MONGODB)
        if PREVIOUS[0] not in secret:
            user, word = user_of(secret["uri"], "the uri of the database")
            if user != secret["username"]:
                raise Failed("uri and username of the Secret must be of one user")
            if back:
                self.say(f"nothing to take back: {user} is the services' only user")
                return
            secret = self.put({**secret, PREVIOUS[0]: user, PREVIOUS[1]: word, "username": other(user), "password": password()})
        elif back and RETURNED not in secret:
            new, old = (secret["username"], secret["password"]), (secret[PREVIOUS[0]], secret[PREVIOUS[1]])
            secret = self.put({**secret, PREVIOUS[0]: new[0], PREVIOUS[1]: new[1], "username": old[0], "password": old[1],
                               RETURNED: "yes"})
        new, old = (secret["username"], secret["password"]), secret[PREVIOUS[0]]
        # Also when this was done before: whether it came to its end then is not known.
        self.cluster.run_job()
        self.say(f"the users {old} and {new[0]} are both good")
        if user_of(secret["uri"], "the uri of the database") != new:
            secret = self.put({**secret, "uri": with_user(secret["uri"], *new)})
        self.cluster.restart(*self.roles)
        self.cluster.run_job(retired=old)
        self.put({key: value for key, value in secret.items() if key not in (*PREVIOUS, RETURNED)})
        self.say(f"done: {new[0]} is the services' only user")

    def put(self, secret: Values) -> Values:
        self.cluster.put(MONGODB, secret)
        return secret
