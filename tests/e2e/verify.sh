#!/usr/bin/env bash
# optvm verify: proves what rewrite wrote, for every kind of file; finds planted corruption anywhere; says 3 to what is no pair.
# (Thousands of mutants, in one process: tests/unit/test_elf_verify.c.)
. "$(dirname "$0")/../support/e2e.sh" g++ strip objcopy python3 cmp

cat >p.cc <<'EOC'
#include <cstdio>
#include <stdexcept>
#include <vector>
__attribute__((noinline)) int f(int x) { if (x > 5) throw std::runtime_error("x"); return x; }
struct guard { int &n; ~guard() { n++; } };
__attribute__((noinline)) int g(int x) {
	int n = 0;
	guard a{n};
	switch (x) { case 0: return 3; case 1: return 9; case 2: return f(x); case 3: return 1; case 4: return f(x + 1); case 5: return 4; }
	try { return f(x); } catch (std::logic_error &) { return n; }
}
int main() {
	std::vector<int> a;
	try { for (int i = 0; i < 10; i++) a.push_back(g(i)); } catch (std::exception &e) { printf("%s %zu\n", e.what(), a.size()); }
	return 0;
}
EOC

expect() { # STATUS WORD IN OUT: status, and a word of what is said, in one line
	"$OPTVM" verify "$3" "$4" >stdout 2>stderr
	[ $? = "$1" ] || fail "verify $3 $4: not $1: $(cat stdout stderr)"
	[ "$(cat stdout stderr | wc -l)" = 1 ] || fail "verify $3 $4: not one line: $(cat stdout stderr)"
	grep -q -- "$2" stdout stderr || fail "verify $3 $4: no '$2' in $(cat stdout stderr)"
}
check_kind() { # NAME FLAGS...
	local name=$1
	shift
	g++ -O2 "$@" p.cc -o "$name" 2>/dev/null || { echo "note: $name does not link here"; return; }
	"$OPTVM" rewrite -q "$name" --uniform -f -o "$name.out" || { fail "$name: rewrite"; return; }
	expect 0 "every other byte as written" "$name" "$name.out"
}
check_kind pie
check_kind no-pie -no-pie
check_kind static -static
check_kind static-pie -static-pie
check_kind stripped -s
check_kind no-build-id -Wl,--build-id=none
check_kind emit-relocs -Wl,-q
check_kind ibt -fcf-protection
check_kind library -shared -fPIC
check_kind lld -fuse-ld=lld
check_kind gold -fuse-ld=gold
python3 - stripped headless <<'EOP' # without section headers
import struct, sys
b = bytearray(open(sys.argv[1], 'rb').read())
b[40:48] = bytes(8); b[60:64] = bytes(4)
open(sys.argv[2], 'wb').write(b)
EOP
chmod +x headless
"$OPTVM" rewrite -q headless --uniform -f -o headless.out || fail "headless: rewrite"
expect 0 "every other byte as written" headless headless.out

# tools may make anew what is not loaded
for tool in strip "strip -g" llvm-strip-14 eu-strip objcopy; do
	command -v ${tool%% *} >/dev/null || continue
	cp pie.out tooled
	case $tool in
	eu-strip) eu-strip tooled -o new && mv new tooled ;;
	objcopy) objcopy tooled new && mv new tooled ;;
	*) $tool tooled ;;
	esac
	expect 0 "what is loaded is as written" pie tooled
done

# no pair
expect 3 "not written by optvm" pie pie
expect 3 "another file" no-pie pie.out
expect 3 "another file" pie.out pie.out
expect 3 "" pie nothere
expect 3 "" p.cc pie.out
"$OPTVM" verify pie 2>/dev/null
[ $? = 2 ] || fail "one file: not 2"

# planted corruption, everywhere in the file
cat >mutate.py <<'EOP'
import random, subprocess, sys
tool, original, rewritten, n = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
good = open(rewritten, 'rb').read()
size = len(open(original, 'rb').read())
rng = random.Random(5)
missed = 0
for i in range(n):
	b = bytearray(good)
	at = rng.randrange(size, len(b)) if i % 4 else rng.randrange(size)
	bit = 1 << rng.randrange(8)
	b[at] ^= bit
	open('mutant', 'wb').write(b)
	p = subprocess.run([tool, 'verify', original, 'mutant'], capture_output=True)
	if p.returncode not in (1, 3) or p.stderr.count(b'\n') != 1:
		missed += 1
		print(f'FAIL status {p.returncode} with bit {bit:#x} of byte {at:#x} of {rewritten} flipped: {p.stdout} {p.stderr}')
sys.exit(missed > 0)
EOP
for kind in pie no-pie headless; do
	python3 mutate.py "$OPTVM" $kind $kind.out 120 || bad=1
done
exit $bad
