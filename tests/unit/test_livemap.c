#include "runtime/codemem.h"
#include "runtime/livemap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static const char sample[] =
    "5555-5556 broken\n"
    "00400000-00401000 r--p 00000000 fe:00 77                                 /bin/prog\n"
    "00401000-00403000 r-xp 00001000 fe:00 77                                 /bin/prog with "
    "space\n"
    "00403000-00404000 rw-s 00000000 00:00 0 \n"
    "7ffee785d000-7ffee787e000 rw-p 00000000 00:00 0                          [stack]\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]";

static void test_parse(void **state)
{
	(void)state;
	struct ovm_livemap map;
	ovm_livemap_parse(sample, sizeof(sample) - 1, &map);
	assert_int_equal(map.ranges.n, 5);
	const struct ovm_live_range *r = &map.ranges.v[1];
	assert_int_equal(r->lo.v, 0x401000);
	assert_int_equal(r->hi.v, 0x403000);
	assert_int_equal(r->off, 0x1000);
	assert_int_equal(r->inode, 77);
	assert_int_equal(r->major, 0xfe);
	assert_int_equal(r->prot, OVM_PROT_R | OVM_PROT_X);
	assert_string_equal(r->path, "/bin/prog with space");
	assert_false(map.ranges.v[2].is_private);
	assert_string_equal(map.ranges.v[2].path, "");
	assert_int_equal(map.ranges.v[4].lo.v, 0xffffffffff600000);
	assert_ptr_equal(ovm_livemap_range(&map, ovm_rta_of(0x402fff)), r);
	assert_null(ovm_livemap_range(&map, ovm_rta_of(0x404000)));
	assert_true(ovm_livemap_covers(&map, ovm_rta_of(0x401000), ovm_rta_of(0x403000),
				       OVM_PROT_R | OVM_PROT_X, 77));
	assert_false(ovm_livemap_covers(&map, ovm_rta_of(0x400000), ovm_rta_of(0x403000),
					OVM_PROT_R | OVM_PROT_X, 77));
	assert_false(ovm_livemap_covers(&map, ovm_rta_of(0x403000), ovm_rta_of(0x404000),
					OVM_PROT_R | OVM_PROT_W, 0));
	ovm_livemap_fini(&map);
}

static void test_parse_nothing(void **state)
{
	(void)state;
	struct ovm_livemap map;
	ovm_livemap_parse("", 0, &map);
	assert_int_equal(map.ranges.n, 0);
	ovm_livemap_fini(&map);
	ovm_livemap_parse("\n\n-\nff", 7, &map);
	assert_int_equal(map.ranges.n, 0);
	ovm_livemap_modules(&map, getpid());
	assert_int_equal(map.modules.n, 0);
	ovm_livemap_fini(&map);
}

/* Our own process: this function lies in a module whose file says so. */
static void test_self(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	struct ovm_livemap map;
	assert_int_equal(ovm_livemap_read(&ctx, getpid(), &map), 0);
	ovm_livemap_modules(&map, getpid());
	ovm_rta here = {(uint64_t)(uintptr_t)test_self};
	const struct ovm_live_module *exe = ovm_livemap_module(&map, here);
	assert_non_null(exe);
	assert_true(exe->is_exe);
	assert_true(exe->segments.n >= 2);
	uint32_t n_exe = 0;
	for (uint32_t i = 0; i < map.modules.n; i++)
		n_exe += map.modules.v[i].is_exe;
	assert_int_equal(n_exe, 1);
	struct ovm_live_need needs[2] = {
	    {.lo = {here.v & ~4095ull}, .hi = {(here.v & ~4095ull) + 4096}, .inode = exe->inode}};
	assert_true(ovm_livemap_still(getpid(), needs, 1));
	needs[1] = (struct ovm_live_need){.lo = {4096}, .hi = {8192}};
	assert_false(ovm_livemap_still(getpid(), needs, 2));
	ovm_livemap_fini(&map);
}

static void test_gone(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	struct ovm_livemap map;
	assert_int_equal(ovm_livemap_read(&ctx, 0x7ffffff0, &map), OVM_E_GONE);
}

/* --- places
 * -------------------------------------------------------------------------------------------------
 */

static ovm_rta place(const char *maps, const struct ovm_live_module *module, uint64_t size, int *rc)
{
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	struct ovm_livemap map;
	ovm_livemap_parse(maps, strlen(maps), &map);
	ovm_rta at = {0}, again = {0};
	*rc = ovm_codemem_place(&ctx, &map, module, size, &at);
	if (*rc == 0) { /* reserved: never the same place twice */
		assert_non_null(ovm_livemap_range(&map, at));
		if (ovm_codemem_place(&ctx, &map, module, size, &again) == 0)
			assert_true(again.v >= at.v + size || again.v + size <= at.v);
	}
	ovm_livemap_fini(&map);
	return at;
}

static void test_place(void **state)
{
	(void)state;
	int rc;
	const uint64_t gib = 1ull << 30, mib = 1 << 20;
	static const char pie[] = "555555554000-555555754000 r-xp 00000000 fe:00 7 /bin/p\n"
				  "555555754000-555555775000 rw-p 00000000 00:00 0 [heap]\n"
				  "7ffff7c00000-7ffff7e00000 r-xp 00000000 fe:00 8 /lib/l\n"
				  "7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]\n";
	struct ovm_live_module exe = {.path = "p",
				      .lo = {0x555555554000},
				      .hi = {0x555555754000},
				      .is_dyn = true,
				      .is_exe = true};
	ovm_rta at = place(pie, &exe, 8 * mib, &rc);
	assert_int_equal(rc, 0);
	assert_true(at.v + 8 * mib <= exe.lo.v); /* below: the heap grows above */
	assert_true(exe.hi.v - at.v < 2 * gib);

	struct ovm_live_module lib = {
	    .path = "l", .lo = {0x7ffff7c00000}, .hi = {0x7ffff7e00000}, .is_dyn = true};
	at = place(pie, &lib, 8 * mib, &rc);
	assert_int_equal(rc, 0);
	assert_true(lib.lo.v - at.v > 512 * mib &&
		    lib.hi.v - at.v < 2 * gib); /* away from the next mmap */

	static const char fixed[] = "00400000-00800000 r-xp 00000000 fe:00 7 /bin/f\n"
				    "00800000-00900000 rw-p 00000000 00:00 0 [heap]\n";
	struct ovm_live_module f = {
	    .path = "f", .lo = {0x400000}, .hi = {0x800000}, .is_exe = true};
	at = place(fixed, &f, 8 * mib, &rc);
	assert_int_equal(rc, 0);
	assert_true(at.v + 8 * mib <= 0x7fff0000 && at.v > gib);

	static const char full[] = "00010000-80000000 r-xp 00000000 fe:00 7 /bin/f\n";
	place(full, &f, 8 * mib, &rc);
	assert_int_equal(rc, OVM_REFUSED);
	place(pie, &exe, 4 * gib, &rc);
	assert_int_equal(rc, OVM_REFUSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_parse), cmocka_unit_test(test_parse_nothing),
	    cmocka_unit_test(test_self),  cmocka_unit_test(test_gone),
	    cmocka_unit_test(test_place),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
