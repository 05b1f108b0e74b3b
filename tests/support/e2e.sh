# Shared by tests/e2e/*.sh and live.sh: a scratch folder to be in, $tool, and what a failure says.
# Source it with the programs the test needs: . "$(dirname "$0")/../support/e2e.sh" gcc strip
# shellcheck shell=bash
set -u
tool=${OPTVM:?path of the tool}
support=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
for needed in "$@"; do
	command -v "$needed" >/dev/null || { echo "skipped: $needed is not installed"; exit 77; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
bad=0
fail() { echo "FAIL $*"; bad=1; }
