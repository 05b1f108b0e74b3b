/* Indirect calls of instrumented copies, executed: functions of this very program call through
 * pointers in every form there is; what their thunks have counted is compared with what happened.
 */
#include "rewriter/value.h"
#include "tests/support/call_forms.h"
#include "tests/support/counted.h"
#include "tests/support/stepping.h"

#include <pthread.h>
#include <stdio.h>

/* --- who calls
 * --------------------------------------------------------------------------------------------------
 */

unsigned value_loop(const unsigned char *which, unsigned n);

__attribute__((noipa)) unsigned value_loop(const unsigned char *which, unsigned n)
{
	unsigned sum = 0;
	for (unsigned i = 0; i < n; i++)
		sum = sum * 31 + callees[which[i]](i);
	return sum;
}

__attribute__((used)) static const function value_puts = (function)(void *)puts; /* NOLINT */

/* --- helpers
 * ----------------------------------------------------------------------------------------------------
 */

/* The counters of the only site in function @name, NULL if there is none. */
static const uint64_t *site_of(const struct counted *f, const char *name)
{
	const struct ovm_region *region =
	    &f->engine.regions.v
		 .v[ovm_region_find(&f->engine.regions, self_symbol(&f->self, name))];
	const uint64_t *found = NULL;
	for (uint32_t i = 0; i < f->engine.overlay.sites.n; i++) {
		const struct ovm_site *site = &f->engine.overlay.sites.v[i];
		if (!ovm_va_in(site->at, region->lo, region->hi))
			continue;
		assert_null(found);
		assert_true(site->counter >= ovm_overlay_n_probes(&f->engine.overlay));
		assert_true(site->counter + OVM_SITE_COUNTERS <= f->engine.overlay.n_counters);
		found = f->counters + site->counter;
	}
	return found;
}

static uint64_t count_of(const uint64_t *site, function callee)
{
	uint64_t sum = 0;
	for (unsigned k = 0; k < OVM_SITE_TARGETS; k++)
		sum += site[2 * k] == (uint64_t)callee ? site[2 * k + 1] : 0; /* NOLINT */
	return sum;
}

static uint64_t rest_of(const uint64_t *site)
{
	return site[2 * (size_t)OVM_SITE_TARGETS];
}

typedef unsigned (*loop)(const unsigned char *which, unsigned n);

static loop copied_loop(const struct counted *f)
{
	return (loop)counted_copy(f, "value_loop"); /* NOLINT */
}

/* --- tests
 * ------------------------------------------------------------------------------------------------------
 */

/* The first four are counted each, the others together. */
static void counts_targets(void **state)
{
	static const char *const names[] = {"value_loop"};
	static const unsigned times[N_CALLEES] = {1, 200, 30, 7, 500, 41};
	unsigned char which[1024];
	unsigned n = 0;
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	const uint64_t *site = site_of(&f, "value_loop");
	assert_non_null(site);
	for (unsigned k = 0; k < N_CALLEES; k++)
		which[n++] = (unsigned char)k; /* in this order they find their places */
	for (unsigned round = 1; round < 500; round++)
		for (unsigned k = 0; k < N_CALLEES; k++)
			if (round < times[k])
				which[n++] = (unsigned char)k;
	assert_int_equal(copied_loop(&f)(which, n), value_loop(which, n));
	for (unsigned k = 0; k < OVM_SITE_TARGETS; k++) {
		assert_int_equal(site[2 * k], (uint64_t)callees[k]); /* NOLINT */
		assert_int_equal(site[2 * k + 1], times[k]);
	}
	assert_int_equal(rest_of(site), times[4] + times[5]);
	counted_fini(&f);
}

static void counts_nothing_twice(void **state)
{
	static const char *const names[] = {"value_loop"};
	static const unsigned char which[] = {3, 3, 3};
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	const uint64_t *site = site_of(&f, "value_loop");
	assert_int_equal(copied_loop(&f)(which, 0), 0);
	for (unsigned i = 0; i < OVM_SITE_COUNTERS; i++)
		assert_int_equal(site[i], 0);
	copied_loop (&f)(which, 3);
	assert_int_equal(site[0], (uint64_t)callee_3); /* NOLINT */
	assert_int_equal(site[1], 3);
	for (unsigned i = 2; i < OVM_SITE_COUNTERS; i++)
		assert_int_equal(site[i], 0);
	counted_fini(&f);
}

static void all_forms(void **state)
{
	(void)state;
	for (unsigned i = 0; i < N_FORMS; i++) {
		const char *name = forms[i].name;
		struct counted f;
		counted_init(&f, &name, 1);
		assert_int_equal(f.engine.stats.n_dropped_by_checker, 0);
		const uint64_t *site = site_of(&f, name);
		caller copy = (caller)counted_copy(&f, name); /* NOLINT */
		if (!!site != forms[i].is_counted)
			fail_msg("%s", name);
		for (unsigned k = 0; k < 3 * N_CALLEES; k++)
			assert_int_equal(copy(callees[k % N_CALLEES], k),
					 forms[i].call(callees[k % N_CALLEES], k));
		for (unsigned k = 0; site && k < OVM_SITE_TARGETS; k++)
			assert_int_equal(count_of(site, callees[k]), 3);
		assert_true(!site || rest_of(site) == 6);
		counted_fini(&f);
	}
}

static void registers_are_kept(void **state)
{
	static const char *const names[] = {"keeps_r11"};
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	caller copy = (caller)counted_copy(&f, "keeps_r11"); /* NOLINT */
	for (unsigned k = 0; k < N_CALLEES; k++) {
		assert_int_equal(copy(r11_callee, 0), 0x1234);
		copy(callees[k], 0);
	}
	assert_int_equal(count_of(site_of(&f, "keeps_r11"), r11_callee), N_CALLEES);
	counted_fini(&f);
}

