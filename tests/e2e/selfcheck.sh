#!/usr/bin/env bash
# Code that hashes itself at its start, as FIPS modules in a program do, is left alone: all of a stripped file, else what it hashes.
. "$(dirname "$0")/../support/e2e.sh" gcc strip
cat >p.c <<'EOF'
#include <stdio.h>
#include <stdlib.h>
__attribute__((used, noinline, section(".bcm.a"))) void BORINGSSL_bcm_text_start(void) { asm volatile("nop"); }
__attribute__((noinline, section(".bcm.b"))) unsigned inside(unsigned x, int n) { for (int i = 0; i < n; i++) x = x * 33 ^ x >> 3; return x; }
__attribute__((used, noinline, section(".bcm.c"))) void BORINGSSL_bcm_text_end(void) { asm volatile("nop"); }
__attribute__((noinline)) unsigned outside(unsigned x, int n) { for (int i = 0; i < n; i++) x = x * 31 ^ x >> 5; return x; }
#ifndef DUE
#define DUE 0
#endif
const volatile unsigned due = DUE;
int main(int c, char **v)
{
	unsigned hash = 0;
	for (const volatile unsigned char *p = (void *)BORINGSSL_bcm_text_start; p < (unsigned char *)BORINGSSL_bcm_text_end; p++)
		hash = hash * 31 + *p;
	if (c > 1) { printf("%u\n", hash); return 0; }
#ifdef NEWER
	static const char *volatile what = "FIPS integrity test";
	if (hash != due) { fprintf(stderr, "%s failed.\n", what); abort(); }
#else
	if (hash != due) { fprintf(stderr, "FIPS integrity test failed.\n"); abort(); }
#endif
	printf("%u %u\n", inside(1, 999), outside(1, 999));
	return 3;
}
EOF
echo 'SECTIONS { .bcm : { *(.bcm.a) *(.bcm.b) *(.bcm.c) } } INSERT AFTER .text;' >order.ld # in the order of their names
for age in OLDER NEWER; do
gcc -O2 -no-pie -D$age p.c -T order.ld -o p && gcc -O2 -no-pie -D$age -DDUE="$(./p hash)u" p.c -T order.ld -o p || exit 1
want=$(./p)
[ $? = 3 ] || { echo "FAIL: the original does not run"; exit 1; }
"$OPTVM" rewrite -v p --uniform -f -o out 2>said || fail "rewrite: $(cat said)"
[ "$(./out)" = "$want" ] || fail "with symbols: $(./out 2>&1)"
grep -q 'left alone: [23] regions: may belong to code that checks itself' said || fail "with symbols: $(cat said)"
grep -q ' outside\.optvm' <(nm out) || fail "what is outside was not copied"
strip p
"$OPTVM" rewrite -v p --uniform -f -o out 2>said
[ $? = 1 ] || fail "stripped: not refused: $(cat said)"
grep -q 'checks itself' said || fail "stripped: no reason: $(cat said)"
done
exit $bad
