#!/usr/bin/env bash
# --status-fd: what happens, line by line, in order; the program does not inherit the descriptor, and does not notice a reader
# that is gone or does not read.
. "$(dirname "$0")/../support/live.sh"
mkdir run
export XDG_RUNTIME_DIR=$dir/run
cat >prog.c <<'EOP'
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static long cpu_ms(void) { struct timespec t; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
__attribute__((noinline)) static unsigned step(unsigned x) { return x % 3 == 0 ? x / 3 + 11 : x % 5 == 0 ? x * 7 + 1 : x * 1103515245u + 12345u; }
__attribute__((noipa)) static unsigned run(void) { unsigned x = 5, sum = 0; for (int i = 0; i < 50000; i++) { x = step(x); sum += x ^ (sum << 3); } return sum; }
int main(int argc, char **argv)
{
	unsigned want = run(), bad = 0;
	(void)argc;
	while (cpu_ms() < atoi(argv[1])) bad += run() != want;
	printf("%u %s\n", bad, fcntl(7, F_GETFD) < 0 ? "closed" : "open");
	return 6;
}
EOP
gcc -O2 prog.c -o prog || exit 1
events() { # FILE: their names, in order; each line must be a document of its own
	python3 -c '
import json, sys
names, last = [], 0
for line in open(sys.argv[1]):
    o = json.loads(line)
    assert o["schema"] == "optvm.events/1" and o["time"] >= last and o["pid"] > 0, o
    last = o["time"]
    extra = {"optimized": "patches", "left": "why", "sampled": "samples"}.get(o["event"])
    assert extra is None or extra in o, o
    names.append(o["event"] + (":%d" % o["exit_status"] if "exit_status" in o else ""))
print(" ".join(names))' "$1" || fail "not what was promised: $(cat "$1")"
}
words="--always --sample-ms 200 --counters=off"
# shellcheck disable=SC2086
"$tool" run $words --status-fd 7 -- ./prog 3000 7>ev >out
got=$?
[ $got = 6 ] || fail "status $got"
[ "$(cat out)" = "0 closed" ] || fail "the program says $(cat out)"
[ "$(events ev)" = "started sampled optimized ended:6" ] || fail "events of run: $(cat ev)"
"$tool" run --sample-ms 200 --counters=off --status-fd 7 -- ./prog 1200 7>ev >out
[ "$(events ev)" = "started sampled left ended:6" ] || fail "events when nothing is to be gained: $(cat ev)"
"$tool" run --status-fd 7 -- ./prog 1 7>&- >out 2>err; got=$?
[ $got = 2 ] || fail "a descriptor that is not open: status $got: $(cat err)"

# nobody reads: gone, or asleep with a full pipe
# shellcheck disable=SC2086
{ "$tool" run $words --status-fd 7 -- ./prog 2500 7>&1 >out; echo $? >status; } | true
[ "$(cat status)" = 6 ] || fail "a reader that is gone: status $(cat status)"
mkfifo pipe
sleep 100 <>pipe & sleeper=$!
exec 8<>pipe
timeout 5 dd if=/dev/zero of=pipe bs=4096 count=16 oflag=nonblock 2>/dev/null
# shellcheck disable=SC2086
timeout 60 "$tool" run $words --status-fd 7 -- ./prog 2500 7>pipe >out; got=$?
[ $got = 6 ] || fail "a reader that does not read: status $got"
exec 8>&-
kill $sleeper

# attach
./prog 600000 >out & pid=$!
# shellcheck disable=SC2086
"$tool" attach $words --status-fd 7 $pid 7>ev || fail "attach: $?"
[ "$(events ev)" = "started sampled optimized ended" ] || fail "events of attach: $(cat ev)"
grep -q "\"pid\": *$pid" ev || fail "pid: $(cat ev)"
kill $pid
wait $pid 2>/dev/null
done_testing
