#!/usr/bin/env bash
# optvm convert: BOLT's formats in and out, exit codes, bad input; llvm-bolt's own opinion where it is installed.
. "$(dirname "$0")/../support/e2e.sh"
refuses() { # STATUS REGEX COMMAND...: exit status, one line on stderr, nothing written
	local status=$1 regex=$2 got
	shift 2
	rm -f out out.fdata out.preagg
	"$OPTVM" "$@" >stdout 2>stderr </dev/null
	got=$?
	[ $got = "$status" ] || fail "status $got, not $status: optvm $*: $(cat stderr)"
	[ "$(wc -l <stderr)" = 1 ] || fail "$(wc -l <stderr) lines on stderr: optvm $*"
	grep -Eq -- "$regex" stderr || fail "'$regex' is not in: $(cat stderr)"
	[ -e out ] || [ -e out.fdata ] || [ -e out.preagg ] && fail "output left: optvm $*"
}
does() { # COMMAND...: status 0 and silence
	"$OPTVM" "$@" >stdout 2>stderr </dev/null || fail "status $?: optvm $*: $(cat stderr)"
	[ -s stdout ] || [ -s stderr ] && fail "optvm $* says $(cat stdout stderr)"
}
records() { grep -E '^[sbfe] ' "$1"; }

cat >p.c <<'END'
#include <stdio.h>
#include <stdlib.h>
static __attribute__((noinline)) int work(int n) { int s = 0; for (int i = 0; i < n; i++) { if (i % 3 == 0) s += i ^ (s >> 3); else if (i % 7 == 1) s -= n; } return s; }
int other(int n);
int cmp(const void *a, const void *b) { return *(int *)a - *(int *)b; }
int sw(int x) { switch (x & 7) { case 0: return 5; case 1: return x * 3; case 2: return x - 9; case 3: return x ^ 0x55; case 4: return x / 3; case 5: puts("five"); return 1; default: return x + 1; } }
int (*volatile fp)(int) = sw;
int main(int c, char **v) { (void)v; int a[1000]; long s = 0; for (int r = 0; r < 200; r++) { for (int i = 0; i < 1000; i++) a[i] = (i * 7919 + r) % 1000; qsort(a, 1000, sizeof a[0], cmp); s += a[10] + work(10000 * c) + other(r); s += fp(r & 3); } printf("%ld\n", s); return 0; }
END
printf 'static __attribute__((noinline)) int work(int n) { return n * 3; }\nint other(int n) { return work(n) + 1; }\n' >q.c
gcc -O2 -Wl,-q -Wl,--build-id p.c q.c -o p || exit 1
strip p -o p.stripped
echo 'int alien(int n) { return n * n; }' >alien.c
gcc -O1 -Wl,--build-id alien.c -shared -fPIC -o other.so || exit 1
id=$(readelf -n p | sed -n 's/.*Build ID: //p')
sym() { printf '%x' $((0x$(nm p | awk -v n="$1" -v k="${2:-1}" '$3 == n && ++i == k {print $1}'))); }
work=$(sym work) main=$(sym main)

# pre-aggregated text in and out, without and with build-ids
printf 'E cycles\nS %s 12\nS %s:%s 5\n' "$work" "$id" "$main" >s.preagg
does convert s.preagg --binary p -o s.prof
grep -qx "s $work 12" s.prof && grep -qx "s $main 5" s.prof && grep -qx 'event cycles' s.prof || fail "samples: $(cat s.prof)"
grep -q '^module .* /' s.prof || fail "the module has no full path"
grep -Eq '^r .* work$' s.prof || fail "regions are not named"
[ "$(stat -c %a s.prof)" = 600 ] || fail "a profile is readable by others"
does convert s.prof --binary p -o s2.preagg
[ "$(sort s2.preagg)" = "$(printf 'E cycles\nS %s 12\nS %s 5\n' "$work" "$main" | sort)" ] || fail "samples printed: $(cat s2.preagg)"
does convert s.prof --to preagg -o s3
grep -q "^S $id:$work 12" s3 || fail "build-ids are not printed: $(cat s3)"
does convert s3 -o s3.prof
[ "$(records s.prof)" = "$(records s3.prof)" ] || fail "samples do not come back"
does convert s.prof -o s.prof.zst
does convert s.prof.zst -o s4.prof
cmp -s s.prof s4.prof || fail "zstd and back"

# fdata of samples: locals are numbered in order of address
does convert s.prof --binary p -o s.fdata
grep -qx 'no_lbr cycles' s.fdata && grep -qx '1 main 0 5' s.fdata && grep -Eqx '1 work/[12] 0 12' s.fdata || fail "fdata of samples: $(cat s.fdata)"
does convert s.fdata --binary p -o s5.prof
[ "$(records s.prof)" = "$(records s5.prof)" ] || fail "samples do not come back from fdata"
printf '0 [unknown] 0 1 main 0 0 3\n1 work/1 4 1 gone 0 0 3\n' >gone.fdata
"$OPTVM" convert gone.fdata --binary p -o gone.prof 2>stderr || fail "unknown names are no failure: $(cat stderr)"
grep -q '1 of 2 records' stderr && [ "$(wc -l <stderr)" = 1 ] || fail "unknown names are not told: $(cat stderr)"

