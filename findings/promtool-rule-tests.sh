#!/usr/bin/env bash
# promtool 2.42.0 (Debian's), `test rules`: a test that expects no alert of a name that no rule has is a success, and
# groups are evaluated in an order that differs from run to run, so that one test now succeeds and now fails.
# Needs Debian 12's apt-get and dpkg-deb, without root. Exits with 1 if anything is not as it was seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get -qq -o APT::Sandbox::User=root download prometheus=2.42.0+ds-5+deb12u1
dpkg-deb --extract prometheus_*.deb .
usr/bin/promtool --version | head -n 1
python3 - <<'PYTHON'
import json, pathlib, subprocess

# The alert fires at 3m only if `doubled` was recorded before it in the same evaluation: `value` grows by one each time.
ALERT = {"alert": "Doubled", "expr": "doubled == 2 * value"}
RECORD = {"record": "doubled", "expr": "2 * value"}
FIRES = {"eval_time": "3m", "alertname": "Doubled", "exp_alerts": [{}]}
QUIET = {"eval_time": "3m", "alertname": "Doubled", "exp_alerts": []}
MISSPELT = {"eval_time": "3m", "alertname": "Doubeld", "exp_alerts": []}

def succeeds(groups, test, order=None):
    # JSON is YAML.
    named = [{"name": name, "rules": rules} for name, rules in groups]
    pathlib.Path("rules.yml").write_text(json.dumps({"groups": named}))
    pathlib.Path("test.yml").write_text(json.dumps({
        "rule_files": ["rules.yml"], "evaluation_interval": "1m", **({"group_eval_order": order} if order else {}),
        "tests": [{"interval": "1m", "input_series": [{"series": "value", "values": "1 2 3 4 5"}],
                   "alert_rule_test": [test]}]}))
    ran = subprocess.run(["usr/bin/promtool", "test", "rules", "test.yml"], capture_output=True, text=True)
    if ran.returncode and "FAILED:" not in ran.stdout + ran.stderr:
        raise SystemExit(ran.stdout + ran.stderr)
    return ran.returncode == 0

wrong = 0
def check(what, got, expected):
    global wrong
    wrong += got != expected
    print(f"{what}: {got}" + ("" if got == expected else f", where {expected} was seen before"))

def outcomes(runs, *arguments):
    """The different outcomes of so many runs; as soon as there are both, no more are made."""
    seen = set()
    for _ in range(runs):
        seen.add("success" if succeeds(*arguments) else "failure")
        if len(seen) == 2:
            break
    return " and ".join(sorted(seen))

one = [("all", [RECORD, ALERT])]
check("the alert fires, and the test expects it", outcomes(1, one, FIRES), "success")
check("the alert fires, and the test expects none", outcomes(1, one, QUIET), "failure")
check("the alert fires, and the test expects none of a misspelt name", outcomes(1, one, MISSPELT), "success")
for alerts, records in (("a", "b"), ("b", "a")):
    for first in ("alerts", "records"):
        groups = [(alerts, [ALERT]), (records, [RECORD])]
        groups = groups if first == "alerts" else groups[::-1]
        check(f"up to 200 runs, alerts in group {alerts}, what they read in group {records}, the {first} first in the file",
              outcomes(200, groups, FIRES), "failure and success")
    check(f"20 runs, group_eval_order: [{records}, {alerts}]", outcomes(20, groups, FIRES, [records, alerts]), "success")
    check(f"20 runs, group_eval_order: [{alerts}, {records}]", outcomes(20, groups, FIRES, [alerts, records]), "failure")
raise SystemExit(1 if wrong else 0)
PYTHON
