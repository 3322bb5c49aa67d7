// Signing up, signing in, and one's own account.

import { call, signIn, signOut, plain } from './api.mjs';
import { form } from './compose.mjs';
import { confirmed, el, say, when } from './dom.mjs';
import { session } from './session.mjs';

const NAME = {
  name: 'username', label: 'User name', required: true, minlength: '3', maxlength: '30', pattern: '[A-Za-z0-9_]+',
  title: 'Letters, digits and _ only, please.', autocomplete: 'username', autocapitalize: 'none', spellcheck: 'false',
  hint: '3 to 30 letters, digits or _. It stays yours for good.' };
const EMAIL = { name: 'email', label: 'E-mail', type: 'email', required: true, autocomplete: 'email' };
const NEW_PASSWORD = {
  name: 'password', label: 'Password', type: 'password', required: true, minlength: '8', maxlength: '128',
  autocomplete: 'new-password', hint: 'At least 8 characters.' };
const PASSWORD = { name: 'password', label: 'Password', type: 'password', required: true, autocomplete: 'current-password' };

export function signUpPage() {
  const node = el('div', { class: 'card narrow' }, form({
    send: 'Sign up',
    fields: [
      NAME,
      { name: 'display_name', label: 'Name that others see', maxlength: '50', autocomplete: 'name', hint: 'May be left out.' },
      EMAIL, NEW_PASSWORD],
    act: async ({ display_name: shown, ...values }) => {
      const body = shown.trim() ? { ...values, display_name: shown } : values;
      await call('POST', '/users', { open: true, body });
      await signIn(values.username, values.password);
    } }),
  el('p', {}, 'You have an account? ', el('a', { href: '#/sign-in' }, 'Sign in')));
  return { title: 'Sign up', node };
}

export function signInPage() {
  const node = el('div', { class: 'card narrow' }, form({
    send: 'Sign in',
    fields: [
      { name: 'username', label: 'User name or e-mail', required: true, autocomplete: 'username', autocapitalize: 'none', spellcheck: 'false' },
      PASSWORD],
    act: ({ username, password }) => signIn(username.trim(), password) }),
  el('p', {}, 'New here? ', el('a', { href: '#/sign-up' }, 'Sign up')));
  return { title: 'Sign in', node };
}

/** What a visitor sees first. */
export function welcomePage() {
  const node = el('div', { class: 'welcome' },
    el('p', { class: 'lead' }, 'Short posts, and a timeline of the people you follow that is there as soon as they write.'),
    el('p', { class: 'row' },
      el('a', { class: 'button primary', href: '#/sign-up' }, 'Sign up'),
      el('a', { class: 'button quiet', href: '#/sign-in' }, 'Sign in')),
    el('p', {}, el('a', { href: '/docs' }, 'The API behind this page')),
    el('p', { class: 'quiet', id: 'reads-only', role: 'status' }));
  needsGateway().then((needs) => {
    if (!needs) return;
    node.querySelector('#reads-only').textContent = 'This address answers reads only: nobody can sign up or write here. '
      + 'Open the page at the gateway’s address, which is http://127.0.0.1:8080 where `make run` runs.';
  });
  return { title: 'Microblog', node };
}

/** Whether the page comes from the query service itself: the keys are the command service's. */
async function needsGateway() {
  try {
    return (await fetch('/.well-known/jwks.json', { credentials: 'omit' })).status === 405;
  } catch {
    return false;
  }
}

const WRONG = { bad_credentials: 'This is not your password.' };
const CURRENT = { ...PASSWORD, label: 'Your password' };

/** `me()` is one's own profile, and `changed(user)` is told of another one. */
export async function settingsPage(me, changed) {
  const user = await me();
  const address = el('p', {});
  const name = (email) => address.replaceChildren(`As @${user.username}`, email ? `, with ${email}` : '');
  name(user.email);
  const places = el('section', { class: 'card' });
  showSessions(places);
  const node = el('div', { class: 'stack' },
    el('section', { class: 'card' },
      el('h2', {}, 'Signed in'), address,
      el('p', { class: 'quiet' }, 'In every tab of this browser. Signing out ends it in all of them.'),
      el('button', { type: 'button', class: 'primary', onclick: leave }, 'Sign out')),
    places,
    el('section', { class: 'card' }, el('h2', {}, 'Another password'), form({
      send: 'Change password', words: WRONG, done: 'Your password is changed. All other sessions have ended.',
      fields: [CURRENT, { ...NEW_PASSWORD, name: 'new_password', label: 'New password' }],
      act: async (body) => {
        await call('PUT', '/users/me/password', { body, again: true });
        showSessions(places);
      } })),
    el('section', { class: 'card' }, el('h2', {}, 'Another e-mail address'), form({
      send: 'Change e-mail', words: WRONG, done: 'Your e-mail address is changed.',
      fields: [CURRENT, { ...EMAIL, label: 'New e-mail' }],
      act: async (body) => {
        const now = await call('PUT', '/users/me/email', { body, again: true });
        name(now.email);
        changed(now);
      } })),
    el('section', { class: 'card' },
      el('h2', {}, 'Leave for good'),
      el('p', {}, 'Your profile, posts and reposts vanish, your follows end, and your name stays taken.'),
      form({
        send: 'Deactivate my account', danger: true, words: WRONG, fields: [CURRENT],
        act: async ({ password }) => {
          if (!await confirmed('Deactivate your account for good?', 'Deactivate')) return;
          await call('DELETE', '/users/me', { body: { password } });
          session.end('Your account is deactivated.');
        } })));
  return { title: 'Settings', node };
}

/** Where one is signed in, each with a way to end it. */
async function showSessions(place) {
  const heading = el('h2', { tabindex: '-1' }, 'Your sessions');
  place.replaceChildren(heading, el('p', { class: 'quiet' }, 'Loading…'));
  let sessions;
  try {
    ({ sessions } = await call('GET', '/auth/sessions'));
  } catch (problem) {
    place.replaceChildren(heading, el('p', { class: 'fault', role: 'alert' }, plain(problem)));
    return;
  }
  const end = async (path, isHere, text) => {
    try {
      await call('DELETE', path, { again: true, forgets: isHere });
      if (isHere) return session.end(text);
      say(text);
      await showSessions(place);
      place.querySelector('h2').focus();
    } catch (problem) {
      say(plain(problem), { bad: true });
    }
  };
  const list = [
    el('ul', { class: 'sessions', role: 'list' }, sessions.map(({ id, created_at: from, last_used_at: used, current }) => el('li', { class: 'row' },
      el('span', {}, from && ['Since ', when(from), ', '], 'used ', when(used),
        current && el('span', { class: 'tag' }, 'This one')),
      !current && el('button', {
        type: 'button', class: 'quiet', onclick: () => end(`/auth/sessions/${id}`, false, 'The session has ended.') }, 'End')))),
    sessions.length > 1 && el('button', {
      type: 'button', class: 'danger', onclick: () => end('/auth/sessions', true, 'You are signed out everywhere.') }, 'End all of them'),
    el('p', { class: 'quiet' }, 'What has ended elsewhere can go on for 15 minutes at most.')];
  place.replaceChildren(heading, ...list.filter(Boolean));
}

async function leave() {
  try {
    await signOut();
  } catch (problem) {
    say(`You are signed out here. ${plain(problem)}`, { bad: true });
  }
}
