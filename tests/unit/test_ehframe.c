/* Unwind data that was written is read back: rows by ovm_cfi_run, exception tables by
 * ovm_lsda_parse. */
#include "rewriter/ehframe.h"
#include "rewriter/lsda_write.h"
#include "tests/support/minicfg.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* push, call, pop, ret in two blocks, so that the second may stand before the first. */
__asm__(".pushsection .rodata\n"
	"unwind_f: push %rbx\n"
	"	test %edi, %edi\n"
	"	je unwind_f1\n"
	"	call unwind_f\n"
	"unwind_f1: pop %rbx\n"
	"	ret\n"
	"unwind_g: ret\n"
	"unwind_end: .popsection\n");
extern const char unwind_f[], unwind_f1[], unwind_g[], unwind_end[];

enum { BASE = 0x600000 };

static const uint8_t prog_f[] = {
    0x41, 0x0e, 0x10, 0x83, 0x02,	/* advance 1: CFA=rsp+16 rbx=c-16 */
    0x4a, 0x10, 0x06, 0x02, 0x77, 0x08, /* advance 10: rbp by expression (rsp+8) */
    0x41, 0x0e, 0x08, 0xc3, 0xc6, 0x2e,
    0x10, /* advance 1: CFA=rsp+8, restore rbx and rbp, args_size 16 */
};

static void set_up(struct mini *m)
{
	mini_open(m, unwind_f, unwind_end);
	mini_region(m, unwind_f, unwind_g, (const char *const[]){unwind_f, unwind_f1}, 2);
	mini_region(m, unwind_g, unwind_end, (const char *const[]){unwind_g}, 1);
	m->regions.v.v[0].prog = prog_f;
	m->regions.v.v[0].prog_len = sizeof(prog_f);
}

/* Each copied instruction's row, from the written FDE, is the row of the original instruction. */
static void expect_rows(struct mini *m, const struct ovm_overlay *overlay)
{
	for (uint32_t i = 0; i < overlay->fdes.n; i++) {
		const struct ovm_new_fde *fde = &overlay->fdes.v[i];
		ovm_cfi_spans old = {0}, new = {0};
		const uint8_t *rec = overlay->bytes + fde->fde_off;
		uint32_t len = ovm_le32(rec);
		assert_int_equal((int32_t)ovm_le32(rec + 8),
				 (int32_t)(fde->off - (fde->fde_off + 8)));
		assert_int_equal(ovm_le32(rec + 12), fde->size);
		assert_int_equal(rec[16], 0); /* augmentation data */
		assert_int_equal(ovm_cfi_run(&m->regions.cfi, &m->regions.cfi.cies.v[0], rec + 17,
					     len + 4 - 17,
					     ovm_va_add(overlay->base, fde->fde_off + 17),
					     ovm_va_add(overlay->base, fde->off), fde->size,
					     m->regions.cfi.cies.v[0].initial_row, &new),
				 0);
		assert_int_equal(ovm_region_spans(&m->regions, &m->image, fde->region, &old), 0);
		for (uint32_t k = 0; k < overlay->map.v.n; k++) {
			const struct ovm_map_entry *entry = &overlay->map.v.v[k];
			ovm_va lo = m->regions.v.v[fde->region].lo;
			if (entry->off - fde->off >= fde->size)
				continue;
			assert_int_equal(ovm_spans_row(&new, entry->off - fde->off),
					 ovm_spans_row(&old, (uint32_t)(entry->old.v - lo.v)));
		}
		ovm_vec_free(&old);
		ovm_vec_free(&new);
	}
}

static void rows_survive_reordering(void **state)
{
	struct mini m;
	struct ovm_overlay overlay;
	struct ovm_overlay_opts opts = {.base = ovm_va_of(BASE), .no_patches = true};
	uint32_t bad;
	enum ovm_refusal why;
	(void)state;
	set_up(&m);
	mini_slot(&m, 0, 1, 1);
	mini_slot(&m, 0, 0, 16);
	mini_slot(&m, 1, 0, 16);
	assert_int_equal(
	    ovm_overlay_build(&m.ctx, &m.program, &m.layout, &opts, &overlay, &bad, &why), 0);
	assert_int_equal(overlay.fdes.n, 2);
	assert_int_equal(overlay.fdes.v[0].region, 0);
	assert_int_equal(overlay.fdes.v[1].region, 1);
	assert_int_equal(overlay.fdes.v[1].off % 16, 0);
	assert_int_equal(overlay.fdes.v[1].size, 1);
	expect_rows(&m, &overlay);
	const struct ovm_section *frame = &overlay.sections[OVM_SECTION_EH_FRAME];
	assert_int_equal(ovm_le32(overlay.bytes + frame->off + frame->size - 4), 0);
	assert_int_equal(overlay.sections[OVM_SECTION_EH_FRAME_HDR].size, 12 + 2 * 8);
	assert_int_equal(overlay.sections[OVM_SECTION_LSDA].size, 0);
	ovm_overlay_fini(&overlay);
	mini_close(&m);
}

