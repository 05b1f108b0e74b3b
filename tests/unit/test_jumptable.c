/* The shapes of jump tables compilers make, and shapes that must not be taken for one. */
#include "analyzer/jumptable.h"
#include "tests/support/selfexe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

/* Five entries for labels 11..15 of the function before; a string behind them ends an unproven
 * table. */
#define TABLE(name)                                                                                \
	".section .rodata\n.balign 4\n.type " name ",@object\n" name ":\n.long 11b-" name          \
	"\n.long 12b-" name "\n.long 13b-" name "\n.long 14b-" name "\n.long 15b-" name            \
	"\n.zero 64\n.text\n"
#define CASES                                                                                      \
	"11: mov $1,%eax\nret\n12: mov $2,%eax\nret\n13: mov $3,%eax\nret\n14: mov $4,%eax\nret\n" \
	"15: mov $5,%eax\nret\n16: xor %eax,%eax\nret\n"
#define DISPATCH(base, index) "movslq (" base "," index ",4),%rax\nadd " base ",%rax\njmp *%rax\n"

ASM_FUNCTION("jt_plain",
	     "cmp $4,%edi\nja 16f\nlea jt_t1(%rip),%rdx\nmov %edi,%edi\n" DISPATCH("%rdx", "%rdi")
		 CASES);
__asm__(TABLE("jt_t1"));
/* hoisted over a loop with a call, base in a callee-saved register */
ASM_FUNCTION("jt_hoisted",
	     "push %rbx\n.cfi_adjust_cfa_offset 8\nlea jt_t2(%rip),%rbx\n10: call jt_plain\ncmp "
	     "$4,%eax\nja 16f\n"
	     "mov %eax,%eax\n" DISPATCH(
		 "%rbx", "%rax") "11: jmp 10b\n12: jmp 10b\n13: jmp 10b\n14: jmp 10b\n15: jmp 10b\n"
				 "16: pop %rbx\n.cfi_adjust_cfa_offset -8\nret\n");
__asm__(TABLE("jt_t2"));
/* the same in a register that calls destroy: unknown */
ASM_FUNCTION(
    "jt_clobbered",
    "lea jt_t3(%rip),%rdx\n10: call jt_plain\ncmp $4,%eax\nja 16f\nmov %eax,%eax\n" DISPATCH(
	"%rdx",
	"%rax") "11: jmp 10b\n12: jmp 10b\n13: jmp 10b\n14: jmp 10b\n15: jmp 10b\n16: ret\n");
__asm__(TABLE("jt_t3"));
ASM_FUNCTION("jt_mask", "lea jt_t4(%rip),%rdx\nand $3,%edi\n" DISPATCH("%rdx", "%rdi") CASES);
__asm__(TABLE("jt_t4"));
/* bound of a byte, in a block before, inverted branch, 8-bit compare, copy of the index */
ASM_FUNCTION("jt_byte",
	     "cmp $4,%dil\njbe 1f\njmp 16f\n1: movzbl %dil,%ecx\nlea jt_t5(%rip),%rdx\n" DISPATCH(
		 "%rdx", "%rcx") CASES);
__asm__(TABLE("jt_t5"));
/* compare of memory, load of the same memory */
ASM_FUNCTION("jt_memory",
	     "cmpl $4,8(%rdi)\nja 16f\nmov 8(%rdi),%eax\nlea jt_t6(%rip),%rdx\n" DISPATCH("%rdx",
											  "%rax")
		 CASES);
__asm__(TABLE("jt_t6"));
/* a store in between: not proven, copied generously */
ASM_FUNCTION(
    "jt_store",
    "cmpl $4,8(%rdi)\nmov %rdi,(%rsi)\nja 16f\nmov 8(%rdi),%eax\nlea jt_t7(%rip),%rdx\n" DISPATCH(
	"%rdx", "%rax") CASES);
__asm__(TABLE("jt_t7"));
/* signed index without a lower bound: unknown */
ASM_FUNCTION("jt_signed",
	     "cmp $4,%edi\njg 16f\nmovslq %edi,%rdi\nlea jt_t8(%rip),%rdx\n" DISPATCH("%rdx",
										      "%rdi")
		 CASES);
