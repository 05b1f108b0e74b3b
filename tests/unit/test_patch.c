/* Patches of a child's code: a jump into memory we mapped, checked, written, undone. */
#include "base/fault.h"
#include "runtime/codemem.h"
#include "runtime/osr.h"
#include "runtime/patch.h"
#include "runtime/remote.h"
#include "runtime/stackscan.h"
#include "tests/support/live_child.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

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

/* --- a file in place of a process: its bytes are the memory, at address 0
 * ----------------------------------------------------------------------------------------------------
 */

enum { PAGES = 3, FILE_PAGE = 4096 };

static struct ovm_tracee file_new(void)
{
	struct ovm_tracee tracee = {.pid = 1, .mem_fd = memfd_create("memory", 0)};
	assert_true(tracee.mem_fd >= 0);
	assert_int_equal(ftruncate(tracee.mem_fd, (off_t)PAGES * FILE_PAGE), 0);
	return tracee;
}

/* The same memory, but nobody may write. */
static struct ovm_tracee read_only(const struct ovm_tracee *tracee)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", tracee->mem_fd);
	struct ovm_tracee other = {.pid = 1, .mem_fd = open(path, O_RDONLY)};
	assert_true(other.mem_fd >= 0);
	return other;
}

static void store(const struct ovm_tracee *tracee, uint64_t at, const uint8_t *bytes)
{
	assert_int_equal(pwrite(tracee->mem_fd, bytes, 5, (off_t)at), 5);
}

static void assert_bytes(const struct ovm_tracee *tracee, uint64_t at, const uint8_t *want)
{
	uint8_t bytes[5];
	assert_int_equal(pread(tracee->mem_fd, bytes, 5, (off_t)at), 5);
	assert_memory_equal(bytes, want, 5);
}

/* Patches at these places of the file, in the memory too unless it is beyond its end. */
static const uint64_t places[] = {0x10, 0x20, 0x1010, 0x1020, 0x2ff0};
enum { N_PLACES = sizeof(places) / sizeof(*places) };

static void plan(const struct ovm_tracee *tracee, struct ovm_patchset *set)
{
	*set = (struct ovm_patchset){0};
	for (unsigned i = 0; i < N_PLACES; i++) {
		add(set, places[i]);
		store(tracee, places[i], set->v.v[i].old_bytes);
	}
	ovm_patchset_seal(set);
	assert_int_equal(set->n_dropped, 0);
}

static void assert_all(const struct ovm_tracee *tracee, const struct ovm_patchset *set, bool new)
{
	for (unsigned i = 0; i < N_PLACES; i++)
		assert_bytes(tracee, places[i],
			     new ? set->v.v[i].new_bytes : set->v.v[i].old_bytes);
	assert_int_equal(ovm_patchset_applied(set), new ? N_PLACES : 0);
}

static int fails_at; /* the write from now on that fails, counted from 1; 0: none */

/* Stands before the C library's. */
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
	if (fails_at && !--fails_at) {
		errno = EIO;
		return -1;
	}
	return syscall(SYS_pwrite64, fd, bytes, n, at);
}

/* The points where a test of the whole tool lets the same fail. Their passages are counted for as
 * long as the process lives, so this comes first. */
static void test_fault_points(void **state)
{
	(void)state;
#ifdef OPTVM_FAULT_POINTS
	struct ovm_ctx ctx;
	struct ovm_patchset set;
	struct ovm_tracee tracee = file_new();
	ovm_ctx_init(&ctx);
	assert_int_equal(
	    ovm_fault_setup(&ctx,
			    "patch.touch:errno=EIO,patch.page#2:errno=EIO,patch.undo:errno=EIO"),
	    0);
	plan(&tracee, &set);
	ovm_patchset_touch(&tracee, &set); /* the first page */
	assert_int_equal(set.n_dropped, 2);
	ovm_patchset_fini(&set);
	plan(&tracee, &set);
	/* the first page is written, the second is not, and of the first one patch stays */
	assert_int_equal(ovm_patchset_apply(&ctx, &tracee, &set), OVM_E_TARGET);
	assert_int_equal(ovm_patchset_applied(&set), 1);
	assert_bytes(&tracee, places[0], set.v.v[0].new_bytes);
	assert_bytes(&tracee, places[1], set.v.v[1].old_bytes);
	assert_int_equal(ovm_patchset_undo(&ctx, &tracee, &set), 0);
	assert_all(&tracee, &set, false);
	ovm_patchset_fini(&set);
	close(tracee.mem_fd);
#else
	print_message("no fault points in this build\n");
	skip();
#endif
}

