/* Scores of layouts and agreement of edge counts, on graphs made by hand. */
#include "analyzer/score.h"
#include "analyzer/weight.h"
#include "tests/support/fake_cfg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { A, B, C, D };

static struct ovm_ctx ctx;

/* A program of one region and one graph, or of none. */
struct fake {
	struct ovm_program program;
	uint32_t cfg_of_region[1];
	struct ovm_cfg *cfg;
};

/* A falls to B or jumps to C; both go on to D, B by a jump. */
static void fake_init(struct fake *f, bool empty)
{
	static const uint32_t n_insns[] = {4, 4, 4, 4};
	static const struct fake_edge edges[] = {{A, B, 0}, {A, C, 0}, {B, D, 0}, {C, D, 0}};

	*f = (struct fake){.cfg_of_region = {empty ? OVM_NONE : 0}};
	f->program.cfg_of_region = f->cfg_of_region;
	if (empty)
		return;
	f->cfg = fake_cfg(n_insns, 4, edges, 4);
	f->cfg->by_va = ovm_alloc_array(4, sizeof(uint32_t));
	for (uint32_t bb = 0; bb < 4; bb++)
		f->cfg->by_va[bb] = bb;
	ovm_vec_push(&f->program.cfgs, f->cfg);
}

static void fake_fini(struct fake *f)
{
	if (f->cfg) {
		free(f->cfg->by_va);
		fake_free(f->cfg);
	}
	ovm_vec_free(&f->program.cfgs);
}

static void add_edge(struct ovm_prof_module *module, const struct ovm_cfg *cfg, uint32_t src,
		     uint32_t dst, uint64_t count)
{
	ovm_vec_push(&module->edges, (struct ovm_prof_edge){ovm_block_last(cfg, src)->va,
							    cfg->blocks[dst].lo, count});
}

/* Edges in the order of a normalized module. */
static void counts(struct fake *f, struct ovm_prof_module *module, uint64_t ab, uint64_t ac,
		   uint64_t bd, uint64_t cd)
{
	const struct {
		uint32_t src, dst;
		uint64_t n;
	} all[] = {{A, B, ab}, {A, C, ac}, {B, D, bd}, {C, D, cd}};

	*module = (struct ovm_prof_module){0};
	for (int i = 0; i < 4; i++)
		if (all[i].n)
			add_edge(module, f->cfg, all[i].src, all[i].dst, all[i].n);
	ovm_weight_attach(&ctx, f->cfg, module);
}

static void slots(struct ovm_layout *layout, const uint32_t *order, uint32_t n, uint32_t n_hot)
{
	*layout = (struct ovm_layout){.n_hot = n_hot};
	for (uint32_t i = 0; i < n; i++)
		ovm_vec_push(&layout->slots,
			     (struct ovm_slot){.cfg = 0, .block = order[i], .align = 1});
}

static double score(const struct fake *exact, const struct fake *other, const uint32_t *order,
		    uint32_t n, uint32_t n_hot)
{
	struct ovm_layout layout;
	double result;

	slots(&layout, order, n, n_hot);
	result = ovm_score_layout(&exact->program, &other->program, &layout);
	ovm_layout_fini(&layout);
	return result;
}

static void assert_near(double got, double want)
{
	assert_true(got - want < 1e-6 && want - got < 1e-6);
}

/* 0.1 * (1 - d/1024): what a forward jump over d bytes is worth */
static double forward(unsigned d)
{
	return 0.1 * (1 - d / 1024.0);
}

static void test_empty(void **state)
{
	struct fake exact, other;
	struct ovm_prof_module module = {0};
	struct ovm_layout layout = {0};
	struct ovm_score out = {0};

	(void)state;
	fake_init(&exact, true);
	fake_init(&other, true);
	assert_near(ovm_score_layout(&exact.program, NULL, NULL), 0);
	assert_near(ovm_score_layout(&exact.program, &other.program, &layout), 0);
	ovm_score_edges(&exact.program, &module, &other.program, &module, &out);
	assert_int_equal(out.n_regions, 0);
	assert_near(out.weight, 0);
	fake_fini(&exact);
	fake_fini(&other);
}

/* Blocks have 16 bytes. 90 of 100 runs go A C D. */
static void test_layouts(void **state)
{
	static const uint32_t good[] = {A, C, D, B}, original[] = {A, B, C, D};
	struct fake exact, other;
	struct ovm_prof_module module;
	double before = 10 + 90 * forward(16) + 10 * forward(16) + 90 * 1.05;

	(void)state;
	fake_init(&exact, false);
	fake_init(&other, false);
	counts(&exact, &module, 10, 90, 10, 90);
	assert_near(ovm_score_layout(&exact.program, NULL, NULL), before);
	assert_near(score(&exact, &other, original, 4, 4), before);
	assert_near(score(&exact, &other, good, 4, 4),
		    90 + 10 * forward(32) + 90 * 1.05 + 10 * 0.1 * (1 - 32 / 640.0));
	/* B in the cold part is out of reach */
	assert_near(score(&exact, &other, good, 4, 3), 90 + 90 * 1.05);
	ovm_vec_free(&module.edges);
	fake_fini(&exact);
	fake_fini(&other);
}

