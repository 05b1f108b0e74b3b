/* Makes one call of a libc function fail, in one program only. To be preloaded:
 *
 *   LD_PRELOAD=faultlib.so FAULT_CALL=fsync FAULT_NTH=1 FAULT_ERRNO=5 optvm ...
 *
 *   FAULT_CALL   a name of the table below; or "count": nothing fails
 *   FAULT_NTH    the how many-eth call, from 1
 *   FAULT_ERRNO  a number
 *   FAULT_TOOL   the program's name (default optvm): elsewhere nothing happens
 *   FAULT_COUNTS a file: at a regular end, how often each function was called ("name n")
 *
 * Only calls from the program itself count, not those of the libraries under it, only from main()
 * on, and only in its first process: children of a fork go unharmed, and programs it executes are
 * not preloaded. A ptrace call that lets a stopped thread go cannot fail and is left alone.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define CALLS                                                                                      \
	X(malloc)                                                                                  \
	X(calloc) X(realloc) X(open) X(openat) X(fopen) X(opendir) X(read) X(write) X(pread)       \
	    X(pwrite) X(close) X(mmap) X(fstat) X(stat) X(ftruncate) X(fcntl) X(fsync) X(fchmod)   \
		X(rename) X(renameat2) X(unlink) X(mkostemp) X(memfd_create) X(dup) X(fdopen)      \
		    X(pipe2) X(fork) X(waitpid) X(ptrace) X(syscall) X(ioctl) X(poll) X(kill)      \
			X(nanosleep) X(sigaction) X(pthread_create) X(fflush) X(fclose)

enum call {
#define X(name) CALL_##name,
	CALLS
#undef X
	    N_CALLS
};

static const char *const names[] = {
#define X(name) #name,
    CALLS
#undef X
};

int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void),
		      void (*fini)(void), void (*rtld_fini)(void), void *stack_end);

static struct {
	bool is_on;
	pid_t pid;
	uintptr_t lo, hi; /* the program's own code */
	int call;	  /* -1: count only */
	unsigned long nth;
	int errnum;
	const char *counts;
} config;
static unsigned long n_calls[N_CALLS];

static int find_program(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size, (void)arg;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X))
			continue;
		config.lo = info->dlpi_addr + ph->p_vaddr;
		config.hi = config.lo + ph->p_memsz;
	}
	return 1; /* the first is the program */
}

static unsigned long number(const char *name)
{
	const char *text = getenv(name);
	return text ? strtoul(text, NULL, 10) : 0;
}

static void __attribute__((constructor)) begin(void)
{
	const char *tool = getenv("FAULT_TOOL"), *call = getenv("FAULT_CALL");
	if (!call || strcmp(program_invocation_short_name, tool ? tool : "optvm"))
		return;
	dl_iterate_phdr(find_program, NULL);
	config.pid = getpid();
	config.call = -1;
	for (int i = 0; i < N_CALLS; i++)
		if (!strcmp(names[i], call))
			config.call = i;
	config.nth = number("FAULT_NTH");
	config.errnum = (int)number("FAULT_ERRNO");
	config.counts = getenv("FAULT_COUNTS");
	unsetenv("LD_PRELOAD");
}

static int (*real_main)(int, char **, char **);

static int main_of_tool(int argc, char **argv, char **env)
{
	config.is_on = config.pid != 0; /* static initializers of libraries are over */
	return real_main(argc, argv, env);
}

int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void),
		      void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
	__typeof__(&__libc_start_main) next = dlsym(RTLD_NEXT, "__libc_start_main");
	real_main = main;
	return next(main_of_tool, argc, argv, init, fini, rtld_fini, stack_end);
}

static void __attribute__((destructor)) end(void)
{
	if (!config.is_on || !config.counts || getpid() != config.pid)
		return;
	config.is_on = false;
	FILE *to = fopen(config.counts, "we");
	for (int i = 0; to && i < N_CALLS; i++)
		fprintf(to, "%s %lu\n", names[i], n_calls[i]);
	if (to)
		fclose(to);
}

/* One call from @from. True: it fails, errno is set. */
static bool fails(enum call call, const void *from)
{
	uintptr_t at = (uintptr_t)from;
	if (!config.is_on || at - config.lo >= config.hi - config.lo || getpid() != config.pid)
		return false;
	unsigned long n = __atomic_add_fetch(&n_calls[call], 1, __ATOMIC_RELAXED);
	if ((int)call != config.call || n != config.nth)
		return false;
	errno = config.errnum;
	return true;
}

#define FAILS(name) fails(CALL_##name, __builtin_return_address(0))
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The dynamic linker allocates, so these cannot ask it for the next ones. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);

void *malloc(size_t size)
{
	return FAILS(malloc) ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return FAILS(calloc) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
	return FAILS(realloc) ? NULL : __libc_realloc(p, size);
}

