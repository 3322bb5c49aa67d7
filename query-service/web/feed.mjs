// A list in pages: posts, with those that arrive by themselves, or people.

import { call, plain } from './api.mjs';
import { counted, el, say, whisper } from './dom.mjs';
import { Entries } from './entries.mjs';
import { article } from './post.mjs';
import { session } from './session.mjs';

/** Further pages that are asked for when one came back empty, which a page may. */
const EMPTY_PAGES = 5;
/** A list that has grown so long is read again from its top when new posts are to be shown. */
const LONGEST = 400;
/** So near to the top somebody is taken to look at what is newest. */
const NEAR_PX = 160;

/** `path` and the name of what its pages list; `show(item)` makes an element. */
export class List {
  #cursor = null;
  #loading = null;
  #observer = null;

  /** `empty()` makes what stands in an empty list, and `ending(items)` may make what stands at its end. */
  constructor({ path, items, show, empty, ending = () => null, what }) {
    Object.assign(this, { path, items, show, empty, ending, what });
    this.shown = [];
    this.list = el('ul', { class: 'list', role: 'list' });
    this.end = el('div', { class: 'end' });
    this.node = el('div', { class: 'feed' }, this.list, this.end);
    this.more = el('button', { type: 'button', class: 'more', onclick: () => this.load(true) }, `Show more ${what}`);
  }

  async page(cursor) {
    const query = cursor ? `?cursor=${encodeURIComponent(cursor)}` : '';
    const { [this.items]: found, next_cursor: next } = await call('GET', this.path + query);
    return { found, next };
  }

  fresh(found) {
    return found;
  }

  /** The element of an item in the list. */
  item(item, kind = null) {
    this.shown.push(item);
    return el('li', { class: kind }, this.show(item));
  }

  /** What is on its way. */
  get loading() {
    return this.#loading;
  }

  /** Begins with a page that has been read already. */
  begin({ found, next }) {
    this.#cursor = next;
    this.list.replaceChildren(...this.fresh(found).map((item) => this.item(item)));
    this.#finish();
  }

  /** Reads the next page. With `moves`, the reader is taken to what is new. */
  load(moves = false) {
    this.#loading ??= this.#load(moves).finally(() => {
      this.#loading = null;
    });
    return this.#loading;
  }

  async #load(moves) {
    this.end.setAttribute('aria-busy', 'true');
    if (!this.list.hasChildNodes()) this.end.replaceChildren(el('p', { class: 'quiet' }, 'Loading…'));
    try {
      let added = [];
      for (let pages = 0; pages < EMPTY_PAGES && added.length === 0; pages += 1) {
        const { found, next } = await this.page(this.#cursor);
        added = this.fresh(found).map((item) => this.item(item));
        this.#cursor = next;
        if (!next) break;
      }
      this.list.append(...added);
      this.#finish();
      if (moves) {
        whisper(`${added.length} more`);
        const first = added[0] ?? this.list.lastElementChild;
        first?.querySelector('article, a')?.focus({ preventScroll: true });
      }
    } catch (problem) {
      this.end.replaceChildren(
        el('p', { class: 'fault', role: 'alert' }, plain(problem)),
        el('button', { type: 'button', class: 'more', onclick: () => this.load(true) }, 'Try again'));
    } finally {
      this.end.removeAttribute('aria-busy');
    }
  }

  #finish() {
    this.#observer?.disconnect();
    if (this.#cursor) {
      this.end.replaceChildren(this.more);
      // Whoever scrolls to the end need not press it.
      this.#observer = new IntersectionObserver(([seen]) => seen.isIntersecting && this.load(), { rootMargin: '300px' });
      this.#observer.observe(this.more);
      return;
    }
    if (this.end.contains(document.activeElement?.closest('form') ?? null)) return; // somebody types there
    if (!this.list.hasChildNodes()) this.end.replaceChildren(this.empty());
    else this.end.replaceChildren(this.ending(this.shown) ?? el('p', { class: 'quiet' }, 'That is all.'));
  }

  /** From the top again. */
  async reload() {
    await this.#loading;
    const page = await this.page(null);
    this.forget();
    this.begin(page);
  }

  forget() {
    this.shown = [];
  }

  /** Something is in the list now that no page brought. */
  notEmpty() {
    if (!this.#cursor && !this.#loading) this.#finish();
  }
}

