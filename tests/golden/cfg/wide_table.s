# a table without a bound, but for the width of its index, reaches into what follows: only its own fragment joins the group
# RUN: dump cfg %t --only g
# OUT: cfg g: 2 regions, 4 blocks, 11 insns, 1 tables, 0 unknown jumps
# OUT:   region g
# OUT:   bb0 [0x400180, 0x400195) 6 insns start reachable
# OUT:     table 0x4001b4 base 0x4001b4 256 x 4 bytes, bound width, load 0x40018c
# OUT:     -> 0x400174 table 1
# OUT:     -> bb1 table 1
# OUT:     -> bb3 table 1
# OUT:     -> 0x4001aa table 1
# OUT:     -> 0x4001b4 table 1
# OUT:   bb1 [0x400195, 0x40019a) 1 insns table-target reachable
# OUT:     -> bb2 fall 1
# OUT:   bb2 [0x40019a, 0x40019c) 2 insns reachable
# OUT:   region g_cold
# OUT:   bb3 [0x4001a3, 0x4001aa) 2 insns start table-target reachable
# OUT:     -> bb2 taken 1

	.globl	_start, g
	.type	_start, @function
_start:	.cfi_startproc
	call	g
	call	h
	ud2
	.cfi_endproc
	.size	_start, . - _start
	.type	g, @function
g:	.cfi_startproc
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	movzbl	%dil, %edi
	leaq	.Ltable(%rip), %rdx
	movslq	(%rdx,%rdi,4), %rax
	addq	%rdx, %rax
	jmp	*%rax
.L0:	movl	$10, %eax
.Lout:	popq	%rbx
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
	.size	g, . - g
	.type	h, @function
h:	.cfi_startproc
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	testl	%edi, %edi
	jne	h_cold
.Lh:	popq	%rbx
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
	.size	h, . - h
	.type	g_cold, @function
g_cold:	.cfi_startproc
	.cfi_adjust_cfa_offset 8
	movl	$11, %eax
	jmp	.Lout
	.cfi_endproc
	.size	g_cold, . - g_cold
	.type	h_cold, @function
h_cold:	.cfi_startproc
	.cfi_adjust_cfa_offset 8
	movl	$12, %eax
	jmp	.Lh
	.cfi_endproc
	.size	h_cold, . - h_cold
	.section .rodata
	.balign	4
.Ltable:
	.long	.L0 - .Ltable, g_cold - .Ltable
	.long	_start - .Ltable, h_cold - .Ltable	# what follows: somebody else's
	.fill	260, 4, 0