static void test_apply_fails(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct ovm_patchset set;
	struct ovm_tracee tracee = file_new(), deaf = read_only(&tracee);
	ovm_ctx_init(&ctx);
	plan(&tracee, &set);
	assert_int_equal(ovm_patchset_apply(&ctx, &deaf, &set), OVM_E_TARGET);
	assert_all(&tracee, &set, false);
	for (int page = 1; page <= PAGES; page++) { /* what was written before is undone */
		fails_at = page;
		assert_int_equal(ovm_patchset_apply(&ctx, &tracee, &set), OVM_E_TARGET);
		assert_non_null(strstr(ctx.msg, "cannot write code at 0x"));
		assert_all(&tracee, &set, false);
	}
	assert_int_equal(ovm_patchset_apply(&ctx, &tracee, &set), 0);
	assert_all(&tracee, &set, true);
	assert_int_equal(ovm_patchset_apply(&ctx, &tracee, &set), 0); /* nothing is left to do */
	assert_all(&tracee, &set, true);
	ovm_patchset_fini(&set);
	close(deaf.mem_fd);
	close(tracee.mem_fd);
}

/* What cannot be taken back now stays known as applied, and can be taken back later. */
static void test_undo_fails(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct ovm_patchset set;
	struct ovm_tracee tracee = file_new(), deaf = read_only(&tracee);
	ovm_ctx_init(&ctx);
	plan(&tracee, &set);
	assert_int_equal(ovm_patchset_apply(&ctx, &tracee, &set), 0);
	assert_int_equal(ovm_patchset_undo(&ctx, &deaf, &set), OVM_E_TARGET);
	assert_all(&tracee, &set, true);
	fails_at = 2;
	assert_int_equal(ovm_patchset_undo(&ctx, &tracee, &set), OVM_E_TARGET);
	assert_non_null(strstr(ctx.msg, "cannot restore code at 0x20"));
	assert_int_equal(ovm_patchset_applied(&set), 1);
	assert_bytes(&tracee, places[0], set.v.v[0].old_bytes);
	assert_bytes(&tracee, places[1], set.v.v[1].new_bytes);
	assert_int_equal(ovm_patchset_undo(&ctx, &tracee, &set), 0);
	assert_all(&tracee, &set, false);
	ovm_patchset_fini(&set);
	close(deaf.mem_fd);
	close(tracee.mem_fd);
}

/* Pages that cannot be written drop all of their patches, other bytes only their own. */
static void test_touch_fails(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct ovm_patchset set;
	struct ovm_tracee tracee = file_new(), deaf = read_only(&tracee);
	ovm_ctx_init(&ctx);
	plan(&tracee, &set);
	ovm_patchset_touch(&deaf, &set);
	assert_int_equal(set.n_dropped, N_PLACES);
	ovm_patchset_fini(&set);
	plan(&tracee, &set);
	fails_at = 2;
	ovm_patchset_touch(&tracee, &set);
	assert_int_equal(set.n_dropped, 2);
	store(&tracee, places[0], (const uint8_t[]){1, 2, 3, 4, 6});
	assert_int_equal(ovm_patchset_apply(&ctx, &tracee, &set), 0);
	assert_int_equal(set.n_dropped, 3);
	assert_int_equal(ovm_patchset_applied(&set), 2);
	assert_bytes(&tracee, places[1], set.v.v[1].new_bytes);
	assert_bytes(&tracee, places[2], set.v.v[2].old_bytes);
	assert_bytes(&tracee, places[4], set.v.v[4].new_bytes);
	ovm_patchset_fini(&set);
	plan(&tracee, &set);
	assert_int_equal(ftruncate(tracee.mem_fd, 0x1000), 0); /* memory that is gone */
	ovm_patchset_touch(&tracee, &set);
	assert_int_equal(set.n_dropped, 3);
	ovm_patchset_fini(&set);
	close(deaf.mem_fd);
	close(tracee.mem_fd);
}

static void test_find(void **state)
{
	(void)state;
	struct ovm_patchset all, found = {0};
	struct ovm_tracee tracee = file_new();
	plan(&tracee, &all);
	ovm_patchset_find(&tracee, &all, &found);
	assert_int_equal(found.v.n, 0);
	for (unsigned i = 0; i < N_PLACES; i++)
		store(&tracee, places[i], all.v.v[i].new_bytes);
	ovm_patchset_drop(&all, 1);
	assert_int_equal(ftruncate(tracee.mem_fd, 0x2000), 0); /* the last page is gone */
	ovm_patchset_find(&tracee, &all, &found);
	assert_int_equal(found.v.n, 3);
	assert_int_equal(found.v.v[0].at.v, places[0]);
	assert_int_equal(found.v.v[1].at.v, places[2]);
	assert_int_equal(found.v.v[2].at.v, places[3]);
	ovm_patchset_fini(&found);
	ovm_patchset_fini(&all);
	close(tracee.mem_fd);
}

