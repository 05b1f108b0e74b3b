/* Programs held at their start: nothing of them has run, we map memory, they do not notice. */
#include "runtime/remote.h"
#include "runtime/startgate.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

struct fixture {
	struct ovm_ctx ctx;
	struct ovm_tracee tracee;
	struct ovm_livemap map;
	unsigned n_looks, n_unwanted;
};

/* A child that execs @argv once it is seized. */
static void begin(struct fixture *f, char *const argv[], unsigned n_unwanted)
{
	int go[2];
	*f = (struct fixture){.n_unwanted = n_unwanted};
	ovm_ctx_init(&f->ctx);
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		char c;
		if (read(go[0], &c, 1) == 1)
			execv(argv[0], argv);
		_exit(99);
	}
	assert_true(pid > 0);
	ovm_tracee_init(&f->tracee, pid);
	assert_int_equal(ovm_startgate_seize(&f->ctx, pid), 0);
	assert_int_equal(write(go[1], "", 1), 1);
	close(go[0]);
	close(go[1]);
}

static bool is_wanted(void *arg, const struct ovm_livemap *map)
{
	struct fixture *f = arg;
	assert_true(map->modules.n > 0);
	return f->n_looks++ == f->n_unwanted;
}

static int end(struct fixture *f)
{
	int status = f->tracee.wstatus;
	while (!f->tracee.ended && waitpid(f->tracee.pid, &status, 0) < 0)
		;
	ovm_livemap_fini(&f->map);
	ovm_tracee_close(&f->tracee);
	return status;
}

static uint32_t count_modules(const struct ovm_livemap *map, const char *part)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < map->modules.n; i++)
		n += strstr(map->modules.v[i].path, part) != NULL;
	return n;
}

/* All libraries are there; memory is mapped while it is held, and still held afterwards. */
static void test_hold(void **state)
{
	(void)state;
	struct fixture f;
	char *argv[] = {"/bin/sh", "-c", "exit 7", NULL};
	begin(&f, argv, 0);
	assert_int_equal(ovm_startgate_hold(&f.ctx, &f.tracee, is_wanted, &f, &f.map), 0);
	assert_non_null(ovm_startgate_held(&f.tracee));
	assert_int_equal(count_modules(&f.map, "/libc.so.6"), 1);
	struct ovm_remote_call calls[2] = {ovm_remote_mmap(ovm_rta_of(0x200000000000), 8192),
					   ovm_remote_mmap(ovm_rta_of(0x210000000000), 4096)};
	struct ovm_remote remote;
	assert_int_equal(ovm_remote_run(&f.ctx, &f.tracee, &f.map, calls, 2, 3000, &remote), 0);
	struct ovm_thread *thread = ovm_startgate_held(&f.tracee);
	assert_non_null(thread);
	assert_true(ovm_tracee_regs(thread));
	assert_true(ovm_remote_holds(&remote, thread->regs.rip));
	struct ovm_livemap now = {0};
	assert_int_equal(ovm_livemap_read(&f.ctx, f.tracee.pid, &now), 0);
	assert_true(ovm_livemap_covers(&now, ovm_rta_of(0x200000000000), ovm_rta_of(0x200000002000),
				       OVM_PROT_R | OVM_PROT_X, 0));
	ovm_livemap_fini(&now);
	ovm_tracee_resume(&f.tracee);
	assert_int_equal(WEXITSTATUS(end(&f)), 7);
}

/* A mapping that cannot be: a failure, and the program runs. */
static void test_refused(void **state)
{
	(void)state;
	struct fixture f;
	char *argv[] = {"/bin/sh", "-c", "exit 7", NULL};
	begin(&f, argv, 0);
	assert_int_equal(ovm_startgate_hold(&f.ctx, &f.tracee, is_wanted, &f, &f.map), 0);
	struct ovm_remote_call call = ovm_remote_mmap(f.map.modules.v[0].lo, 4096);
	struct ovm_remote remote;
	assert_int_equal(ovm_remote_run(&f.ctx, &f.tracee, &f.map, &call, 1, 3000, &remote),
			 OVM_E_TARGET);
	ovm_tracee_resume(&f.tracee);
	assert_int_equal(WEXITSTATUS(end(&f)), 7);
}

/* The second exec is the one that is wanted. */
static void test_next_exec(void **state)
{
	(void)state;
	struct fixture f;
	char *argv[] = {"/usr/bin/env", "/bin/sh", "-c", "exit 7", NULL};
	begin(&f, argv, 1);
	assert_int_equal(ovm_startgate_hold(&f.ctx, &f.tracee, is_wanted, &f, &f.map), 0);
	assert_int_equal(f.n_looks, 2);
	assert_int_equal(count_modules(&f.map, "/env"), 0);
	ovm_tracee_resume(&f.tracee);
	assert_int_equal(WEXITSTATUS(end(&f)), 7);
}

/* It ends before one is; by a signal of its own. */
static void test_ends(void **state)
{
	(void)state;
	struct fixture f;
	char *argv[] = {"/bin/sh", "-c", "kill -TERM $$", NULL};
	begin(&f, argv, 1);
	assert_int_equal(ovm_startgate_hold(&f.ctx, &f.tracee, is_wanted, &f, &f.map), OVM_E_GONE);
	assert_true(f.tracee.ended);
	assert_int_equal(WTERMSIG(end(&f)), SIGTERM);
}

/* It goes on without: let go. */
static void test_unwanted(void **state)
{
	(void)state;
	struct fixture f;
	char *argv[] = {"/bin/sh", "-c", "sleep 1.5; exit 7", NULL};
	begin(&f, argv, 1);
	assert_int_equal(ovm_startgate_hold(&f.ctx, &f.tracee, is_wanted, &f, &f.map),
			 OVM_E_TARGET);
	while (ovm_tracee_service(&f.tracee))
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(WEXITSTATUS(end(&f)), 7);
}

static void test_traced(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_startgate_seize(&ctx, getpid()), OVM_E_PERM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_hold),   cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_ends),   cmocka_unit_test(test_next_exec),
	    cmocka_unit_test(test_traced), cmocka_unit_test(test_unwanted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
