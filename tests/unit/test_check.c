/* The checker against damage. The overlay of a few functions of this very program is built, proved,
 * and then changed one bit at a time: what is not semantically neutral must be refused, and nothing
 * may crash. Neutral bytes are listed with the reason.
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
int fixture_pads(int n);
void personality(void);

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
	case 7:
		return y | 9;
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

void personality(void)
{
}

/* What a C++ compiler makes of { guard g(n); fixture_switch(n, 1); }: a landing pad, an action, a
 * type. */
__asm__(".text\n"
	".globl fixture_pads\n"
	".type fixture_pads, @function\n"
	"fixture_pads:\n"
	"	.cfi_startproc\n"
	"	.cfi_personality 0x1b, personality\n"
	"	.cfi_lsda 0x1b, .Lfixture_lsda\n"
	"	push %rbx\n"
	"	.cfi_def_cfa_offset 16\n"
	"	.cfi_offset 3, -16\n"
	"	mov %edi, %ebx\n"
	"	mov $1, %esi\n"
	".Lfixture_call:\n"
	"	call fixture_switch\n"
	".Lfixture_after:\n"
	"	test %eax, %eax\n"
	"	je 1f\n"
	"	add %ebx, %eax\n"
	"1:	pop %rbx\n"
	"	.cfi_remember_state\n"
	"	.cfi_def_cfa_offset 8\n"
	"	ret\n"
	".Lfixture_pad:\n"
	"	.cfi_restore_state\n"
	"	mov %ebx, %edi\n"
	"	call fixture_switch\n"
	"	ud2\n"
	".Lfixture_end:\n"
	"	.cfi_endproc\n"
	".size fixture_pads, .-fixture_pads\n"
	".section .gcc_except_table, \"a\"\n"
	"	.balign 4\n"
	".Lfixture_lsda:\n"
	"	.byte 0xff, 0x1b\n"
	"	.uleb128 .Lfixture_types - .Lfixture_head\n"
	".Lfixture_head:\n"
	"	.byte 1\n"
	"	.uleb128 .Lfixture_actions - .Lfixture_sites\n"
	".Lfixture_sites:\n"
	"	.uleb128 .Lfixture_call - fixture_pads\n"
	"	.uleb128 .Lfixture_after - .Lfixture_call\n"
	"	.uleb128 .Lfixture_pad - fixture_pads\n"
	"	.uleb128 1\n"
	"	.uleb128 .Lfixture_pad - fixture_pads\n"
	"	.uleb128 .Lfixture_end - .Lfixture_pad\n"
	"	.uleb128 0\n"
	"	.uleb128 0\n"
	".Lfixture_actions:\n"
	"	.byte 1, 0\n"
	"	.balign 4\n"
	"	.long personality - .\n"
	".Lfixture_types:\n"
	".text\n");

/* --- fixture
 * ---------------------------------------------------------------------------------------------------
 */

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
	struct ovm_engine_opts opts = {.share = 1, .uniform = true};
	ovm_ctx_init(&f->ctx);
	if (ovm_image_open(&f->ctx, "/proc/self/exe", &f->image) ||
	    ovm_decoder_open(&f->ctx, &f->dec) || ovm_elf_plan(&f->ctx, f->image, &opts.base) ||
	    ovm_regions_build(&f->ctx, f->image, &regions))
		return -1;
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
	int err = ovm_check(&f->ctx, f->image, &f->engine.regions, &f->engine.overlay, &result);
	if (err)
		assert_true(result.reason[0]);
	return err;
}

static void test_proves(void **state)
{
	struct fixture *f = *state;
	const struct ovm_overlay *overlay = &f->engine.overlay;
	struct ovm_check_result result;
	assert_true(f->engine.stats.n_copied >= 4);
	assert_int_equal(f->engine.stats.n_dropped_by_checker, 0);
	assert_int_equal(ovm_check(&f->ctx, f->image, &f->engine.regions, overlay, &result), 0);
	assert_true(result.n_pairs > 50 && result.n_pairs <= overlay->map.v.n);
	assert_true(overlay->patches.n >= 3);
	assert_true(overlay->sections[OVM_SECTION_LSDA].size > 0);
}

