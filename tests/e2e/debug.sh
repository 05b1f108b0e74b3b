#!/usr/bin/env bash
# Debuggers and profilers on rewritten files: gdb stops in copies, unwinds through them live and from a core file; elfutils too; perf
# names them; and `optvm dump map` with the original's line numbers tells the same source lines as gdb tells of the original.
. "$(dirname "$0")/../support/e2e.sh" gcc gdb addr2line llvm-addr2line-14 eu-stack strip llvm-dwarfdump
cat >p.c <<'EOF'
#include <stdio.h>
#include <stdlib.h>
struct node { int value; } nodes[8];
__attribute__((noinline)) static int leaf(int n, struct node *at)
{
	if (n == 3 && getenv("DIE"))
		abort();
	int sum = at->value * n;
	asm volatile("" ::: "memory");
	return sum + 1;
}
__attribute__((noinline)) static int middle(int n)
{
	int r = leaf(n, &nodes[n & 7]);
	asm volatile("" ::: "memory");
	return r + n;
}
int main(void)
{
	unsigned sum = 0;
	for (int i = 0; i < 8; i++)
		nodes[i].value = i * i;
	for (int i = 0; i < 10; i++)
		sum += middle(i);
	for (int i = getenv("LONG") ? 0 : 400000000; i < 400000000; i++)
		sum = sum * 33 ^ sum >> 3;
	printf("%u\n", sum);
	return 0;
}
EOF
debug() { gdb -nx -q -batch -iex 'set debuginfod enabled off' -ex 'set style enabled off' "$@" 2>&1; }
frames() { sed -n 's/^#[0-9]* .*\b\(leaf\|middle\|main\)\b[.a-z]* (.*/\1/p' | tr '\n' ' '; } # leaf.cold.optvm (): leaf
lines() { sed -n 's/^#[0-9]* .* at p\.c:\([0-9]*\)$/\1/p' | tr '\n' ' '; }

stops_in_copy() { # NAME FILE FUNCTION: a breakpoint at a name is one in the copy too
	debug -ex "break $3 if \$rdi == 2" -ex run -ex 'info symbol $pc' -ex bt "./$2" >log
	grep -q ' in section .optvm.text' log && [ "$(frames <log)" = "leaf middle main " ] ||
		{ fail "$1: break $3 does not stop in the copy"; cat log; }
}

