#!/usr/bin/env bash
# Libraries that come and go: what is loaded after the patch is optimized by a later round; what was optimized may be unloaded,
# replaced by another file at the same address, or built anew in the same file, and nothing of ours is applied to what it is now.
. "$(dirname "$0")/../support/live.sh"
mkdir run
export XDG_RUNTIME_DIR=$dir/run
# Each plugin computes with its own constant; all have the same size and the same first bytes in each function.
cat >plugin.c <<'EOP'
__attribute__((noinline)) static unsigned step(unsigned x) { if (x % 3 == 0) return x / 3 + 11; if (x % 5 == 0) return x * 7 + 1; return x * 1103515245u + V; }
unsigned work(unsigned x) { unsigned sum = 0; for (int i = 0; i < 20000; i++) { x = step(x); sum += x ^ (sum << 3); } return sum; }
EOP
for v in 1001 2002 3003; do gcc -O2 -fPIC -shared -DV=$v plugin.c -o p$v.so || exit 1; done
# host: obeys lines of stdin (open FILE CONSTANT, close, quit) and computes all the time with what is loaded and with its own;
# says the address at each open
cat >host.c <<'EOP'
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static unsigned v;
__attribute__((noinline)) static unsigned step(unsigned x) { if (x % 3 == 0) return x / 3 + 11; if (x % 5 == 0) return x * 7 + 1; return x * 1103515245u + v; }
static unsigned reference(unsigned x) { unsigned sum = 0; for (int i = 0; i < 20000; i++) { x = step(x); sum += x ^ (sum << 3); } return sum; }
int main(void)
{
	char line[256], file[200];
	void *plugin = 0;
	unsigned (*work)(unsigned) = 0, want = 0, own, constant;
	long bad = 0, n = 0;
	size_t have = 0;
	v = 7;
	own = reference(3);
	fcntl(0, F_SETFL, O_NONBLOCK);
	setvbuf(stdout, 0, _IOLBF, 0);
	for (;;) {
		v = 7;
		bad += reference(3) != own;
		for (int i = 0; i < 4 && work; i++) { bad += work(5) != want; n++; }
		ssize_t got = read(0, line + have, 1);
		if (got <= 0 || line[have++] != '\n') continue;
		line[have - 1] = 0;
		have = 0;
		if (!strcmp(line, "quit")) break;
		if (work) { dlclose(plugin); work = 0; puts("closed"); }
		if (sscanf(line, "open %199s %u", file, &constant) == 2) {
			plugin = dlopen(file, RTLD_NOW);
			work = plugin ? (unsigned (*)(unsigned))dlsym(plugin, "work") : 0;
			if (!work) { puts(dlerror()); return 9; }
			v = constant;
			want = reference(5);
			printf("open %p\n", (void *)work);
		}
	}
	printf("%ld wrong\n", bad);
	return bad ? 1 : n ? 4 : 3;
}
EOP
gcc -O2 host.c -o host || exit 1
pid=0 n_said=0
start() { # [optvm run WORDS]
	rm -f out.txt in
	mkfifo in
	"$@" ./host <in >out.txt 2>err.txt & pid=$!
	exec 5>in
	n_said=0
}
said() { [ "$(wc -l <out.txt)" -ge $n_said ]; }
wait_for() { for _ in $(seq 1000); do "$@" && return; sleep 0.02; done; fail "waited for $*: $(tail -3 out.txt)"; }
tell() { # LINE, lines of answer
	echo "$1" >&5
	n_said=$((n_said + $2))
	wait_for said
}
place() { tail -1 out.txt; }
finish() {
	echo quit >&5
	exec 5>&-
	wait $pid
	local got=$?
	[ $got = 4 ] || fail "$1: ended with $got: $(tail -2 out.txt)"
	grep -q '^0 wrong' out.txt || fail "$1: $(tail -2 out.txt)"
}
attach() { "$tool" attach --always --sample-ms 200 --min-samples 20 --report report.json "$@" "$pid" 2>e || fail "attach $*: $(cat e)"; }
optimizes() { grep -q "\"path\": \".*/$1\"" report.json; }

# --- another file at the same address
start
tell "open $PWD/p1001.so 1001" 1
first=$(place)
attach --counters=off
optimizes p1001.so || fail "the plugin was not optimized: $(grep path report.json)"
optimizes host || fail "the host was not optimized: $(grep path report.json)"
tell "open $PWD/p2002.so 2002" 2
[ "$(place)" = "$first" ] || echo "note: the second plugin is at $(place), not $first"
attach # counts, and arms again what was armed
attach --counters=off
optimizes p2002.so || fail "the second plugin was not optimized: $(grep path report.json)"
tell "close" 1
attach --counters=off
"$tool" detach $pid 2>e || fail "detach: $(cat e)"
tell "open $PWD/p1001.so 1001" 1
attach --counters=off
tell "open $PWD/p2002.so 2002" 2
"$tool" detach $pid 2>e || fail "detach after an exchange: $(cat e)"
finish "another file"

# --- the same file, built anew
cp p1001.so plugin.so
start
tell "open $PWD/plugin.so 1001" 1
first=$(place)
attach --counters=off
optimizes plugin.so || fail "the plugin was not optimized: $(grep path report.json)"
inode=$(stat -c %i plugin.so)
tell "close" 1
cp p3003.so plugin.so
[ "$(stat -c %i plugin.so)" = "$inode" ] || fail "cp has made another inode"
tell "open $PWD/plugin.so 3003" 1
[ "$(place)" = "$first" ] || fail "the plugin is at $(place) now, was $first"
attach # in whose window the old copies are disarmed, then armed again
attach --counters=off
optimizes plugin.so || fail "the new plugin was not optimized: $(grep path report.json)"
"$tool" detach $pid 2>e || fail "detach of the new one: $(cat e)"
finish "built anew"

# --- loaded after the patch: the next round
start "$tool" run --always --sample-ms 300 --counters=off --rounds 2 --report report.json --
wait_for test -n "$(sleep 1; echo x)"
for _ in $(seq 500); do ls run/optvm/*.gen >/dev/null 2>&1 && break; sleep 0.02; done # the first round
tell "open $PWD/p1001.so 1001" 1
for _ in $(seq 1500); do [ "$(find run/optvm -name '*.gen' | wc -l)" -ge 2 ] && break; sleep 0.02; done
sleep 0.5
finish "loaded later"
optimizes p1001.so || fail "loaded later: $(grep 'path\|rounds' report.json)"

# --- all the time
start
for i in 1 2 3 4; do
	(while tell_twice=$(printf 'open %s/p1001.so 1001\nopen %s/p2002.so 2002\nclose\n' "$PWD" "$PWD") && [ ! -e enough ]; do echo "$tell_twice" >&5; sleep 0.03; done) & storm=$!
	"$tool" attach --always --sample-ms 200 $pid 2>e; [ $? -le 5 ] || fail "attach in the storm: $(cat e)"
	"$tool" detach $pid 2>e; [ $? -le 1 ] || fail "detach in the storm: $(cat e)"
	: >enough
	wait $storm
	rm enough
done
finish "storm"
done_testing
