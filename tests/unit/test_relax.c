/* Branch lengths at their limits, alignment, the hot/cold boundary; the fields fixup.c writes. */
#include "rewriter/fixup.h"
#include "rewriter/relax.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 8 };

struct fixture {
	struct ovm_layout layout;
	struct ovm_piece pieces[N];
	struct ovm_emit_plan plan;
	struct ovm_bad bad;
};

static void init(struct fixture *f, uint32_t n)
{
	memset(f, 0, sizeof(*f));
	for (uint32_t i = 0; i < n; i++)
		ovm_vec_push(&f->layout.slots, (struct ovm_slot){.cfg = i, .block = i, .align = 1});
	f->layout.n_hot = n;
	f->plan.layout = &f->layout;
	f->plan.pieces = f->pieces;
}

static void nothing(void **state)
{
	struct fixture f;
	(void)state;
	init(&f, 0);
	assert_int_equal(ovm_relax(&f.plan, &f.bad), 0);
	assert_int_equal(f.plan.hot_size, 0);
	assert_int_equal(f.plan.cold_size, 0);
}

/* Forward 127 is short, 128 is long. */
static void forward_limit(void **state)
{
	(void)state;
	for (uint32_t gap = 126; gap <= 129; gap++) {
		struct fixture f;
		init(&f, 3);
		f.pieces[0] = (struct ovm_piece){.shape = OVM_SHAPE_JCC, .dest = {2}};
		f.pieces[1].body = gap;
		assert_int_equal(ovm_relax(&f.plan, &f.bad), 0);
		assert_int_equal(f.pieces[0].is_long, gap > 127);
		assert_int_equal(f.pieces[2].off, gap + (gap > 127 ? 6 : 2));
		ovm_vec_free(&f.layout.slots);
	}
}

/* Backward -128 counts from the branch's end. */
static void backward_limit(void **state)
{
	(void)state;
	for (uint32_t body = 125; body <= 127; body++) {
		struct fixture f;
		init(&f, 1);
		f.pieces[0] = (struct ovm_piece){.shape = OVM_SHAPE_JMP, .dest = {0}, .body = body};
		assert_int_equal(ovm_relax(&f.plan, &f.bad), 0);
		assert_int_equal(f.pieces[0].is_long, body + 2 > 128);
		ovm_vec_free(&f.layout.slots);
	}
}

/* One branch that grows pushes the other out of reach. */
static void cascade(void **state)
{
	struct fixture f;
	(void)state;
	init(&f, 4);
	f.pieces[0] = (struct ovm_piece){.shape = OVM_SHAPE_JCC, .dest = {2}};
	f.pieces[1] = (struct ovm_piece){.shape = OVM_SHAPE_JMP, .dest = {3}, .body = 125};
	f.pieces[2].body = 200;
	assert_int_equal(ovm_relax(&f.plan, &f.bad), 0);
	assert_int_equal(f.pieces[1].is_long, 1);
	assert_int_equal(f.pieces[0].is_long, 1);
	ovm_vec_free(&f.layout.slots);
}

static void originals_are_long(void **state)
{
	struct fixture f;
	(void)state;
	init(&f, 1);
	f.pieces[0] =
	    (struct ovm_piece){.shape = OVM_SHAPE_JCC_JMP, .dest = {OVM_DEST_ORIGINAL, 0}};
	assert_int_equal(ovm_relax(&f.plan, &f.bad), 0);
	assert_int_equal(f.pieces[0].is_long, 1);
	assert_int_equal(ovm_piece_len(&f.pieces[0]), 6 + 2);
	ovm_vec_free(&f.layout.slots);
}

static void alignment_and_cold(void **state)
{
	struct fixture f;
	(void)state;
	init(&f, 4);
	f.pieces[0].body = 5;
	f.layout.slots.v[1].align = 16;
	f.layout.slots.v[1].max_pad = 15;
	f.pieces[1].body = 1;
	f.layout.slots.v[2].align = 16;
	f.layout.slots.v[2].max_pad = 3; /* would need 15 */
	f.pieces[2].body = 1;
	f.pieces[3].body = 7;
	f.layout.n_hot = 3;
	assert_int_equal(ovm_relax(&f.plan, &f.bad), 0);
	assert_int_equal(f.pieces[1].off, 16);
	assert_int_equal(f.pieces[1].pad, 11);
	assert_int_equal(f.pieces[2].off, 17);
	assert_int_equal(f.plan.hot_size, 18);
	assert_int_equal(f.plan.cold_off, 64);
	assert_int_equal(f.pieces[3].off, 64);
	assert_int_equal(f.plan.cold_size, 7);
	ovm_vec_free(&f.layout.slots);
}

static void too_big(void **state)
{
	struct fixture f;
	(void)state;
	init(&f, 2);
	f.pieces[0].body = 1u << 30;
	f.pieces[1].body = 1;
	assert_int_equal(ovm_relax(&f.plan, &f.bad), OVM_REFUSED);
	assert_int_equal(f.bad.cfg, 1);
	assert_int_equal(f.bad.why, OVM_REFUSE_OUT_OF_RANGE);
	ovm_vec_free(&f.layout.slots);
}

