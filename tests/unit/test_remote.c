/* A child computes; we make it map memory, at moments it cannot foresee, and it must not notice. */
#include "runtime/remote.h"
#include "tests/support/live_child.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <cmocka.h>

struct fixture {
	struct ovm_ctx ctx;
	struct ovm_tracee tracee;
	struct ovm_livemap map;
	struct live_shared *shared;
	pid_t pid;
};

static void begin(struct fixture *f, void (*body)(struct live_shared *))
{
	memset(f, 0, sizeof(*f));
	ovm_ctx_init(&f->ctx);
	f->shared = live_shared_new();
	f->pid = live_fork(f->shared, body);
	assert_true(f->pid > 0);
	ovm_tracee_init(&f->tracee, f->pid);
	assert_int_equal(ovm_tracee_check(&f->ctx, f->pid), 0);
	assert_int_equal(ovm_livemap_read(&f->ctx, f->pid, &f->map), 0);
	ovm_livemap_modules(&f->map, f->pid);
}

static int end(struct fixture *f)
{
	ovm_livemap_fini(&f->map);
	ovm_tracee_close(&f->tracee);
	return live_end(f->shared, f->pid);
}

static void test_stub_size(void **state)
{
	(void)state;
	uint8_t buf[4096];
	struct ovm_remote_call calls[2] = {ovm_remote_mmap(ovm_rta_of(0x1000), 4096),
					   ovm_remote_mmap(ovm_rta_of(0x2000), 4096)};
	ovm_rta at = {0x5000}, pc = {1};
	uint32_t n0 = ovm_remote_stub(buf, sizeof(buf), calls, 0, at, pc, pc);
	uint32_t n2 = ovm_remote_stub(buf, sizeof(buf), calls, 2, at, pc, pc);
	assert_int_equal(n2 - n0, 2 * 56);
	assert_int_equal(ovm_remote_stub(buf, n2 - 1, calls, 2, at, pc, pc), 0);
	assert_int_equal(ovm_remote_stub(buf, n2, calls, 2, at, pc, pc), n2);
	assert_int_equal(
	    ovm_remote_stub(buf, sizeof(buf), calls, OVM_REMOTE_MAX_CALLS + 1, at, pc, pc), 0);
}

/* Many mappings, each a random moment of the computation. */
static void test_mmap_busy(void **state)
{
	(void)state;
	struct fixture f;
	begin(&f, live_loop);
	for (uint64_t i = 0; i < 25; i++) {
		struct ovm_remote_call calls[2] = {
		    ovm_remote_mmap(ovm_rta_of(0x200000000000 + i * 0x100000), 8192),
		    ovm_remote_mmap(ovm_rta_of(0x210000000000 + i * 0x100000), 4096),
		};
		struct ovm_remote remote;
		int rc = ovm_remote_run(&f.ctx, &f.tracee, &f.map, calls, 2, 3000, &remote);
		if (rc)
			print_message("%s\n", f.ctx.msg);
		assert_int_equal(rc, 0);
		assert_int_equal(remote.n, 1);
		assert_true(live_progress(f.shared, 3));
		assert_int_equal(ovm_tracee_stop_all(&f.ctx, &f.tracee, 1000), 0);
		for (uint32_t t = 0; t < f.tracee.threads.n; t++) /* long out of the stub */
			assert_false(ovm_remote_holds(&remote, f.tracee.threads.v[t].regs.rip));
		ovm_rta at = remote.at[0];
		uint8_t byte = 1;
		ovm_remote_clean(&f.tracee, &remote);
		assert_true(ovm_mem_read(&f.tracee, at, &byte, 1));
		assert_int_equal(byte, 0);
		ovm_tracee_resume(&f.tracee);
	}
	struct ovm_livemap now;
	assert_int_equal(ovm_livemap_read(&f.ctx, f.pid, &now), 0);
	assert_true(ovm_livemap_covers(&now, ovm_rta_of(0x200000000000), ovm_rta_of(0x200000002000),
				       OVM_PROT_R | OVM_PROT_X, 0));
	ovm_livemap_fini(&now);
	assert_true(live_progress(f.shared, 10));
	assert_int_equal(f.shared->n_wrong, 0);
	assert_int_equal(end(&f), 0);
}

