#!/bin/sh
# `bootstrap` of the function: what Lambda starts. Lambda has variables only, and the service reads its signing key from a
# file, which only this environment has.
set -eu
umask 077
: "${JWT_PRIVATE_KEY:?is the key that signs access tokens, in PEM}"
printf '%s\n' "$JWT_PRIVATE_KEY" > "$JWT_PRIVATE_KEY_FILE"
unset JWT_PRIVATE_KEY
exec "$LAMBDA_TASK_ROOT/command-service" --role api