/* Bytes whose change means nothing. */
static bool is_neutral(const struct ovm_overlay *overlay, unsigned kind, uint32_t off)
{
	if (kind > OVM_SECTION_COLD)
		return false;
	const struct ovm_map_entry *entry = ovm_map_new(&overlay->map, off);
	return !entry || (entry->flags & OVM_MAP_PAD); /* between copies, never executed */
}

/* All bits of all bytes. What may stay unseen: unwind data that no instruction uses (alignment, the
 * base of landing pads where there is none, the end of a call site that is followed by a jump of
 * ours, DW_CFA_nop turned into another no-op). */
static void test_every_bit(void **state)
{
	struct fixture *f = *state;
	struct ovm_overlay *overlay = &f->engine.overlay;
	for (unsigned kind = 0; kind < OVM_N_SECTIONS; kind++) {
		const struct ovm_section *section = &overlay->sections[kind];
		unsigned missed = 0, tried = 0;
		for (uint32_t off = section->off; off < section->off + section->size; off++) {
			if (is_neutral(overlay, kind, off))
				continue;
			for (unsigned bit = 0; bit < 8; bit++) {
				overlay->bytes[off] ^= (uint8_t)(1u << bit);
				int err = check(f);
				overlay->bytes[off] ^= (uint8_t)(1u << bit);
				tried++;
				if (!err && kind <= OVM_SECTION_TABLES)
					fail_msg(
					    "bit %u of byte %x of section %u can change unseen",
					    bit, off, kind);
				missed += !err;
			}
		}
		if (kind == OVM_SECTION_EH_FRAME_HDR)
			assert_int_equal(missed, 0);
		assert_true(missed * 6 <= tried);
	}
	assert_int_equal(check(f), 0);
}

static void test_patches(void **state)
{
	struct fixture *f = *state;
	struct ovm_overlay *overlay = &f->engine.overlay;
	for (uint32_t i = 0; i < overlay->patches.n; i++) {
		struct ovm_patch *patch = &overlay->patches.v[i], save = *patch;
		for (unsigned bit = 0; bit < 5 * 8; bit++) {
			patch->old_bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
			assert_int_equal(check(f), OVM_REFUSED);
			*patch = save;
			patch->new_bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
			assert_int_equal(check(f), OVM_REFUSED);
			*patch = save;
		}
		patch->at.v++;
		assert_int_equal(check(f), OVM_REFUSED);
		*patch = save;
		patch->len = 6;
		assert_int_equal(check(f), OVM_REFUSED);
		*patch = save;
		patch->target ^= 1;
		assert_int_equal(check(f), OVM_REFUSED);
		*patch = save;
		patch->region = OVM_NONE;
		assert_int_equal(check(f), OVM_REFUSED);
		*patch = save;
	}
	assert_int_equal(check(f), 0);
}

/* The map is part of what is proved: return addresses are translated with it. */
static void test_map(void **state)
{
	struct fixture *f = *state;
	struct ovm_overlay *overlay = &f->engine.overlay;
	for (uint32_t i = 0; i < overlay->map.v.n; i++) {
		struct ovm_map_entry *entry = &overlay->map.v.v[i], save = *entry;
		if (entry->flags & OVM_MAP_PAD)
			continue;
		bool is_jump = entry->flags & OVM_MAP_SYNTH;
		entry->old.v++;
		assert_true(is_jump || check(f) == OVM_REFUSED);
		*entry = save;
		entry->off ^= 1;
		assert_int_equal(check(f), OVM_REFUSED);
		*entry = save;
		entry->new_len++;
		assert_int_equal(check(f), OVM_REFUSED);
		*entry = save;
		entry->flags ^= OVM_MAP_CALL;
		assert_true(is_jump || check(f) == OVM_REFUSED);
		*entry = save;
	}
	assert_int_equal(check(f), 0);
}

