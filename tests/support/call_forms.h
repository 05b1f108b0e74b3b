#ifndef OVM_TEST_CALL_FORMS_H
#define OVM_TEST_CALL_FORMS_H
/* Functions that call through a pointer, one for each form an operand can have, and functions to be
 * called. */
#include "tests/support/selfexe.h"

typedef unsigned (*function)(unsigned);
typedef unsigned (*caller)(function callee, unsigned x);

/* --- who is called
 * ----------------------------------------------------------------------------------------------
 */

#define CALLEE(n)                                                                                  \
	static __attribute__((noipa)) unsigned callee_##n(unsigned x)                              \
	{                                                                                          \
		return x * 10 + (n);                                                               \
	}
CALLEE(0)
CALLEE(1)
CALLEE(2)
CALLEE(3)
CALLEE(4)
CALLEE(5)

enum { N_CALLEES = 6 };

static const function callees[N_CALLEES] = {callee_0, callee_1, callee_2,
					    callee_3, callee_4, callee_5};

/* --- who calls
 * --------------------------------------------------------------------------------------------------
 */

function form_slot;
__thread function form_tls;

/* unsigned f(function callee, unsigned x): call callee(x) by @call, after @before, with @room bytes
 * of stack; rbx is kept. */
#define FORM(name, room, before, call)                                                             \
	ASM_FUNCTION(#name, "push %rbx\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset 3, 0\n"          \
			    "sub $" #room ", %rsp\n.cfi_adjust_cfa_offset " #room "\n" before "\n" \
			    "mov %esi, %edi\n" call "\n"                                           \
			    "add $" #room ", %rsp\n.cfi_adjust_cfa_offset -" #room "\n"            \
			    "pop %rbx\n.cfi_adjust_cfa_offset -8\nret");                           \
	unsigned name(function callee, unsigned x)

FORM(form_reg, 16, "mov %rdi, %rax", "call *%rax");
FORM(form_reg_high, 16, "mov %rdi, %r10", "call *%r10");
FORM(form_r11, 16, "mov %rdi, %r11", "call *%r11");
FORM(form_notrack, 16, "mov %rdi, %rdx", "notrack call *%rdx");
FORM(form_mem, 16, "mov %rsp, %rbx; mov %rdi, (%rbx)", "call *(%rbx)");
FORM(form_mem8, 16, "mov %rsp, %rbx; mov %rdi, 8(%rbx)", "call *8(%rbx)");
FORM(form_mem32, 16, "lea -4096(%rsp), %rbx; mov %rdi, 4096(%rbx)", "call *4096(%rbx)");
FORM(form_mem_r11, 16, "mov %rsp, %r11; mov %rdi, 8(%r11)", "call *8(%r11)");
FORM(form_mem_r12, 16, "mov %r12, %rbx; mov %rsp, %r12; mov %rdi, 8(%r12)",
     "call *8(%r12); mov %rbx, %r12");
FORM(form_mem_r13, 16, "mov %r13, %rbx; mov %rsp, %r13; mov %rdi, (%r13)",
     "call *(%r13); mov %rbx, %r13");
FORM(form_index, 16, "mov %rsp, %rax; mov %rdi, 8(%rsp); mov $2, %ecx", "call *-8(%rax,%rcx,8)");
FORM(form_index_high, 16, "mov %rsp, %r8; mov %rdi, 8(%rsp); mov $1, %r9d", "call *(%r8,%r9,8)");
FORM(form_index_only, 16, "mov %rsp, %rcx; mov %rdi, 8(%rsp)", "call *8(,%rcx,1)");
FORM(form_stack, 16, "mov %rdi, (%rsp)", "call *(%rsp)");
FORM(form_stack8, 16, "mov %rdi, 8(%rsp)", "call *8(%rsp)");
FORM(form_stack_near, 144, "mov %rdi, 124(%rsp)", "call *124(%rsp)");
FORM(form_stack_far, 4112, "mov %rdi, 4096(%rsp)", "call *4096(%rsp)");
FORM(form_rbp, 16, "mov %rbp, %rbx; mov %rsp, %rbp; mov %rdi, 8(%rbp)",
     "call *8(%rbp); mov %rbx, %rbp");
FORM(form_rip, 16, "mov %rdi, form_slot(%rip)", "call *form_slot(%rip)");
FORM(form_fs, 16, "mov %rdi, %fs:form_tls@tpoff", "call *%fs:form_tls@tpoff");
/* not counted */
FORM(plain_rbp, 16, "mov %rbp, %rbx; lea 16(%rsp), %rbp; mov %rdi, -8(%rbp)",
     "call *-8(%rbp); mov %rbx, %rbp");
FORM(plain_below, 16, "mov %rdi, -16(%rsp)", "call *-16(%rsp)");
FORM(plain_index, 16, "mov %rdi, 8(%rsp); mov $1, %ecx", "call *(%rsp,%rcx,8)");
FORM(plain_addr32, 16, "mov %rdi, form_slot(%rip); lea form_slot(%rip), %rax",
     "cmp %rax, %rax; jne 1f; call *(%rax); jmp 2f; 1: call *(%eax); 2:");
/* r11 is the callee's argument and result */
FORM(keeps_r11, 16, "mov %rdi, %rax; mov $0x1234, %r11d", "call *%rax");
ASM_FUNCTION("r11_callee", "mov %r11, %rax\nret");
unsigned r11_callee(unsigned x);

struct form {
	const char *name;
	caller call;
	bool is_counted;
};

#define COUNTED(name)                                                                              \
	{                                                                                          \
#name, name, true                                                                  \
	}
#define PLAIN(name)                                                                                \
	{                                                                                          \
#name, name, false                                                                 \
	}

static const struct form forms[] = {
    COUNTED(form_reg),	      COUNTED(form_reg_high),  COUNTED(form_r11),
    COUNTED(form_notrack),    COUNTED(form_mem),       COUNTED(form_mem8),
    COUNTED(form_mem32),      COUNTED(form_mem_r11),   COUNTED(form_mem_r12),
    COUNTED(form_mem_r13),    COUNTED(form_index),     COUNTED(form_index_high),
    COUNTED(form_index_only), COUNTED(form_stack),     COUNTED(form_stack8),
    COUNTED(form_stack_near), COUNTED(form_stack_far), COUNTED(form_rbp),
    COUNTED(form_rip),	      COUNTED(form_fs),	       PLAIN(plain_rbp),
    PLAIN(plain_below),	      PLAIN(plain_index),
};

enum { N_FORMS = sizeof(forms) / sizeof(forms[0]) };

#endif
