/* Starting a program so that nobody notices a tool in between.
 *
 *   tool                                   child
 *   fork ------------------------------->  wait on the go pipe (end of file: the tool died, leave)
 *   open perf events on the child
 *   write one byte --------------------->  execvp
 *   read the error pipe  <---------------  closed by a successful exec; else the errno
 *
 * The child has the signal state the tool was started with (nohup, a background job of a shell
 * without job control): the tool's own handlers are installed after the fork, by
 * ovm_launch_signals.
 *
 * Ctrl-C goes from the terminal to the whole foreground group, so the program has it already;
 * forwarding would deliver it twice. TERM, HUP and USR are usually sent to one pid, ours, and meant
 * for the program: each is passed on once, but not those the kernel made (a hang-up reaches the
 * whole group) nor those the program sent to its own group.
 */
#include "profiler/launch.h"
#include "base/parallel.h"
#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	SERVICE_MS = 20,
	EXIT_INTERNAL = 70,
	EXIT_BEFORE_EXEC = 125,
	EXIT_NOT_EXECUTABLE = 126,
	EXIT_NOT_FOUND = 127
};

static ssize_t read_retry(int fd, void *to, size_t n)
{
	ssize_t got;
	do
		got = read(fd, to, n);
	while (got < 0 && errno == EINTR);
	return got;
}

static _Noreturn void child_main(char *const argv[], int go_fd, int err_fd)
{
	char go;
	if (read_retry(go_fd, &go, 1) != 1)
		_exit(EXIT_BEFORE_EXEC);
	execvp(argv[0], argv);
	int errnum = errno;
	ssize_t put = write(err_fd, &errnum, sizeof(errnum));
	_exit(put < 0 ? EXIT_BEFORE_EXEC : errnum == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
}

/* The child that waits for its go; 0: none. For when there is no memory, and so no context. */
static pid_t held;

int ovm_launch_start(struct ovm_ctx *ctx, char *const argv[], struct ovm_launch *out)
{
	int go[2], err[2];
	if (OVM_FAULT_FAILS(LAUNCH_PIPE) || pipe2(go, O_CLOEXEC))
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, errno, "pipe");
	if (pipe2(err, O_CLOEXEC)) {
		int errnum = errno;
		close(go[0]);
		close(go[1]);
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, errnum, "pipe");
	}
	struct sigaction plain = {.sa_handler = SIG_DFL}, saved;
	sigaction(SIGCHLD, &plain, &saved); /* were it ignored, waitpid would lose the status */
	pid_t pid = OVM_FAULT_FAILS(LAUNCH_FORK) ? -1 : fork();
	if (pid == 0) {
		sigaction(SIGCHLD, &saved, NULL);
		close(go[1]);
		close(err[0]);
		child_main(argv, go[0], err[1]);
	}
	int errnum = errno;
	close(go[0]);
	close(err[1]);
	if (pid < 0) {
		close(go[1]);
		close(err[0]);
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, errnum, "fork");
	}
	held = pid;
	OVM_FAULT(LAUNCH_FORKED);
	*out = (struct ovm_launch){.pid = pid, .name = argv[0], .go_fd = go[1], .err_fd = err[0]};
	return OVM_OK;
}

/* A child that a sampler already traces can be stopped by a signal before its exec, while nobody
 * but us is there to pass it on. Stops of other kinds (the exec itself) are left for the sampler.
 */
static void service_signal_stop(pid_t pid)
{
	siginfo_t info = {0};
	if (waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOHANG | WNOWAIT | __WALL) || !info.si_pid)
		return;
	if (info.si_code != CLD_TRAPPED || info.si_status >> 8)
		return;
	if (!waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOHANG | __WALL))
		ptrace(PTRACE_CONT, pid, NULL, (void *)(long)info.si_status);
}

/* The errno the child sent, or 0 when the exec closed the pipe. */
static int wait_for_exec(const struct ovm_launch *launch)
{
	struct pollfd ready = {.fd = launch->err_fd, .events = POLLIN};
	int errnum = 0;
	while (poll(&ready, 1, SERVICE_MS) <= 0)
		service_signal_stop(launch->pid);
	if (read_retry(launch->err_fd, &errnum, sizeof(errnum)) != (ssize_t)sizeof(errnum))
		return 0;
	return errnum;
}

/* If the child was killed meanwhile there is no reader; its exit status will say so, not a SIGPIPE
 * of ours. Returns 0 or an errno: the child waits still. */
static int write_go(int fd)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN}, saved;
	char go = 1;
	ssize_t put;
	sigaction(SIGPIPE, &ignore, &saved);
	do
		put = write(fd, &go, 1);
	while (put < 0 && errno == EINTR);
	int errnum = put < 0 && errno != EPIPE ? errno : 0;
	sigaction(SIGPIPE, &saved, NULL);
	return errnum;
}

int ovm_launch_go(struct ovm_ctx *ctx, struct ovm_launch *launch, int *exit_status)
{
	OVM_FAULT(LAUNCH_GO);
	int unwritten = write_go(launch->go_fd);
	held = 0;
	OVM_FAULT(LAUNCH_GONE);
	int errnum = unwritten ? 0 : wait_for_exec(launch);
	close(launch->go_fd); /* without its go the child leaves */
	close(launch->err_fd);
	launch->go_fd = launch->err_fd = -1;
	OVM_FAULT(LAUNCH_EXEC);
	if (unwritten) {
		kill(launch->pid, SIGKILL); /* a sampler may trace it, and hold it */
		waitpid(launch->pid, NULL, __WALL);
		*exit_status = EXIT_BEFORE_EXEC;
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, unwritten, "cannot start %s",
				      launch->name);
	}
	if (!errnum)
		return OVM_OK;
	waitpid(launch->pid, NULL, __WALL);
	*exit_status = errnum == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
	return ovm_fail(ctx, OVM_E_UNAVAILABLE, "cannot execute %s: %s", launch->name,
			strerror(errnum));
}