/** Posts, newest first. */
export class Feed extends List {
  #arrived = null;

  constructor({ path, empty, ending, replied, what = 'posts' }) {
    super({ path, items: 'posts', what, empty, ending, show: (post) => article(post, { replied }) });
    this.entries = new Entries(session.userId);
    this.told = 0;
    this.news = el('button', { type: 'button', class: 'news', hidden: true, onclick: () => this.showWaiting() });
    this.node.prepend(el('div', { class: 'news-place' }, this.news));
  }

  fresh(found) {
    return this.entries.page(found);
  }

  forget() {
    super.forget();
    this.entries = new Entries(session.userId);
  }

  async reload() {
    // What arrives meanwhile may be younger than the page.
    const arrived = this.#arrived = [];
    try {
      await super.reload();
    } finally {
      if (this.#arrived === arrived) this.#arrived = null;
    }
    for (const post of arrived) this.arrive(post);
    this.#tellWaiting();
  }

  /** One's own, just written: the live stream brings it again, and it is no news then. */
  own(post) {
    if (!this.entries.arrive(post)) return;
    if (this.#isAtTop()) this.#insert(post);
    else this.#keep(post);
  }

  /** One that arrived by itself. Nothing moves under somebody who reads further down, or is in the list. */
  arrive(post) {
    this.#arrived?.push(post);
    if (!this.entries.arrive(post)) return;
    if (!this.#isAtTop() || document.hidden || this.list.contains(document.activeElement)) return this.#keep(post);
    this.#insert(post);
    whisper(`New post of ${post.display_name}: ${post.content}`);
  }

  #isAtTop() {
    return this.node.checkVisibility() && scrollY < NEAR_PX;
  }

  #keep(post) {
    this.entries.wait(post);
    this.#tellWaiting();
  }

  /** Reads the first page, and takes what is new in it as if it had arrived. */
  async catchUp() {
    await this.loading;
    if (!this.list.hasChildNodes()) return this.reload();
    const { found, next } = await this.page(null);
    const isNew = found.filter((post) => !this.entries.has(post));
    // If nothing of it is known, there is more between it and what is shown.
    const hasGap = next !== null && isNew.length === found.length && found.length > 0;
    if (hasGap && this.#isAtTop()) return this.reload();
    this.entries.overflown ||= hasGap;
    for (const post of isNew.reverse()) {
      if (hasGap && this.entries.arrive(post)) this.#keep(post);
      else this.arrive(post);
    }
  }

  /** Shows those that wait, if the list's top is looked at. */
  showAtTop() {
    if (this.waiting > 0 && !this.entries.overflown && this.#isAtTop()) this.#insert();
  }

  async showWaiting() {
    try {
      if (this.entries.overflown || this.list.childElementCount > LONGEST) await this.reload();
      else this.#insert();
    } catch (problem) {
      say(plain(problem), { bad: true });
      return;
    }
    scrollTo({ top: 0 });
    this.list.querySelector('article')?.focus({ preventScroll: true });
  }

  /** Puts these on top, and whatever waited below them. */
  #insert(...posts) {
    if (!this.entries.overflown) posts.push(...this.entries.show());
    this.list.prepend(...posts.map((post) => this.item(post, 'arrived')));
    this.notEmpty();
    this.#tellWaiting();
  }

  get waiting() {
    return this.entries.waiting;
  }

  #tellWaiting() {
    const count = this.waiting;
    const text = `${this.entries.overflown ? `${count}+` : count} new ${count === 1 ? 'post' : 'posts'}`;
    if (count === this.told) return;
    this.told = count;
    this.news.hidden = count === 0;
    this.news.textContent = `Show ${text}`;
    if (count > 0) whisper(text);
    this.node.dispatchEvent(new CustomEvent('waiting', { detail: count, bubbles: true }));
  }
}
