# the hot arm becomes the fall-through, the cold one moves behind
# RUN: dump layout %t -p %p --only f
# PROF: f 40
# PROF: .Lhot2 900
# OUT: layout: 2 hot blocks, 1 cold, score 37500, originally 3618
# OUT: f: bb0 bb2 | cold: bb1

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
	movl	%esi, %eax
	movl	%esi, %ecx
	jne	.Lhot
.Lcold:	movl	$1, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	ret
.Lhot:	addl	%esi, %eax
.Lhot2:	addl	%edx, %eax
	ret
	.cfi_endproc
	.size	f, . - f
