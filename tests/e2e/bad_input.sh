#!/usr/bin/env bash
# Bad input: one clear message, the exit code of the manual, no output file; `run` still runs the program.
set -u
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
bad=0
expect() { # STATUS WORD COMMAND...: exit status, a word of the message, no output file, exactly one line on stderr
	local status=$1 word=$2 got
	shift 2
	rm -f out
	"$@" >stdout 2>stderr </dev/null
	got=$?
	if [ $got != "$status" ]; then echo "FAIL status $got, not $status: $*: $(cat stderr)"; bad=1; fi
	grep -qi -- "$word" stderr || { echo "FAIL no '$word' in: $(cat stderr) ($*)"; bad=1; }
	[ "$(wc -l <stderr)" = 1 ] || { echo "FAIL $(wc -l <stderr) lines on stderr: $* $(cat stderr)"; bad=1; }
	[ -e out ] && { echo "FAIL output file left: $*"; bad=1; }
}
cat >p.c <<'EOF'
#include <stdio.h>
int work(int n) { int s = 0; for (int i = 0; i < n; i++) s += i ^ (s >> 3); return s; }
int main(int c, char **v) { long s = 0; for (int i = 0; i < 3000; i++) s += work(100000 + c); printf("%ld\n", s); return 7; }
EOF
gcc -O2 p.c -o p
sed 's/>> 3/>> 5/' p.c >other.c
gcc -O2 other.c -o other
"$OPTVM" record -q -o prof -- ./p >/dev/null
[ $? = 7 ] || { echo "FAIL record does not pass the exit status on"; bad=1; }
head -c 40 p >short
head -c 3000 p >half
printf '#!/bin/sh\n' >script
printf 'int f(void){return 1;}' | gcc -c -x c - -o object.o
gcc -O2 -m32 p.c -o p32 2>/dev/null || { head -c 5000 p >p32; printf '\001' | dd of=p32 bs=1 seek=4 conv=notrunc 2>/dev/null; }
objcopy --remove-section .eh_frame --remove-section .eh_frame_hdr p nofde 2>/dev/null
head -c 100 prof >badprof
: >empty
"$OPTVM" rewrite -q p -p prof -o done || { echo "FAIL plain rewrite"; bad=1; }
./done >/dev/null
[ $? = 7 ] || { echo "FAIL rewritten program's status"; bad=1; }

expect 3 elf "$OPTVM" rewrite short -p prof -o out
expect 3 "" "$OPTVM" rewrite half -p prof -o out
expect 3 elf "$OPTVM" rewrite script -p prof -o out
expect 3 "" "$OPTVM" rewrite object.o -p prof -o out
expect 3 "" "$OPTVM" rewrite p32 -p prof -o out
expect 3 "" "$OPTVM" rewrite nofde -p prof -o out
expect 3 "no samples of this build" "$OPTVM" rewrite other -p prof -o out
expect 3 profile "$OPTVM" rewrite p -p badprof -o out
expect 3 profile "$OPTVM" rewrite p -p empty -o out
expect 3 "not written by optvm" "$OPTVM" rewrite --undo p -o out
expect 1 "no such file" "$OPTVM" rewrite nothere -p prof -o out
expect 2 "" "$OPTVM" rewrite p -o out
expect 2 "" "$OPTVM" rewrite p -p prof
expect 2 "" "$OPTVM" rewrite p -p prof -o p
expect 2 "" "$OPTVM" rewrite --nonsense
expect 2 "did you mean" "$OPTVM" rewrit
expect 127 "" "$OPTVM" run -- ./nothere
expect 126 "" "$OPTVM" run -- ./p.c
expect 127 "" "$OPTVM" record -o out -- ./nothere
cp p keep
"$OPTVM" rewrite -q p -p prof -o done 2>/dev/null && { echo "FAIL overwrote an existing output without -f"; bad=1; }
cmp -s p keep || { echo "FAIL the input was changed"; bad=1; }

# truncated at every 64th byte, and with random bytes flipped: an answer, never a crash
size=$(stat -c %s p)
for ((i = 64; i < size; i += size / 60)); do
	head -c $i p >t
	timeout 20 "$OPTVM" rewrite -q t --uniform -f -o out 2>/dev/null
	[ $? -gt 100 ] && { echo "FAIL crashed on p truncated to $i bytes"; bad=1; }
done
for seed in $(seq 1 80); do
	python3.11 -c "
import random, sys
random.seed($seed); b = bytearray(open('p', 'rb').read())
lo, hi = random.choice([(0, 64), (64, 900), (0, len(b))])
for _ in range(random.choice([1, 4, 40])): b[random.randrange(lo, hi)] = random.randrange(256)
open('t', 'wb').write(b)"
	timeout 20 "$OPTVM" rewrite -q t --uniform -f -o out 2>/dev/null
	[ $? -gt 100 ] && { echo "FAIL crashed on mutation $seed"; bad=1; }
done

# OPTVM=off, and a program that runs although sampling finds nothing
[ "$(env OPTVM=off "$OPTVM" run -- echo hello 2>&1)" = hello ] || { echo "FAIL OPTVM=off"; bad=1; }
[ "$("$OPTVM" run echo hello 2>&1)" = hello ] || { echo "FAIL run echo"; bad=1; }
"$OPTVM" run sh -c 'kill -TERM $$' 2>/dev/null
[ $? = 143 ] || { echo "FAIL the signal is not passed on"; bad=1; }
exit $bad
