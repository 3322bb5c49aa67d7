// The page of one post: what it answers, and what answers it.

import { call } from './api.mjs';
import { el, postPath } from './dom.mjs';
import { Feed } from './feed.mjs';
import { article } from './post.mjs';

export async function threadPage(id) {
  const path = `/posts/${encodeURIComponent(id)}`;
  const { ancestors, more_ancestors: more, post, replies, next_cursor: next } = await call('GET', `${path}/thread`);
  const feed = new Feed({
    path: `${path}/replies`, what: 'replies', empty: () => el('p', { class: 'quiet' }, 'No replies yet.') });
  feed.begin({ found: replies, next });
  const node = el('div', {},
    above(ancestors, more, post),
    article(post, { isMain: true, replied: (reply) => feed.own(reply) }),
    el('h2', {}, 'Replies'), feed.node);
  return { title: `Post by ${post.display_name}`, node };
}

/** What the post answers, the first on top. Where one is gone, that is said. */
function above(ancestors, more, post) {
  const items = [];
  const say = (...text) => items.push(el('p', { class: 'post quiet' }, ...text));
  const [first] = ancestors;
  if (more && first) say(el('a', { href: postPath(first.post_id) }, 'There is more above'));
  let before = more ? first?.reply_to_post_id : null;
  for (const each of [...ancestors, post]) {
    if ((each.reply_to_post_id ?? null) !== (before ?? null)) say('A post that is gone.');
    if (each !== post) items.push(article(each));
    before = each.post_id;
  }
  return items.length > 0 && el('ul', { class: 'list above', role: 'list' }, items.map((item) => el('li', {}, item)));
}
