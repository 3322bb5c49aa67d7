#!/usr/bin/env bash
# Chromium (156.0.8078.108 of Debian 12): a Web Lock does not order what two tabs write to localStorage. Each tab has a
# process with a copy of its own, which sees the other's writes a moment later: a tab that gets the lock may read what was
# there before the last holder wrote. IndexedDB under the same lock is in order. So two tabs that share refresh tokens
# with `navigator.locks` and localStorage use one twice now and then.
# Needs node (20), npm and `chromium` on the PATH. Exits with 1 if it is not as it was seen.
set -euo pipefail
browser=$(command -v chromium) || { echo "chromium is not on the PATH" >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$folder" playwright-core@1.65.1 >/dev/null
cat >finding.mjs <<'NODE'
import http from 'node:http'
import { chromium } from 'playwright-core'

const TURNS = 200
const server = http.createServer((_, answer) => {
  answer.writeHead(200, { 'content-type': 'text/html' })
  answer.end('<!doctype html><title>x</title>')
})
await new Promise(done => server.listen(0, '127.0.0.1', done))
const browser = await chromium.launch({ executablePath: process.argv[2] })
const context = await browser.newContext()
const tabs = [await context.newPage(), await context.newPage()]
for (const tab of tabs) await tab.goto(`http://127.0.0.1:${server.address().port}/`)

// Both tabs count up, each time holding the lock while they read and write.
async function counted(where) {
  await Promise.all(tabs.map(tab => tab.evaluate(async ({ where, turns }) => {
    const done = request => new Promise((yes, no) => {
      request.onsuccess = () => yes(request.result)
      request.onerror = no
    })
    const open = indexedDB.open('x')
    open.onupgradeneeded = () => open.result.createObjectStore('x')
    const database = await done(open)
    const store = mode => database.transaction('x', mode).objectStore('x')
    const ways = {
      localStorage: [() => localStorage.getItem('count'), value => localStorage.setItem('count', value)],
      IndexedDB: [() => done(store('readonly').get('count')), value => done(store('readwrite').put(value, 'count'))],
    }
    const [read, write] = ways[where]
    for (let turn = 0; turn < turns; turn += 1) {
      await navigator.locks.request('count', async () => write(Number(await read() ?? 0) + 1))
    }
    database.close()
  }, { where, turns: TURNS })))
  const look = where === 'localStorage'
    ? () => Number(localStorage.getItem('count'))
    : () => new Promise(yes => {
      const open = indexedDB.open('x')
      open.onsuccess = () => {
        const get = open.result.transaction('x').objectStore('x').get('count')
        get.onsuccess = () => yes(get.result)
      }
    })
  return tabs[0].evaluate(look)
}

// Whether the tabs get in each other's way is a matter of chance.
let rounds = 0, local
do {
  rounds += 1
  await tabs[0].evaluate(() => localStorage.removeItem('count'))
  local = await counted('localStorage')
} while (local === 2 * TURNS && rounds < 20)
const indexed = await counted('IndexedDB')
console.log(`Chromium ${browser.version()}: of ${2 * TURNS} locked counts, localStorage has ${local} (round ${rounds}), IndexedDB ${indexed}`)
await browser.close()
server.close()
process.exit(local < 2 * TURNS && indexed === 2 * TURNS ? 0 : 1)
NODE
node finding.mjs "$browser"
