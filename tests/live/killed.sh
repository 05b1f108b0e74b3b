#!/usr/bin/env bash
# kill -9 of the tool at any instant harms nobody (rule R13): the program goes on and computes the right thing, also with
# exceptions, threads and signals, whatever was half done.
. "$(dirname "$0")/../support/live.sh"
n=${OPTVM_KILLS:-30}
cat >prog.cpp <<'EOP'
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <signal.h>
#include <stdexcept>
#include <string>
#include <sys/time.h>
#include <thread>
#include <time.h>
#include <unistd.h>
static long now_ms() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
__attribute__((noinline)) static unsigned step(unsigned x) { if (x % 1009 == 0) throw std::runtime_error("x"); return x % 3 ? x * 1103515245u + 12345u : x / 3 + 7; }
__attribute__((noipa)) static unsigned run(unsigned x)
{
	unsigned sum = 0;
	for (int i = 0; i < 20000; i++)
		try { x = step(x); sum += x; } catch (const std::exception &e) { x += e.what()[0]; }
	return sum;
}
static void on_alarm(int) {}
int main(int, char **argv)
{
	signal(SIGALRM, on_alarm);
	itimerval it = {{0, 3000}, {0, 3000}};
	setitimer(ITIMER_REAL, &it, nullptr);
	FILE *pid = fopen("pid", "w");
	fprintf(pid, "%d\n", getpid());
	fclose(pid);
	long until = now_ms() + atoi(argv[1]), bad[2] = {0, 0};
	auto body = [&](int t) { unsigned want = run(t + 5); while (now_ms() < until) bad[t] += run(t + 5) != want; };
	std::thread other(body, 1);
	body(0);
	other.join();
	FILE *out = fopen("result.tmp", "w"); /* stdout may be gone with the tool */
	fprintf(out, "%ld %ld\n", bad[0], bad[1]);
	fclose(out);
	rename("result.tmp", "result");
	return 0;
}
EOP
g++ -O2 -pthread prog.cpp -o prog || exit 1
patched=0
for i in $(seq "$n"); do
	rm -f result pid log
	OVM_LOG=install=info "$tool" run --always --sample-ms 200 -- ./prog 1500 >/dev/null 2>log &
	tool_pid=$!
	sleep "$(awk -v i="$i" -v n="$n" 'BEGIN { print 0.15 + 0.55 * (i - 1) / n }')"
	kill -9 $tool_pid 2>/dev/null
	wait $tool_pid 2>/dev/null
	grep -q pause log && patched=$((patched + 1))
	for _ in $(seq 400); do [ -e result ] && break; sleep 0.01; done
	[ "$(cat result 2>/dev/null)" = "0 0" ] || fail "killed at step $i of $n: result '$(cat result 2>&1)', log $(cat log)"
	if [ -e pid ] && kill -0 "$(cat pid)" 2>/dev/null; then sleep 0.3; fi
	if [ -e pid ] && kill -0 "$(cat pid)" 2>/dev/null && ! grep -q Z "/proc/$(cat pid)/stat"; then fail "still there: $(cat pid)"; fi
done
echo "$n kills, $patched after the patch"
done_testing
