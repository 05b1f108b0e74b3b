#!/usr/bin/env bash
# rewrite --all: program and hot libraries of a profile into one folder, which runs with the command that is printed.
. "$(dirname "$0")/../support/e2e.sh" gcc

cat >lib.c <<'EOC'
unsigned twist(unsigned x, int n) { for (int i = 0; i < n; i++) x = x & 1 ? x * 5 + 3 : (x >> 1) ^ 0x9e3779b9; return x; }
EOC
cat >prog.c <<'EOC'
#include <stdio.h>
unsigned twist(unsigned, int);
__attribute__((noinline)) static unsigned own(unsigned x, int n) { for (int i = 0; i < n; i++) x = x % 3 ? x + 7 : x ^ (x >> 2); return x; }
int main(void)
{
	unsigned x = 1;
	for (int i = 0; i < 400; i++) x = own(twist(x, 300000), 300000);
	printf("%u\n", x);
	return 3;
}
EOC
mkdir lib "a folder" && gcc -O2 -fPIC -shared -Wl,-soname,libtwist.so.1 lib.c -o lib/libtwist.so.1.0 && ln -s libtwist.so.1.0 lib/libtwist.so.1 &&
	ln -s libtwist.so.1 lib/libtwist.so && gcc -O2 prog.c -o prog -Llib -ltwist -Wl,-rpath,'$ORIGIN/lib' || { echo "FAIL build"; exit 1; }
want=$(./prog; echo $?)
"$OPTVM" record -q -o prof -- ./prog >/dev/null
[ $? = 3 ] || { echo "skipped: cannot sample here"; exit 77; }

"$OPTVM" rewrite --all -p prof -d fast >said 2>errors || fail "rewrite --all: $(cat errors said)"
grep -q '^fast/prog: .* regions.* 100.0 % ' said || fail "no line for the program: $(cat said)"
grep -q '^fast/libtwist.so.1: .* regions' said || fail "no line for the library under its soname: $(cat said)"
[ -s errors ] && fail "errors: $(cat errors)"
command=$(tail -1 said)
[[ $command == LD_LIBRARY_PATH=$dir/fast*:$dir/lib\ $dir/fast/prog ]] || fail "command: $command"
[ "$(sh -c "$command"; echo $?)" = "$want" ] || fail "the rewritten set runs otherwise"
sh -c "LD_TRACE_LOADED_OBJECTS=1 ${command}" | grep -q "$dir/fast/libtwist.so.1" || fail "the rewritten library is not used"
"$OPTVM" verify -q prog fast/prog || fail "verify prog"
"$OPTVM" verify -q lib/libtwist.so.1 fast/libtwist.so.1 || fail "verify library"

# a second round, from a profile of the first's result; a folder with a space in its name
sh -c "${command% *} '$OPTVM' record -q -o prof2 -- ${command##* }" >/dev/null
[ $? = 3 ] || fail "record of the rewritten set"
"$OPTVM" rewrite --all -p prof2 -d "a folder" >said 2>errors || fail "second round: $(cat errors said)"
[ "$(sh -c "$(tail -1 said)"; echo $?)" = "$want" ] || fail "the second round runs otherwise: $(cat said)"
"$OPTVM" verify -q prog "a folder/prog" || fail "verify prog, second round"
"$OPTVM" verify -q lib/libtwist.so.1 "a folder/libtwist.so.1" || fail "verify library, second round"

# nothing is overwritten unasked
cp fast/prog keep
"$OPTVM" rewrite --all -p prof -d fast >said 2>errors && fail "overwrote without -f"
cmp -s keep fast/prog || fail "changed an existing file without -f"
"$OPTVM" rewrite --all -p prof -d fast -f >said 2>errors || fail "with -f: $(cat errors)"

# a changed file and one that is gone are told and left alone; one file is enough, none is 3
sed 's/% 3/% 5/' prog.c >other.c && cp prog keep.prog && gcc -O2 other.c -o prog -Llib -ltwist -Wl,-rpath,'$ORIGIN/lib'
"$OPTVM" rewrite --all -p prof -d some >said 2>errors || fail "one changed file: $(cat errors said)"
grep -q "/prog: left alone: changed since" said || fail "the changed program is not told: $(cat said)"
[ -e some/prog ] && fail "the changed program was written"
[ -e some/libtwist.so.1 ] || fail "the library was not written"
mv lib/libtwist.so.1.0 lib/away
"$OPTVM" rewrite --all -p prof -d none >said 2>errors
[ $? = 3 ] || fail "no file left: not 3: $(cat errors said)"
grep -qi "no such file" said || fail "the missing library is not told: $(cat said)"

expect() { # STATUS WORD COMMAND...
	local status=$1 word=$2 got
	shift 2
	"$@" >stdout 2>stderr
	got=$?
	[ $got = "$status" ] || fail "status $got, not $status: $*: $(cat stderr)"
	grep -q -- "$word" stderr || fail "no '$word' in $(cat stderr)"
}
expect 2 "-d DIR" "$OPTVM" rewrite --all -p prof
expect 2 "no profile" "$OPTVM" rewrite --all -d x
expect 2 "--all goes with none of" "$OPTVM" rewrite --all -p prof -d x -o y
expect 2 "-d DIR goes with --all" "$OPTVM" rewrite prog -p prof -d x -o y
expect 1 "" "$OPTVM" rewrite --all -p prof -d no/such/folder
expect 3 "" "$OPTVM" rewrite --all -p prog.c -d x
exit $bad
