// Signing up, signing in, and one's own account.

import { call, signIn, signOut, plain } from './api.mjs';
import { form } from './compose.mjs';
import { confirmed, el, say } from './dom.mjs';
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

export async function settingsPage(me) {
  const user = await me();
  const node = el('div', { class: 'stack' },
    el('section', { class: 'card' },
      el('h2', {}, 'Signed in'),
      el('p', {}, `As @${user.username}`, user.email && `, with ${user.email}`),
      el('p', { class: 'quiet' }, 'In every tab of this browser. Signing out ends it in all of them.'),
      el('button', { type: 'button', class: 'primary', onclick: leave }, 'Sign out')),
    el('section', { class: 'card' },
      el('h2', {}, 'Leave for good'),
      el('p', {}, 'Your profile, posts and reposts vanish, your follows end, and your name stays taken.'),
      form({
        send: 'Deactivate my account', danger: true, fields: [PASSWORD],
        act: async ({ password }) => {
          if (!await confirmed('Deactivate your account for good?', 'Deactivate')) return;
          await call('DELETE', '/users/me', { body: { password } });
          session.end('Your account is deactivated.');
        } })));
  return { title: 'Settings', node };
}

async function leave() {
  try {
    await signOut();
  } catch (problem) {
    say(`You are signed out here. ${plain(problem)}`, { bad: true });
  }
}
