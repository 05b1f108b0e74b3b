#!/usr/bin/env bash
# run --follow=exec: what the program execs and what its children exec is optimized too, each image once, whoever ends first;
# the program's own output and status come through. Without the option only the program itself is.
. "$(dirname "$0")/../support/live.sh"
mkdir run
export XDG_RUNTIME_DIR=$dir/run
# busy MS STATUS [WORD...]: computes for MS of CPU time, checks itself, then execs the words or ends with STATUS
cat >busy.c <<'EOP'
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static long cpu_ms(void) { struct timespec t; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
__attribute__((noinline)) static unsigned step(unsigned x) { return x % 3 == 0 ? x / 3 + 11 : x % 5 == 0 ? x * 7 + 1 : x * 1103515245u + 12345u; }
__attribute__((noipa)) static unsigned run(void) { unsigned x = 5, sum = 0; for (int i = 0; i < 50000; i++) { x = step(x); sum += x ^ (sum << 3); } return sum; }
int main(int argc, char **argv)
{
	unsigned want = run();
	long bad = 0, begin = cpu_ms();
	while (cpu_ms() < begin + atoi(argv[1])) bad += run() != want;
	printf("%ld %u\n", bad, want);
	fflush(stdout);
	if (argc > 3) execv(argv[3], argv + 3);
	return atoi(argv[2]);
}
EOP
gcc -O2 busy.c -o busy && cp busy other || exit 1

optimized() { grep -c '^ *"optimized": true' report.json; } # the first one repeats one of the processes
follow() { # WORDS PROGRAM...
	local words=$1 got
	shift
	rm -f report.json
	# shellcheck disable=SC2086
	"$tool" run --follow=exec --always --report report.json --sample-ms 200 $words -- "$@" >got.out 2>got.err </dev/null
	got=$?
	[ $got = "$want_status" ] || fail "status $got, not $want_status: run --follow=exec $words $*: $(cat got.err)"
	cmp -s want.out got.out || fail "other output: run --follow=exec $words $*"
	[ -z "$(find run -type f)" ] || fail "left behind: $(find run -type f)"
}
expect() { [ "$(optimized)" = $(($1 ? $1 + 1 : 0)) ] || fail "$2: $(optimized) - 1 optimized, not $1: $(grep -A1 '"optimized"' report.json) $(cat got.err)"; }

# a child of a shell, two one after the other, and one in a process tree
expected sh -c './busy 20 0; exit 3'
follow "" sh -c './busy 3000 0; exit 3'
expect 1 "a child"
expected sh -c './busy 20 0; (./other 20 4; exit $?)'
follow "--counters=off" sh -c './busy 2500 0; (./other 2500 4; exit $?)'
expect 2 "two children"

# exec after exec, in one process: each image starts afresh, also if it is the same file
expected ./busy 20 0 ./other 20 0 ./other 20 5
follow "--counters=off" ./busy 2500 0 ./other 2500 0 ./other 2500 5
expect 3 "three images of one process"
grep -q '"schema": "optvm.run/1"' report.json || fail "report: $(head -3 report.json)"

# a driver that ends before its child; a child that is ended by a signal
expected ./busy 2 7
rm -f report.json
"$tool" run --follow=exec --always --sample-ms 200 -- sh -c './busy 1500 0 >orphan.out & exit 7' >/dev/null
got=$?
[ $got = 7 ] || fail "the program's status with an orphan: $got"
for _ in $(seq 1000); do [ -s orphan.out ] && break; sleep 0.02; done
grep -q '^0 ' orphan.out || fail "the orphan computed: $(cat orphan.out)"
rm -rf run/optvm
expected sh -c './busy 20 0 & kill -9 $!; wait $!; echo $?' 2>/dev/null
printf '137\n' >want.out
follow "" sh -c './busy 9000 0 & sleep 1.2; kill -9 $!; wait $!; echo $?'

# whoever opted out, and whoever is gone too soon, is left alone; so is everybody without the option
expected sh -c './busy 20 0; ./busy 20 0'
follow "--counters=off" sh -c 'OPTVM=off ./busy 1500 0; ./busy 60 0'
expect 0 "opted out"
follow "--counters=off" env OPTVM= sh -c './busy 2500 0; OPTVM=off ./busy 1000 0'
expect 1 "one of two opted out"
rm -f report.json
"$tool" run --always --report report.json --sample-ms 200 -- sh -c './busy 1500 0; ./busy 20 0' >got.out 2>/dev/null
expect 0 "without the option"
"$tool" run --follow=fork --always --report report.json --sample-ms 200 --counters=off -- ./busy 2500 0 >got.out 2>/dev/null
grep -q '"optimized": true' report.json || fail "--follow=fork: $(grep why_not report.json)"
"$tool" run --follow=all -- true 2>/dev/null; [ $? = 2 ] || fail "--follow=all"

# the sampler by ptrace
expected sh -c './busy 20 0; exit 3'
follow "--counters=off --ptrace --min-samples 20" sh -c './busy 4000 0; exit 3'
expect 1 "a child, sampled by ptrace"
done_testing