__asm__(TABLE("jt_t8"));
/* signed extension of an index proven unsigned */
ASM_FUNCTION("jt_extended",
	     "cmp $4,%edi\nja 16f\nmovslq %edi,%rdi\nlea jt_t9(%rip),%rdx\n" DISPATCH("%rdx",
										      "%rdi")
		 CASES);
__asm__(TABLE("jt_t9"));
/* two different bases reach the dispatch: unknown */
ASM_FUNCTION("jt_bases", "cmp $4,%edi\nja 16f\nmov %edi,%edi\nlea jt_t10(%rip),%rdx\ntest "
			 "%esi,%esi\nje 1f\nlea jt_t9(%rip),%rdx\n"
			 "1:\n" DISPATCH("%rdx", "%rdi") CASES);
__asm__(TABLE("jt_t10"));
/* the loaded value is used for something else: unknown */
ASM_FUNCTION(
    "jt_leaked",
    "cmp $4,%edi\nja 16f\nmov %edi,%edi\nlea jt_t11(%rip),%rdx\nmovslq (%rdx,%rdi,4),%rax\n"
    "mov %rax,(%rsi)\nadd %rdx,%rax\njmp *%rax\n" CASES);
__asm__(TABLE("jt_t11"));
/* the target is stored behind the jump: unknown */
ASM_FUNCTION("jt_leaked_late",
	     "cmp $4,%edi\nja 16f\nmov %edi,%edi\nlea jt_t12(%rip),%rdx\n" DISPATCH(
		 "%rdx",
		 "%rdi") "11: mov %rax,(%rsi)\n12: ret\n13: ret\n14: ret\n15: ret\n16: ret\n");
__asm__(TABLE("jt_t12"));
/* boolean in the low byte, junk above: not a use */
ASM_FUNCTION("jt_boolean", "cmp $4,%edi\nja 16f\nmov %edi,%edi\nlea jt_t13(%rip),%rdx\n" DISPATCH(
			       "%rdx", "%rdi") "11: test %esi,%esi\nsete %al\nsetne %cl\nand "
					       "%ecx,%eax\nmovzbl %al,%eax\nret\n12: ret\n13: ret\n"
					       "14: ret\n15: ret\n16: ret\n");
__asm__(TABLE("jt_t13"));
/* unoptimized code: scaled beforehand, two loads of the base, cltq */
ASM_FUNCTION("jt_unoptimized",
	     "push %rbp\n.cfi_def_cfa_offset 16\nmov %rsp,%rbp\n.cfi_def_cfa_register 6\nmov "
	     "%edi,-4(%rbp)\ncmpl $4,-4(%rbp)\nja 16f\n"
	     "mov -4(%rbp),%eax\nlea 0(,%rax,4),%rdx\nlea jt_t14(%rip),%rax\nmov "
	     "(%rdx,%rax),%eax\ncltq\nlea jt_t14(%rip),%rdx\n"
	     "add %rdx,%rax\njmp *%rax\n" CASES);
__asm__(TABLE("jt_t14"));
/* entries relative to a label that is not the table */
ASM_FUNCTION("jt_label",
	     "cmp $4,%edi\nja 16f\nmov %edi,%edi\nlea jt_t15(%rip),%rdx\nlea 11f(%rip),%rcx\n"
	     "movslq (%rdx,%rdi,4),%rax\nadd %rcx,%rax\njmp *%rax\n" CASES);
__asm__(".section .rodata\n.balign 4\n.type jt_t15,@object\njt_t15:\n.long 11b-11b\n.long "
	"12b-11b\n.long 13b-11b\n.long 14b-11b\n.long 15b-11b\n.zero 64\n.text\n");
/* no bound at all, default unreachable */
ASM_FUNCTION("jt_unbounded",
	     "mov %edi,%edi\nlea jt_t16(%rip),%rdx\n" DISPATCH("%rdx", "%rdi") CASES);
