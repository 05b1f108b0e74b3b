/* Counts of all arcs from few of them: by hand, at the limits, and for random walks. */
#include "analyzer/probes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MAX_ARCS = 128, UNKNOWN = OVM_NONE };

static ovm_arcs arcs;
static uint64_t counts[MAX_ARCS];

/* Node 0 is EXT; node n stands at 0x100 * n. */
static void arc(uint32_t src, uint32_t dst, uint32_t counter)
{
	ovm_vec_push(&arcs, (struct ovm_arc){.from = {src ? 0x100 * src + 8 : 0},
					     .to = {dst ? 0x100 * dst : 0},
					     .src = src,
					     .dst = dst,
					     .counter = counter,
					     .on_tree = counter == UNKNOWN});
}

static int teardown(void **state)
{
	(void)state;
	ovm_vec_free(&arcs);
	return 0;
}

static void test_none(void **state)
{
	struct ovm_prof_module module = {0};
	(void)state;
	arcs.n = 0;
	assert_int_equal(ovm_arcs_solve(&arcs, 0, NULL, NULL), 0);
	assert_int_equal(ovm_arcs_solve(&arcs, 3, NULL, NULL), 0);
	ovm_arcs_to_profile(&arcs, NULL, &module);
	assert_int_equal(module.edges.n, 0);
}

static void test_one_block(void **state)
{
	struct ovm_prof_module module = {0};
	(void)state;
	arcs.n = 0;
	arc(0, 1, UNKNOWN);
	arc(1, 0, 0);
	assert_int_equal(ovm_arcs_solve(&arcs, 2, (uint64_t[]){7}, counts), 0);
	assert_int_equal(counts[0], 7);
	assert_int_equal(counts[1], 7);
	ovm_arcs_to_profile(&arcs, counts, &module);
	assert_int_equal(module.edges.n, 1); /* where a return goes is not known */
	assert_int_equal(module.edges.v[0].from.v, 0);
	assert_int_equal(module.edges.v[0].to.v, 0x100);
	assert_int_equal(module.edges.v[0].count, 7);
	module.edges.n = 0;
	assert_int_equal(ovm_arcs_solve(&arcs, 2, (uint64_t[]){0}, counts), 0);
	ovm_arcs_to_profile(&arcs, counts, &module);
	assert_int_equal(module.edges.n, 0);
	ovm_vec_free(&module.edges);
}

static void diamond(void)
{
	arcs.n = 0;
	arc(0, 1, UNKNOWN);
	arc(1, 2, 0);
	arc(1, 3, UNKNOWN);
	arc(2, 4, UNKNOWN);
	arc(3, 4, UNKNOWN);
	arc(4, 0, 1);
}

static void test_diamond(void **state)
{
	static const uint64_t want[] = {30, 10, 20, 10, 20, 30};
	(void)state;
	diamond();
	assert_int_equal(ovm_arcs_solve(&arcs, 5, (uint64_t[]){10, 30}, counts), 0);
	for (uint32_t i = 0; i < arcs.n; i++)
		assert_int_equal(counts[i], want[i]);
}

/* Left out of the middle: more went into the arm than ever came out. */
static void test_clipped(void **state)
{
	(void)state;
	diamond();
	assert_int_equal(ovm_arcs_solve(&arcs, 5, (uint64_t[]){10, 4}, counts), 6);
	assert_int_equal(counts[0], 10);
	assert_int_equal(counts[2], 0);
	assert_int_equal(counts[3], 10);
	assert_int_equal(counts[4], 0);
	assert_int_equal(counts[5], 4);
}

static void test_limits(void **state)
{
	(void)state;
	diamond();
	assert_int_equal(ovm_arcs_solve(&arcs, 5, (uint64_t[]){UINT64_MAX, UINT64_MAX}, counts), 0);
	assert_int_equal(counts[1], UINT64_MAX);
	assert_int_equal(counts[3], INT64_MAX);
	ovm_arcs_solve(&arcs, 5, (uint64_t[]){UINT64_MAX, 0}, counts);
	assert_int_equal(counts[4], 0);
	arcs.n = 0; /* sums beyond 64 bits saturate */
	for (unsigned i = 0; i < 3; i++)
		arc(1, 0, 0);
	arc(0, 1, UNKNOWN);
	assert_int_equal(ovm_arcs_solve(&arcs, 2, (uint64_t[]){INT64_MAX}, counts), 0);
	assert_int_equal(counts[3], INT64_MAX);
}

static void test_self_loop(void **state)
{
	(void)state;
	arcs.n = 0;
	arc(0, 1, UNKNOWN);
	arc(1, 1, 0);
	arc(1, 0, 1);
	assert_int_equal(ovm_arcs_solve(&arcs, 2, (uint64_t[]){1000, 5}, counts), 0);
	assert_int_equal(counts[0], 5);
	assert_int_equal(counts[1], 1000);
}

/* An arc nobody could count, and trees that are none: no crash, what is not known is 0. */
static void test_unknown(void **state)
{
	(void)state;
	diamond();
	arc(1, 4, UNKNOWN);
	arcs.v[6].on_tree = false;
	assert_int_equal(ovm_arcs_solve(&arcs, 5, (uint64_t[]){10, 30}, counts), 0);
	assert_int_equal(counts[6], 0);
	assert_int_equal(counts[4], 20);
	arcs.n = 0;
	arc(1, 2, UNKNOWN);
	arc(2, 1, UNKNOWN);
	arc(2, 2, UNKNOWN);
	arc(2, 1, 0);
	assert_int_equal(ovm_arcs_solve(&arcs, 3, (uint64_t[]){9}, counts), 0);
	assert_int_equal(counts[0], 0);
	assert_int_equal(counts[3], 9);
}

