/* The checker and the real thing: a few functions of this very program are copied with counters as
 * the engine does it, and proved; then every bit of the code and every field of the map is changed.
 * Hand-made cases are in test_check_count.c.
 */
#include "rewriter/check.h"
#include "rewriter/elf_write.h"
#include "rewriter/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* --- code to copy
 * ---------------------------------------------------------------------------------------------- */

int fixture_switch(int x, int y);
int fixture_loop(const unsigned char *p, int n);
int fixture_calls(int n);

static volatile int sink;

__attribute__((noinline)) int fixture_switch(int x, int y)
{
	switch (x) {
	case 0:
		return y * 3;
	case 1:
		return y - 7;
	case 2:
		return y ^ sink;
	case 3:
		return y * 4 + sink;
	case 4:
		return sink / 3;
	case 5:
		sink = x;
		return -y;
	case 6:
		return y % 11;
	default:
		return sink;
	}
}

__attribute__((noinline)) int fixture_loop(const unsigned char *p, int n)
{
	int sum = 0;
	for (int i = 0; i < n; i++) {
		if (p[i] == 'x')
			sum += fixture_switch(i & 15, sum);
		else if (p[i] > 'x')
			sum -= p[i];
		else
			sum ^= sink;
	}
	return sum;
}

__attribute__((noinline)) int fixture_calls(int n)
{
	static const unsigned char text[] = "xyzxxyabx";
	if (n < 0)
		printf("%d\n", n);
	return n > 3 ? fixture_loop(text, 9) + fixture_calls(n - 1) : fixture_switch(n, sink);
}

/* Indirect calls, with operands that move when they are repeated. */
int fixture_indirect(int (*f)(int, int), int n);
__attribute__((used)) int (*indirect_slot)(int, int) = fixture_switch;

__asm__(".text\n"
	".globl fixture_indirect\n"
	".type fixture_indirect, @function\n"
	"fixture_indirect:\n"
	"	.cfi_startproc\n"
	"	push %rbx\n"
	"	.cfi_def_cfa_offset 16\n"
	"	.cfi_offset 3, -16\n"
	"	sub $32, %rsp\n"
	"	.cfi_def_cfa_offset 48\n"
	"	mov %rdi, 8(%rsp)\n"
	"	mov %rsp, %rbx\n"
	"	call *%rdi\n"
	"	call *8(%rsp)\n"
	"	mov $1, %r9d\n"
	"	call *-8(%rbx,%r9,8)\n"
	"	call *indirect_slot(%rip)\n"
	"	add $32, %rsp\n"
	"	.cfi_def_cfa_offset 16\n"
	"	pop %rbx\n"
	"	.cfi_def_cfa_offset 8\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size fixture_indirect, .-fixture_indirect\n");

enum { N_SITES = 4 };

/* --- fixture
 * ---------------------------------------------------------------------------------------------------
 */

enum { COUNTERS_AT = 1 << 24, COUNTERS_ROOM = 1 << 16 };

struct fixture {
	struct ovm_ctx ctx;
	struct ovm_image *image;
	struct ovm_decoder *dec;
	struct ovm_engine engine;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct ovm_regions regions;
	struct ovm_engine_opts opts = {
	    .share = 1, .uniform = true, .is_counting = true, .counters_room = COUNTERS_ROOM};
	ovm_ctx_init(&f->ctx);
	if (ovm_image_open(&f->ctx, "/proc/self/exe", &f->image) ||
	    ovm_decoder_open(&f->ctx, &f->dec) || ovm_elf_plan(&f->ctx, f->image, &opts.base) ||
	    ovm_regions_build(&f->ctx, f->image, &regions))
		return -1;
	opts.counters = ovm_va_add(opts.base, COUNTERS_AT);
	f->image->runtimes = 0; /* we contain the words that runtimes are told by */
	bool *skip = calloc(regions.v.n, sizeof(*skip));
	for (uint32_t i = 0; i < regions.v.n; i++) {
		const struct ovm_symbol *symbol = ovm_image_symbol(f->image, regions.v.v[i].lo);
		skip[i] = !symbol || !symbol->name || strncmp(symbol->name, "fixture_", 8);
	}
	ovm_regions_free(&regions);
	opts.skip_region = skip;
	int err = ovm_engine_run(&f->ctx, f->dec, f->image, NULL, &opts, &f->engine);
	free(skip);
	*state = f;
	if (err)
		fprintf(stderr, "engine: %d %s\n", err, f->ctx.msg);
	return err ? -1 : 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	ovm_engine_fini(&f->engine);
	ovm_decoder_close(f->dec);
	ovm_image_close(f->image);
	free(f);
	return 0;
}

