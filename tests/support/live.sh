# Shared by tests/live/*.sh: a scratch folder, and runs of a program with and without `optvm run` that must not differ.
# Source it: . "$(dirname "$0")/../support/live.sh"
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/e2e.sh"
unset OPTVM
done_testing() { [ $bad = 0 ] && echo "ok"; exit $bad; }

# expected PROGRAM...: remember what it prints and how it ends; also leaves the status in $want_status
expected() {
	"$@" >want.out 2>want.err </dev/null
	want_status=$?
}

# live WORDS PROGRAM...: run under `optvm run WORDS`, compare with what `expected` saw, require that it was optimized. On a
# busy machine a program may end before: then again, at last without the counting, which takes most of the time.
live() {
	local words=$1 try
	shift
	for try in "" "" --counters=off --counters=off; do
		live_once "$words $try" "$@"
		grep -q '"why_not": .*\(ended\|no thread ran\)' report.json 2>/dev/null || break
	done
	grep -q '"optimized": true' report.json 2>/dev/null ||
		fail "not optimized: optvm run $words $*: $(grep why_not report.json) $(cat got.err)"
}

live_once() {
	local words=$1 got
	shift
	rm -f report.json
	# shellcheck disable=SC2086
	set -f # globs in WORDS are for the tool
	"$tool" run --always --report report.json --sample-ms 300 $words -- "$@" >got.out 2>got.err </dev/null
	got=$?
	set +f
	[ $got = "$want_status" ] || fail "status $got, not $want_status: optvm run $words $*"
	cmp -s want.out got.out || fail "other output: optvm run $words $*"
}

number() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p" report.json | head -1; } # first value of a key of the report

# A machine without perf_event and ptrace can run none of these.
printf 'int main(void) { for (volatile long i = 0; i < 1500000000; i++); return 0; }' >probe.c
gcc -O1 probe.c -o probe || exit 77
"$tool" run --always --report report.json --sample-ms 200 -- ./probe >/dev/null 2>probe.err
if ! grep -q '"optimized": true' report.json 2>/dev/null; then
	echo "skipped: $(grep why_not report.json) $(cat probe.err)"
	exit 77
fi
