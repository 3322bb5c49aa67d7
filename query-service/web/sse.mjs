// Server-sent events from a fetched body. EventSource cannot be used: it sends no Authorization header.

/**
 * Reads a stream by the rules of the HTML standard (9.2.6): lines end with LF, CR or CR LF, also where a
 * chunk ends between the two. `take(text)` wants decoded text, and returns what it completed, in order:
 * `{ event, data, id }`, `{ comment }` and `{ retry }` (milliseconds).
 */
export class SseReader {
  #line = '';
  #skipLineFeed = false;
  #data = [];
  #event = '';
  /** Of the last event that was complete; what to resume after. */
  lastEventId = '';
  #id = '';

  take(text) {
    const found = [];
    for (const character of text.split(/(\r\n|\r|\n)/)) {
      if (character === '') continue;
      const skips = this.#skipLineFeed;
      this.#skipLineFeed = false;
      if (skips && character === '\n') continue;
      if (character === '\r' || character === '\n' || character === '\r\n') {
        this.#skipLineFeed = character === '\r';
        const line = this.#line;
        this.#line = '';
        this.#read(line, found);
      } else {
        this.#line += character;
      }
    }
    return found;
  }

  #read(line, found) {
    if (line === '') {
      this.lastEventId = this.#id;
      if (this.#data.length > 0) {
        found.push({ event: this.#event || 'message', data: this.#data.join('\n'), id: this.#id });
      }
      this.#data = [];
      this.#event = '';
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) {
      found.push({ comment: line.slice(1).trim() });
      return;
    }
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (name === 'data') this.#data.push(value);
    else if (name === 'event') this.#event = value;
    else if (name === 'id' && !value.includes('\0')) this.#id = value;
    else if (name === 'retry' && /^[0-9]+$/.test(value)) found.push({ retry: Number(value) });
  }
}

/** What stands in a response's body, as it arrives. `heard()` is called for every piece of it. */
export async function* events(body, heard = () => {}) {
  const reader = new SseReader();
  const decoder = new TextDecoder(); // drops a byte order mark, as the standard wants
  const source = body.getReader();
  try {
    for (;;) {
      const { done, value } = await source.read();
      if (done) return;
      heard();
      yield* reader.take(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Whoever stops listening closes the connection.
    source.cancel().catch(() => {});
  }
}
