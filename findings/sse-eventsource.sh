#!/usr/bin/env bash
# eventsource 4.1.1 (npm): which answers it takes for the end of it all, and what it comes back from.
# Needs node (20) and npm. Exits with 1 if anything is not as it was seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-fund --no-audit --prefix "$folder" eventsource@4.1.1 >/dev/null
cat >finding.mjs <<'NODE'
import http from 'node:http'
import { readFileSync } from 'node:fs'
import { EventSource } from 'eventsource'

const STREAM = { 'content-type': 'text/event-stream' }
const EVENT = 'event: post\nid: 7\ndata: x\n\n'

// What the first request is answered; a second one ends the case.
const answers = {
  'ends in order': response => { response.writeHead(200, STREAM); response.end('retry: 100\n: a\n' + EVENT + ': b\n') },
  'is broken off': response => {
    response.writeHead(200, STREAM)
    response.write('retry: 100\n: a\n' + EVENT + ': b\n')
    setTimeout(() => response.destroy(), 50)
  },
  'is a comment and an empty line, then broken off': response => {
    response.writeHead(200, STREAM)
    response.write('retry: 100\n' + EVENT + ': b\n\n')
    setTimeout(() => response.destroy(), 50)
  },
}
for (const status of [204, 401, 429, 503]) {
  answers[`is ${status}`] = response => { response.writeHead(status, { 'retry-after': '1' }); response.end() }
}

async function run(answer) {
  const requests = [], events = []
  const server = http.createServer((request, response) => {
    requests.push(request.headers['last-event-id'] ?? 'none')
    if (requests.length === 1) answer(response)
    else response.writeHead(200, STREAM).write(': held\n')
  })
  await new Promise(done => server.listen(0, '127.0.0.1', done))
  const source = new EventSource(`http://127.0.0.1:${server.address().port}/`)
  for (const name of ['post', 'message']) source.addEventListener(name, event => events.push(event.data))
  await new Promise(done => setTimeout(done, 4_000))
  const state = ['connecting', 'open', 'closed'][source.readyState]
  source.close()
  server.closeAllConnections()
  server.close()
  return `${state}, events [${events}], last-event-id of each request [${requests}]`
}

const back = 'open, events [x], last-event-id of each request [none,7]'
const over = 'closed, events [], last-event-id of each request [none]'
const expected = {
  'ends in order': back, 'is broken off': back, 'is a comment and an empty line, then broken off': back,
  'is 204': over, 'is 401': over, 'is 429': over, 'is 503': over,
}
console.log('eventsource', JSON.parse(readFileSync('node_modules/eventsource/package.json')).version, 'node', process.version)
const seen = await Promise.all(Object.keys(answers).map(async name => [name, await run(answers[name])]))
let wrong = 0
for (const [name, got] of seen) {
  const same = got === expected[name]
  wrong += !same
  console.log(`an answer that ${name}: ${got}` + (same ? '' : `, where this was seen before: ${expected[name]}`))
}
process.exit(wrong ? 1 : 0)
NODE
node finding.mjs
