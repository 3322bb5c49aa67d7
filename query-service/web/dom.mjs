// Elements, icons, times, and what is said aloud.

const SVG = 'http://www.w3.org/2000/svg';

/**
 * A new element. Children are nodes or text, so nothing that somebody wrote is ever read as HTML. Of the
 * properties, `onclick` and the like are listeners, and what is null, undefined or false is left out.
 */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** One of the symbols in index.html. What it means is said beside it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  const use = document.createElementNS(SVG, 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  svg.append(use);
  return svg;
}

/** Text that only a screen reader says. */
export const hidden = (...text) => el('span', { class: 'visually-hidden' }, ...text);

let ids = 0;
export const newId = (what) => `${what}-${++ids}`;

/** A circle with the first letter of a name, in a colour of its own. */
export function avatar(username, name) {
  const hue = [...username].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 8, 7);
  const letter = [...(name || username)].find((each) => /[\p{L}\p{N}]/u.test(each)) ?? username[0];
  return el('span', { class: `avatar hue-${hue}`, 'aria-hidden': 'true' }, letter.toUpperCase());
}

// --- times -------------------------------------------------------------------------------------------------------

const RELATIVE = new Intl.RelativeTimeFormat('en', { style: 'short', numeric: 'auto' });
const DAY = new Intl.DateTimeFormat('en', { day: 'numeric', month: 'short', year: 'numeric' });
const ABSOLUTE = new Intl.DateTimeFormat('en', { dateStyle: 'full', timeStyle: 'medium' });
const MONTH = new Intl.DateTimeFormat('en', { month: 'long', year: 'numeric' });

/** `iso` as people say it, seen at `now` (milliseconds). */
export function relative(iso, now = Date.now()) {
  const then = new Date(iso);
  const seconds = Math.round((then - now) / 1000);
  if (seconds > -45) return 'now';
  if (seconds > -3_600) return RELATIVE.format(Math.min(-1, Math.round(seconds / 60)), 'minute');
  if (seconds > -86_400) return RELATIVE.format(Math.round(seconds / 3_600), 'hour');
  if (seconds > -7 * 86_400) return RELATIVE.format(Math.round(seconds / 86_400), 'day');
  return DAY.format(then);
}

export function when(iso) {
  return el('time', { datetime: iso, title: ABSOLUTE.format(new Date(iso)), 'data-relative': true }, relative(iso));
}

export const since = (iso) => el('time', { datetime: iso, title: ABSOLUTE.format(new Date(iso)) }, MONTH.format(new Date(iso)));

/** Times that say how long ago go on saying it. */
export function keepTimes() {
  setInterval(() => {
    for (const time of document.querySelectorAll('time[data-relative]')) {
      const text = relative(time.dateTime);
      if (time.textContent !== text) time.textContent = text;
    }
  }, 20_000);
}

// --- text --------------------------------------------------------------------------------------------------------

const LINKED = /(https?:\/\/[^\s<>"']+[^\s<>"'.,;:!?)\]}])|(?<![\w@])@([a-z0-9_]{3,30})(?![\w@])/giu;

/** A text in pieces: plain ones, addresses as `{ href }`, and names of users as `{ name }`. */
export function pieces(text) {
  const found = [];
  let at = 0;
  for (const match of text.matchAll(LINKED)) {
    if (match.index > at) found.push(text.slice(at, match.index));
    found.push(match[1] ? { text: match[0], href: match[1] } : { text: match[0], name: match[2].toLowerCase() });
    at = match.index + match[0].length;
  }
  if (at < text.length) found.push(text.slice(at));
  return found;
}

/** What somebody wrote, in an element with a direction of its own. */
export function written(tag, properties, text) {
  return el(tag, { ...properties, dir: 'auto' }, ...pieces(text).map((piece) => {
    if (typeof piece === 'string') return piece;
    if (piece.name) return el('a', { href: userPath(piece.name) }, piece.text);
    return el('a', { href: piece.href, rel: 'nofollow noopener noreferrer ugc', target: '_blank' }, piece.text);
  }));
}

export const userPath = (name) => `#/u/${encodeURIComponent(name)}`;
export const postPath = (id) => `#/p/${encodeURIComponent(id)}`;

const COMPACT = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
export const short = (count) => COMPACT.format(count);
export const counted = (count, one, many = `${one}s`) => `${short(count)} ${count === 1 ? one : many}`;

// --- saying ------------------------------------------------------------------------------------------------------

let silence;

/** Says something once, on the screen for a while and to screen readers. */
export function say(text, { bad = false } = {}) {
  const line = document.getElementById('said');
  clearTimeout(silence);
  line.textContent = text;
  silence = setTimeout(() => {
    line.textContent = '';
  }, bad ? 9_000 : 4_000);
}

/** Says something to screen readers alone. */
export function whisper(text) {
  document.getElementById('whispered').textContent = text;
}

/** Asks before something that cannot be taken back. Escape and Cancel say no. */
export function confirmed(question, yes) {
  return new Promise((resolve) => {
    const title = newId('question');
    const dialog = el('dialog', { 'aria-labelledby': title },
      el('h2', { id: title }, question),
      el('div', { class: 'row end' },
        el('button', { type: 'button', class: 'quiet', onclick: () => dialog.close('no') }, 'Cancel'),
        el('button', { type: 'button', class: 'danger', onclick: () => dialog.close('yes') }, yes)));
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(dialog.returnValue === 'yes');
    });
    document.body.append(dialog);
    dialog.showModal(); // what had the focus gets it back
  });
}