/* Claims and lists out of range: any answer but a crash. */
static void test_hostile_lists(void **state)
{
	struct fixture *f = *state;
	struct ovm_overlay *overlay = &f->engine.overlay;
	struct {
		void *at;
		size_t size;
	} lists[] = {
	    {overlay->map.v.v, overlay->map.v.n * sizeof(*overlay->map.v.v)},
	    {overlay->patches.v, overlay->patches.n * sizeof(*overlay->patches.v)},
	    {overlay->tables.v, overlay->tables.n * sizeof(*overlay->tables.v)},
	    {overlay->fdes.v, overlay->fdes.n * sizeof(*overlay->fdes.v)},
	    {overlay->sections, sizeof(overlay->sections)},
	};
	unsigned seed = 1;
	for (unsigned i = 0; i < 3000; i++) {
		unsigned k = i % 5;
		if (!lists[k].size)
			continue;
		seed = seed * 1103515245 + 12345;
		uint8_t *byte = (uint8_t *)lists[k].at + (seed >> 4) % lists[k].size, save = *byte;
		seed = seed * 1103515245 + 12345;
		*byte = (uint8_t)(seed >> 16);
		check(f);
		*byte = save;
	}
	assert_int_equal(check(f), 0);
}

static void test_tables(void **state)
{
	struct fixture *f = *state;
	struct ovm_overlay *overlay = &f->engine.overlay;
	for (uint32_t i = 0; i < overlay->tables.n; i++) {
		struct ovm_table_copy *table = &overlay->tables.v[i], save = *table;
		table->new_off += 4;
		assert_int_equal(check(f), OVM_REFUSED);
		*table = save;
		table->old_table.v += 4;
		assert_int_equal(check(f), OVM_REFUSED);
		*table = save;
		table->entry_size = 3;
		assert_int_equal(check(f), OVM_REFUSED);
		*table = save;
		table->old_load.v++;
		assert_int_equal(check(f), OVM_REFUSED);
		*table = save;
		table->n_entries = 1u << 30;
		assert_int_equal(check(f), OVM_REFUSED);
		*table = save;
	}
	assert_int_equal(check(f), 0);
}

static void test_decoders(void **state)
{
	struct fixture *f = *state;
	uint32_t n = 0;
	for (uint32_t c = 0; c < f->engine.program.cfgs.n; c++) {
		const struct ovm_cfg *cfg = f->engine.program.cfgs.v[c];
		if (!cfg)
			continue;
		assert_int_equal(ovm_check_decoders(f->image, cfg->insns, cfg->n_insns, NULL), 0);
		for (uint32_t i = 0; i < cfg->n_insns; i++, n++) {
			struct ovm_insn insn = cfg->insns[i];
			insn.len++;
			assert_int_equal(ovm_check_decoders(f->image, &insn, 1, NULL), OVM_REFUSED);
			insn = cfg->insns[i];
			insn.kind = insn.kind == OVM_INSN_RET ? OVM_INSN_OTHER : OVM_INSN_RET;
			assert_int_equal(ovm_check_decoders(f->image, &insn, 1, NULL), OVM_REFUSED);
			insn = cfg->insns[i];
			insn.target.v++;
			bool has_target = insn.disp_len && (insn.target.v != 1);
			assert_int_equal(ovm_check_decoders(f->image, &insn, 1, NULL),
					 has_target ? OVM_REFUSED : 0);
		}
	}
	assert_true(n > 50);
	assert_int_equal(ovm_check_decoders(f->image, NULL, 0, NULL), 0);
	struct ovm_insn nowhere = {.va = {1}, .len = 1};
	assert_int_equal(ovm_check_decoders(f->image, &nowhere, 1, NULL), OVM_REFUSED);
}

int main(void)
{
	sink = fixture_calls(5) + fixture_pads(1);
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_proves),   cmocka_unit_test(test_every_bit),
	    cmocka_unit_test(test_patches),  cmocka_unit_test(test_map),
	    cmocka_unit_test(test_tables),   cmocka_unit_test(test_hostile_lists),
	    cmocka_unit_test(test_decoders),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
