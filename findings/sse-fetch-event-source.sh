#!/usr/bin/env bash
# @microsoft/fetch-event-source 2.0.1 (npm): what it delivers for comments, and what it comes back from.
# Needs node (20) and npm. The library is for browsers: `document` and `window` are the least that it asks for.
# Exits with 1 if anything is not as it was seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-fund --no-audit --prefix "$folder" @microsoft/fetch-event-source@2.0.1 >/dev/null
cat >finding.cjs <<'NODE'
const http = require('node:http')
globalThis.document = { addEventListener() {}, removeEventListener() {}, hidden: false }
globalThis.window = { setTimeout, clearTimeout, fetch }
const { fetchEventSource } = require('@microsoft/fetch-event-source')

const STREAM = { 'content-type': 'text/event-stream' }
const EVENT = 'event: post\nid: 7\ndata: x\n\n'

function broken(text) {
  return response => {
    response.writeHead(200, STREAM)
    response.write(text)
    setTimeout(() => response.destroy(), 50)
  }
}
const refused = status => response => {
  response.writeHead(status, { 'content-type': 'application/problem+json', 'retry-after': '60' })
  response.end('{}')
}
const cases = {
  'ends in order': [
    response => { response.writeHead(200, STREAM); response.end('retry: 100\n: a\n' + EVENT + ': b\n') },
    'over, events [x], last-event-id of each request [none]'],
  'is broken off': [broken('retry: 100\n: a\n' + EVENT + ': b\n'),
    'goes on, events [x], last-event-id of each request [none,7]'],
  'has empty lines after comments': [broken('retry: 100\n: a\n\n' + EVENT + ': b\n\n'),
    'goes on, events [,x,], last-event-id of each request [none,7]'],
  'has an empty line after retry:': [broken('retry: 100\n\n' + EVENT),
    'goes on, events [,x], last-event-id of each request [none,7]'],
  // It asks again after a second, whatever `retry-after` says.
  'is 401': [refused(401), 'goes on, events [], last-event-id of each request [none,none]'],
  'is 429': [refused(429), 'goes on, events [], last-event-id of each request [none,none]'],
  'is 503': [refused(503), 'goes on, events [], last-event-id of each request [none,none]'],
}

async function run(answer) {
  const requests = [], events = []
  const server = http.createServer((request, response) => {
    requests.push(request.headers['last-event-id'] ?? 'none')
    if (requests.length === 1) answer(response)
    else response.writeHead(200, STREAM).write(': held\n')
  })
  await new Promise(done => server.listen(0, '127.0.0.1', done))
  const stop = new AbortController()
  let state = 'goes on'
  const url = `http://127.0.0.1:${server.address().port}/`
  const reading = fetchEventSource(url, { openWhenHidden: true, signal: stop.signal, onmessage: event => events.push(event.data) })
  reading.then(() => { state = 'over' }, error => { state = `fails: ${error}` })
  await new Promise(done => setTimeout(done, 3_000))
  const seen = `${state}, events [${events}], last-event-id of each request [${requests}]`
  stop.abort()
  server.closeAllConnections()
  server.close()
  return seen
}

(async () => {
  console.log('@microsoft/fetch-event-source', require('@microsoft/fetch-event-source/package.json').version, 'node', process.version)
  const seen = await Promise.all(Object.entries(cases).map(async ([name, [answer, expected]]) => [name, await run(answer), expected]))
  let wrong = 0
  for (const [name, got, expected] of seen) {
    wrong += got !== expected
    console.log(`an answer that ${name}: ${got}` + (got === expected ? '' : `, where this was seen before: ${expected}`))
  }
  process.exit(wrong ? 1 : 0)
})()
NODE
node finding.cjs
