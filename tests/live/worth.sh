#!/usr/bin/env bash
# Never slower: what will not gain is left alone; what is optimized is measured in the process itself; a loss is undone. Then the
# tool is killed while it measures, and the process must still be right, and detachable.
. "$(dirname "$0")/../support/live.sh"
n_kills=${OPTVM_KILLS:-12}
n_kills=$((n_kills > 12 ? n_kills / 4 : 3))
mkdir run
export XDG_RUNTIME_DIR=$dir/run

# A large program: 3000 functions that are called in no order. It checks what it computes; ends at SIGTERM.
awk 'BEGIN {
	print "#include <signal.h>\n#include <stdio.h>\n#include <unistd.h>\nstatic volatile sig_atomic_t over;\nstatic void on_term(int s) { over = s; }"
	n = 3000
	for (i = 0; i < n; i++) {
		printf "__attribute__((noinline)) unsigned f%d(unsigned x) { unsigned s = %d; for (int i = 0; i < 12; i++) { if (x %% %d == 0) s += x >> 3; else if (x & %d) s ^= x * %du; else s -= x; x = x * 1664525u + %du; } return s; }\n", i, i, i % 7 + 3, i % 13 + 1, 2 * i + 1, 2 * i + 1
	}
	print "static unsigned (*const all[])(unsigned) = {"
	for (i = 0; i < n; i++) printf "f%d,", i
	print "};"
	print "__attribute__((noipa)) static unsigned run(unsigned x) { unsigned sum = 0; for (int i = 0; i < 20000; i++) { x = x * 1103515245u + 12345u; sum += all[(x >> 8) % " n "](x); } return sum; }"
	print "int main(int argc, char **argv) { (void)argv; unsigned want = run(5), bad = 0, n = 0; signal(SIGTERM, on_term); FILE *f = fopen(\"at\", \"w\"); for (unsigned i = 0; i < " n "; i++) fprintf(f, \"%lx\\n\", (unsigned long)all[i]); fclose(f); while (!over) { bad += run(5) != want; n++; if (argc > 1) usleep(5000); } printf(\"%u bad\\n\", bad); return n == 0; }"
}' >large.c
gcc -O2 large.c -o large || exit 1

# patched PID: does a jump stand at any of its functions?
cat >patched.c <<'EOP'
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char name[64];
	unsigned long at;
	unsigned char byte;
	snprintf(name, sizeof name, "/proc/%s/mem", argv[argc - 1]);
	int mem = open(name, O_RDONLY);
	FILE *f = fopen("at", "r");
	while (f && fscanf(f, "%lx", &at) == 1)
		if (pread(mem, &byte, 1, at) == 1 && byte == 0xe9) return 0;
	return 1;
}
EOP
gcc -O1 patched.c -o patched || exit 1
pid=0
start() { rm -f at; ./large "$@" >out.txt & pid=$!; for _ in $(seq 500); do [ -e at ] && [ "$(wc -l <at)" = 3000 ] && break; sleep 0.02; done; }
finish() {
	kill -TERM "$pid"
	wait "$pid" || fail "$1: the process ended with $?"
	[ "$(cat out.txt)" = "0 bad" ] || fail "$1: wrong results: $(cat out.txt)"
}
text() { sed -n "s/.*\"$1\": \"\(.*\)\".*/\1/p" report.json | head -1; }

# --- a small loop is left alone, by run and by attach, unless told otherwise
"$tool" run --report report.json --sample-ms 300 -- ./probe >/dev/null 2>err || fail "probe: $?"
grep -q '"optimized": false' report.json || fail "the small loop was optimized"
text why_not | grep -q "no gain predicted" || fail "why not: $(cat report.json)"
grep -q '"may_gain": false' report.json || fail "footprint: $(cat report.json)"
exec 3< <(exec ./probe)
small=$!
"$tool" attach --sample-ms 200 $small 2>err
[ $? = 1 ] || fail "attach to a small loop: $(cat err)"
grep -q "no gain predicted" err || fail "attach to a small loop: $(cat err)"
kill -9 $small 2>/dev/null
exec 3<&-

# --- a large program is optimized and measured
start
"$tool" attach -v --report report.json "$pid" 2>err
status=$?
grep -q '"may_gain": true' report.json || fail "footprint: $(cat report.json err)"
[ "$(number gauges)" -ge 4 ] || fail "no gauges: $(cat report.json err)"
[ "$(number pairs)" -ge 4 ] || fail "not measured: $(cat report.json err)"
case $status in
0)
	grep -q "measured: time for the same work" err || fail "summary: $(cat err)"
	./patched "$pid" || fail "not optimized"
	"$tool" status "$pid" | grep -q '^gain .* measured' || fail "status: $("$tool" status "$pid")"
	"$tool" detach "$pid" || fail detach ;;
1) grep -q '"undone": true' report.json || fail "refused: $(cat report.json err)" ;; # it may really lose: each call leads through a jump
*) fail "attach: $status $(cat err)" ;;
esac
./patched "$pid" && fail "still patched"
grep "measured\|undone" err

# --- a loss is undone: the user's measure says that optimized code gets half as much done
cat >metric <<'EOP'
#!/bin/sh
read -r n <total
if ./patched "$OPTVM_PID"; then n=$((n + 500 + $(date +%N | cut -c3) )); else n=$((n + 1000 + $(date +%N | cut -c3) )); fi
echo $n | tee total
EOP
chmod +x metric
echo 1000 >total
"$tool" attach --metric ./metric --report report.json "$pid" 2>err
[ $? = 1 ] || fail "a loss: status $? $(cat err)"
grep -q "undone: the same work took [12]\.[0-9]* times as long" err || fail "a loss: $(cat err)"
grep -q '"undone": true' report.json && grep -q '"optimized": false' report.json || fail "a loss: $(cat report.json)"
./patched "$pid" && fail "a loss was not undone"
"$tool" attach --metric false --report report.json "$pid" 2>err || fail "a command that fails: $(cat err)"
grep -q '"why_not_measured": ".*printed no number"' report.json || fail "a command that fails: $(cat report.json)"
./patched "$pid" || fail "a command that fails: undone"
"$tool" detach "$pid" || fail "detach"
finish measured

# --- killed while it measures
if OPTVM_FAULT=list "$tool" 2>/dev/null | grep -q measure.switched; then
	for i in $(seq "$n_kills"); do
		start
		OPTVM_FAULT=measure.switched#$i:kill "$tool" attach "$pid" 2>err
		[ $? = 137 ] || fail "kill $i: did not measure so long: $(cat err)"
		"$tool" detach "$pid" 2>err || fail "kill $i: detach: $(cat err)"
		./patched "$pid" && fail "kill $i: still patched"
		finish "kill $i"
	done
fi
done_testing
