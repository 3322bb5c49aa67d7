// Calls of the API: docs/api.md. What can be sent again is sent again; what cannot is a Problem.

import { session } from './session.mjs';

export const BASE = '/api/v1';
const TIMEOUT_MS = 20_000;
/** Between attempts, in milliseconds, and half as much again by chance. */
const PAUSES = [400, 1_200, 3_000];

/** An answer other than success, or none. `status` 0: no answer. */
export class Problem extends Error {
  constructor(status, body = {}, retryAfter = null) {
    super(body.detail || body.title || `status ${status}`);
    this.status = status;
    this.code = body.code ?? (status === 0 ? 'no_answer' : 'unknown');
    this.errors = Array.isArray(body.errors) ? body.errors : [];
    this.retryAfter = retryAfter;
    this.requestId = body.request_id ?? null;
  }

  /** Whether the same may go well in a moment. */
  get isTemporary() {
    return [0, 408, 409, 502, 503, 504].includes(this.status)
      && !['username_taken', 'email_taken'].includes(this.code);
  }
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
export const somewhat = (milliseconds) => milliseconds * (1 + Math.random() / 2);

/** A key for `Idempotency-Key`. Not randomUUID, which only secure pages have. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/**
 * Calls `method path` below the base, and returns the answer's JSON, or null where it has none.
 *
 * - `open`: it wants no access token. Otherwise one goes along if somebody is signed in.
 * - `again`: it may be sent again: the default for GET and for what has an idempotency key.
 * - `forgets`: the consistency token of its answer is of no use.
 * - `body`, `key` (of idempotency), `signal`.
 */
export async function call(method, path, options = {}) {
  const { open = false, forgets = false, body, key, signal } = options;
  const again = options.again ?? (method === 'GET' || key !== undefined);
  // One's own writes show: a read waits for the last one.
  let write = method === 'GET' ? session.write : null;
  let refused = null;
  for (let attempt = 0; ; attempt += 1) {
    const token = open ? null : await session.token(refused);
    const headers = { accept: 'application/json, application/problem+json' };
    if (token) headers.authorization = `Bearer ${token}`;
    if (token && write) headers['x-consistency-token'] = write;
    if (key) headers['idempotency-key'] = key;
    if (body !== undefined) headers['content-type'] = 'application/json';
    try {
      return await once(method, path, headers, body, signal, forgets);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem; // the caller has called it off
      if (problem.status === 401 && problem.code === 'unauthorized' && token) {
        // It may have ended a moment ago. A second refusal says that the account is gone.
        if (refused) session.end('This account is signed out.');
        else {
          refused = token;
          continue;
        }
      }
      const isBadWrite = problem.code === 'bad_consistency_token' && write;
      if (!again || !(problem.isTemporary || isBadWrite) || attempt >= PAUSES.length) throw problem;
      // Without it there may be an answer from memory while the database is away.
      if (isBadWrite || problem.code === 'unavailable' || attempt === PAUSES.length - 1) write = null;
      await pause(Math.max(somewhat(PAUSES[attempt]), (problem.retryAfter ?? 0) * 1000));
    }
  }
}

async function once(method, path, headers, body, signal, forgets) {
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response, text;
  try {
    response = await fetch(BASE + path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: 'omit',
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0);
  }
  const json = parsed(text);
  if (!response.ok) {
    const seconds = Number.parseInt(response.headers.get('retry-after') ?? '', 10);
    throw new Problem(response.status, json ?? {}, Number.isNaN(seconds) ? null : seconds);
  }
  const write = response.headers.get('x-consistency-token');
  if (write && !forgets) session.write = write;
  return json;
}

session.exchange = (token) => call('POST', '/auth/refresh', { open: true, again: true, body: { refresh_token: token } });

/** Signs in with a name or an e-mail address. */
export async function signIn(who, password) {
  const named = who.includes('@') ? { email: who } : { username: who };
  session.begin(await call('POST', '/auth/login', { open: true, body: { ...named, password } }));
}

/** Forgets the session here at once, and ends it at the server too, if that can be reached. */
export async function signOut() {
  const token = session.refreshToken;
  session.end('signed out');
  if (token) await call('POST', '/auth/logout', { open: true, again: true, forgets: true, body: { refresh_token: token } });
}

function parsed(text) {
  try {
    return text === '' ? null : JSON.parse(text);
  } catch {
    return null; // a gateway in its own words
  }
}

/** A problem in plain words, for whoever looks at the page. */
export function plain(problem) {
  if (!(problem instanceof Problem)) return 'Something went wrong on this page. Reload it, please.';
  const words = {
    no_answer: 'The server does not answer. Check your connection and try again.',
    bad_credentials: 'The name or the password is not right.',
    username_taken: 'Somebody else has this name.',
    email_taken: 'An account with this e-mail address exists already.',
    unauthorized: 'Sign in first.',
    suspended: 'Your account is suspended: you can read, but not write.',
    not_found: 'This is not here, or not any more.',
    not_yours: 'This belongs to somebody else.',
    self_follow: 'Nobody follows themselves.',
    follow_limit: 'You follow as many people as one can.',
    method_not_allowed: 'This address answers reads only. Open the page at the gateway’s address.',
  };
  if (words[problem.code]) return words[problem.code];
  if (problem.status === 429) return `Too many at once. Try again in ${duration(problem.retryAfter ?? 1)}.`;
  if (problem.isTemporary) return 'The server is busy or restarting. Try again in a moment.';
  if (problem.status >= 500) return `Something went wrong at the server${problem.requestId ? ` (request ${problem.requestId})` : ''}.`;
  const text = problem.message;
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;
}

function duration(seconds) {
  const [count, unit] = seconds < 90 ? [seconds, 'second']
    : seconds < 5_400 ? [Math.ceil(seconds / 60), 'minute'] : [Math.ceil(seconds / 3_600), 'hour'];
  return `${count} ${unit}${count === 1 ? '' : 's'}`;
}