/* Two jumps through one table: 1 and 2 -> table 3 -> 4 and 5. */
static void test_shared_table(void **state)
{
	static const uint64_t want[][3] = {
	    {0x108, 0x400, 7}, {0x108, 0x500, 3}, {0x208, 0x400, 14}, {0x208, 0x500, 6}};
	struct ovm_prof_module module = {0};
	(void)state;
	arcs.n = 0;
	arc(0, 1, UNKNOWN);
	arc(0, 2, 0);
	arc(1, 3, UNKNOWN);
	arc(3, 4, 1);
	arc(3, 5, UNKNOWN);
	arc(2, 3, UNKNOWN);
	arc(4, 0, UNKNOWN);
	arc(5, 0, 2);
	for (uint32_t i = 2; i <= 5; i++)
		arcs.v[i].kind = i == 3 || i == 4 ? OVM_ARC_FROM_TABLE : OVM_ARC_TO_TABLE;
	assert_int_equal(ovm_arcs_solve(&arcs, 6, (uint64_t[]){20, 21, 9}, counts), 0);
	assert_int_equal(counts[2], 10);
	ovm_arcs_to_profile(&arcs, counts, &module);
	assert_int_equal(module.edges.n, 6); /* two entries */
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(module.edges.v[2 + i].from.v, want[i][0]);
		assert_int_equal(module.edges.v[2 + i].to.v, want[i][1]);
		assert_int_equal(module.edges.v[2 + i].count, want[i][2]);
	}
	module.edges.n = 0; /* nothing came out: nothing is said */
	ovm_arcs_to_profile(&arcs, (uint64_t[]){0, 0, 5, 0, 0, 0, 0, 0}, &module);
	assert_int_equal(module.edges.n, 0);
	ovm_vec_free(&module.edges);
}

/* --- random graphs --- */

static uint64_t next_random(void)
{
	static uint64_t x = 0x9e3779b97f4a7c15;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x >> 11;
}

/* 1 -> 2 -> ... -> n -> EXT, and arcs between any two. */
static void random_graph(uint32_t n)
{
	arcs.n = 0;
	for (uint32_t node = 0; node <= n; node++)
		arc(node, node == n ? 0 : node + 1, UNKNOWN);
	for (uint32_t i = 0; i < n; i++)
		arc((uint32_t)(next_random() % (n + 1)), 1 + (uint32_t)(next_random() % n),
		    UNKNOWN);
}

static uint32_t root(uint32_t *parent, uint32_t node)
{
	while (parent[node] != node)
		node = parent[node];
	return node;
}

/* Arcs in random order: on the tree if they close no cycle, else counted. */
static uint32_t random_tree(uint32_t n)
{
	uint32_t parent[64], order[MAX_ARCS], n_counters = 0;
	for (uint32_t node = 0; node <= n; node++)
		parent[node] = node;
	for (uint32_t i = 0; i < arcs.n; i++) {
		uint32_t k = (uint32_t)(next_random() % (i + 1));
		order[i] = order[k];
		order[k] = i;
	}
	for (uint32_t i = 0; i < arcs.n; i++) {
		struct ovm_arc *a = &arcs.v[order[i]];
		uint32_t src = root(parent, a->src), dst = root(parent, a->dst);
		a->on_tree = src != dst;
		if (!a->on_tree)
			a->counter = n_counters++;
		parent[src] = dst;
	}
	return n_counters;
}

static void walk(uint64_t *walked)
{
	uint32_t at = 0, steps = 0;
	do {
		uint32_t pick = OVM_NONE, n = 0;
		for (uint32_t i = 0; i < arcs.n; i++)
			if (arcs.v[i].src == at && next_random() % ++n == 0)
				pick = i;
		if (steps++ > 200) /* straight home */
			for (uint32_t i = 0; i < arcs.n; i++)
				if (arcs.v[i].src == at && (!arcs.v[i].dst || arcs.v[i].dst > at))
					pick = i;
		walked[pick]++;
		at = arcs.v[pick].dst;
	} while (at);
}

static void test_random(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 2000; round++) {
		uint32_t n = 1 + (uint32_t)(next_random() % 30);
		uint64_t walked[MAX_ARCS] = {0}, counters[MAX_ARCS];
		random_graph(n);
		random_tree(n);
		for (unsigned i = 0; i < 20; i++)
			walk(walked);
		for (uint32_t i = 0; i < arcs.n; i++)
			if (arcs.v[i].counter != OVM_NONE)
				counters[arcs.v[i].counter] = walked[i];
		assert_int_equal(ovm_arcs_solve(&arcs, n + 1, counters, counts), 0);
		for (uint32_t i = 0; i < arcs.n; i++)
			assert_int_equal(counts[i], walked[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_none),    cmocka_unit_test(test_one_block),
	    cmocka_unit_test(test_diamond), cmocka_unit_test(test_clipped),
	    cmocka_unit_test(test_limits),  cmocka_unit_test(test_self_loop),
	    cmocka_unit_test(test_unknown), cmocka_unit_test(test_shared_table),
	    cmocka_unit_test(test_random),
	};
	return cmocka_run_group_tests(tests, NULL, teardown);
}
