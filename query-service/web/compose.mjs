// Forms: one for posts, and one for everything else, with what is wrong said beside the field.

import { call, newKey, plain, Problem } from './api.mjs';
import { el, newId, say } from './dom.mjs';

const MOST = 280;
const DRAFT = 'microblog.draft';

/** As the server counts: Unicode scalar values, after normalisation. */
export const length = (text) => [...text.replace(/\r\n?/g, '\n').normalize('NFC')].length;

/**
 * A form that writes a post. It keeps its idempotency key until the server has answered, or the text is
 * another: what is sent again after a lost answer is posted once. `draft`: the text outlives a reload.
 */
export function composer({ label, send = 'Post', replyTo = null, posted, cancelled = null, draft = false }) {
  const [field, fault, left] = [newId('compose'), newId('fault'), newId('left')];
  let [key, sent, sending] = [newKey(), null, false];
  const text = el('textarea', {
    id: field, rows: '3', placeholder: replyTo ? 'Post your reply' : 'What is happening?', dir: 'auto',
    'aria-describedby': `${left} ${fault}` });
  const count = el('span', { id: left, class: 'left' });
  const error = el('p', { id: fault, class: 'fault', role: 'alert' });
  const button = el('button', { type: 'submit', class: 'primary' }, send);

  function typed() {
    const over = length(text.value) - MOST;
    count.textContent = over > 0 ? `${over} too many` : `${-over} left`;
    count.classList.toggle('bad', over > 0);
    count.classList.toggle('near', over > -21);
    if (draft) remember(text.value, key);
  }

  function wrong(what) {
    error.textContent = what;
    text.setAttribute('aria-invalid', String(what !== ''));
  }

  async function submit() {
    if (sending) return;
    const content = text.value;
    if (content.trim() === '') return refuse('Write something first.');
    if (length(content) > MOST) return refuse(`A post has at most ${MOST} characters.`);
    if (sent !== null && sent !== content) key = newKey();
    sent = content;
    sending = true;
    wrong('');
    form.setAttribute('aria-busy', 'true');
    button.setAttribute('aria-disabled', 'true');
    try {
      const body = replyTo ? { content, reply_to_post_id: replyTo } : { content };
      const post = await call('POST', '/posts', { key, body });
      if (text.value === content) text.value = '';
      [key, sent] = [newKey(), null];
      typed();
      posted(post);
    } catch (problem) {
      if (problem.code === 'idempotency_key_reused') [key, sent] = [newKey(), null];
      refuse(problem.errors?.[0]?.detail ? sentence(problem.errors[0].detail) : plain(problem));
    } finally {
      sending = false;
      form.removeAttribute('aria-busy');
      button.removeAttribute('aria-disabled');
    }
  }

  function refuse(what) {
    wrong(what);
    text.focus();
  }

  text.addEventListener('input', () => {
    wrong('');
    typed();
  });
  const form = el('form', {
    class: 'compose card', method: 'post', novalidate: true,
    onsubmit: (event) => {
      event.preventDefault();
      submit();
    },
    onkeydown: (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        submit();
      }
      if (event.key === 'Escape' && cancelled) {
        event.stopPropagation();
        cancelled();
      }
    } },
    el('label', { for: field, class: replyTo ? 'small' : 'visually-hidden' }, label),
    text, error,
    el('div', { class: 'row' }, count,
      el('span', { class: 'row end' },
        cancelled && el('button', { type: 'button', class: 'quiet', onclick: cancelled }, 'Cancel'), button)));
  if (draft) {
    const kept = remembered();
    if (kept) [text.value, key, sent] = [kept.text, kept.key, kept.text];
  }
  typed();
  return form;
}

function remember(text, key) {
  try {
    if (text) sessionStorage.setItem(DRAFT, JSON.stringify({ text, key }));
    else sessionStorage.removeItem(DRAFT);
  } catch { /* it is a comfort, no more */ }
}

function remembered() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(DRAFT));
    return typeof kept?.text === 'string' && typeof kept.key === 'string' ? kept : null;
  } catch {
    return null;
  }
}

