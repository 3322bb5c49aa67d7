// The entries of a list: which are shown, and which wait to be shown.

/** So many wait at most; past that the list is read again from its top. */
const MOST_WAITING = 100;

export class Entries {
  #known = new Set();
  #posts = new Set();
  #waiting = [];
  /** More arrived than may wait: what was missed is on the first page. */
  overflown = false;

  /** `me`: the reader's id. A reader's own repost of a post that is there already is no news to them. */
  constructor(me = null) {
    this.me = me;
  }

  /** The posts of a page that were not known, in their order. */
  page(posts) {
    return posts.filter((post) => this.#learn(post));
  }

  has(post) {
    return this.#known.has(post.entry_id);
  }

  /** Whether this one is news. */
  #learn(post) {
    if (this.#known.has(post.entry_id)) return false;
    this.#known.add(post.entry_id);
    const own = post.reposted_by !== null && post.reposted_by?.user_id === this.me;
    const again = own && this.#posts.has(post.post_id);
    this.#posts.add(post.post_id);
    return !again;
  }

  /** One that arrived by itself: whether it is news. */
  arrive(post) {
    return this.#learn(post);
  }

  /** Keeps one that is news until its reader wants to see it. */
  wait(post) {
    if (this.#waiting.length >= MOST_WAITING) this.overflown = true;
    else this.#waiting.push(post);
  }

  get waiting() {
    return this.#waiting.length;
  }

  /** Those that wait, newest first; none waits then. */
  show() {
    const shown = this.#waiting.reverse();
    this.#waiting = [];
    return shown;
  }
}