check_kind() { # NAME FLAGS...
	local name=$1 want pc
	shift
	gcc -g -O2 "$@" p.c -o in || { fail "$name: does not build"; return; }
	"$OPTVM" rewrite -q in --uniform -f -o out || { fail "$name: rewrite"; return; }

	debug -ex 'break leaf.optvm.0 if $rdi == 2' -ex run -ex bt -ex finish -ex bt ./out >log
	[ "$(frames <log)" = "leaf middle main middle main " ] || { fail "$name: gdb sees $(frames <log)"; cat log; }
	stops_in_copy "$name" out leaf
	gcc -O2 "$@" p.c -o plain && "$OPTVM" rewrite -q plain --uniform -f -o out-plain || fail "$name: rewrite without -g"
	stops_in_copy "$name, without -g" out-plain leaf

	want=$(DIE=1 debug -ex run -ex bt ./in | lines)
	[ "$(wc -w <<<"$want")" = 3 ] || fail "$name: of the original gdb sees lines $want"
	rm -f core
	DIE=1 debug -ex run -ex 'generate-core-file core' -ex 'info proc mappings' ./out >log
	debug -ex bt -ex 'frame function main' -ex 'info symbol $pc' out core >log
	[ "$(frames <log)" = "leaf middle main main " ] || { fail "$name: from the core file gdb sees $(frames <log)"; cat log; }
	eu-stack -e out --core core >log 2>&1
	[ "$(grep -oE '\b(leaf|middle|main)([.a-z]*\.optvm\.[0-9])?( |$)' log | sed 's/[ .].*//' | tr '\n' ' ')" = "leaf middle main " ] ||
		{ fail "$name: from the core file eu-stack sees $(cat log)"; }

	# return addresses - 1, less the bias, through the map to the original's lines
	"$OPTVM" dump map out >map || fail "$name: dump map"
	debug -ex 'python
f = gdb.newest_frame()
s = int(gdb.parse_and_eval("(long)&_start"))
while f:
    n = f.name() or ""
    if "optvm" in n and "_start" not in n: print("PC", hex(f.pc() - 1 - s))
    f = f.older()' out core 2>/dev/null | sed -n 's/^PC //p' >pcs
	local start
	start=$(nm in | awk '$3 == "_start" {print $1}')
	pcs=$(while read -r pc; do
		python3 - "$pc" "$start" <<-'EOP'
			import sys
			pc = int(sys.argv[1], 16) + int(sys.argv[2], 16)
			for line in open('map'):
			    new, n, old = line.split()[:3]
			    if int(new, 16) <= pc < int(new, 16) + int(n): print(old)
		EOP
	done <pcs)
	# shellcheck disable=SC2086
	[ "$(addr2line -e in $pcs | sed -n 's/.*p\.c:\([0-9]*\).*/\1/p' | tr '\n' ' ')" = "$want" ] ||
		fail "$name: lines $want, by the map $(addr2line -e in $pcs | tr '\n' ' ')"

	strip -o stripped in
	"$OPTVM" rewrite -q stripped --uniform -f -o out || fail "$name, stripped: rewrite"
	rm -f core
	DIE=1 debug -ex run -ex bt ./out >log
	[ "$(grep -cE '^#[0-9]+ +0x[0-9a-f]+ in optvm_[0-9a-f]+ \(\)' log)" -ge 3 ] || { fail "$name, stripped: gdb sees"; cat log; }
}
check_kind pie
check_kind no-pie -no-pie
check_kind static-pie -static-pie
check_kind lld -fuse-ld=lld

"$OPTVM" dump map in 2>/dev/null
[ $? = 3 ] || fail "dump map of a file that was not rewritten: not 3"

# --debug: every copied instruction has the line of its original; breakpoints at lines; the same frames; nothing new to complain of
verify_dwarf() { # what is wrong with it, by LLVM, which hangs on some of gcc's location lists
	timeout 5 llvm-dwarfdump --verify "$1" >verified 2>&1
	[ $? != 124 ] || return 1
	grep -iE 'error|warning' verified | grep -v '^No errors' | sort
}
addr2line=addr2line
hangs= # whether llvm-dwarfdump does with this compiler
check_lines() { # NAME COMPILER FLAGS...
	local name=$1 want n
	shift
	"$@" -g p.c -o in && "$OPTVM" rewrite -q in --uniform --debug -f -o out || { fail "$name, lines: rewrite"; return; }
	"$OPTVM" verify -q in out || fail "$name, lines: verify"
	[ "$(./in)" = "$(./out)" ] || fail "$name, lines: output differs"
	"$OPTVM" dump map out | awk '$NF != "added" {print $1, $3}' >map
	cut -d' ' -f1 map | $addr2line -e out >new
	cut -d' ' -f2 map | $addr2line -e in >old
	sed -i -E 's/ \(discriminator.*//; s/(:[0-9?]+):[0-9]+$/\1/' old new
	n=$(grep -c 'p\.c:[1-9]' old)
	[ "$n" -ge 40 ] || fail "$name, lines: only $n instructions of p.c are copied"
	paste -d' ' map old new | awk '$3 != $4 && $3 ~ /p\.c:/' >differ # the rest is ?? in both
	[ -s differ ] && { fail "$name, lines: differ"; head -3 differ; }
	want=$(DIE=1 debug -ex run -ex bt ./in | lines)
	[ "$(DIE=1 debug -ex run -ex bt ./out | lines)" = "$want" ] || fail "$name, lines: gdb sees other lines than $want"
	debug -ex 'break p.c:14' -ex run -ex 'info symbol $pc' -ex bt ./out >log
	grep -q ' in section .optvm.text' log && [ "$(frames <log)" = "middle main " ] ||
		{ fail "$name: break p.c:14 does not stop in the copy"; cat log; }
	if [[ $hangs == *"$1"* ]]; then
		:
	elif verify_dwarf in >old; then
		if ! grep -q 'failed to decompress' old; then
			verify_dwarf out >new && cmp -s old new || { fail "$name, lines: llvm-dwarfdump"; diff old new; }
		fi
	else
		echo "note: $name: llvm-dwarfdump --verify does not end on the original"
		hangs="$hangs $1"
	fi
	eu-elflint --gnu-ld in >old 2>&1
	eu-elflint --gnu-ld out 2>&1 | grep -vE "owner name 'optvm'|No errors" | grep -vxFf old && fail "$name, lines: elflint"
	readelf -wlriaR in 2>&1 >/dev/null | grep -i warning >old
	readelf -wlriaR out 2>&1 >/dev/null | grep -i warning | sed 's/\bout\b/in/' | grep -vxFf old && fail "$name, lines: readelf"
	# and in a file of their own, found by .gnu_debuglink
	objcopy --only-keep-debug out out.debug && strip -o alone out && objcopy --add-gnu-debuglink=out.debug alone
	debug -ex 'break p.c:14' -ex run -ex 'info symbol $pc' -ex bt ./alone >log
	grep -q ' in section .optvm.text' log && [ "$(frames <log)" = "middle main " ] ||
		{ fail "$name: with the debug file break p.c:14 does not stop in the copy"; cat log; }
}
check_lines gcc gcc -O2
check_lines gcc-O0 gcc -O0
check_lines dwarf-4 gcc -O2 -gdwarf-4 -ffunction-sections -Wl,--gc-sections
check_lines no-pie gcc -O2 -no-pie
for clang in clang clang-14 clang-19; do
	command -v $clang >/dev/null || continue
	check_lines $clang $clang -O2
	check_lines $clang-dwarf-4 $clang -O2 -gdwarf-4
	check_lines $clang-64-bit $clang -O2 -gdwarf64
	check_lines $clang-split $clang -O2 -gsplit-dwarf
	break
