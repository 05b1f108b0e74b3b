# a PIC jump table with a proven bound: four entries, base in a register
# RUN: dump cfg %t --only g
# OUT: cfg g: 1 regions, 6 blocks, 15 insns, 1 tables, 0 unknown jumps
# OUT:   region g
# OUT:   bb0 [0x40017b, 0x400180) 2 insns start reachable
# OUT:     -> bb1 fall 1
# OUT:     -> bb5 taken 1
# OUT:   bb1 [0x400180, 0x400192) 5 insns reachable
# OUT:     table 0x4001a8 base 0x4001a8 4 x 4 bytes, bound cmp, load 0x400189
# OUT:     -> bb2 table 1
# OUT:     -> bb3 table 1
# OUT:     -> bb4 table 1
# OUT:   bb2 [0x400192, 0x400198) 2 insns table-target reachable
# OUT:   bb3 [0x400198, 0x40019e) 2 insns table-target reachable
# OUT:   bb4 [0x40019e, 0x4001a4) 2 insns table-target reachable
# OUT:   bb5 [0x4001a4, 0x4001a7) 2 insns reachable

	.globl	_start, g
	.type	_start, @function
_start:	.cfi_startproc
	call	g
	ud2
	.cfi_endproc
	.size	_start, . - _start
	.type	g, @function
g:	.cfi_startproc
	cmpl	$3, %edi
	ja	.Ldefault
	leaq	.Ltable(%rip), %rdx
	movl	%edi, %edi
	movslq	(%rdx,%rdi,4), %rax
	addq	%rdx, %rax
	jmp	*%rax
.L0:	movl	$10, %eax
	ret
.L1:	movl	$11, %eax
	ret
.L2:	movl	$12, %eax
	ret
.Ldefault:
	xorl	%eax, %eax
	ret
	.cfi_endproc
	.size	g, . - g
	.section .rodata
	.balign	4
.Ltable:
	.long	.L0 - .Ltable, .L1 - .Ltable, .L2 - .Ltable, .L1 - .Ltable
