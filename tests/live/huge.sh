#!/usr/bin/env bash
# Overlays of several MiB go to huge pages where the kernel gives them (and to small ones where it does not, or where
# address space is limited): results, text after detach, forked children are as ever.
. "$(dirname "$0")/../support/live.sh"
mkdir run
export XDG_RUNTIME_DIR=$dir/run
gcc -O1 "$OPTVM_SOURCE/tests/support/sametext.c" -o sametext || exit 1
# 10,000 functions of 330 bytes: their copies take 3.5 MiB
awk -v n=10000 'BEGIN {
	print ".text"
	for (i = 0; i < n; i++) {
		printf ".p2align 4\nf%d: .cfi_startproc\nmov %%rdi,%%rax\nimul $%d,%%rax,%%rax\nmov %%rax,%%rcx\nshr $29,%%rcx\nxor %%rcx,%%rax\n", i, 2 * i + 65537
		printf "test $1,%%al\njne 1f\nadd $%d,%%rax\n.rept 12\nlea 3(%%rax,%%rax,2),%%rax\n.endr\n1: add $%d,%%rax\n", i, i + 7
		printf ".rept 20\nrol $7,%%rax\nxor $0x1234567,%%rax\n.endr\nret\n.cfi_endproc\n"
	}
	print ".section .data.rel.ro,\"aw\"\n.globl table\ntable:"
	for (i = 0; i < n; i++) print ".quad f" i
	print ".section .note.GNU-stack,\"\",@progbits"
}' >functions.s
cat >prog.c <<'EOP'
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
extern uint64_t (*table[10000])(uint64_t);
static volatile sig_atomic_t over;
static void on_term(int sig) { (void)sig; over = 1; }
static uint64_t run(void)
{
	uint64_t x = 1, s = 1;
	for (int i = 0; i < 200000; i++) {
		s = s * 6364136223846793005u + 1442695040888963407u;
		x = table[(s >> 33) % 10000](x);
	}
	return x;
}
int main(int argc, char **argv)
{
	int bad = 0;
	if (argc > 1 && !strcmp(argv[1], "disabled")) prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	if (argc > 1 && !strcmp(argv[1], "limited")) setrlimit(RLIMIT_AS, &(struct rlimit){1ul << 32, 1ul << 32});
	signal(SIGTERM, on_term);
	uint64_t want = run();
	for (int i = 1; !over; i++) {
		int status;
		bad += run() != want;
		if (i % 50) continue;
		pid_t pid = fork();
		if (!pid) _exit(run() != want);
		bad += waitpid(pid, &status, 0) != pid || status;
	}
	printf("%d\n", bad);
	return 0;
}
EOP
gcc -O1 prog.c functions.s -o prog || exit 1

code_kb() { awk '/^[0-9a-f]+-/ { code = $2 == "r-xp" && $5 == 0 && $6 == "" } code && /^AnonHugePages/ { n += $2 } END { print n + 0 }' "/proc/$pid/smaps"; }
writable_code() { grep -c ' .wx' "/proc/$pid/maps"; }
cycle() { # WORD EXPECTED_KB
	./prog "$1" >out.txt &
	pid=$!
	sleep 0.2
	"$tool" attach --uniform --counters=off --sample-ms 150 --min-samples 60 "$pid" 2>err || fail "$1: attach: $(cat err)"
	[ "$(code_kb)" = "$2" ] || fail "$1: $(code_kb) kB of code on huge pages, not $2"
	[ "$(writable_code)" = 0 ] || fail "$1: writable code"
	sleep 0.3
	"$tool" detach "$pid" 2>err || fail "$1: detach: $(cat err)"
	./sametext "$pid" || fail "$1: text differs after detach"
	[ "$(code_kb)" = "$2" ] || fail "$1: the copies do not stay"
	"$tool" attach --uniform --counters=off --sample-ms 150 --min-samples 60 "$pid" 2>err || fail "$1: attach again: $(cat err)"
	sleep 0.3
	kill -TERM "$pid"
	wait "$pid" || fail "$1: the process ended with $?"
	[ "$(cat out.txt)" = 0 ] || fail "$1: wrong results: $(cat out.txt)"
}

cycle disabled 0
cycle limited 0
if grep -q '\[never\]' /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null ||
	! [ -e /sys/kernel/mm/transparent_hugepage/enabled ]; then
	cycle "" 0
elif [ "$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)" -lt 500000 ]; then
	echo "not tried with huge pages: little memory"
else
	cycle "" 4096
fi
done_testing
