#!/usr/bin/env bash
# Signals arrive thousands of times a second while the program is patched; handlers longjmp, use another stack,
# interrupt system calls. How the program ends comes through, also when a signal ends it.
. "$(dirname "$0")/../support/live.sh"
cat >sig.c <<'EOP'
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
__attribute__((noinline)) static unsigned step(unsigned x) { return x % 3 ? x * 1103515245u + 12345u : x / 3 + 7; }
static volatile unsigned in_handler;
static volatile long n_signals;
static sigjmp_buf env;
static volatile int armed;
static void on_timer(int s) { (void)s; unsigned x = 9; for (int i = 0; i < 300; i++) x = step(x); in_handler = x; n_signals++; }
static void on_user(int s) { (void)s; if (armed) { armed = 0; siglongjmp(env, 1); } }
__attribute__((noipa)) static unsigned run(void) { unsigned x = 1, sum = 0; for (int i = 0; i < 20000; i++) { x = step(x); sum += x; } return sum; }
static void *killer(void *arg)
{
	pthread_t t = *(pthread_t *)arg;
	for (;;) { usleep(700); pthread_kill(t, SIGUSR1); }
	return 0;
}
int main(int argc, char **argv)
{
	static char stack[65536];
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
	sigaltstack(&ss, 0);
	struct sigaction sa = {.sa_handler = on_timer, .sa_flags = SA_ONSTACK | SA_RESTART};
	sigaction(SIGALRM, &sa, 0);
	struct sigaction su = {.sa_handler = on_user};
	sigaction(SIGUSR1, &su, 0);
	struct itimerval it = {{0, 400}, {0, 400}};
	setitimer(ITIMER_REAL, &it, 0);
	pthread_t self = pthread_self(), k;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, 0);
	pthread_create(&k, 0, killer, &self);
	pthread_sigmask(SIG_UNBLOCK, &set, 0);
	unsigned want = run(), handler_want = 0;
	volatile long bad = 0, jumps = 0;
	for (long until = now_ms() + atoi(argv[1]); now_ms() < until;) {
		if (sigsetjmp(env, 1)) jumps++;
		else { armed = 1; bad += run() != want; armed = 0; }
		armed = 0;
		if (!handler_want) handler_want = in_handler;
		bad += handler_want && in_handler != handler_want;
	}
	printf("%ld bad, signals %s, jumps %s\n", (long)bad, n_signals > 10 ? "came" : "did not come", jumps > 10 ? "came" : "did not come");
	fflush(stdout);
	if (argc > 2) { setitimer(ITIMER_REAL, &(struct itimerval){0}, 0); raise(atoi(argv[2])); }
	return 5;
}
EOP
gcc -O2 -pthread sig.c -o sig || exit 1
expected ./sig 500
live "" ./sig 2000
live "--uniform --skip lib*.so*" ./sig 5000
ulimit -c 0
for s in 6 11 15; do
	expected ./sig 500 $s
	live "" ./sig 2000 $s
done
# A signal sent to the tool reaches the program; the tool ends as the program does.
cat >term.c <<'EOP'
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
static volatile sig_atomic_t n;
static void on(int s) { n += s == SIGTERM; }
int main(void) { signal(SIGTERM, on); fclose(fopen("ready", "w")); volatile unsigned x = 1; while (!n) for (int i = 0; i < 1000000; i++) x = x * 3 + 1; printf("%d\n", (int)n); return 9; }
EOP
gcc -O2 term.c -o term || exit 1
for delay in 0.2 0.6 1.5; do
	rm -f ready
	"$tool" run --always --sample-ms 300 -- ./term >got.out 2>&1 &
	pid=$!
	for _ in $(seq 1000); do [ -e ready ] && break; sleep 0.01; done # before its handler is set it just dies
	sleep $delay
	kill -TERM $pid
	wait $pid
	status=$?
	[ $status = 9 ] && [ "$(cat got.out)" = 1 ] || fail "TERM after $delay s: status $status, $(cat got.out)"
done
done_testing