static void rel32_limits(void **state)
{
	uint8_t field[4] = {1, 2, 3, 4};
	(void)state;
	assert_true(ovm_fixup_rel32(field, ovm_va_of(0), ovm_va_of(0x7fffffff)));
	assert_memory_equal(field, "\xff\xff\xff\x7f", 4);
	assert_false(ovm_fixup_rel32(field, ovm_va_of(0), ovm_va_of(0x80000000)));
	assert_memory_equal(field, "\xff\xff\xff\x7f", 4);
	assert_true(ovm_fixup_rel32(field, ovm_va_of(0x80000000), ovm_va_of(0)));
	assert_false(ovm_fixup_rel32(field, ovm_va_of(0x80000001), ovm_va_of(0)));
}

static struct ovm_insn load(uint8_t len, uint8_t modrm, uint8_t disp_off, uint8_t disp_len,
			    int32_t disp, uint8_t base)
{
	return (struct ovm_insn){.len = len,
				 .modrm_off = modrm,
				 .disp_off = disp_off,
				 .disp_len = disp_len,
				 .disp = disp,
				 .base = base,
				 .form = OVM_FORM_RM};
}

static void load_without_displacement(void **state)
{
	uint8_t bytes[16] = {0x49, 0x63, 0x04, 0x84}; /* movslq (%r12,%rax,4), %rax */
	struct ovm_insn insn = load(4, 2, 0, 0, 0, OVM_R12);
	(void)state;
	assert_int_equal(ovm_fixup_table_load_len(&insn), 8);
	assert_int_equal(ovm_fixup_table_load(&insn, bytes, 0x11223344), 8);
	assert_memory_equal(bytes, "\x49\x63\x84\x84\x44\x33\x22\x11", 8);
}

static void load_with_disp8(void **state)
{
	uint8_t bytes[16] = {0x49, 0x63, 0x44, 0x85, 0x00}; /* movslq 0(%r13,%rax,4), %rax */
	struct ovm_insn insn = load(5, 2, 4, 1, 0, OVM_R13);
	(void)state;
	assert_int_equal(ovm_fixup_table_load(&insn, bytes, -2), 8);
	assert_memory_equal(bytes, "\x49\x63\x84\x85\xfe\xff\xff\xff", 8);
}

static void load_without_sib(void **state)
{
	uint8_t bytes[16] = {0x48, 0x63,
			     0x02}; /* movslq (%rdx), %rax: the index is already added */
	struct ovm_insn insn = load(3, 2, 0, 0, 0, OVM_RDX);
	(void)state;
	assert_int_equal(ovm_fixup_table_load(&insn, bytes, 1), 7);
	assert_memory_equal(bytes, "\x48\x63\x82\x01\x00\x00\x00", 7);
}

static void load_absolute(void **state)
{
	uint8_t bytes[16] = {0xff, 0x24, 0xc5, 0x00, 0x20, 0x40, 0x00}; /* jmp *0x402000(,%rax,8) */
	struct ovm_insn insn = load(7, 1, 3, 4, 0x402000, OVM_REG_NONE);
	(void)state;
	assert_int_equal(ovm_fixup_table_load(&insn, bytes, 0x10), 7);
	assert_memory_equal(bytes, "\xff\x24\xc5\x10\x20\x40\x00", 7);
	assert_int_equal(ovm_fixup_table_load(&insn, bytes, 0x7fffffff), 0); /* beyond 2 GiB */
	assert_int_equal(ovm_fixup_table_load(&insn, bytes, -0x402001), 0);  /* below 0 */
	assert_int_equal(ovm_fixup_table_load(&insn, bytes, INT64_MIN), 0);
}

static void load_refused(void **state)
{
	uint8_t bytes[16] = {0x48, 0x63, 0x05, 0, 0, 0, 0}; /* movslq 0(%rip), %rax */
	struct ovm_insn insn = load(7, 2, 3, 4, 0, OVM_RIP);
	(void)state;
	insn.flags = OVM_INSN_RIP_REL;
	assert_int_equal(ovm_fixup_table_load(&insn, bytes, 1), 0);
	insn = load(3, 2, 0, 0, 0, OVM_REG_NONE);
	bytes[2] = 0xc0; /* movslq %eax, %rax */
	assert_int_equal(ovm_fixup_table_load(&insn, bytes, 1), 0);
	insn.modrm_off = 0;
	assert_int_equal(ovm_fixup_table_load(&insn, bytes, 1), 0);
}

static void nops(void **state)
{
	uint8_t bytes[32];
	(void)state;
	for (uint32_t n = 0; n <= 20; n++) {
		memset(bytes, 0xaa, sizeof(bytes));
		ovm_fixup_nops(bytes, n);
		assert_int_equal(bytes[n], 0xaa);
		if (n)
			assert_int_not_equal(bytes[n - 1], 0xaa);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nothing),
	    cmocka_unit_test(forward_limit),
	    cmocka_unit_test(backward_limit),
	    cmocka_unit_test(cascade),
	    cmocka_unit_test(originals_are_long),
	    cmocka_unit_test(alignment_and_cold),
	    cmocka_unit_test(too_big),
	    cmocka_unit_test(rel32_limits),
	    cmocka_unit_test(load_without_displacement),
	    cmocka_unit_test(load_with_disp8),
	    cmocka_unit_test(load_without_sib),
	    cmocka_unit_test(load_absolute),
	    cmocka_unit_test(load_refused),
	    cmocka_unit_test(nops),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
