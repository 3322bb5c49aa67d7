// One client that does each call of the mix some ten times: is everything there, and is each answer right?
import { actor, register } from './accounts.js';
import { ALWAYS, compose, counted, follow, home, user } from './calls.js';
import { common, thresholds } from './settings.js';
import { summary } from './summary.js';

const ROUNDS = 10;

export const options = {
  ...common(),
  scenarios: { smoke: { executor: 'per-vu-iterations', vus: 1, iterations: ROUNDS, maxDuration: '2m' } },
  thresholds: { ...thresholds(), ...ALWAYS, iterations: [`count==${ROUNDS}`] },
};

export function setup() {
  return register(3);
}

export default counted((people) => {
  const client = actor(people);
  home(client);
  compose(client);
  home(client);
  user(client, people);
  follow(client, people);
  home(client);
});

export const handleSummary = summary();
