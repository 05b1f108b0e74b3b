# a loop whose common way jumps over a rare arm: the arm leaves the loop, counts are inferred from samples
# RUN: stats %t -p %p
# PROF: f 10
# PROF: .Lhot 4000
# PROF: g 900
# OUT: stats %t: estimates from counts that are exact for 0.0 % of the executed instructions
# OUT: 2 regions with 100.0 % of the samples, 2 of them copied; 0 entries by a jump
# OUT:
# OUT:          original        optimized     change
# OUT:            70,423           70,423          =  executed forward branches
# OUT:            70,423                0   -100.0 %  taken forward branches
# OUT:            70,423           70,423          =  executed backward branches
# OUT:            58,659           58,659          =  taken backward branches
# OUT:                 0                0          =  executed unconditional branches
# OUT:            70,423           70,423          =  all function calls
# OUT:                 0                0          =  indirect calls
# OUT:                 0                0          =  PLT calls
# OUT:         2,328,253        2,328,253          =  executed instructions
# OUT:            70,423           70,423          =  executed load instructions
# OUT:                 0                0          =  executed store instructions
# OUT:                 0                0          =  taken jump table branches
# OUT:                 0                0          =  taken unknown indirect branches
# OUT:           140,846          140,846          =  total branches
# OUT:           129,082           58,659    -54.6 %  taken branches
# OUT:            11,764           82,187   +598.6 %  non-taken conditional branches
# OUT:           129,082           58,659    -54.6 %  taken conditional branches
# OUT:           140,846          140,846          =  all conditional branches
# OUT:                 2                1    -50.0 %  executed 64-byte lines
# OUT:                 1                1          =  executed 4 KiB pages
# OUT:                 2                1    -50.0 %  hot 64-byte lines
# OUT:                 1                1          =  hot 4 KiB pages

	.globl	_start, f, g
	.type	_start, @function
_start:	.cfi_startproc
	call	f
	ud2
	.cfi_endproc
	.size	_start, . - _start
	.type	f, @function
f:	.cfi_startproc
	movl	%edi, %ecx
	leal	4(%rdi,%rsi), %esi
.Lloop:	testl	%ecx, %esi
	jne	.Lhot
.Lrare:	movl	$1, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	imull	%eax, %eax
	movl	%eax, -8(%rsp)
.Lhot:	addl	%esi, %eax
	addl	-8(%rsp), %eax
	call	g
	decl	%ecx
	jne	.Lloop
	ret
	.cfi_endproc
	.size	f, . - f
	.type	g, @function
g:	.cfi_startproc
	leal	4(%rdi,%rsi), %esi
	addl	%eax, %edx
	ret
	.cfi_endproc
	.size	g, . - g