/* An offset that data alignment -8 cannot express is refused, and the culprit named. */
static void odd_offset_refused(void **state)
{
	static const uint8_t odd[] = {0x83, 0x01};
	struct mini m;
	struct ovm_overlay overlay;
	struct ovm_overlay_opts opts = {.base = ovm_va_of(BASE)};
	uint32_t bad = 99;
	enum ovm_refusal why = OVM_REFUSE_NONE;
	(void)state;
	set_up(&m);
	m.regions.cfi.cies.v[0].data_align = -4;
	m.regions.v.v[0].prog_len = 0;
	m.regions.v.v[1].prog = odd;
	m.regions.v.v[1].prog_len = sizeof(odd);
	mini_slot(&m, 0, 0, 1);
	mini_slot(&m, 1, 0, 1);
	assert_int_equal(
	    ovm_overlay_build(&m.ctx, &m.program, &m.layout, &opts, &overlay, &bad, &why),
	    OVM_REFUSED);
	assert_int_equal(bad, 1);
	assert_int_equal(why, OVM_REFUSE_CFI);
	mini_close(&m);
}

static void header(void **state)
{
	struct ovm_buf buf = {0};
	struct ovm_hdr_entry entries[] = {{{0x500}, {0x2000}}, {{0x3000}, {0x2010}}};
	(void)state;
	ovm_ehframe_hdr(&buf, ovm_va_of(0x1000), ovm_va_of(0x1f00), entries, 2);
	assert_int_equal(buf.n, 28);
	assert_memory_equal(buf.v, "\x01\x1b\x03\x3b", 4);
	assert_int_equal(ovm_le32(buf.v + 4), 0x1f00 - 0x1004);
	assert_int_equal(ovm_le32(buf.v + 8), 2);
	assert_int_equal((int32_t)ovm_le32(buf.v + 12), 0x500 - 0x1000);
	assert_int_equal((int32_t)ovm_le32(buf.v + 24), 0x1010);
	buf.n = 0;
	ovm_ehframe_hdr(&buf, ovm_va_of(0x1000), ovm_va_of(0x1f00), NULL, 0);
	assert_int_equal(buf.n, 12);
	ovm_buf_free(&buf);
}

/* --- exception tables
 * ------------------------------------------------------------------------------------------ */

enum { PADS_VA = 0x402000, PADS = 0x2000, CODE = 0x500000 };

/* actions: offset 0 = type 1 then end; offset 2 = filter -1 then end */
static const uint8_t actions[] = {0x01, 0x00, 0x7f, 0x00};
static const uint8_t filters[] = {0x02, 0x00};

static void make_lsda(struct ovm_lsda *lsda, uint8_t type_enc)
{
	*lsda = (struct ovm_lsda){.lp_start = {PADS_VA},
				  .actions = actions,
				  .actions_len = sizeof(actions),
				  .type_enc = type_enc,
				  .filters = filters,
				  .filters_len = sizeof(filters)};
	ovm_vec_push(&lsda->types, ovm_va_of(0x404010));
	ovm_vec_push(&lsda->types, ovm_va_of(0));
}

