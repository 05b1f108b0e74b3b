/* sampler.c, ptrace_sampler.c, launch.c, recorder.c on real programs: what is seen, and that the
 * program notices nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "profiler/launch.h"
#include "base/parallel.h"
#include "profiler/recorder.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BUSY "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; "

struct result {
	int rc, wstatus, exit_status;
	struct ovm_ctx ctx;
	struct ovm_profile *prof;
};

static struct result record(const char *script, struct ovm_recorder_opts opts)
{
	char *argv[] = {"/bin/sh", "-c", (char *)(uintptr_t)script, NULL};
	struct result result = {0};
	ovm_ctx_init(&result.ctx);
	result.rc = ovm_record_command(&result.ctx, &opts, argv, &result.prof, &result.wstatus,
				       &result.exit_status);
	return result;
}

static uint64_t samples_of_all_modules(const struct ovm_profile *prof)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < prof->modules.n; i++)
		sum += ovm_prof_module_samples(&prof->modules.v[i]);
	return sum;
}

static void expect_profile(const struct ovm_profile *prof, const char *source)
{
	assert_non_null(prof);
	assert_string_equal(prof->source, source);
	assert_non_null(prof->event);
	assert_true(prof->frequency > 0);
	assert_true(prof->n_samples > 5);
	assert_int_equal(prof->n_lost, 0);
	assert_int_equal(samples_of_all_modules(prof) + prof->n_unmapped, prof->n_samples);
	assert_true(prof->n_unmapped <= prof->n_samples / 4);
}

static void check_command(bool force_ptrace, const char *source)
{
	struct ovm_recorder_opts opts = {.sampler = {.force_ptrace = force_ptrace}};
	struct result one = record(BUSY "exit 7", opts);
	assert_int_equal(one.rc, OVM_OK);
	assert_true(WIFEXITED(one.wstatus));
	assert_int_equal(WEXITSTATUS(one.wstatus), 7);
	expect_profile(one.prof, source);
	assert_int_equal(one.prof->n_processes, 1);
	ovm_profile_free(one.prof);

	/* children, in a pipe and in the background; their end and our signal */
	struct result many = record("(" BUSY ") | cat & " BUSY "wait; kill -TERM $$", opts);
	assert_int_equal(many.rc, OVM_OK);
	assert_true(WIFSIGNALED(many.wstatus));
	assert_int_equal(WTERMSIG(many.wstatus), SIGTERM);
	expect_profile(many.prof, source);
	assert_true(many.prof->n_processes >= 3);
	ovm_profile_free(many.prof);

	/* after the duration the program goes on by itself */
	opts.duration = 0.05;
	struct result brief = record(BUSY "sleep 0.1; exit 3", opts);
	assert_int_equal(WEXITSTATUS(brief.wstatus), 3);
	assert_non_null(brief.prof);
	ovm_profile_free(brief.prof);
}

/* Is there a sampler of that source here? Explains itself if not. */
static bool is_available(bool force_ptrace, const char *source)
{
	struct ovm_recorder_opts opts = {.sampler = {.force_ptrace = force_ptrace}};
	struct result result = record("exit 0", opts);
	bool ok = result.prof && !strcmp(result.prof->source, source);
	if (!ok)
		printf("skipped: no %s here: %s\n", source, result.ctx.msg);
	ovm_profile_free(result.prof);
	return ok;
}

static void test_perf(void **state)
{
	(void)state;
	if (!is_available(false, "perf_event"))
		skip();
	check_command(false, "perf_event");
}

static void test_ptrace(void **state)
{
	(void)state;
	if (!is_available(true, "ptrace-timer"))
		skip();
	check_command(true, "ptrace-timer");
}

static void test_cannot_execute(void **state)
{
	(void)state;
	for (int force_ptrace = 0; force_ptrace < 2; force_ptrace++) {
		const struct ovm_recorder_opts opts = {.sampler = {.force_ptrace = force_ptrace}};
		char *missing[] = {"/no/such/program", NULL}, *folder[] = {"/", NULL};
		struct ovm_profile *prof = NULL;
		struct ovm_ctx ctx;
		int wstatus, status;
		ovm_ctx_init(&ctx);
		assert_true(ovm_record_command(&ctx, &opts, missing, &prof, &wstatus, &status) < 0);
		assert_int_equal(status, 127);
		assert_non_null(strstr(ctx.msg, "/no/such/program"));
		assert_true(ovm_record_command(&ctx, &opts, folder, &prof, &wstatus, &status) < 0);
		assert_int_equal(status, 126);
		assert_null(prof);
		assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child left behind */
		assert_int_equal(errno, ECHILD);
	}
}

/* The program runs all the same, and the message says what was wrong. */
static void test_unknown_event(void **state)
{
	(void)state;
	const struct ovm_recorder_opts opts = {.sampler = {.event = "no-such-event"}};
	struct result result = record("exit 4", opts);
	assert_int_equal(result.rc, OVM_OK);
	assert_int_equal(WEXITSTATUS(result.wstatus), 4);
	assert_int_equal(result.ctx.err, OVM_E_USAGE);
	assert_non_null(strstr(result.ctx.msg, "no-such-event"));
	assert_null(result.prof);
}

/* --- a running process
 * --------------------------------------------------------------------------------------- */

static pid_t start_spinner(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* CTest may end the test alone */
		for (volatile uint64_t i = 0;; i++)
			;
	}
	return pid;
}

