/* Instrumented copies, executed: functions of this very program are copied with counters, the
 * copies are called, and what the counters say is compared with what must have happened. */
#include "rewriter/count.h"
#include "rewriter/engine.h"
#include "tests/support/selfexe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

enum { ROOM = 1 << 24, N_NAMES = 3 };

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

struct fixture {
	struct self self;
	ovm_va functions[N_NAMES]; /* ascending */
	struct ovm_prof_module module;
	struct ovm_engine engine;
	uint64_t bias;
	uint64_t *counters, *counts;
};

/* Copies and counters where link-time addresses say, moved by the program's own bias. */
static void *map_at(const struct fixture *f, ovm_va va, size_t size)
{
	void *at = (void *)(va.v + f->bias); /* NOLINT */
	void *got = mmap(at, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_equal(got, at);
	return got;
}

static int by_va(const void *a, const void *b)
{
	const ovm_va *x = a, *y = b;
	return (x->v > y->v) - (x->v < y->v);
}

static void init(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	self_open(&f->self);
	uint64_t end = 0;
	for (uint32_t i = 0; i < f->self.image->segments.n; i++)
		end = f->self.image->segments.v[i].hi.v;
	end = (end + ROOM) & ~UINT64_C(0xffff);
	f->bias = (uint64_t)count_leaf - self_symbol(&f->self, "count_leaf").v;
	for (int i = 0; i < N_NAMES; i++)
		f->functions[i] = self_symbol(&f->self, names[i]);
	qsort(f->functions, N_NAMES, sizeof(f->functions[0]), by_va);
	for (int i = 0; i < N_NAMES; i++)
		ovm_vec_push(&f->module.samples, ((struct ovm_prof_sample){f->functions[i], 100}));
	const struct ovm_engine_opts opts = {
	    .share = 1,
	    .is_live = true,
	    .base = {end},
	    .is_counting = true,
	    .counters = {end + ROOM},
	    .counters_room = ROOM,
	};
	assert_int_equal(
	    ovm_engine_run(&f->self.ctx, f->self.dec, f->self.image, &f->module, &opts, &f->engine),
	    0);
	const struct ovm_overlay *overlay = &f->engine.overlay;
	void *code = map_at(f, overlay->base, overlay->size);
	memcpy(code, overlay->bytes, overlay->size);
	assert_int_equal(mprotect(code, overlay->size, PROT_READ | PROT_EXEC), 0);
	f->counters = map_at(f, overlay->counters, overlay->n_counters * sizeof(uint64_t));
	f->counts = ovm_alloc_array(f->engine.probes.arcs.n, sizeof(uint64_t));
}

static void fini(struct fixture *f)
{
	const struct ovm_overlay *overlay = &f->engine.overlay;
	munmap(f->counters, overlay->n_counters * sizeof(uint64_t));
	munmap((void *)(overlay->base.v + f->bias), overlay->size); /* NOLINT */
	free(f->counts);
	ovm_engine_fini(&f->engine);
	ovm_vec_free(&f->module.samples);
	ovm_vec_free(&f->module.edges);
	self_close(&f->self);
}

typedef unsigned (*function)(unsigned);

static function copy_of(const struct fixture *f, const char *name)
{
	const struct ovm_overlay *overlay = &f->engine.overlay;
	const struct ovm_map_entry *entry = ovm_map_old(&overlay->map, self_symbol(&f->self, name));
	assert_non_null(entry);
	if (entry > overlay->map.v.v && (entry[-1].flags & OVM_MAP_COUNT))
		entry--;
	return (function)(overlay->base.v + entry->off + f->bias); /* NOLINT */
}

static uint64_t edge_count(const struct fixture *f, ovm_va from, ovm_va to)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < f->module.edges.n; i++)
		if (f->module.edges.v[i].from.v == from.v && f->module.edges.v[i].to.v == to.v)
			sum += f->module.edges.v[i].count;
	return sum;
}

static void solve(struct fixture *f)
{
	const struct ovm_probes *probes = &f->engine.probes;
	f->module.edges.n = 0;
	assert_int_equal(ovm_arcs_solve(&probes->arcs, probes->n_nodes, f->counters, f->counts), 0);
	ovm_arcs_to_profile(&probes->arcs, f->counts, &f->module);
	ovm_callcount_to_profile(&f->engine.calls, &probes->arcs, f->counts, f->functions, N_NAMES,
				 &f->module);
}

static uint64_t entries(const struct fixture *f, const char *name)
{
	return edge_count(f, ovm_va_of(0), self_symbol(&f->self, name));
}

static void counts_what_happens(void **state)
{
	enum { N = 1000 };
	struct fixture f;
	(void)state;
	init(&f);
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
	fini(&f);
}

/* Flow is conserved at every node: what is solved for is what a counter would have seen. */
static void flow_is_conserved(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
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
	fini(&f);
}

/* Behind each copied call that returns stands a nop with room for a jump, and every counter stands
 * in the code once. */
static void calls_have_exits(void **state)
{
	struct fixture f;
	(void)state;
	init(&f);
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
	fini(&f);
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
