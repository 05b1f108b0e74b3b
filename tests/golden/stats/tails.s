# what second copies run is not counted twice
# RUN: stats %t -p %p --passes=tails
# PROF: f 10
# PROF: .Lleft 500
# PROF: .Lright 400
# PROF: .Lend 900
# OUT: stats %t: estimates from counts that are exact for 0.0 % of the executed instructions
# OUT: 1 regions with 100.0 % of the samples, 1 of them copied; 0 entries by a jump
# OUT:
# OUT:          original        optimized     change
# OUT:           284,314          284,314          =  executed forward branches
# OUT:           117,647          117,647          =  taken forward branches
# OUT:                 0                0          =  executed backward branches
# OUT:                 0                0          =  taken backward branches
# OUT:           166,667                0   -100.0 %  executed unconditional branches
# OUT:                 0                0          =  all function calls
# OUT:                 0                0          =  indirect calls
# OUT:                 0                0          =  PLT calls
# OUT:         2,156,865        1,990,198     -7.7 %  executed instructions
# OUT:                 0                0          =  executed load instructions
# OUT:                 0                0          =  executed store instructions
# OUT:                 0                0          =  taken jump table branches
# OUT:                 0                0          =  taken unknown indirect branches
# OUT:           450,981          284,314    -37.0 %  total branches
# OUT:           284,314          117,647    -58.6 %  taken branches
# OUT:           166,667          166,667          =  non-taken conditional branches
# OUT:           117,647          117,647          =  taken conditional branches
# OUT:           284,314          284,314          =  all conditional branches
# OUT:                 2                1    -50.0 %  executed 64-byte lines
# OUT:                 1                1          =  executed 4 KiB pages
# OUT:                 2                1    -50.0 %  hot 64-byte lines
# OUT:                 1                1          =  hot 4 KiB pages

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