static void check_running(bool force_ptrace, const char *source)
{
	const struct ovm_recorder_opts opts = {.sampler = {.force_ptrace = force_ptrace},
					       .duration = 0.2};
	struct ovm_profile *prof = NULL;
	struct ovm_ctx ctx;
	int wstatus;
	ovm_ctx_init(&ctx);
	pid_t pid = start_spinner();
	assert_int_equal(ovm_record_process(&ctx, &opts, pid, &prof), OVM_OK);
	expect_profile(prof, source);
	ovm_profile_free(prof);
	assert_int_equal(waitpid(pid, &wstatus, WNOHANG), 0); /* still running */
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &wstatus, 0), pid);
	prof = NULL;
	assert_true(ovm_record_process(&ctx, &opts, pid, &prof) < 0);
	assert_int_equal(ctx.err, OVM_E_GONE);
	assert_null(prof);
}

static void test_running_perf(void **state)
{
	(void)state;
	if (!is_available(false, "perf_event"))
		skip();
	check_running(false, "perf_event");
}

static void test_running_ptrace(void **state)
{
	(void)state;
	if (!is_available(true, "ptrace-timer"))
		skip();
	check_running(true, "ptrace-timer");
}

/* --- where perf_event is forbidden
 * --------------------------------------------------------------------------- */

static bool forbid_perf(int errnum)
{
	struct sock_filter code[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_perf_event_open, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)errnum),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {sizeof(code) / sizeof(code[0]), code};
	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	       !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

/* In a child, because a filter cannot be taken off again. */
static void check_forbidden(int errnum)
{
	int wstatus;
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		const struct ovm_recorder_opts opts = {0};
		if (!forbid_perf(errnum))
			_exit(77);
		struct result result = record(BUSY "exit 9", opts);
		_exit(result.prof && !strcmp(result.prof->source, "ptrace-timer") &&
			      result.prof->n_samples > 0 && WEXITSTATUS(result.wstatus) == 9
			  ? 0
			  : 1);
	}
	assert_int_equal(waitpid(pid, &wstatus, 0), pid);
	if (WIFEXITED(wstatus) && WEXITSTATUS(wstatus) == 77)
		skip();
	assert_int_equal(wstatus, 0);
}

/* How many samples come while @pid uses 0.3 s of processor time. */
static uint64_t samples_of_a_while(struct ovm_sampler *sampler, pid_t pid)
{
	struct ovm_ctx ctx;
	clockid_t clock;
	struct timespec from, now;
	uint64_t before = ovm_sampler_n_samples(sampler);
	ovm_ctx_init(&ctx);
	assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
	clock_gettime(clock, &from);
	do {
		assert_int_equal(ovm_sampler_drain(&ctx, sampler, 20), 0);
		clock_gettime(clock, &now);
	} while ((now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000 < 300);
	return ovm_sampler_n_samples(sampler) - before;
}

static void test_slow_down(void **state)
{
	(void)state;
	const struct ovm_sampler_opts opts = {.frequency = 1999};
	struct ovm_sampler *sampler;
	struct ovm_ctx ctx;
	int wstatus;
	if (!is_available(false, "perf_event"))
		skip();
	ovm_ctx_init(&ctx);
	pid_t pid = start_spinner();
	assert_int_equal(ovm_sampler_open(&ctx, &opts, pid, true, &sampler), 0);
	uint64_t fast = samples_of_a_while(sampler, pid);
	ovm_sampler_slow_down(sampler, 4000); /* would be faster: nothing happens */
	ovm_sampler_slow_down(sampler, 97);
	samples_of_a_while(sampler, pid); /* what was in the ring */
	uint64_t slow = samples_of_a_while(sampler, pid);
	assert_true(slow > 0 && slow < fast / 3);
	ovm_sampler_close(sampler);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &wstatus, 0), pid);
}

static void test_forbidden(void **state)
{
	(void)state;
	if (!is_available(true, "ptrace-timer"))
		skip();
	check_forbidden(EPERM);
	check_forbidden(ENOSYS);
}

/* --- launch
 * --------------------------------------------------------------------------------------------------
 */

static void test_exit_status(void **state)
{
	(void)state;
	int wstatus;
	assert_int_equal(ovm_launch_exit_status(0), 0);
	assert_int_equal(ovm_launch_exit_status(42 << 8), 42);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0)
		_exit(ovm_launch_exit_status(SIGUSR1));
	assert_int_equal(waitpid(pid, &wstatus, 0), pid);
	assert_true(WIFSIGNALED(wstatus));
	assert_int_equal(WTERMSIG(wstatus), SIGUSR1);
}

static void count_if_caller(void *arg, uint32_t i)
{
	int *n = arg;
	(void)i;
	*n += gettid() == getpid();
}

static void test_signals(void **state)
{
	(void)state;
	struct sigaction before, now;
	int wstatus, n = 0;
	sigaction(SIGTERM, NULL, &before);
	pid_t pid = start_spinner();
	ovm_launch_signals(pid);
	ovm_parallel(1000, count_if_caller, &n);
	assert_int_equal(n, 1000); /* memory may run out in this thread only */
	raise(SIGINT);		   /* ignored */
	raise(SIGTERM);
	assert_int_equal(waitpid(pid, &wstatus, 0), pid);
	assert_int_equal(WTERMSIG(wstatus), SIGTERM);
	ovm_launch_signals_release();
	sigaction(SIGTERM, NULL, &now);
	assert_ptr_equal(now.sa_handler, before.sa_handler);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_perf),	   cmocka_unit_test(test_ptrace),
	    cmocka_unit_test(test_cannot_execute), cmocka_unit_test(test_unknown_event),
	    cmocka_unit_test(test_running_perf),   cmocka_unit_test(test_running_ptrace),
	    cmocka_unit_test(test_forbidden),	   cmocka_unit_test(test_exit_status),
	    cmocka_unit_test(test_signals),	   cmocka_unit_test(test_slow_down),
	};
	if (!is_available(false, "perf_event") && !is_available(true, "ptrace-timer"))
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
