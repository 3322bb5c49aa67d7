#!/bin/sh
# Ready: JetStream runs here. `/healthz` answers 200 also where it is switched off (2.15.1), so that is asked first.
set -u
monitor=http://127.0.0.1:8222
if ! jetstream=$(wget -q -T 3 -O - "$monitor/jsz"); then
  echo "$monitor/jsz does not answer"
  exit 1
fi
case $jetstream in
  *'"disabled": true'*) echo "JetStream is off" && exit 1 ;;
esac
wget -q -T 3 -O /dev/null "$monitor/healthz?js-server-only=true" || {
  echo "JetStream is not in step with the cluster"
  exit 1
}