/* What is not copied stands where it stood: alone if all its neighbours are copied. */
static void test_not_copied(void **state)
{
	static const uint32_t hot[] = {A, C}, tail[] = {C, D};
	struct fake exact, other, none;
	struct ovm_prof_module module;
	struct ovm_layout layout = {0};

	(void)state;
	fake_init(&exact, false);
	fake_init(&other, false);
	fake_init(&none, true);
	counts(&exact, &module, 10, 90, 10, 90);
	/* B and D remain, with C's room between them */
	assert_near(score(&exact, &other, hot, 2, 2), 90 + 10 * forward(16));
	/* A and B remain, side by side */
	assert_near(score(&exact, &other, tail, 2, 2), 10 + 90 * 1.05);
	/* the region is unknown to the profile */
	assert_near(ovm_score_layout(&exact.program, &none.program, &layout),
		    ovm_score_layout(&exact.program, NULL, NULL));
	ovm_vec_free(&module.edges);
	fake_fini(&exact);
	fake_fini(&other);
	fake_fini(&none);
}

static struct ovm_score compare(uint64_t ab, uint64_t ac, uint64_t bd, uint64_t cd)
{
	struct fake exact, other;
	struct ovm_prof_module exact_module, module;
	struct ovm_score out = {0};

	fake_init(&exact, false);
	fake_init(&other, false);
	counts(&exact, &exact_module, 1000, 9000, 1000, 9000);
	counts(&other, &module, ab, ac, bd, cd);
	ovm_score_edges(&exact.program, &exact_module, &other.program, &module, &out);
	ovm_vec_free(&exact_module.edges);
	ovm_vec_free(&module.edges);
	fake_fini(&exact);
	fake_fini(&other);
	return out;
}

static void test_edges(void **state)
{
	struct ovm_score out = compare(1000, 9000, 1000, 9000);

	(void)state;
	assert_int_equal(out.n_regions, 1);
	assert_int_equal(out.n_shared, 1);
	assert_int_equal(out.n_edges, 4);
	assert_near(out.weight, 20000);
	assert_near(out.weight_shared, 20000);
	assert_near(out.weight_equal, 20000);
	assert_near(out.overlap, 20000);

	/* the limit of equality: 1 of 1000, 9 of 9000 */
	out = compare(1001, 8991, 999, 9009);
	assert_near(out.weight_equal, 20000);
	out = compare(1002, 8990, 998, 9010);
	assert_near(out.weight_equal, 0);

	/* an edge that is not in the profile, and others that are */
	out = compare(0, 9000, 0, 9000);
	assert_near(out.weight_equal, 18000);
	assert_near(out.overlap, 18000);

	/* twice the counts agree, but are not equal */
	out = compare(2000, 18000, 2000, 18000);
	assert_near(out.weight_equal, 0);
	assert_near(out.overlap, 20000);
}

/* No exact edges in the profile: the inferred counts are compared. */
static void test_inferred(void **state)
{
	struct ovm_score out;
	struct fake exact, other;
	struct ovm_prof_module module, none = {0};

	(void)state;
	out = compare(0, 0, 0, 0);
	assert_int_equal(out.n_shared, 1);
	assert_near(out.weight_equal, 0);
	assert_near(out.overlap, 0);

	fake_init(&exact, false);
	fake_init(&other, false);
	counts(&exact, &module, 1000, 9000, 1000, 9000);
	for (uint32_t e = 0; e < 4; e++)
		other.cfg->edges[e].count = exact.cfg->edges[e].count;
	out = (struct ovm_score){0};
	ovm_score_edges(&exact.program, &module, &other.program, &none, &out);
	assert_near(out.weight_equal, 20000);
	ovm_vec_free(&module.edges);
	fake_fini(&exact);
	fake_fini(&other);
}

static void test_unknown_region(void **state)
{
	struct ovm_score out = {0};
	struct fake exact, other;
	struct ovm_prof_module module, none = {0};

	(void)state;
	fake_init(&exact, false);
	fake_init(&other, true);
	counts(&exact, &module, 1000, 9000, 1000, 9000);
	ovm_score_edges(&exact.program, &module, &other.program, &none, &out);
	assert_int_equal(out.n_regions, 1);
	assert_int_equal(out.n_shared, 0);
	assert_int_equal(out.n_edges, 0);
	assert_near(out.weight, 20000);
	assert_near(out.weight_shared, 0);
	ovm_vec_free(&module.edges);
	fake_fini(&exact);
	fake_fini(&other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_empty),      cmocka_unit_test(test_layouts),
	    cmocka_unit_test(test_not_copied), cmocka_unit_test(test_edges),
	    cmocka_unit_test(test_inferred),   cmocka_unit_test(test_unknown_region),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
