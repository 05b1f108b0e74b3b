/* region.c over small hand-made .eh_frame sections. */
#include "analyzer/image_private.h"
#include "analyzer/region.h"
#include "tests/support/mini_elf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { EH_HDR = 0x600, EH = 0x800, CODE = 0x1000 };
#define EH_VA (MINI_VA + EH)
#define CODE_VA (MINI_VA + CODE)

static struct mini mini;
static struct ovm_ctx ctx;
static struct ovm_image *image;
static struct ovm_regions regions;

static int build(void)
{
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_image_open_bytes(&ctx, mini.v, MINI_SIZE, "mini", &image), 0);
	return ovm_regions_build(&ctx, image, &regions);
}

static void done(void)
{
	ovm_regions_free(&regions);
	ovm_image_close(image);
}

static void fde(struct ovm_buf *buf, uint64_t code, uint32_t size)
{
	mini_fde(buf, EH_VA, 0, code, size, NULL, 0);
}

static void test_none(void **state)
{
	(void)state;
	mini_init(&mini, 0);
	assert_int_equal(build(), OVM_E_FORMAT);
	assert_non_null(strstr(ctx.msg, "no FDEs"));
	ovm_image_close(image);
}

static void test_plain(void **state)
{
	(void)state;
	static const uint8_t prog[] = {0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x48, 0x0c, 7, 8};
	static const uint8_t cold[] = {0x0e, 32, 0x44, 0x0e, 8};
	struct ovm_buf buf = {0};
	ovm_cfi_spans spans = {0};
	mini_init(&mini, 0);
	mini_cie(&buf);
	fde(&buf, CODE_VA + 0x40, 0x10); /* not in order of addresses */
	mini_fde(&buf, EH_VA, 0, CODE_VA, 0x20, prog, sizeof(prog));
	size_t cie = buf.n;
	mini_cie(&buf); /* the same again */
	mini_fde(&buf, EH_VA, cie, CODE_VA + 0x60, 8, cold, sizeof(cold));
	mini_eh_frame(&mini, &buf, EH_HDR, EH);
	assert_int_equal(build(), 0);
	assert_int_equal(regions.v.n, 3);
	assert_int_equal(regions.cfi.cies.n, 1);
	assert_int_equal(regions.cfi.cies.v[0].data_align, -8);
	assert_int_equal(regions.v.v[0].lo.v, CODE_VA);
	assert_int_equal(regions.v.v[0].hi.v, CODE_VA + 0x20);
	assert_false(regions.v.v[0].is_fragment);
	assert_true(regions.v.v[2].is_fragment);

	assert_int_equal(ovm_region_find(&regions, ovm_va_of(CODE_VA - 1)), OVM_NONE);
	assert_int_equal(ovm_region_find(&regions, ovm_va_of(CODE_VA + 0x1f)), 0);
	assert_int_equal(ovm_region_find(&regions, ovm_va_of(CODE_VA + 0x20)), OVM_NONE);
	assert_int_equal(ovm_region_find(&regions, ovm_va_of(CODE_VA + 0x40)), 1);

	assert_int_equal(ovm_region_spans(&regions, image, 0, &spans), 0);
	assert_int_equal(spans.n, 4);
	assert_int_equal(spans.v[1].off, 1);
	assert_int_equal(spans.v[2].off, 4);
	assert_int_equal(spans.v[3].off, 12);
	assert_int_equal(ovm_spans_row(&spans, 0), spans.v[0].row);
	assert_int_equal(ovm_spans_row(&spans, 11), spans.v[2].row);
	assert_int_equal(ovm_spans_row(&spans, 0x1f), spans.v[3].row);
	assert_int_equal(regions.cfi.rows.v[spans.v[2].row].cfa_reg, 6);
	ovm_vec_free(&spans);
	done();
}

static void test_dropped_and_refused(void **state)
{
	(void)state;
	struct ovm_buf buf = {0};
	mini_init(&mini, 0);
	mini_cie(&buf);
	fde(&buf, CODE_VA, 0x20);
	fde(&buf, CODE_VA, 0x20);	  /* duplicate */
	fde(&buf, CODE_VA + 0x80, 0);	  /* empty */
	fde(&buf, CODE_VA + 0x100, 0x40); /* overlaps the next */
	fde(&buf, CODE_VA + 0x110, 0x10);
	fde(&buf, MINI_VA + MINI_SIZE - 4, 8); /* leaves the segment */
	mini_eh_frame(&mini, &buf, EH_HDR, EH);
	assert_int_equal(build(), 0);
	assert_int_equal(regions.v.n, 4);
	assert_int_equal(regions.n_dropped, 2);
	assert_int_equal(regions.v.v[0].refused, OVM_REFUSE_NONE);
	assert_int_equal(regions.v.v[1].refused, OVM_REFUSE_OVERLAP);
	assert_int_equal(regions.v.v[2].refused, OVM_REFUSE_OVERLAP);
	assert_int_equal(regions.v.v[3].refused, OVM_REFUSE_NOT_IN_TEXT);
	assert_int_equal(ctx.n_refused[OVM_REFUSE_OVERLAP], 2);
	/* inside the outer one, behind the inner one */
	assert_int_equal(ovm_region_find(&regions, ovm_va_of(CODE_VA + 0x130)), 1);
	/* refused once */
	ovm_region_refuse(&ctx, &regions, 1, OVM_REFUSE_DECODE);
	assert_int_equal(regions.v.v[1].refused, OVM_REFUSE_OVERLAP);
	assert_int_equal(ctx.n_refused[OVM_REFUSE_DECODE], 0);
	done();
}

