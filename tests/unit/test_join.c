/* A program gone through in pieces has the copies, patches and tables that it has when gone through
 * at once, branches between pieces included, and is proved as a whole. The program is this test.
 */
#include "rewriter/check.h"
#include "rewriter/elf_write.h"
#include "rewriter/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CODE = 300000, PIECE = CODE / 10 };

static struct {
	struct ovm_ctx ctx;
	struct ovm_image *image;
	struct ovm_decoder *dec;
	bool *skip;
	struct ovm_engine whole, joined;
} t;

/* The first CODE bytes are enough. */
static int choose(void)
{
	struct ovm_regions regions;
	uint64_t size = 0;
	if (ovm_regions_build(&t.ctx, t.image, &regions))
		return -1;
	t.skip = calloc(regions.v.n, sizeof(*t.skip));
	for (uint32_t i = 0; i < regions.v.n; i++) {
		t.skip[i] = size > CODE;
		size += regions.v.v[i].hi.v - regions.v.v[i].lo.v;
	}
	ovm_regions_free(&regions);
	return 0;
}

static int run(uint64_t piece, struct ovm_engine *engine)
{
	struct ovm_engine_opts opts = {
	    .share = 1, .uniform = true, .piece = piece, .skip_region = t.skip};
	int err = ovm_elf_plan(&t.ctx, t.image, &opts.base);
	return err ? err : ovm_engine_run(&t.ctx, t.dec, t.image, NULL, &opts, engine);
}

static int set_up(void **state)
{
	(void)state;
	ovm_ctx_init(&t.ctx);
	if (ovm_image_open(&t.ctx, "/proc/self/exe", &t.image) || ovm_decoder_open(&t.ctx, &t.dec))
		return -1;
	t.image->runtimes = 0; /* we contain the words that runtimes are told by */
	return choose() || run(0, &t.whole) || run(PIECE, &t.joined);
}

static int tear_down(void **state)
{
	(void)state;
	ovm_engine_fini(&t.whole);
	ovm_engine_fini(&t.joined);
	ovm_decoder_close(t.dec);
	ovm_image_close(t.image);
	free(t.skip);
	return 0;
}

static int check(void)
{
	struct ovm_check_result result;
	return ovm_check(&t.ctx, t.image, &t.joined.regions, &t.joined.overlay, &result);
}

static void test_same(void **state)
{
	const struct ovm_overlay *a = &t.whole.overlay, *b = &t.joined.overlay;
	(void)state;
	assert_true(a->sections[OVM_SECTION_HOT].size > 6 * PIECE);
	assert_int_equal(t.joined.stats.n_copied, t.whole.stats.n_copied);
	assert_int_equal(t.joined.stats.n_selected, t.whole.stats.n_selected);
	assert_int_equal(t.joined.stats.n_dropped_by_checker, 0);
	assert_true(t.joined.stats.n_pairs >= b->n_insns);
	assert_int_equal(b->n_blocks, a->n_blocks);
	assert_int_equal(b->patches.n, a->patches.n);
	for (uint32_t i = 0; i < a->patches.n; i++)
		assert_int_equal(b->patches.v[i].at.v, a->patches.v[i].at.v);
	assert_true(b->tables.n > 2);
	assert_int_equal(b->tables.n, a->tables.n);
	for (uint32_t r = 0; r < t.whole.regions.v.n; r++) {
		ovm_va lo = t.whole.regions.v.v[r].lo;
		assert_int_equal(t.joined.regions.v.v[r].refused, t.whole.regions.v.v[r].refused);
		assert_int_equal(!!ovm_map_old(&b->map, lo), !!ovm_map_old(&a->map, lo));
	}
}

/* What is called by a copy is a copy if there is one. */
static void test_linked(void **state)
{
	const struct ovm_overlay *overlay = &t.joined.overlay;
	unsigned inside = 0;
	(void)state;
	for (uint32_t i = 0; i < overlay->map.v.n; i++) {
		const struct ovm_map_entry *entry = &overlay->map.v.v[i];
		const uint8_t *p = overlay->bytes + entry->off;
		if (entry->new_len != 5 || *p != 0xe8)
			continue;
		ovm_va to =
		    ovm_va_add(overlay->base, (int64_t)entry->off + 5 + (int32_t)ovm_le32(p + 1));
		uint32_t r = ovm_region_find(&t.joined.regions, to);
		assert_true(r == OVM_NONE || t.joined.regions.v.v[r].lo.v != to.v ||
			    !ovm_map_old(&overlay->map, to));
		inside += to.v - overlay->base.v < overlay->size;
	}
	assert_true(inside > 100);
}

static void test_proved(void **state)
{
	struct ovm_overlay *overlay = &t.joined.overlay;
	(void)state;
	assert_int_equal(check(), 0);
	for (uint32_t i = 0; i < overlay->tables.n; i++) {
		uint8_t *entry = overlay->bytes + overlay->tables.v[i].new_off;
		entry[1] ^= 0x80;
		assert_int_equal(check(), OVM_REFUSED);
		entry[1] ^= 0x80;
	}
	assert_int_equal(check(), 0);
}

/* Little code is gone through at once. */
static void test_few(void **state)
{
	struct ovm_engine engine;
	(void)state;
	assert_int_equal(run(UINT64_MAX / 2, &engine), 0);
	assert_int_equal(engine.overlay.size, t.whole.overlay.size);
	assert_memory_equal(engine.overlay.bytes, t.whole.overlay.bytes, engine.overlay.size);
	ovm_engine_fini(&engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_same),
	    cmocka_unit_test(test_linked),
	    cmocka_unit_test(test_proved),
	    cmocka_unit_test(test_few),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
