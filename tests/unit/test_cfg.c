/* Graphs of small functions: splitting, edges, groups, reachability, refusals. */
#include "tests/support/selfexe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

ASM_FUNCTION("cg_one", "ret\n");
ASM_FUNCTION("cg_diamond", "test %edi,%edi\nje 1f\nmov $1,%eax\njmp 2f\n1: mov $2,%eax\n2: ret\n");
/* entered with a frame, so certainly a fragment; jumps back into the middle of its function */
__asm__(".text\n.globl cg_split, cg_split_cold\n.type cg_split,@function\n.type "
	"cg_split_cold,@function\n"
	"cg_split:\n.cfi_startproc\npush %rbx\n.cfi_adjust_cfa_offset 8\ntest %edi,%edi\njne "
	"cg_split_cold\n"
	"cg_split_back: pop %rbx\n.cfi_adjust_cfa_offset -8\nret\n.cfi_endproc\n.size "
	"cg_split,.-cg_split\n"
	"cg_split_cold:\n.cfi_startproc\n.cfi_adjust_cfa_offset 8\ncall cg_one\njmp "
	"cg_split_back\n.cfi_endproc\n"
	".size cg_split_cold,.-cg_split_cold\n");
ASM_FUNCTION("cg_tail", "test %edi,%edi\njne cg_one\njmp cg_diamond\n");
ASM_FUNCTION("cg_self_call", "call 1f\n1: pop %rax\nret\n");
ASM_FUNCTION("cg_recursion", "call cg_recursion\nret\n");
ASM_FUNCTION("cg_mid", "jmp .+3\nmov $0x90909090,%eax\nret\n");
ASM_FUNCTION("cg_lock", "cmpl $0,%fs:0x18\nje 0f\nlock\n0: cmpxchg %ecx,(%rdi)\nret\n");
ASM_FUNCTION("cg_noreturn", "test %edi,%edi\nje 1f\nret\n1: call abort\n");
ASM_FUNCTION("cg_falls_off", "test %edi,%edi\n");
ASM_FUNCTION("cg_dead", "ret\nmov $1,%eax\nret\n");
ASM_FUNCTION("cg_loop", "1: dec %edi\njne 1b\nloop 1b\nret\n");
ASM_FUNCTION("cg_bad", ".byte 0x06\n");
ASM_FUNCTION("cg_special", "xbegin .\nret\n");

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

static void test_minimum(void **state)
{
	(void)state;
	struct ovm_cfg *cfg = self_cfg(&self, "cg_one");
	assert_int_equal(cfg->n_blocks, 1);
	assert_int_equal(cfg->n_edges, 0);
	assert_int_equal(cfg->blocks[0].flags, OVM_BLOCK_REGION_START | OVM_BLOCK_REACHABLE);
	assert_int_equal(ovm_cfg_block_at(cfg, cfg->blocks[0].lo), 0);
	assert_int_equal(ovm_cfg_block_of(cfg, cfg->blocks[0].hi), OVM_NONE);
	assert_int_equal(ovm_cfg_block_of(cfg, ovm_va_of(0)), OVM_NONE);
	assert_int_equal(ovm_cfg_block_of(cfg, ovm_va_of(UINT64_MAX)), OVM_NONE);
	ovm_cfg_free(cfg);
	ovm_cfg_free(NULL);
}

static void test_diamond(void **state)
{
	(void)state;
	struct ovm_cfg *cfg = self_cfg(&self, "cg_diamond");
	assert_int_equal(cfg->n_blocks, 4);
	assert_int_equal(cfg->n_edges, 4);
	assert_int_equal(cfg->edges[0].kind, OVM_EDGE_FALL);
	assert_int_equal(cfg->edges[0].dst, 1);
	assert_int_equal(cfg->edges[1].kind, OVM_EDGE_TAKEN);
	assert_int_equal(cfg->edges[1].dst, 2);
	assert_int_equal(cfg->first_pred[4] - cfg->first_pred[3], 2);
	assert_int_equal(ovm_block_last(cfg, 0)->kind, OVM_INSN_JCC);
	assert_int_equal(ovm_cfg_block_of(cfg, ovm_va_add(cfg->blocks[2].lo, 1)), 2);
	assert_int_equal(ovm_cfg_block_at(cfg, ovm_va_add(cfg->blocks[2].lo, 1)), OVM_NONE);
	ovm_cfg_free(cfg);
}

static void test_group(void **state)
{
	(void)state;
	struct ovm_cfg *cfg = self_cfg(&self, "cg_split");
	assert_int_equal(cfg->n_regions, 2);
	assert_int_equal(cfg->regions[1], self_region(&self, "cg_split_cold"));
	assert_true(self.regions.v.v[cfg->regions[1]].is_fragment);
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		assert_int_not_equal(cfg->edges[e].dst, OVM_NONE);
	ovm_cfg_foreach_bb (cfg, bb)
		assert_true(cfg->blocks[bb].flags & OVM_BLOCK_REACHABLE);
	ovm_cfg_free(cfg);
	cfg = self_cfg(&self, "cg_split_cold"); /* the fragment alone finds its function */
	assert_int_equal(cfg->n_regions, 2);
	assert_int_equal(cfg->regions[1], self_region(&self, "cg_split"));
	ovm_cfg_free(cfg);
	self.regions.v.v[self_region(&self, "cg_split_cold")].refused =
	    OVM_REFUSE_OVERLAP; /* taken by another group */
	cfg = self_cfg(&self, "cg_split");
	assert_int_equal(cfg->n_regions, 1);
	assert_int_equal(cfg->edges[1].dst, OVM_NONE);
	assert_int_equal(cfg->edges[1].to.v, self_symbol(&self, "cg_split_cold").v);
	self.regions.v.v[self_region(&self, "cg_split_cold")].refused = OVM_REFUSE_NONE;
	ovm_cfg_free(cfg);
}