/* Write at @base, then parse it as if it were an image of its own. */
static void round_trip(uint64_t base, uint8_t type_enc, uint32_t n_sites)
{
	struct ovm_lsda in, out = {0};
	ovm_callsites sites = {0};
	struct ovm_buf buf = {0};
	make_lsda(&in, type_enc);
	for (uint32_t i = 0; i < n_sites; i++)
		ovm_vec_push(&sites,
			     (struct ovm_callsite){i * 8, i * 8 + 5, 0x100 + i, i % 2 ? 1 : 3});
	assert_true(ovm_lsda_can_move(&in, false));
	assert_true(ovm_lsda_write(&buf, ovm_va_of(base), ovm_va_of(CODE), &in, &sites));

	uint8_t *file = ovm_alloc(PADS + buf.n); /* code with the landing pads, then the record */
	memcpy(file + PADS, buf.v, buf.n);
	struct ovm_image image = {
	    .bytes = file, .size = PADS + buf.n, .lo = {PADS_VA}, .hi = {base + buf.n}};
	ovm_vec_push(&image.segments,
		     (struct ovm_segment){{PADS_VA}, {PADS_VA + PADS}, {0}, PADS, PF_R | PF_X});
	ovm_vec_push(&image.segments,
		     (struct ovm_segment){{base}, {base + buf.n}, {PADS}, buf.n, PF_R});
	assert_int_equal(
	    ovm_lsda_parse(&image, ovm_va_of(base), ovm_va_of(CODE), n_sites * 8 + 8, &out), 0);
	assert_int_equal(buf.v[0], 0xff); /* no LPStart: not every personality reads one */
	assert_int_equal(out.sites.n, n_sites);
	for (uint32_t i = 0; i < n_sites; i++) {
		assert_int_equal(out.sites.v[i].lo, sites.v[i].lo);
		assert_int_equal(out.sites.v[i].hi, sites.v[i].hi);
		assert_int_equal(CODE + out.sites.v[i].landing, PADS_VA + sites.v[i].landing);
		assert_int_equal(out.sites.v[i].action, sites.v[i].action);
	}
	if (n_sites) {
		assert_memory_equal(out.actions, actions, sizeof(actions));
		assert_true(out.types.n >= 1);
		assert_int_equal(out.types.v[0].v, 0x404010);
		for (uint32_t i = 1; i < out.types.n; i++)
			assert_int_equal(out.types.v[i].v, 0);
		assert_memory_equal(buf.v + buf.n - sizeof(filters), filters, sizeof(filters));
		assert_int_equal((base + buf.n - sizeof(filters)) % 4, 0); /* the type base */
	}
	ovm_lsda_fini(&out);
	ovm_vec_free(&image.segments);
	free(file);
	ovm_vec_free(&in.types);
	ovm_vec_free(&sites);
	ovm_buf_free(&buf);
}

static void lsda_round_trip(void **state)
{
	static const uint8_t encodings[] = {0x9b, 0x1b, 0x03, 0x00, 0x0b};
	(void)state;
	for (size_t e = 0; e < sizeof(encodings); e++)
		for (uint32_t n = 1; n < 60; n++) /* the distance to the type base crosses 127 */
			round_trip(0x600000, encodings[e], n);
	round_trip(0x600000, 0x9b, 4000);
	round_trip(0x600000, 0x9b, 0); /* no site: everything terminates */
}

static void lsda_limits(void **state)
{
	struct ovm_lsda lsda;
	ovm_callsites sites = {0};
	struct ovm_buf buf = {0};
	(void)state;
	make_lsda(&lsda, 0x00);
	assert_false(ovm_lsda_can_move(&lsda, true)); /* would need a relocation */
	lsda.type_enc = 0x01;
	assert_false(ovm_lsda_can_move(&lsda, false)); /* uleb entries */
	lsda.type_enc = 0x3b;
	assert_false(ovm_lsda_can_move(&lsda, false)); /* relative to data */
	lsda.type_enc = 0x9b;
	assert_true(ovm_lsda_can_move(&lsda, true));
	ovm_vec_push(&sites, (struct ovm_callsite){0, 5, 0x100, 1});
	assert_false(ovm_lsda_write(&buf, ovm_va_of(0x200000000), ovm_va_of(CODE), &lsda, &sites));
	ovm_buf_free(&buf);
	assert_false(ovm_lsda_write(&buf, ovm_va_of(BASE), ovm_va_of(0x200000000), &lsda, &sites));
	ovm_vec_free(&sites);
	ovm_buf_free(&buf);
	ovm_vec_free(&lsda.types);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(rows_survive_reordering),
	    cmocka_unit_test(odd_offset_refused),
	    cmocka_unit_test(header),
	    cmocka_unit_test(lsda_round_trip),
	    cmocka_unit_test(lsda_limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
