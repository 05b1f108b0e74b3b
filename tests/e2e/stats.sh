#!/usr/bin/env bash
# optvm stats against what really runs: callgrind's counts of the original and of the rewritten file, row by row, and llvm-bolt's
# dyno-stats of the same counts where it is installed.
tools=$(cd "$(dirname "$0")/../../scripts" && pwd)
. "$(dirname "$0")/../support/e2e.sh" gcc valgrind python3

# The common way is the jump; switch, recursion, direct, indirect and PLT calls. ODD: a function that is nothing but a jump, which
# copies jump past and call into; a conditional jump to it; a jrcxz.
cat >p.c <<'C'
#include <stdio.h>
#include <stdlib.h>
#define NOINLINE __attribute__((noinline))
unsigned long sum;
NOINLINE void rare(int i) { sum = sum * 31 + (unsigned)i; }
NOINLINE int pick(int i)
{
	switch (i % 9) {
	case 0: sum += 3; return 1;
	case 1: sum ^= 9; return 2;
	case 2: sum *= 5; return 3;
	case 3: sum -= 8; return 4;
	case 4: sum += 1; return 5;
	case 5: sum ^= 7; return 6;
	case 6: rare(i); return 7;
	}
	return 0;
}
NOINLINE unsigned fib(unsigned n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
NOINLINE int other(int i) { return i & 1 ? pick(i * 7) + 1 : 5; }
#if ODD
int forward(int), maybe(int);
unsigned long none(unsigned long);
__asm__(".text\n.type forward, @function\nforward: .cfi_startproc\n jmp pick\n .cfi_endproc\n.size forward, .-forward\n"
	".type maybe, @function\nmaybe: .cfi_startproc\n test $3, %dil\n jne forward\n mov $5, %eax\n ret\n .cfi_endproc\n"
	".size maybe, .-maybe\n"
	".type none, @function\nnone: .cfi_startproc\n mov %rdi, %rcx\n jrcxz 1f\n mov $3, %eax\n ret\n"
	"1: mov $4, %eax\n ret\n.cfi_endproc\n.size none, .-none\n");
#else
NOINLINE int forward(int i) { return pick(i) + 1; }
NOINLINE int maybe(int i) { return i & 3 ? forward(i) + 2 : 5; }
NOINLINE unsigned long none(unsigned long n) { return n ? 3 : 4; }
#endif
int (*volatile table[])(int) = {pick, other};
NOINLINE void work(int n)
{
	for (int i = 0; i < n; i++) {
		if (__builtin_expect(i % 16 != 3, 0))
			sum += (unsigned)table[i & 1](i);
		else
			rare(i);
		for (int k = 0; k < i % 6; k++)
			sum = sum * 3 + (unsigned)k;
		if (__builtin_expect(i % 64 < 60, 0))
			sum += (unsigned)abs(atoi("7")) + none(i % 3 == 0) + (unsigned)maybe(i);
		else
			sum += (unsigned)forward(i);
	}
}
int main(int argc, char **argv)
{
	work(argc > 1 ? atoi(argv[1]) : 1000);
	printf("%lu %u\n", sum, fib(17));
	return 0;
}
C
cat >count.py <<'PY'
"""Rows of `optvm stats`, as callgrind counted them. Words: callgrind2prof, its output, the file, ranges (lo hi, hexadecimal)."""
import importlib.machinery, importlib.util, json, os, sys
loader = importlib.machinery.SourceFileLoader('cg', sys.argv[1])
cg = importlib.util.module_from_spec(importlib.util.spec_from_loader('cg', loader))
loader.exec_module(cg)
path = os.path.abspath(sys.argv[3])
ranges = [tuple(int(x, 16) for x in line.split()[:2]) for line in open(sys.argv[4])]
stubs = [tuple(int(x, 16) for x in line.split()[:2]) for line in open(sys.argv[4]) if 'plt' in line]
reader = cg.Reader()
reader.read(sys.argv[2])
counts, unnamed = reader.objects[path], reader.objects['???']  # callgrind gives added segments no name; nothing moves in a -no-pie file
for name in ('runs', 'jumps', 'calls', 'called'):
    getattr(counts, name).update(getattr(unnamed, name))
flow = cg.Flow(cg.Elf(path), counts)
rows = dict.fromkeys(('executed instructions', 'executed unconditional branches', 'taken conditional branches',
    'all conditional branches', 'executed forward branches', 'taken forward branches', 'taken branches'), 0)
lines, pages = set(), set()
for va, runs in flow.runs.items():
    if not any(lo <= va < hi for lo, hi in ranges):
        continue
    kind, target, _ = flow.insns[va]
    rows['executed instructions'] += runs
    if not any(lo <= va < hi for lo, hi in stubs):  # those count as calls
        lines.add(va >> 6)
        pages.add(va >> 12)
    if kind == cg.JMP:
        rows['executed unconditional branches'] += runs
        rows['taken branches'] += runs
    if kind == cg.JCC:
        taken = flow.edges[va, target]
        rows['all conditional branches'] += runs
        for name in ('taken conditional branches', 'taken branches'):
            rows[name] += taken
        if target > va:
            rows['executed forward branches'] += runs
            rows['taken forward branches'] += taken
rows.update({'executed 64-byte lines': len(lines), 'executed 4 KiB pages': len(pages)})
json.dump(rows, sys.stdout)
PY
cat >compare.py <<'PY'
"""Words: stats.json, side, rows as JSON, then names of rows that are others (tail jumps are calls for `optvm stats`)."""
import json, sys
side, want = sys.argv[2], json.load(open(sys.argv[3]))
got = {row['name']: row[side] for row in json.load(open(sys.argv[1]))['rows']}
# the hlt in _start, behind a call that does not return, is in a block that ran
wrong = [(name, got[name], want[name]) for name in want
    if name not in sys.argv[4:] and got[name] - want[name] not in ((0, 1) if 'instructions' in name else (0,))]
for name, ours, theirs in wrong:
    print('%s, %s: %d, not %d' % (name, side, ours, theirs))
sys.exit(bool(wrong) or not want)
PY
callgrind() { # FILE: counts of one run into FILE.cg, rows of the code in FILE.ranges into FILE.rows
	valgrind -q --tool=callgrind --dump-instr=yes --dump-line=no --collect-jumps=yes --skip-plt=no \
		--callgrind-out-file="$1.cg" "./$1" 3000 2>valgrind.log && [ -s "$1.cg" ]
}
rows() { python3 count.py "$tools/callgrind2prof" "$1.cg" "$1" "$1.ranges" >"$1.rows" || fail "no rows of $1"; }

# PROGRAM [ROW...]: profile it exactly, rewrite it, compare both with callgrind, but for these rows.
one() {
	local p=$1 want
	shift
	want=$("./$p" 3000)
	[ "$(callgrind "$p")" = "$want" ] || { echo "skipped: valgrind does not run this program: $(head -1 valgrind.log)"; exit 77; }
	"$tools/callgrind2prof" -o all.prof --only "$dir/$p" "$p.cg" 2>/dev/null || fail "callgrind2prof"
	# counted as optvm counts: edges of blocks, and every entry
	"$OPTVM" record -q --counters=on --prior all.prof -f -o "$p.prof" -- "./$p" 3000 >/dev/null 2>record.log ||
		{ echo "skipped: no exact counts here: $(head -1 record.log)"; exit 77; }
	"$OPTVM" stats "$p" -p "$p.prof" --json >"$p.json" || fail "stats of $p"
	"$OPTVM" rewrite -q -f "$p" -p "$p.prof" -o "$p.opt" || fail "rewrite of $p"
	[ "$("./$p.opt" 3000)" = "$want" ] && [ "$(callgrind "$p.opt")" = "$want" ] || fail "$p.opt prints something else"
	"$OPTVM" dump regions "$p" | grep ^0x >"$p.ranges"
	{ cat "$p.ranges"; "$OPTVM" dump map "$p.opt" | python3 -c 'import sys
for line in sys.stdin:
    va, size = line.split()[:2]
    print(va, hex(int(va, 16) + int(size)))'; } >"$p.opt.ranges"
	rows "$p"
	rows "$p.opt"
	python3 compare.py "$p.json" original "$p.rows" "$@" >log || fail "$p: $(cat log)"
	python3 compare.py "$p.json" optimized "$p.opt.rows" "$@" >log || fail "$p: $(cat log)"
}
flags="-O2 -no-pie -fno-reorder-blocks -fno-reorder-blocks-and-partition -fno-optimize-sibling-calls -fcf-protection=none -Wl,-q,-z,now,--build-id=sha1"
# shellcheck disable=SC2086
gcc $flags -DODD=0 p.c -o p || { echo "FAIL gcc"; exit 1; }
one p
python3 - p.json <<'PY' || fail "p.json is not what README says"
import json, sys
doc = json.load(open(sys.argv[1]))
rows = {row['name']: row for row in doc['rows']}
assert doc['schema'] == 'optvm.stats/1' and doc['is_estimate'] and doc['exact_share'] == 1, doc
assert doc['regions'] >= doc['regions_copied'] > 0, doc
assert len(doc['rows']) == 22 and rows['taken branches']['optimized'] < rows['taken branches']['original'], rows
assert rows['PLT calls']['original'] > 1000 and rows['PLT calls']['optimized'] < 10, rows
assert rows['hot 64-byte lines']['original'] <= rows['executed 64-byte lines']['original'], rows
for row in doc['rows']:
    assert ('ratio' in row) == (row['original'] > 0), row
PY
"$OPTVM" stats p -p p.prof >text || fail "stats as text"
grep -q 'exact for 100.0 % of' text && grep -Eq ' -[0-9.]+ %  taken branches$' text && grep -Eq ' =  indirect calls$|%  indirect calls$' text ||
	fail "text: $(cat text)"

# shellcheck disable=SC2086
gcc $flags -DODD=1 p.c -o q || { echo "FAIL gcc"; exit 1; }
one q "executed unconditional branches" "taken branches"

# llvm-bolt on the same counts: each row, before. It gives the second of two jumps that end a block the count of the first, so it
# has more instructions than callgrind.
bolt=$(command -v llvm-bolt-19 || command -v llvm-bolt)
if [ -n "$bolt" ]; then
	"$OPTVM" convert -q -f p.prof --binary p -o p.fdata || fail "convert"
	"$bolt" p -data p.fdata -o p.bolt -reorder-blocks=ext-tsp -dyno-stats -v=1 >bolt.log 2>&1 || fail "llvm-bolt: $(tail -1 bolt.log)"
	grep 'match only' bolt.log | grep -v -E '_tm_clones|do_global_dtors' && fail "llvm-bolt does not know the profile"
	"$OPTVM" convert -q -f all.prof --binary q -o q.fdata || fail "convert callgrind's counts"
	"$bolt" q -data q.fdata -o q.bolt -reorder-blocks=ext-tsp -v=1 >q.log 2>&1 || fail "llvm-bolt: $(tail -1 q.log)"
	grep 'match only' q.log | grep -v -E '_tm_clones|do_global_dtors' && fail "llvm-bolt does not know callgrind's counts"
	python3 - bolt.log p.json <<'PY' || fail "llvm-bolt's dyno-stats are others"
import json, re, sys
found = re.findall(r'^ +(\d+) : (.*[a-z])$', open(sys.argv[1]).read(), re.M)
rows = {row['name']: row['original'] for row in json.load(open(sys.argv[2]))['rows']}
bad = [(name, rows[name], int(n)) for n, name in found[:18]
    if (rows[name] > int(n) if name == 'executed instructions' else rows[name] != int(n))]
for name, ours, theirs in bad:
    print('%s: %d, llvm-bolt %d' % (name, ours, theirs))
sys.exit(bool(bad) or len(found) < 18)
PY
else
	echo "no llvm-bolt: its opinion is not asked"
fi

# usage
refuses() { # STATUS WORDS...
	local status=$1 got
	shift
	"$OPTVM" "$@" >stdout 2>stderr
	got=$?
	[ $got = "$status" ] && [ ! -s stdout ] || fail "status $got, not $status: optvm $*: $(cat stderr)"
}
refuses 2 stats
refuses 2 stats p
refuses 2 stats p q -p p.prof
refuses 3 stats q -p p.prof
refuses 3 stats p.opt -p p.prof
exit $bad
