/* Region order: HFSort and CDSort on call graphs made by hand. */
#include "analyzer/cdsort.h"
#include "base/vec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

typedef void (*sort_fn)(const struct ovm_cg *graph, uint32_t *order);
static const sort_fn sorts[] = {ovm_cdsort, ovm_hfsort};

static uint32_t place_of(const uint32_t *order, uint32_t n, uint32_t node)
{
	for (uint32_t i = 0; i < n; i++)
		if (order[i] == node)
			return i;
	fail_msg("node %u is missing", node);
	return n;
}

static void test_empty(void **state)
{
	struct ovm_cg graph = {0};
	uint32_t order = 7;

	(void)state;
	for (unsigned s = 0; s < 2; s++)
		sorts[s](&graph, &order);
	assert_int_equal(order, 7);
}

static void test_nothing_ran(void **state)
{
	uint64_t sizes[] = {10, 0, 20}, counts[] = {0, 0, 0};
	struct ovm_cg graph = {3, sizes, counts, NULL, 0};
	uint32_t order[3];

	(void)state;
	for (unsigned s = 0; s < 2; s++) {
		sorts[s](&graph, order);
		for (uint32_t i = 0; i < 3; i++)
			assert_int_equal(order[i], i);
	}
}

static void test_caller_before_callee(void **state)
{
	/* 0 -> 3 -> 1 hot; 2 cold */
	uint64_t sizes[] = {100, 100, 100, 100}, counts[] = {90, 80, 1, 90};
	struct ovm_cg_call calls[] = {
	    {0, 3, 90, 99}, {3, 1, 80, 99}, {2, 1, 1, 0}, {1, 1, 1000, 5}};
	struct ovm_cg graph = {4, sizes, counts, calls, 4};
	uint32_t order[4];

	(void)state;
	for (unsigned s = 0; s < 2; s++) {
		sorts[s](&graph, order);
		assert_int_equal(place_of(order, 4, 3), place_of(order, 4, 0) + 1);
		assert_int_equal(place_of(order, 4, 1), place_of(order, 4, 3) + 1);
	}
}

static void test_dense_first(void **state)
{
	uint64_t sizes[] = {4000, 10, 100}, counts[] = {100, 100, 100};
	struct ovm_cg graph = {3, sizes, counts, NULL, 0};
	uint32_t order[3];

	(void)state;
	for (unsigned s = 0; s < 2; s++) {
		sorts[s](&graph, order);
		assert_int_equal(order[0], 1);
		assert_int_equal(order[1], 2);
		assert_int_equal(order[2], 0);
	}
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Permutations, the same each time, and a hub that calls everything does not blow up. */
static void test_big(void **state)
{
	enum { N = 5000, CALLS = 20000 };
	uint64_t seed = 5, *sizes = ovm_alloc_array(N, 8), *counts = ovm_alloc_array(N, 8);
	struct ovm_cg_call *calls = ovm_alloc_array(CALLS, sizeof(*calls));
	uint32_t *order = ovm_alloc_array(N, sizeof(*order)),
		 *again = ovm_alloc_array(N, sizeof(*again));
	struct ovm_cg graph = {N, sizes, counts, calls, CALLS};

	(void)state;
	for (uint32_t i = 0; i < N; i++) {
		sizes[i] = next_random(&seed) % 2000;
		counts[i] = next_random(&seed) % 100;
	}
	for (uint32_t i = 0; i < CALLS; i++)
		calls[i] = (struct ovm_cg_call){(uint32_t)(next_random(&seed) % N),
						i % 2 ? (uint32_t)(next_random(&seed) % N) : 17,
						next_random(&seed) % 50, next_random(&seed) % 3000};
	for (unsigned s = 0; s < 2; s++) {
		bool *seen = ovm_alloc_array(N, sizeof(*seen));

		sorts[s](&graph, order);
		sorts[s](&graph, again);
		for (uint32_t i = 0; i < N; i++) {
			assert_true(order[i] < N && !seen[order[i]]);
			seen[order[i]] = true;
			assert_int_equal(order[i], again[i]);
		}
		free(seen);
	}
	free(sizes);
	free(counts);
	free(calls);
	free(order);
	free(again);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_empty),
	    cmocka_unit_test(test_nothing_ran),
	    cmocka_unit_test(test_caller_before_callee),
	    cmocka_unit_test(test_dense_first),
	    cmocka_unit_test(test_big),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
