# a call between two copied regions goes to the copy; entries are patched where there is room
# RUN: dump overlay %t
# OUT: overlay base 0x401180 size 160 regions 2 blocks 2 insns 8
# OUT: section hot +0x0 size 0x17
# OUT: section eh_frame +0x40 size 0x44
# OUT: section eh_frame_hdr +0x84 size 0x1c
# OUT: patch 0x400174 _start -> +0x7
# OUT: patch 0x400184 h -> +0x0
# OUT: fde +0x0..+0x7 region 0x400184
# OUT: fde +0x7..+0x17 region 0x400174
# OUT: +0x000000 0x400184 ----- leal 0x1(%rdi), %eax
# OUT: +0x000003 0x400187 ----- leal 0x1(%rax), %eax
# OUT: +0x000006 0x40018a ----- retq
# OUT: +0x000007 0x400174 ----- xorl %edi, %edi
# OUT: +0x000009 0x400176 -c--- callq -0xe
# OUT: +0x00000e 0x40017b ----- movl $0x3c, %eax
# OUT: +0x000013 0x400180 --y-- syscall
# OUT: +0x000015 0x400182 ----- ud2

	.globl	_start, h
	.type	_start, @function
_start:	.cfi_startproc
	xorl	%edi, %edi
	call	h
	movl	$60, %eax
	syscall
	ud2
	.cfi_endproc
	.size	_start, . - _start
	.type	h, @function
h:	.cfi_startproc
	leal	1(%rdi), %eax
	leal	1(%rax), %eax
	ret
	.cfi_endproc
	.size	h, . - h
