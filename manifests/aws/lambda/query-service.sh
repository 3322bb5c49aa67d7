#!/bin/sh
# `bootstrap` of the function: what Lambda starts.
set -eu
exec "$LAMBDA_TASK_ROOT/query-service" --role api
