#!/usr/bin/env bash
# Many threads compute in the same hot functions, others come and go all the time. The result is the same, every thread
# was stopped, and those in a loop that is entered once were moved into its copy.
. "$(dirname "$0")/../support/live.sh"
cat >threads.c <<'EOP'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static int n_ms;
static long now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
__attribute__((noinline)) static unsigned step(unsigned x)
{
	if (x % 3 == 0) return x / 3 + 11;
	if (x % 5 == 0) return x * 7 + 1;
	return x * 1103515245u + 12345u;
}
/* One long loop; every 2^16 rounds the state must be what it was the first time. */
static void *worker(void *arg)
{
	unsigned long seed = (unsigned long)arg, bad = 0, first = 0;
	for (long until = now_ms() + n_ms; now_ms() < until;) {
		unsigned x = (unsigned)seed, sum = 0;
		for (int i = 0; i < 1 << 16; i++) { x = step(x); sum += x ^ (sum << 3); }
		if (!first) first = sum;
		bad += sum != first;
	}
	return (void *)(bad ? 0 : first);
}
static void *brief(void *arg) { unsigned x = (unsigned)(long)arg; for (int i = 0; i < 1000; i++) x = step(x); return (void *)(long)x; }
int main(int argc, char **argv)
{
	int n = atoi(argv[1]);
	n_ms = atoi(argv[2]);
	pthread_t t[64], b;
	for (long i = 0; i < n; i++) pthread_create(&t[i], 0, worker, (void *)(i + 1));
	unsigned long churn = 0, one = 0;
	for (long until = now_ms() + n_ms; argc > 3 && now_ms() < until;) {
		void *r;
		pthread_create(&b, 0, brief, (void *)5l);
		pthread_join(b, &r);
		if (!one) one = (unsigned long)r;
		churn += (unsigned long)r != one;
	}
	for (int i = 0; i < n; i++) { void *r; pthread_join(t[i], &r); printf("%lx\n", (unsigned long)r); }
	printf("%lu\n", churn);
	return n;
}
EOP
for opt in "-O2" "-O0 -no-pie"; do
	# shellcheck disable=SC2086
	gcc $opt -pthread threads.c -o threads || exit 1
	expected ./threads 1 100
	live "" ./threads 1 1500
	expected ./threads 4 100
	live "" ./threads 4 1500
	[ "$(number threads)" = 5 ] || fail "stopped $(number threads) threads, not 5"
	expected ./threads 16 300
	live "" ./threads 16 2000
	expected ./threads 3 300 churn
	live "" ./threads 3 2500 churn
	live "--uniform --skip lib*.so*" ./threads 3 4000 churn
done
cat >once.c <<'EOP'
#include <stdio.h>
int main(void) /* a hot loop that is entered once: only moving the PC gets into its copy */
{
	unsigned long x = 1, y = 0;
	for (unsigned long i = 0; i < 1200000000ul; i++) { x = x * 6364136223846793005ul + 1; if (x >> 63) y += x >> 40; else y ^= i; }
	printf("%lx %lx\n", x, y);
	return 0;
}
EOP
gcc -O2 once.c -o once || exit 1
expected ./once
live "" ./once
[ "$(number threads_moved)" = 1 ] || fail "the thread in the hot loop was not moved"
done_testing
