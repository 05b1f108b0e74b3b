#!/usr/bin/env bash
# Throws, catches, cleanups, backtraces, cancellation and thread exit through frames of live copies (rule R15).
. "$(dirname "$0")/../support/live.sh"
cat >exc.cpp <<'EOP'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdexcept>
#include <string>
#include <thread>
#include <time.h>
#include <vector>
static thread_local unsigned seed;
static unsigned rnd() { return seed = seed * 1103515245u + 12345u, seed >> 16; }
struct Guard { long &n; Guard(long &n) : n(n) {} ~Guard() { n++; } };
__attribute__((noinline)) static long leaf(unsigned x, long &cleanups)
{
	Guard guard(cleanups);
	if (x % 97 == 0) throw std::runtime_error("r");
	if (x % 89 == 0) throw (int)x;
	if (x % 83 == 0) throw std::string("s");
	return x % 5 == 0 ? x * 3 : x % 7 == 0 ? x ^ 0x55 : x + 1;
}
__attribute__((noinline)) static long middle(unsigned x, long &cleanups)
{
	Guard guard(cleanups);
	try { return leaf(x, cleanups) + leaf(x + 1, cleanups); }
	catch (const std::string &s) { return (long)s.size(); }
	catch (int) { if (x & 1) throw; return 7; }
}
__attribute__((noinline)) static void once(unsigned s, long *out)
{
	long sum = 0, cleanups = 0;
	seed = s;
	for (unsigned i = 0; i < 20000; i++)
		try { sum += middle(rnd(), cleanups); }
		catch (const std::exception &e) { sum += e.what()[0]; }
		catch (int x) { sum -= x; }
	out[0] = sum;
	out[1] = cleanups;
}
static long now_ms() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
static void work(unsigned s, int ms, long *out)
{
	once(s, out);
	for (long until = now_ms() + ms; now_ms() < until;) {
		long again[2];
		once(s, again);
		if (again[0] != out[0] || again[1] != out[1]) { out[2] = 1; return; }
	}
}
int main(int, char **argv)
{
	int n = atoi(argv[1]), ms = atoi(argv[2]);
	std::vector<std::thread> threads;
	std::vector<long> out(3 * n);
	for (int t = 0; t < n; t++) threads.emplace_back([=, &out] { work(t + 1, ms, &out[3 * t]); });
	for (auto &t : threads) t.join();
	for (long x : out) printf("%ld\n", x);
	return 3;
}
EOP
cat >frames.c <<'EOP'
/* backtrace() from the bottom of hot frames must always see main; cancellation and pthread_exit must run the handlers. */
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static long now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
static long n_short, n_cleanups;
static int depth_wanted;
__attribute__((noinline)) int bottom(int x)
{
	void *pc[64];
	int n = backtrace(pc, 64);
	if (!depth_wanted) depth_wanted = n;
	n_short += n != depth_wanted;
	return x + 1;
}
__attribute__((noinline)) int second(int x) { int s = 0; for (int i = 0; i < 50; i++) s += (x ^ i) % 3; return bottom(x + s) - s; }
__attribute__((noinline)) int first(int x) { return second(x) + second(x ^ 1); }
static void cleanup(void *arg) { (*(long *)arg)++; }
static volatile unsigned sink;
__attribute__((noinline)) static void spin(unsigned x) { for (int i = 0; i < 100000; i++) { x = x * 1103515245u + 12345u; sink = x; } }
static void *cancelled(void *arg)
{
	pthread_cleanup_push(cleanup, &n_cleanups);
	for (;;) { spin(5); pthread_testcancel(); }
	pthread_cleanup_pop(0);
	return arg;
}
__attribute__((noinline)) static void leave(int x) { spin((unsigned)x); pthread_exit((void *)8l); }
static void *exits(void *arg)
{
	pthread_cleanup_push(cleanup, &n_cleanups);
	leave(3);
	pthread_cleanup_pop(0);
	return arg;
}
int main(int argc, char **argv)
{
	long rounds = 0, sum = 0;
	for (long until = now_ms() + atoi(argv[1]); now_ms() < until;) {
		for (int i = 0; i < 500; i++) sum += first(i);
		pthread_t a, b;
		void *r;
		pthread_create(&a, 0, cancelled, 0);
		pthread_create(&b, 0, exits, 0);
		pthread_join(b, &r);
		sum += (long)r;
		pthread_cancel(a);
		pthread_join(a, &r);
		if (r != PTHREAD_CANCELED) puts("not cancelled");
		rounds++;
	}
	printf("%ld short backtraces, %ld handlers missing\n", n_short, 2 * rounds - n_cleanups);
	return argc > 5;
}
EOP
for opt in "-O2" "-O2 -no-pie" "-O0" "-O2 -static-libgcc -static-libstdc++"; do
	# shellcheck disable=SC2086
	g++ $opt -pthread exc.cpp -o exc || exit 1
	expected ./exc 3 100
	live "" ./exc 3 2000
done
g++ -O2 -pthread exc.cpp -o exc
expected ./exc 2 100
live "--uniform --skip lib*.so*" ./exc 2 9000
for opt in "-O2" "-O2 -no-pie -fcf-protection"; do
	# shellcheck disable=SC2086
	gcc $opt -fexceptions -pthread frames.c -o frames || exit 1
	expected ./frames 200
	live "" ./frames 2500
done
# No unwinder that could be asked: only leaf code may be copied, and exceptions still work.
g++ -O2 -static -pthread exc.cpp -o static || exit 1
expected ./static 2 100
"$tool" run --always --sample-ms 300 -- ./static 2 2000 >got.out 2>got.err
[ $? = "$want_status" ] || fail "static program: status $?"
cmp -s want.out got.out || fail "static program: other output"
done_testing
