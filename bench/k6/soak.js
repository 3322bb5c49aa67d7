// The mix for as long as DURATION: the last tenth must be as good as the first, with all that was written meanwhile.
import { actor, register } from './accounts.js';
import { ALWAYS, counted, follow, oneOfTheMix } from './calls.js';
import { common, mixture, RATE, SECONDS, thresholds } from './settings.js';
import { summary } from './summary.js';

const tenth = Math.max(1, Math.round(SECONDS / 10));

export const options = {
  ...common(),
  scenarios: {
    ...mixture('first', tenth),
    ...mixture('middle', 8 * tenth, RATE, tenth),
    ...mixture('last', tenth, RATE, 9 * tenth),
  },
  thresholds: { ...thresholds('first'), ...thresholds('middle'), ...thresholds('last'), ...ALWAYS },
};

export function setup() {
  return register();
}

export const mix = counted((people) => oneOfTheMix(actor(people), people));
export const follows = counted((people) => follow(actor(people), people));
export const handleSummary = summary(['first', 'middle', 'last']);
