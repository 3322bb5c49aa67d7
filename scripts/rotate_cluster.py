"""What `rotate.py` does in a Kubernetes cluster: Secrets, replicas, the broker's servers, the Job that makes users.

Secrets go to kubectl on its standard input, never in its arguments, and are never printed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Callable

from make_secrets import ROOT, Failed, Folder, listed

Values = dict[str, str]
COMMANDS = {"command-api": "command-service", "query-api": "query-service"}
USERS_FILE, PID_FILE = "/etc/nats-users/users.conf", "/var/run/nats/nats.pid"
JOB = "mongodb-init"
RETIRED = re.compile(r'(- name: RETIRED_USERNAME\n +value: )""')


def run(argv: list[str], given: str | None = None) -> str:
    """Runs a program to its end."""
    try:
        answer = subprocess.run(argv, input=given or "", capture_output=True, text=True)
    except OSError as error:
        raise Failed(f"{argv[0]} cannot be run: {error.strerror}") from error
    if answer.returncode:
        said = answer.stderr.strip().splitlines()
        raise Failed(f"{' '.join(argv)} failed: {said[-1] if said else f'exit code {answer.returncode}'}")
    return answer.stdout


def condition(thing: dict, kind: str) -> bool:
    """Whether it says so of itself."""
    return any(each["type"] == kind and each["status"] == "True" for each in thing.get("status", {}).get("conditions", ()))


class Cluster:
    """One namespace of one cluster. `mirror` is a folder of make_secrets.py, which is kept in step."""

    def __init__(self, context: str, namespace: str, say: Callable[[str], None], mirror: Path | None = None,
                 aws: bool = False, overlay: Path | None = None, patience: float = 900, run=run, tick: float = 1):
        self.context, self.namespace, self.say, self.run = context, namespace, say, run
        self.mirror, self.aws, self.overlay, self.patience, self.tick = mirror, aws, overlay, patience, tick
        self.known: dict[str, Values] = {}

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        return self.run(["kubectl", "--context", self.context, "--namespace", self.namespace, *arguments], given)

    def until(self, what: str, look: Callable[[], str | None]) -> None:
        """Waits until `look` finds nothing that is still to come; says what that is whenever it changes."""
        give_up, told = time.monotonic() + self.patience, None
        while left := look():
            if left != told:
                self.say(f"waiting {what}: {left}")
                told = left
            if time.monotonic() > give_up:
                raise Failed(f"after {self.patience:.0f} s still waiting {what}: {left}. Nothing is refused meanwhile; when that "
                             "is mended, run this again, or with --back")
            time.sleep(self.tick)

    # --- Secrets ------------------------------------------------------------------------------------------------

    def secret(self, name: str) -> Values:
        """Its values, from where they are kept. The cluster has them as well then: a run that was interrupted may have
        written them to AWS alone, and what follows here would be done with the old ones."""
        if self.aws:
            values = self.in_aws(name)
        else:
            found, values = self.in_cluster(name)
            if any(owner["kind"] == "ExternalSecret" for owner in found["metadata"].get("ownerReferences", ())):
                raise Failed(f"External Secrets makes the Secret {name}, and would bring the old values back: say --aws")
        if missing := sorted(set(listed()[name]["keys"]) - set(values)):
            raise Failed(f"the secret {name} lacks {', '.join(missing)}, see manifests/secrets.json")
        self.known[name] = values
        self.follow(name, values)
        return values

    def in_aws(self, name: str) -> Values:
        return json.loads(self.run(["aws", "secretsmanager", "get-secret-value", "--secret-id", f"microblog/{name}",
                                    "--query", "SecretString", "--output", "text"]))

    def in_cluster(self, name: str) -> tuple[dict, Values]:
        found = json.loads(self.kubectl("get", "secret", name, "--output", "json"))
        return found, {key: base64.b64decode(value).decode() for key, value in found.get("data", {}).items()}

    def put(self, name: str, values: Values) -> None:
        """Keeps these values in place of those that were read, and has the cluster's Secret hold them. Refused if somebody
        else has changed it since: what follows from what was read may be wrong now."""
        found, now = ({}, self.in_aws(name)) if self.aws else self.in_cluster(name)
        if now != self.known[name]:
            raise Failed(f"somebody else has changed {name} meanwhile: nothing was written. See who rotates it too; then run "
                         "this again, or with --back")
        if self.aws:
            self.run(["aws", "secretsmanager", "put-secret-value", "--secret-id", f"microblog/{name}",
                      "--secret-string", "file:///dev/stdin"], json.dumps(values))
        else:
            # With the resourceVersion of this look, without which a change between the two would be lost.
            found["data"] = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
            found["metadata"].pop("managedFields", None)
            self.kubectl("replace", "--filename", "-", given=json.dumps(found))
        self.known[name] = values
        self.follow(name, values)

    def follow(self, name: str, values: Values) -> None:
        """What is made of the secret has these values too: the cluster's, where it comes from AWS, and the folder, or the
        next deployment would bring the old ones back."""
        if self.aws:
            wanted = {key: values[key] for key in listed()[name]["keys"]}
            if self.in_cluster(name)[1] != wanted:
                self.kubectl("annotate", "--overwrite", "externalsecret", name, f"force-sync={time.time_ns()}")
                self.until("for External Secrets", lambda: None if self.in_cluster(name)[1] == wanted else name)
        if self.mirror:
            folder = Folder(self.mirror)
            for key in listed()[name]["keys"]:
                if key in values:
                    folder.write(f"{name}/{key}", values[key])

    # --- Replicas -----------------------------------------------------------------------------------------------

    def pods(self, *roles: str) -> list[dict]:
        """Those that run, begin or end."""
        chosen = f"app.kubernetes.io/name in ({','.join(roles)})"
        found = json.loads(self.kubectl("get", "pods", "--selector", chosen, "--output", "json"))["items"]
        return [pod for pod in found if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")]

    def in_pod(self, pod: str, container: str, *command: str) -> str:
        return self.kubectl("exec", pod, "--container", container, "--", *command)

    def restart(self, *roles: str) -> None:
        """Replaces all pods of these roles, one after the other, and waits until none of those from before is left."""
        before = {pod["metadata"]["uid"] for pod in self.pods(*roles)}
        self.say(f"restarting {', '.join(roles)}, a pod at a time")
        self.kubectl("rollout", "restart", *(f"deployment/{role}" for role in roles))

        def old() -> str | None:
            return ", ".join(sorted(pod["metadata"]["name"] for pod in self.pods(*roles)
                                    if pod["metadata"]["uid"] in before)) or None
        for role in roles:
            self.kubectl("rollout", "status", f"deployment/{role}", f"--timeout={self.patience:.0f}s")
        self.until("for the pods from before to end", old)

    # --- Signing keys -------------------------------------------------------------------------------------------

    def read_keys(self) -> str:
        return self.secret("jwt-key")["jwt.pem"]

    def write_keys(self, text: str) -> None:
        self.put("jwt-key", {**self.known["jwt-key"], "jwt.pem": text})

    def replicas(self, only_ready: bool) -> list[tuple[str, dict]]:
        """What each pod that signs or verifies says of its keys. kubelet brings it the Secret within some two minutes."""
        return [(pod["metadata"]["name"], self.keys_of(pod)) for pod in self.pods(*COMMANDS)
                if not only_ready or condition(pod, "Ready")]

    def keys_of(self, pod: dict) -> dict:
        service = COMMANDS[pod["metadata"]["labels"]["app.kubernetes.io/name"]]
        try:
            return json.loads(self.in_pod(pod["metadata"]["name"], "microblog", f"/{service}", "keys"))
        except (Failed, ValueError):
            return {}  # it begins or ends: if it is gone, the next look does not find it

    # --- The broker ---------------------------------------------------------------------------------------------

    def monitor(self, server: str, path: str) -> dict:
        return json.loads(self.in_pod(server, "nats", "wget", "-q", "-O", "-", f"http://127.0.0.1:8222/{path}"))

    def servers(self) -> list[str]:
        found = [pod["metadata"]["name"] for pod in self.pods("nats")]
        if not found:
            raise Failed("no NATS of ours runs in the cluster: docs/rotation.md says what to do with a broker from elsewhere")
        return found

    def reload_broker(self, users: str) -> None:
        """Has every server read the users; those who are connected and still listed stay connected."""
        wanted = hashlib.sha256(users.encode()).hexdigest()
        for server in self.servers():
            self.until("for the Secret to reach the servers", lambda: None if self.in_pod(
                server, "nats", "sha256sum", USERS_FILE).split()[0] == wanted else server)
            before = self.monitor(server, "varz")["config_load_time"]
            self.in_pod(server, "nats", "nats-server", "--signal", f"reload={PID_FILE}")
            self.until("for the servers to read their configuration again (their log says if they refuse it)",
                       lambda: None if self.monitor(server, "varz")["config_load_time"] != before else server)
        self.say("all servers of the broker have read their users")

    def until_nobody_is(self, user: str) -> None:
        """Waits until no connection to the broker is this user's."""
        def left() -> str | None:
            found = (connection for server in self.servers()
                     for connection in self.monitor(server, "connz?auth=1&limit=65536")["connections"])
            names = sorted(each.get("name") or f"connection {each['cid']}" for each in found
                           if each.get("authorized_user") == user)
            return ", ".join(names) or None
        self.until(f"until nobody is connected as {user}", left)

    # --- The database -------------------------------------------------------------------------------------------

    def run_job(self, retired: str = "") -> None:
        """Runs the Job that makes the users of the Secret, and drops `retired`."""
        self.say(f"running the Job {JOB}" + (f", which drops the user {retired}" if retired else ""))
        rendered = self.run(["kubectl", "kustomize", str(self.overlay)])
        jobs = [text for text in re.split(r"^---\n", rendered, flags=re.MULTILINE)
                if re.search(r"^kind: Job$", text, re.MULTILINE) and f"\n  name: {JOB}\n" in text]
        job, count = RETIRED.subn(lambda found: found[1] + json.dumps(retired), "".join(jobs))
        if len(jobs) != 1 or count != 1:
            raise Failed(f"{self.overlay} has no Job {JOB} that takes RETIRED_USERNAME: docs/rotation.md says what to do with a "
                         "database from elsewhere")
        self.kubectl("delete", "job", JOB, "--ignore-not-found", "--wait")
        self.kubectl("create", "--filename", "-", given=job)

        def left() -> str | None:
            job = json.loads(self.kubectl("get", "job", JOB, "--output", "json"))
            if condition(job, "Failed"):
                raise Failed(f"the Job {JOB} failed: see `kubectl logs --namespace {self.namespace} job/{JOB}`. Nothing is "
                             "refused meanwhile; when that is mended, run this again, or with --back")
            return None if condition(job, "Complete") else JOB
        self.until("for the Job to end", left)
        if retired:
            # With this name in it, it is another one than that of the manifests, and an apply could not change it.
            self.kubectl("delete", "job", JOB, "--wait")