static void test_tail_calls(void **state)
{
	(void)state;
	struct ovm_cfg *cfg = self_cfg(&self, "cg_tail");
	assert_int_equal(cfg->n_regions, 1);
	assert_int_equal(cfg->n_edges, 3);
	assert_int_equal(cfg->edges[1].to.v, self_symbol(&self, "cg_one").v);
	assert_int_equal(cfg->edges[2].to.v, self_symbol(&self, "cg_diamond").v);
	ovm_cfg_free(cfg);
	cfg = self_cfg(&self, "cg_recursion");
	assert_int_equal(cfg->n_blocks, 1);
	ovm_cfg_free(cfg);
}

static void test_ends(void **state)
{
	(void)state;
	struct ovm_cfg *cfg = self_cfg(&self, "cg_noreturn");
	assert_int_equal(cfg->n_blocks, 3);
	assert_int_equal(cfg->blocks[2].n_edges, 0);
	ovm_cfg_free(cfg);
	cfg = self_cfg(&self, "cg_falls_off");
	assert_int_equal(cfg->n_edges, 1);
	assert_int_equal(cfg->edges[0].kind, OVM_EDGE_FALL);
	assert_int_equal(cfg->edges[0].dst, OVM_NONE);
	assert_int_equal(cfg->edges[0].to.v, cfg->blocks[0].hi.v);
	ovm_cfg_free(cfg);
	cfg = self_cfg(&self, "cg_dead");
	assert_int_equal(cfg->n_blocks, 2);
	assert_false(cfg->blocks[1].flags & OVM_BLOCK_REACHABLE);
	ovm_cfg_free(cfg);
	cfg = self_cfg(&self, "cg_loop");
	assert_int_equal(cfg->n_blocks, 3);
	assert_int_equal(cfg->edges[1].dst, 0);
	assert_int_equal(cfg->edges[3].dst, 0);
	ovm_cfg_free(cfg);
}

/* A branch behind a lock prefix leaves to the original: the copy keeps prefix and instruction
 * together. */
static void test_lock(void **state)
{
	(void)state;
	struct ovm_cfg *cfg = self_cfg(&self, "cg_lock");
	assert_int_equal(cfg->n_blocks, 2);
	assert_int_equal(cfg->edges[1].kind, OVM_EDGE_TAKEN);
	assert_int_equal(cfg->edges[1].dst, OVM_NONE);
	assert_int_equal(cfg->edges[1].to.v, cfg->blocks[1].lo.v + 1);
	ovm_cfg_free(cfg);
}

static void test_refusals(void **state)
{
	static const struct {
		const char *name;
		enum ovm_refusal why;
	} bad[] = {{"cg_self_call", OVM_REFUSE_SELF_CALL},
		   {"cg_mid", OVM_REFUSE_MID_INSN_BRANCH},
		   {"cg_bad", OVM_REFUSE_DECODE},
		   {"cg_special", OVM_REFUSE_SPECIAL_INSN}};
	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t before = self.ctx.n_refused[bad[i].why];
		assert_null(self_cfg(&self, bad[i].name));
		assert_int_equal(self.regions.v.v[self_region(&self, bad[i].name)].refused,
				 bad[i].why);
		assert_int_equal(self.ctx.n_refused[bad[i].why], before + 1);
		assert_null(self_cfg(&self, bad[i].name)); /* once */
		assert_int_equal(self.ctx.n_refused[bad[i].why], before + 1);
	}
}

static void test_dump(void **state)
{
	(void)state;
	char *text = NULL;
	size_t size = 0;
	FILE *to = open_memstream(&text, &size);
	struct ovm_cfg *cfg = self_cfg(&self, "cg_diamond");
	ovm_cfg_dump(self.image, cfg, to);
	fclose(to);
	assert_non_null(strstr(
	    text, "cfg cg_diamond: 1 regions, 4 blocks, 6 insns, 0 tables, 0 unknown jumps\n"));
	assert_non_null(
	    strstr(text, " 2 insns start reachable\n    -> bb1 fall\n    -> bb2 taken\n"));
	free(text);
	ovm_cfg_free(cfg);
}

/* The whole test program, every region: nothing breaks the invariants. */
static void test_everything(void **state)
{
	(void)state;
	uint32_t n = 0;
	for (uint32_t r = 0; r < self.regions.v.n; r++) {
		struct ovm_cfg *cfg;
		if (ovm_cfg_build(&self.ctx, self.dec, self.image, &self.regions, r, &cfg) != 0)
			continue;
		ovm_cfg_verify(cfg, &self.regions);
		ovm_cfg_free(cfg);
		n++;
	}
	assert_true(n > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_minimum),    cmocka_unit_test(test_diamond),
	    cmocka_unit_test(test_group),      cmocka_unit_test(test_tail_calls),
	    cmocka_unit_test(test_ends),       cmocka_unit_test(test_lock),
	    cmocka_unit_test(test_refusals),   cmocka_unit_test(test_dump),
	    cmocka_unit_test(test_everything),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
