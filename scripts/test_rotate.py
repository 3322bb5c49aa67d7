#!/usr/bin/env python3
"""Tests of rotate.py in a cluster, on a model of one that is slow and never in step.

The model has pods that read their environment once, mounts that lag up to two minutes, replicas that take the key set
from any other, servers that read users when they are told to. After every step of it, it checks what must always hold:
every token that somebody may still have is accepted everywhere, and every password that a pod uses is good. Each rotation
is interrupted before and after each call that changes something, and run again, or taken back.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import random
import re
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

sys.dont_write_bytecode = True  # nothing of ours stays in the clone

import make_secrets  # noqa: E402
import rotate  # noqa: E402
import rotate_cluster  # noqa: E402
import rotate_passwords  # noqa: E402
import signing_keys  # noqa: E402

ROLES = {"command-api": 2, "command-relay": 2, "query-api": 2, "query-projector": 2}
TOKEN_SECONDS, FRESH_SECONDS, LAG_SECONDS = 905, 20, 120
CHANGES = ("replace", "annotate", "rollout", "delete", "create", "put-secret-value", "nats-server")


class Clock:
    """Time that passes only when somebody waits, or asks for something."""

    def __init__(self) -> None:
        self.now, self.each_second = 0.0, lambda: None

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1)
            self.each_second()


class Pod:
    def __init__(self, cluster: "Model", role: str):
        cluster.made += 1
        self.cluster, self.role, self.name = cluster, role, f"{role}-{cluster.made}"
        self.mounted = {name: dict(values) for name, values in cluster.secrets.items()}
        self.lag: dict[str, float] = {}
        self.url, self.uri = (self.mounted["nats-credentials"]["url"], self.mounted["mongodb-credentials"]["uri"])
        self.users, self.loaded, self.ends = self.mounted["nats-credentials"]["users.conf"], 0.0, None
        self.signs, self.verifies, self.looked = None, set(), 0.0
        self.broken = False
        # It is ready with its keys.
        if role == "command-api":
            self.second()
        if role == "query-api":
            self.look()

    def look(self) -> None:
        """At the key set of any replica of the command service that is there."""
        others = [pod for pod in self.cluster.pods if pod.role == "command-api"]
        self.verifies, self.looked = set(self.cluster.random.choice(others).verifies), self.cluster.clock.now

    def second(self) -> None:
        if self.broken:
            return
        now, random_ = self.cluster.clock.now, self.cluster.random
        for name, values in self.cluster.secrets.items():
            if self.mounted[name] != values and now >= self.lag.setdefault(name, now + random_.uniform(0, LAG_SECONDS)):
                self.mounted[name] = dict(values)
                del self.lag[name]
        if self.role == "command-api":
            ids = [key.id for key in signing_keys.read(self.mounted["jwt-key"]["jwt.pem"])]
            self.signs, self.verifies = ids[0], set(ids)
        if self.role == "query-api" and now > self.looked + random_.uniform(5, FRESH_SECONDS):
            self.look()

    def described(self) -> dict:
        return {"metadata": {"name": self.name, "uid": self.name, "labels": {"app.kubernetes.io/name": self.role}},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(not self.broken)}]}}


class Interrupted(KeyboardInterrupt):
    pass


class Model:
    """A cluster, and the programs that reach it."""

    def __init__(self, clock: Clock, secrets: dict[str, dict[str, str]], seed: int):
        self.clock, self.secrets, self.random = clock, secrets, random.Random(seed)
        self.pods: list[Pod] = []
        self.made, self.version, self.rolling = 0, 1, {}
        self.calls, self.interrupt_at, self.arguments, self.changes = 0, None, [], []
        self.secret_texts: set[str] = set()
        self.aws = {name: dict(values) for name, values in secrets.items()}
        self.last_signed: dict[str, float] = {}
        self.users = dict([rotate_passwords.user_of(secrets["mongodb-credentials"]["uri"], "uri")])
        for role, count in {**ROLES, "nats": 3}.items():
            for _ in range(count):
                self.pods.append(Pod(self, role))
        self.jobs: dict[str, float] = {}
        self.job_fails, self.owner, self.refuses = False, None, False
        clock.each_second = self.second
        self.check()

    def of(self, *roles: str) -> list[Pod]:
        return [pod for pod in self.pods if pod.role in roles]

    def second(self) -> None:
        for role, left in list(self.rolling.items()):
            # One comes, and one from before goes a while later.
            if left and not any(pod.ends for pod in self.of(role)) and self.random.random() < 0.3:
                self.pods.append(Pod(self, role))
                left.pop(0).ends = self.clock.now + self.random.uniform(1, 40)
            if not left:
                del self.rolling[role]
        self.pods = [pod for pod in self.pods if pod.ends is None or pod.ends > self.clock.now]
        for pod in self.random.sample(self.pods, len(self.pods)):
            pod.second()
        self.check()

    def check(self) -> None:
        now = self.clock.now
        for pod in self.of("command-api"):
            self.last_signed[pod.signs] = now
        alive = {key for key, signed in self.last_signed.items() if now < signed + TOKEN_SECONDS}
        for pod in self.of("command-api", "query-api"):
            assert alive <= pod.verifies or self.refuses, f"{pod.name} refuses tokens that somebody has"
        for pod in self.of(*rotate_passwords.Broker.roles):
            user = rotate_passwords.user_of(pod.url, "url")
            for server in self.of("nats"):
                assert user in make_secrets.read_nats_users(server.users), f"{server.name} refuses {pod.name}"
        for pod in self.of(*ROLES):
            user, word = rotate_passwords.user_of(pod.uri, "uri")
            assert self.users.get(user) == word, f"the database refuses {pod.name}"
        for secret in (*self.secrets.values(), *self.aws.values()):
            for key, text in secret.items():
                found = signing_keys.BLOCK.findall(text) if key == "jwt.pem" else [
                    word for _, word in make_secrets.read_nats_users(text)] or [text] if "username" not in key else []
                self.secret_texts.update(found)

    # --- The programs -------------------------------------------------------------------------------------------

    def run(self, argv: list[str], given: str | None = None) -> str:
        self.arguments += argv
        self.clock.sleep(self.random.uniform(0.05, 2))
        change = next((word for word in CHANGES if word in argv), None)
        if change and not (change == "rollout" and "status" in argv):
            self.calls += 1
            self.changes.append(change)
            if self.interrupt_at == (self.calls, "before"):
                raise Interrupted
        answer = self.answer(argv, given)
        self.check()
        if change and self.interrupt_at == (self.calls, "after"):
            raise Interrupted
        return answer

    def answer(self, argv: list[str], given: str | None) -> str:
        if argv[0] == "aws":
            name = argv[argv.index("--secret-id") + 1].removeprefix("microblog/")
            if "put-secret-value" in argv:
                self.aws[name] = json.loads(given)
                return ""
            return json.dumps(self.aws[name])
        if argv[1] == "kustomize":
            return "---\nkind: Job\nmetadata:\n  name: mongodb-init\nenv:\n    - name: RETIRED_USERNAME\n      value: \"\"\n"
        words = argv[5:]
        return getattr(self, words[0])(words[1:], given) or ""

    def get(self, words: list[str], _given: str | None) -> str:
        if words[0] == "secret":
            data = {key: base64.b64encode(value.encode()).decode() for key, value in self.secrets[words[1]].items()}
            owners = [{"kind": self.owner}] if self.owner else []
            return json.dumps({"metadata": {"name": words[1], "resourceVersion": str(self.version), "ownerReferences": owners},
                               "data": data})
        if words[0] == "job":
            ended = self.clock.now >= self.jobs[words[1]]
            kind = "Failed" if self.job_fails else "Complete"
            return json.dumps({"status": {"conditions": [{"type": kind, "status": "True"}] if ended else []}})
        roles = re.search(r"in \((.*)\)", words[2])[1].split(",")
        return json.dumps({"items": [pod.described() for pod in self.of(*roles)]})

    def replace(self, _words: list[str], given: str | None) -> None:
        secret = json.loads(given)
        assert secret["metadata"]["resourceVersion"] == str(self.version), "somebody else has changed it"
        self.version += 1
        self.secrets[secret["metadata"]["name"]] = {
            key: base64.b64decode(value).decode() for key, value in secret["data"].items()}

    def annotate(self, words: list[str], _given: str | None) -> None:
        self.secrets[words[2]] = {key: self.aws[words[2]][key] for key in make_secrets.listed()[words[2]]["keys"]}

    def rollout(self, words: list[str], _given: str | None) -> None:
        roles = [word.removeprefix("deployment/") for word in words if word.startswith("deployment/")]
        if words[0] == "restart":
            for role in roles:
                self.rolling[role] = [pod for pod in self.of(role) if pod.ends is None]
        while words[0] == "status" and self.rolling.get(roles[0]):
            self.clock.sleep(1)

    def exec(self, words: list[str], _given: str | None) -> str | None:
        pod = next((pod for pod in self.pods if pod.name == words[0]), None)
        command = words[words.index("--") + 1:]
        if not pod:
            raise make_secrets.Failed("no such pod")
        if command[1:] == ["keys"]:
            return json.dumps({"signs": pod.signs, "verifies": sorted(pod.verifies)})
        if command[0] == "sha256sum":
            text = pod.mounted["nats-credentials"]["users.conf"]
            return f"{hashlib.sha256(text.encode()).hexdigest()}  {command[1]}"
        if command[0] == "nats-server":
            pod.users, pod.loaded = pod.mounted["nats-credentials"]["users.conf"], self.clock.now
            return None
        if command[-1].endswith("/varz"):
            return json.dumps({"config_load_time": str(pod.loaded)})
        users = [rotate_passwords.user_of(each.url, "url")[0] for each in self.of(*rotate_passwords.Broker.roles)]
        return json.dumps({"connections": [{"cid": number, "authorized_user": user} for number, user in enumerate(users)]})

    def delete(self, words: list[str], _given: str | None) -> None:
        self.jobs.pop(words[1], None)

    def create(self, _words: list[str], given: str | None) -> None:
        assert not self.jobs, "a Job cannot be changed"
        self.jobs["mongodb-init"], self.retires = self.clock.now + 3, 'value: ""' not in given
        if self.job_fails:
            return
        secret, retired = self.secrets["mongodb-credentials"], re.search(r'RETIRED_USERNAME\n +value: "(.*)"', given)[1]
        self.users[secret["username"]] = secret["password"]
        if retired != secret["username"]:
            self.users.pop(retired, None)


class Overtaken(rotate_cluster.Cluster):
    """Another run comes in between, just before a write."""

    def overtake(self, at: int, other) -> "Overtaken":
        self.at, self.other = at, other
        return self

    def put(self, name: str, values: dict[str, str]) -> None:
        self.at -= 1
        if self.at == 0:
            self.other()
        super().put(name, values)


class InACluster(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        for module in (signing_keys, rotate_cluster):
            self.enterContext(unittest.mock.patch.object(module, "time", self.clock))
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="microblog-")))
        folder = make_secrets.Folder(self.folder)
        folder.once("jwt-key/jwt.pem", make_secrets.ed25519_key)
        make_secrets.nats_user(folder)
        user, word = make_secrets.credentials(folder, "mongodb-credentials", "", "microblog")
        make_secrets.credentials(folder, "mongodb-credentials", "root-", "root")
        folder.write("mongodb-credentials/uri", f"mongodb://{user}:{word}@a:27017,b:27017/microblog?authSource=admin")

    def model(self, seed: int) -> Model:
        names = ("jwt-key", "nats-credentials", "mongodb-credentials")
        return Model(self.clock, {name: {file.name: file.read_text() for file in (self.folder / name).iterdir()}
                                  for name in names}, seed)

    def cluster(self, model: Model, said: list[str], aws: bool = False, kind=rotate_cluster.Cluster) -> rotate_cluster.Cluster:
        return kind("test", "microblog", said.append, overlay=Path("overlay"), run=model.run, aws=aws,
                    mirror=self.folder)

    def rotate(self, model: Model, secret: str, back: bool = False, aws: bool = False, leaked: bool = False,
               stop_after: str | None = None, cluster: rotate_cluster.Cluster | None = None) -> list[str]:
        said: list[str] = []
        cluster = cluster or self.cluster(model, said, aws)
        if secret == "key":
            rotation = signing_keys.Rotation(cluster, said.append, leaked=leaked)
            rotation.back(stop_after) if back else rotation.forward(stop_after)
        else:
            kind = rotate_passwords.Broker if secret == "broker" else rotate_passwords.Database
            kind(cluster, said.append).rotate(back)
        return said

    def secrets_of(self, model: Model) -> dict[str, str]:
        """What a rotation changes, and it alone."""
        users = make_secrets.read_nats_users(model.secrets["nats-credentials"]["users.conf"])
        self.assertEqual(len(users), 1)
        self.assertEqual(rotate_passwords.user_of(model.secrets["nats-credentials"]["url"], "url"), users[0])
        database = model.secrets["mongodb-credentials"]
        self.assertEqual(set(database), set(make_secrets.listed()["mongodb-credentials"]["keys"]))
        self.assertEqual(rotate_passwords.user_of(database["uri"], "uri"), (database["username"], database["password"]))
        self.assertEqual(model.users, {database["username"]: database["password"]})
        self.assertFalse(model.jobs and model.retires, "an apply could not change this Job")
        # Also where it had been interrupted after its last write: nobody still has what was taken away.
        for server in model.of("nats"):
            self.assertEqual(make_secrets.read_nats_users(server.users), users)
        keys = signing_keys.read(model.secrets["jwt-key"]["jwt.pem"])
        self.assertEqual(len(keys), 1)
        for pod in model.of("command-api", "query-api"):
            self.assertTrue(pod.broken or pod.verifies == {keys[0].id}, pod.name)
        return {"key": keys[0].id, "broker": str(users[0]), "database": str((database["username"], database["password"]))}

    def check_secrets_are_kept(self, model: Model, said: list[str]) -> None:
        told = "\n".join([*model.arguments, *said])
        for secret in model.secret_texts:
            self.assertNotIn(secret, told)
        self.assertGreater(len(model.secret_texts), 4)

    def changes(self, before: dict[str, str], after: dict[str, str]) -> list[str]:
        return [what for what in before if before[what] != after[what]]

    def test_each_rotates_and_rotates_again(self) -> None:
        for secret in ("key", "broker", "database"):
            for aws in (False, True):
                with self.subTest(secret=secret, aws=aws):
                    model = self.model(1)
                    before = self.secrets_of(model)
                    for _ in range(2):
                        said = self.rotate(model, secret, aws=aws)
                        self.assertIn("done: ", said[-1])
                        after = self.secrets_of(model)
                        self.assertEqual(self.changes(before, after), [secret])
                        before = after
                        self.check_secrets_are_kept(model, said)
                    for name, values in model.secrets.items():
                        for key, value in values.items():
                            self.assertEqual((self.folder / name / key).read_text(), value)

    def test_an_interruption_anywhere_is_gone_on_from_or_taken_back(self) -> None:
        for secret in ("key", "broker", "database"):
            for aws in (False, True):
                whole = self.model(2)
                self.rotate(whole, secret, aws=aws)
                # What AWS adds is a secret that is written there alone.
                points = [(call, when) for call, change in enumerate(whole.changes, 1) for when in ("before", "after")
                          if not aws or (change, when) == ("annotate", "before")]
                self.assertGreaterEqual(len(points), 2)
                for point in points:
                    for back in (False, True):
                        with self.subTest(secret=secret, aws=aws, point=point, back=back):
                            self.interrupted(secret, point, back, aws)

    def interrupted(self, secret: str, point: tuple[int, str], back: bool, aws: bool) -> None:
        model = self.model(10 * point[0] + len(point[1]))
        before = self.secrets_of(model)
        model.interrupt_at = point
        with self.assertRaises(Interrupted):
            self.rotate(model, secret, aws=aws)
        # Once more while it goes on, or back.
        model.interrupt_at = (model.calls + 2, "after")
        try:
            said = self.rotate(model, secret, back, aws)
        except Interrupted:
            model.interrupt_at = None
            said = self.rotate(model, secret, back, aws)
        after = self.secrets_of(model)
        finished = point == (1, "before") or not back
        self.assertIn(self.changes(before, after), ([], [secret]) if not finished else ([secret] if not back else [],))
        if back and "nothing to take back" not in said[-1]:
            self.assertEqual(before, after)
        self.check_secrets_are_kept(model, said)

    def test_who_was_overtaken_by_another_run_writes_nothing(self) -> None:
        for secret, writes in (("key", 3), ("broker", 3), ("database", 3)):
            for at in range(1, writes + 1):
                for aws in (False, True):
                    # Before the first write there is nothing to take back; one that waits for tokens as this one does, changes
                    # nothing.
                    for back in (False,) if at == 1 else (True,) if (secret, at) == ("key", 3) else (False, True):
                        with self.subTest(secret=secret, at=at, aws=aws, back=back):
                            self.overtaken(secret, at, aws, back)

    def overtaken(self, secret: str, at: int, aws: bool, back: bool) -> None:
        model = self.model(at)
        before = self.secrets_of(model)
        # A key's other run stays in the middle, so that what it has left is not done yet.
        stop_after = "sign" if secret == "key" else None
        kept = []

        def other() -> None:
            self.rotate(model, secret, back, aws, stop_after=stop_after)
            kept[:] = [dict(model.aws), dict(model.secrets)]
        cluster = self.cluster(model, [], aws, Overtaken).overtake(at, other)
        with self.assertRaisesRegex(make_secrets.Failed, "somebody else has changed"):
            self.rotate(model, secret, cluster=cluster)
        self.assertEqual([model.aws, model.secrets], kept)
        self.rotate(model, secret, aws=aws)
        self.assertEqual(self.changes(before, self.secrets_of(model)) or [secret], [secret])

    def test_a_secret_of_external_secrets_is_not_written_where_it_would_not_stay(self) -> None:
        for secret in ("key", "broker", "database"):
            model = self.model(6)
            model.owner = "ExternalSecret"
            with self.assertRaisesRegex(make_secrets.Failed, "--aws"):
                self.rotate(model, secret)
            self.assertEqual(model.calls, 0)
            self.rotate(model, secret, aws=True)

    def test_a_secret_that_lacks_a_key_is_told_and_left_alone(self) -> None:
        for aws in (False, True):
            model = self.model(9)
            del (model.aws if aws else model.secrets)["nats-credentials"]["users.conf"]
            with self.assertRaisesRegex(make_secrets.Failed, "nats-credentials lacks users.conf"):
                self.rotate(model, "broker", aws=aws)
            self.assertEqual(model.calls, 0)

    def test_a_job_that_failed_is_told_at_once(self) -> None:
        model = self.model(7)
        model.job_fails, began = True, self.clock.now
        with self.assertRaisesRegex(make_secrets.Failed, "Job mongodb-init failed"):
            self.rotate(model, "database")
        self.assertLess(self.clock.now, began + 60)
        model.job_fails = False
        self.rotate(model, "database")
        self.secrets_of(model)

    def test_in_an_emergency_neither_a_pod_that_is_not_ready_nor_a_key_that_leaked_too_stays_in_the_way(self) -> None:
        for stop_after in (None, "publish", "sign"):
            with self.subTest(stop_after=stop_after):
                model = self.model(8)
                if stop_after:
                    self.rotate(model, "key", stop_after=stop_after)
                leaked = {key.id for key in signing_keys.read(model.secrets["jwt-key"]["jwt.pem"])}
                model.of("query-api")[0].broken = True
                # Tokens from before are refused: so it is to be.
                model.refuses = True
                began = self.clock.now
                self.rotate(model, "key", leaked=True)
                self.assertNotIn(self.secrets_of(model)["key"], leaked)
                self.assertLess(self.clock.now, began + 600)

    def test_the_model_sees_what_goes_wrong(self) -> None:
        """Each shortcut that a rotation must not take."""
        model = self.model(3)
        model.secrets["jwt-key"] = {"jwt.pem": make_secrets.ed25519_key()}
        with self.assertRaisesRegex(AssertionError, "refuses tokens"):
            self.clock.sleep(2 * LAG_SECONDS)
        for secret, said in (("nats-credentials", "refuses"), ("mongodb-credentials", "the database refuses")):
            model = self.model(4)
            key = "url" if secret == "nats-credentials" else "uri"
            url = model.secrets[secret][key]
            model.secrets[secret] = {**model.secrets[secret], key: rotate_passwords.with_user(url, "other", "word")}
            with self.assertRaisesRegex(AssertionError, said):
                model.run(["kubectl", "--context", "c", "--namespace", "n", "rollout", "restart", "deployment/query-api"])
                self.clock.sleep(60)
        model = self.model(5)
        with unittest.mock.patch.object(signing_keys, "LIFETIME_SECONDS", 60), \
                self.assertRaisesRegex(AssertionError, "refuses tokens"):
            self.rotate(model, "key")


class OneFile(unittest.TestCase):
    def test_what_others_put_there_is_left_alone(self) -> None:
        for text in ("", make_secrets.ed25519_key() * 2, "next:\n".join(make_secrets.ed25519_key() for _ in range(4))):
            with self.assertRaises(make_secrets.Failed):
                signing_keys.read(text)

    def test_the_id_is_the_thumbprint_of_the_standard_s_example(self) -> None:
        seed = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
        body = base64.b64encode(make_secrets.ED25519_PKCS8 + seed).decode()
        pem = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"
        self.assertEqual(signing_keys.key_id(pem), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")

    def test_the_file_keeps_its_rights(self) -> None:
        with tempfile.TemporaryDirectory(prefix="microblog-") as folder:
            path = Path(folder) / "jwt.pem"
            path.write_text("x")
            path.chmod(0o640)
            files = rotate.Files(path, [])
            self.assertEqual(files.read_keys(), "x")
            files.write_keys("y")
            self.assertEqual((path.read_text(), path.stat().st_mode & 0o777), ("y", 0o640))
            self.assertEqual(list(Path(folder).iterdir()), [path])

    def test_two_do_not_change_it_at_once(self) -> None:
        with tempfile.TemporaryDirectory(prefix="microblog-") as folder:
            path = Path(folder) / "jwt.pem"
            path.write_text("x")
            files = rotate.Files(path, [])
            with files.alone():
                with self.assertRaisesRegex(make_secrets.Failed, "somebody else rotates"), rotate.Files(path, []).alone():
                    pass
                path.write_text("by hand")
                with self.assertRaisesRegex(make_secrets.Failed, "somebody else has changed"):
                    files.write_keys("y")
            self.assertEqual(path.read_text(), "by hand")
            with rotate.Files(path, []).alone():
                pass
            self.assertEqual(list(Path(folder).iterdir()), [path])


if __name__ == "__main__":
    # The same keys are asked for again and again.
    signing_keys.key_id = functools.cache(signing_keys.key_id)
    unittest.main()
