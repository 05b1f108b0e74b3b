#!/usr/bin/env bash
# Restartable sequences stay where they are: found with and without section headers, in position-independent and fixed
# programs, in the ways librseq and tcmalloc write them; their regions are refused, everything else is copied, and no
# increment is lost by threads that fight for the processors.
. "$(dirname "$0")/../support/e2e.sh"
unset OPTVM OPTVM_LOG
[ -e /usr/include/x86_64-linux-gnu/sys/rseq.h ] || { echo "skipped: glibc without sys/rseq.h (before 2.35)"; exit 77; }

cat >seq.S <<'END'
# (long *slots %rdi, struct rseq * %rsi): slots[8 * processor] += 1, slowly, so that many are interrupted between load and
# store; three ways to describe it
	.text
# librseq: sections, handler in a section of its own
	.globl	add_sections
	.type	add_sections, @function
add_sections:
	.cfi_startproc
	lea	descriptor(%rip), %rax
1:	mov	(%rsi), %ecx
	mov	%rax, 8(%rsi)
.Lstart1:
	cmp	%ecx, 4(%rsi)
	jne	1b
	shl	$6, %ecx
	mov	(%rdi,%rcx), %r8
	mov	$99, %r9d
2:	dec	%r9d
	jne	2b
	inc	%r8
	mov	%r8, (%rdi,%rcx)
.Lcommit1:
	ret
	.cfi_endproc
	.size	add_sections, . - add_sections

	.section __rseq_failure, "ax", @progbits
	.byte	0x0f, 0xb9, 0x3d
	.long	0x53053053
.Labort1:
	jmp	1b

	.section __rseq_cs, "aw", @progbits
	.balign	32
descriptor:
	.long	0, 0
	.quad	.Lstart1, .Lcommit1 - .Lstart1, .Labort1
	.section __rseq_cs_ptr_array, "aw", @progbits
	.quad	descriptor

# described in read-only data among other pointers; the signature belongs to an instruction that means nothing
	.text
	.globl	add_relro
	.type	add_relro, @function
add_relro:
	.cfi_startproc
	lea	hidden(%rip), %rax
1:	mov	(%rsi), %ecx
	mov	%rax, 8(%rsi)
.Lstart2:
	cmp	%ecx, 4(%rsi)
	jne	1b
	shl	$6, %ecx
	mov	(%rdi,%rcx), %r8
	mov	$99, %r9d
2:	dec	%r9d
	jne	2b
	inc	%r8
	mov	%r8, (%rdi,%rcx)
.Lcommit2:
	ret
	mov	$0x53053053, %eax
.Labort2:
	jmp	1b
	.cfi_endproc
	.size	add_relro, . - add_relro

	.section .data.rel.ro, "aw", @progbits
	.balign	32
	.quad	add_relro, add_sections, add_stack
	.balign	32
hidden:	.long	0, 0
	.quad	.Lstart2, .Lcommit2 - .Lstart2, .Labort2
	.quad	add_relro, add_sections, add_stack

# described on the stack; a handler without unwind data, as tcmalloc's
	.text
	.globl	add_stack
	.type	add_stack, @function
add_stack:
	.cfi_startproc
	movq	$0, -40(%rsp)
	lea	.Lstart3(%rip), %rax
	mov	%rax, -32(%rsp)
	movq	$.Lcommit3 - .Lstart3, -24(%rsp)
	lea	.Labort3(%rip), %rax
	mov	%rax, -16(%rsp)
	lea	-40(%rsp), %rax
.Lretry3:
	mov	(%rsi), %ecx
	mov	%rax, 8(%rsi)
.Lstart3:
	cmp	%ecx, 4(%rsi)
	jne	.Lretry3
	shl	$6, %ecx
	mov	(%rdi,%rcx), %r8
	mov	$99, %r9d
2:	dec	%r9d
	jne	2b
	inc	%r8
	mov	%r8, (%rdi,%rcx)
.Lcommit3:
	movq	$0, 8(%rsi)
	ret
	.cfi_endproc
	.size	add_stack, . - add_stack
	.byte	0x0f, 0x1f, 0x05
	.long	0x53053053
.Labort3:
	jmp	.Lretry3

# signed otherwise (the kernel would not take it): only the section tells
	.globl	named
	.type	named, @function
named:
	.cfi_startproc
.Lstart4:
	incq	(%rdi)
