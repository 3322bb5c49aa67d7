// One post, wherever it is shown, and what one does with it.

import { call, plain } from './api.mjs';
import { composer } from './compose.mjs';
import { avatar, confirmed, counted, el, hidden, icon, newId, postPath, say, short, userPath, when, written } from './dom.mjs';
import { session } from './session.mjs';

/** What each article shows, so that all that show one post change together. */
const shown = new WeakMap();
const REACTIONS = {
  like: { flag: 'liked', count: 'likes_count', icon: 'like', on: 'Liked', off: 'Like', one: 'like' },
  repost: { flag: 'reposted', count: 'reposts_count', icon: 'repost', on: 'Reposted', off: 'Repost', one: 'repost' },
};

const articlesOf = (id) => document.querySelectorAll(`article[data-post="${CSS.escape(id)}"]`);

/** Shows a change of a post in every place that shows it. */
export function change(id, patch) {
  for (const article of articlesOf(id)) shown.get(article)?.(patch);
}

/** Takes a post that is no more out of every list. */
function vanish(id) {
  for (const article of articlesOf(id)) {
    const item = article.closest('li') ?? article;
    const heading = document.querySelector('main section:not([hidden]) h1');
    if (item.contains(document.activeElement)) heading?.focus();
    item.remove();
  }
}

/**
 * An article. `replied(post)` is called with a reply that was written here; `isMain` is for the post that a
 * page is about.
 */
export function article(given, { replied, isMain = false } = {}) {
  let post = { ...given };
  const [name, text] = [newId('name'), newId('text')];
  const buttons = {};
  const replies = el('span', { class: 'count' });
  const reply = action('reply', 'Reply', () => toggleReply());
  reply.append(replies);
  reply.setAttribute('aria-expanded', 'false');
  for (const [what, words] of Object.entries(REACTIONS)) {
    buttons[what] = action(words.icon, words.off, () => react(post, what), what);
    buttons[what].append(el('span', { class: 'count' }));
  }
  const isOwn = post.user_id === session.userId;
  const remove = isOwn && action('delete', 'Delete', () => removed(post));
  const box = el('div', { class: 'replying', hidden: true });
  const who = isMain && el('p', { class: 'who' });

  const node = el('article', {
    class: isMain ? 'post main' : 'post', 'data-post': post.post_id, 'data-entry': post.entry_id, tabindex: '-1',
    'aria-labelledby': `${name} ${text}` },
    post.reposted_by && el('p', { class: 'reposter' }, icon('repost'),
      el('a', { href: userPath(post.reposted_by.username) }, `@${post.reposted_by.username}`), ' reposted'),
    el('div', { class: 'byline' },
      avatar(post.username, post.display_name),
      el('div', { class: 'names' },
        el('a', { id: name, class: 'name', href: userPath(post.username) }, el('bdi', {}, post.display_name)),
        el('span', { class: 'handle' }, `@${post.username}`)),
      el('a', { class: 'at', href: postPath(post.post_id) }, hidden('Posted '), when(post.created_at))),
    post.reply_to_post_id && !isMain && el('p', { class: 'in-reply' },
      el('a', { href: postPath(post.reply_to_post_id) }, 'In reply to a post')),
    written('p', { id: text, class: 'text' }, post.content),
    who,
    el('div', { class: 'actions', role: 'group', 'aria-label': `What to do with the post of ${post.username}` },
      reply, buttons.repost, buttons.like, remove),
    box);

  function render() {
    replies.textContent = post.replies_count ? short(post.replies_count) : '';
    reply.setAttribute('aria-label', `Reply, ${counted(post.replies_count, 'reply', 'replies')}`);
    for (const [what, words] of Object.entries(REACTIONS)) {
      const [is, count] = [post[words.flag] === true, Math.max(post[words.count], 0)];
      buttons[what].setAttribute('aria-pressed', String(is));
      buttons[what].setAttribute('aria-label', `${words.off}, ${counted(count, words.one)}`);
      buttons[what].title = is ? words.on : words.off;
      buttons[what].querySelector('.count').textContent = count ? short(count) : '';
    }
    if (!who) return;
    const lists = Object.entries(REACTIONS).filter(([, { count }]) => post[count] > 0);
    who.replaceChildren(...lists.map(([what, { count, one }]) => el('a', {
      href: `${postPath(post.post_id)}/${what}s` }, counted(post[count], one))));
    who.hidden = lists.length === 0;
  }

  function toggleReply() {
    if (!session.userId) return askToSignIn();
    if (!box.hidden) return closeReply();
    box.hidden = false;
    reply.setAttribute('aria-expanded', 'true');
    const form = composer({
      label: `Your reply to @${post.username}`, send: 'Reply', replyTo: post.post_id, cancelled: closeReply,
      posted: (answer) => {
        closeReply();
        change(post.post_id, { replies_count: post.replies_count + 1 });
        say('Your reply is posted.');
        replied?.(answer);
      } });
    box.replaceChildren(form);
    form.querySelector('textarea').focus();
  }

  function closeReply() {
    box.hidden = true;
    box.replaceChildren();
    reply.setAttribute('aria-expanded', 'false');
    reply.focus();
  }

  shown.set(node, (patch) => {
    post = { ...post, ...patch };
    render();
  });
  render();
  return node;
}

function action(name, title, act, kind = name) {
  return el('button', { type: 'button', class: `action ${kind}`, title, 'aria-label': title, onclick: act }, icon(name));
}

function askToSignIn() {
  say('Sign in first.');
  location.hash = '#/sign-in';
}

/** What is sent now, by post and reaction: one call at a time, and the last wish wins. */
const running = new Map();

/** Shows the wish at once, and takes it back if the server refuses it. */
async function react(post, what) {
  if (!session.userId) return askToSignIn();
  const { flag, count } = REACTIONS[what];
  const id = post.post_id;
  const wish = !(post[flag] === true);
  const before = { [flag]: post[flag], [count]: post[count] };
  change(id, { [flag]: wish, [count]: post[count] + (wish ? 1 : -1) });
  const key = `${what} ${id}`;
  if (running.has(key)) {
    running.get(key).wish = wish;
    return;
  }
  const task = { wish };
  running.set(key, task);
  try {
    let sent, answer;
    while (sent !== task.wish) {
      sent = task.wish;
      answer = await call(sent ? 'POST' : 'DELETE', `/posts/${id}/${what}`, { again: true });
    }
    change(id, { [flag]: sent, [count]: answer[count] });
  } catch (problem) {
    change(id, before);
    if (problem.status === 404) vanish(id);
    say(plain(problem), { bad: true });
  } finally {
    running.delete(key);
  }
}

async function removed(post) {
  if (!await confirmed('Delete this post for good?', 'Delete')) return;
  try {
    await call('DELETE', `/posts/${post.post_id}`, { again: true });
    vanish(post.post_id);
    say('The post is deleted.');
  } catch (problem) {
    say(plain(problem), { bad: true });
  }
}