/** A detail of the server as a sentence. */
export const sentence = (detail) => `${detail.charAt(0).toUpperCase()}${detail.slice(1)}${/[.!?]$/.test(detail) ? '' : '.'}`;

/** Which field an error is about, where its code alone says so. */
const OF_A_FIELD = { username_taken: 'username', email_taken: 'email', bad_credentials: 'password' };

/**
 * A form of `fields` (`name`, `label`, and attributes of the input; `hint` is said with it, `area` makes it a
 * text of several lines). `act(values)` does the work; what it throws is said beside the field it is about, in
 * the words of `words` where they have its code. With `done`, that is said then, and the form is empty again.
 */
export function form({ fields, send, act, words = {}, done = null, danger = false, cancelled = null }) {
  const inputs = new Map();
  const general = el('p', { class: 'fault', role: 'alert' });
  const button = el('button', { type: 'submit', class: danger ? 'danger' : 'primary' }, send);
  let busy = false;

  const rows = fields.map(({ name, label, hint, area, value, ...attributes }) => {
    const [id, hintId, fault] = [newId(name), newId('hint'), newId('fault')];
    const input = el(area ? 'textarea' : 'input', {
      id, name, ...attributes, 'aria-describedby': hint ? `${hintId} ${fault}` : fault });
    if (value) input.value = value;
    const error = el('p', { id: fault, class: 'fault' });
    input.addEventListener('input', () => wrong(name, ''));
    inputs.set(name, { input, error });
    return el('div', { class: 'field' }, el('label', { for: id }, label), input,
      hint && el('p', { id: hintId, class: 'hint' }, hint), error);
  });

  function wrong(name, what) {
    const { input, error } = inputs.get(name);
    error.textContent = what;
    if (what) input.setAttribute('aria-invalid', 'true');
    else input.removeAttribute('aria-invalid');
  }

  /** Says every fault, and takes the reader to the first. */
  function show(faults, otherwise) {
    let first = null;
    for (const [name, what] of faults) {
      wrong(name, what);
      first ??= inputs.get(name).input;
    }
    general.textContent = first ? '' : otherwise;
    first?.focus();
  }

  async function submit() {
    if (busy) return;
    for (const name of inputs.keys()) wrong(name, '');
    general.textContent = '';
    const faults = [...inputs].map(([name, { input }]) => [name, faultOf(input)]).filter(([, what]) => what);
    if (faults.length > 0) return show(faults);
    busy = true;
    node.setAttribute('aria-busy', 'true');
    button.setAttribute('aria-disabled', 'true');
    try {
      await act(Object.fromEntries([...inputs].map(([name, { input }]) => [name, input.value])));
      if (!done) return;
      for (const { input } of inputs.values()) input.value = '';
      say(done);
    } catch (problem) {
      const text = words[problem.code] ?? plain(problem);
      const of = problem instanceof Problem ? problem.errors : [];
      const said = of.filter(({ field }) => inputs.has(field)).map(({ field, detail }) => [field, sentence(detail)]);
      const field = OF_A_FIELD[problem.code];
      if (said.length === 0 && inputs.has(field)) said.push([field, text]);
      show(said, text);
    } finally {
      busy = false;
      node.removeAttribute('aria-busy');
      button.removeAttribute('aria-disabled');
    }
  }

  const node = el('form', {
    method: 'post', novalidate: true, class: 'stack',
    onsubmit: (event) => {
      event.preventDefault();
      submit();
    } }, ...rows, general,
    el('div', { class: 'row end' },
      cancelled && el('button', { type: 'button', class: 'quiet', onclick: cancelled }, 'Cancel'), button));
  return node;
}

function faultOf(input) {
  const { validity } = input;
  const value = input.value;
  if (validity.valueMissing) return 'This is needed.';
  const least = Number(input.getAttribute('minlength') ?? 0);
  if (value && [...value].length < least) return `At least ${least} characters, please.`;
  if (validity.typeMismatch) return 'This is no e-mail address.';
  if (validity.patternMismatch) return input.getAttribute('title') || 'This has another form.';
  return '';
}