static int check(struct fixture *f)
{
	struct ovm_check_result result;
	return ovm_check(&f->ctx, f->image, &f->engine.regions, &f->engine.overlay, &result);
}

/* There are counters, also where patches land, and exits behind calls that return. */
static void test_proves(void **state)
{
	struct fixture *f = *state;
	const struct ovm_overlay *overlay = &f->engine.overlay;
	uint32_t counters = 0, calls = 0, exits = 0, patched = 0;
	assert_int_equal(f->engine.stats.n_dropped_by_checker, 0);
	assert_int_equal(check(f), 0);
	for (uint32_t i = 0; i < overlay->map.v.n; i++) {
		const struct ovm_map_entry *entry = &overlay->map.v.v[i];
		counters += !!(entry->flags & OVM_MAP_COUNT);
		calls += !!(entry->flags & OVM_MAP_CALL);
		exits += !!(entry->flags & OVM_MAP_EXIT);
	}
	for (uint32_t i = 0; i < overlay->patches.n; i++) {
		const struct ovm_map_entry *entry =
		    ovm_map_new(&overlay->map, overlay->patches.v[i].target);
		patched += entry && (entry->flags & OVM_MAP_COUNT);
	}
	uint32_t n_probes = ovm_overlay_n_probes(overlay);
	assert_true(n_probes >= 10 && counters >= n_probes);
	assert_true(exits >= 4 && exits <= calls);
	assert_true(patched);
	assert_int_equal(overlay->sites.n, N_SITES);
}

/* Bits that turn a counter into another counter. */
static bool is_still_counter(const struct ovm_overlay *overlay, uint32_t off)
{
	const struct ovm_map_entry *entry = ovm_map_new(&overlay->map, off);
	if (!entry || !(entry->flags & OVM_MAP_COUNT) || off - entry->off < 3)
		return false;
	uint64_t to = overlay->base.v + entry->off + 7 +
		      (uint64_t)(int64_t)(int32_t)ovm_le32(overlay->bytes + entry->off + 3);
	uint64_t at = to - overlay->counters.v;
	return at % 8 == 0 && at / 8 < ovm_overlay_n_probes(overlay);
}

static void test_every_bit(void **state)
{
	struct fixture *f = *state;
	struct ovm_overlay *overlay = &f->engine.overlay;
	for (unsigned kind = OVM_SECTION_HOT; kind <= OVM_SECTION_TABLES; kind++) {
		const struct ovm_section *section = &overlay->sections[kind];
		for (uint32_t off = section->off; off < section->off + section->size; off++) {
			const struct ovm_map_entry *entry = ovm_map_new(&overlay->map, off);
			if (kind != OVM_SECTION_TABLES &&
			    (!entry || ((entry->flags & OVM_MAP_PAD) &&
					!(entry->flags & (OVM_MAP_EXIT | OVM_MAP_THUNK)))))
				continue; /* between copies */
			for (unsigned bit = 0; bit < 8; bit++) {
				overlay->bytes[off] ^= (uint8_t)(1u << bit);
				if (!check(f) && !is_still_counter(overlay, off))
					fail_msg("bit %u of byte %x can change unseen", bit, off);
				overlay->bytes[off] ^= (uint8_t)(1u << bit);
			}
		}
	}
	assert_int_equal(check(f), 0);
}