done
check_lines lld gcc -O2 -fuse-ld=lld -ggnu-pubnames -Wl,--gdb-index
addr2line=llvm-addr2line-14 # that of binutils 2.40 cannot read these
check_lines 64-bit gcc -O2 -gdwarf64
check_lines 64-bit-dwarf-4 gcc -O2 -gdwarf-4 -gdwarf64
check_lines split gcc -O2 -gsplit-dwarf
addr2line=addr2line
check_lines zlib gcc -O2 -gz
zstd_gcc() { gcc "$@" && objcopy --compress-debug-sections=zstd in; }
gcc -O2 -g p.c -o in
if objcopy --compress-debug-sections=zstd in 2>/dev/null; then check_lines zstd zstd_gcc -O2; else echo "note: objcopy knows no zstd"; fi
# units and line tables are in the file, the rest in one .dwp beside it
packed_gcc() { gcc "$@" && dwp -e in -o in.dwp && rm -f ./*.dwo && cp in.dwp out.dwp; }
gcc -O2 -g -gsplit-dwarf -gdwarf-4 p.c -o in
if dwp -e in -o in.dwp 2>/dev/null; then check_lines packed packed_gcc -O2 -gsplit-dwarf -gdwarf-4; else echo "note: no dwp"; fi
rm -f ./*.dw[op]

# what cannot be continued is said in one line, and the file is as without --debug
warned() { # NAME WORD
	"$OPTVM" rewrite in --uniform --debug -f -o out 2>log && [ "$(grep -c "$2" log)" = 1 ] && "$OPTVM" verify -q in out && [ "$(./in)" = "$(./out)" ] ||
		{ fail "$1: no warning"; cat log; }
}
gcc -O2 -g p.c -o in && objcopy --compress-debug-sections=zlib-gnu in && warned "old compression" 'compressed the old way'
gcc -O2 -g -gz p.c -o in && python3 - <<'EOP' && warned "damaged compression" 'not known, or damaged'
import struct
b = bytearray(open('in', 'rb').read())
shoff, = struct.unpack_from('<Q', b, 40)
n, names = struct.unpack_from('<HH', b, 60)
at = lambda i: struct.unpack_from('<IIQQQQ', b, shoff + 64 * i)
for i in range(n):
    name, kind, flags, va, off, size = at(i)
    if b[at(names)[4] + name:].startswith(b'.debug_line\0'):
        assert flags & 0x800
        b[off + 24 + size // 2] ^= 0x55
open('in', 'wb').write(b)
EOP
gcc -O2 p.c -o in && "$OPTVM" rewrite in --uniform --debug -f -o out 2>log && grep -q 'no DWARF line table' log || fail "no DWARF: no warning"

# names of C++; of a stripped library what it exports
cat >q.cc <<'EOQ'
#include <cstdio>
namespace space {
template <class T> struct box {
	T sum = 0;
	__attribute__((noinline)) void grow(T by) { sum += by; asm volatile("" ::: "memory"); }
};
__attribute__((noinline)) int fill(box<int> *b, int n)
{
	for (int i = 0; i < n; i++)
		b->grow(i);
	return b->sum;
}
} // namespace space
extern "C" int filled(int n) { space::box<int> b; return space::fill(&b, n); }
EOQ
echo 'extern "C" int filled(int); int main() { return filled(8); }' >r.cc
g++ -O2 -fno-inline q.cc r.cc -o plain && "$OPTVM" rewrite -q plain --uniform -f -o out || fail "C++: rewrite"
for name in 'space::box<int>::grow' 'space::fill' 'filled'; do
	debug -ex "break $name" -ex run -ex 'info symbol $pc' ./out >log
	grep -q ' in section .optvm.text' log || { fail "C++: break $name does not stop in the copy"; cat log; }
done
g++ -O2 -shared -fPIC q.cc -o libq.so && g++ r.cc -o user -L. -lq -Wl,-rpath,"$dir" && strip libq.so && mv libq.so q.so &&
	"$OPTVM" rewrite -q q.so --uniform -f -o libq.so || fail "library: rewrite"
g++ -O2 -g -fno-inline q.cc r.cc -o plain && "$OPTVM" rewrite -q plain --uniform --debug -f -o out || fail "C++: rewrite --debug"
debug -ex 'break space::box<int>::grow' -ex run -ex 'info symbol $pc' -ex bt ./out >log
grep -q ' in section .optvm.text' log && [ "$(sed -n 's/^#.* at \([qr]\.cc:[0-9]*\)$/\1/p' log | tr '\n' ' ')" = "q.cc:5 q.cc:10 q.cc:14 " ] ||
	{ fail "C++: frames"; cat log; }
debug -ex 'set breakpoint pending on' -ex 'break space::fill' -ex run -ex 'info symbol $pc' ./user >log
grep -q ' in section .optvm.text' log || { fail "library: break space::fill does not stop in the copy"; cat log; }

# names that valgrind takes for orders are not given twice
echo 'int x; void _vgnU_freeres(void) { x += 3; } void _vgr20010ZU_libcZdsoZa_f(void) { x -= 5; } void named(void) { x *= 7; }' >v.c
gcc -O2 -shared -fPIC v.c -o in && "$OPTVM" rewrite -q in --uniform -f -o out || fail "orders: rewrite"
[ "$(nm out | awk '{print $3}' | grep -E '_vg|named' | sort | tr '\n' ' ')" = "_vgnU_freeres _vgr20010ZU_libcZdsoZa_f named named named.optvm.0 " ] ||
	{ fail "orders: other names"; nm out; }

gcc -g -O2 p.c -o in && "$OPTVM" rewrite -q in --uniform -f -o out
if command -v perf >/dev/null && LONG=1 perf record -q -e cpu-clock:u -g -o perf.data ./out >/dev/null 2>&1; then
	HOME=$dir perf report -i perf.data --stdio --no-children -g none 2>/dev/null | grep -v '^#' >log
	grep -m1 '%' log | grep -q ' main\.optvm\.[0-9]*' || { fail "perf does not name the hottest copy"; head -5 log; }
else
	echo "without perf: it cannot record here"
fi
exit $bad
