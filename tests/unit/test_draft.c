/* draft.c: graphs drafted by many threads are those of one after the other, region by region. */
#include "analyzer/draft.h"
#include "tests/support/selfexe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

/* Two that jump into each other's middle, and a third that jumps into one of them: drafted alone
 * each takes its partners, but only the first of them may. */
ASM_FUNCTION("dr_a", "test %edi,%edi\n jne dr_b_mid\n dr_a_mid: mov $1,%eax\n ret");
ASM_FUNCTION("dr_b", "test %edi,%edi\n je dr_a_mid\n dr_b_mid: mov $2,%eax\n ret");
ASM_FUNCTION("dr_c", "test %edi,%edi\n je dr_b_mid\n mov $3,%eax\n ret");
/* Its partner does not decode. */
ASM_FUNCTION("dr_bad", "nop\n dr_bad_mid: .byte 0x06\n ret");
ASM_FUNCTION("dr_beside_bad", "jmp dr_bad_mid");

enum { MANY = 128 }; /* so that there are threads */

/* Taken regions are marked, as in program.c. */
static void claim(struct self *self, const struct ovm_cfg *cfg)
{
	for (uint32_t i = 0; i < cfg->n_regions; i++)
		self->regions.v.v[cfg->regions[i]].refused = OVM_REFUSE_OVERLAP;
}

static char *text_of(const struct self *self, const struct ovm_cfg *cfg)
{
	char *text = NULL;
	size_t size = 0;
	FILE *to = open_memstream(&text, &size);
	assert_non_null(to);
	ovm_cfg_dump(self->image, cfg, to);
	assert_int_equal(fclose(to), 0);
	return text;
}

static void compare(const struct self *a, const struct ovm_cfg *x, const struct self *b,
		    const struct ovm_cfg *y)
{
	char *old = text_of(a, x), *new = text_of(b, y);
	assert_string_equal(old, new);
	assert_int_equal(x->n_insns, y->n_insns);
	assert_memory_equal(x->insns, y->insns, x->n_insns * sizeof(*x->insns));
	free(old);
	free(new);
}

/* The graphs of @heads, in this order. */
static void take_all(const ovm_draft_regions *heads)
{
	struct self one, many;
	self_open(&one);
	self_open(&many);
	struct ovm_drafters *drafters = ovm_drafters_new(many.dec, many.image, &many.regions);
	struct ovm_draft *drafts = ovm_drafts_build(drafters, heads->v, heads->n);
	uint32_t n_graphs = 0;
	for (uint32_t i = 0; i < heads->n; i++) {
		struct ovm_cfg *x = NULL, *y = NULL;
		int rc = ovm_cfg_build(&one.ctx, one.dec, one.image, &one.regions, heads->v[i], &x);
		assert_int_equal(ovm_draft_take(&many.ctx, drafters, &many.regions, &drafts[i], &y),
				 rc);
		if (rc)
			continue;
		compare(&one, x, &many, y);
		claim(&one, x);
		claim(&many, y);
		ovm_cfg_free(x);
		ovm_cfg_free(y);
		n_graphs++;
	}
	for (uint32_t r = 0; r < one.regions.v.n; r++)
		assert_int_equal(one.regions.v.v[r].refused, many.regions.v.v[r].refused);
	assert_memory_equal(one.ctx.n_refused, many.ctx.n_refused, sizeof(one.ctx.n_refused));
	assert_true(n_graphs > 3);
	free(drafts);
	ovm_drafters_free(drafters);
	self_close(&one);
	self_close(&many);
}

/* All that are not refused, from both ends: who comes first gets the regions that many want. */
static void test_everything(void **state)
{
	ovm_draft_regions up = {0}, down = {0};
	struct self self;
	(void)state;
	self_open(&self);
	for (uint32_t r = 0; r < self.regions.v.n; r++)
		if (self.regions.v.v[r].refused == OVM_REFUSE_NONE)
			ovm_vec_push(&up, r);
	for (uint32_t i = up.n; i-- > 0;)
		ovm_vec_push(&down, up.v[i]);
	self_close(&self);
	assert_true(up.n > MANY);
	take_all(&up);
	take_all(&down);
	ovm_vec_free(&up);
	ovm_vec_free(&down);
}

/* What somebody else took meanwhile is not taken twice; a partner that cannot join says why. */
static void test_partners(void **state)
{
	ovm_draft_regions heads = {0};
	struct self self;
	static const char *const names[] = {"dr_beside_bad", "dr_c", "dr_a", "dr_b", "dr_bad"};
	(void)state;
	self_open(&self);
	for (uint32_t round = 0; round < MANY; round++) /* the same again is refused */
		for (uint32_t i = 0; i < sizeof(names) / sizeof(*names); i++)
			ovm_vec_push(&heads, self_region(&self, names[i]));
	struct ovm_drafters *drafters = ovm_drafters_new(self.dec, self.image, &self.regions);
	struct ovm_draft *drafts = ovm_drafts_build(drafters, heads.v, heads.n);
	uint32_t n_regions[5] = {0};
	for (uint32_t i = 0; i < heads.n; i++) {
		struct ovm_cfg *cfg;
		if (ovm_draft_take(&self.ctx, drafters, &self.regions, &drafts[i], &cfg))
			continue;
		assert_true(i < 5);
		n_regions[i] = cfg->n_regions;
		claim(&self, cfg);
		ovm_cfg_free(cfg);
	}
	assert_int_equal(n_regions[0], 1);
	assert_int_equal(n_regions[1], 3); /* with dr_b, which brings dr_a */
	assert_int_equal(n_regions[2] + n_regions[3] + n_regions[4], 0);
	assert_int_equal(self.regions.v.v[heads.v[4]].refused, OVM_REFUSE_DECODE);
	assert_int_equal(self.ctx.n_refused[OVM_REFUSE_DECODE], 1);
	free(drafts);
	ovm_drafters_free(drafters);
	ovm_vec_free(&heads);
	self_close(&self);
}

/* Few are not worth threads; none is no work. Drafts may be thrown away. */
static void test_few(void **state)
{
	struct self self;
	(void)state;
	self_open(&self);
	struct ovm_drafters *drafters = ovm_drafters_new(self.dec, self.image, &self.regions);
	free(ovm_drafts_build(drafters, NULL, 0));
	uint32_t head = self_region(&self, "dr_a");
	struct ovm_draft *drafts = ovm_drafts_build(drafters, &head, 1);
	struct ovm_cfg *cfg = NULL;
	assert_int_equal(ovm_draft_take(&self.ctx, drafters, &self.regions, drafts, &cfg), 0);
	assert_int_equal(cfg->n_regions, 2);
	ovm_cfg_free(cfg);
	free(drafts);
	uint32_t heads[MANY];
	for (uint32_t i = 0; i < MANY; i++)
		heads[i] = head;
	drafts = ovm_drafts_build(drafters, heads, MANY);
	for (uint32_t i = 0; i < MANY; i++) {
		assert_non_null(drafts[i].cfg);
		ovm_draft_fini(&drafts[i]);
	}
	free(drafts);
	ovm_drafters_free(drafters);
	ovm_drafters_free(NULL);
	self_close(&self);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_everything),
	    cmocka_unit_test(test_partners),
	    cmocka_unit_test(test_few),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