static void test_bad_records(void **state)
{
	(void)state;
	struct ovm_buf buf = {0};
	mini_init(&mini, 0);
	mini_cie(&buf);
	fde(&buf, CODE_VA, 0x20);
	size_t bad = buf.n;
	fde(&buf, CODE_VA + 0x20, 0x20); /* names a CIE outside the file */
	ovm_put32(buf.v + bad + 4, 0x7fffffff);
	bad = buf.n;
	mini_cie(&buf); /* unknown letter in the augmentation */
	buf.v[bad + 10] = 'Q';
	mini_fde(&buf, EH_VA, bad, CODE_VA + 0x40, 0x20, NULL, 0);
	fde(&buf, CODE_VA + 0x60, 0x20);
	bad = buf.n;
	fde(&buf, CODE_VA + 0x80, 0x20); /* longer than the section: ends the walk */
	ovm_put32(buf.v + bad, 0x100000);
	mini_eh_frame(&mini, &buf, EH_HDR, EH);
	assert_int_equal(build(), 0);
	assert_int_equal(regions.v.n, 2);
	assert_int_equal(regions.n_dropped, 2);
	assert_int_equal(regions.v.v[1].lo.v, CODE_VA + 0x60);
	done();
}

/* The pointer to .eh_frame leads to a terminator, the table knows better. */
static void test_table_only(void **state)
{
	(void)state;
	struct ovm_buf buf = {0}, hdr = {0};
	size_t fdes[2];
	mini_init(&mini, 0);
	mini_cie(&buf);
	fdes[0] = buf.n;
	fde(&buf, CODE_VA, 0x20);
	fdes[1] = buf.n;
	fde(&buf, CODE_VA + 0x20, 0x20);
	mini_put(&mini, EH, buf.v, buf.n);
	ovm_buf_u32(&hdr, 0x3b031b01); /* version 1, pcrel sdata4, udata4, datarel sdata4 */
	ovm_buf_u32(&hdr, 0x3000 - (EH_HDR + 4));
	ovm_buf_u32(&hdr, 3);
	for (unsigned i = 0; i < 2; i++) {
		ovm_buf_u32(&hdr, CODE + 0x20 * i - EH_HDR);
		ovm_buf_u32(&hdr, (uint32_t)(EH + fdes[i] - EH_HDR));
	}
	ovm_buf_u32(&hdr, 0x100);
	ovm_buf_u32(&hdr, 0x7fffff00); /* nowhere */
	mini_put(&mini, EH_HDR, hdr.v, hdr.n);
	mini_phdr(&mini, PT_GNU_EH_FRAME, PF_R, EH_HDR, hdr.n);
	assert_int_equal(build(), 0);
	assert_int_equal(regions.v.n, 2);
	assert_int_equal(regions.n_dropped, 1);
	assert_int_equal(regions.v.v[1].fde.v, EH_VA + fdes[1]);
	done();
	ovm_buf_free(&buf);
	ovm_buf_free(&hdr);
}