/* --- signals
 * -------------------------------------------------------------------------------------------------
 */

static const int IGNORED[] = {SIGINT, SIGQUIT};
static const int FORWARDED[] = {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
enum { N_IGNORED = 2, N_FORWARDED = 4 };

/* A handler has no context argument: this is the one place with state of its own. */
static volatile sig_atomic_t forward_to, timed_out;
static struct sigaction saved_ignored[N_IGNORED], saved_forwarded[N_FORWARDED];

static void forward(int sig, siginfo_t *info, void *context)
{
	int saved = errno;
	(void)context;
	pid_t pid = (pid_t)forward_to;
	if (pid > 0 && info->si_code <= 0 && info->si_pid != pid)
		kill(pid, sig);
	errno = saved;
}

static void on_time(int sig)
{
	int saved = errno;
	(void)sig;
	pid_t pid = (pid_t)forward_to;
	if (pid > 0) {
		timed_out = 1;
		kill(pid, SIGTERM);
	}
	errno = saved;
}

void ovm_launch_timeout(double seconds)
{
	static const double longest = 1e9;
	struct sigaction action = {.sa_handler = on_time, .sa_flags = SA_RESTART};
	struct itimerval timer = {0};
	if (seconds <= 0)
		return;
	seconds = seconds > longest ? longest : seconds;
	timer.it_value.tv_sec = (time_t)seconds;
	timer.it_value.tv_usec = (suseconds_t)((seconds - (double)timer.it_value.tv_sec) * 1e6);
	if (!timer.it_value.tv_sec && !timer.it_value.tv_usec)
		timer.it_value.tv_usec = 1;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
}

bool ovm_launch_timed_out(void)
{
	return timed_out;
}

/* Out of memory, or a bug: we cannot go on, the program shall, and its status still be ours. A
 * thread that ends lets go of whatever it traces, signals and all, better than we could; so the one
 * that traces ends, and another waits. */
static _Alignas(64) unsigned char waiter_stack[256 << 10];
static pid_t launcher;

static void *see_out(void *arg)
{
	pid_t pid = (pid_t)forward_to, got;
	int wstatus;
	(void)arg;
	do
		got = waitpid(pid, &wstatus, __WALL);
	while ((got < 0 && errno == EINTR) || (got == pid && WIFSTOPPED(wstatus)));
	_Exit(got == pid ? ovm_launch_exit_status(wstatus) : EXIT_INTERNAL);
}

static void leave_to_waiter(void)
{
	pthread_t waiter;
	pthread_attr_t attr;
	if (held) { /* it would wait for us, and we for it; a sampler may trace it, and hold it */
		kill(held, SIGKILL);
		_Exit(EXIT_BEFORE_EXEC);
	}
	if (!forward_to || launcher != getpid() || launcher != gettid())
		return;
	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, waiter_stack, sizeof(waiter_stack));
	if (!pthread_create(&waiter, &attr, see_out, NULL))
		syscall(SYS_exit, 0);
}

void ovm_launch_signals(pid_t pid)
{
	launcher = getpid();
	ovm_last_resort_set(leave_to_waiter);
	ovm_parallel_spare(UINT_MAX); /* another thread could only end the tool */
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	struct sigaction pass = {.sa_sigaction = forward, .sa_flags = SA_SIGINFO | SA_RESTART};
	forward_to = pid;
	for (int i = 0; i < N_IGNORED; i++)
		sigaction(IGNORED[i], &ignore, &saved_ignored[i]);
	for (int i = 0; i < N_FORWARDED; i++) {
		sigaction(FORWARDED[i], NULL, &saved_forwarded[i]);
		if (saved_forwarded[i].sa_handler != SIG_IGN) /* nohup */
			sigaction(FORWARDED[i], &pass, NULL);
	}
}

void ovm_launch_signals_release(void)
{
	if (!forward_to)
		return;
	ovm_last_resort_set(NULL);
	ovm_parallel_spare(0);
	forward_to = 0;
	for (int i = 0; i < N_IGNORED; i++)
		sigaction(IGNORED[i], &saved_ignored[i], NULL);
	for (int i = 0; i < N_FORWARDED; i++)
		sigaction(FORWARDED[i], &saved_forwarded[i], NULL);
}

bool ovm_launch_reap(pid_t child, int *wstatus)
{
	siginfo_t info = {0};
	if (waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) || !info.si_pid ||
	    (info.si_code != CLD_EXITED && info.si_code != CLD_KILLED &&
	     info.si_code != CLD_DUMPED))
		return false;
	return waitpid(child, wstatus, WNOHANG) == child;
}

int ovm_launch_exit_status(int wstatus)
{
	if (!WIFSIGNALED(wstatus))
		return WEXITSTATUS(wstatus);
	int sig = WTERMSIG(wstatus);
	sigset_t set;
	prctl(PR_SET_DUMPABLE, 0); /* one core file is enough */
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
	return 128 + sig; /* not reached but for signals that cannot kill us */
}
