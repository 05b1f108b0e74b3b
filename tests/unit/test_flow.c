/* Minimum-cost flow: by hand, and against exhaustive search on small random graphs. */
#include "analyzer/flow.h"
#include "base/addr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_nothing_to_send(void **state)
{
	struct ovm_flow flow;

	(void)state;
	ovm_flow_init(&flow, 2);
	assert_true(ovm_flow_solve(&flow, 0, 1, 10));
	ovm_flow_add(&flow, 0, 1, 0, 3);
	assert_true(ovm_flow_solve(&flow, 0, 1, 10));
	assert_int_equal(ovm_flow_on(&flow, 0), 0);
	ovm_flow_fini(&flow);
	ovm_flow_fini(&flow);
}

static void test_cheap_arc_first(void **state)
{
	struct ovm_flow flow;
	uint32_t cheap, dear;

	(void)state;
	ovm_flow_init(&flow, 3);
	ovm_flow_add(&flow, 0, 1, 10, 0);
	dear = ovm_flow_add(&flow, 1, 2, OVM_FLOW_INF, 5);
	cheap = ovm_flow_add(&flow, 1, 2, 7, 2);
	assert_true(ovm_flow_solve(&flow, 0, 2, 10));
	assert_int_equal(ovm_flow_on(&flow, cheap), 7);
	assert_int_equal(ovm_flow_on(&flow, dear), 3);
	ovm_flow_fini(&flow);
}

static void test_reroutes(void **state)
{
	/* the cheapest single path 0-1-2-3 must be taken back for the cheapest pair */
	struct ovm_flow flow;
	uint32_t middle;

	(void)state;
	ovm_flow_init(&flow, 4);
	ovm_flow_add(&flow, 0, 1, 1, 1);
	ovm_flow_add(&flow, 0, 2, 1, 4);
	middle = ovm_flow_add(&flow, 1, 2, 1, 1);
	ovm_flow_add(&flow, 1, 3, 1, 4);
	ovm_flow_add(&flow, 2, 3, 1, 1);
	assert_true(ovm_flow_solve(&flow, 0, 3, 10));
	assert_int_equal(ovm_flow_on(&flow, middle), 0);
	ovm_flow_fini(&flow);
}

static void test_phase_limit(void **state)
{
	struct ovm_flow flow;
	uint32_t a, b;

	(void)state;
	ovm_flow_init(&flow, 2);
	a = ovm_flow_add(&flow, 0, 1, 5, 1);
	b = ovm_flow_add(&flow, 0, 1, 5, 2);
	assert_false(ovm_flow_solve(&flow, 0, 1, 1));
	assert_int_equal(ovm_flow_on(&flow, a), 5);
	assert_int_equal(ovm_flow_on(&flow, b), 0);
	ovm_flow_fini(&flow);
}

static void test_zero_cost_cycle(void **state)
{
	struct ovm_flow flow;
	uint32_t out;

	(void)state;
	ovm_flow_init(&flow, 4);
	ovm_flow_add(&flow, 0, 1, 3, 0);
	ovm_flow_add(&flow, 1, 2, OVM_FLOW_INF, 0);
	ovm_flow_add(&flow, 2, 1, OVM_FLOW_INF, 0);
	out = ovm_flow_add(&flow, 2, 3, 100, 0);
	assert_true(ovm_flow_solve(&flow, 0, 3, 10));
	assert_int_equal(ovm_flow_on(&flow, out), 3);
	ovm_flow_fini(&flow);
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

enum { NODES = 4, ARCS = 6 };

struct small {
	uint32_t from[ARCS], to[ARCS];
	int64_t cap[ARCS];
	int32_t cost[ARCS];
};

/* Best (amount, cost) over all flows with small capacities, by trying all. */
static void exhaust(const struct small *g, unsigned arc, int64_t *on, int64_t *amount,
		    int64_t *cost)
{
	int64_t excess[NODES] = {0}, total = 0;

	if (arc < ARCS) {
		for (on[arc] = 0; on[arc] <= g->cap[arc]; on[arc]++)
			exhaust(g, arc + 1, on, amount, cost);
		return;
	}
	for (unsigned i = 0; i < ARCS; i++) {
		excess[g->from[i]] -= on[i];
		excess[g->to[i]] += on[i];
		total += on[i] * g->cost[i];
	}
	if (excess[1] || excess[2] || excess[3] < *amount)
		return;
	if (excess[3] > *amount || total < *cost) {
		*amount = excess[3];
		*cost = total;
	}
}

static void test_against_exhaustive_search(void **state)
{
	uint64_t seed = 3;

	(void)state;
	for (unsigned round = 0; round < 200; round++) {
		int64_t on[ARCS], best_amount = 0, best_cost = 0, amount = 0, cost = 0;
		struct ovm_flow flow;
		struct small g;

		ovm_flow_init(&flow, NODES);
		for (unsigned i = 0; i < ARCS; i++) {
			g.from[i] = (uint32_t)(next_random(&seed) % NODES);
			g.to[i] = (uint32_t)(next_random(&seed) % NODES);
			g.cap[i] = (int64_t)(next_random(&seed) % 4);
			g.cost[i] = (int32_t)(next_random(&seed) % 6);
			assert_int_equal(
			    ovm_flow_add(&flow, g.from[i], g.to[i], g.cap[i], g.cost[i]), i);
		}
		exhaust(&g, 0, on, &best_amount, &best_cost);
		assert_true(ovm_flow_solve(&flow, 0, NODES - 1, 1000));
		for (unsigned i = 0; i < ARCS; i++) {
			int64_t x = ovm_flow_on(&flow, i);

			assert_true(x >= 0 && x <= g.cap[i]);
			cost += x * g.cost[i];
			amount += g.to[i] == NODES - 1 ? x : 0;
			amount -= g.from[i] == NODES - 1 ? x : 0;
		}
		assert_int_equal(amount, best_amount);
		assert_int_equal(cost, best_cost);
		ovm_flow_fini(&flow);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_nothing_to_send),
	    cmocka_unit_test(test_cheap_arc_first),
	    cmocka_unit_test(test_reroutes),
	    cmocka_unit_test(test_phase_limit),
	    cmocka_unit_test(test_zero_cost_cycle),
	    cmocka_unit_test(test_against_exhaustive_search),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
