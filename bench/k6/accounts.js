// Who acts: people of USERS, or people whom setup() registers through the API.
//
// A VU is a client. It acts for one person for a while, and keeps for each what a client keeps: the access token, the
// consistency token of the last write, and which post that was.
import { check, fail, sleep } from 'k6';
import { SharedArray } from 'k6/data';
import encoding from 'k6/encoding';
import exec from 'k6/execution';
import http from 'k6/http';

import { ACCOUNTS, API, PAGE } from './settings.js';

// Requests that one person makes before the VU acts for the next one.
const VISIT = 20;
// Seconds before its end that an access token is replaced.
const EARLY = 60;
const POSTS_EACH = 10;
const FOLLOWEES = 5;
const PASSWORD = 'correct horse battery';

// Each has user_id, username and token, and says how many posts there are at least in their home timeline (`entries`)
// and in their own list (`posts`).
const known = new SharedArray('users', () => (__ENV.USERS ? JSON.parse(open(__ENV.USERS)) : []));

// Of this VU.
const clients = new Map();
let renewed = {};
let acting = null;
let left = 0;

/** Registers people who follow one another and have posts; nobody where USERS names some. */
export function register(count = ACCOUNTS) {
  if (known.length) {
    return [];
  }
  const run = Date.now().toString(36);
  const people = [...Array(count).keys()].map((number) => {
    const username = `load_${run}_${number}`;
    const body = JSON.stringify({ username, email: `${username}@example.com`, password: PASSWORD });
    const { user_id } = must(201, http.post(`${API}/users`, body, params('register')));
    return { user_id, username, token: login(username).token };
  });
  const followees = Math.min(FOLLOWEES, count - 1);
  people.forEach((person, at) => {
    const as = params('prepare', person.token);
    for (let next = 1; next <= followees; next += 1) {
      must(200, http.post(`${API}/users/${people[(at + next) % count].user_id}/follow`, null, as));
    }
    for (let number = 0; number < POSTS_EACH; number += 1) {
      must(201, http.post(`${API}/posts`, JSON.stringify({ content: `Number ${number} of ${person.username}` }), as));
    }
  });
  const prepared = people.map((person) => ({ ...person, entries: (followees + 1) * POSTS_EACH, posts: POSTS_EACH }));
  prepared.forEach(waitForTimeline);
  return prepared;
}

/** Until the posts of those whom the person follows have arrived. */
function waitForTimeline(person) {
  for (let tries = 0; tries < 300; tries += 1) {
    const page = must(200, http.get(`${API}/timeline?limit=${PAGE}`, params('prepare', person.token)));
    if (page.posts.length >= Math.min(PAGE, person.entries)) {
      return;
    }
    sleep(0.1);
  }
  fail(`the home timeline of ${person.username} is not full after half a minute`);
}

/** The person for whom this VU acts now, as a client. `people` is what register() returned. */
export function actor(people) {
  if (left === 0) {
    // Whoever has a password must sign in some day, which is dear and limited: so such a VU stays with one person.
    acting = known.length ? anyOf(known) : people[(exec.vu.idInTest - 1) % people.length];
    left = VISIT;
  }
  left -= 1;
  if (!clients.has(acting.username)) {
    clients.set(acting.username, { ...acting, consistency: null, wrote: null, until: 0 });
  }
  const client = clients.get(acting.username);
  if (client.until < inAWhile()) {
    signIn(client);
  }
  return client;
}

/** Somebody whose posts to read, or whom to follow. */
export function somebody(people, but = null) {
  const all = known.length ? known : people;
  for (;;) {
    const one = anyOf(all);
    if (one.posts && (!but || one.user_id !== but.user_id)) {
      return one;
    }
  }
}

export function anyOf(list) {
  return list[Math.floor(Math.random() * list.length)];
}

export function params(name, token, headers = {}) {
  const all = { 'Content-Type': 'application/json', ...headers };
  if (token) {
    all.Authorization = `Bearer ${token}`;
  }
  return { headers: all, tags: { name } };
}

function signIn(client) {
  if (client.refresh) {
    const body = JSON.stringify({ refresh_token: client.refresh });
    Object.assign(client, sessionOf(must(200, http.post(`${API}/auth/refresh`, body, params('refresh')))));
    return;
  }
  if (!useToken(client) && known.length === 0) {
    Object.assign(client, login(client.username));
  } else if (client.until < inAWhile()) {
    if (!__ENV.TOKENS_URL) {
      fail('the access tokens of USERS have expired: make new ones, or run for less than 15 minutes');
    }
    renewed = must(200, http.get(__ENV.TOKENS_URL, params('tokens')));
    if (!useToken(client)) {
      fail(`${__ENV.TOKENS_URL} gives tokens that have expired`);
    }
  }
}

/** Takes the token that there is for the client; says whether it is still good. It cannot be refreshed. */
function useToken(client) {
  client.token = renewed[client.username] || client.token;
  // When it ends, it says itself.
  client.until = JSON.parse(encoding.b64decode(client.token.split('.')[1], 'rawurl', 's')).exp;
  return client.until >= inAWhile();
}

function inAWhile() {
  return Date.now() / 1000 + EARLY;
}

function login(username) {
  const body = JSON.stringify({ username, password: PASSWORD });
  return sessionOf(must(200, http.post(`${API}/auth/login`, body, params('login'))));
}

function sessionOf(answer) {
  return {
    token: answer.access_token, refresh: answer.refresh_token, until: Date.now() / 1000 + answer.expires_in,
  };
}

function must(status, answer) {
  if (!check(answer, { 'preparing: as expected': (it) => it.status === status })) {
    fail(`${answer.request.method} ${answer.url} answers ${answer.status}: ${answer.body}`);
  }
  return answer.body ? answer.json() : null;
}
