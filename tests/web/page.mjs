// The web page in Chromium, as people use it. scripts/try_web.py starts what it needs.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const { MICROBLOG_NPM, MICROBLOG_BROWSER, MICROBLOG_PAGE, MICROBLOG_READS, MICROBLOG_WISHES, MICROBLOG_PICTURES } = process.env;
const require = createRequire(`${MICROBLOG_NPM}/`);
const { chromium } = require('playwright-core');
const AXE = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const PASSWORD = 'correct horse';
const PATIENCE_MS = 15_000;
const DESK = { width: 1200, height: 900 };
const PHONE = { width: 360, height: 740 };
const STREAM = '/api/v1/timeline/stream';

// By this name the page is not served securely to a browser, which `localhost` and 127.0.0.1 are.
const INSECURE = MICROBLOG_PAGE.replace('127.0.0.1', 'page.test');

const browser = await chromium.launch({
  executablePath: MICROBLOG_BROWSER, args: ['--host-resolver-rules=MAP page.test 127.0.0.1'] });
const began = Date.now();
const complaints = [];

/** A browser window of somebody: what it asks for is counted, and what it complains of fails the test. */
async function visitor(name, options = {}) {
  const context = await browser.newContext({ viewport: DESK, baseURL: MICROBLOG_PAGE, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  const asked = [];
  context.on('request', (request) => asked.push(`${request.method()} ${new URL(request.url()).pathname}`));
  context.on('request', (request) => {
    const { origin } = new URL(request.url());
    if (![MICROBLOG_PAGE, MICROBLOG_READS, INSECURE].includes(origin)) complaints.push(`${name} asks ${origin}`);
  });
  context.on('console', (message) => {
    // That an answer is no success Chromium says by itself; which ones are expected, the test says.
    const isAnswer = message.text().startsWith('Failed to load resource');
    if (['error', 'warning'].includes(message.type()) && !isAnswer) complaints.push(`${name}: ${message.text()}`);
  });
  context.on('weberror', (error) => complaints.push(`${name}: ${error.error().stack}`));
  await context.addInitScript(() => {
    addEventListener('securitypolicyviolation', (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  const count = (what) => asked.filter((each) => each === what).length;
  return { context, name, asked, count, page: await context.newPage() };
}

async function step(what, work) {
  const from = Date.now();
  try {
    await work();
  } catch (error) {
    await Promise.all(browser.contexts().flatMap((context) => context.pages()).map((page, at) => picture(page, `failed-${at}`).catch(() => {})));
    console.error(`BAD  ${what}`);
    throw error;
  }
  console.log(`ok   ${what} (${Date.now() - from} ms)`);
}

const picture = (page, name) => page.screenshot({ path: join(MICROBLOG_PICTURES, `${name}.png`), animations: 'disabled' });

async function eventually(what, look) {
  const until = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < until, `in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** Has the query service's API killed or started; returns when that is done. */
async function wish(what) {
  const file = join(MICROBLOG_WISHES, what);
  writeFileSync(file, '');
  await eventually(what, () => !existsSync(file));
}

async function signUp({ page }, name, shown) {
  await page.goto('/#/sign-up');
  await page.getByLabel('User name').fill(name);
  await page.getByLabel('Name that others see').fill(shown);
  await page.getByLabel('E-mail').fill(`${name}@example.com`);
  await page.getByLabel('Password').fill(PASSWORD);
  await page.getByRole('button', { name: 'Sign up' }).click();
}

const isLive = (page) => page.locator('#state[data-state="live"]').waitFor();
const shows = (page, text) => page.locator('article .text:visible', { hasText: text }).first().waitFor();

async function write(page, text) {
  await page.getByLabel('What is happening?').fill(text);
  await page.getByRole('button', { name: 'Post', exact: true }).click();
  await eventually('it is posted', async () => await page.getByLabel('What is happening?').inputValue() === '');
}

/** Nothing that axe finds, nothing wider than the screen, nothing too small to hit: light and dark, desk and phone. */
async function sound(page, name, { but = [] } = {}) {
  await page.evaluate(AXE);
  for (const [colorScheme, size, where] of [['dark', DESK, 'desk'], ['light', PHONE, 'phone'], ['dark', PHONE, 'phone'], ['light', DESK, 'desk']]) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize(size);
    const what = `${name}-${where}-${colorScheme}`;
    await picture(page, what);
    // Each colour on one size, each size in one colour: the rest of what axe looks at is the same.
    if ((colorScheme === 'dark') !== (size === PHONE)) continue;
    const { violations, passes } = await page.evaluate((left) => axe.run({
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
      rules: Object.fromEntries(left.map((rule) => [rule, { enabled: false }])) }), but);
    const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' ')}`);
    assert.deepEqual(found, [], what);
    assert.ok(passes.length > 10, `${what}: axe looked at ${passes.length} rules`);
    const [wide, small] = await page.evaluate(() => [
      document.scrollingElement.scrollWidth - innerWidth,
      [...document.querySelectorAll('button, input, textarea, nav a, .button')].filter((each) => each.checkVisibility())
        .filter((each) => Math.min(each.getBoundingClientRect().width, each.getBoundingClientRect().height) < 43.9)
        .map((each) => each.outerHTML)]);
    assert.ok(wide <= 0, `${what}: ${wide} px too wide`);
    assert.deepEqual(small, [], `${what}: smaller than 44 px`);
  }
}

const ada = await visitor('ada');
const bob = await visitor('bob', { permissions: ['clipboard-read', 'clipboard-write'] });

await step('a visitor signs up, and is told what to do', async () => {
  await ada.page.goto('/');
  await ada.page.getByRole('link', { name: 'Sign up' }).last().waitFor();
  await sound(ada.page, 'welcome');
  await signUp(ada, 'ada', 'Ada Lovelace');
  await ada.page.getByRole('heading', { name: 'Nobody else is here yet' }).waitFor();
  await isLive(ada.page);
  assert.equal(await ada.page.title(), 'Home · Microblog');
  await sound(ada.page, 'beginnings');
});

await step('what is wrong is said beside the field', async () => {
  const { page } = bob;
  await page.goto('/#/sign-up');
  await page.getByRole('button', { name: 'Sign up' }).click();
  await page.getByText('This is needed.').first().waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.name), 'username');
  await signUp(bob, 'ada', 'Not Ada');
  await page.getByText('Somebody else has this name.').waitFor();
  assert.equal(await page.getByLabel('User name').getAttribute('aria-invalid'), 'true');
  const described = await page.getByLabel('User name').evaluate((input) => input.getAttribute('aria-describedby')
    .split(' ').map((id) => document.getElementById(id).textContent).join(' '));
  assert.match(described, /Somebody else has this name/);
  await sound(page, 'sign-up');
  await page.goto('/#/sign-in');
  await page.getByLabel('User name or e-mail').fill('ada');
  await page.getByLabel('Password').fill('wrong horse');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByText('The name or the password is not right.').waitFor();
});

await step('somebody finds another, and follows', async () => {
  const { page } = bob;
  await signUp(bob, 'bob', 'Bob');
  await page.getByRole('heading', { name: 'Nobody else is here yet' }).waitFor();
  await page.getByLabel('Find somebody by name').fill('nobody_at_all');
  await page.keyboard.press('Enter');
  await page.getByText('Nobody is called @nobody_at_all.').waitFor();
  await page.getByLabel('Find somebody by name').fill('@Ada');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Ada Lovelace' }).waitFor();
  await page.getByRole('button', { name: 'Follow @ada', exact: true }).click();
  await page.getByRole('button', { name: 'Unfollow @ada', exact: true }).waitFor();
  await page.getByRole('link', { name: '1 follower' }).waitFor();
  await page.getByRole('link', { name: 'Home' }).click();
  await isLive(page);
});

await step('a post in one window is seen in the other without a reload', async () => {
  const loads = bob.count('GET /');
  const from = Date.now();
  await write(ada.page, 'Hello, world, from @ada and https://example.org/hello. <b>Not bold</b>');
  await shows(bob.page, 'Hello, world');
  console.log(`     seen ${Date.now() - from} ms after Ada began to write`);
  assert.equal(bob.count('GET /'), loads);
  assert.equal(await bob.page.locator('article .text b').count(), 0);
  assert.equal(await bob.page.locator('article .text a').count(), 2);
  // It is there once, though its author's stream brings it as well.
  assert.equal(await ada.page.locator('article', { hasText: 'Hello, world' }).count(), 1);
});

let second;
await step('two tabs share one stream, and the other takes over', async () => {
  assert.equal(bob.count(`GET ${STREAM}`), 1);
  second = await bob.context.newPage();
  await second.goto('/');
  await isLive(second);
  await write(ada.page, 'To both tabs');
  await Promise.all([shows(bob.page, 'To both tabs'), shows(second, 'To both tabs')]);
  assert.equal(bob.count(`GET ${STREAM}`), 1);
  await bob.page.close();
  await eventually('the second tab leads', () => bob.count(`GET ${STREAM}`) === 2);
  await isLive(second);
  await write(ada.page, 'To the one that is left');
  await shows(second, 'To the one that is left');
  bob.page = second;
});

await step('a refresh token is used once, whatever number of tabs wants a new access token', async () => {
  second = await bob.context.newPage();
  await second.goto('/');
  await isLive(second);
  await second.evaluate(() => {
    const session = JSON.parse(localStorage.getItem('microblog.session'));
    localStorage.setItem('microblog.session', JSON.stringify({ ...session, ends: 0 }));
  });
  const before = bob.count('POST /api/v1/auth/refresh');
  await Promise.all([bob.page, second].map(async (page) => {
    await page.goto('/#/u/ada');
    await page.getByRole('button', { name: 'Unfollow @ada', exact: true }).waitFor();
  }));
  assert.equal(bob.count('POST /api/v1/auth/refresh'), before + 1);
  const ends = await second.evaluate(() => JSON.parse(localStorage.getItem('microblog.session')).ends);
  assert.ok(ends > Date.now() + 600_000, 'the new token is kept');
  await second.getByRole('link', { name: 'Settings' }).click();
  await second.getByText('As @bob').waitFor();
  await second.getByText('This one').waitFor();
  await sound(second, 'settings');
  await second.close();
  await bob.page.getByRole('link', { name: 'Home' }).click();
  await isLive(bob.page);
});

await step('nothing moves under somebody who reads further down', async () => {
  for (let count = 1; count <= 9; count += 1) await write(ada.page, `Line ${count}\nof a long timeline`);
  await shows(bob.page, 'Line 9');
  await bob.page.locator('article', { hasText: 'To both tabs' }).scrollIntoViewIfNeeded();
  const place = () => bob.page.locator('article', { hasText: 'To both tabs' }).boundingBox().then((box) => Math.round(box.y));
  await bob.page.evaluate(() => scrollTo({ top: 900, behavior: 'instant' }));
  const before = await place();
  await write(ada.page, 'News for who reads on');
  const button = bob.page.getByRole('button', { name: 'Show 1 new post' });
  await button.waitFor();
  assert.equal(await bob.page.title(), '(1) Home · Microblog');
  assert.equal(await place(), before);
  // Scrolled as it is, what is half under the bars is smaller to axe.
  await sound(bob.page, 'news', { but: ['target-size'] });
  await button.focus();
  await bob.page.keyboard.press('Enter');
  await shows(bob.page, 'News for who reads on');
  assert.match(await bob.page.evaluate(() => document.activeElement.textContent), /News for who reads on/);
  assert.equal(await bob.page.title(), 'Home · Microblog');
});

await step('like, repost and reply; what the server refuses is taken back', async () => {
  const { page } = bob;
  const post = page.locator('article', { hasText: 'Hello, world' });
  await post.scrollIntoViewIfNeeded();
  const like = post.getByRole('button', { name: /^Like/ });
  await like.click();
  await post.getByRole('button', { name: 'Like, 1 like', pressed: true }).waitFor();
  await post.getByRole('button', { name: /^Repost/ }).click();
  await post.getByRole('button', { name: 'Repost, 1 repost', pressed: true }).waitFor();
  await post.getByRole('button', { name: /^Reply/ }).click();
  await post.getByLabel('Your reply to @ada').fill('Hello, Ada');
  await page.keyboard.press('Control+Enter');
  await post.getByRole('button', { name: 'Reply, 1 reply' }).waitFor();
  await eventually('both were sent', () => bob.asked.filter((each) => /POST .*\/(like|repost)$/.test(each)).length === 2);

  await page.route('**/like', (route) => route.fulfill({ status: 500, json: { code: 'internal', request_id: 'r1' } }));
  await like.click();
  await page.getByText('Something went wrong at the server (request r1).').waitFor();
  await post.getByRole('button', { name: 'Like, 1 like', pressed: true }).waitFor();
  await page.unroute('**/like');

  await post.locator('a.at').click();
  await page.getByRole('heading', { name: 'Replies' }).waitFor();
  await shows(page, 'Hello, Ada');
  assert.equal(await page.evaluate(() => document.activeElement.tagName), 'H1');
  await page.locator('#view article', { hasText: 'Hello, Ada' }).locator('a.at').click();
  await page.locator('.above article', { hasText: 'Hello, world' }).waitFor();
  await sound(page, 'thread');
  await page.locator('.above a.at').click();
  await page.getByRole('heading', { name: 'Post by Ada Lovelace' }).waitFor();
  await page.getByRole('link', { name: '1 like' }).click();
  await page.locator('.person', { hasText: '@bob' }).waitFor();
  await page.goBack();
  await page.goBack();
  await page.getByRole('link', { name: 'Home' }).click();
});

await step('a post whose answer is lost is sent again, and is there once', async () => {
  let lost = 0;
  const keys = [];
  await ada.page.route('**/api/v1/posts', async (route) => {
    keys.push(route.request().headers()['idempotency-key']);
    if (lost++ > 0) return route.continue();
    await route.fetch();
    return route.abort();
  });
  await write(ada.page, 'Sent twice, posted once');
  await ada.page.unroute('**/api/v1/posts');
  assert.equal(keys.length, 2);
  assert.equal(keys[0], keys[1]);
  await ada.page.getByRole('link', { name: 'Profile' }).click();
  await ada.page.getByRole('heading', { name: 'Ada Lovelace' }).waitFor();
  await shows(ada.page, 'Sent twice');
  assert.equal(await ada.page.locator('#view article', { hasText: 'Sent twice' }).count(), 1);
  await sound(ada.page, 'profile');
});

await step('what a limit refuses is said beside the field, and stays there', async () => {
  const { page } = bob;
  await page.route('**/api/v1/posts', (route) => route.fulfill({
    status: 429, headers: { 'retry-after': '36' }, json: { code: 'too_many_requests' } }));
  await page.getByLabel('What is happening?').fill('One too many');
  await page.getByRole('button', { name: 'Post', exact: true }).click();
  await page.getByText('Too many at once. Try again in 36 seconds.').waitFor();
  assert.equal(await page.getByLabel('What is happening?').inputValue(), 'One too many');
  await page.unroute('**/api/v1/posts');
  await page.getByLabel('What is happening?').fill('x'.repeat(281));
  await page.getByText('1 too many').waitFor();
  await page.getByLabel('What is happening?').fill('');
});

await step('a profile is edited, and a post deleted', async () => {
  const { page } = ada;
  await page.getByRole('button', { name: 'Edit profile' }).click();
  await page.getByLabel('About you').fill('I write programs for machines that are not built yet.');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.locator('.profile .text', { hasText: 'not built yet' }).waitFor();
  const post = page.locator('#view article', { hasText: 'Sent twice' });
  await post.getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await eventually('it is gone', async () => await post.count() === 0);
  await page.getByRole('link', { name: /followers?$/ }).click();
  await page.locator('.person', { hasText: '@bob' }).getByText('Follows you').waitFor();
  await page.getByRole('button', { name: 'Follow @bob', exact: true }).click();
  await page.getByRole('button', { name: 'Unfollow @bob', exact: true }).click();
  await page.getByRole('button', { name: 'Follow @bob', exact: true }).waitFor();
  await sound(page, 'followers');
  await page.getByRole('link', { name: 'Home' }).click();
});

await step('a session elsewhere is ended, and the password changed', async () => {
  const elsewhere = await visitor('ada elsewhere');
  await elsewhere.page.goto('/#/sign-in');
  await elsewhere.page.getByLabel('User name or e-mail').fill('ada@example.com');
  await elsewhere.page.getByLabel('Password').fill(PASSWORD);
  await elsewhere.page.getByRole('button', { name: 'Sign in' }).click();
  await isLive(elsewhere.page);
  const { page } = ada;
  await page.getByRole('link', { name: 'Settings' }).click();
  await page.getByRole('button', { name: 'End', exact: true }).click();
  await page.getByText('The session has ended.').waitFor();
  await eventually('one is left', async () => await page.getByRole('button', { name: 'End', exact: true }).count() === 0);
  // The other window finds out when it wants a new access token.
  await elsewhere.page.evaluate(() => {
    const session = JSON.parse(localStorage.getItem('microblog.session'));
    localStorage.setItem('microblog.session', JSON.stringify({ ...session, ends: 0 }));
  });
  await elsewhere.page.goto('/#/u/bob');
  await elsewhere.page.getByText('Your session has ended. Sign in again.').waitFor();
  await elsewhere.context.close();
  const form = page.locator('section', { hasText: 'Another password' }).last();
  await form.getByLabel('Your password').fill('wrong horse');
  await form.getByLabel('New password').fill('battery staple');
  await form.getByRole('button').click();
  await form.getByText('This is not your password.').waitFor();
  await form.getByLabel('Your password').fill(PASSWORD);
  await form.getByRole('button').click();
  await page.getByText('Your password is changed.').waitFor();
  await page.getByRole('link', { name: 'Home' }).click();
});

await step('everything comes back by itself after a restart of the query service', async () => {
  await bob.page.getByRole('link', { name: 'Home' }).click(); // where he is already: to the top
  await isLive(bob.page);
  await wish('kill');
  await bob.page.locator('#state', { hasText: 'Reconnecting' }).waitFor();
  await picture(bob.page, 'reconnecting');
  // Commands are taken meanwhile.
  await write(ada.page, 'While nobody could read');
  await wish('start');
  await shows(bob.page, 'While nobody could read');
  await isLive(bob.page);
  await write(ada.page, 'And after it');
  await shows(bob.page, 'And after it');
  for (const text of ['While nobody could read', 'And after it']) {
    assert.equal(await bob.page.locator('article', { hasText: text }).count(), 1);
  }
  assert.equal(await bob.page.getByRole('button', { name: /^Show \d/ }).count(), 0, 'nothing waits at the top');
  await sound(bob.page, 'home');
});

await step('signing out in one tab ends the other', async () => {
  second = await bob.context.newPage();
  await second.goto('/#/settings');
  await second.getByRole('button', { name: 'Sign out' }).click();
  await second.getByText('You are signed out.').waitFor();
  await bob.page.getByText('it was done in another tab').waitFor();
  await bob.page.getByRole('link', { name: 'Sign in' }).first().waitFor();
  assert.equal(await bob.page.locator('article').count(), 0);
  assert.equal(bob.count('POST /api/v1/auth/logout'), 1);
  assert.deepEqual(await second.evaluate(() => Object.keys(localStorage)), []);
  // Who is signed out may still look.
  await second.goto('/#/u/ada');
  await second.getByRole('link', { name: 'Sign up to follow' }).waitFor();
  await shows(second, 'And after it');
});

await step('the keyboard alone will do', async () => {
  const cora = await visitor('cora');
  const { page } = cora;
  await page.goto('/');
  await page.getByRole('heading', { name: 'Microblog' }).waitFor();
  /** Tabs on until `is` is in focus, which must be seen. */
  const tabTo = async (name) => {
    for (let count = 0; count < 40; count += 1) {
      await page.keyboard.press('Tab');
      const [label, outline] = await page.evaluate(() => {
        const { activeElement: at } = document;
        const text = at.labels?.[0]?.textContent ?? at.getAttribute('aria-label') ?? at.textContent;
        return [text.trim(), getComputedStyle(at).outlineStyle];
      });
      if (!label.startsWith(name)) continue;
      assert.notEqual(outline, 'none', `${name} is in focus, and nobody sees it`);
      return;
    }
    assert.fail(`the keyboard does not reach ${name}`);
  };
  await tabTo('Skip to the content');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.tagName), 'H1');
  await tabTo('Sign up');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Sign up' }).waitFor();
  for (const [label, text] of [['User name', 'cora'], ['Name that', 'Cora'], ['E-mail', 'cora@example.com'], ['Password', PASSWORD]]) {
    await tabTo(label);
    await page.keyboard.type(text);
  }
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Home' }).waitFor();
  await tabTo('What is happening');
  await page.keyboard.type('By hand');
  await tabTo('Post');
  await page.keyboard.press('Enter');
  await shows(page, 'By hand');
  await tabTo('Like');
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'Like, 1 like', pressed: true }).waitFor();
  await tabTo('Delete');
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.press('Escape');
  await shows(page, 'By hand');
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('aria-label')), 'Delete');
});

await step('where there are no locks between tabs, each has a stream', async () => {
  const dora = await visitor('dora', { baseURL: INSECURE });
  const { page } = dora;
  await page.goto('/#/sign-in');
  await page.getByLabel('User name or e-mail').fill('bob');
  await page.getByLabel('Password').fill(PASSWORD);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await isLive(page);
  assert.equal(await page.evaluate(() => navigator.locks), undefined);
  const other = await dora.context.newPage();
  await other.goto('/');
  await isLive(other);
  assert.equal(dora.count(`GET ${STREAM}`), 2);
  await write(ada.page, 'Without locks');
  for (const tab of [page, other]) {
    await shows(tab, 'Without locks');
    assert.equal(await tab.locator('article', { hasText: 'Without locks' }).count(), 1);
  }
  await dora.context.close();
});

await step('at the query service itself the page says what is missing', async () => {
  const { page } = await visitor('eve', { baseURL: MICROBLOG_READS });
  await page.goto('/');
  await page.getByText('This address answers reads only').waitFor();
});

await browser.close();
assert.deepEqual(complaints, []);
console.log(`ok   nothing asked another host, broke the policy or failed in the console (${Math.round((Date.now() - began) / 1000)} s)`);
