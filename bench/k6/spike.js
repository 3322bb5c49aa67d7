// The mix, then ten times as much of it, then as before, each for DURATION. In the middle requests may be refused, as the
// contract has it, or be slow; five seconds later everything must be as it was before.
import { actor, register } from './accounts.js';
import { ALWAYS, counted, follow, oneOfTheMix } from './calls.js';
import { common, mixture, RATE, SECONDS, thresholds } from './settings.js';
import { summary } from './summary.js';

const TIMES = 10;
const SETTLE_SECONDS = 5;

export const options = {
  ...common(),
  scenarios: {
    ...mixture('before', SECONDS),
    ...mixture('spike', SECONDS, TIMES * RATE, SECONDS),
    ...mixture('after', SECONDS, RATE, 2 * SECONDS + SETTLE_SECONDS),
  },
  thresholds: { ...thresholds('before'), ...shown(thresholds('spike')), ...thresholds('after'), ...ALWAYS },
};

/** What only the summary is to show: k6 keeps figures of a phase only where there is a threshold. */
function shown(all) {
  return Object.fromEntries(Object.keys(all).map((name) => [name, []]));
}

export function setup() {
  return register();
}

export const mix = counted((people) => oneOfTheMix(actor(people), people));
export const follows = counted((people) => follow(actor(people), people));
export const handleSummary = summary(['before', 'spike', 'after']);
