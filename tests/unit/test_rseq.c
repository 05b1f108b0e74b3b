/* rseq.c over hand-made files: what is believed to be a restartable sequence, and what is not. */
#include "analyzer/image_private.h"
#include "analyzer/rseq.h"
#include "tests/support/mini_elf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { CODE = 0x1000, DATA = 0x2000 };
#define CODE_VA (MINI_VA + CODE)
#define DATA_VA (MINI_VA + DATA)
#define START_VA (CODE_VA + 0x10)
#define ABORT_VA (CODE_VA + 0x80)

static const uint8_t signature[] = {0x53, 0x30, 0x05, 0x53};
static const uint8_t ud1[] = {0x0f, 0xb9, 0x3d, 0x53, 0x30, 0x05, 0x53};
static const uint8_t nopl[] = {0x0f, 0x1f, 0x05, 0x53, 0x30, 0x05, 0x53};
static const uint8_t mov[] = {0x90, 0x41, 0xba, 0x53, 0x30, 0x05, 0x53}; /* mov $sig, %r10d */

static struct mini mini;
static struct ovm_ctx ctx;
static struct ovm_image *image;
static ovm_rseqs found;

/* Code below DATA, writable data from there. */
static void begin(int is_dyn)
{
	mini_init(&mini, is_dyn);
	mini.n_phdrs = 0;
	mini_phdr(&mini, PT_LOAD, PF_R | PF_X, 0, DATA);
	mini_phdr(&mini, PT_LOAD, PF_R | PF_W, DATA, MINI_SIZE - DATA);
}

static void open_image(void)
{
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_image_open_bytes(&ctx, mini.v, MINI_SIZE, "mini", &image), 0);
}

static void descriptor(size_t off, uint64_t start, uint64_t length, uint64_t abort)
{
	ovm_put64(mini.v + off, 0);
	ovm_put64(mini.v + off + 8, start);
	ovm_put64(mini.v + off + 16, length);
	ovm_put64(mini.v + off + 24, abort);
}

static void sign(uint64_t abort)
{
	mini_put(&mini, abort - 4 - MINI_VA, signature, sizeof(signature));
}

static void find(uint32_t n)
{
	open_image();
	ovm_rseq_find(image, &found);
	assert_int_equal(found.n, n);
}

static void done(void)
{
	ovm_vec_free(&found);
	ovm_image_close(image);
}

static void test_nothing(void **state)
{
	(void)state;
	begin(0);
	find(0);
	done();
	begin(1);
	find(0);
	done();
}

static void test_descriptor(void **state)
{
	(void)state;
	static const size_t places[] = {DATA, DATA + 8, DATA + 0x100, MINI_SIZE - 32};
	for (unsigned i = 0; i < 4; i++) {
		begin(0);
		descriptor(places[i], START_VA, 0x20, ABORT_VA);
		sign(ABORT_VA);
		find(2);
		assert_int_equal(found.v[0].lo.v, START_VA);
		assert_int_equal(found.v[0].hi.v, START_VA + 0x20);
		assert_int_equal(found.v[1].lo.v, ABORT_VA - 4);
		assert_int_equal(found.v[1].hi.v, ABORT_VA + 1);
		done();
	}
}

static void test_no_descriptor(void **state)
{
	(void)state;
	static const struct {
		uint64_t start, length, abort;
	} bad[] = {
	    {START_VA, 0, ABORT_VA},	/* empty */
	    {START_VA, 0x71, ABORT_VA}, /* aborts into itself: the kernel says no */
	    {START_VA, DATA, ABORT_VA}, /* leaves the code */
	    {START_VA, UINT64_MAX, ABORT_VA}, {DATA_VA, 0x20, ABORT_VA},
	    {START_VA, 0x20, ABORT_VA + 1},				 /* no signature */
	    {START_VA, 0x20, DATA_VA + 0x80}, {START_VA, 0x20, MINI_VA}, /* nothing before it */
	    {UINT64_MAX, 1, ABORT_VA},
	};
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		begin(0);
		descriptor(DATA + 0x40, bad[i].start, bad[i].length, bad[i].abort);
		sign(ABORT_VA);
		find(0);
		done();
	}
	begin(0);
	descriptor(DATA + 0x40, START_VA, 0x20, ABORT_VA);
	sign(ABORT_VA);
	mini.v[DATA + 0x40] = 1; /* version */
	find(0);
	done();
}