__asm__(TABLE("jt_t16"));
/* no bound and a 64-bit index, which may be biased: unknown */
ASM_FUNCTION("jt_biased", "lea jt_t17(%rip),%rdx\n" DISPATCH("%rdx", "%rdi") CASES);
__asm__(TABLE("jt_t17"));
/* table in writable memory: unknown */
ASM_FUNCTION("jt_writable",
	     "cmp $4,%edi\nja 16f\nmov %edi,%edi\nlea jt_t18(%rip),%rdx\n" DISPATCH("%rdx", "%rdi")
		 CASES);
__asm__(".data\n.balign 4\njt_t18: .zero 32\n.text\n");
/* a loop in which the index changes after the compare of its copy */
ASM_FUNCTION("jt_loop", "mov %edi,%ecx\n10: mov %ecx,%edi\nadd $1,%ecx\ntest %esi,%esi\njne "
			"10b\ncmp $4,%ecx\nja 16f\nmov %edi,%edi\n"
			"lea jt_t19(%rip),%rdx\n" DISPATCH("%rdx", "%rdi") CASES);
__asm__(TABLE("jt_t19"));
ASM_FUNCTION("jt_tail_virtual", "mov (%rdi),%rax\njmp *0x18(%rax)\n");
ASM_FUNCTION("jt_tail_argument", "xchg %ax,%ax\njmp *%rdi\n");
ASM_FUNCTION("jt_tail_popped",
	     "push %rbx\n.cfi_adjust_cfa_offset 8\nmov (%rdi),%rax\nmov 8(%rax),%rax\npop %rbx\n"
	     ".cfi_adjust_cfa_offset -8\njmp *%rax\n");
/* direct threading: the frame is still there */
ASM_FUNCTION("jt_threaded", "push %rbx\n.cfi_adjust_cfa_offset 8\nmov (%rdi),%rax\njmp *%rax\n");
ASM_FUNCTION("jt_pointers", "jmp *(%rsi,%rdi,8)\n");

/* Five addresses that the dynamic linker fills in; behind them a number, which needs no relocation.
 */
#define RELOCATED(name)                                                                            \
	".section .data.rel.ro,\"aw\"\n.balign 8\n.type " name ",@object\n" name                   \
	":\n.quad 11b,12b,13b,14b,15b,7\n.text\n"
ASM_FUNCTION("jt_goto", "lea jt_t25(%rip),%rdx\nand $7,%edi\nmov (%rdx,%rdi,8),%rax\nxor "
			"%ecx,%ecx\njmp *%rax\n" CASES);
__asm__(RELOCATED("jt_t25"));
ASM_FUNCTION("jt_goto_cmp", "lea jt_t26-16(%rip),%rdx\ncmp $4,%edi\nja 16f\nmov %edi,%edi\nmov "
			    "16(%rdx,%rdi,8),%rax\njmp *%rax\n" CASES);
__asm__(RELOCATED("jt_t26"));
/* one entry more than there are addresses */
ASM_FUNCTION("jt_goto_short", "lea jt_t27(%rip),%rdx\ncmp $5,%edi\nja 16f\nmov %edi,%edi\nmov "
			      "(%rdx,%rdi,8),%rax\njmp *%rax\n" CASES);
__asm__(RELOCATED("jt_t27"));
/* the table's address is gone when it is needed */
ASM_FUNCTION("jt_goto_lost",
	     "lea jt_t28(%rip),%rdx\nand $3,%edi\nmov (%rdx,%rdi,8),%rdx\njmp *%rdx\n" CASES);
__asm__(RELOCATED("jt_t28"));
/* the index register takes the sum */
ASM_FUNCTION("jt_goto_direct", "lea jt_t29(%rip),%rdx\nand $3,%edi\njmp *(%rdx,%rdi,8)\n" CASES);
__asm__(RELOCATED("jt_t29"));

/* ... but is read behind the jump */
ASM_FUNCTION("jt_goto_read", "lea jt_t30(%rip),%rdx\nand $3,%edi\njmp *(%rdx,%rdi,8)\n"
			     "11: mov %edi,%eax\nret\n12: mov $2,%eax\nret\n13: mov $3,%eax\nret\n"
			     "14: mov $4,%eax\nret\n15: ret\n");
