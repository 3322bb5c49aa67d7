// The page of one post: what it answers, and what answers it.

import { call, plain } from './api.mjs';
import { el } from './dom.mjs';
import { Feed } from './feed.mjs';
import { article } from './post.mjs';

/** So many posts above it are shown. */
const MOST_ABOVE = 12;

export async function threadPage(id) {
  const post = await call('GET', `/posts/${encodeURIComponent(id)}`);
  const above = el('ul', { class: 'list above', role: 'list' });
  const replies = new Feed({
    path: `/posts/${encodeURIComponent(id)}/replies`, what: 'replies',
    empty: () => el('p', { class: 'quiet' }, 'No replies yet.') });
  const main = article(post, { isMain: true, replied: (reply) => replies.own(reply) });
  const node = el('div', {},
    above, main, el('h2', {}, 'Replies'), replies.node);
  replies.load();
  showAbove(post, above);
  return { title: `Post by ${post.display_name}`, node };
}

/** The posts that it answers, the oldest on top; one that is gone ends them. */
async function showAbove(post, list) {
  let parent = post.reply_to_post_id;
  for (let count = 0; parent && count < MOST_ABOVE; count += 1) {
    try {
      const found = await call('GET', `/posts/${parent}`);
      list.prepend(el('li', {}, article(found, { replied: () => {} })));
      parent = found.reply_to_post_id;
    } catch (problem) {
      const text = problem.status === 404 ? 'A post that is gone.' : plain(problem);
      list.prepend(el('li', {}, el('p', { class: 'post quiet' }, text)));
      return;
    }
  }
  if (parent) list.prepend(el('li', {}, el('p', { class: 'post' }, el('a', { href: `#/p/${parent}` }, 'More above'))));
}
