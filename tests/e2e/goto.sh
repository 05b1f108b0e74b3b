#!/usr/bin/env bash
# Computed goto in position-independent files: an interpreter whose table of labels the dynamic linker fills in. Its code is copied, nothing
# leads back, same output; new file, counted, live; packed relocations, a shared library, and what was learnt with other compilers.
. "$(dirname "$0")/../support/e2e.sh"
unset OPTVM

cat >vm.c <<'EOF'
/* Programs of random instructions; each line of output is a sum over what they did. */
unsigned long interpret(const unsigned char *code, unsigned long a, unsigned long n)
{
	static const void *const labels[] = {&&add, &&sub, &&mul, &&xor, &&shift, &&swap, &&count, &&halt};
	unsigned long b = 0x9e3779b97f4a7c15ul, c = 1;
	const unsigned char *p = code;
#define NEXT goto *labels[*p++ & 7]
	NEXT;
add:	a += b; NEXT;
sub:	a -= c; NEXT;
mul:	a = a * 6364136223846793005ul + 1; NEXT;
xor:	b ^= a >> 7; if (b & 64) c++; NEXT;
shift:	a = a << 13 | a >> 51; NEXT;
swap:	c ^= b; b ^= c; c ^= b; NEXT;
count:	if (n-- == 0) return a ^ b ^ c; NEXT;
halt:	p = code + (c & 3); if (n-- == 0) return a + b + c; NEXT;
}
EOF
cat >main.c <<'EOF'
#include <stdio.h>
#include <stdlib.h>
unsigned long interpret(const unsigned char *code, unsigned long a, unsigned long n);
int main(int argc, char **argv)
{
	unsigned char code[256];
	unsigned long x = 88172645463325252ul, n = argc > 1 ? strtoul(argv[1], NULL, 0) : 100;
	for (int k = 0; k < 20; k++) {
		for (int i = 0; i < 256; i++) {
			x ^= x << 13; x ^= x >> 7; x ^= x << 17;
			code[i] = i == 255 ? 7 : (unsigned char)(x % 7);
		}
		printf("%d %lx\n", k, interpret(code, x, n));
	}
	return 0;
}
EOF

# one WORDS: ./x, whose interpreter is in ./$file, in all ways
one() {
	local original tables
	./x 3000 >want
	"$tool" record -q --counters=on --uniform -f -o p.prof -- ./x 3000 >got 2>err || true
	if [ -s p.prof ]; then cmp -s want got || fail "$*: counted"; fi
	"$tool" rewrite -q "$file" --uniform -f -o y || { fail "$*: rewrite"; return; }
	"$tool" verify -q "$file" y || fail "$*: verify"
	original=$file.original
	cp "$file" "$original"
	cp y "$file"
	./x 3000 >got || fail "$*: status $?"
	cmp -s want got || fail "$*: output"
	cp "$original" "$file"
	tables=$("$tool" dump cfg --uniform --only interpret "$file" 2>/dev/null | grep -c 'table .* x 8 bytes')
	echo "$*: $tables tables of addresses"
	total=$((total + tables))
	"$tool" run -q --always -- ./x 300000 >got 2>err || fail "$*: run: $(cat err)"
	./x 300000 >want
	cmp -s want got || fail "$*: run: output"
}

total=0
for cc in gcc clang-14; do
	command -v $cc >/dev/null || { echo "no $cc here"; continue; }
	for opt in -O0 -O1 -O2 -O3 -Os; do
		$cc $opt -fPIE -pie main.c vm.c -o x || exit 1
		file=x one "$cc $opt"
	done
	$cc -O2 -fPIC -shared vm.c -o libvm.so && $cc -O2 main.c -L. -lvm -Wl,-rpath,"$dir" -o x || exit 1
	file=libvm.so one "$cc -shared"
	if $cc -O2 -fPIE -pie -Wl,-z,pack-relative-relocs main.c vm.c -o x 2>/dev/null; then file=x one "$cc relr"; fi
	$cc -O2 -fcf-protection=full -fPIE -pie main.c vm.c -o x || exit 1
	file=x one "$cc -fcf-protection"
done
[ $total -gt 0 ] || fail "no table of addresses was found in any of them"
exit $bad