__asm__(RELOCATED("jt_t30"));
/* ... by a function that is called there */
ASM_FUNCTION("jt_goto_passed",
	     "lea jt_t36(%rip),%rdx\nand $3,%edi\njmp *(%rdx,%rdi,8)\n"
	     "11: call jt_plain\nret\n12: mov $2,%edi\nret\n13: xor %edi,%edi\nret\n"
	     "14: xor %edi,%edi\nret\n15: ret\n");
__asm__(RELOCATED("jt_t36"));
/* ... but another jump leaves its target there, so that nobody can want the index */
ASM_FUNCTION("jt_goto_both",
	     "lea jt_t37(%rip),%rdx\nand $3,%edi\njmp *(%rdx,%rdi,8)\n11: call jt_plain\nlea "
	     "jt_t37(%rip),%rdx\nand $3,%eax\nmov (%rdx,%rax,8),%rdi\njmp *%rdi\n"
	     "12: ret\n13: ret\n14: ret\n15: ret\n");
__asm__(RELOCATED("jt_t37"));
/* the table's address is kept in the frame, over pushes and calls */
#define FRAME(body)                                                                                \
	"sub $40,%rsp\n.cfi_adjust_cfa_offset 40\n" body "11: add $40,%rsp\n.cfi_remember_state\n" \
	".cfi_adjust_cfa_offset -40\nret\n.cfi_restore_state\n12: jmp 11b\n13: jmp 11b\n14: jmp "  \
	"11b\n"                                                                                    \
	"15: jmp 11b\n"
#define SPILL(table) "lea " table "(%rip),%rdx\nmov %rdx,16(%rsp)\n"
#define BACK "mov 16(%rsp),%rcx\nmov %eax,%esi\nand $3,%esi\njmp *(%rcx,%rsi,8)\n"
ASM_FUNCTION("jt_spilled",
	     FRAME(SPILL("jt_t31") "push %rbx\n.cfi_adjust_cfa_offset 8\nmov %rbx,16(%rsp)\nmovaps "
				   "%xmm0,32(%rsp)\nlea 32(%rsp),%rdi\ncall jt_plain\npop %rbx\n"
				   ".cfi_adjust_cfa_offset -8\n" BACK));
__asm__(RELOCATED("jt_t31"));
/* another value in the same place */
ASM_FUNCTION("jt_spilled_over", FRAME(SPILL("jt_t32") "push %rbx\n.cfi_adjust_cfa_offset 8\nmov "
						      "%rbx,24(%rsp)\npop %rbx\n"
						      ".cfi_adjust_cfa_offset -8\n" BACK));
__asm__(RELOCATED("jt_t32"));
/* somebody has a pointer to it */
ASM_FUNCTION("jt_spilled_taken", FRAME(SPILL("jt_t33") "lea 8(%rsp),%rdi\ncall jt_plain\n" BACK));
__asm__(RELOCATED("jt_t33"));
ASM_FUNCTION("jt_spilled_wide", FRAME(SPILL("jt_t34") "movups %xmm0,4(%rsp)\n" BACK));
__asm__(RELOCATED("jt_t34"));
/* round and round, through registers and the frame */
ASM_FUNCTION("jt_circle",
	     FRAME(SPILL("jt_t35") "10: mov 16(%rsp),%rsi\nmov %rsi,16(%rsp)\ncall jt_plain\n"
				   "mov 16(%rsp),%rdx\nmov %rdx,%r8\nmov %r8,16(%rsp)\ntest "
				   "%eax,%eax\nje 10b\n" BACK));
__asm__(RELOCATED("jt_t35"));

static struct self self;

static int setup(void **state)
{
	(void)state;
	self_open(&self);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	self_close(&self);
	return 0;
}

struct expect {
	const char *function, *table;
	int bound; /* -1 unknown, -2 tail call */
	uint32_t n, entry_size;
};

