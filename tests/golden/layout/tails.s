# the way that jumps to the common end gets an end of its own; branches go to the first copy
# RUN: dump layout %t -p %p --only f --passes=tails
# PROF: f 10
# PROF: .Lleft 500
# PROF: .Lright 400
# PROF: .Lend 900
# OUT: layout: 5 hot blocks, 0 cold, score 364845, originally 318438
# OUT: f: bb0 bb1 bb3 bb2 bb3'

	.globl	_start, f
	.type	_start, @function
_start:	.cfi_startproc
	call	f
	ud2
	.cfi_endproc
	.size	_start, . - _start
	.type	f, @function
f:	.cfi_startproc
	testl	%edi, %edi
	jne	.Lright
.Lleft:	leal	1(%rsi), %eax
	imull	%eax, %eax
	jmp	.Lend
.Lright:	leal	3(%rsi), %eax
	imull	%eax, %eax
.Lend:	addl	%edx, %eax
	xorl	%ecx, %eax
	ret
	.cfi_endproc
	.size	f, . - f