#define WRAP(type, bad, name, params, args)                                                        \
	type name params                                                                           \
	{                                                                                          \
		if (FAILS(name))                                                                   \
			return bad;                                                                \
		return NEXT(name) args;                                                            \
	}

WRAP(FILE *, NULL, fopen, (const char *path, const char *mode), (path, mode))
WRAP(DIR *, NULL, opendir, (const char *path), (path))
WRAP(ssize_t, -1, read, (int fd, void *to, size_t n), (fd, to, n))
WRAP(ssize_t, -1, write, (int fd, const void *from, size_t n), (fd, from, n))
WRAP(ssize_t, -1, pread, (int fd, void *to, size_t n, off_t at), (fd, to, n, at))
WRAP(ssize_t, -1, pwrite, (int fd, const void *from, size_t n, off_t at), (fd, from, n, at))
WRAP(void *, MAP_FAILED, mmap, (void *at, size_t n, int prot, int flags, int fd, off_t off),
     (at, n, prot, flags, fd, off))
WRAP(int, -1, fstat, (int fd, struct stat *st), (fd, st))
WRAP(int, -1, stat, (const char *path, struct stat *st), (path, st))
WRAP(int, -1, ftruncate, (int fd, off_t size), (fd, size))
WRAP(int, -1, fsync, (int fd), (fd))
WRAP(int, -1, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(int, -1, rename, (const char *from, const char *to), (from, to))
WRAP(int, -1, renameat2, (int fd, const char *from, int fd2, const char *to, unsigned flags),
     (fd, from, fd2, to, flags))
WRAP(int, -1, unlink, (const char *path), (path))
WRAP(int, -1, mkostemp, (char *path, int flags), (path, flags))
WRAP(int, -1, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(int, -1, dup, (int fd), (fd))
WRAP(FILE *, NULL, fdopen, (int fd, const char *mode), (fd, mode))
WRAP(int, -1, pipe2, (int fds[2], int flags), (fds, flags))
WRAP(pid_t, -1, fork, (void), ())
WRAP(pid_t, -1, waitpid, (pid_t pid, int *status, int options), (pid, status, options))
WRAP(int, -1, poll, (struct pollfd * fds, nfds_t n, int timeout), (fds, n, timeout))
WRAP(int, -1, kill, (pid_t pid, int sig), (pid, sig))
WRAP(int, -1, nanosleep, (const struct timespec *wait, struct timespec *left), (wait, left))
WRAP(int, -1, sigaction, (int sig, const struct sigaction *act, struct sigaction *old),
     (sig, act, old))

/* These do their work even if they say that it failed. */
int close(int fd)
{
	int errnum = FAILS(close) ? errno : 0, rc = NEXT(close)(fd);
	errno = errnum ? errnum : errno;
	return errnum ? -1 : rc;
}

int fclose(FILE *stream)
{
	int errnum = FAILS(fclose) ? errno : 0, rc = NEXT(fclose)(stream);
	errno = errnum ? errnum : errno;
	return errnum ? EOF : rc;
}

int fflush(FILE *stream)
{
	int errnum = FAILS(fflush) ? errno : 0, rc = NEXT(fflush)(stream);
	errno = errnum ? errnum : errno;
	return errnum ? EOF : rc;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	if (FAILS(pthread_create))
		return config.errnum;
	return NEXT(pthread_create)(thread, attr, run, arg);
}

/* Variable arguments are passed on as the registers they come in. */
int open(const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	mode_t mode = va_arg(ap, mode_t);
	va_end(ap);
	if (FAILS(open))
		return -1;
	return NEXT(open)(path, flags, mode);
}

int openat(int fd, const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	mode_t mode = va_arg(ap, mode_t);
	va_end(ap);
	if (FAILS(openat))
		return -1;
	return NEXT(openat)(fd, path, flags, mode);
}

int fcntl(int fd, int cmd, ...)
{
	va_list ap;
	va_start(ap, cmd);
	long arg = va_arg(ap, long);
	va_end(ap);
	if (FAILS(fcntl))
		return -1;
	return NEXT(fcntl)(fd, cmd, arg);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	if (FAILS(ioctl))
		return -1;
	return NEXT(ioctl)(fd, request, arg);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list ap;
	va_start(ap, request);
	pid_t pid = va_arg(ap, pid_t);
	void *addr = va_arg(ap, void *), *data = va_arg(ap, void *);
	va_end(ap);
	bool lets_go =
	    request == PTRACE_CONT || request == PTRACE_DETACH || request == PTRACE_LISTEN;
	if (!lets_go && FAILS(ptrace))
		return -1;
	return NEXT(ptrace)(request, pid, addr, data);
}

long syscall(long nr, ...)
{
	va_list ap;
	long arg[6];
	va_start(ap, nr);
	for (int i = 0; i < 6; i++)
		arg[i] = va_arg(ap, long);
	va_end(ap);
	if (FAILS(syscall))
		return -1;
	return NEXT(syscall)(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}
