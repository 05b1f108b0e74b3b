/* Many self-checking programs in one: the main of each is called as a function named in tests[]
 * (made by torture.py).
 *
 *   batch once             each in a child of its own: one line with status and output
 *   batch calibrate        names of those that can be called again and again in one process
 *   batch live NAMES [MOST [SETTLED]]
 *                          calls the ones named in the file NAMES by turns until this process has
 * been given new code and has kept it for SETTLED milliseconds, or for MOST; then the same as
 * `once`
 *
 * `live` prints what `once` prints if the new code is right. Its times are CPU time: on a busy
 * machine it does not end sooner. If one of those called again ends the turns, a line says which.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct test {
	const char *name;
	int (*run)(int, char **, char **);
};
extern const struct test tests[];
extern const int n_tests;

enum { ROUNDS = 40, LEAST_MS = 400, SLOW_MS = 20, TEST_SECONDS = 20 };

static long clock_ms(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static long now_ms(void)
{
	return clock_ms(CLOCK_MONOTONIC);
}

static long cpu_ms(void)
{
	return clock_ms(CLOCK_PROCESS_CPUTIME_ID);
}

static int call(int i)
{
	char name[] = "test";
	char *argv[] = {name, NULL}, *envp[] = {NULL};
	return tests[i].run(1, argv, envp);
}

/* Memory of stdio and allocator belongs to the child alone, so it may do with them what it likes.
 */
static void once(int i)
{
	fflush(stdout);
	int out = memfd_create("output", 0), status = 0;
	pid_t pid = fork();
	if (pid == 0) {
		dup2(out, 1);
		dup2(out, 2);
		alarm(TEST_SECONDS);
		exit(call(i));
	}
	while (waitpid(pid, &status, 0) != pid)
		;
	uint64_t hash = 14695981039346656037u;
	unsigned char byte[4096];
	ssize_t n;
	for (off_t at = 0; (n = pread(out, byte, sizeof byte, at)) > 0; at += n)
		for (ssize_t k = 0; k < n; k++)
			hash = (hash ^ byte[k]) * 1099511628211u;
	close(out);
	if (WIFSIGNALED(status))
		printf("%s signal %d %016lx\n", tests[i].name, WTERMSIG(status),
		       (unsigned long)hash);
	else
		printf("%s exit %d %016lx\n", tests[i].name, WEXITSTATUS(status),
		       (unsigned long)hash);
}

static void silence(void)
{
	int null = open("/dev/null", O_RDWR);
	dup2(null, 1);
	dup2(null, 2);
	close(null);
}

static struct shared {
	int at, done;
	int out[4096];	  /* may not be repeated */
	int result[4096]; /* of the first call */
} * shared;

static void repeat_all(void)
{
	silence();
	long until = now_ms() + LEAST_MS;
	for (int round = 0; round < ROUNDS || now_ms() < until; round++)
		for (int i = 0; i < n_tests; i++) {
			if (shared->out[i])
				continue;
			shared->at = i;
			size_t held = mallinfo2().uordblks;
			long start = now_ms();
			alarm(2);
			int result = call(i);
			if (round == 0)
				shared->result[i] = result;
			if (result != shared->result[i] || now_ms() - start > SLOW_MS ||
			    (round > 2 && mallinfo2().uordblks != held))
				_exit(1);
		}
	shared->done = 1;
	_exit(0);
}

static void calibrate(void)
{
	while (!shared->done) {
		pid_t pid = fork();
		if (pid == 0)
			repeat_all();
		waitpid(pid, NULL, 0);
		if (!shared->done)
			shared->out[shared->at] = 1;
	}
	for (int i = 0; i < n_tests; i++)
		if (!shared->out[i])
			printf("%s %d\n", tests[i].name, shared->result[i]);
}

/* Anonymous executable memory that cannot be written: overlays. */
static int n_overlays(void)
{
	char line[512], name[256];
	int n = 0;
	FILE *f = fopen("/proc/self/maps", "re");
	while (f && fgets(line, sizeof line, f))
		n += strstr(line, " r-xp 00000000 00:00 0") &&
		     sscanf(line, "%*s %*s %*s %*s %*s %255s", name) < 1;
	if (f)
		fclose(f);
	return n;
}

static int rotating, tell_fd;
static pid_t rotates; /* this process; 0: not any more */

/* In a program called again: say which, for it leaves no other trace. */
static void on_death(int sig)
{
	char text[300];
	int n = snprintf(text, sizeof text, "%s got signal %d when called again\n",
			 tests[rotating].name, sig);
	_exit(write(tell_fd, text, (size_t)n) == n ? 3 : 4);
}

static void on_exit_called(void)
{
	if (rotates != getpid())
		return;
	dprintf(tell_fd, "%s called exit when called again\n", tests[rotating].name);
	_exit(3);
}

static void watch(void (*handler)(int), int fd)
{
	static const int deadly[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM};
	static char stack[65536];
	stack_t alt = {.ss_sp = stack, .ss_size = sizeof stack};
	tell_fd = fd;
	sigaltstack(&alt, NULL);
	for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) {
		struct sigaction act = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
		sigaction(deadly[i], &act, NULL);
	}
}

static void rotate(const char *path, long most_ms, long settled_ms)
{
	char name[256];
	static int chosen[4096], want[4096];
	int n = 0, result;
	FILE *f = fopen(path, "re");
	while (f && fscanf(f, "%255s %d", name, &result) == 2)
		for (int i = 0; i < n_tests; i++)
			if (!strcmp(name, tests[i].name)) {
				chosen[n] = i;
				want[n++] = result;
			}
	if (f)
		fclose(f);
	int out = dup(1), err = dup(2), had = 0, bad = -1;
	silence();
	watch(on_death, out);
	atexit(on_exit_called);
	rotates = getpid();
	long until = cpu_ms() + most_ms, settled = 0, looked = -1000;
	volatile unsigned busy = 0;
	for (long now; (now = cpu_ms()) < until && bad < 0 && !(settled && now > settled);) {
		for (int k = 0; k < n && bad < 0; k++) {
			rotating = chosen[k];
			alarm(TEST_SECONDS);
			if (call(rotating) != want[k])
				bad = rotating;
		}
		for (int k = 0; k < 10000; k++)
			busy = busy * 3 + (unsigned)k;
		if (now - looked > 20) {
			looked = now;
			int has = n_overlays();
			settled = has != had ? now + settled_ms : settled;
			had = has;
		}
	}
	alarm(0);
	rotates = 0;
	watch(SIG_DFL, out);
	dup2(out, 1);
	dup2(err, 2);
	if (bad >= 0)
		printf("%s returned something else when called again\n", tests[bad].name);
}

int main(int argc, char **argv)
{
	struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none);
	shared =
	    mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (argc < 2 || shared == MAP_FAILED)
		return 2;
	if (!strcmp(argv[1], "calibrate")) {
		calibrate();
		return 0;
	}
	if (!strcmp(argv[1], "live"))
		rotate(argv[2], argc > 3 ? atol(argv[3]) : 10000, argc > 4 ? atol(argv[4]) : 800);
	for (int i = 0; i < n_tests; i++)
		once(i);
	return 0;
}