static void test_long_record_and_encodings(void **state)
{
	(void)state;
	/* 64-bit length; "zPLRS", absptr FDE pointers, udata4 LSDA, absptr personality */
	struct ovm_buf buf = {0};
	mini_init(&mini, 0);
	ovm_buf_u32(&buf, UINT32_MAX);
	ovm_buf_u64(&buf, 0);
	ovm_buf_u32(&buf, 0);
	ovm_buf_u8(&buf, 3);
	ovm_buf_put(&buf, "zPLRS", 6);
	ovm_buf_uleb(&buf, 1);
	ovm_buf_sleb(&buf, -4);
	ovm_buf_uleb(&buf, 16);
	ovm_buf_uleb(&buf, 11);
	ovm_buf_u8(&buf, 0x00);
	ovm_buf_u64(&buf, CODE_VA + 0x500);
	ovm_buf_u8(&buf, 0x03);
	ovm_buf_u8(&buf, 0x00);
	ovm_buf_put(&buf, "\x0c\x07\x08", 3);
	ovm_buf_align(&buf, 8, 0);
	ovm_put64(buf.v + 4, buf.n - 12);
	size_t start = buf.n;
	ovm_buf_u32(&buf, 0);
	ovm_buf_u32(&buf, (uint32_t)buf.n);
	ovm_buf_u64(&buf, CODE_VA);
	ovm_buf_u64(&buf, 0x30);
	ovm_buf_uleb(&buf, 4);
	ovm_buf_u32(&buf, 0x1234);
	ovm_buf_align(&buf, 4, 0);
	ovm_put32(buf.v + start, (uint32_t)(buf.n - start - 4));
	mini_eh_frame(&mini, &buf, EH_HDR, EH);
	assert_int_equal(build(), 0);
	assert_int_equal(regions.v.n, 1);
	const struct ovm_region *region = &regions.v.v[0];
	const struct ovm_cie *cie = &regions.cfi.cies.v[region->cie];
	assert_int_equal(region->hi.v, CODE_VA + 0x30);
	assert_int_equal(region->lsda.v, 0x1234);
	assert_int_equal(cie->personality.v, CODE_VA + 0x500);
	assert_int_equal(cie->data_align, -4);
	assert_true(cie->is_signal);
	assert_int_equal(region->refused, OVM_REFUSE_SIGNAL_FRAME);
	done();
}

static void test_names_and_dump(void **state)
{
	(void)state;
	struct ovm_buf buf = {0};
	char name[32], *text = NULL;
	size_t len;
	mini_init(&mini, 0);
	mini_cie(&buf);
	fde(&buf, CODE_VA, 0x20);
	mini_eh_frame(&mini, &buf, EH_HDR, EH);
	assert_int_equal(build(), 0);
	assert_string_equal(ovm_region_name(image, ovm_va_of(CODE_VA), name, sizeof(name)),
			    "0x401000");
	assert_string_equal(ovm_region_name(image, ovm_va_of(CODE_VA), name, 3), "0x");
	FILE *to = open_memstream(&text, &len);
	ovm_regions_dump(image, &regions, to);
	fclose(to);
	assert_string_equal(text, "regions 1 dropped 0\n0x401000 0x401020 0x401000 cie=0\n");
	free(text);
	done();
}

/* Every region of this program: rows can be had, and ranges are sorted and disjoint. */
static void test_own_file(void **state)
{
	(void)state;
	ovm_cfi_spans spans = {0};
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_image_open(&ctx, "/proc/self/exe", &image), 0);
	assert_int_equal(ovm_regions_build(&ctx, image, &regions), 0);
	for (uint32_t i = 0; i < regions.v.n; i++) {
		assert_int_equal(ovm_region_spans(&regions, image, i, &spans), 0);
		assert_int_equal(spans.v[0].off, 0);
		if (i)
			assert_true(regions.v.v[i - 1].hi.v <= regions.v.v[i].lo.v);
	}
	uint32_t own = OVM_NONE;
	for (uint32_t i = 0; i < image->symbols.n; i++) {
		if (!strcmp(image->symbols.v[i].name, "main"))
			own = ovm_region_find(&regions, image->symbols.v[i].va);
	}
	assert_int_not_equal(own, OVM_NONE);
	assert_false(regions.v.v[own].is_fragment);
	ovm_vec_free(&spans);
	done();
}

static void test_damage(void **state)
{
	(void)state;
	static const uint8_t prog[] = {0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x48, 0x0c, 7, 8};
	static struct mini good;
	struct ovm_buf buf = {0};
	uint64_t x = 88172645463325252u;
	ovm_cfi_spans spans = {0};
	mini_init(&mini, 0);
	mini_cie(&buf);
	for (unsigned i = 0; i < 8; i++)
		mini_fde(&buf, EH_VA, 0, CODE_VA + 0x20 * i, 0x20, prog, sizeof(prog));
	size_t n = buf.n;
	mini_eh_frame(&mini, &buf, EH_HDR, EH);
	good = mini;
	for (unsigned round = 0; round < 20000; round++) {
		mini = good;
		for (unsigned k = 0; k < 1 + round % 4; k++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			mini.v[EH + (x >> 8) % n] = (uint8_t)(x >> 40);
		}
		if (build()) {
			ovm_image_close(image);
			continue;
		}
		for (uint32_t i = 0; i < regions.v.n; i++)
			ovm_region_spans(&regions, image, i, &spans);
		done();
	}
	ovm_vec_free(&spans);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_none),
	    cmocka_unit_test(test_plain),
	    cmocka_unit_test(test_dropped_and_refused),
	    cmocka_unit_test(test_bad_records),
	    cmocka_unit_test(test_table_only),
	    cmocka_unit_test(test_long_record_and_encodings),
	    cmocka_unit_test(test_names_and_dump),
	    cmocka_unit_test(test_own_file),
	    cmocka_unit_test(test_damage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
