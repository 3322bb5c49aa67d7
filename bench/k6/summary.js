// What k6 says at the end: a line for each kind of request, and which limits were met.
import { CHOSEN, LIMITS, seriesOf } from './settings.js';

/** `phases`: those of the script; none if the run is one. */
export function summary(phases = [null]) {
  return (data) => {
    const said = { stdout: text(data, phases) };
    if (__ENV.SUMMARY) {
      said[__ENV.SUMMARY] = JSON.stringify(data, null, 2);
    }
    return said;
  };
}

function text(data, phases) {
  const { metrics } = data;
  const rows = [['', 'requests', 'median', '95 %', '99 %', 'greatest', 'mission', 'ten times tighter']];
  for (const phase of phases) {
    for (const kind of Object.keys(LIMITS.mission)) {
      const metric = metrics[`http_req_duration${seriesOf(kind, phase)}`];
      if (metric) {
        const { values } = metric;
        const p95 = values['p(95)'];
        const judged = Object.values(LIMITS).map((limits) => judge(values.count, p95, limits[kind]));
        rows.push([phase ? `${kind}, ${phase}` : kind, `${values.count}`,
          ...[values.med, p95, values['p(99)'], values.max].map(milliseconds), ...judged]);
      }
    }
  }
  const count = (name) => (metrics[name] ? metrics[name].values.count : 0);
  const failed = metrics.http_req_failed ? metrics.http_req_failed.values.passes : 0;
  const checks = metrics.checks ? metrics.checks.values : { passes: 0, fails: 0 };
  const missed = Object.entries(metrics).flatMap(([name, metric]) => Object.entries(metric.thresholds || {})
    .filter(([, threshold]) => !threshold.ok).map(([wanted]) => `${name}: ${wanted}`));
  return `\n${[
    table(rows),
    `${count('http_reqs')} requests, ${failed} failed; ${checks.passes} checks passed, ${checks.fails} failed`,
    `${count('answers_refused')} refused as the contract has it, ${count('pages_early')} pages that ended early, `
      + `${count('answers_wrong')} wrong answers, ${count('dropped_iterations')} requests not made in time`,
    ...failedChecks(data.root_group).map(([name, times]) => `failed ${times} times: ${name}`),
    missed.length ? `thresholds (${CHOSEN}) that were not met: ${missed.join('; ')}` : `thresholds (${CHOSEN}): all met`,
  ].join('\n')}\n`;
}

function judge(count, p95, limit) {
  if (!count) {
    return `< ${limit} ms: nothing asked`;
  }
  return `< ${limit} ms: ${p95 < limit ? 'met' : 'not met'}`;
}

function milliseconds(value) {
  return value === undefined || value === null ? '' : `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

function failedChecks(group) {
  return [
    ...group.checks.filter((one) => one.fails).map((one) => [one.name, one.fails]),
    ...group.groups.flatMap(failedChecks),
  ];
}

function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows.map((row) => row.map((cell, column) => (column === 0 || column > 5
    ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))).join('  ').trimEnd()).join('\n');
}
