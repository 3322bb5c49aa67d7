// The calls of the mix, each with checks of what is answered: not only that something is.
import { check } from 'k6';
import { Counter } from 'k6/metrics';
import http from 'k6/http';

import { params, somebody } from './accounts.js';
import { API, PAGE } from './settings.js';

// An iteration that ends with an exception fails no check, and k6 exits with 0.
const broken = new Counter('iterations_broken');
// Refused as the contract has it: 503 or 429, a problem body, and when to come back.
const refused = new Counter('answers_refused');
// A page that ended before it was full, with a cursor to go on by, as reads may when their budget is used up.
const early = new Counter('pages_early');
// None of these, nor what was asked for.
const wrong = new Counter('answers_wrong');
const FULL = 'a full page';
// How many wrong answers a VU shows.
const SHOWN = 3;
let shown = 0;
export const ALWAYS = { iterations_broken: ['count==0'], answers_wrong: ['count==0'] };

/** What an iteration is made of: counts those that break. */
export function counted(iteration) {
  return (people) => {
    try {
      iteration(people);
    } catch (error) {
      broken.add(1);
      throw error;
    }
  };
}

/** The home timeline of the client, whose own last post is in it as soon as it is written. */
export function home(client) {
  const answer = http.get(`${API}/timeline?limit=${PAGE}`, reading('home', client));
  const page = pageOf(answer);
  judge(answer, {
    'home: 200': (it) => it.status === 200,
    [`home: ${FULL}`]: () => isFull(page, client.entries),
    'home: newest first': () => page && inOrder(page.posts),
    'home: posts that can be shown': () => page && page.posts.every(isShown),
    'home: what the client wrote last': () => page && holds(page, client.wrote),
  }, page);
}

/** Somebody's posts and reposts. */
export function user(client, people) {
  const author = somebody(people);
  const answer = http.get(`${API}/users/${author.user_id}/posts?limit=${PAGE}`, reading('user', client));
  const page = pageOf(answer);
  const own = author.user_id === client.user_id;
  judge(answer, {
    'user: 200': (it) => it.status === 200,
    [`user: ${FULL}`]: () => isFull(page, author.posts),
    'user: newest first': () => page && inOrder(page.posts),
    'user: posts that can be shown': () => page && page.posts.every(isShown),
    'user: nobody else': () => page && page.posts.every((post) => bringer(post) === author.user_id),
    'user: what the client wrote last': () => page && (!own || holds(page, client.wrote)),
  }, page);
}

/** A new post. The key makes it safe to send it again. */
export function compose(client) {
  const content = `${new Date().toISOString()}: sixty characters of what somebody had to say today, or a few more`;
  const key = `${client.username}-${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
  const answer = http.post(`${API}/posts`, JSON.stringify({ content }),
    params('post', client.token, { 'Idempotency-Key': key }));
  const post = answer.status === 201 ? answer.json() : null;
  judge(answer, {
    'post: 201': (it) => it.status === 201,
    'post: as it was written': () => post && post.content === content && post.user_id === client.user_id,
    'post: a consistency token': (it) => Boolean(it.headers['X-Consistency-Token']),
  });
  if (post) {
    client.wrote = post.post_id;
  }
  remember(client, answer);
}

/** Follows somebody; to follow again changes nothing. */
export function follow(client, people) {
  const followee = somebody(people, client);
  const answer = http.post(`${API}/users/${followee.user_id}/follow`, null, params('follow', client.token));
  const relationship = answer.status === 200 ? answer.json().relationship : null;
  judge(answer, {
    'follow: 200': (it) => it.status === 200,
    'follow: the relationship': () => relationship && relationship.follower_id === client.user_id
      && relationship.followee_id === followee.user_id,
    'follow: a consistency token': (it) => Boolean(it.headers['X-Consistency-Token']),
  });
  remember(client, answer);
}

/** 60 % home timeline, 30 % user timeline, 10 % compose. */
export function oneOfTheMix(client, people) {
  const drawn = Math.random();
  if (drawn < 0.6) {
    home(client);
  } else if (drawn < 0.9) {
    user(client, people);
  } else {
    compose(client);
  }
}

function judge(answer, checks, page = null) {
  if (check(answer, checks)) {
    return;
  }
  const failed = Object.entries(checks).filter(([, holds]) => !holds(answer)).map(([name]) => name);
  if (isRefusal(answer)) {
    refused.add(1);
  } else if (page && page.next_cursor !== null && failed.every((name) => name.endsWith(FULL))) {
    early.add(1);
  } else {
    wrong.add(1);
    if (shown < SHOWN) {
      shown += 1;
      console.warn(`${failed.join(', ')}: ${answer.request.method} ${answer.url} answers ${answer.status} `
        + `${answer.error || (answer.body || '').slice(0, 300)}`);
    }
  }
}

function isRefusal(answer) {
  return [429, 503].includes(answer.status) && Number(answer.headers['Retry-After']) >= 0
    && (answer.headers['Content-Type'] || '').startsWith('application/problem+json');
}

/** What the client wrote is in what it reads from now on. */
function reading(name, client) {
  return params(name, client.token, client.consistency ? { 'X-Consistency-Token': client.consistency } : {});
}

function remember(client, answer) {
  client.consistency = answer.headers['X-Consistency-Token'] || client.consistency;
}

function pageOf(answer) {
  return answer.status === 200 ? answer.json() : null;
}

/** There are at least so many posts, and a page is short only at the end. */
function isFull(page, posts) {
  return page && page.posts.length <= PAGE && page.posts.length >= Math.min(PAGE, posts)
    && (page.posts.length === PAGE || page.next_cursor === null);
}

/** Entries are numbered by time. The numbers are too great for JavaScript's. */
function isNewer(one, other) {
  return one.length !== other.length ? one.length > other.length : one > other;
}

function inOrder(posts) {
  return posts.every((post, at) => at === 0 || isNewer(posts[at - 1].entry_id, post.entry_id));
}

function isShown(post) {
  return Boolean(post.post_id && post.username && post.content && post.created_at);
}

function bringer(post) {
  return post.reposted_by ? post.reposted_by.user_id : post.user_id;
}

/** The post is on the page, or on one of the next: what is here is newer, and there is a cursor. */
function holds({ posts, next_cursor: next }, id) {
  return !id || posts.some((post) => post.post_id === id)
    || (next !== null && posts.every((post) => isNewer(post.entry_id, id)));
}