static const struct expect expects[] = {
    {"jt_plain", "jt_t1", OVM_BOUND_CMP, 5, 4},
    {"jt_hoisted", "jt_t2", OVM_BOUND_CMP, 5, 4},
    {"jt_clobbered", NULL, -1, 0, 4},
    {"jt_mask", "jt_t4", OVM_BOUND_MASK, 4, 4},
    {"jt_byte", "jt_t5", OVM_BOUND_CMP, 5, 4},
    {"jt_memory", "jt_t6", OVM_BOUND_CMP, 5, 4},
    {"jt_store", "jt_t7", OVM_BOUND_COPY, 5, 4},
    {"jt_signed", NULL, -1, 0, 4},
    {"jt_extended", "jt_t9", OVM_BOUND_CMP, 5, 4},
    {"jt_bases", NULL, -1, 0, 4},
    {"jt_leaked", NULL, -1, 0, 4},
    {"jt_leaked_late", NULL, -1, 0, 4},
    {"jt_boolean", "jt_t13", OVM_BOUND_CMP, 5, 4},
    {"jt_unoptimized", "jt_t14", OVM_BOUND_CMP, 5, 4},
    {"jt_label", "jt_t15", OVM_BOUND_CMP, 5, 4},
    {"jt_unbounded", "jt_t16", OVM_BOUND_COPY, 5, 4},
    {"jt_biased", NULL, -1, 0, 4},
    {"jt_writable", NULL, -1, 0, 4},
    {"jt_loop", "jt_t19", OVM_BOUND_COPY, 5, 4},
    {"jt_tail_virtual", NULL, -2, 0, 4},
    {"jt_tail_argument", NULL, -2, 0, 4},
    {"jt_tail_popped", NULL, -2, 0, 4},
    {"jt_threaded", NULL, -1, 0, 4},
    {"jt_pointers", NULL, -1, 0, 4},
    {"jt_goto", "jt_t25", OVM_BOUND_MASK, 5, 8},
    {"jt_goto_cmp", "jt_t26", OVM_BOUND_CMP, 5, 8},
    {"jt_goto_short", NULL, -1, 0, 4},
    {"jt_goto_lost", NULL, -1, 0, 4},
    {"jt_goto_direct", "jt_t29", OVM_BOUND_MASK, 4, 8},
    {"jt_goto_read", NULL, -1, 0, 4},
    {"jt_goto_passed", NULL, -1, 0, 4},
    {"jt_spilled", "jt_t31", OVM_BOUND_MASK, 4, 8},
    {"jt_spilled_over", NULL, -1, 0, 4},
    {"jt_spilled_taken", NULL, -1, 0, 4},
    {"jt_spilled_wide", NULL, -1, 0, 4},
    {"jt_circle", "jt_t35", OVM_BOUND_MASK, 4, 8},
};

static void check(const struct expect *expect)
{
	struct ovm_cfg *cfg = self_cfg(&self, expect->function);
	assert_non_null(cfg);
	assert_int_equal(cfg->n_tables, expect->bound >= 0);
	assert_int_equal(cfg->n_unknown_jumps, expect->bound == -1);
	for (uint32_t t = 0; t < cfg->n_tables; t++) {
		const struct ovm_jumptable *table = &cfg->tables[t];
		assert_int_equal(table->table.v, self_symbol(&self, expect->table).v);
		assert_int_equal(table->bound, expect->bound);
		if (expect->bound == OVM_BOUND_COPY)
			assert_true(table->n_entries >= expect->n &&
				    table->n_entries < expect->n + 32);
		else
			assert_int_equal(table->n_entries, expect->n);
		assert_int_equal(table->entry_size, expect->entry_size);
		assert_int_equal(ovm_jumptable_is_relocated(table), expect->entry_size == 8);
		for (uint32_t i = 0; i < expect->n; i++)
			assert_int_not_equal(ovm_cfg_block_at(cfg, table->targets[i]), OVM_NONE);
	}
	ovm_cfg_free(cfg);
}

/* Two jumps, one table. */
static void test_both(void **state)
{
	(void)state;
	struct ovm_cfg *cfg = self_cfg(&self, "jt_goto_both");
	assert_int_equal(cfg->n_tables, 2);
	assert_int_equal(cfg->n_unknown_jumps, 0);
	ovm_cfg_free(cfg);
}

static void test_shapes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(expects) / sizeof(expects[0]); i++) {
		print_message("%s\n", expects[i].function);
		check(&expects[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes),
					   cmocka_unit_test(test_both)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
