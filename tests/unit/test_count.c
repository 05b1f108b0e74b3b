/* Instrumented copies, executed: functions of this very program are copied with counters, the
 * copies are called, and what the counters say is compared with what must have happened. */
#include "rewriter/count.h"
#include "tests/support/counted.h"

enum { N_NAMES = 3 };

static const char *const names[N_NAMES] = {"count_leaf", "count_switch", "count_loop"};

unsigned count_leaf(unsigned x);
unsigned count_switch(unsigned x);
unsigned count_loop(unsigned n);

__attribute__((noipa)) unsigned count_leaf(unsigned x)
{
	return x % 3 ? x * 7 : x / 3;
}

__attribute__((noipa)) unsigned count_switch(unsigned x)
{
	volatile unsigned y = x;
	switch (x % 8) {
	case 0:
		y += 3;
		break;
	case 1:
		y *= 5;
		break;
	case 2:
		y ^= 0x55;
		break;
	case 3:
		y -= 9;
		break;
	case 4:
		y += count_leaf(y);
		break;
	case 5:
		y = ~y;
		break;
	case 6:
		y <<= 1;
		break;
	default:
		y >>= 1;
		break;
	}
	return y;
}

__attribute__((noipa)) unsigned count_loop(unsigned n)
{
	unsigned sum = 0;
	for (unsigned i = 0; i < n; i++)
		sum += i % 2 ? count_switch(i) : count_leaf(i);
	return sum;
}

typedef unsigned (*function)(unsigned);

static function copy_of(const struct counted *f, const char *name)
{
	return (function)counted_copy(f, name); /* NOLINT */
}

static uint64_t edge_count(const struct counted *f, ovm_va from, ovm_va to)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < f->module.edges.n; i++)
		if (f->module.edges.v[i].from.v == from.v && f->module.edges.v[i].to.v == to.v)
			sum += f->module.edges.v[i].count;
	return sum;
}

static void solve(struct counted *f)
{
	const struct ovm_probes *probes = &f->engine.probes;
	f->module.edges.n = 0;
	assert_int_equal(ovm_arcs_solve(&probes->arcs, probes->n_nodes, f->counters, f->counts), 0);
	ovm_arcs_to_profile(&probes->arcs, f->counts, &f->module);
	ovm_callcount_to_profile(&f->engine.calls, &probes->arcs, f->counts, f->functions, N_NAMES,
				 &f->module);
}

static uint64_t entries(const struct counted *f, const char *name)
{
	return edge_count(f, ovm_va_of(0), self_symbol(&f->self, name));
}

static void counts_what_happens(void **state)
{
	enum { N = 1000 };
	struct counted f;
	(void)state;
	counted_init(&f, names, N_NAMES);
	assert_int_equal(copy_of(&f, "count_loop")(N), count_loop(N));
	solve(&f);
	assert_int_equal(entries(&f, "count_loop"), 1);
	assert_int_equal(entries(&f, "count_switch"), N / 2);
	/* from the loop for even numbers; from case 4 for none, as these numbers are odd */
	assert_int_equal(entries(&f, "count_leaf"), N / 2);
	assert_int_equal(copy_of(&f, "count_switch")(4), count_switch(4));
	solve(&f);
	assert_int_equal(entries(&f, "count_leaf"), N / 2 + 1);
	assert_int_equal(entries(&f, "count_switch"), N / 2 + 1);
	counted_fini(&f);
}

/* Flow is conserved at every node: what is solved for is what a counter would have seen. */
static void flow_is_conserved(void **state)
{
	struct counted f;
	(void)state;
	counted_init(&f, names, N_NAMES);
	for (unsigned n = 0; n < 50; n++)
		assert_int_equal(copy_of(&f, "count_loop")(n), count_loop(n));
	const struct ovm_probes *probes = &f.engine.probes;
	assert_int_equal(ovm_arcs_solve(&probes->arcs, probes->n_nodes, f.counters, f.counts), 0);
	int64_t *balance = ovm_alloc_array(probes->n_nodes, sizeof(*balance));
	for (uint32_t i = 0; i < probes->arcs.n; i++) {
		balance[probes->arcs.v[i].src] -= (int64_t)f.counts[i];
		balance[probes->arcs.v[i].dst] += (int64_t)f.counts[i];
	}
	for (uint32_t i = 0; i < probes->n_nodes; i++)
		assert_int_equal(balance[i], 0);
	free(balance);
	counted_fini(&f);
}

/* Behind each copied call that returns stands a nop with room for a jump, and every counter stands
 * in the code once. */
static void calls_have_exits(void **state)
{
	struct counted f;
	(void)state;
	counted_init(&f, names, N_NAMES);
	const struct ovm_overlay *overlay = &f.engine.overlay;
	uint8_t *seen = ovm_alloc_array(overlay->n_counters, 1);
	uint32_t n_calls = 0, n_exits = 0;
	for (uint32_t i = 0; i < overlay->map.v.n; i++) {
		const struct ovm_map_entry *entry = &overlay->map.v.v[i];
		const uint8_t *at = overlay->bytes + entry->off;
		n_calls += !!(entry->flags & OVM_MAP_CALL);
		if (entry->flags & OVM_MAP_EXIT) {
			n_exits++;
			assert_int_equal(entry->new_len, OVM_EXIT_LEN);
			assert_true(entry[-1].flags & OVM_MAP_CALL);
			assert_int_equal(entry->old.v, entry[-1].old.v + entry[-1].old_len);
		}
		if (entry->flags & OVM_MAP_COUNT) {
			uint64_t counter = overlay->base.v + entry->off + OVM_COUNTER_LEN +
					   (uint64_t)(int64_t)(int32_t)ovm_le32(at + 3);
			uint64_t idx = (counter - overlay->counters.v) / 8;
			assert_true(idx < overlay->n_counters);
			assert_false(seen[idx]);
			seen[idx] = 1;
		}
	}
	for (uint32_t i = 0; i < overlay->n_counters; i++)
		assert_true(seen[i]);
	assert_true(n_calls > 0);
	assert_int_equal(n_exits, n_calls); /* every call in these functions returns */
	free(seen);
	counted_fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(counts_what_happens),
	    cmocka_unit_test(flow_is_conserved),
	    cmocka_unit_test(calls_have_exits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
