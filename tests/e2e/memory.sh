#!/usr/bin/env bash
# Files of which most is data take the memory of their code, not of their size: rewrite, verify, undo and rewrite again.
# And where all of very much code is copied, not that of all its graphs.
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
most() { # LIMIT WORDS: the tool's greatest memory
	local status mib limit=$1
	shift
	read -r status mib < <(python3 most.py "$tool" "$@")
	[ "$status" = 0 ] || fail "$*: status $status"
	[ "$mib" -lt "$limit" ] || fail "$*: $mib MiB, not below $limit"
}
all() { # FILE LIMIT
	most "$2" rewrite -q "$1" --uniform -f -o out
	most "$2" verify "$1" out
	most "$2" rewrite -q --undo out -f -o undone
	cmp "$1" undone || fail "undo $1"
	[ "$(./out)" = "$("./$1")" ] || fail "$1: output differs"
}
all p 130

# 40 MB in 1500 functions, each with a jump table, that call the next one: 4 million instructions
python3 - <<'EOF' >code.s
print('.text')
for i in range(1500):
    print(f"""	.type f{i}, @function
f{i}:	.cfi_startproc
	mov %edi, %eax
	and $3, %edi
	cmp $3, %edi
	ja 3f
	lea t{i}(%rip), %rdx
	movslq (%rdx,%rdi,4), %rcx
	add %rdx, %rcx
	notrack jmp *%rcx
0:	add ${i}, %eax
1:	imul $7, %eax, %eax
2:	rol $3, %eax
3:	.rept 2700
	movabs $0x1234567812345678, %rcx
	.endr
	mov %eax, %edi
	{'ret' if i % 100 == 99 else f'jmp f{i + 1}'}
	.cfi_endproc
	.section .rodata
	.align 4
t{i}:	.long 0b - t{i}, 1b - t{i}, 2b - t{i}, 3b - t{i}
	.text""")
print("""	.globl all
	.type all, @function
all:	.cfi_startproc
	push %rbx
	.cfi_adjust_cfa_offset 8
	.cfi_offset %rbx, -16
	xor %ebx, %ebx""")
for i in range(0, 1500, 100):
    print(f'	lea {i}(%rbx), %edi\n	call f{i}\n	add %eax, %ebx')
print('	mov %ebx, %eax\n	pop %rbx\n	.cfi_adjust_cfa_offset -8\n	ret\n	.cfi_endproc\n	.section .note.GNU-stack')
EOF
printf '#include <stdio.h>\nint all(void);\nint main(void) { printf("%%d\\n", all()); }\n' >main.c
gcc -O2 code.s main.c -o q || exit 1
rm code.s
all q 300
[ "$(readelf -SW out | grep -c ' \.optvm\.text ')" = 1 ] || fail "sections"
exit $bad
