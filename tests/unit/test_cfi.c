/* cfi.c: every operation, the limits, numbers and encoded pointers. */
#include "analyzer/cfi.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct ovm_cfi cfi;
static ovm_cfi_spans spans;
static const struct ovm_cie cie = {
    .code_align = 1, .data_align = -8, .ra_reg = 16, .fde_enc = 0x1b};
#define CODE_VA UINT64_C(0x1000)

static uint32_t first_row(void)
{
	struct ovm_cfi_row row = {.cfa_reg = 7, .cfa_off = 8};
	row.reg[16] = (struct ovm_cfi_rule){.kind = OVM_CFI_OFFSET, .off = -8};
	return ovm_cfi_intern(&cfi, &row);
}

static int setup(void **state)
{
	(void)state;
	ovm_cfi_init(&cfi);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ovm_cfi_fini(&cfi);
	ovm_vec_free(&spans);
	return 0;
}

static int run(const uint8_t *prog, size_t len, uint64_t code_len)
{
	spans.n = 0;
	return ovm_cfi_run(&cfi, &cie, prog, len, ovm_va_of(0x5000), ovm_va_of(CODE_VA), code_len,
			   first_row(), &spans);
}
#define RUN(code_len, ...)                                                                         \
	run((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), code_len)

static const struct ovm_cfi_row *row(uint32_t span)
{
	assert_true(span < spans.n);
	return &cfi.rows.v[spans.v[span].row];
}

static void test_empty(void **state)
{
	(void)state;
	assert_int_equal(run(NULL, 0, 100), 0);
	assert_int_equal(spans.n, 1);
	assert_int_equal(spans.v[0].off, 0);
	assert_int_equal(spans.v[0].row, first_row());
	assert_int_equal(RUN(100, 0, 0, 0), 0); /* nops */
	assert_int_equal(spans.n, 1);
}

static void test_prologue(void **state)
{
	(void)state;
	/* push %rbp; mov %rsp,%rbp; ...; leave */
	assert_int_equal(
	    RUN(32, 0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x02, 10, 0x0c, 7, 8, 0xc6), 0);
	assert_int_equal(spans.n, 4);
	assert_int_equal(row(1)->cfa_off, 16);
	assert_int_equal(row(1)->reg[6].kind, OVM_CFI_OFFSET);
	assert_int_equal(row(1)->reg[6].off, -16);
	assert_int_equal(row(2)->cfa_reg, 6);
	assert_int_equal(spans.v[3].off, 14);
	assert_int_equal(spans.v[3].row, spans.v[0].row); /* interned */
}

static void test_spans_collapse(void **state)
{
	(void)state;
	/* a change that is taken back, an advance by zero, an advance without change */
	assert_int_equal(RUN(32, 0x41, 0x0e, 16, 0x40, 0x0e, 8, 0x42, 0x42, 0x0e, 24), 0);
	assert_int_equal(spans.n, 2);
	assert_int_equal(spans.v[1].off, 5);
	assert_int_equal(row(1)->cfa_off, 24);
	/* a row that begins where the code ends is none */
	assert_int_equal(RUN(5, 0x45, 0x0e, 16), 0);
	assert_int_equal(spans.n, 1);
}

static void test_remember(void **state)
{
	(void)state;
	assert_int_equal(
	    RUN(32, 0x41, 0x0e, 16, 0x2e, 5, 0x0a, 0x41, 0x0e, 64, 0x2e, 9, 0x41, 0x0b), 0);
	assert_int_equal(spans.n, 4);
	assert_int_equal(row(3)->cfa_off, 16);
	assert_int_equal(row(3)->args_size, 9); /* not part of the remembered state */
}