static void test_merge(void **state)
{
	(void)state;
	static const uint64_t one[] = {0x20, 0x40, 0x60},
			      two[] = {0x10, 0x1b, 0x24, 0x45, 0x3c, 0x70};
	static const uint64_t want[] = {0x10, 0x1b, 0x20, 0x40, 0x45, 0x60};
	struct ovm_patchset set = {0}, more = {0}, none = {0};
	ovm_patchset_merge(&set, &none);
	assert_int_equal(set.v.n, 0);
	for (unsigned i = 0; i < 3; i++)
		add(&set, one[i]);
	for (unsigned i = 0; i < 6; i++)
		add(&more, two[i]);
	ovm_patchset_seal(&set);
	ovm_patchset_seal(&more);
	ovm_patchset_drop(&more, 5); /* 0x70 */
	ovm_patchset_merge(&set, &more);
	assert_int_equal(set.v.n, 6); /* 0x24 and 0x3c reach into 0x20 and 0x40 */
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(set.v.v[i].at.v, want[i]);
	ovm_patchset_merge(&set, &none);
	assert_int_equal(set.v.n, 6);
	ovm_patchset_merge(&none, &set);
	assert_int_equal(none.v.n, 6);
	ovm_patchset_fini(&none);
	ovm_patchset_fini(&set);
	ovm_patchset_fini(&more);
}

/* Only what is the same patch, and between the two addresses. */
static void test_forget(void **state)
{
	(void)state;
	struct ovm_patchset set = {0}, of = {0};
	struct ovm_live_patch other = make(0x40, 5);
	for (uint64_t at = 0x10; at <= 0x60; at += 0x10)
		add(&set, at);
	add(&of, 0x08); /* before all, not in the set */
	for (uint64_t at = 0x20; at <= 0x50; at += 0x10)
		if (at != 0x40)
			add(&of, at);
	other.new_bytes[4]++; /* leads elsewhere */
	ovm_patchset_add(&of, &other);
	ovm_patchset_seal(&set);
	ovm_patchset_seal(&of);
	ovm_patchset_forget(&set, &of, ovm_rta_of(0x30), ovm_rta_of(0x50));
	assert_int_equal(set.v.n, 5);
	static const uint64_t kept[] = {0x10, 0x20, 0x40, 0x50, 0x60};
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(set.v.v[i].at.v, kept[i]);
	ovm_patchset_fini(&set);
	ovm_patchset_fini(&of);
}

static void test_add_overlay(void **state)
{
	(void)state;
	struct ovm_patch patch = {
	    .at = {0x1000}, .len = 5, .old_bytes = {1, 2, 3, 4, 5}, .new_bytes = {9, 9, 9, 9, 9}};
	struct ovm_overlay overlay = {0};
	struct ovm_patchset set = {0};
	ovm_patchset_add_overlay(&set, &overlay, 0x10000);
	assert_int_equal(set.v.n, 0);
	overlay.patches.v = &patch;
	overlay.patches.n = 1;
	ovm_patchset_add_overlay(&set, &overlay, 0x10000);
	ovm_patchset_add_overlay(&set, &overlay, 0x20000);
	assert_int_equal(set.v.n, 2);
	assert_int_equal(set.v.v[0].at.v, 0x11000);
	assert_int_equal(set.v.v[1].at.v, 0x21000);
	assert_memory_equal(set.v.v[1].old_bytes, patch.old_bytes, 5);
	assert_memory_equal(set.v.v[1].new_bytes, patch.new_bytes, 5);
	assert_int_equal(set.v.v[1].state, OVM_PATCH_PLANNED);
	ovm_patchset_fini(&set);
}

/* A jump that replaces another one has no inside. */
static void test_over_jump(void **state)
{
	(void)state;
	struct ovm_patchset set = {0};
	struct ovm_live_patch p = make(0x1000, 5);
	p.is_over_jump = true;
	ovm_patchset_add(&set, &p);
	ovm_patchset_seal(&set);
	assert_int_equal(ovm_patchset_window(&set, ovm_rta_of(0x1002)), OVM_NONE);
	ovm_patchset_fini(&set);
}

/* --- a child
 * ----------------------------------------------------------------------------------------------------
 */

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
	    cmocka_unit_test(test_fault_points), cmocka_unit_test(test_windows),
	    cmocka_unit_test(test_apply_fails),	 cmocka_unit_test(test_undo_fails),
	    cmocka_unit_test(test_touch_fails),	 cmocka_unit_test(test_find),
	    cmocka_unit_test(test_merge),	 cmocka_unit_test(test_add_overlay),
	    cmocka_unit_test(test_forget),	 cmocka_unit_test(test_over_jump),
	    cmocka_unit_test(test_apply_undo),	 cmocka_unit_test(test_changed_bytes),
	    cmocka_unit_test(test_osr_target),	 cmocka_unit_test(test_stack_scan),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
