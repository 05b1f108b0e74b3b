/* lsda.c: hand-made exception tables, good and hostile. */
#include "analyzer/cfi.h"
#include "analyzer/image_private.h"
#include "tests/support/mini_elf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { LSDA = 0x800, SIZE = 0x100 };
#define CODE_VA (MINI_VA + 0x1000)
#define LSDA_VA ovm_va_of(MINI_VA + LSDA)

static struct mini mini;
static struct ovm_image *image;
static struct ovm_lsda lsda;

static int parse(const uint8_t *p, size_t n)
{
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	mini_init(&mini, 0);
	mini_put(&mini, LSDA, p, n);
	assert_int_equal(ovm_image_open_bytes(&ctx, mini.v, MINI_SIZE, "mini", &image), 0);
	lsda = (struct ovm_lsda){0};
	int ret = ovm_lsda_parse(image, LSDA_VA, ovm_va_of(CODE_VA), SIZE, &lsda);
	if (ret) {
		assert_null(lsda.sites.v); /* out-parameters are written only on success */
		ovm_image_close(image);
	}
	return ret;
}
#define PARSE(...) parse((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void done(void)
{
	ovm_lsda_fini(&lsda);
	ovm_image_close(image);
}

static void test_sites(void **state)
{
	(void)state;
	/* LPStart and types omitted, uleb call sites: [0x10,0x14) -> 0x80; [0x20,0x28) none */
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 9, 0x10, 4, 0x80, 1, 0, 0x20, 8, 0, 0), 0);
	assert_int_equal(lsda.sites.n, 2);
	assert_int_equal(lsda.lp_start.v, CODE_VA);
	assert_int_equal(lsda.type_enc, 0xff);
	assert_int_equal(lsda.actions_len, 0);
	assert_null(ovm_lsda_site(&lsda, 0xf));
	assert_int_equal(ovm_lsda_site(&lsda, 0x10)->landing, 0x80);
	assert_int_equal(ovm_lsda_site(&lsda, 0x13)->landing, 0x80);
	assert_null(ovm_lsda_site(&lsda, 0x14));
	assert_int_equal(ovm_lsda_site(&lsda, 0x27)->landing, 0);
	assert_null(ovm_lsda_site(&lsda, 0x28));
	done();
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 0), 0); /* no call sites: everything terminates */
	assert_int_equal(lsda.sites.n, 0);
	assert_null(ovm_lsda_site(&lsda, 0));
	done();
}

static void test_actions_types_filters(void **state)
{
	(void)state;
	/* udata4 types; call site with action 1: record (2, next +1) -> (1, 0); call site 2 with
	 * action 5: filter -1 */
	static const uint8_t bytes[] = {
	    0xff, 0x03, 27, 0x01, 8, /* type base at 3 + 27 = 30 */
	    0,	  4,	1,  1,	     /* [0,4) -> 1, action 1 */
	    4,	  4,	2,  5,	     /* [4,8) -> 2, action 5 */
	    2,	  1,	1,  0,	     /* at 13: type 2, next; type 1, end */
	    0x7f, 0,		     /* filter -1, end */
	    0,	  0,	0,	     /* padding up to the types */
	    0x33, 0x33, 0,  0,	     /* type 2 */
	    0,	  0,	0,  0,	     /* type 1: catch-all */
	    2,	  1,	0,	     /* filter -1: types 2 and 1 */
	};
	assert_int_equal(parse(bytes, sizeof(bytes)), 0);
	assert_int_equal(lsda.actions_len, 6);
	assert_ptr_equal(lsda.actions, mini.v + LSDA + 13);
	assert_int_equal(lsda.types.n, 2);
	assert_int_equal(lsda.types.v[0].v, 0);
	assert_int_equal(lsda.types.v[1].v, 0x3333);
	assert_ptr_equal(lsda.filters, mini.v + LSDA + 30);
	assert_int_equal(lsda.filters_len, 3);
	done();
}

