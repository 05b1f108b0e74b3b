#!/usr/bin/env bash
# The program forks, vforks, spawns and waits all the time, before, during and after it is patched. Children inherit patches and
# overlays; a vfork in progress delays the patch and nothing else; an exec throws everything away.
. "$(dirname "$0")/../support/live.sh"
cat >children.c <<'EOP'
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
extern char **environ;
static long now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000 + t.tv_nsec / 1000000; }
__attribute__((noinline)) static unsigned step(unsigned x) { return x % 3 ? x * 1103515245u + 12345u : x / 3 + 7; }
__attribute__((noipa)) static unsigned run(void) { unsigned x = 1, sum = 0; for (int i = 0; i < 50000; i++) { x = step(x); sum += x; } return sum; }
static int status_of(pid_t pid) { int s = -1; return pid > 0 && waitpid(pid, &s, 0) == pid && WIFEXITED(s) ? WEXITSTATUS(s) : 99; }
int main(int argc, char **argv)
{
	unsigned want = run();
	long bad = 0;
	for (long until = now_ms() + atoi(argv[1]), i = 0; now_ms() < until; i++) {
		for (int k = 0; k < 60; k++) bad += run() != want;
		pid_t pid = fork();
		if (pid == 0) _exit(run() == want ? 3 : 1);
		bad += status_of(pid) != 3;
		if (i % 3 == 0) {
			pid = vfork();
			if (pid == 0) { execl("/bin/sh", "sh", "-c", "sleep 0.02; exit 4", (char *)0); _exit(98); }
			bad += status_of(pid) != 4;
		} else {
			char *args[] = {"true", 0};
			bad += posix_spawn(&pid, "/bin/true", 0, 0, args, environ) != 0 || status_of(pid) != 0;
		}
	}
	printf("%ld bad\n", bad);
	fflush(stdout);
	if (argc > 2) execl(argv[0], argv[0], "300", (char *)0);
	return 6;
}
EOP
gcc -O2 children.c -o children || exit 1
expected ./children 300
live "" ./children 2500
live "--uniform --skip lib*.so*" ./children 6000
expected ./children 300 again
live "" ./children 2500 again
done_testing