static void count_huge(const char *line, bool *is_there, long *kb)
{
	unsigned long lo, hi;
	if (sscanf(line, "%lx-%lx", &lo, &hi) == 2)
		*is_there = lo == 0x200000000000;
	else if (*is_there && !strncmp(line, "AnonHugePages:", 14))
		*kb = strtol(line + 14, NULL, 10);
}

/* Advice behind a mapping is given when the mapping behind that is seen: memory that is written
 * through the protection then is one huge page, where there are any. */
static void test_madvise(void **state)
{
	(void)state;
	struct fixture f;
	const ovm_rta at = {0x200000000000};
	const uint64_t size = 2 << 20;
	struct ovm_remote_call calls[3] = {ovm_remote_mmap(at, size),
					   ovm_remote_madvise(at, size, MADV_HUGEPAGE),
					   ovm_remote_mmap(ovm_rta_of(at.v + size), 4096)};
	struct ovm_remote remote;
	char name[64], line[512] = "";
	long kb = -1;
	bool is_there = false;
	begin(&f, live_loop);
	assert_int_equal(ovm_remote_run(&f.ctx, &f.tracee, &f.map, calls, 3, 3000, &remote), 0);
	assert_true(ovm_mem_write(&f.tracee, at, "code", 4));
	snprintf(name, sizeof(name), "/proc/%d/smaps", (int)f.pid);
	FILE *smaps = fopen(name, "r");
	assert_non_null(smaps);
	while (fgets(line, sizeof(line), smaps))
		count_huge(line, &is_there, &kb);
	fclose(smaps);
	FILE *thp = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
	bool has_thp = thp && fgets(line, sizeof(line), thp) && !strstr(line, "[never]");
	if (thp)
		fclose(thp);
	assert_int_equal(kb, has_thp ? 2048 : 0);
	assert_true(live_progress(f.shared, 10));
	assert_int_equal(f.shared->n_wrong, 0);
	assert_int_equal(end(&f), 0);
}

/* A place that is taken: nothing is mapped over, the child goes on. */
static void test_mmap_taken(void **state)
{
	(void)state;
	struct fixture f;
	begin(&f, live_loop);
	struct ovm_remote_call call = ovm_remote_mmap(f.map.modules.v[0].lo, 4096);
	struct ovm_remote remote;
	call.arg[0] = (uint64_t)(uintptr_t)f.shared & ~4095ull;
	assert_int_equal(ovm_remote_run(&f.ctx, &f.tracee, &f.map, &call, 1, 300, &remote),
			 OVM_E_TARGET);
	assert_true(ovm_remote_has_room(&f.tracee, &f.map, &call, 1));
	assert_false(ovm_remote_has_room(&f.tracee, &f.map, &call, OVM_REMOTE_MAX_CALLS + 1));
	assert_true(live_progress(f.shared, 10));
	assert_int_equal(end(&f), 0);
}

/* --- processes that only wait */

static void pauser(struct live_shared *shared)
{
	shared->ready = 1;
	while (!shared->stop)
		pause();
}

/* Only a signal ends it, and one must not come too early: left alone. */
static void test_blocked(void **state)
{
	(void)state;
	struct fixture f;
	begin(&f, pauser);
	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	struct ovm_remote_call call = ovm_remote_mmap(ovm_rta_of(0x200000000000), 4096);
	struct ovm_remote remote;
	assert_int_equal(ovm_remote_run(&f.ctx, &f.tracee, &f.map, &call, 1, 100, &remote),
			 OVM_E_TARGET);
	assert_int_equal(remote.n, 0);
	f.shared->stop = 1;
	signal(SIGUSR1, SIG_IGN);
	kill(f.pid, SIGUSR1); /* no handler: ends it */
	assert_int_equal(WTERMSIG(end(&f)), SIGUSR1);
}

/* Waits in one system call after the other; n_rounds counts those that ended by themselves, n_wrong
 * those that ended otherwise. */
