// People: a profile with its posts, lists of followers, and how to find somebody.

import { call, plain, Problem } from './api.mjs';
import { form } from './compose.mjs';
import { avatar, el, icon, newId, postPath, say, short, since, userPath, written } from './dom.mjs';
import { Feed, List } from './feed.mjs';
import { session } from './session.mjs';

export const userByName = (name) => call('GET', `/users/by-username/${encodeURIComponent(name)}`);

export async function profilePage(name) {
  const user = await userByName(name);
  const isMe = user.user_id === session.userId;
  const feed = new Feed({
    path: `/users/${user.user_id}/posts`,
    empty: () => el('p', { class: 'quiet' }, isMe ? 'You have not posted yet.' : `@${user.username} has not posted yet.`) });
  const node = el('div', {}, card(user, isMe), el('h2', { class: 'visually-hidden' }, 'Posts'), feed.node);
  feed.load();
  return { title: user.display_name, heading: el('bdi', {}, user.display_name), node, feed };
}

function card(given, isMe) {
  let user = given;
  const place = el('div', { class: 'card profile' });
  const followers = el('a', { href: `${userPath(given.username)}/followers` });
  const actions = el('div', { class: 'row end' });
  const ties = el('span', { class: 'tag', hidden: true }, 'Follows you');

  function counts() {
    const path = userPath(user.username);
    return el('ul', { class: 'counts', role: 'list' },
      el('li', {}, el('strong', {}, short(user.posts_count)), user.posts_count === 1 ? ' post' : ' posts'),
      el('li', {}, followers),
      el('li', {}, el('a', { href: `${path}/following` }, el('strong', {}, short(user.following_count)), ' following')));
  }

  function countFollowers() {
    const count = user.followers_count;
    followers.replaceChildren(el('strong', {}, short(count)), count === 1 ? ' follower' : ' followers');
  }

  function render() {
    countFollowers();
    place.replaceChildren(
      el('div', { class: 'row' }, avatar(user.username, user.display_name), actions),
      el('p', { class: 'handle' }, `@${user.username}`,
        user.verified && el('span', { class: 'tag' }, icon('verified'), ' Verified'), ties),
      user.bio && written('p', { class: 'text' }, user.bio),
      el('p', { class: 'quiet' }, 'Joined in ', since(user.created_at)),
      counts());
  }

  function edit() {
    place.replaceChildren(el('h2', {}, 'Edit your profile'), form({
      send: 'Save', cancelled: back,
      fields: [
        { name: 'display_name', label: 'Name', value: user.display_name, maxlength: '50', required: true, autocomplete: 'name' },
        { name: 'bio', label: 'About you', value: user.bio, maxlength: '160', area: true, rows: '3' }],
      act: async (values) => {
        user = { ...user, ...await call('PATCH', '/users/me', { body: values, again: true }) };
        document.querySelector('main section:not([hidden]) h1')?.replaceChildren(el('bdi', {}, user.display_name));
        back();
        say('Your profile is saved.');
      } }));
    place.querySelector('input').focus();
  }

  function back() {
    render();
    actions.querySelector('button')?.focus();
  }

  render();
  if (isMe) {
    actions.append(
      el('button', { type: 'button', class: 'quiet', onclick: () => copyLink(user) }, 'Copy link'),
      el('button', { type: 'button', class: 'quiet', onclick: edit }, 'Edit profile'));
  } else if (session.userId) {
    relate();
  } else actions.append(el('a', { class: 'button primary', href: '#/sign-up' }, 'Sign up to follow'));
  return place;

  async function relate() {
    try {
      const tie = await call('GET', `/users/${user.user_id}/relationship`);
      ties.hidden = !tie.followed_by;
      actions.append(followButton(user, tie.following, (more) => {
        user = { ...user, followers_count: Math.max(user.followers_count + more, 0) };
        countFollowers();
      }));
    } catch (problem) {
      actions.append(el('p', { class: 'fault', role: 'alert' }, plain(problem)));
    }
  }
}

