// What the load scripts take from the environment (`k6 run -e NAME=value`), and which limits they hold k6 to.
//
//   BASE_URL     where the gateway is (http://127.0.0.1:8080)
//   USERS        a file of people who are there already, as bench/load.py writes it; without it, setup() registers some
//   TOKENS_URL   where people of USERS get a new access token; without it, the run must end within 15 minutes
//   ACCOUNTS     how many people setup() registers (20)
//   RATE         requests a second, without follows (20)
//   DURATION     how long, of each phase where there are several (1m)
//   VUS          requests at once, at most (50)
//   THRESHOLDS   mission or own: which limits decide how the run ends (mission); the summary judges by both
//   SUMMARY      a file for the figures, in JSON

export const BASE = (__ENV.BASE_URL || 'http://127.0.0.1:8080').replace(/\/+$/, '');
export const API = `${BASE}/api/v1`;
export const RATE = whole('RATE', 20);
export const VUS = whole('VUS', 50);
export const ACCOUNTS = whole('ACCOUNTS', 20);
export const SECONDS = seconds(__ENV.DURATION || '1m');
export const CHOSEN = __ENV.THRESHOLDS || 'mission';
// Posts of a page: what the API gives unless it is asked for another number.
export const PAGE = 20;

// Milliseconds that 95 of 100 requests must stay below, by what they do.
export const LIMITS = {
  mission: { home: 500, user: 500, post: 200, follow: 100 },
  own: { home: 50, user: 50, post: 20, follow: 10 },
};
if (!LIMITS[CHOSEN]) {
  throw new Error(`THRESHOLDS wants ${Object.keys(LIMITS).join(' or ')}, not ${CHOSEN}`);
}

/** A whole number of the environment, 1 or more. */
function whole(name, otherwise) {
  const number = Number(__ENV[name] || otherwise);
  if (!Number.isInteger(number) || number < 1) {
    throw new Error(`${name} wants a whole number, 1 or more`);
  }
  return number;
}

/** Seconds of a duration such as `90s`, `1m30s` or `2h`. */
function seconds(duration) {
  const parts = [...duration.matchAll(/(\d+)([hms])/g)];
  if (!parts.length || parts.map(([part]) => part).join('') !== duration) {
    throw new Error(`DURATION wants something like 90s, 1m30s or 2h, not ${duration}`);
  }
  return parts.reduce((sum, [, number, unit]) => sum + number * { h: 3600, m: 60, s: 1 }[unit], 0);
}

/**
 * The thresholds for what the phase does: nothing fails, nothing is left out, and 95 of 100 are quick enough.
 *
 * `phase` is a tag of the scenarios; without one, they are for the whole run. A threshold without a request is met in
 * k6's eyes, so that there are some is one more.
 */
export function thresholds(phase, kinds = Object.keys(LIMITS.mission)) {
  const only = phase ? `{phase:${phase}}` : '';
  const all = {
    [`http_req_failed${only}`]: ['rate==0'], [`checks${only}`]: ['rate==1'], [`dropped_iterations${only}`]: ['count==0'],
  };
  for (const kind of kinds) {
    const series = seriesOf(kind, phase);
    all[`http_req_duration${series}`] = [`p(95)<${LIMITS[CHOSEN][kind]}`];
    all[`http_reqs${series}`] = ['count>0'];
  }
  return all;
}

/** The tags of what is judged together. */
export function seriesOf(kind, phase) {
  return phase ? `{name:${kind},phase:${phase}}` : `{name:${kind}}`;
}

/** What every script's options have in common. */
export function common() {
  return {
    // Not `url`: an address names a user or a post, and each would be a series of its own. Requests have names.
    systemTags: ['check', 'error_code', 'expected_response', 'group', 'method', 'name', 'scenario', 'status'],
    summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max', 'count'],
    setupTimeout: '5m',
    userAgent: 'microblog-bench',
  };
}

/**
 * Scenarios of the mix, and beside it a follow for every twenty requests; `phase` names them and tags them. How long
 * they are and when they start is in seconds.
 *
 * Requests begin at a steady rate, whether or not the ones before have been answered: a slow service is not asked less.
 */
export function mixture(phase, length, rate = RATE, start = 0) {
  const steady = (exec, timeUnit, vus) => ({
    executor: 'constant-arrival-rate', exec, rate, timeUnit, duration: `${length}s`, startTime: `${start}s`,
    preAllocatedVUs: vus, maxVUs: vus, tags: { phase },
  });
  return { [phase]: steady('mix', '1s', VUS), [`${phase}_follows`]: steady('follows', '20s', Math.ceil(VUS / 10)) };
}
