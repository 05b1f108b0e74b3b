/* Copies that are entered through the original code too often to be worth it, on programs made by
 * hand: each graph is one region of one block. */
#include "analyzer/worth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX = 4, BASE = 0x1000, STEP = 0x100, INSNS = 5 };

struct made {
	struct ovm_program program;
	ovm_promotions promotions;
	struct ovm_regions regions;
	struct ovm_cfg cfgs[MAX];
	struct ovm_block blocks[MAX];
	struct ovm_insn insns[MAX][INSNS];
	uint32_t of_region[MAX];
	double gain[MAX];
	bool is_worth[MAX];
};

static ovm_va start_of(uint32_t idx)
{
	return ovm_va_of(BASE + STEP * idx);
}

/* Graphs executed so often. */
static void make(struct made *m, const uint64_t *counts, uint32_t n)
{
	memset(m, 0, sizeof(*m));
	m->program.regions = &m->regions;
	m->program.cfg_of_region = m->of_region;
	for (uint32_t i = 0; i < n; i++) {
		struct ovm_cfg *cfg = &m->cfgs[i];

		m->of_region[i] = i;
		ovm_vec_push(&m->regions.v,
			     ((struct ovm_region){.lo = start_of(i), .hi = start_of(i + 1)}));
		for (uint32_t k = 0; k < INSNS; k++)
			m->insns[i][k] =
			    (struct ovm_insn){.va = ovm_va_of(start_of(i).v + 5 * k), .len = 5};
		m->insns[i][INSNS - 1].kind = OVM_INSN_RET;
		m->blocks[i] = (struct ovm_block){.lo = start_of(i),
						  .hi = ovm_va_of(start_of(i).v + 5 * INSNS),
						  .n_insns = INSNS,
						  .count = counts[i],
						  .flags = OVM_BLOCK_REACHABLE};
		cfg->insns = m->insns[i];
		cfg->n_insns = INSNS;
		cfg->blocks = &m->blocks[i];
		cfg->n_blocks = 1;
		cfg->is_exact = true;
		ovm_vec_push(&m->program.cfgs, cfg);
	}
}

/* Instruction @k of graph @from becomes a call. */
static void call(struct made *m, uint32_t from, uint32_t k, uint32_t to)
{
	m->insns[from][k].kind = OVM_INSN_CALL;
	m->insns[from][k].target = start_of(to);
}

static uint32_t choose(struct made *m)
{
	ovm_calls calls = {0};
	ovm_program_calls(&m->program, &calls);
	uint32_t n = ovm_worth_choose(&m->program, &calls, &m->promotions, m->gain, m->is_worth);
	ovm_vec_free(&calls);
	return n;
}

static void fini(struct made *m)
{
	ovm_vec_free(&m->program.cfgs);
	ovm_vec_free(&m->program.indirect);
	ovm_vec_free(&m->promotions);
	ovm_vec_free(&m->regions.v);
}

static void nothing(void **state)
{
	struct made m;

	(void)state;
	make(&m, NULL, 0);
	assert_int_equal(choose(&m), 0);
	fini(&m);
}

static void entered_by_pointers(void **state)
{
	struct made m;

	(void)state;
	make(&m, (uint64_t[]){1000, 1000, 1000}, 3);
	m.gain[1] = 1e6; /* its order is worth the jump */
	m.cfgs[2].is_exact = false;
	assert_int_equal(choose(&m), 1);
	assert_false(m.is_worth[0]);
	assert_true(m.is_worth[1]);
	assert_true(m.is_worth[2]);
	fini(&m);
}

static void called_from_copies(void **state)
{
	struct made m;

	(void)state;
	make(&m, (uint64_t[]){1000, 1000}, 2);
	call(&m, 0, 1, 1);
	m.gain[0] = 1e6;
	assert_int_equal(choose(&m), 0);
	fini(&m);
}

/* Calls by a promoted pointer count like direct ones, as often as they hit. */
static void called_by_promoted_pointers(void **state)
{
	struct made m;

	(void)state;
	make(&m, (uint64_t[]){1000, 1000}, 2);
	m.insns[0][2].kind = OVM_INSN_CALL_IND;
	ovm_vec_push(&m.program.indirect, ((struct ovm_call){0, 0, 10, 1, 1000}));
	m.gain[0] = 1e6;
	assert_int_equal(choose(&m), 1);
	assert_false(m.is_worth[1]);
	ovm_vec_push(&m.promotions, ((struct ovm_promotion){0, 0, 2, 1, 1000, 1000}));
	assert_int_equal(choose(&m), 0);
	m.promotions.v[0].hits = 100;
	assert_int_equal(choose(&m), 1);
	fini(&m);
}

/* 0, which nobody calls directly, calls 1 twice: copied, it saves two entries and costs one. */
static void calls_pay_for_the_entry(void **state)
{
	struct made m;

	(void)state;
	make(&m, (uint64_t[]){1000, 2000}, 2);
	call(&m, 0, 1, 1);
	call(&m, 0, 2, 1);
	assert_int_equal(choose(&m), 0);
	fini(&m);
}

/* 0 calls 1, and pointers lead to 1 as often: 1 leaves, then nothing pays for 0. */
static void leaving_spreads(void **state)
{
	struct made m;

	(void)state;
	make(&m, (uint64_t[]){1000, 3000}, 2);
	call(&m, 0, 1, 1);
	m.gain[0] = 100;
	assert_int_equal(choose(&m), 2);
	assert_false(m.is_worth[0]);
	assert_false(m.is_worth[1]);
	fini(&m);
}

/* The same program, but most calls of 1 go through pointers in 0: these pay nothing. */
static void counted_pointers_are_no_direct_calls(void **state)
{
	struct made m;

	(void)state;
	make(&m, (uint64_t[]){1000, 2000}, 2);
	call(&m, 0, 1, 1);
	m.insns[0][2].kind = OVM_INSN_CALL_IND;
	ovm_vec_push(&m.program.indirect, ((struct ovm_call){0, 0, 10, 1, 1000}));
	m.gain[0] = 100;
	assert_int_equal(choose(&m), 2);
	fini(&m);
}

/* A loop that is entered seldom stays. */
static void works_long(void **state)
{
	struct made m;

	(void)state;
	make(&m, (uint64_t[]){1000}, 1);
	m.cfgs[0].n_blocks = 2;
	struct ovm_block blocks[2] = {m.blocks[0], m.blocks[0]};
	blocks[1].count = 1000000;
	m.cfgs[0].blocks = blocks;
	assert_int_equal(choose(&m), 0);
	fini(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nothing),
	    cmocka_unit_test(entered_by_pointers),
	    cmocka_unit_test(called_from_copies),
	    cmocka_unit_test(called_by_promoted_pointers),
	    cmocka_unit_test(calls_pay_for_the_entry),
	    cmocka_unit_test(leaving_spreads),
	    cmocka_unit_test(counted_pointers_are_no_direct_calls),
	    cmocka_unit_test(works_long),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
