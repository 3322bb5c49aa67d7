#!/bin/sh
# Ready: JetStream runs here, and its streams are in step with the cluster. So a roll-out stops the next server only when
# this one has caught up. `/healthz` alone answers 200 also where JetStream is switched off, and with `js-server-only` also
# without a quorum (2.15.1).
set -u
monitor=http://127.0.0.1:8222
if ! jetstream=$(wget -q -T 3 -O - "$monitor/jsz"); then
  echo "$monitor/jsz does not answer"
  exit 1
fi
case $jetstream in
  *'"disabled": true'*) echo "JetStream is off" && exit 1 ;;
esac
wget -q -T 3 -O /dev/null "$monitor/healthz" || {
  echo "JetStream is not in step with the cluster"
  exit 1
}
