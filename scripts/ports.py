"""Whether the addresses can be listened on, and which to take instead."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import socket

from engines import free_ports
from supervisor import Failed

Addresses = dict[str, tuple[str, int]]


def check_ports_are_free(ports: Addresses, target: str = "make run") -> None:
    """Takes all of them at once, so that two settings with the same port are found as well."""
    in_use: Addresses = {}
    with contextlib.ExitStack() as taken:
        for name, (host, port) in ports.items():
            try:
                take(taken, host, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise Failed(f"{name}: {host}:{port} cannot be listened on: {error.strerror}") from None
                in_use[name] = (host, port)
        if in_use:
            raise Failed(refusal(in_use, target))


def take(taken: contextlib.ExitStack, host: str, port: int) -> None:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = taken.enter_context(socket.socket(family, kind))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen()


def refusal(in_use: Addresses, target: str) -> str:
    """All of them, and a line to copy that chooses others."""
    told = ", ".join(f"{port} ({name})" for name, (_, port) in in_use.items())
    # Who names another folder in DATA means that one here too.
    data = [f"DATA={shlex.quote(os.environ['DATA'])}"] if os.environ.get("DATA") else []
    instead = [f"{name}={setting(name, host, port)}" for (name, (host, _)), port in zip(in_use.items(), others(in_use))]
    are = "these ports are in use" if len(in_use) > 1 else "this port is in use"
    return (f"{are}: {told}. Stop what listens there, or choose others, with the line\n"
            f"  {target} {' '.join([*data, *instead])}")


def others(in_use: Addresses) -> list[int]:
    """Free ports, if possible each as far from the usual one, which is easier to remember than any."""
    for further in range(100, 5000, 100):
        with contextlib.ExitStack() as taken, contextlib.suppress(OSError, OverflowError):
            for host, port in in_use.values():
                take(taken, host, port + further)
            return [port + further for _, port in in_use.values()]
    return free_ports(len(in_use))


def setting(name: str, host: str, port: int) -> str:
    if not name.endswith("ADDR"):
        return str(port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