static void test_every_rule(void **state)
{
	(void)state;
	assert_int_equal(RUN(1, 0x05, 3, 2), 0); /* offset_extended rbx, 2 */
	assert_int_equal(row(0)->reg[3].off, -16);
	assert_int_equal(RUN(1, 0x11, 3, 0x7e), 0); /* offset_extended_sf rbx, -2 */
	assert_int_equal(row(0)->reg[3].off, 16);
	assert_int_equal(RUN(1, 0x2f, 3, 2), 0); /* GNU_negative_offset_extended */
	assert_int_equal(row(0)->reg[3].off, 16);
	assert_int_equal(RUN(1, 0x14, 3, 2), 0); /* val_offset */
	assert_int_equal(row(0)->reg[3].kind, OVM_CFI_VAL_OFFSET);
	assert_int_equal(row(0)->reg[3].off, -16);
	assert_int_equal(RUN(1, 0x15, 3, 0x7e), 0); /* val_offset_sf */
	assert_int_equal(row(0)->reg[3].off, 16);
	assert_int_equal(RUN(1, 0x07, 3, 0x08, 4, 0x09, 5, 6), 0);
	assert_int_equal(row(0)->reg[3].kind, OVM_CFI_UNDEFINED);
	assert_int_equal(row(0)->reg[4].kind, OVM_CFI_SAME);
	assert_int_equal(row(0)->reg[5].kind, OVM_CFI_REGISTER);
	assert_int_equal(row(0)->reg[5].off, 6);
	assert_int_equal(RUN(1, 0x10, 3, 2, 0x77, 0, 0x16, 4, 1, 0x30), 0);
	assert_int_equal(row(0)->reg[3].kind, OVM_CFI_EXPR);
	assert_int_equal(row(0)->reg[3].expr_len, 2);
	assert_int_equal(row(0)->reg[4].kind, OVM_CFI_VAL_EXPR);
	assert_int_equal(RUN(1, 0x0f, 2, 0x77, 8), 0); /* def_cfa_expression */
	assert_int_equal(row(0)->cfa_reg, OVM_NONE);
	assert_int_equal(row(0)->cfa_expr_len, 2);
	assert_int_equal(RUN(1, 0x12, 6, 0x7e), 0); /* def_cfa_sf rbp, -2 */
	assert_int_equal(row(0)->cfa_off, 16);
	assert_int_equal(RUN(1, 0x13, 0x7e), 0); /* def_cfa_offset_sf -2 */
	assert_int_equal(row(0)->cfa_off, 16);
	assert_int_equal(RUN(1, 0x90, 3, 0xd0), 0); /* offset ra; restore ra */
	assert_int_equal(spans.v[0].row, first_row());
	assert_int_equal(RUN(1, 0x90, 3, 0x06, 16), 0); /* restore_extended ra */
	assert_int_equal(spans.v[0].row, first_row());
}

static void test_advances(void **state)
{
	(void)state;
	assert_int_equal(
	    RUN(0x20000, 0x02, 2, 0x0e, 16, 0x03, 0, 1, 0x0e, 24, 0x04, 0, 0, 1, 0, 0x0e, 32), 0);
	assert_int_equal(spans.v[1].off, 2);
	assert_int_equal(spans.v[2].off, 0x102);
	assert_int_equal(spans.v[3].off, 0x10102);
	/* set_loc, pcrel sdata4: the operand stands at 0x5001 */
	int32_t disp = (int32_t)(CODE_VA + 7) - 0x5001;
	uint8_t prog[] = {0x01, 0, 0, 0, 0, 0x0e, 16};
	ovm_put32(prog + 1, (uint32_t)disp);
	assert_int_equal(run(prog, sizeof(prog), 16), 0);
	assert_int_equal(spans.v[1].off, 7);
	ovm_put32(prog + 1, (uint32_t)disp - 20); /* backwards */
	assert_int_equal(run(prog, sizeof(prog), 16), OVM_REFUSED);
}

