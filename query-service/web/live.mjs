// The live stream: one for all tabs of this browser. The tab that holds the lock reads it, and tells the others.

import { BASE, pause, somewhat } from './api.mjs';
import { session } from './session.mjs';
import { events } from './sse.mjs';

const CHANNEL = 'microblog live';
const LOCK = 'microblog live';
/** The server says something every 15 s; a stream that is silent for so long is dead. */
const SILENCE_MS = 50_000;
/** A tab that is looked at takes over from one that has said nothing for so long. */
const FROZEN_MS = 70_000;
const FIRST_PAUSE_MS = 1_500;
const LONGEST_PAUSE_MS = 20_000;
/** A new stream replaces the old one so long before the access token ends. */
const RENEW_MS = 45_000;

/**
 * Events of its own: `post` with a post; `caughtup` when a stream has begun that resumes none, so that what
 * came before must be read; `state` with `live`, `waiting` or `off`; `gone` when the account is no more.
 */
export class Live extends EventTarget {
  state = 'off';
  #last = '';
  #heard = 0;
  #stop = null;
  #channel = null;
  #wake = () => {};
  #leads = false;

  start() {
    if (this.#stop) return;
    this.#stop = new AbortController();
    this.#heard = Date.now();
    this.#last = '';
    this.#set('waiting');
    this.#channel = new BroadcastChannel(CHANNEL);
    this.#channel.onmessage = ({ data }) => this.#told(data);
    const { signal } = this.#stop;
    const wake = () => this.#wake();
    for (const what of ['online', 'focus', 'pageshow']) addEventListener(what, wake, { signal });
    document.addEventListener('visibilitychange', wake, { signal });
    const looking = setInterval(() => this.#lookAfterLeader(), 10_000);
    signal.addEventListener('abort', () => clearInterval(looking));
    this.#queue({});
    this.#tell({ ask: true });
  }

  stop() {
    this.#stop?.abort();
    this.#stop = null;
    this.#channel?.close();
    this.#channel = null;
    this.#set('off');
  }

  #set(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent('state', { detail: state }));
  }

  // --- between tabs ---

  /** Waits for its turn to lead. Without locks (the page is not served securely) every tab leads for itself. */
  async #queue({ steal = false }) {
    const { signal } = this.#stop;
    const turn = new AbortController();
    const end = () => turn.abort();
    signal.addEventListener('abort', end);
    try {
      if (!navigator.locks) await this.#lead(turn.signal);
      else await navigator.locks.request(LOCK, steal ? { steal } : { signal }, () => this.#lead(turn.signal));
    } catch {
      if (signal.aborted) return;
      // Another tab took the lock, since this one was frozen.
      end();
      await pause(1_000);
      if (!signal.aborted) this.#queue({});
    } finally {
      signal.removeEventListener('abort', end);
    }
  }

  #lookAfterLeader() {
    const isSilent = Date.now() - this.#heard > FROZEN_MS;
    if (this.#leads || !isSilent || document.hidden || !navigator.locks) return;
    this.#heard = Date.now();
    this.#queue({ steal: true });
  }

  #tell(what) {
    // Without locks nobody leads, and everybody would hear everything twice.
    if (navigator.locks) this.#channel?.postMessage({ ...what, user: session.userId });
  }

  #told(said) {
    if (said.user !== session.userId) return;
    if (said.ask) {
      if (this.#leads) this.#tell({ state: this.state, last: this.#last });
      return;
    }
    if (this.#leads) return;
    this.#heard = Date.now();
    if (said.last) this.#last = said.last;
    if (said.state) this.#set(said.state);
    if (said.what) this.dispatchEvent(new CustomEvent(said.what, { detail: said.detail }));
  }

  #spread(what, detail) {
    this.#tell({ what, detail, last: this.#last, state: this.state });
    this.dispatchEvent(new CustomEvent(what, { detail }));
  }

  #spreadState(state) {
    this.#set(state);
    this.#tell({ state, last: this.#last });
  }

  // --- the stream ---

  async #lead(signal) {
    this.#leads = true;
    const pauses = { next: FIRST_PAUSE_MS, first: FIRST_PAUSE_MS };
    try {
      while (!signal.aborted) {
        const after = await this.#read(signal, pauses);
        if (after === 'gone' || signal.aborted) return;
        if (after === 'renew') continue;
        this.#spreadState('waiting');
        await this.#patience(signal, after ?? somewhat(pauses.next));
        pauses.next = Math.min(pauses.next * 2, LONGEST_PAUSE_MS);
      }
    } finally {
      this.#leads = false;
    }
  }

  /** Reads one stream to its end: what to do then, or for how many milliseconds to wait. */
  async #read(signal, pauses) {
    const mine = new AbortController();
    const end = () => mine.abort();
    signal.addEventListener('abort', end);
    let silence, renew, renews = false;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(end, SILENCE_MS);
      this.#tell({ state: this.state, last: this.#last });
    };
    try {
      const token = await session.token();
      if (!token) return 'gone';
      heard();
      const headers = { accept: 'text/event-stream', authorization: `Bearer ${token}` };
      if (this.#last) headers['last-event-id'] = this.#last;
      const response = await fetch(`${BASE}/timeline/stream`, {
        headers, signal: mine.signal, cache: 'no-store', credentials: 'omit' });
      if (!response.ok) return await this.#refused(response, token);
      renew = setTimeout(() => {
        renews = true;
        end();
      }, Math.max(session.ends - Date.now() - RENEW_MS, 1_000));
      const resumes = this.#last !== '';
      for await (const said of events(response.body, heard)) {
        if (said.retry) pauses.first = said.retry;
        else if (said.comment === 'account deactivated') {
          this.#spread('gone');
          return 'gone';
        } else if (said.comment === 'connected') {
          pauses.next = pauses.first;
          this.#spreadState('live');
          if (!resumes) this.#spread('caughtup');
        } else if (said.comment === 'waiting') this.#spreadState('waiting');
        else if (said.event === 'post') {
          this.#last = said.id;
          this.#spread('post', JSON.parse(said.data));
        }
      }
      return null;
    } catch {
      // Broken off, as every stream is that shall be resumed; or there is no network, or no answer.
      return renews ? 'renew' : null;
    } finally {
      clearTimeout(silence);
      clearTimeout(renew);
      signal.removeEventListener('abort', end);
      mine.abort();
    }
  }

  async #refused(response, token) {
    await response.body?.cancel();
    if (response.status === 401) {
      // Refused a token that seemed good: a new one tells whether the account is gone.
      return (await session.token(token)) ? null : 'gone';
    }
    if (response.status === 400) this.#last = ''; // an id that this server does not know
    // Where streams are not served at all, as on Lambda, the timeline is read now and then instead.
    if (response.status === 503) this.#spread('caughtup');
    const seconds = Number.parseInt(response.headers.get('retry-after') ?? '', 10);
    return Number.isNaN(seconds) ? null : somewhat(seconds * 1000);
  }

  /** Waits, but no longer than until the network or the reader comes back. */
  async #patience(signal, milliseconds) {
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      const go = () => {
        clearTimeout(timer);
        resolve();
      };
      this.#wake = go;
      signal.addEventListener('abort', go, { once: true });
    });
    this.#wake = () => {};
  }
}
