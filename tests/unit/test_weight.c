/* Counts from samples, branches, ranges and exact edges; conservation after inference and repair.
 */
#include "analyzer/weight.h"
#include "analyzer/tunables.h"
#include "tests/support/fake_cfg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct ovm_ctx ctx;

/* A: 0 -> B 1 or C 2 -> D 3, ret */
static struct ovm_cfg *diamond(void)
{
	static const uint32_t n_insns[] = {4, 4, 4, 4};
	static const struct fake_edge edges[] = {{0, 1, 0}, {0, 2, 0}, {1, 3, 0}, {2, 3, 0}};

	return fake_cfg(n_insns, 4, edges, 4);
}

static void add_sample(struct ovm_prof_module *module, const struct ovm_cfg *cfg, uint32_t bb,
		       uint64_t count)
{
	ovm_vec_push(&module->samples, (struct ovm_prof_sample){cfg->blocks[bb].lo, count});
}

static void add_edge(struct ovm_prof_module *module, const struct ovm_cfg *cfg, uint32_t src,
		     uint32_t dst, uint64_t count)
{
	ovm_vec_push(&module->edges, (struct ovm_prof_edge){ovm_block_last(cfg, src)->va,
							    cfg->blocks[dst].lo, count});
}

static void free_module(struct ovm_prof_module *module)
{
	ovm_vec_free(&module->samples);
	ovm_vec_free(&module->branches);
	ovm_vec_free(&module->ranges);
	ovm_vec_free(&module->edges);
}

/* What comes into a block that is neither entry nor exit goes out again. */
static void assert_conserved(const struct ovm_cfg *cfg)
{
	ovm_cfg_foreach_bb (cfg, bb) {
		uint64_t in = 0, out = 0;

		for (uint32_t e = 0; e < cfg->n_edges; e++) {
			in += cfg->edges[e].dst == bb ? cfg->edges[e].count : 0;
			out += cfg->edges[e].src == bb ? cfg->edges[e].count : 0;
		}
		if (!(cfg->blocks[bb].flags & OVM_BLOCK_REGION_START))
			assert_int_equal(in, cfg->blocks[bb].count);
		if (ovm_block_last(cfg, bb)->kind != OVM_INSN_RET)
			assert_int_equal(out, cfg->blocks[bb].count);
	}
}

static void test_empty(void **state)
{
	struct ovm_cfg *cfg = fake_cfg(NULL, 0, NULL, 0);
	struct ovm_prof_module module = {0};

	(void)state;
	ovm_weight_attach(&ctx, cfg, NULL);
	ovm_weight_attach(&ctx, cfg, &module);
	ovm_weight_uniform(cfg);
	ovm_weight_repair(cfg);
	assert_true(cfg->has_counts);
	fake_free(cfg);
}

static void test_no_samples(void **state)
{
	struct ovm_cfg *cfg = diamond();
	struct ovm_prof_module module = {0};

	(void)state;
	cfg->blocks[1].count = 77;
	ovm_weight_attach(&ctx, cfg, &module);
	ovm_cfg_foreach_bb (cfg, bb)
		assert_int_equal(cfg->blocks[bb].count, 0);
	assert_int_equal(cfg->samples, 0);
	fake_free(cfg);
}

static void test_hot_arm(void **state)
{
	struct ovm_cfg *cfg = diamond();
	struct ovm_prof_module module = {0};

	(void)state;
	add_sample(&module, cfg, 0, 100);
	add_sample(&module, cfg, 2, 90);
	add_sample(&module, cfg, 3, 110);
	ovm_weight_attach(&ctx, cfg, &module);
	assert_int_equal(cfg->samples, 300);
	assert_int_equal(cfg->blocks[2].samples, 90);
	assert_true(fake_edge_count(cfg, 0, 2) > 10 * fake_edge_count(cfg, 0, 1));
	assert_true(cfg->blocks[0].count > 0 && cfg->blocks[3].count > 0);
	fake_free(cfg);
	free_module(&module);
}

static void test_entry_gets_a_count(void **state)
{
	/* one sample in the middle: the whole path ran */
	static const uint32_t n_insns[] = {3, 3, 3, 3};
	static const struct fake_edge edges[] = {{0, 1, 0}, {1, 2, 0}, {2, 3, 0}};
	struct ovm_cfg *cfg = fake_cfg(n_insns, 4, edges, 3);
	struct ovm_prof_module module = {0};

	(void)state;
	add_sample(&module, cfg, 2, 1);
	ovm_weight_attach(&ctx, cfg, &module);
	ovm_cfg_foreach_bb (cfg, bb)
		assert_true(cfg->blocks[bb].count > 0);
	assert_conserved(cfg);
	fake_free(cfg);
	free_module(&module);
}

static void test_loop_is_connected(void **state)
{
	/* 0 -> 1, 1 -> 1, 1 -> 2; only the loop was seen */
	static const uint32_t n_insns[] = {30, 6, 30};
	static const struct fake_edge edges[] = {{0, 1, 0}, {1, 1, 0}, {1, 2, 0}};
	struct ovm_cfg *cfg = fake_cfg(n_insns, 3, edges, 3);
	struct ovm_prof_module module = {0};

	(void)state;
	add_sample(&module, cfg, 1, 1000);
	ovm_weight_attach(&ctx, cfg, &module);
	assert_true(cfg->blocks[0].count > 0);
	assert_true(cfg->blocks[1].count > 10 * cfg->blocks[0].count);
	assert_conserved(cfg);
	fake_free(cfg);
	free_module(&module);
}