static int pipe_fds[2];
static sig_atomic_t n_handled;

static void on_usr1(int sig)
{
	(void)sig;
	n_handled++;
}

static bool took(const struct timespec *begin, double least_ms)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - begin->tv_sec) * 1e3 +
		   (double)(now.tv_nsec - begin->tv_nsec) / 1e6 >=
	       least_ms;
}

static void sleeper(struct live_shared *shared)
{
	struct timespec begin, nap = {.tv_nsec = 40000000};
	shared->ready = 1;
	while (!shared->stop) {
		fd_set set;
		struct timeval tv = {.tv_usec = 40000};
		struct pollfd poll_fd = {.fd = pipe_fds[0], .events = POLLIN};
		FD_ZERO(&set);
		FD_SET(pipe_fds[0], &set);
		clock_gettime(CLOCK_MONOTONIC, &begin);
		shared->n_wrong += nanosleep(&nap, NULL) != 0 || !took(&begin, 39.9);
		clock_gettime(CLOCK_MONOTONIC, &begin);
		shared->n_wrong += select(pipe_fds[0] + 1, &set, NULL, NULL, &tv) != 0;
		shared->n_wrong += !took(&begin, 39.9);
		clock_gettime(CLOCK_MONOTONIC, &begin);
		shared->n_wrong += poll(&poll_fd, 1, 40) != 0 || !took(&begin, 39);
		shared->n_rounds++;
	}
}

/* It is sent through the stub from where it waits, and waits on as long as it wanted to. */
static void test_waiting(void **state)
{
	(void)state;
	struct fixture f;
	assert_int_equal(pipe(pipe_fds), 0);
	begin(&f, sleeper);
	for (uint64_t i = 0; i < 25; i++) {
		struct ovm_remote_call call =
		    ovm_remote_mmap(ovm_rta_of(0x200000000000 + i * 0x100000), 8192);
		struct ovm_remote remote;
		int rc = ovm_remote_run(&f.ctx, &f.tracee, &f.map, &call, 1, 200, &remote);
		if (rc)
			print_message("round %d: %s\n", (int)i, f.ctx.msg);
		assert_int_equal(rc, 0);
		assert_int_equal(ovm_tracee_stop_all(&f.ctx, &f.tracee, 1000), 0);
		for (uint32_t t = 0; t < f.tracee.threads.n; t++)
			assert_false(ovm_remote_holds(&remote, f.tracee.threads.v[t].regs.rip));
		ovm_remote_clean(&f.tracee, &remote);
		ovm_tracee_resume(&f.tracee);
	}
	assert_true(live_progress(f.shared, 2));
	assert_int_equal(f.shared->n_wrong, 0);
	assert_int_equal(end(&f), 0);
}

/* A request a signal, under sigsuspend: each wakes it, whatever else is going on. */
static void suspended(struct live_shared *shared)
{
	sigset_t set, old;
	struct sigaction sa = {.sa_handler = on_usr1};
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &old);
	sigaction(SIGUSR1, &sa, NULL);
	shared->ready = 1;
	while (!shared->stop) {
		int before = n_handled;
		sigsuspend(&old);
		shared->n_wrong += n_handled != before + 1;
		shared->n_rounds++;
	}
}