.Lcommit4:
	ret
	mov	$0x12345678, %eax
.Labort4:
	jmp	.Lstart4
	.cfi_endproc
	.size	named, . - named
	.section __rseq_cs
	.balign	32
	.long	0, 0
	.quad	.Lstart4, .Lcommit4 - .Lstart4, .Labort4
	.text

# the constant itself is no sequence: who registers loads it
	.globl	constant
	.type	constant, @function
constant:
	.cfi_startproc
	mov	$0x53053053, %eax
	ret
	.cfi_endproc
	.size	constant, . - constant
	.section .note.GNU-stack, "", @progbits
END
cat >main.c <<'END'
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/rseq.h>
enum { CPUS = 4096, THREADS = 4 };
static long slots[3][CPUS * 8];
static long rounds;
void add_sections(long *slots, struct rseq *rseq);
void add_relro(long *slots, struct rseq *rseq);
void add_stack(long *slots, struct rseq *rseq);
unsigned constant(void);
static __attribute__((noinline)) unsigned mix(unsigned x)
{
	for (int i = 0; i < 9; i++)
		x = x & 1 ? x * 3 + 1 : x / 2 + i;
	return x;
}
static void *work(void *arg)
{
	struct rseq *rseq = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	unsigned x = constant();
	for (long i = 0; i < rounds; i++) {
		add_sections(slots[0], rseq);
		add_relro(slots[1], rseq);
		add_stack(slots[2], rseq);
		x = mix(x);
	}
	return arg && x == 1 ? arg : NULL;
}
int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	rounds = argc > 1 ? atol(argv[1]) : 1000;
	if (!__rseq_size)
		return 77;
	for (int t = 0; t < THREADS; t++)
		pthread_create(&threads[t], NULL, work, NULL);
	for (int t = 0; t < THREADS; t++)
		pthread_join(threads[t], NULL);
	for (int s = 0; s < 3; s++) {
		long sum = 0;
		for (int i = 0; i < CPUS * 8; i++)
			sum += slots[s][i];
		printf("%ld\n", sum - THREADS * rounds);
	}
	return 0;
}
END
printf '0\n0\n0\n' >want

# FILE COUNT: so many regions are refused for it
refused() {
	local n
	"$tool" dump regions "$1" >regions 2>stderr || fail "$1: $(cat stderr)"
	n=$(grep -c 'refused=RSEQ' regions)
	[ "$n" = "$2" ] || { fail "$1: $n regions refused as restartable, not $2"; cat regions; }
}
# COMMAND...: counts nothing wrongly
counts() {
	timeout 300 "$@" >got 2>stderr || fail "status $?: $*: $(cat stderr)"
	cmp -s got want || fail "increments were lost: $*: $(tr '\n' ' ' <got)"
}

for kind in "pie -pie -fPIE" "fixed -no-pie -fno-PIE" "lld -pie -fPIE -fuse-ld=lld" "relr -pie -fPIE -Wl,-z,pack-relative-relocs"; do
	name=${kind%% *}
	# shellcheck disable=SC2086
	gcc -O2 ${kind#* } -o "$name" main.c seq.S -pthread 2>stderr || { echo "left out: no $name: $(head -1 stderr)"; continue; }
	refused "$name" 4
	for f in add_sections add_relro add_stack named; do
		grep -q " $f .*refused=RSEQ" regions || fail "$name: $f is not refused"
	done
	strip -o "$name.stripped" "$name"
	refused "$name.stripped" 4
	cp "$name.stripped" "$name.bare"
	# no section headers: e_shoff, e_shnum, e_shstrndx
	printf '\0\0\0\0\0\0\0\0' | dd of="$name.bare" bs=1 seek=40 conv=notrunc status=none
	printf '\0\0\0\0' | dd of="$name.bare" bs=1 seek=60 conv=notrunc status=none
	refused "$name.bare" 3
	counts "./$name.stripped" 1000
	"$tool" rewrite --uniform "$name.stripped" -o "$name.opt" 2>stderr || fail "$name: $(cat stderr)"
	counts "./$name.opt" 1000000
done
if "$tool" run true 2>/dev/null; then
	counts "$tool" run -v --uniform --sample-ms 50 --min-samples 1 ./pie.stripped 8000000
	grep -q 'optimized .* regions' stderr || echo "run: $(cat stderr)"
fi
exit $bad
