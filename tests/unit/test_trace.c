/* Hot traces and the block layout made of the same counts. */
#include "analyzer/layout.h"
#include "analyzer/trace.h"
#include "tests/support/fake_cfg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void set_counts(struct ovm_cfg *cfg, const uint64_t *counts)
{
	ovm_cfg_foreach_bb (cfg, bb)
		cfg->blocks[bb].count = counts[bb];
}

static const uint32_t four[] = {4, 4, 4, 4};
static const uint64_t diamond_counts[] = {100, 10, 90, 100};

static struct ovm_cfg *diamond(void)
{
	static const struct fake_edge edges[] = {{0, 1, 10}, {0, 2, 90}, {1, 3, 10}, {2, 3, 90}};
	struct ovm_cfg *cfg = fake_cfg(four, 4, edges, 4);

	set_counts(cfg, diamond_counts);
	return cfg;
}

static void test_no_trace(void **state)
{
	struct ovm_cfg *cfg = fake_cfg(NULL, 0, NULL, 0);
	struct ovm_arena arena = {0};
	ovm_traces traces = {0};

	(void)state;
	ovm_trace_form(cfg, &arena, &traces);
	assert_int_equal(traces.n, 0);
	fake_free(cfg);
	cfg = diamond();
	set_counts(cfg, (uint64_t[]){0, 0, 0, 0});
	ovm_trace_form(cfg, &arena, &traces);
	assert_int_equal(traces.n, 0);
	fake_free(cfg);
	ovm_arena_free(&arena);
}

static void test_hot_path(void **state)
{
	struct ovm_cfg *cfg = diamond();
	struct ovm_arena arena = {0};
	ovm_traces traces = {0};

	(void)state;
	ovm_trace_form(cfg, &arena, &traces);
	assert_int_equal(traces.n, 2);
	assert_int_equal(traces.v[0].n_blocks, 3);
	assert_int_equal(traces.v[0].blocks[0], 0);
	assert_int_equal(traces.v[0].blocks[1], 2);
	assert_int_equal(traces.v[0].blocks[2], 3);
	assert_int_equal(traces.v[0].count, 100);
	assert_false(traces.v[0].is_loop);
	assert_int_equal(traces.v[1].n_blocks, 1);
	assert_int_equal(traces.v[1].blocks[0], 1);
	ovm_vec_free(&traces);
	ovm_arena_free(&arena);
	fake_free(cfg);
}

static void test_loop(void **state)
{
	static const struct fake_edge edges[] = {{0, 1, 1}, {1, 2, 50}, {2, 1, 49}, {2, 3, 1}};
	struct ovm_cfg *cfg = fake_cfg(four, 4, edges, 4);
	struct ovm_arena arena = {0};
	ovm_traces traces = {0};

	(void)state;
	set_counts(cfg, (uint64_t[]){1, 50, 50, 1});
	ovm_trace_form(cfg, &arena, &traces);
	assert_int_equal(traces.n, 3);
	assert_int_equal(traces.v[0].n_blocks, 2);
	assert_int_equal(traces.v[0].blocks[0], 1);
	assert_int_equal(traces.v[0].blocks[1], 2);
	assert_true(traces.v[0].is_loop);
	ovm_vec_free(&traces);
	ovm_arena_free(&arena);
	fake_free(cfg);
}

static void test_layout_of_blocks(void **state)
{
	struct ovm_cfg *cfg = diamond();
	uint32_t order[4], n_hot;

	(void)state;
	assert_int_equal(ovm_layout_blocks(cfg, order, &n_hot), 4);
	assert_int_equal(n_hot, 4);
	assert_int_equal(order[1], 2);
	assert_int_equal(order[3], 1);

	/* a block that never ran is cold, an unreachable one is not placed */
	set_counts(cfg, (uint64_t[]){90, 0, 90, 90});
	assert_int_equal(ovm_layout_blocks(cfg, order, &n_hot), 4);
	assert_int_equal(n_hot, 3);
	assert_int_equal(order[3], 1);
	cfg->blocks[1].flags = 0;
	assert_int_equal(ovm_layout_blocks(cfg, order, &n_hot), 3);

	/* the entry comes first even if only a later block is known to have run */
	set_counts(cfg, (uint64_t[]){0, 0, 90, 0});
	assert_int_equal(ovm_layout_blocks(cfg, order, &n_hot), 3);
	assert_int_equal(n_hot, 2);
	assert_int_equal(order[0], 0);

	/* nothing ran: all cold, original order */
	set_counts(cfg, (uint64_t[]){0, 0, 0, 0});
	assert_int_equal(ovm_layout_blocks(cfg, order, &n_hot), 3);
	assert_int_equal(n_hot, 0);
	assert_int_equal(order[0], 0);
	fake_free(cfg);
}

/* An interpreter: every block leads to all, mostly to a certain one. More jumps than are looked at.
 */
static void test_many_jumps(void **state)
{
	enum { N = 300, STEP = 7 };
	uint32_t sizes[N], order[N], n_hot, together = 0;
	uint64_t counts[N];
	struct fake_edge *edges = ovm_alloc_array(N * N, sizeof(*edges));
	bool placed[N] = {false};

	(void)state;
	for (uint32_t i = 0; i < N; i++) {
		sizes[i] = 4;
		counts[i] = 1000 + N;
		for (uint32_t k = 0; k < N; k++)
			edges[i * N + k] = (struct fake_edge){i, k, k == (i + STEP) % N ? 1000 : 1};
	}
	struct ovm_cfg *cfg = fake_cfg(sizes, N, edges, N * N);
	set_counts(cfg, counts);
	assert_int_equal(ovm_layout_blocks(cfg, order, &n_hot), N);
	assert_int_equal(n_hot, N);
	assert_int_equal(order[0], 0);
	for (uint32_t i = 0; i < N; i++) {
		assert_false(placed[order[i]]);
		placed[order[i]] = true;
		together += i && order[i] == (order[i - 1] + STEP) % N;
	}
	assert_in_range(together, N * 9 / 10, N);
	fake_free(cfg);
	free(edges);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_no_trace),   cmocka_unit_test(test_hot_path),
	    cmocka_unit_test(test_loop),       cmocka_unit_test(test_layout_of_blocks),
	    cmocka_unit_test(test_many_jumps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
