"""After the tests: every message that is on a stream then is checked against docs/asyncapi.yaml, by read_streams.py.

The streams are those of the broker that tests share, and those of brokers of their own, whose stores they leave in a
folder when they end (`give_streams_away` in tests/src/world/engines.rs). One more broker serves all of these, each as
an account.
"""

from __future__ import annotations

import json
from pathlib import Path

from check_events import python_with_libraries
from engines import Nats, free_ports
from supervisor import Supervisor

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "reader"


def check_streams(supervisor: Supervisor, stores: Path, shared: str, all_kinds: bool) -> int:
    """`shared` is the URL of the broker that tests share. With `all_kinds` each kind of event must be on a stream."""
    python = python_with_libraries(supervisor)
    urls, broker = [shared], None
    if accounts := gathered(stores):
        [port] = free_ports(1)
        broker = Nats.find(supervisor).start(supervisor, stores, stores, port, configuration(stores, accounts, port))
        urls += [f"nats://{account}:{PASSWORD}@127.0.0.1:{port}" for account in accounts]
    options = ["--all-kinds"] if all_kinds else []
    program = str(ROOT / "scripts" / "read_streams.py")
    code = supervisor.run("read_streams", [str(python), "-B", program, *options, *urls])
    if broker:
        supervisor.stop(broker)
    return code


def gathered(stores: Path) -> list[str]:
    """Puts the accounts of all stores beside each other, and returns what they are called there."""
    together = stores / "together" / "jetstream"
    together.mkdir(parents=True)
    names = []
    for account in sorted(stores.glob("*/jetstream/*/streams")):
        names.append(f"W{len(names) + 1}")
        account.parent.rename(together / names[-1])
    return names


def configuration(stores: Path, accounts: list[str], port: int) -> str:
    listed = "\n".join(f'  {name} {{ jetstream: enabled, users: [{{user: {name}, password: "{PASSWORD}"}}] }}'
                       for name in accounts)
    return f"""\
server_name: microblog
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: {json.dumps(str(stores / "together"))} }}
accounts {{
{listed}
}}
"""