# usage
refuses 2 'no input' convert
refuses 2 'no output' convert s.prof
refuses 2 'one input' convert s.prof s.fdata -o out
refuses 2 'both input and output' convert s.prof -f -o s.prof
refuses 2 'exists: -f' convert s.prof -o s.fdata
refuses 2 "'xml' is not profile, fdata or preagg" convert s.prof --to xml -o out
refuses 2 'binary' convert s.fdata -o out
refuses 2 'binary' convert s.prof -o out.fdata
refuses 2 'binary' convert s2.preagg -o out
refuses 2 'optvm convert' merge -o out s.fdata
refuses 2 'optvm convert' rewrite p -p s2.preagg -o out
refuses 1 'No such file' convert absent -o out
refuses 1 'No such file' convert s.fdata --binary absent -o out
refuses 1 'cannot write' convert s.prof -o nowhere/out

# other builds, bad input
refuses 3 'no samples of this build' convert s.prof --binary other.so -o out.fdata
refuses 3 'no samples of this build' convert s.prof --binary other.so -o out.preagg
refuses 3 'another program' convert s.fdata --binary other.so -o out
refuses 3 'another program' convert s.fdata --binary p.stripped -o out
refuses 3 'build-id' convert s3 --binary other.so -o out
refuses 3 '' convert s.fdata --binary p.c -o out
refuses 3 'not a profile' convert p.c -o out
refuses 3 'not a profile' convert /dev/null -o out
head -c -2 s2.preagg >cut && refuses 3 'cut short' convert cut --binary p -o out
printf '1 main 0 1 main 4 0 -7\n' >x && refuses 3 'line 1: negative count' convert x --binary p -o out
printf '1 main 0 1 main 4 0 7\n1 ma\001n 0 1 main 4 zero 7\n' >x && refuses 3 'line 2: not a count' convert x --binary p -o out
printf 'B 0 %s -7 0\n' "$work" >x && refuses 3 'negative count' convert x --binary p -o out
printf 'PERFILE2' >x && refuses 3 '' convert x -o out
head -c 3000 /dev/urandom | { printf '1 '; cat; } >x
"$OPTVM" convert x --binary p -o out 2>stderr
[ $? = 3 ] || fail "noise: $(cat stderr)"

# perf.data directly, if perf can record here
if command -v perf >/dev/null && perf record -q -e cpu-clock -o perf.data ./p >/dev/null 2>&1; then
	"$OPTVM" convert perf.data -o perf.prof || fail "convert perf.data"
	grep -q "^module $id" perf.prof || fail "perf.data: module"
	"$OPTVM" merge -q -o sum.prof perf.data perf.data s.prof || fail "merge of perf.data"
	"$OPTVM" rewrite -q p -p perf.data -o p.opt && [ "$(./p.opt)" = "$(./p)" ] || fail "rewrite -p perf.data"
else
	echo "perf cannot record here: perf.data is not tried"
fi

# llvm-bolt's own counts in, and ours into llvm-bolt
bolt=$(command -v llvm-bolt-19 || command -v llvm-bolt)
lib=$(ls /usr/lib/llvm-*/lib/libbolt_rt_instr.a 2>/dev/null | tail -n 1)
if [ -n "$bolt" ] && [ -n "$lib" ] && "$bolt" p -instrument -o p.inst --instrumentation-file="$dir/i.fdata" \
	--runtime-instrumentation-lib="${lib#/usr/lib/}" >/dev/null 2>&1 && ./p.inst >/dev/null; then
	does convert i.fdata --binary p -o i.prof
	does convert i.prof --binary p -o i2.fdata
	# functions without unwind data have no graph; what leaves the file has no place
	mine() { grep -Ev '__do_global_dtors_aux|_start|^1 .* 0 \[unknown\]' "$1" | sort; }
	[ "$(mine i.fdata)" = "$(mine i2.fdata)" ] || fail "fdata does not come back: $(diff <(mine i.fdata) <(mine i2.fdata))"
	does convert i.prof --binary p -o i.preagg
	does convert i.preagg --binary p -o i3.prof
	[ "$(records i.prof)" = "$(records i3.prof)" ] || fail "branches do not come back from pre-aggregated text"
	for form in i2.fdata s.fdata; do
		"$bolt" p -data $form -o p.bolt -reorder-blocks=ext-tsp -v=2 >bolt.log 2>&1 || fail "llvm-bolt refuses $form"
		grep -E 'match only|stale|invalid|corrupt' bolt.log && fail "llvm-bolt on $form"
		grep -q 'have non-empty execution profile' bolt.log || fail "llvm-bolt finds no profile in $form"
		[ "$(./p.bolt)" = "$(./p)" ] || fail "llvm-bolt's output with $form"
	done
	"$OPTVM" convert i.prof --binary p.stripped -o st.fdata 2>/dev/null || fail "fdata for a stripped file"
	"$bolt" p.stripped --allow-stripped -data st.fdata -o p.bolt -v=2 >bolt.log 2>&1
	grep -Eq '[1-9][0-9]* out of .* have non-empty' bolt.log || fail "llvm-bolt on the stripped file: $(cat bolt.log)"
	grep -E 'match only' bolt.log && fail "llvm-bolt on the stripped file"
	"$OPTVM" rewrite -q p -p i.prof -f -o p.opt && [ "$(./p.opt)" = "$(./p)" ] || fail "rewrite with imported counts"
else
	echo "no llvm-bolt that can instrument: its opinion is not asked"
fi
exit $bad