static void test_suspended(void **state)
{
	(void)state;
	struct fixture f;
	begin(&f, suspended);
	for (uint64_t i = 0; i < 25; i++) {
		struct ovm_remote_call call =
		    ovm_remote_mmap(ovm_rta_of(0x200000000000 + i * 0x100000), 8192);
		struct ovm_remote remote;
		pid_t sender = fork();
		if (sender == 0) { /* at all moments of the stop and the stub */
			for (int k = 0; k < 40; k++) {
				uint64_t before = f.shared->n_rounds;
				kill(f.pid, SIGUSR1);
				for (int w = 0; w < 5000 && f.shared->n_rounds == before; w++)
					nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
				if (f.shared->n_rounds == before)
					_exit(1); /* a signal is lost */
				nanosleep(&(struct timespec){.tv_nsec = 200000 + k * 17000}, NULL);
			}
			_exit(0);
		}
		int status, rc = ovm_remote_run(&f.ctx, &f.tracee, &f.map, &call, 1, 60, &remote);
		waitpid(sender, &status, 0);
		assert_int_equal(status, 0);
		if (rc)
			print_message("round %d: %s\n", (int)i, f.ctx.msg);
		assert_int_equal(rc, 0);
		assert_int_equal(ovm_tracee_stop_all(&f.ctx, &f.tracee, 1000), 0);
		ovm_remote_clean(&f.tracee, &remote);
		ovm_tracee_resume(&f.tracee);
	}
	assert_int_equal(f.shared->n_wrong, 0);
	f.shared->stop = 1;
	kill(f.pid, SIGUSR1);
	assert_int_equal(end(&f), 0);
}

static void on_alarm(int sig)
{
	(void)sig;
}

static void signalled(struct live_shared *shared)
{
	struct timespec interval = {.tv_nsec = 300000};
	struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	timer_t timer;
	sigaction(SIGALRM, &sa, NULL);
	timer_create(CLOCK_MONOTONIC, NULL, &timer);
	timer_settime(timer, 0, &(struct itimerspec){.it_interval = interval, .it_value = interval},
		      NULL);
	live_loop(shared);
}

/* Signals arrive all the time, in the stub too: each is delivered, none is lost in a stop. */
static void test_mmap_signals(void **state)
{
	(void)state;
	struct fixture f;
	begin(&f, signalled);
	for (uint64_t i = 0; i < 25; i++) {
		struct ovm_remote_call call =
		    ovm_remote_mmap(ovm_rta_of(0x200000000000 + i * 0x100000), 8192);
		struct ovm_remote remote;
		int rc = ovm_remote_run(&f.ctx, &f.tracee, &f.map, &call, 1, 3000, &remote);
		if (rc)
			print_message("round %d: %s\n", (int)i, f.ctx.msg);
		assert_int_equal(rc, 0);
		assert_true(live_progress(f.shared, 3));
		assert_int_equal(ovm_tracee_stop_all(&f.ctx, &f.tracee, 1000), 0);
		ovm_remote_clean(&f.tracee, &remote);
		ovm_tracee_resume(&f.tracee);
	}
	assert_true(live_progress(f.shared, 10));
	assert_int_equal(end(&f), 0);
}

/* kill -9 of the tool between its steps: the child finishes correctly. */
static void test_tool_dies(void **state)
{
	(void)state;
	for (int step = 0; step < 12; step++) {
		struct fixture f;
		begin(&f, live_loop);
		pid_t tool = fork();
		if (tool == 0) {
			for (uint64_t i = 0;; i++) {
				struct ovm_remote_call call = ovm_remote_mmap(
				    ovm_rta_of(0x200000000000 + i * 0x100000), 4096);
				struct ovm_remote remote;
				if (ovm_remote_run(&f.ctx, &f.tracee, &f.map, &call, 1, 3000,
						   &remote) ||
				    !live_progress(f.shared, 1) ||
				    ovm_tracee_stop_all(&f.ctx, &f.tracee, 1000))
					_exit(1);
				ovm_remote_clean(&f.tracee, &remote);
				ovm_tracee_resume(&f.tracee);
			}
		}
		nanosleep(&(struct timespec){.tv_nsec = 3000000 + step * 170000}, NULL);
		kill(tool, SIGKILL);
		waitpid(tool, NULL, 0);
		assert_true(live_progress(f.shared, 20));
		assert_int_equal(f.shared->n_wrong, 0);
		assert_int_equal(end(&f), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_stub_size),  cmocka_unit_test(test_mmap_busy),
	    cmocka_unit_test(test_mmap_taken), cmocka_unit_test(test_madvise),
	    cmocka_unit_test(test_blocked),    cmocka_unit_test(test_waiting),
	    cmocka_unit_test(test_suspended),  cmocka_unit_test(test_mmap_signals),
	    cmocka_unit_test(test_tool_dies),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
