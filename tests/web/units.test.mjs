// The parts of the web page that need no browser. `node --test tests/web/`, as scripts/try_web.py does.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { pieces, relative } from '../../query-service/web/dom.mjs';
import { Entries } from '../../query-service/web/entries.mjs';
import { events, SseReader } from '../../query-service/web/sse.mjs';

/** What is read of `text` in pieces that end after each of `cuts`. */
function read(text, ...cuts) {
  const reader = new SseReader();
  const ends = [...cuts, text.length];
  return ends.flatMap((end, at) => reader.take(text.slice(at === 0 ? 0 : ends[at - 1], end)));
}

test('a stream is read by the rules of the standard, wherever its pieces end', () => {
  const stream = 'retry: 1500\n: connected\nevent: post\nid: 7\ndata: {"a":1}\n\n'
    + 'data: one\r\ndata:two\r\ndata\r\n\r\n' + 'id: 8\rdata:  x\r\r' + ':\n\nevent: empty\n\nid:\ndata: last\n\ndata: half';
  const expected = [
    { retry: 1500 }, { comment: 'connected' }, { event: 'post', data: '{"a":1}', id: '7' },
    { event: 'message', data: 'one\ntwo\n', id: '7' }, { event: 'message', data: ' x', id: '8' },
    { comment: '' }, { event: 'message', data: 'last', id: '' }];
  assert.deepEqual(read(stream), expected);
  for (let cut = 0; cut <= stream.length; cut += 1) assert.deepEqual(read(stream, cut), expected, `cut at ${cut}`);
  assert.deepEqual(read(stream, ...Array.from(stream, (_, at) => at)), expected);
});

test('what the standard wants ignored is ignored', () => {
  assert.deepEqual(read('id: 1\0\nretry: 1s\nretry: \nother: x\nnonsense\ndata: y\n\n'),
    [{ event: 'message', data: 'y', id: '' }]);
  assert.deepEqual(read('event: post\n\ndata: z\n\n'), [{ event: 'message', data: 'z', id: '' }]);
});

test('an id counts once its event is complete', () => {
  const reader = new SseReader();
  reader.take('id: 5\ndata: x\n');
  assert.equal(reader.lastEventId, '');
  reader.take('\n');
  assert.equal(reader.lastEventId, '5');
});

test('characters that are cut in two, and a byte order mark, are read as one text', async () => {
  const bytes = new TextEncoder().encode('\ufeffdata: é🦀\n\n');
  const body = new ReadableStream({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    } });
  let heard = 0;
  const found = [];
  for await (const event of events(body, () => { heard += 1; })) found.push(event);
  assert.deepEqual(found, [{ event: 'message', data: 'é🦀', id: '' }]);
  assert.equal(heard, bytes.length);
});

test('whoever stops listening closes the stream', async () => {
  let closed = false;
  const body = new ReadableStream({
    start: (controller) => controller.enqueue(new TextEncoder().encode('data: x\n\n')),
    cancel: () => { closed = true; } });
  for await (const event of events(body)) if (event.data === 'x') break;
  assert.equal(closed, true);
});

const post = (entry, post, by = null) => ({
  entry_id: entry, post_id: post, reposted_by: by && { user_id: by } });

test('an entry is news once, whether a page, the stream or its author brings it', () => {
  const entries = new Entries('ada');
  assert.deepEqual(entries.page([post('2', '2'), post('1', '1')]).map((each) => each.entry_id), ['2', '1']);
  assert.equal(entries.arrive(post('2', '2')), false);
  assert.equal(entries.arrive(post('3', '3')), true);
  assert.equal(entries.has(post('3', '3')), true);
  assert.deepEqual(entries.page([post('3', '3'), post('0', '0')]).map((each) => each.entry_id), ['0']);
});

test('a repost is news, but for one\'s own of what is there', () => {
  const entries = new Entries('ada');
  entries.page([post('1', '1')]);
  assert.equal(entries.arrive(post('5', '1', 'bob')), true);
  assert.equal(entries.arrive(post('6', '1', 'ada')), false);
  assert.equal(entries.arrive(post('7', '9', 'ada')), true);
});

test('what waits is shown newest first, and no more than a hundred wait', () => {
  const entries = new Entries();
  for (let at = 0; at < 100; at += 1) entries.wait(post(`${at}`, `${at}`));
  assert.equal(entries.overflown, false);
  entries.wait(post('100', '100'));
  assert.equal(entries.overflown, true);
  assert.equal(entries.waiting, 100);
  assert.equal(entries.show()[0].entry_id, '99');
  assert.equal(entries.waiting, 0);
});

test('addresses and names become links, and nothing else does', () => {
  assert.deepEqual(pieces('no link'), ['no link']);
  assert.deepEqual(pieces('@Ada, see (https://example.org/a?b=c#d). me@example.org @@x javascript:alert(1)'), [
    { text: '@Ada', name: 'ada' }, ', see (', { text: 'https://example.org/a?b=c#d', href: 'https://example.org/a?b=c#d' },
    '). me@example.org @@x javascript:alert(1)']);
  for (const text of ['', '<b>x</b>', '@ab', 'http://', 'https://"onload=x', `@${'a'.repeat(31)}`]) {
    assert.equal(pieces(text).map((piece) => piece.text ?? piece).join(''), text);
    assert.ok(pieces(text).every((piece) => typeof piece === 'string' || !/[<>"']/.test(piece.href ?? '')), text);
  }
});

test('times are said as people say them', () => {
  const now = Date.parse('2026-11-28T12:00:00Z');
  const ago = (seconds) => relative(new Date(now - seconds * 1000).toISOString(), now);
  assert.equal(ago(-5), 'now');
  assert.equal(ago(10), 'now');
  assert.equal(ago(50), '1 min. ago');
  assert.equal(ago(3_599), '60 min. ago');
  assert.equal(ago(3_600), '1 hr. ago');
  assert.equal(ago(86_400), 'yesterday');
  assert.equal(ago(30 * 86_400), 'Oct 29, 2026');
});