static void test_refused(void **state)
{
	(void)state;
	uint8_t deep[100];
	memset(deep, 0x0a, sizeof(deep));
	assert_int_equal(RUN(1, 0x3f), OVM_REFUSED);	   /* unknown */
	assert_int_equal(RUN(1, 0x2d), OVM_REFUSED);	   /* another machine's */
	assert_int_equal(RUN(1, 0x0b), OVM_REFUSED);	   /* nothing remembered */
	assert_int_equal(RUN(4, 0x45), OVM_REFUSED);	   /* beyond the code */
	assert_int_equal(RUN(1, 0x0e), OVM_REFUSED);	   /* operand missing */
	assert_int_equal(RUN(1, 0x0e, 0x80), OVM_REFUSED); /* operand cut */
	assert_int_equal(RUN(1, 0x04, 1, 2, 3), OVM_REFUSED);
	assert_int_equal(RUN(1, 0x91, 1), OVM_REFUSED); /* register 17 */
	assert_int_equal(RUN(1, 0x05, 17, 1), OVM_REFUSED);
	assert_int_equal(RUN(1, 0x0f, 2, 0), OVM_REFUSED);	    /* expression cut */
	assert_int_equal(RUN(1, 0x0f, 1, 0, 0x0d, 6), OVM_REFUSED); /* register of an expression */
	assert_int_equal(run(deep, sizeof(deep), 1), OVM_REFUSED);
	assert_int_equal(spans.n, 0);
	assert_int_equal(RUN(9, 0x44, 0x0e, 16, 0x46),
			 OVM_REFUSED); /* earlier spans are taken back */
	assert_int_equal(spans.n, 0);
}

static void test_first_row(void **state)
{
	(void)state;
	struct ovm_cie mine = cie;
	struct ovm_cfi_row out;
	static const uint8_t prog[] = {0x0e, 32, 0x41, 0x3f};
	mine.initial_row = first_row();
	assert_int_equal(
	    ovm_cfi_first_row(&cfi, &mine, prog, sizeof(prog), ovm_va_of(0), ovm_va_of(0), &out),
	    0);
	assert_int_equal(out.cfa_off, 32);
	assert_int_equal(ovm_cfi_first_row(&cfi, &mine, NULL, 0, ovm_va_of(0), ovm_va_of(0), &out),
			 0);
	assert_int_equal(out.cfa_off, 8);
	assert_int_equal(
	    ovm_cfi_first_row(&cfi, &mine, prog + 3, 1, ovm_va_of(0), ovm_va_of(0), &out),
	    OVM_REFUSED);
}

static void test_intern_many(void **state)
{
	(void)state;
	struct ovm_cfi_row r = {.cfa_reg = 7};
	for (uint32_t round = 0; round < 2; round++) {
		for (uint32_t i = 0; i < 5000; i++) {
			r.cfa_off = i;
			assert_int_equal(ovm_cfi_intern(&cfi, &r), i);
		}
	}
	/* expressions count by content */
	static const uint8_t a[] = {1, 2, 3}, b[] = {1, 2, 3}, c[] = {1, 2, 4};
	r.cfa_reg = OVM_NONE;
	r.cfa_expr_len = 3;
	r.cfa_expr = a;
	uint32_t id = ovm_cfi_intern(&cfi, &r);
	r.cfa_expr = b;
	assert_int_equal(ovm_cfi_intern(&cfi, &r), id);
	r.cfa_expr = c;
	assert_int_not_equal(ovm_cfi_intern(&cfi, &r), id);
}

static bool encoded(uint8_t enc, const char *bytes, size_t n, uint64_t *value, size_t *used)
{
	const uint8_t *p = (const uint8_t *)bytes;
	bool ok = ovm_cfi_read_encoded(&p, p + n, enc, ovm_va_of(0x1003), ovm_va_of(0x2000), value);
	*used = (size_t)(p - (const uint8_t *)bytes);
	return ok;
}

