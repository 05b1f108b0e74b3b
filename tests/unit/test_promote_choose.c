/* Which indirect calls are promoted, on programs made by hand: graph 0 calls, graphs 1 to 3 are
 * called. */
#include "analyzer/promote.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 4, BASE = 0x1000, STEP = 0x100, CALLS = 8, RUNS = 1000 };

static struct {
	struct ovm_program program;
	struct ovm_regions regions;
	struct ovm_cfg cfgs[N];
	struct ovm_block blocks[N];
	uint32_t by_va[N];
	struct ovm_insn insns[CALLS];
	uint32_t of_region[N];
	ovm_promotions found;
} it;

static void drop(void)
{
	ovm_vec_free(&it.program.cfgs);
	ovm_vec_free(&it.program.indirect);
	ovm_vec_free(&it.regions.v);
	ovm_vec_free(&it.found);
}

/* Graph 0 has one block with CALLS indirect calls of three bytes, executed RUNS times each. */
static void make(void)
{
	memset(&it, 0, sizeof(it));
	it.program.regions = &it.regions;
	it.program.cfg_of_region = it.of_region;
	for (uint32_t i = 0; i < N; i++) {
		ovm_va lo = ovm_va_of(BASE + STEP * i);
		it.of_region[i] = i;
		ovm_vec_push(&it.regions.v,
			     ((struct ovm_region){.lo = lo, .hi = ovm_va_add(lo, STEP)}));
		it.blocks[i] = (struct ovm_block){.lo = lo,
						  .hi = ovm_va_add(lo, 3 * CALLS),
						  .n_insns = CALLS,
						  .n_edges = 1,
						  .count = RUNS,
						  .flags = OVM_BLOCK_REACHABLE};
		it.cfgs[i] = (struct ovm_cfg){.insns = it.insns,
					      .n_insns = CALLS,
					      .blocks = &it.blocks[i],
					      .n_blocks = 1,
					      .by_va = &it.by_va[i],
					      .is_exact = true};
		ovm_vec_push(&it.program.cfgs, &it.cfgs[i]);
	}
	for (uint32_t k = 0; k < CALLS; k++)
		it.insns[k] = (struct ovm_insn){
		    .va = ovm_va_of(BASE + 3 * k), .len = 3, .kind = OVM_INSN_CALL_IND};
}

/* Call @k reaches graph @to so often. */
static void reach(uint32_t k, uint32_t to, uint64_t count)
{
	ovm_vec_push(&it.program.indirect, ((struct ovm_call){0, 0, 3 * k, to, count}));
}

static uint32_t choose(void)
{
	ovm_vec_free(&it.found);
	ovm_promote_choose(&it.program, &it.found);
	return it.found.n;
}

static void likeliest_target(void **state)
{
	(void)state;
	make();
	assert_int_equal(choose(), 0);
	reach(2, 1, 40);
	reach(2, 3, 900);
	reach(2, 2, 60);
	assert_int_equal(choose(), 1);
	const struct ovm_promotion *p = ovm_promote_find(&it.found, 0, 2);
	assert_non_null(p);
	assert_int_equal(p->callee, 3);
	assert_int_equal(p->hits, 900);
	assert_int_equal(p->total, RUNS);
	assert_null(ovm_promote_find(&it.found, 0, 1));
	assert_null(ovm_promote_find(&it.found, 1, 2));
	it.program.indirect.v[1].count = 899;
	assert_int_equal(choose(), 0);
	drop();
}

static void not_known_well_enough(void **state)
{
	(void)state;
	make();
	reach(2, 1, RUNS);
	assert_int_equal(choose(), 1);
	it.cfgs[0].is_exact = false;
	assert_int_equal(choose(), 0);
	it.cfgs[0].is_exact = true;
	it.regions.v.v[1].is_plt = true;
	assert_int_equal(choose(), 0);
	it.regions.v.v[1].is_plt = false;
	it.of_region[1] = OVM_NONE; /* dropped */
	assert_int_equal(choose(), 0);
	it.of_region[1] = 1;
	it.program.cfgs.v[0] = NULL;
	assert_int_equal(choose(), 0);
	it.program.cfgs.v[0] = &it.cfgs[0];
	it.blocks[1].count = 0; /* its copy is not hot */
	assert_int_equal(choose(), 0);
	it.blocks[1].count = 1;
	it.blocks[1].flags = 0;
	assert_int_equal(choose(), 0);
	it.blocks[1].flags = OVM_BLOCK_REACHABLE;
	it.blocks[0].flags = 0;
	assert_int_equal(choose(), 0);
	it.blocks[0].flags = OVM_BLOCK_REACHABLE;
	assert_int_equal(choose(), 1);
	drop();
}

/* A call that ends its block and has no way on never returns. */
static void calls_that_end(void **state)
{
	(void)state;
	make();
	reach(CALLS - 1, 1, RUNS);
	assert_int_equal(choose(), 1);
	it.blocks[0].n_edges = 0;
	assert_int_equal(choose(), 0);
	reach(CALLS - 2, 1, RUNS);
	assert_int_equal(choose(), 1);
	assert_int_equal(it.found.v[0].insn, CALLS - 2);
	drop();
}

/* The last percent of the executions is not worth its room. */
static void only_hot_ones(void **state)
{
	(void)state;
	make();
	it.program.cfgs.n = 3;
	for (uint32_t k = 0; k < 4; k++)
		reach(3 - k, 1, RUNS); /* in any order */
	assert_int_equal(choose(), 4);
	for (uint32_t k = 0; k < 4; k++)
		assert_int_equal(it.found.v[k].insn, k);
	it.program.indirect.n = 2;
	it.cfgs[2].blocks = &(struct ovm_block){.lo = ovm_va_of(BASE),
						.hi = ovm_va_of(BASE + 3 * CALLS),
						.n_insns = CALLS,
						.n_edges = 1,
						.count = 20,
						.flags = OVM_BLOCK_REACHABLE};
	ovm_vec_push(&it.program.indirect, ((struct ovm_call){2, 0, 0, 1, 20}));
	assert_int_equal(choose(), 2);
	it.program.indirect.v[2].count = 21; /* 2000 of 2021 are less than 99 % */
	it.cfgs[2].blocks->count = 21;
	assert_int_equal(choose(), 3);
	drop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(likeliest_target),
	    cmocka_unit_test(not_known_well_enough),
	    cmocka_unit_test(calls_that_end),
	    cmocka_unit_test(only_hot_ones),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