/* In a position-independent file the words are nothing without their relocations. */
static void test_relocated(void **state)
{
	(void)state;
	begin(1);
	descriptor(DATA + 0x40, START_VA, 0x20, ABORT_VA);
	sign(ABORT_VA);
	find(0);
	done();
	begin(1);
	descriptor(DATA + 0x40, 0, 0x20, 0);
	sign(ABORT_VA);
	open_image();
	for (unsigned i = 0; i < 2; i++)
		ovm_vec_push(&image->relocs,
			     (struct ovm_reloc){.at = ovm_va_of(DATA_VA + 0x48 + 16 * i),
						.type = R_X86_64_RELATIVE,
						.addend = (int64_t)(i ? ABORT_VA : START_VA)});
	ovm_rseq_find(image, &found);
	assert_int_equal(found.n, 2);
	assert_int_equal(found.v[0].lo.v, START_VA);
	ovm_vec_free(&found);
	image->relocs.v[1].type = R_X86_64_GLOB_DAT; /* depends on other files */
	ovm_rseq_find(image, &found);
	assert_int_equal(found.n, 0);
	done();
}

/* What a section names needs no signature; pointers may lead anywhere. */
static void test_sections(void **state)
{
	(void)state;
	begin(0);
	descriptor(DATA + 0x40, START_VA, 0x20, ABORT_VA);
	descriptor(DATA + 0x80, START_VA + 0x30, 0x10, ABORT_VA);
	ovm_put64(mini.v + DATA + 0xc0, DATA_VA + 0x80);
	ovm_put64(mini.v + DATA + 0xc8, UINT64_MAX);
	open_image();
	ovm_rseq_find(image, &found);
	assert_int_equal(found.n, 0);
	image->rseq_cs = ovm_va_of(DATA_VA + 0x40);
	image->rseq_cs_size = 32 + 31;
	ovm_rseq_find(image, &found);
	assert_int_equal(found.n, 2);
	ovm_vec_free(&found);
	image->rseq_cs_size = 31;
	image->rseq_ptrs = ovm_va_of(DATA_VA + 0xc0);
	image->rseq_ptrs_size = 16;
	ovm_rseq_find(image, &found);
	assert_int_equal(found.n, 2);
	assert_int_equal(found.v[0].lo.v, START_VA + 0x30);
	done();
}

static void test_signatures(void **state)
{
	(void)state;
	/* wherever it begins, whatever carries it; the handler's jump leads to the sequence */
	for (size_t off = CODE; off < CODE + 70; off++) {
		begin(1);
		mini_put(&mini, off, off & 1 ? ud1 : nopl, 7);
		mini.v[off + 7] = 0xe9;
		ovm_put32(mini.v + off + 8, 0x100 - 5);
		find(2);
		assert_int_equal(found.v[0].lo.v, MINI_VA + off + 3);
		assert_int_equal(found.v[1].lo.v, MINI_VA + off + 7 + 0x100);
		done();
	}
	begin(1);
	mini_put(&mini, CODE, mov, 7); /* the constant */
	mini_put(&mini, CODE + 0x20, signature, 4);
	mini_put(&mini, DATA + 0x20, ud1, 7); /* no code */
	find(0);
	done();
	begin(1);
	mini_put(&mini, DATA - 7, ud1,
		 7); /* the last bytes of the code: nobody can abort to behind it */
	mini_put(&mini, CODE, ud1, 7);
	mini.v[CODE + 7] = 0xeb;
	mini.v[CODE + 8] = 0x80; /* backwards */
	find(3);
	assert_int_equal(found.v[0].lo.v, MINI_VA + CODE + 9 - 0x80);
	done();
}

/* Sorted, disjoint, however often and crosswise a file says it. */
static void test_merged(void **state)
{
	(void)state;
	begin(0);
	sign(ABORT_VA);
	for (unsigned i = 0; i < 16; i++)
		descriptor(DATA + 32 * i, START_VA + 2 * (15 - i), 4, ABORT_VA);
	descriptor(DATA + 32 * 16, START_VA, 1, ABORT_VA);
	find(2);
	assert_int_equal(found.v[0].lo.v, START_VA);
	assert_int_equal(found.v[0].hi.v, START_VA + 34);
	done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_nothing),	  cmocka_unit_test(test_descriptor),
	    cmocka_unit_test(test_no_descriptor), cmocka_unit_test(test_relocated),
	    cmocka_unit_test(test_sections),	  cmocka_unit_test(test_signatures),
	    cmocka_unit_test(test_merged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
