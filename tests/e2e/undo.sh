#!/usr/bin/env bash
# --undo gives the original back byte by byte, also after strip and friends where that is possible, and never something else.
# A rewritten file is rewritten from its original: same profile, same bytes; a profile of the optimized program works as well.
# The same bytes come out whatever the number of processors.
. "$(dirname "$0")/../support/e2e.sh" gcc strip objcopy taskset cmp

cat >p.c <<'EOC'
#include <stdio.h>
#include <stdlib.h>
__attribute__((noinline)) static unsigned step(unsigned x, int k)
{
	switch (k & 7) {
	case 0: return x * 3 + 1;
	case 1: return x ^ (x << 7);
	case 2: return x + 11;
	case 3: return (x >> 3) | (x << 29);
	case 4: return x - k;
	case 5: return ~x;
	default: return x ^ 0x55;
	}
}
__attribute__((noinline)) static unsigned work(unsigned x, int n)
{
	for (int i = 0; i < n; i++) {
		x = step(x, x >> 5);
		if (__builtin_expect(x == 12345, 0))
			fprintf(stderr, "rare\n");
	}
	return x;
}
int main(int c, char **v)
{
	unsigned x = 1;
	int n = c > 1 ? atoi(v[1]) : 300;
	for (int i = 0; i < n; i++) x = work(x + i, 100000);
	printf("%u\n", x);
	return 7;
}
EOC

undo() { # FILE -> undone
	rm -f undone
	"$OPTVM" rewrite -q --undo "$1" -o undone 2>message
}
apply() { # TOOL FILE: the file, changed in place
	case $1 in
	eu-strip) eu-strip "$2" -o "$2.new" && mv "$2.new" "$2" ;;
	objcopy) objcopy "$2" "$2.new" && mv "$2.new" "$2" ;;
	*) $1 "$2" ;;
	esac >/dev/null 2>&1
}

check_kind() { # NAME FLAGS...: undone exactly, rewritten twice is rewritten once
	local name=$1 tool
	shift
	gcc -O2 "$@" p.c -o in 2>/dev/null || { echo "note: $name does not link here"; return; }
	"$OPTVM" rewrite -q in --uniform -f -o out || { fail "$name: rewrite"; return; }
	undo out || fail "$name: undo: $(cat message)"
	cmp in undone || fail "$name: undone is not the original"
	[ "$(stat -c %a in)" = "$(stat -c %a undone)" ] || fail "$name: mode"
	"$OPTVM" rewrite -q out --uniform -f -o twice || fail "$name: rewrite of a rewritten file"
	cmp out twice || fail "$name: rewriting twice is not rewriting once"
	for tool in strip "strip -g" llvm-strip-14 eu-strip objcopy "patchelf --set-rpath /tmp"; do
		command -v ${tool%% *} >/dev/null || continue
		cp out tooled
		apply "$tool" tooled || continue
		if undo tooled; then
			cmp in undone || fail "$name: undone after $tool is not the original"
		else
			[ $? = 3 ] || fail "$name: undo after $tool: status"
			[ -e undone ] && fail "$name: undo after $tool failed and left a file"
			grep -q 'cannot be restored' message || fail "$name: undo after $tool: $(cat message)"
			# what a stripped original holds beyond what is loaded is short, and kept
			[[ $name$tool == stripped*strip* ]] && fail "$name: not undone after $tool"
		fi
	done
}
check_kind pie
check_kind no-pie -no-pie
check_kind static -static
check_kind stripped -s
check_kind stripped-no-pie -s -no-pie
check_kind no-build-id -Wl,--build-id=none -s
check_kind lld -fuse-ld=lld
gcc -O2 p.c -o in
"$OPTVM" rewrite -q in --uniform -f -o out

# refusals: exit 3, one line, no file
refuse() { # WORD FILE
	undo "$2"
	[ $? = 3 ] || fail "undo of $2: status"
	grep -q "$1" message || fail "undo of $2: no '$1' in $(cat message)"
	[ "$(wc -l <message)" = 1 ] || fail "undo of $2: $(cat message)"
	[ -e undone ] && fail "undo of $2 left a file"
}
refuse "not written by optvm" in
n_refused=0
for at in $(seq 100 997 "$(stat -c %s out)"); do # a byte changed: the original, where it matters not, or nothing
	cp out changed
	printf '\125' | dd of=changed bs=1 seek="$at" conv=notrunc 2>/dev/null
	cmp -s out changed && continue
	if undo changed; then
		cmp in undone || fail "undone with byte $at changed is not the original"
	else
		[ $? = 3 ] || fail "undo with byte $at changed: status"
		[ -e undone ] && fail "undo with byte $at changed failed and left a file"
		n_refused=$((n_refused + 1))
	fi
done
[ $n_refused -gt 5 ] || fail "only $n_refused changed files were refused"
"$OPTVM" rewrite --undo out 2>/dev/null; [ $? = 2 ] || fail "undo without -o"
"$OPTVM" rewrite --undo out -p prof -o x 2>/dev/null; [ $? = 2 ] || fail "undo with a profile"
echo keep >undone
"$OPTVM" rewrite --undo out -o undone 2>/dev/null; [ $? = 2 ] || fail "undo over a file"
[ "$(cat undone)" = keep ] || fail "undo overwrote a file"

# a profile of the optimized program
"$OPTVM" record -q -o first.prof -- ./in >/dev/null
[ $? = 7 ] || { echo "skipped: cannot sample here"; exit $((bad ? 1 : 77)); }
"$OPTVM" rewrite -q in -p first.prof -f -o out || fail "rewrite with a profile"
"$OPTVM" rewrite -q out -p first.prof -f -o twice || fail "rewrite again, old profile"
cmp out twice || fail "the old profile gives other bytes the second time"
"$OPTVM" record -q -o second.prof -- ./out >/dev/null
[ $? = 7 ] || fail "the rewritten program's status"
"$OPTVM" rewrite -v out -p second.prof -f -o again 2>message || fail "rewrite with a profile of the rewritten program: $(cat message)"
covered=$(sed -n 's/.* \([0-9.]*\) % of the samples in regions covered.*/\1/p' message)
[ "${covered%.*}" -ge 90 ] || fail "only $covered % of the samples found again"
"$OPTVM" verify -q in again || fail "verify after the second round"
[ "$(./again 20; echo $?)" = "$(./in 20; echo $?)" ] || fail "output differs after the second round"
undo again && cmp in undone || fail "undo after the second round"

# any number of processors
for prog in in /usr/bin/git /usr/bin/perl; do
	[ -x $prog ] || continue
	taskset -c 0 "$OPTVM" rewrite -q $prog --uniform -f -o one || fail "rewrite on one processor"
	"$OPTVM" rewrite -q $prog --uniform -f -o two || fail "rewrite on all processors"
	cmp one two || fail "$prog: other bytes on one processor"
done
taskset -c 0 "$OPTVM" rewrite -q in -p first.prof -f -o one
cmp one out || fail "other bytes on one processor, with a profile"
exit $bad
