/* Which part of an overlay is to lie on huge pages; that a place for a large one begins one. */
#include "runtime/codemem.h"
#include "runtime/hugepages.h"
#include "runtime/tunables.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static const ovm_rta AT = {0x555400000000};
static const uint64_t H = OVM_HUGE_PAGE;

static void test_part(void **state)
{
	(void)state;
	const uint64_t enough = (H * OVM_RT_HUGE_PERCENT + 99) / 100;
	assert_int_equal(ovm_huge_part(AT, 0), 0);
	assert_int_equal(ovm_huge_part(AT, 300 << 10), 0);
	assert_int_equal(ovm_huge_part(AT, H - 1), 0);
	assert_int_equal(ovm_huge_part(AT, H), H);
	assert_int_equal(ovm_huge_part(AT, H + enough - 1), H);
	assert_int_equal(ovm_huge_part(AT, H + enough), 2 * H);
	assert_int_equal(ovm_huge_part(AT, 5 * H), 5 * H);
	assert_int_equal(ovm_huge_part(ovm_rta_of(AT.v + 65536), 5 * H), 0); /* begins none */
}

/* There is always a page behind the huge ones: it tells that the advice was given. */
static void test_room(void **state)
{
	(void)state;
	assert_int_equal(ovm_huge_room(AT, 1), 4096);
	assert_int_equal(ovm_huge_room(AT, 4096), 4096);
	assert_int_equal(ovm_huge_room(AT, H), H + 4096);
	assert_int_equal(ovm_huge_room(AT, H + 1), H + 4096);
	assert_int_equal(ovm_huge_room(AT, 2 * H - 1), 2 * H + 4096);
	assert_int_equal(ovm_huge_room(ovm_rta_of(AT.v + 65536), H), H);
}

static void test_allowed(void **state)
{
	(void)state;
	int status;
	assert_true(ovm_huge_is_allowed(getpid()));
	pid_t pid = fork();
	if (!pid) {
		setrlimit(RLIMIT_AS, &(struct rlimit){UINT64_C(1) << 40, UINT64_C(1) << 40});
		_exit(ovm_huge_is_allowed(getpid()));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_false(ovm_huge_is_allowed(pid)); /* gone */
}

static uint64_t place(const char *maps, uint64_t size)
{
	struct ovm_ctx ctx;
	struct ovm_livemap map;
	struct ovm_live_module lib = {
	    .path = "l", .lo = {0x7ffff7c13000}, .hi = {0x7ffff7e00000}, .is_dyn = true};
	ovm_rta at = {0};
	ovm_ctx_init(&ctx);
	ovm_livemap_parse(maps, strlen(maps), &map);
	assert_int_equal(ovm_codemem_place(&ctx, &map, &lib, size, &at), 0);
	ovm_livemap_fini(&map);
	return at.v;
}

/* Where no gap has room for whole huge pages a smaller alignment will do. */
static void test_place(void **state)
{
	(void)state;
	static const char wide[] = "7ffff7c13000-7ffff7e00000 r-xp 00000000 fe:00 8 /lib/l\n";
	static const char narrow[] = "10000-7ffff7413000 r-xp 00000000 fe:00 7 /lib/a\n"
				     "7ffff7c13000-7ffff7e00000 r-xp 00000000 fe:00 8 /lib/l\n"
				     "7ffff7e00000-7fffffff0000 r-xp 00000000 fe:00 7 /lib/b\n";
	assert_int_equal(place(wide, 2 * H) % H, 0);
	assert_int_equal(place(wide, 2 * H + 12345) % H, 0);
	uint64_t at = place(narrow, 0x5e0000);
	assert_true(at % H != 0 && at >= 0x7ffff7513000 && at + 0x5e0000 <= 0x7ffff7b13000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_part),
	    cmocka_unit_test(test_room),
	    cmocka_unit_test(test_allowed),
	    cmocka_unit_test(test_place),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
