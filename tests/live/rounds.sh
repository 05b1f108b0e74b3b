#!/usr/bin/env bash
# A program that goes on to something else is optimized anew, for both; one that goes back and forth is not optimized for ever;
# one that always does the same has one round. run, and attach --rounds; what others undo meanwhile stays undone.
. "$(dirname "$0")/../support/live.sh"
mkdir run
export XDG_RUNTIME_DIR=$dir/run
# phases LIST: each word N:MS computes with function set N for MS of CPU time; checks itself; SIGTERM ends it
python3 - >phases.c <<'EOP'
n_sets, n_functions = 3, 60
print('#include <signal.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <time.h>')
print('static volatile sig_atomic_t over;\nstatic void on_term(int sig) { (void)sig; over = 1; }')
print('static long cpu_ms(void) { struct timespec t; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }')
for s in range(n_sets):
    for f in range(n_functions):
        print(f'__attribute__((noinline, aligned(256))) static unsigned s{s}f{f}(unsigned x) {{ if (x % {f + 3} == 0) return x / 3 + {f}; if (x % 5 == {s}) return x * 7 + {f}; return x * 1103515245u + {s * 1000 + f}; }}')
    calls = ' '.join(f'x = s{s}f{f}(x); sum += x ^ (sum << 3);' for f in range(n_functions))
    print(f'__attribute__((noipa)) static unsigned run{s}(void) {{ unsigned x = {s + 1}, sum = 0; for (int i = 0; i < 500; i++) {{ {calls} }} return sum; }}')
print('''int main(int argc, char **argv)
{
	static unsigned (*const run[])(void) = {run0, run1, run2};
	unsigned want[3], bad = 0;
	signal(SIGTERM, on_term);
	for (int k = 0; k < 3; k++) want[k] = run[k]();
	for (int i = 1; i < argc; i++) {
		int k = atoi(argv[i]), ms = atoi(argv[i] + 2);
		for (long begin = cpu_ms(); cpu_ms() < begin + ms && !over;) bad += run[k]() != want[k];
	}
	printf("%u %u %u %u\\n", bad, want[0], want[1], want[2]);
	return bad ? 1 : 5;
}''')
EOP
gcc -O2 phases.c -o phases || exit 1
expected ./phases 0:5
rounds() { # N LABEL
	[ "$(number rounds)" = "$1" ] || fail "$2: $(number rounds) rounds, not $1: $(grep -A1 optimized report.json)"
}
words="--always --sample-ms 300 --report report.json --counters=off"
phases() { # WORDS PHASE...
	local extra=$1 got
	shift
	rm -f report.json
	# shellcheck disable=SC2086
	OVM_LOG=watch=info "$tool" run $words $extra -- ./phases "$@" >got.out 2>got.err </dev/null
	got=$?
	[ $got = 5 ] || fail "status $got: run $extra phases $*: $(cat got.err)"
	cmp -s want.out got.out || fail "other output: run $extra phases $*"
	grep -q '"optimized": true' report.json || fail "not optimized: phases $*: $(grep why_not report.json)"
	[ -z "$(find run -type f)" ] || fail "left behind: $(find run -type f)"
}

# the same all the time: one round; something else: two, but not if one is wanted
phases "" 0:12000
rounds 1 "one phase"
grep -q "window: drift" got.err || fail "no window was compared: $(cat got.err)"
phases "" 0:2500 1:14000
rounds 2 "two phases"
[ "$(number regions)" -gt 60 ] || fail "the second round forgot the first: $(number regions) regions"
phases "--rounds 1" 0:2500 1:5000
rounds 1 "--rounds 1"
! grep -q "window: drift" got.err || fail "watched with --rounds 1"

# back and forth: known times need no round
phases "" 0:3000 1:9000 0:5000 1:5000 0:5000
rounds 2 "back and forth"

# attach --rounds stays, lets others in, and lets go by a signal; one round is the default
state() { "$tool" status --json "$pid" 2>/dev/null | sed -n 's/.*"state": "\([^"]*\)".*/\1/p'; }
wait_for() { for _ in $(seq 1500); do "$@" && return; sleep 0.02; done; fail "waited for $*"; }
is_optimized() { [ "$(state)" = optimized ]; }
finish() {
	kill -TERM "$pid"
	wait "$pid"
	local got=$?
	[ $got = 5 ] || fail "$1: the program ended with $got"
	cmp -s want.out out.txt || fail "$1: other output: $(cat out.txt)"
}
"$tool" attach --once --rounds 2 $$ 2>/dev/null; [ $? = 2 ] || fail "--once --rounds 2"
"$tool" attach --rounds 99 $$ 2>/dev/null; [ $? = 2 ] || fail "--rounds 99"
./phases 0:4000 1:600000 >out.txt & pid=$!
# shellcheck disable=SC2086
"$tool" attach $words --rounds 2 "$pid" 2>e || fail "attach --rounds 2: $(cat e)"
rounds 2 "attach"
grep -q '^TracerPid:	0' "/proc/$pid/status" || fail "still traced"
is_optimized || fail "attach --rounds 2: $(state)"
"$tool" detach "$pid" || fail detach
finish "attach --rounds 2"

./phases 0:600000 >out.txt & pid=$!
# shellcheck disable=SC2086
env --default-signal=INT "$tool" attach $words --rounds 3 "$pid" 2>e & at=$!
wait_for is_optimized
sleep 1
kill -INT $at
wait $at
got=$?
[ $got = 0 ] || fail "SIGINT after the first round: status $got: $(cat e)"
is_optimized || fail "SIGINT after the first round: $(state)"
finish "SIGINT"

# who detaches it while somebody watches wants it so
./phases 0:4000 1:600000 >out.txt & pid=$!
# shellcheck disable=SC2086
OVM_LOG=watch=info "$tool" attach $words --rounds 3 "$pid" 2>e & at=$!
wait_for is_optimized
"$tool" detach "$pid" || fail "detach under --rounds"
wait $at || fail "attach that was undone: $?"
[ "$(state)" = original ] || fail "optimized again after detach: $(state)"
grep -q "somebody else has changed" e || fail "undone, but: $(cat e)"
finish "undone"
done_testing