/* Addresses of 32 bits, and what the loader fills in under a name, are no sites. */
static void others_are_left_alone(void **state)
{
	static const char *const names[] = {"plain_addr32"};
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	caller copy = (caller)counted_copy(&f, "plain_addr32"); /* NOLINT */
	const uint64_t *site = site_of(&f, "plain_addr32");	/* only call *(%rax) */
	assert_non_null(site);
	assert_int_equal(copy(callee_2, 5), 52);
	assert_int_equal(count_of(site, callee_2), 1);
	counted_fini(&f);
}

/* What was counted is known to whoever puts callers and callees close together. */
static void calls_are_listed(void **state)
{
	static const char *const names[] = {"value_loop"};
	const struct ovm_program_opts opts = {.share = 1};
	struct ovm_program program;
	ovm_calls calls = {0};
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	ovm_va at = f.engine.overlay.sites.v[0].at;
	for (unsigned k = 0; k < 2; k++) {
		ovm_va to = ovm_va_of((uint64_t)callees[k] - f.bias); /* NOLINT */
		ovm_vec_push(&f.module.samples, ((struct ovm_prof_sample){to, 10}));
		ovm_vec_push(&f.module.edges, ((struct ovm_prof_edge){at, to, 5 + k}));
	}
	/* neither a call nor to a function */
	ovm_vec_push(&f.module.edges,
		     ((struct ovm_prof_edge){f.functions[0], f.module.edges.v[0].to, 9}));
	ovm_vec_push(&f.module.edges,
		     ((struct ovm_prof_edge){at, ovm_va_add(f.module.edges.v[0].to, 1), 9}));
	assert_int_equal(ovm_program_build(&f.self.ctx, f.self.dec, f.self.image, &f.self.regions,
					   &f.module, &opts, &program),
			 0);
	ovm_program_calls(&program, &calls);
	assert_int_equal(calls.n, 2);
	for (uint32_t k = 0; k < 2; k++) {
		const struct ovm_call *call = &calls.v[k];
		const struct ovm_cfg *cfg = program.cfgs.v[call->cfg];
		assert_int_equal(cfg->blocks[call->block].lo.v + call->offset, at.v);
		assert_true(k == 0 || call->callee != calls.v[0].callee);
	}
	ovm_program_drop(&f.self.ctx, &program, program.cfg_of_region[calls.v[1].callee],
			 OVM_REFUSE_CHECKER);
	calls.n = 0;
	ovm_program_calls(&program, &calls);
	assert_int_equal(calls.n, 1);
	ovm_vec_free(&calls);
	ovm_program_fini(&program);
	counted_fini(&f);
}

/* Threads lose counts and places to each other, but no call goes wrong. */
enum { N_THREADS = 4, N_CALLS = 30000 };

struct work {
	loop copy;
	unsigned char which[N_CALLS];
	unsigned result;
};

static void *run(void *arg)
{
	struct work *work = arg;
	work->result = work->copy(work->which, N_CALLS);
	return NULL;
}

static void threads(void **state)
{
	static const char *const names[] = {"value_loop"};
	static struct work work[N_THREADS];
	pthread_t ids[N_THREADS];
	struct counted f;
	uint64_t sum;
	(void)state;
	counted_init(&f, names, 1);
	const uint64_t *site = site_of(&f, "value_loop");
	for (unsigned t = 0; t < N_THREADS; t++) {
		work[t].copy = copied_loop(&f);
		for (unsigned i = 0; i < N_CALLS; i++)
			work[t].which[i] = (unsigned char)((i * (t + 1) + t) % N_CALLEES);
		assert_int_equal(pthread_create(&ids[t], NULL, run, &work[t]), 0);
	}
	for (unsigned t = 0; t < N_THREADS; t++) {
		pthread_join(ids[t], NULL);
		assert_int_equal(work[t].result, value_loop(work[t].which, N_CALLS));
	}
	sum = rest_of(site);
	for (unsigned k = 0; k < OVM_SITE_TARGETS; k++) {
		unsigned c = 0;
		while (c < N_CALLEES && site[2 * k] != (uint64_t)callees[c]) /* NOLINT */
			c++;
		assert_true(c < N_CALLEES);
		sum += site[2 * k + 1];
	}
	assert_true(sum >= N_CALLS / 2 && sum <= N_THREADS * N_CALLS);
	counted_fini(&f);
}

/* --- unwinding
 * ------------------------------------------------------------------------------------------------------
 */

static void unwinds(void **state)
{
	static const char *const names[] = {"form_stack_far"};
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	stepping_begin(&f, OVM_MAP_THUNK);
	for (unsigned k = 0; k < 5; k++)
		assert_int_equal(stepped((caller)counted_copy(&f, "form_stack_far"), /* NOLINT */
					 callee_1, 7),
				 71);
	stepping_end();
	assert_int_equal(count_of(site_of(&f, "form_stack_far"), callee_1), 5);
	assert_true(stepping.n_inside >= 5 * 7);
	assert_int_equal(stepping.n_lost, 0);
	counted_fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(counts_targets),
	    cmocka_unit_test(counts_nothing_twice),
	    cmocka_unit_test(all_forms),
	    cmocka_unit_test(registers_are_kept),
	    cmocka_unit_test(others_are_left_alone),
	    cmocka_unit_test(calls_are_listed),
	    cmocka_unit_test(threads),
	    cmocka_unit_test(unwinds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
