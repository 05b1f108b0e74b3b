#!/usr/bin/env bash
# Programs that were dumped with their heap (Lisp images) go on growing it where it ends, at the program break: a new segment above
# would move that. They are refused, with the reason; programs of fixed address that only ask for the break are not.
. "$(dirname "$0")/../support/e2e.sh" gcc objcopy readelf

cat >p.c <<'EOF'
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <sys/personality.h>
#include <unistd.h>
extern char _end[];
static char heap[100000];
int main(int c, char **v) {
	if (!(personality(0xffffffff) & ADDR_NO_RANDOMIZE)) {
		personality(ADDR_NO_RANDOMIZE);
		return execv("/proc/self/exe", v);
	}
	heap[c] = 1;
	int follows = ((uintptr_t)_end + 4095) / 4096 == (uintptr_t)sbrk(0) / 4096;
	printf("the break %s the data\n", follows ? "follows" : "does not follow");
	return !follows;
}
EOF
gcc -O2 -no-pie p.c -o p || exit 1
./p >/dev/null || { echo "skipped: the kernel does not start the break where data ends"; exit 77; }
"$tool" rewrite -q p --uniform -f -o out && ./out >/dev/null
[ $? = 1 ] || fail "a program with a .bss is not rewritten any more"

objcopy --set-section-flags .bss=alloc,load,contents p dumped || exit 1
[ "$(readelf -lW dumped | awk '$1 == "LOAD" && /RW/ { print $5 == $6 }')" = 1 ] || fail "the test's image has a .bss"
./dumped >/dev/null || fail "the image does not run"
"$tool" rewrite dumped --uniform -f -o out 2>said
[ $? = 3 ] || fail "an image was rewritten: $(./out)"
grep -q 'heap' said || fail "refused without saying why: $(cat said)"
"$tool" run --always ./dumped >said 2>&1 || fail "run: $(cat said)"

# the same shape in a program that is moved anyway
gcc -O2 -pie p.c -o q && objcopy --set-section-flags .bss=alloc,load,contents q pie &&
	"$tool" rewrite -q pie --uniform -f -o out || fail "a PIE is refused"
exit $bad
