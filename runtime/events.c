/* A line is written with one call, so that readers never see half of one (pipes: up to 4 KiB), and
 * never waited for: the program must not stand still because somebody does not read. A pipe without
 * reader would send SIGPIPE, which would end the tool; it is taken away before it arrives.
 */
#include "runtime/events.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int ovm_events_setup(struct ovm_ctx *ctx, int fd)
{
	int flags = fd ? fcntl(fd, F_GETFD) : 0;
	if (flags < 0)
		return ovm_fail(ctx, OVM_E_USAGE, "--status-fd: %d is not open: optvm ... %d>FILE",
				fd, fd);
	if (fd > STDERR_FILENO) /* those three are the program's too */
		fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
	return 0;
}

static bool is_writable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	return poll(&p, 1, 0) == 1 && (p.revents & POLLOUT);
}

static void put_line(int fd, const char *text, size_t n)
{
	sigset_t pipe, saved, pending;
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	sigpending(&pending);
	pthread_sigmask(SIG_BLOCK, &pipe, &saved);
	bool failed = is_writable(fd) && write(fd, text, n) < 0 && errno == EPIPE;
	if (failed && !sigismember(&pending, SIGPIPE))
		sigtimedwait(&pipe, NULL, &(struct timespec){0});
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

static json_t *begin(const char *event, pid_t pid)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	json_t *o = json_object();
	json_object_set_new(o, "schema", json_string("optvm.events/1"));
	json_object_set_new(o, "time",
			    json_real((double)now.tv_sec + (double)(now.tv_nsec / 1000000) / 1e3));
	json_object_set_new(o, "event", json_string(event));
	json_object_set_new(o, "pid", json_integer(pid));
	return o;
}

static void set_u64(json_t *o, const char *key, uint64_t x)
{
	json_object_set_new(o, key, json_integer((json_int_t)x));
}

static void end(int fd, json_t *o)
{
	char *text = json_dumps(o, JSON_COMPACT | JSON_PRESERVE_ORDER);
	json_decref(o);
	if (!text)
		return;
	char *line = ovm_asprintf("%s\n", text);
	put_line(fd, line, strlen(line));
	free(line);
	free(text);
}

void ovm_event_started(int fd, pid_t pid)
{
	if (fd)
		end(fd, begin("started", pid));
}

void ovm_event_sampled(int fd, pid_t pid, uint64_t n_samples)
{
	if (!fd)
		return;
	json_t *o = begin("sampled", pid);
	set_u64(o, "samples", n_samples);
	end(fd, o);
}

void ovm_event_round(int fd, const struct ovm_round *round, const char *why)
{
	const struct ovm_round_result *r = &round->result;
	if (!fd)
		return;
	json_t *o = begin(why ? "left" : "optimized", round->pid);
	if (why) {
		json_t *text = json_string(why);
		json_object_set_new(o, "why", text ? text : json_string("?"));
	} else {
		set_u64(o, "regions", r->n_regions);
		set_u64(o, "patches", r->n_patches);
		json_object_set_new(o, "pause_ms", json_real(r->pause_ms));
	}
	if (r->measured.verdict.n_pairs)
		json_object_set_new(o, "time_ratio", json_real(r->measured.verdict.ratio));
	end(fd, o);
}

void ovm_event_also(int fd, pid_t pid, pid_t like)
{
	if (!fd)
		return;
	json_t *o = begin("optimized", pid);
	set_u64(o, "like", (uint64_t)like);
	end(fd, o);
}

void ovm_event_ended(int fd, pid_t pid, const int *wstatus)
{
	if (!fd)
		return;
	json_t *o = begin("ended", pid);
	if (wstatus && WIFEXITED(*wstatus))
		set_u64(o, "exit_status", (uint64_t)WEXITSTATUS(*wstatus));
	else if (wstatus)
		set_u64(o, "signal", (uint64_t)WTERMSIG(*wstatus));
	end(fd, o);
}