/** Follows or unfollows, and shows it before it is sure; `changed` gets 1 or -1. */
function followButton(user, follows, changed = () => {}) {
  let following = follows;
  let busy = false;
  const button = el('button', { type: 'button', onclick: toggle });
  render();
  return button;

  function render() {
    button.textContent = following ? 'Unfollow' : 'Follow';
    button.setAttribute('aria-label', `${button.textContent} @${user.username}`);
    button.className = following ? 'quiet' : 'primary';
  }

  function show(is) {
    following = is;
    changed(is ? 1 : -1);
    render();
  }

  async function toggle() {
    if (busy) return;
    busy = true;
    const wish = !following;
    show(wish);
    try {
      await call(wish ? 'POST' : 'DELETE', `/users/${user.user_id}/follow`, { again: true });
      say(wish ? `You follow @${user.username}.` : `You do not follow @${user.username} any more.`);
      document.dispatchEvent(new CustomEvent('follows'));
    } catch (problem) {
      show(!wish);
      say(plain(problem), { bad: true });
    } finally {
      busy = false;
    }
  }
}

/** People in pages, each with what one is to them. */
class People extends List {
  constructor(path) {
    super({ path, items: 'users', what: 'people', show: person, empty: () => el('p', { class: 'quiet' }, 'Nobody yet.') });
  }

  async page(cursor) {
    const { found, next } = await super.page(cursor);
    if (!session.userId || found.length === 0) return { found, next };
    const ids = found.map((user) => user.user_id).join(',');
    const { relationships } = await call('GET', `/relationships?ids=${ids}`);
    const ties = new Map(relationships.map((tie) => [tie.user_id, tie]));
    return { found: found.map((user) => ({ ...user, tie: ties.get(user.user_id) })), next };
  }
}

export async function peoplePage(name, what) {
  const user = await userByName(name);
  const words = { followers: 'Followers of', following: 'Followed by' };
  const list = new People(`/users/${user.user_id}/${what}`);
  list.load();
  const back = el('a', { href: userPath(user.username) }, `Back to @${user.username}`);
  return { title: `${words[what]} @${user.username}`, node: el('div', {}, el('p', {}, back), list.node) };
}

/** Who likes or reposted a post. */
export function reactionsPage(id, what) {
  const list = new People(`/posts/${id}/${what}`);
  list.load();
  const back = el('a', { href: postPath(id) }, 'Back to the post');
  return { title: what === 'likes' ? 'Who likes it' : 'Who reposted it', node: el('div', {}, el('p', {}, back), list.node) };
}

function person(user) {
  const isOther = user.tie && user.user_id !== session.userId;
  return el('div', { class: 'post person' },
    el('div', { class: 'byline' }, avatar(user.username, user.display_name),
      el('div', { class: 'names' },
        el('a', { class: 'name', href: userPath(user.username) }, el('bdi', {}, user.display_name)),
        el('span', { class: 'handle' }, `@${user.username}`,
          user.tie?.followed_by && el('span', { class: 'tag' }, 'Follows you'))),
      isOther && el('div', { class: 'row end' }, followButton(user, user.tie.following))),
    user.bio && written('p', { class: 'text' }, user.bio));
}

/** A field for somebody's name. The API finds people by their exact name alone, and so does this. */
export function finder() {
  const [id, fault] = [newId('find'), newId('fault')];
  const error = el('p', { id: fault, class: 'fault', role: 'alert' });
  const input = el('input', {
    id, name: 'username', autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false', placeholder: '@name',
    'aria-describedby': fault });
  const wrong = (what) => {
    error.textContent = what;
    if (what) input.setAttribute('aria-invalid', 'true');
    else input.removeAttribute('aria-invalid');
  };
  input.addEventListener('input', () => wrong(''));
  return el('form', {
    class: 'finder', role: 'search', method: 'post', novalidate: true,
    onsubmit: async (event) => {
      event.preventDefault();
      // A link to a profile, pasted, does as well.
      const name = decodeURIComponent(input.value.trim().split('#/u/').pop()).replace(/^@/, '').toLowerCase();
      if (!/^[a-z0-9_]{3,30}$/.test(name)) {
        wrong('A name has 3 to 30 letters, digits or _.');
        return input.focus();
      }
      try {
        await userByName(name);
        input.value = '';
        location.hash = userPath(name);
      } catch (problem) {
        wrong(problem instanceof Problem && problem.status === 404 ? `Nobody is called @${name}.` : plain(problem));
        input.focus();
      }
    } },
    el('label', { for: id }, 'Find somebody by name'),
    el('div', { class: 'row' }, input, el('button', { type: 'submit', class: 'quiet' }, 'Find')),
    error);
}

export async function copyLink(user) {
  const link = new URL(userPath(user.username), location.href).href;
  try {
    await navigator.clipboard.writeText(link);
    say('The link to your profile is copied.');
  } catch {
    say(`The link to your profile is ${link}`); // no clipboard, or it is forbidden
  }
}
