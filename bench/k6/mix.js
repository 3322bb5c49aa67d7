// The mix at a steady rate: 60 % home timeline, 30 % user timeline, 10 % compose; and some follows beside it.
import { actor, register } from './accounts.js';
import { ALWAYS, counted, follow, oneOfTheMix } from './calls.js';
import { common, mixture, SECONDS, thresholds } from './settings.js';
import { summary } from './summary.js';

export const options = { ...common(), scenarios: mixture('mix', SECONDS), thresholds: { ...thresholds(), ...ALWAYS } };

export function setup() {
  return register();
}

export const mix = counted((people) => oneOfTheMix(actor(people), people));
export const follows = counted((people) => follow(actor(people), people));
export const handleSummary = summary();