static void test_exact_edges(void **state)
{
	struct ovm_cfg *cfg = diamond();
	struct ovm_prof_module module = {0};

	(void)state;
	add_sample(&module, cfg, 1, 5000); /* exact counts win */
	add_edge(&module, cfg, 0, 1, 10);
	add_edge(&module, cfg, 0, 2, 90);
	add_edge(&module, cfg, 1, 3, 10);
	add_edge(&module, cfg, 2, 3, 90);
	ovm_weight_attach(&ctx, cfg, &module);
	assert_int_equal(cfg->blocks[0].count, 100);
	assert_int_equal(cfg->blocks[1].count, 10);
	assert_int_equal(cfg->blocks[2].count, 90);
	assert_int_equal(cfg->blocks[3].count, 100);
	assert_conserved(cfg);
	fake_free(cfg);
	free_module(&module);
}

static void test_branches_and_ranges(void **state)
{
	struct ovm_cfg *cfg = diamond();
	struct ovm_prof_module module = {0};

	(void)state;
	/* 0 -taken-> 2 falls into 3: 90 times; 0 falls into 1, which jumps to 3: 10 times */
	ovm_vec_push(&module.branches, (struct ovm_prof_branch){ovm_block_last(cfg, 0)->va,
								cfg->blocks[2].lo, 90, 1});
	ovm_vec_push(&module.branches, (struct ovm_prof_branch){ovm_block_last(cfg, 1)->va,
								cfg->blocks[3].lo, 10, 1});
	ovm_vec_push(&module.ranges,
		     (struct ovm_prof_range){cfg->blocks[0].lo, ovm_block_last(cfg, 1)->va, 10});
	ovm_vec_push(&module.ranges,
		     (struct ovm_prof_range){cfg->blocks[2].lo, ovm_block_last(cfg, 3)->va, 90});
	ovm_weight_attach(&ctx, cfg, &module);
	assert_int_equal(fake_edge_count(cfg, 0, 1), 10);
	assert_int_equal(fake_edge_count(cfg, 0, 2), 90);
	assert_int_equal(fake_edge_count(cfg, 2, 3), 90);
	assert_int_equal(cfg->blocks[3].count, 100);
	fake_free(cfg);
	free_module(&module);
}

static void test_repair(void **state)
{
	struct ovm_cfg *cfg = diamond();

	(void)state;
	/* a few counts were lost on 1 -> 3 */
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		cfg->edges[e].count = cfg->edges[e].src == 0   ? 50
				      : cfg->edges[e].src == 1 ? 48
							       : 50;
	cfg->blocks[3].count = 100;
	ovm_weight_repair(cfg);
	assert_conserved(cfg);
	assert_true(cfg->blocks[1].count >= 48 && cfg->blocks[1].count <= 50);
	assert_int_equal(cfg->blocks[2].count, 50);
	fake_free(cfg);
}

static void test_hostile_counts(void **state)
{
	struct ovm_cfg *cfg = diamond();
	struct ovm_prof_module module = {0};

	(void)state;
	add_sample(&module, cfg, 0, UINT64_MAX);
	add_sample(&module, cfg, 1, UINT64_MAX);
	ovm_weight_attach(&ctx, cfg, &module);
	assert_true(cfg->blocks[0].count > 0);
	add_edge(&module, cfg, 0, 1, UINT64_MAX);
	add_edge(&module, cfg, 0, 2, UINT64_MAX);
	add_edge(&module, cfg, 2, 3, 1);
	ovm_weight_attach(&ctx, cfg, &module);
	assert_conserved(cfg);
	fake_free(cfg);
	free_module(&module);
}

static void test_uniform(void **state)
{
	struct ovm_cfg *cfg = diamond();

	(void)state;
	ovm_weight_uniform(cfg);
	ovm_cfg_foreach_bb (cfg, bb)
		assert_int_equal(cfg->blocks[bb].count, OVM_TUNE(WEIGHT_UNIFORM));
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		assert_int_equal(cfg->edges[e].count, OVM_TUNE(WEIGHT_UNIFORM));
	fake_free(cfg);
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Any graph, any samples: it ends, and every sampled block that can be reached has a count. */
static void test_random_graphs(void **state)
{
	uint64_t seed = 11;

	(void)state;
	for (unsigned round = 0; round < 200; round++) {
		uint32_t n = 1 + (uint32_t)(next_random(&seed) % 40), n_insns[40], n_edges = 0;
		struct ovm_prof_module module = {0};
		struct fake_edge edges[80];
		struct ovm_cfg *cfg;

		for (uint32_t i = 0; i < n; i++) {
			n_insns[i] = 1 + (uint32_t)(next_random(&seed) % 30);
			if (i + 1 < n && next_random(&seed) % 6)
				edges[n_edges++] = (struct fake_edge){i, i + 1, 0};
			if (next_random(&seed) % 2) {
				uint32_t dst = (uint32_t)(next_random(&seed) % n);

				if (dst != i + 1)
					edges[n_edges++] = (struct fake_edge){i, dst, 0};
			}
		}
		cfg = fake_cfg(n_insns, n, edges, n_edges);
		for (uint32_t i = 0; i < n; i++)
			if (next_random(&seed) % 3 == 0)
				add_sample(&module, cfg, i, next_random(&seed) % 1000);
		ovm_weight_attach(&ctx, cfg, &module);
		fake_free(cfg);
		free_module(&module);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_empty),
	    cmocka_unit_test(test_no_samples),
	    cmocka_unit_test(test_hot_arm),
	    cmocka_unit_test(test_entry_gets_a_count),
	    cmocka_unit_test(test_loop_is_connected),
	    cmocka_unit_test(test_exact_edges),
	    cmocka_unit_test(test_branches_and_ranges),
	    cmocka_unit_test(test_repair),
	    cmocka_unit_test(test_hostile_counts),
	    cmocka_unit_test(test_uniform),
	    cmocka_unit_test(test_random_graphs),
	};

	ovm_ctx_init(&ctx);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
