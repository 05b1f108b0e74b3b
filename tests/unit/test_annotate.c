/* annotate.c in steps, while samples still come in: the result is that of doing it at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "analyzer/annotate.h"
#include "analyzer/region.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SAMPLES = 400, STEPS_MAX = 10000 };

struct self { /* this program, as a file that was sampled */
	char path[4096];
	struct ovm_image *image;
	struct ovm_regions regions;
};

static int open_self(void **state)
{
	struct self *self = ovm_alloc(sizeof(*self));
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	ssize_t n = readlink("/proc/self/exe", self->path, sizeof(self->path) - 1);
	assert_true(n > 0);
	assert_int_equal(ovm_image_open(&ctx, self->path, &self->image), 0);
	assert_int_equal(ovm_regions_build(&ctx, self->image, &self->regions), 0);
	assert_true(self->regions.v.n > 100);
	*state = self;
	return 0;
}

static int close_self(void **state)
{
	struct self *self = *state;
	ovm_regions_free(&self->regions);
	ovm_image_close(self->image);
	free(self);
	return 0;
}

/* Samples at the starts of regions [@first, @last), the more the later. */
static void sample(const struct self *self, uint32_t first, uint32_t last, struct ovm_profile *to)
{
	struct ovm_prof_module *module = ovm_profile_module(to, self->image->id, self->path);
	for (uint32_t i = first; i < last; i++) {
		ovm_vec_push(&module->samples,
			     ((struct ovm_prof_sample){self->regions.v.v[i].lo, SAMPLES + i}));
		to->n_samples += SAMPLES + i;
	}
	ovm_profile_normalize(to);
}

/* Until it has nothing to do; how often it had. */
static unsigned work(struct ovm_annotator *an, const struct ovm_profile *prof)
{
	unsigned n = 0;
	while (ovm_annotator_wants(an, prof->n_samples) && n < STEPS_MAX) {
		ovm_annotator_look(an, prof);
		ovm_annotator_ahead(an, 0.05);
		n++;
	}
	for (unsigned i = 0; i < STEPS_MAX; i++)
		ovm_annotator_ahead(an, 0.01);
	assert_true(n < STEPS_MAX);
	return n;
}

static void assert_same(const struct ovm_profile *a, const struct ovm_profile *b)
{
	assert_int_equal(a->modules.n, b->modules.n);
	for (uint32_t m = 0; m < a->modules.n; m++) {
		const struct ovm_prof_module *x = &a->modules.v[m], *y = &b->modules.v[m];
		assert_int_equal(x->regions.n, y->regions.n);
		assert_int_equal(x->blocks.n, y->blocks.n);
		for (uint32_t i = 0; i < x->regions.n; i++) {
			assert_int_equal(x->regions.v[i].lo.v, y->regions.v[i].lo.v);
			assert_int_equal(x->regions.v[i].hi.v, y->regions.v[i].hi.v);
			assert_int_equal(x->regions.v[i].hash, y->regions.v[i].hash);
			assert_int_equal(!x->regions.v[i].name, !y->regions.v[i].name);
			if (x->regions.v[i].name)
				assert_string_equal(x->regions.v[i].name, y->regions.v[i].name);
		}
		for (uint32_t i = 0; i < x->blocks.n; i++) {
			assert_int_equal(x->blocks.v[i].lo.v, y->blocks.v[i].lo.v);
			assert_int_equal(x->blocks.v[i].hash, y->blocks.v[i].hash);
		}
	}
}

static void steps_change_nothing(void **state)
{
	const struct self *self = *state;
	struct ovm_profile *early = ovm_profile_new(), *steps = ovm_profile_new(),
			   *once = ovm_profile_new();
	struct ovm_annotator *an = ovm_annotator_new();
	sample(self, 0, 60, early);
	assert_true(work(an, early) > 1); /* a decoder, a file, what is hot */
	sample(self, 0, 100, steps);
	sample(self, 0, 100, once);
	work(an, steps);
	ovm_annotator_finish(an, steps);
	ovm_annotate_profile(once);
	assert_true(once->modules.v[0].regions.n == 100 && once->modules.v[0].blocks.n > 50);
	assert_same(once, steps);
	ovm_annotator_free(an);
	ovm_profile_free(early);
	ovm_profile_free(steps);
	ovm_profile_free(once);
}

/* Nothing hot was prepared, or all of it was cold in the end. */
static void what_was_prepared_does_not_matter(void **state)
{
	const struct self *self = *state;
	struct ovm_profile *early = ovm_profile_new(), *late = ovm_profile_new(),
			   *once = ovm_profile_new();
	struct ovm_annotator *an = ovm_annotator_new();
	sample(self, 0, 50, early);
	sample(self, 50, 90, late);
	sample(self, 50, 90, once);
	work(an, early);
	ovm_annotator_finish(an, late);
	ovm_annotate_profile(once);
	assert_same(once, late);
	ovm_annotator_free(an);
	ovm_profile_free(early);
	ovm_profile_free(late);
	ovm_profile_free(once);
}

/* Few samples: it costs nothing. A file that is not there, or is another now: no annotations. */
static void nothing_to_prepare(void **state)
{
	const struct self *self = *state;
	struct ovm_annotator *an = ovm_annotator_new();
	struct ovm_profile *prof = ovm_profile_new();
	struct ovm_prof_sample at = {self->regions.v.v[0].lo, 1000};
	assert_false(ovm_annotator_wants(an, 0));
	assert_false(ovm_annotator_wants(an, 99));
	ovm_vec_push(&ovm_profile_module(prof, "00", "/no/such/file")->samples, at);
	ovm_vec_push(&ovm_profile_module(prof, "11", self->path)->samples, at);
	prof->n_samples = 2000;
	ovm_profile_normalize(prof);
	work(an, prof);
	ovm_annotator_finish(an, prof);
	for (uint32_t i = 0; i < prof->modules.n; i++)
		assert_int_equal(prof->modules.v[i].regions.n, 0);
	ovm_annotator_free(an);
	ovm_annotator_free(NULL);
	ovm_profile_free(prof);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(steps_change_nothing, open_self, close_self),
	    cmocka_unit_test_setup_teardown(what_was_prepared_does_not_matter, open_self,
					    close_self),
	    cmocka_unit_test_setup_teardown(nothing_to_prepare, open_self, close_self),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
