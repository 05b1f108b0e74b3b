#!/usr/bin/env bash
# Files of which most is data take the memory of their code, not of their size: rewrite, verify, undo and rewrite again.
. "$(dirname "$0")/../support/e2e.sh" gcc python3

cat >p.c <<'EOF'
#include <stdio.h>
__asm__(".section .rodata\nlarge: .zero 200 << 20\n.previous");
extern const char large[];
__attribute__((noinline)) static int f(int n) { return n < 2 ? n : f(n - 1) + f(n - 2); }
int main(int c, char **v) { (void)v; return printf("%d %d\n", f(10 + c), large[c << 20]) < 0; }
EOF
gcc -O2 p.c -o p || exit 1
cat >most.py <<'EOF'
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
EOF
most() { # WORDS: the tool's greatest memory
	local status mib
	read -r status mib < <(python3 most.py "$tool" "$@")
	[ "$status" = 0 ] || fail "$*: status $status"
	[ "$mib" -lt 130 ] || fail "$*: $mib MiB for a file of $(($(stat -c %s p) >> 20)) MiB"
}
most rewrite -q p --uniform -f -o out
most verify p out
most rewrite -q --undo out -f -o undone
cmp p undone || fail "undo"
[ "$(./out)" = "$(./p)" ] || fail "output differs"
exit $bad
