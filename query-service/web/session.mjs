// Who is signed in, for all tabs of this browser. Tokens are in localStorage: see docs/web.md for what that means.

const SESSION = 'microblog.session';
const WRITE = 'microblog.write';
/** A new access token is fetched so long before the old one ends. */
const EARLY_MS = 60_000;
/** After this time every write is visible, or something is wrong that waiting does not mend. */
const WRITE_MS = 30_000;

const memory = new Map();

/** localStorage, or what this tab remembers where there is none: a browser may forbid it. */
function keep(name, value) {
  const text = value === null ? null : JSON.stringify(value);
  try {
    if (text === null) localStorage.removeItem(name);
    else localStorage.setItem(name, text);
    memory.delete(name);
  } catch {
    memory.set(name, text);
  }
}

function kept(name) {
  try {
    return JSON.parse(memory.get(name) ?? localStorage.getItem(name));
  } catch {
    return null;
  }
}

/** So long a tab waits to see what another one has just written: the processes of a browser see it later. */
const SEEN_MS = 1_000;

/**
 * Holds `name` between all tabs while it works; between none where the page is not served securely. `work` is
 * told whether another tab held it before.
 */
async function locked(name, work) {
  if (!navigator.locks) return work(false);
  let done;
  const first = await navigator.locks.request(name, { ifAvailable: true }, async (lock) => {
    if (lock) done = { value: await work(false) };
    return lock !== null;
  });
  return first ? done.value : navigator.locks.request(name, () => work(true));
}

class Session extends EventTarget {
  #refreshing = null;
  /** Exchanges a refresh token for new tokens; api.mjs says how. */
  exchange = null;

  constructor() {
    super();
    addEventListener('storage', (event) => {
      // Another tab has signed in or out; a null key says that all is gone.
      if (event.key === SESSION || event.key === null) this.#changed('elsewhere');
    });
  }

  #changed(why) {
    this.dispatchEvent(new CustomEvent('change', { detail: why }));
  }

  /** `{ access, refresh, ends, user_id }`, or null. Read each time: another tab may have written it. */
  get #now() {
    const now = kept(SESSION);
    return typeof now?.access === 'string' && typeof now.refresh === 'string' ? now : null;
  }

  get userId() {
    return this.#now?.user_id ?? null;
  }

  begin(answer) {
    this.#write(answer);
    this.#changed('signed in');
  }

  #write({ access_token: access, refresh_token: refresh, expires_in: seconds }) {
    keep(SESSION, { access, refresh, ends: Date.now() + seconds * 1000, user_id: subject(access) });
  }

  /** Forgets the tokens; `why` is for whoever looks at the page. */
  end(why) {
    if (!this.#now) return;
    keep(SESSION, null);
    keep(WRITE, null);
    this.#changed(why);
  }

  get refreshToken() {
    return this.#now?.refresh ?? null;
  }

  /** When the access token ends, in milliseconds since the epoch. */
  get ends() {
    return this.#now?.ends ?? 0;
  }

  /**
   * An access token that is good for a while, or null if nobody is signed in. With `instead`, one that is
   * not that one. Only one tab refreshes at a time, and the others take what it got: a refresh token that is
   * used twice ends the session, but for a grace of 30 s.
   */
  async token(instead = null) {
    const now = this.#now;
    if (!now) return null;
    if (now.access !== instead && now.ends - EARLY_MS > Date.now()) return now.access;
    this.#refreshing ??= locked('microblog refresh', (after) => this.#refresh(now.access, after)).finally(() => {
      this.#refreshing = null;
    });
    return this.#refreshing;
  }

  /** Until another tab's tokens are seen here. If they are not, the server gives the same ones again. */
  #seen(old) {
    return new Promise((resolve) => {
      const look = () => {
        if (this.#now?.access === old) return;
        clearTimeout(timer);
        removeEventListener('storage', look);
        resolve();
      };
      const timer = setTimeout(() => {
        removeEventListener('storage', look);
        resolve();
      }, SEEN_MS);
      addEventListener('storage', look);
      look();
    });
  }

  async #refresh(old, afterAnother) {
    if (afterAnother) await this.#seen(old);
    const now = this.#now;
    if (!now) return null;
    if (now.access !== old) return now.access;
    let answer;
    try {
      answer = await this.exchange(now.refresh);
    } catch (problem) {
      if (problem.status === 401) {
        this.end('Your session has ended. Sign in again.');
        return null;
      }
      if (now.ends > Date.now()) return now.access; // it is good for a moment yet
      throw problem;
    }
    // Somebody may have signed out meanwhile.
    if (this.#now?.refresh !== now.refresh) return this.#now?.access ?? null;
    this.#write(answer);
    return answer.access_token;
  }

  /** The consistency token of the last write, if it is so young that a read should wait for it. */
  get write() {
    const write = kept(WRITE);
    return write && Date.now() - write.at < WRITE_MS ? write.token : null;
  }

  set write(token) {
    keep(WRITE, token && { token, at: Date.now() });
  }
}

/** Whom an access token is for. It is the server that checks the token. */
function subject(token) {
  const body = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
  return JSON.parse(atob(body)).sub;
}

export const session = new Session();
