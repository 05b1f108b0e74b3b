/* What is live where: straight code, branches, loops, calls, partial writes. */
#include "analyzer/liveness.h"
#include "tests/support/selfexe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define BIT(r) (1u << OVM_##r)

ASM_FUNCTION("lv_straight", "mov %edi,%eax\nadd %esi,%eax\nmov $1,%r11d\nret\n");
ASM_FUNCTION("lv_flags", "cmp %esi,%edi\nlea 1(%rdi),%r10\nje 1f\nmov $1,%r10d\nret\n1: ret\n");
ASM_FUNCTION(
    "lv_loop",
    "xor %r10d,%r10d\n1: add $1,%r10d\ncmp %r11d,%r10d\njne 1b\nmov $0,%r10d\nmov $0,%r11d\nret\n");
ASM_FUNCTION("lv_partial", "mov $1,%r10b\nmov $0,%r11d\nret\n");
ASM_FUNCTION("lv_call", "mov $1,%r10d\ncmp %edi,%esi\ncall lv_partial\nret\n");
ASM_FUNCTION("lv_exit", "cmp %edi,%esi\nmov $0,%r10d\njmp lv_partial\n");

static struct self self;
static uint32_t live[16];

static int setup(void **state)
{
	(void)state;
	self_open(&self);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	self_close(&self);
	return 0;
}

static struct ovm_cfg *analyze(const char *name)
{
	struct ovm_cfg *cfg = self_cfg(&self, name);
	assert_non_null(cfg);
	assert_true(cfg->n_blocks <= 16);
	ovm_liveness(cfg, live);
	return cfg;
}

static void test_straight(void **state)
{
	(void)state;
	struct ovm_cfg *cfg = analyze("lv_straight");
	assert_int_equal(live[0] & (BIT(RAX) | BIT(R11)), 0);
	assert_int_equal(live[0] & (BIT(RDI) | BIT(RSI)), BIT(RDI) | BIT(RSI));
	assert_int_equal(live[0] & OVM_MASK_FLAGS, 0);
	assert_int_equal(ovm_live_before(cfg, live, 0, 1) & BIT(RAX), BIT(RAX));
	assert_int_equal(ovm_live_before(cfg, live, 0, 0), live[0]);
	assert_int_equal(ovm_live_before(cfg, live, 0, 3), OVM_MASK_GPRS);
	ovm_cfg_free(cfg);
}

static void test_flags(void **state)
{
	(void)state;
	struct ovm_cfg *cfg = analyze("lv_flags");
	assert_int_equal(live[0] & OVM_MASK_FLAGS, 0);
	assert_int_equal(ovm_live_before(cfg, live, 0, 1) & OVM_MASK_FLAGS, OVM_MASK_FLAGS);
	assert_int_equal(live[1] & BIT(R10), 0);
	assert_int_equal(live[2] & BIT(R10), BIT(R10));
	assert_int_equal(live[2] & OVM_MASK_FLAGS, 0);
	ovm_cfg_free(cfg);
}

static void test_loop(void **state)
{
	(void)state;
	struct ovm_cfg *cfg = analyze("lv_loop");
	assert_int_equal(live[0] & (BIT(R10) | BIT(R11)), BIT(R11));
	assert_int_equal(live[1] & (BIT(R10) | BIT(R11)), BIT(R10) | BIT(R11));
	assert_int_equal(live[2] & (BIT(R10) | BIT(R11)), 0);
	ovm_cfg_free(cfg);
}

static void test_partial_call_exit(void **state)
{
	(void)state;
	struct ovm_cfg *cfg = analyze("lv_partial");
	assert_int_equal(live[0] & (BIT(R10) | BIT(R11)), BIT(R10));
	ovm_cfg_free(cfg);
	cfg = analyze("lv_call");
	assert_int_equal(live[0] & BIT(R10), 0);
	assert_int_equal(ovm_live_before(cfg, live, 0, 2), OVM_MASK_GPRS); /* all but flags */
	ovm_cfg_free(cfg);
	cfg = analyze("lv_exit");
	assert_int_equal(live[0] & BIT(R10), 0);
	assert_int_equal(ovm_live_before(cfg, live, 0, 2), OVM_MASK_ALL);
	ovm_cfg_free(cfg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_straight), cmocka_unit_test(test_flags),
	    cmocka_unit_test(test_loop), cmocka_unit_test(test_partial_call_exit)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
