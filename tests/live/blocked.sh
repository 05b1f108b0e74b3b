#!/usr/bin/env bash
# One thread is hot, the others sleep in system calls for the whole time: none of the calls may return early or with an error
# that the program would not have seen, and a program that never runs is left alone.
. "$(dirname "$0")/../support/live.sh"
cat >blocked.c <<'EOP'
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
static int ms, pipes[2], pair[2];
static sem_t sem;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER, held = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int woken;
static long now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
static struct timespec span(void) { return (struct timespec){ms / 1000, ms % 1000 * 1000000}; }
static void report(const char *what, long begin, long rc, int err)
{
	static char lines[16][80];
	static int n;
	(void)lines; (void)n;
	long took = now_ms() - begin;
	char buf[100];
	int len = snprintf(buf, sizeof buf, "%s %ld %s %s\n", what, rc, rc < 0 ? strerror(err) : "-", took >= ms - 5 ? "full time" : "SHORT");
	if (write(1, buf, len) < 0) abort();
}
static void *t_sleep(void *a) { long b = now_ms(); struct timespec s = span(); long r = nanosleep(&s, 0); report("nanosleep", b, r, errno); return a; }
static void *t_clock(void *a) { long b = now_ms(); struct timespec s; clock_gettime(CLOCK_REALTIME, &s); s.tv_sec += ms / 1000; s.tv_nsec += ms % 1000 * 1000000l; if (s.tv_nsec >= 1000000000) { s.tv_nsec -= 1000000000; s.tv_sec++; } long r = sem_timedwait(&sem, &s); report("sem_timedwait", b, r, errno); return a; }
static void *t_poll(void *a) { long b = now_ms(); struct pollfd p = {pair[0], POLLIN, 0}; long r = poll(&p, 1, ms); report("poll", b, r, errno); return a; }
static void *t_select(void *a) { long b = now_ms(); struct timeval t = {ms / 1000, ms % 1000 * 1000}; long r = select(0, 0, 0, 0, &t); report("select", b, r, errno); return a; }
static void *t_epoll(void *a) { long b = now_ms(); int e = epoll_create1(0); struct epoll_event ev; long r = epoll_wait(e, &ev, 1, ms); report("epoll_wait", b, r, errno); return a; }
static void *t_read(void *a) { long b = now_ms(); char c; long r = read(pipes[0], &c, 1); report("read", b, r, errno); return a; }
static void *t_recv(void *a) { long b = now_ms(); char c; long r = recv(pair[1], &c, 1, 0); report("recv", b, r, errno); return a; }
static void *t_mutex(void *a) { long b = now_ms(); long r = pthread_mutex_lock(&held); report("mutex", b, r, errno); pthread_mutex_unlock(&held); return a; }
static void *t_cond(void *a) { long b = now_ms(); pthread_mutex_lock(&mutex); while (!woken) pthread_cond_wait(&cond, &mutex); pthread_mutex_unlock(&mutex); report("cond", b, 0, 0); return a; }
__attribute__((noinline)) static unsigned step(unsigned x) { return x % 3 ? x * 1103515245u + 12345u : x / 3 + 7; }
int main(int argc, char **argv)
{
	ms = atoi(argv[1]);
	void *(*body[])(void *) = {t_sleep, t_clock, t_poll, t_select, t_epoll, t_read, t_recv, t_mutex, t_cond};
	enum { N = sizeof body / sizeof body[0] };
	pthread_t t[N];
	if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || sem_init(&sem, 0, 0)) return 1;
	pthread_mutex_lock(&held);
	for (int i = 0; i < N; i++) pthread_create(&t[i], 0, body[i], 0);
	volatile unsigned x = 1;
	for (long until = now_ms() + ms + 50; now_ms() < until;) {
		unsigned y = x;
		for (int i = 0; argc < 3 && i < 100000; i++) y = step(y);
		if (argc >= 3) usleep(10000);
		x = y;
	}
	if (write(pipes[1], "x", 1) < 0 || write(pair[0], "y", 1) < 0) return 1;
	pthread_mutex_unlock(&held);
	pthread_mutex_lock(&mutex); woken = 1; pthread_cond_broadcast(&cond); pthread_mutex_unlock(&mutex);
	for (int i = 0; i < N; i++) pthread_join(t[i], 0);
	return 4;
}
EOP
gcc -O2 -pthread blocked.c -o blocked || exit 1
sorted() { sort "$1" >"$1.sorted"; }
expected ./blocked 300
sorted want.out
for words in "" "--uniform --skip lib*.so*"; do
	# shellcheck disable=SC2086
	"$tool" run --always --report report.json --sample-ms 300 $words -- ./blocked 5000 >got.out 2>got.err # no file matches the glob
	[ $? = 4 ] || fail "status"
	sorted got.out
	diff want.out.sorted got.out.sorted || fail "a blocked call was disturbed ($words)"
	grep -q '"optimized": true' report.json || fail "not optimized ($words): $(cat report.json)"
	[ "$(number threads)" = 10 ] || fail "stopped $(number threads) threads, not 10"
done
"$tool" run --always --report report.json --sample-ms 300 -- ./blocked 1000 idle >got.out 2>got.err
[ $? = 4 ] || fail "idle: status"
sorted got.out
diff want.out.sorted got.out.sorted || fail "idle: a blocked call was disturbed"
grep -q '"optimized": false' report.json || fail "idle: optimized"
done_testing