static void test_lp_start(void **state)
{
	(void)state;
	/* pcrel sdata4 LPStart at LSDA+1 */
	uint8_t bytes[] = {0x1b, 0, 0, 0, 0, 0xff, 0x03, 13, 8, 0, 0,
			   0,	 4, 0, 0, 0, 0x40, 0,	 0,  0, 0};
	ovm_put32(bytes + 1, 0x2000 - LSDA - 1);
	assert_int_equal(parse(bytes, sizeof(bytes)), 0);
	assert_int_equal(lsda.lp_start.v, MINI_VA + 0x2000);
	assert_int_equal(lsda.sites.v[0].lo, 8);
	assert_int_equal(lsda.sites.v[0].landing, 0x40);
	done();
}

static void test_refused(void **state)
{
	(void)state;
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 0xff, 0xff, 0x7f),
			 OVM_REFUSED); /* table beyond the file */
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 4, 0xff, 1, 2, 0, 0),
			 OVM_REFUSED); /* call site beyond the code */
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 8, 8, 4, 0, 0, 4, 4, 0, 0),
			 OVM_REFUSED); /* not ascending */
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 8, 0, 8, 0, 0, 4, 4, 0, 0),
			 OVM_REFUSED);					       /* overlapping */
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 3, 0, 8, 0, 0), OVM_REFUSED); /* record cut */
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 6, 0, 8, 0xff, 0xff, 3, 0),
			 OVM_REFUSED); /* landing pad outside */
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 4, 0, 8, 1, 1, 1, 0),
			 OVM_REFUSED); /* a type, but no types */
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 4, 0, 8, 1, 1, 0, 0x7f),
			 OVM_REFUSED); /* chain in a circle */
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 4, 0, 8, 1, 1, 0, 0x40),
			 OVM_REFUSED); /* chain before the table */
	assert_int_equal(PARSE(0xff, 0x03, 8, 0x01, 4, 0, 8, 1, 1, 9, 0),
			 OVM_REFUSED); /* types reach into actions */
	assert_int_equal(PARSE(0xff, 0x03, 8, 0x1b, 4, 0, 8, 1, 1, 0, 0),
			 OVM_REFUSED); /* relative call sites */
	assert_int_equal(PARSE(0xff, 0x03, 0xff, 0xff, 0x7f, 1, 0),
			 OVM_REFUSED); /* type base outside */
	assert_int_equal(PARSE(0xff, 0xff, 0x01, 0), 0);
	assert_int_equal(ovm_lsda_parse(image, ovm_va_of(0), ovm_va_of(CODE_VA), SIZE, &lsda),
			 OVM_REFUSED);
	ovm_va last = ovm_va_of(MINI_VA + MINI_SIZE - 3); /* no room for a head */
	assert_int_equal(ovm_lsda_parse(image, last, ovm_va_of(CODE_VA), SIZE, &lsda), OVM_REFUSED);
	done();
}

static void test_damage(void **state)
{
	(void)state;
	static const uint8_t good[] = {0xff, 0x03, 27, 0x01, 8, 0, 4,	 1, 1, 4, 4,
				       2,    5,	   2,  1,    1, 0, 0x7f, 0, 0, 0, 0,
				       0x33, 0x33, 0,  0,    0, 0, 0,	 0, 2, 1, 0};
	uint64_t x = 88172645463325252u;
	for (unsigned round = 0; round < 20000; round++) {
		uint8_t bytes[sizeof(good)];
		memcpy(bytes, good, sizeof(good));
		for (unsigned k = 0; k < 1 + round % 3; k++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			bytes[(x >> 8) % sizeof(good)] = (uint8_t)(x >> 40);
		}
		if (!parse(bytes, sizeof(bytes)))
			done();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sites),    cmocka_unit_test(test_actions_types_filters),
	    cmocka_unit_test(test_lp_start), cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_damage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