static void test_map(void **state)
{
	struct fixture *f = *state;
	struct ovm_overlay *overlay = &f->engine.overlay;
	uint32_t n_thunks = 0;
	for (uint32_t i = 0; i < overlay->map.v.n; i++) {
		struct ovm_map_entry *entry = &overlay->map.v.v[i], save = *entry;
		bool counts = entry->flags & OVM_MAP_COUNT, exits = entry->flags & OVM_MAP_EXIT;
		bool thunk = entry->flags & OVM_MAP_THUNK;
		n_thunks += thunk;
		if (!counts && !exits && !thunk)
			continue;
		entry->old.v++;
		assert_int_equal(check(f), OVM_REFUSED);
		*entry = save;
		entry->new_len--;
		assert_int_equal(check(f), OVM_REFUSED);
		*entry = save;
		entry->old_len++;
		assert_int_equal(check(f), OVM_REFUSED);
		*entry = save;
		for (uint16_t flag = OVM_MAP_SYNTH; flag <= OVM_MAP_THUNK; flag <<= 1) {
			entry->flags ^= flag;
			/* an exit is also padding that is run through */
			bool well = (flag == OVM_MAP_DUPLICATE && !thunk) ||
				    (exits && flag == OVM_MAP_EXIT);
			assert_int_equal(check(f), well ? 0 : OVM_REFUSED);
			*entry = save;
		}
	}
	assert_int_equal(n_thunks, N_SITES);
	assert_int_equal(check(f), 0);
}

/* Whatever the thunks' unwind data is changed to, it is told from a function's first row. */
static void test_thunk_rows(void **state)
{
	struct fixture *f = *state;
	struct ovm_overlay *overlay = &f->engine.overlay;
	const struct ovm_new_fde *fde = NULL;
	for (uint32_t i = 0; i < overlay->fdes.n; i++) {
		const struct ovm_map_entry *entry =
		    ovm_map_new(&overlay->map, overlay->fdes.v[i].off);
		if (entry->flags & OVM_MAP_THUNK)
			fde = &overlay->fdes.v[i];
	}
	assert_non_null(fde);
	uint8_t *p = overlay->bytes + fde->fde_off, *prog = p + 17; /* no augmentation data */
	uint32_t size = ovm_le32(p) + 4;
	assert_true(p + size >= prog + 3);
	memcpy(prog, "\x0e\x10", 2); /* DW_CFA_def_cfa_offset 16 */
	assert_int_equal(check(f), OVM_REFUSED);
	memcpy(prog, "\x41\x0e\x10", 3); /* from the second byte on */
	assert_int_equal(check(f), OVM_REFUSED);
	memcpy(prog, "\x83\x02\x00", 3); /* rbx is at cfa-16 */
	assert_int_equal(check(f), OVM_REFUSED);
	memset(prog, 0, 3);
	assert_int_equal(check(f), 0);
}

static void test_counters(void **state)
{
	struct fixture *f = *state;
	struct ovm_overlay *overlay = &f->engine.overlay;
	overlay->n_counters--;
	assert_int_equal(check(f), OVM_REFUSED);
	overlay->n_counters++;
	overlay->sites.n++; /* its counters are probes' */
	assert_int_equal(check(f), OVM_REFUSED);
	overlay->sites.n -= 2; /* a site's counters become probes' */
	assert_int_equal(check(f), OVM_REFUSED);
	overlay->sites.n = UINT32_MAX / OVM_SITE_COUNTERS;
	assert_int_equal(check(f), OVM_REFUSED);
	overlay->sites.n = N_SITES;
	overlay->counters.v += 8;
	assert_int_equal(check(f), OVM_REFUSED);
	overlay->counters.v -= 16;
	assert_int_equal(check(f), OVM_REFUSED);
	overlay->counters.v += 8;
	assert_int_equal(check(f), 0);
}

int main(void)
{
	sink = fixture_calls(5);
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_proves),   cmocka_unit_test(test_every_bit),
	    cmocka_unit_test(test_map),	     cmocka_unit_test(test_thunk_rows),
	    cmocka_unit_test(test_counters),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
