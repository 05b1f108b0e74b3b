#!/usr/bin/env bash
# `optvm symbols`: gdb and perf name the copies in a live process, and gdb unwinds through them; two files' copies, both generations.
# A map of somebody else's making is not written through.
. "$(dirname "$0")/../support/live.sh"
export XDG_RUNTIME_DIR=$dir/run
mkdir -m 700 run
cat >inner.c <<'EOP'
__attribute__((noinline)) unsigned inner_leaf(unsigned x)
{
	volatile unsigned y = x * 3;
	for (int i = 0; i < 1000; i++)
		y += (unsigned)i;
	return y;
}
__attribute__((noinline)) unsigned inner(unsigned x)
{
	unsigned a[20], s = 0;
	for (int i = 0; i < 20; i++)
		a[i] = inner_leaf(x + (unsigned)i);
	for (int i = 0; i < 20; i++)
		s ^= a[(i * 7) % 20];
	return s;
}
EOP
cat >outer.c <<'EOP'
#include <stdlib.h>
unsigned inner(unsigned x);
__attribute__((noinline)) static unsigned outer(unsigned x)
{
	unsigned s = x;
	for (int i = 0; i < 50; i++)
		s = s * 5 + inner(s ^ (unsigned)i);
	for (volatile unsigned k = 0; k < 500000; k++)
		s ^= k;
	return s;
}
int main(void)
{
	volatile unsigned sum = 0;
	for (;;)
		sum += outer(sum);
}
EOP
gcc -O2 -fPIC -shared inner.c -o libinner.so && gcc -O2 outer.c -L. -linner -Wl,-rpath,"$dir" -o outer || exit 1
./outer & pid=$!
trap 'kill $pid 2>/dev/null; rm -rf "$dir"; rm -f "/tmp/perf-$pid.map"' EXIT
status() { # WANT WORDS...
	local want=$1 got
	shift
	"$tool" "$@" >o 2>e
	got=$?
	[ $got = "$want" ] || fail "status $got, not $want: optvm $*: $(cat e)"
}
status 1 symbols "$pid" -o names.elf
[ ! -e names.elf ] || fail "a file for a process that was never optimized"
status 0 attach --once --always --uniform --counters=off --sample-ms 300 "$pid"
status 2 symbols "$pid"
status 0 symbols "$pid" -o names.elf
status 2 symbols "$pid" -o names.elf
status 0 symbols "$pid" -o names.elf -f

# the library's copies and the program's are two overlays; their sections stand where they are in the process
[ "$(readelf -SW names.elf | grep -c ' NOBITS ')" -ge 2 ] || fail "sections: $(readelf -SW names.elf)"
for name in inner_leaf.optvm.0 inner.optvm.0 outer.optvm.0 inner outer; do
	readelf -sW names.elf | grep -q " $name\$" || fail "no symbol $name: $(readelf -sW names.elf)"
done

if command -v gdb >/dev/null; then
	gdb -p "$pid" -batch -nx -ex 'add-symbol-file names.elf' -ex 'tbreak inner_leaf.optvm.0' -ex continue -ex bt >bt 2>&1 </dev/null
	grep -q '^#0 .*inner_leaf' bt && grep -q '^#1 .* inner\b' bt && grep -q '^#2 .* outer\b' bt && grep -q '^#3 .* main\b' bt ||
		fail "backtrace: $(cat bt)"
fi

# perf's map: made anew, of the process's user, a link is not followed, what is there is kept unless -f
status 0 symbols --perf-map "$pid"
grep -q '^[0-9a-f]* [0-9a-f]* inner_leaf\.optvm\.0$' "/tmp/perf-$pid.map" || fail "map: $(cat "/tmp/perf-$pid.map")"
[ "$(stat -c %a "/tmp/perf-$pid.map")" = 600 ] || fail "mode of the map: $(stat -c %a "/tmp/perf-$pid.map")"
! grep -qv 'optvm' "/tmp/perf-$pid.map" || fail "a second name for the same code: $(cat "/tmp/perf-$pid.map")"
status 2 symbols --perf-map "$pid"
status 0 symbols --perf-map -f "$pid"
if perf record -q -e cpu-clock -o perf.data -p "$pid" -- sleep 0.5 >/dev/null 2>&1; then
	perf report -i perf.data --stdio 2>/dev/null >report
	grep -q 'inner_leaf\.optvm\.0' report || fail "perf report: $(cat report)"
fi
rm "/tmp/perf-$pid.map"
echo keep >precious
ln -s "$dir/precious" "/tmp/perf-$pid.map"
status 2 symbols --perf-map "$pid"
status 4 symbols --perf-map -f "$pid"
[ "$(cat precious)" = keep ] || fail "wrote through a link"
rm "/tmp/perf-$pid.map"

# after detach the copies stay mapped, and frames may be in them: still named
status 0 detach "$pid"
status 0 symbols "$pid" -o after.elf
cmp -s names.elf after.elf || fail "other names after detach"

# the file is another one now: nothing is said of it, the other's names are there
status 0 attach --once --always --uniform --counters=off --sample-ms 300 "$pid"
gcc -O1 -fPIC -shared inner.c -o other.so && mv other.so libinner.so
status 0 symbols "$pid" -o less.elf
! readelf -sW less.elf | grep -q ' inner_leaf' || fail "names of another file's functions"
readelf -sW less.elf | grep -q ' outer' || fail "nothing of the file that is the same"
kill $pid
wait $pid 2>/dev/null
status 1 symbols "$pid" -o gone.elf
done_testing
