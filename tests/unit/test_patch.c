/* Patches of a child's code: a jump into memory we mapped, checked, written, undone. */
#include "runtime/codemem.h"
#include "runtime/osr.h"
#include "runtime/patch.h"
#include "runtime/remote.h"
#include "runtime/stackscan.h"
#include "tests/support/live_child.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static struct ovm_live_patch make(uint64_t at, uint8_t len)
{
	return (struct ovm_live_patch){
	    .at = {at}, .len = len, .old_bytes = {1, 2, 3, 4, 5}, .new_bytes = {9, 9, 9, 9, 9}};
}

static void add(struct ovm_patchset *set, uint64_t at)
{
	struct ovm_live_patch p = make(at, 5);
	ovm_patchset_add(set, &p);
}

static void test_windows(void **state)
{
	(void)state;
	struct ovm_patchset set = {0};
	ovm_patchset_seal(&set);
	assert_int_equal(ovm_patchset_window(&set, ovm_rta_of(0)), OVM_NONE);
	add(&set, 0x1100);
	add(&set, 0x1000);
	add(&set, 0x1ffc); /* crosses a page */
	add(&set, 0x1103); /* overlaps */
	add(&set, 0x1ff0);
	ovm_patchset_seal(&set);
	assert_int_equal(set.n_dropped, 2);
	assert_int_equal(ovm_patchset_window(&set, ovm_rta_of(0x1000)),
			 OVM_NONE); /* its first byte: fine */
	for (uint64_t i = 1; i < 5; i++)
		assert_int_equal(ovm_patchset_window(&set, ovm_rta_of(0x1000 + i)), 0);
	assert_int_equal(ovm_patchset_window(&set, ovm_rta_of(0x1005)), OVM_NONE);
	assert_int_equal(set.v.v[ovm_patchset_window(&set, ovm_rta_of(0x1104))].at.v, 0x1100);
	assert_int_equal(ovm_patchset_window(&set, ovm_rta_of(0x1ffe)), OVM_NONE); /* dropped */
	ovm_patchset_drop(&set, 0);
	assert_int_equal(ovm_patchset_window(&set, ovm_rta_of(0x1002)), OVM_NONE);
	assert_int_equal(set.n_dropped, 3);
	ovm_patchset_fini(&set);
}

/* The function the child calls; patched to return 2. Aligned so that no page boundary is near. */
__attribute__((noinline, aligned(64))) static int answer(void)
{
	int x;
	__asm__ volatile("movl $1, %0\n\tnop\n\tnop\n\tnop" : "=r"(x));
	return x;
}

static void asker(struct live_shared *shared)
{
	shared->ready = 1;
	while (!shared->stop) {
		shared->n_wrong = (uint64_t)answer() - 1;
		shared->n_rounds++;
	}
	shared->n_wrong = 0;
}

static void stop(struct ovm_ctx *ctx, struct ovm_tracee *tracee)
{
	assert_int_equal(ovm_tracee_stop_all(ctx, tracee, 1000), 0);
}

static void test_apply_undo(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct ovm_tracee tracee;
	struct ovm_livemap map;
	ovm_ctx_init(&ctx);
	struct live_shared *shared = live_shared_new();
	pid_t pid = live_fork(shared, asker);
	ovm_tracee_init(&tracee, pid);
	assert_int_equal(ovm_livemap_read(&ctx, pid, &map), 0);
	ovm_livemap_modules(&map, pid);
	ovm_rta fn = {(uint64_t)(uintptr_t)answer}, at;
	const struct ovm_live_module *module = ovm_livemap_module(&map, fn);
	assert_int_equal(ovm_codemem_place(&ctx, &map, module, 4096, &at), 0);
	struct ovm_remote_call call = ovm_remote_mmap(at, 4096);
	struct ovm_remote remote;
	assert_int_equal(ovm_remote_run(&ctx, &tracee, &map, &call, 1, 3000, &remote), 0);
	static const uint8_t two[] = {0xb8, 2, 0, 0, 0, 0xc3}; /* mov $2,%eax; ret */
	assert_int_equal(ovm_codemem_fill(&ctx, &tracee, at, two, sizeof(two)), 0);

	struct ovm_patchset set = {0};
	struct ovm_live_patch jump = {.at = fn, .len = 5, .new_bytes = {0xe9}}, wrong;
	ovm_put32(jump.new_bytes + 1, (uint32_t)(at.v - fn.v - 5));
	assert_true(ovm_mem_read(&tracee, fn, jump.old_bytes, 5));
	wrong = make(fn.v + 64 * 1024, 5); /* other bytes are there */
	ovm_patchset_add(&set, &wrong);
	ovm_patchset_add(&set, &jump);
	ovm_patchset_seal(&set);
	ovm_patchset_touch(&tracee, &set);
	assert_int_equal(set.n_dropped, 1);
	assert_true(live_progress(shared, 100));
	assert_int_equal(shared->n_wrong, 0);

	for (int i = 0; i < 10; i++) {
		stop(&ctx, &tracee);
		bool inside =
		    ovm_patchset_window(&set, ovm_rta_of(tracee.threads.v[0].regs.rip)) != OVM_NONE;
		if (!inside) {
			assert_int_equal(ovm_patchset_apply(&ctx, &tracee, &set), 0);
			assert_int_equal(ovm_patchset_applied(&set), 1);
		}
		ovm_tracee_resume(&tracee);
		assert_true(live_progress(shared, 100));
		assert_int_equal(shared->n_wrong, inside ? 0 : 1);
		stop(&ctx, &tracee);
		assert_int_equal(ovm_patchset_undo(&ctx, &tracee, &set), 0);
		assert_int_equal(ovm_patchset_applied(&set), 0);
		ovm_tracee_resume(&tracee);
		assert_true(live_progress(shared, 100));
		assert_int_equal(shared->n_wrong, 0);
	}
	ovm_patchset_fini(&set);
	ovm_livemap_fini(&map);
	ovm_tracee_close(&tracee);
	assert_int_equal(live_end(shared, pid), 0);
}

