#!/usr/bin/env bash
# perf.data of the perf installed here: every sample that `perf script` shows arrives, in the same file; and for a
# program without address randomization at the same address.
set -u
command -v perf >/dev/null || { echo "skipped: perf is not installed (apt-get install linux-perf)"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
perf record -q -e cpu-clock:u -o try.data true >try.log 2>&1 || { echo "skipped: perf record: $(head -1 try.log)"; exit 77; }
bad=0

# work: three processes, one with a thread, libraries loaded by each
cat >busy.c <<'EOC'
#include <pthread.h>
#include <stdio.h>
__attribute__((noinline)) static unsigned mix(unsigned x, unsigned n) { while (n--) x = x * 1664525u + 1013904223u; return x; }
static void *run(void *p) { *(unsigned *)p = mix(1, 40000000); return p; }
int main(void) { unsigned a, b = mix(2, 40000000); pthread_t t; pthread_create(&t, 0, run, &a); pthread_join(t, 0); printf("%u\n", a + b); }
EOC
gcc -O1 -pthread busy.c -o busy && gcc -O1 -pthread -static -no-pie busy.c -o fixed || exit 1
cat >work.sh <<'EOC'
./busy & seq 1 60000 | sort -r | md5sum
i=0; while [ $i -lt 30000 ]; do i=$((i + 1)); done
wait; ./fixed
EOC

# compare NAME: samples of each file, as perf sees them and as we do
compare() {
	perf script -G -i "$1.data" -F event,ip,dso 2>/dev/null | grep cpu-clock | sed -n 's/.*(\(.*\))$/\1/p' | grep -v '^\[' |
		sort | uniq -c | awk '{print $2, $1}' | sort >want
	rm -f got.prof
	"$OPTVM" convert "$1.data" -o got.prof || { echo "FAIL convert $1"; bad=1; return; }
	awk '$1 == "module" { path = $3 } $1 == "s" { n[path] += $3 } END { for (p in n) print p, n[p] }' got.prof | sort >got
	[ -s want ] || { echo "FAIL $1: perf script shows nothing"; bad=1; }
	cmp -s want got || { echo "FAIL $1"; diff want got | head -20; bad=1; }
}
record() {
	local name=$1
	shift
	perf record -q -F 2000 "$@" -o "$name.data" sh work.sh >/dev/null 2>record.log || { echo "without $name: $(head -1 record.log)"; return; }
	compare "$name"
}
record plain -e cpu-clock:u
record graph -e cpu-clock:u -g
record build_id -e cpu-clock:u --buildid-mmap
record kernel -e cpu-clock
record two_events -e cpu-clock:u,page-faults:u
record group -e '{cpu-clock:u,task-clock:u}:S'
record packed -e cpu-clock:u -z
for z in "" -z; do
	# shellcheck disable=SC2086
	perf record -q -F 2000 -e cpu-clock:u $z -o - sh -c 'sh work.sh >/dev/null' 2>record.log >pipe.data || { echo "without pipe $z: $(head -1 record.log)"; continue; }
	compare pipe
done

# each address
perf record -q -F 2000 -e cpu-clock:u -o fixed.data ./fixed >/dev/null 2>&1
perf script -i fixed.data -F ip,dso | sed -n 's/^ *\([0-9a-f]*\) (.*\/fixed)$/\1/p' | sort | uniq -c | awk '{print $2, $1}' | sort >want
"$OPTVM" convert fixed.data -o fixed.prof
awk '$1 == "module" { mine = $3 ~ /\/fixed$/ } $1 == "s" && mine { print $2, $3 }' fixed.prof | sed 's/^0x//' | sort >got
[ -s want ] && cmp -s want got || { echo "FAIL addresses"; diff want got | head; bad=1; }

# recording that was killed: used as far as it goes
head -c $(($(stat -c %s plain.data) * 2 / 3)) plain.data >cut.data
"$OPTVM" convert cut.data -o cut.prof 2>cut.log || { echo "FAIL cut file"; bad=1; }
grep -q 'cut off' cut.log || { echo "FAIL: no word about the cut"; bad=1; }
head -c 200 plain.data >stump.data
"$OPTVM" convert stump.data -o stump.prof 2>/dev/null
[ $? = 3 ] || { echo "FAIL: a stump must be refused with status 3"; bad=1; }
exit $bad
