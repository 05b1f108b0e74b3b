#!/usr/bin/env bash
# What stands behind an ELF file (an archive, a core, a script's data) is looked for from the end of the file, at an offset from its
# start, or where the section headers end. In a rewritten file all three must find it; verify must know it, undo must restore it.
. "$(dirname "$0")/../support/e2e.sh" gcc llvm-objcopy-14 python3

cat >p.c <<'EOF'
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct trailer { long start, size; char magic[8]; }; /* start: from the beginning of the file */
static char *load(long *size) {
	FILE *f = fopen("/proc/self/exe", "rb");
	fseek(f, 0, SEEK_END);
	char *bytes = malloc(*size = ftell(f));
	rewind(f);
	return fread(bytes, 1, *size, f) == (size_t)*size ? bytes : NULL;
}
__attribute__((noinline)) static void say(const char *how, const char *at, long size) { printf("%s %ld %.20s\n", how, size, at); }
int main(void) {
	long size;
	char *bytes = load(&size);
	struct trailer t;
	memcpy(&t, bytes + size - sizeof(t), sizeof(t));
	if (memcmp(t.magic, "TRAILER", 8)) return 3;
	say("from the end", bytes + size - sizeof(t) - t.size, t.size);
	say("from the start", bytes + t.start, t.size);
	Elf64_Ehdr *eh = (Elf64_Ehdr *)bytes;
	if (eh->e_shoff) say("behind the headers", bytes + eh->e_shoff + eh->e_shnum * eh->e_shentsize, t.size);
	return 0;
}
EOF
cat >append.py <<'EOF'
import struct, sys
path, n = sys.argv[1], int(sys.argv[2])
b = open(path, 'rb').read()
data = b'data behind the file' + bytes(range(256)) * n
open(path, 'wb').write(b + data + struct.pack('<qq8s', len(b), len(data), b'TRAILER'))
EOF

check() { # NAME: the program p as it is
	local want
	want=$(./p) || { fail "$1: the original fails"; return; }
	"$tool" rewrite -q p --uniform -f -o out || { fail "$1: rewrite"; return; }
	[ "$(./out)" = "$want" ] || fail "$1: $(./out 2>&1 | diff - <(echo "$want") | head -3)"
	"$tool" verify p out >/dev/null || fail "$1: verify"
	"$tool" rewrite -q --undo out -f -o undone && cmp p undone || fail "$1: undo"
	printf '?' | dd of=out bs=1 seek=$(($(stat -c %s out) - 100)) conv=notrunc status=none
	"$tool" verify p out >said 2>&1 && fail "$1: verify does not see a changed byte"
	grep -q 'appended' said || fail "$1: verify does not say where: $(cat said)"
}
for flags in -pie -no-pie; do
	gcc -O2 $flags p.c -o p && python3 append.py p 1000 && check "$flags"
	gcc -O2 $flags p.c -o p && llvm-objcopy-14 --strip-sections p && python3 append.py p 1 && check "$flags without section headers"
done

# a ZIP archive: its directory is found from the end, its members relative to that
gcc -O2 -static p.c -o p
python3 -c "
import zipfile
with zipfile.ZipFile('p', 'a') as z: z.writestr('a', 'in the archive')"
"$tool" rewrite -q p --uniform -f -o out || fail "zip: rewrite"
[ "$(python3 -c "import zipfile; print(zipfile.ZipFile('out').read('a').decode())")" = "in the archive" ] || fail "zip: member is not found"

# a few zero bytes are no such thing: nothing is repeated
gcc -O2 p.c -o p && printf '\0\0\0' >>p && "$tool" rewrite -q p --uniform -f -o out && "$tool" verify p out >/dev/null || fail "zeros"
exit $bad
