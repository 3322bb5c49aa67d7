// The page itself: which part of it is shown, for whom, and what arrives by itself.

import { settingsPage, signInPage, signUpPage, welcomePage } from './account.mjs';
import { call, plain } from './api.mjs';
import { composer } from './compose.mjs';
import { el, icon, keepTimes, say, userPath, whisper } from './dom.mjs';
import { Feed } from './feed.mjs';
import { Live } from './live.mjs';
import { copyLink, finder, peoplePage, profilePage, reactionsPage } from './people.mjs';
import { session } from './session.mjs';
import { threadPage } from './thread.mjs';

const NAME = 'Microblog';
const STATES = { live: 'Live', waiting: 'Connecting…', off: '' };

const live = new Live();
const [home, view] = ['home', 'view'].map((id) => document.getElementById(id));
/** Whose page this is now; the home timeline of that user, once it was looked at. */
let reader = null;
let feed = null;
let myself = null;
/** Counts up with each change of the address: what was asked for before is not shown any more. */
let turn = 0;
let homeScroll = 0;
let title = NAME;

// --- what is shown ---------------------------------------------------------------------------------------------------

/** Patterns of the address, and what makes the page of each. `open`: for visitors as well. */
const PAGES = [
  { at: /^#\/u\/([^/]+)$/, open: true, page: (name) => profilePage(name) },
  { at: /^#\/u\/([^/]+)\/(followers|following)$/, open: true, page: (name, what) => peoplePage(name, what) },
  { at: /^#\/p\/(\d+)$/, open: true, page: (id) => threadPage(id) },
  { at: /^#\/p\/(\d+)\/(likes|reposts)$/, open: true, page: (id, what) => reactionsPage(id, what) },
  { at: /^#\/find$/, open: true, page: () => ({ title: 'Find', node: el('div', { class: 'card' }, finder()) }) },
  { at: /^#\/settings$/, page: () => settingsPage(me, (user) => { myself = Promise.resolve(user); }) },
  { at: /^#\/sign-in$/, open: true, page: signInPage },
  { at: /^#\/sign-up$/, open: true, page: signUpPage }];

/** One's own profile, read once. */
function me() {
  myself ??= call('GET', '/users/me').catch((problem) => {
    myself = null;
    throw problem;
  });
  return myself;
}

async function show({ moves = true } = {}) {
  turn += 1;
  const mine = turn;
  if (!home.hidden) homeScroll = scrollY;
  const hash = location.hash || '#/';
  const found = PAGES.find(({ at }) => at.test(hash));
  const known = hash === '#/' || found;
  markNavigation(hash);
  if (hash === '#/' && session.userId) return showHome(moves);
  home.hidden = true;
  view.hidden = false;
  if (!session.userId && known && !found?.open) return put(welcomePage(), moves);
  view.setAttribute('aria-busy', 'true');
  try {
    const parts = found ? found.at.exec(hash).slice(1).map(decodeURIComponent) : [];
    const page = found ? await found.page(...parts)
      : { title: 'Not here', node: el('p', {}, 'There is no such page. ', el('a', { href: '#/' }, 'Go home')) };
    if (mine === turn) put(page, moves);
  } catch (problem) {
    if (mine !== turn) return;
    const isGone = problem.status === 404;
    put({ title: isGone ? 'Not here' : 'Not now', node: el('div', { class: 'card' },
      el('p', { role: 'alert' }, plain(problem)),
      !isGone && el('button', { type: 'button', class: 'primary', onclick: () => show() }, 'Try again')) }, moves);
  }
}

function put({ title: text, heading, node }, moves) {
  const h1 = el('h1', { tabindex: '-1' }, heading ?? text);
  view.replaceChildren(h1, node);
  view.removeAttribute('aria-busy');
  retitle(text);
  if (moves) {
    scrollTo({ top: 0 });
    h1.focus({ preventScroll: true });
  }
}

function showHome(moves) {
  view.hidden = true;
  view.replaceChildren();
  home.hidden = false;
  if (!feed) makeHome();
  retitle('Home');
  if (moves) {
    home.querySelector('h1').focus({ preventScroll: true });
    scrollTo({ top: homeScroll });
    feed.showAtTop();
  }
}

function makeHome() {
  feed = new Feed({
    path: '/timeline', empty: beginnings, replied: (post) => feed.own(post),
    // Who follows nobody yet is helped on.
    ending: (posts) => (posts.every((post) => post.user_id === reader) ? beginnings() : null) });
  feed.node.addEventListener('waiting', () => retitle());
  home.replaceChildren(
    el('h1', { tabindex: '-1' }, 'Home'),
    composer({ label: 'What is happening?', draft: true, posted: (post) => {
      feed.own(post);
      say('Posted.');
    } }),
    el('h2', { class: 'visually-hidden' }, 'Timeline'),
    feed.node);
  feed.load();
}

/** What somebody new can do: there is no public timeline, and nothing is recommended. */
function beginnings() {
  const link = el('button', { type: 'button', class: 'quiet', onclick: async () => {
    try {
      copyLink(await me());
    } catch (problem) {
      say(plain(problem), { bad: true });
    }
  } }, 'Copy the link to my profile');
  return el('div', { class: 'card beginnings' },
    el('h3', {}, 'Nobody else is here yet'),
    el('p', {}, 'Your timeline shows what you and the people you follow post, as soon as they do. To begin:'),
    el('ol', {},
      el('li', {}, 'Write your first post above.'),
      el('li', {}, 'Find somebody whose name you know, and follow them.', finder()),
      el('li', {}, 'Send a friend the link to your profile. ', link),
      el('li', {}, 'Alone here? Open a private window, sign up as somebody else, follow yourself there, and post here: it '
        + 'shows up there at once.')));
}

function retitle(text = title) {
  title = text;
  const waiting = feed && session.userId ? feed.waiting : 0;
  document.title = `${waiting ? `(${waiting}) ` : ''}${title === NAME ? NAME : `${title} · ${NAME}`}`;
}

// --- the frame -------------------------------------------------------------------------------------------------------

function markNavigation(hash) {
  const items = session.userId
    ? [['#/', 'home', 'Home'], ['#/me', 'person', 'Profile'], ['#/find', 'find', 'Find'], ['#/settings', 'settings', 'Settings']]
    : [['#/find', 'find', 'Find'], ['#/sign-in', 'person', 'Sign in'], ['#/sign-up', 'join', 'Sign up']];
  const list = document.getElementById('places');
  if (list.dataset.of !== String(session.userId)) {
    list.dataset.of = String(session.userId);
    list.replaceChildren(...items.map(([href, image, text]) => el('li', {}, el('a', { href }, icon(image), el('span', {}, text)))));
    if (session.userId) nameProfile(list);
  }
  for (const link of list.querySelectorAll('a')) {
    if (link.getAttribute('href') === hash) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

async function nameProfile(list) {
  try {
    const user = await me();
    list.querySelector('a[href="#/me"]')?.setAttribute('href', userPath(user.username));
    markNavigation(location.hash);
  } catch {
    // The address #/me asks again.
  }
}

PAGES.push({ at: /^#\/me$/, page: async () => profilePage((await me()).username) });

// --- who is signed in ------------------------------------------------------------------------------------------------

/** Begins again for whoever is signed in now, or for nobody. */
function meet(why) {
  if (session.userId === reader) return;
  const was = reader;
  reader = session.userId;
  live.stop();
  [feed, myself, homeScroll] = [null, null, 0];
  home.replaceChildren();
  home.hidden = true;
  for (const dialog of document.querySelectorAll('dialog')) dialog.close('no');
  if (reader) {
    live.start();
    if (['#/sign-in', '#/sign-up', ''].includes(location.hash)) history.replaceState(null, '', '#/');
    show({ moves: why !== undefined });
    return;
  }
  if (was) {
    history.replaceState(null, '', '#/');
    show();
    const words = { 'signed out': 'You are signed out.', elsewhere: 'You are signed out: it was done in another tab.' };
    say(words[why] ?? why);
    return;
  }
  show({ moves: false });
}

session.addEventListener('change', ({ detail }) => meet(detail));

// --- what arrives by itself ------------------------------------------------------------------------------------------

const state = document.getElementById('state');
let wasLive = false;
live.addEventListener('state', ({ detail }) => {
  state.dataset.state = detail;
  state.textContent = detail === 'waiting' && wasLive ? 'Reconnecting…' : STATES[detail];
  if (detail === 'live') {
    if (wasLive) whisper('Live again');
    wasLive = true;
  } else if (detail === 'waiting' && wasLive) whisper('The connection is lost. It comes back by itself.');
  else wasLive = false;
});
live.addEventListener('post', ({ detail }) => feed?.arrive(detail));
live.addEventListener('caughtup', catchUp);
live.addEventListener('gone', () => session.end('This account is no more.'));
// Whom one follows has changed, and what they wrote before belongs in between: the list is read again.
document.addEventListener('follows', () => feed?.reload().catch(() => {}));

async function catchUp() {
  try {
    await feed?.catchUp();
  } catch {
    // The next stream that begins tries again, and so does the list's own button.
  }
}

// --- it begins -------------------------------------------------------------------------------------------------------

document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault(); // the address is the page's own
  document.querySelector('main section:not([hidden]) h1')?.focus();
});
addEventListener('hashchange', () => show());
// Where one is already, a link leads to the top.
document.addEventListener('click', ({ target }) => {
  const href = target.closest?.('a')?.getAttribute('href');
  if (href?.startsWith('#/') && href === (location.hash || '#/')) scrollTo({ top: 0 });
});
addEventListener('pagehide', () => live.stop());
addEventListener('pageshow', ({ persisted }) => persisted && session.userId && live.start());
history.scrollRestoration = 'manual';
keepTimes();
if (session.userId) meet();
else show({ moves: false });
