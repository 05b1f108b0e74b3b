#!/usr/bin/env bash
# The table in README.md and the picture beside it are what the recorded measurement says: shown again from datasets/bench, by the
# script that measured, they do not differ. And a measurement that says something else is shown as something else.
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
command -v python3 >/dev/null || { echo "skipped: python3 is not installed"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
bad=0
fail() { echo "FAIL $*"; bad=1; }

show() { OPTVM_WORK=$dir "$top/scripts/bench" --table --from "$1" --svg "$2" >"$3" || fail "--from $1: status $?"; }

show "$top/datasets/bench/table.json" "$dir/table.svg" "$dir/table.md"
rows=0
while read -r line; do
	case $line in
	'| '*) rows=$((rows + 1)); grep -qxF "$line" "$top/README.md" || fail "not in README.md: $line" ;;
	esac
done <"$dir/table.md"
[ $rows -ge 6 ] || fail "$rows rows only"
cmp "$dir/table.svg" "$top/datasets/bench/table.svg" || fail "datasets/bench/table.svg shows something else"
python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$dir/table.svg" || fail "the picture is no XML"

# the same with one figure more and one less
python3 - "$top/datasets/bench/table.json" "$dir/other.json" <<'PY'
import json, sys
doc = json.load(open(sys.argv[1]))
doc['rows'][0]['variants']['rewrite']['ratio'] = 1.234
for key in ('ratio', 'se'):
    doc['rows'][0]['variants']['pgo'].pop(key)
doc['rows'][0]['variants']['pgo']['verdict'] = 'crashes'
json.dump(doc, open(sys.argv[2], 'w'))
PY
show "$dir/other.json" "$dir/other.svg" "$dir/other.md"
for file in "$dir/other.svg" "$dir/other.md"; do
	grep -q 1.234 "$file" || fail "$file: the ratio is not shown"
	grep -q crashes "$file" || fail "$file: the crash is not shown"
done
[ $bad = 0 ] && echo "ok: $rows rows"
exit $bad