static void test_encoded(void **state)
{
	(void)state;
	uint64_t v;
	size_t used;
	assert_true(encoded(0x00, "\1\0\0\0\0\0\0\0", 8, &v, &used) && v == 1 && used == 8);
	assert_true(encoded(0x0b, "\xff\xff\xff\xff", 4, &v, &used) && v == UINT64_MAX);
	assert_true(encoded(0x03, "\xff\xff\xff\xff", 4, &v, &used) && v == UINT32_MAX);
	assert_true(encoded(0x0a, "\xfe\xff", 2, &v, &used) && v == UINT64_MAX - 1 && used == 2);
	assert_true(encoded(0x1b, "\xff\xff\xff\xff", 4, &v, &used) && v == 0x1002);
	assert_true(encoded(0x9b, "\1\0\0\0", 4, &v, &used) &&
		    v == 0x1004); /* indirect: the slot */
	assert_true(encoded(0x3b, "\1\0\0\0", 4, &v, &used) && v == 0x2001);
	assert_true(encoded(0x1b, "\0\0\0\0", 4, &v, &used) && v == 0); /* zero stays zero */
	assert_true(encoded(0x01, "\x81\1", 2, &v, &used) && v == 129 && used == 2);
	assert_true(encoded(0x09, "\x7f", 1, &v, &used) && v == UINT64_MAX);
	assert_true(encoded(0x50, "?????\7\0\0\0\0\0\0\0", 13, &v, &used) && v == 7 && used == 13);
	assert_false(encoded(0xff, "\1\0\0\0\0\0\0\0", 8, &v, &used));
	assert_false(encoded(0x00, "\1\0\0\0\0\0\0", 7, &v, &used));
	assert_int_equal(used, 0);
	assert_false(encoded(0x05, "\1\0\0\0\0\0\0\0", 8, &v, &used));
	assert_false(encoded(0x40, "\1\0\0\0\0\0\0\0", 8, &v, &used));
	assert_false(encoded(0x01, "\x80", 1, &v, &used));
}

static void test_leb(void **state)
{
	(void)state;
	static const uint8_t max[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1};
	static const uint8_t over[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2};
	static const uint8_t least[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f};
	static const uint8_t padded[] = {0x81, 0x80, 0x80, 0x80, 0x80, 0x80,
					 0x80, 0x80, 0x80, 0x80, 0x80, 0};
	const uint8_t *p = max;
	uint64_t u;
	int64_t s;
	assert_true(ovm_cfi_uleb(&p, max + sizeof(max), &u) && u == UINT64_MAX);
	p = over;
	assert_false(ovm_cfi_uleb(&p, over + sizeof(over), &u));
	p = padded;
	assert_true(ovm_cfi_uleb(&p, padded + sizeof(padded), &u) && u == 1);
	p = least;
	assert_true(ovm_cfi_sleb(&p, least + sizeof(least), &s) && s == INT64_MIN);
	p = least;
	assert_false(ovm_cfi_sleb(&p, least, &s));
}

static void test_copy_rows(void **state)
{
	static const uint32_t sizes[] = {0, 1, 127, 128, 129, 257, 5000};
	(void)state;
	for (unsigned k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
		struct ovm_cfi from, to;
		struct ovm_cfi_row row = {.cfa_reg = 7};
		ovm_cfi_init(&from);
		ovm_cfi_init(&to);
		for (uint32_t i = 0; i < sizes[k]; i++, row.cfa_off += 8)
			assert_int_equal(ovm_cfi_intern(&from, &row), i);
		ovm_cfi_copy_rows(&to, &from);
		assert_int_equal(ovm_cfi_intern(&to, &row), sizes[k]); /* a new one */
		for (uint32_t i = sizes[k]; i-- > 0;) {
			row.cfa_off -= 8;
			assert_int_equal(ovm_cfi_intern(&to, &row), i);
		}
		assert_int_equal(from.rows.n, sizes[k]);
		ovm_cfi_fini(&from);
		ovm_cfi_fini(&to);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_empty),	 TEST(test_prologue),	TEST(test_spans_collapse),
	    TEST(test_remember), TEST(test_every_rule), TEST(test_advances),
	    TEST(test_refused),	 TEST(test_first_row),	TEST(test_intern_many),
	    TEST(test_encoded),	 TEST(test_leb),	TEST(test_copy_rows),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