/* Bytes that changed after planning: nothing is written. */
static void test_changed_bytes(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct ovm_tracee tracee;
	ovm_ctx_init(&ctx);
	struct live_shared *shared = live_shared_new();
	pid_t pid = live_fork(shared, asker);
	ovm_tracee_init(&tracee, pid);
	struct ovm_patchset set = {0};
	add(&set, (uint64_t)(uintptr_t)answer);
	ovm_patchset_seal(&set);
	stop(&ctx, &tracee);
	assert_int_equal(ovm_patchset_apply(&ctx, &tracee, &set), 0);
	assert_int_equal(ovm_patchset_applied(&set), 0);
	assert_int_equal(set.n_dropped, 1);
	ovm_tracee_close(&tracee);
	ovm_patchset_fini(&set);
	assert_true(live_progress(shared, 100));
	assert_int_equal(live_end(shared, pid), 0);
}

/* --- osr
 * ----------------------------------------------------------------------------------------------------
 */

static void test_osr_target(void **state)
{
	(void)state;
	struct ovm_map_entry entries[] = {
	    {.old = {0x1000}, .off = 0x10, .new_len = 2, .old_len = 2, .flags = OVM_MAP_SYSCALL},
	    {.old = {0x1002}, .off = 0x40, .new_len = 3, .old_len = 3}, /* placed elsewhere */
	    {.old = {0x2000}, .off = 0x43, .new_len = 5, .old_len = 0, .flags = OVM_MAP_SYNTH},
	};
	struct ovm_overlay overlay = {.base = {0x100000}};
	overlay.map.v.v = entries;
	overlay.map.v.n = overlay.map.v.cap = 3;
	uint32_t by_old[] = {0, 1, 2};
	overlay.map.by_old = by_old;
	struct ovm_osr_module module = {.overlay = &overlay,
					.bias = 0x7000000,
					.lo = {0x7001000},
					.hi = {0x7004000},
					.is_armed = true};
	struct ovm_tracee tracee = {.mem_fd = -1};
	struct ovm_thread thread = {.tid = -1};
	ovm_rta to = {0};
	thread.regs.orig_rax = (unsigned long long)-1;
	thread.regs.rip = 0x7001002; /* user mode: the copy of this instruction */
	assert_true(ovm_osr_target(&module, 1, &tracee, &thread, &to));
	assert_int_equal(to.v, 0x7100040);
	thread.regs.orig_rax =
	    35; /* in a system call: just behind its copy, not the copy of the next */
	assert_true(ovm_osr_target(&module, 1, &tracee, &thread, &to));
	assert_int_equal(to.v, 0x7100012);
	thread.regs.rip = 0x7001005; /* behind something that is no syscall */
	assert_false(ovm_osr_target(&module, 1, &tracee, &thread, &to));
	thread.regs.orig_rax = (unsigned long long)-1;
	thread.regs.rip = 0x7001001; /* inside an instruction */
	assert_false(ovm_osr_target(&module, 1, &tracee, &thread, &to));
	thread.regs.rip = 0x7002000; /* only a jump of ours means this address */
	assert_false(ovm_osr_target(&module, 1, &tracee, &thread, &to));
	thread.regs.rip = 0x1002; /* another module */
	assert_false(ovm_osr_target(&module, 1, &tracee, &thread, &to));
}

static void holder(struct live_shared *shared)
{
	volatile uint64_t deep[512] = {0};
	deep[500] = deep[501] = 0x1003; /* as an interrupted PC in a signal frame would stand */
	asker(shared);
	shared->n_rounds += deep[500];
}

struct words {
	uint32_t n, n_wanted;
};

static void visit(uint64_t word, void *arg)
{
	struct words *words = arg;
	words->n++;
	words->n_wanted += word == 0x1003;
}

static void test_stack_scan(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct ovm_tracee tracee;
	ovm_ctx_init(&ctx);
	struct live_shared *shared = live_shared_new();
	pid_t pid = live_fork(shared, holder);
	ovm_tracee_init(&tracee, pid);
	struct words words = {0};
	struct ovm_stackscan scan;
	ovm_stackscan_init(&scan);
	stop(&ctx, &tracee);
	assert_int_equal(tracee.threads.n, 1);
	struct ovm_thread *thread = &tracee.threads.v[0];
	assert_false(ovm_stackscan_thread(&scan, &tracee, thread, visit, &words)); /* no end */
	thread->stack_end = ovm_rta_of(thread->regs.rsp + 64 * 1024);
	ovm_stackscan_thread(&scan, &tracee, thread, visit, &words); /* nothing is of interest */
	assert_int_equal(words.n, 0);
	ovm_stackscan_add(&scan, ovm_rta_of(0x1000), ovm_rta_of(0x1004));
	assert_true(ovm_stackscan_thread(&scan, &tracee, thread, visit, &words));
	assert_int_equal(words.n_wanted, 1); /* it stands there twice in a row */
	uint64_t n_bytes = scan.n_bytes;
	assert_true(n_bytes > 0 && n_bytes % 8 == 0);
	ovm_stackscan_fini(&scan);
	ovm_tracee_close(&tracee);
	assert_int_equal(live_end(shared, pid), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_windows),	  cmocka_unit_test(test_apply_undo),
	    cmocka_unit_test(test_changed_bytes), cmocka_unit_test(test_osr_target),
	    cmocka_unit_test(test_stack_scan),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
