#!/usr/bin/env bash
# `optvm record --counters`: counts of a whole run are exact where they are known, whatever the program does (signals, forks,
# longjmp, exceptions, threads), however it ends, and what cannot be counted is still sampled and says why.
. "$(dirname "$0")/../support/e2e.sh"
unset OPTVM

cat >known.c <<'C'
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __clang__
#define PLAIN __attribute__((noinline))
#else
#define PLAIN __attribute__((noipa))
#endif
static volatile unsigned long sum;
PLAIN void body(int i) { sum += i; }
PLAIN void even(int i) { sum ^= i; }
PLAIN void arm0(int i) { sum += 3 * i; }
PLAIN void arm1(int i) { sum -= i; }
PLAIN void arm2(int i) { sum += i << 2; }
PLAIN void arm3(int i) { sum ^= i + 7; }
PLAIN void arm4(int i) { sum += i ^ 99; }
int fib(int n);
static int (*volatile again)(int) = fib; /* or compilers unroll the recursion */
PLAIN int fib(int n) { return n < 2 ? n : again(n - 1) + again(n - 2); }
PLAIN void handler(int sig) { sum += sig; }
PLAIN void in_child(int i) { sum += i; }
PLAIN void loop(int n)
{
	for (int i = 0; i < n; i++)
		body(i);
}
PLAIN void evens(int n)
{
	for (int i = 0; i < n; i++)
		if (i % 2 == 0)
			even(i);
}
PLAIN void choose(int n)
{
	for (int i = 0; i < n; i++)
		switch (i % 8) {
		case 0: arm0(i); break;
		case 1: arm1(i); break;
		case 2: arm2(i); break;
		case 3: arm3(i); break;
		case 4: case 6: arm4(i); break;
		default: sum++;
		}
}
static jmp_buf back;
PLAIN void jump(int i) { sum += i; longjmp(back, 1); }
PLAIN void jumps(int n)
{
	for (volatile int i = 0; i < n; i++)
		if (!setjmp(back))
			jump(i);
}
PLAIN void finish(int how)
{
	if (how == 1)
		raise(SIGTERM);
	if (how == 2)
		_exit(5);
	if (how == 3)
		*(volatile int *)0 = 0;
}
int main(int argc, char **argv)
{
	loop(100001);
	evens(100001);
	choose(8000);
	printf("%d\n", fib(20));
	signal(SIGUSR1, handler);
	for (int i = 0; i < 300; i++)
		raise(SIGUSR1);
	fflush(stdout);
	pid_t pid = fork();
	for (int i = 0; i < (pid ? 500 : 1000); i++)
		in_child(i);
	if (pid == 0)
		_exit(0);
	waitpid(pid, NULL, 0);
	jumps(200);
	printf("%lu\n", sum);
	fflush(stdout);
	finish(argc > 1 ? atoi(argv[1]) : 0);
	return 3;
}
C
count() { "$tool" record -f -o p.prof --counters=on "$@"; }
gcc -O2 -Wl,--build-id=sha1 known.c -o known || { echo "FAIL gcc"; exit 1; }
why=$(count --uniform -v -- ./known 2>&1 >/dev/null)
if ! grep -q '^e ' p.prof 2>/dev/null; then
	echo "skipped: $why"
	exit 77
fi

# --- known counts -----------------------------------------------------------------------------------------------------
entered() { # PROGRAM SYMBOL: times it was entered
	local va
	va=$(nm "$1" | awk -v s="$2" '$3 == s { print $1 }' | sed 's/^0*//')
	awk -v va="$va" '$1 == "e" && $2 == "0" && $3 == va { n += $4 } END { print n + 0 }' p.prof
}
edges_in() { # PROGRAM SYMBOL: counts of edges inside it, most first
	nm -S "$1" | awk -v s="$2" '$4 == s { print $1, $2 }' | {
		read -r at size
		awk -v lo=$((16#$at)) -v n=$((16#$size)) 'function hex(x,  v, i) { for (i = 1; i <= length(x); i++)
			v = 16 * v + index("123456789abcdef", substr(x, i, 1)); return v }
			$1 == "e" && hex($2) >= lo && hex($2) < lo + n && hex($3) >= lo && hex($3) < lo + n { print $4 }' p.prof | sort -nr
	}
}
expect() { # PROGRAM SYMBOL N
	local got
	got=$(entered "$1" "$2")
	[ "$got" = "$3" ] || fail "$1: $2 was entered $got times, not $3 ($words)"
}
check_known() { # PROGRAM
	expect "$1" body 100001
	expect "$1" even 50001
	expect "$1" arm0 1000
	expect "$1" arm3 1000
	expect "$1" arm4 2000
	expect "$1" handler 300
	expect "$1" in_child 1500
	case $words in *-static*) return ;; esac # nobody finds unwind entries there: leaf functions only
	expect "$1" main 1
	expect "$1" loop 1
	expect "$1" fib 21891
	expect "$1" jump 200
	edges_in "$1" loop | grep -qx "10000[01]" || fail "$1: no edge of the loop ran 100000 times ($words)"
}
for words in "gcc -O2" "gcc -O0 -no-pie -fno-pie" "gcc -O1 -static" "gcc -O2 -static-pie -fcf-protection=none" "clang-14 -O2"; do
	command -v "${words%% *}" >/dev/null || continue
	# shellcheck disable=SC2086
	$words -w -Wl,--build-id=sha1 known.c -o known || { fail "$words"; continue; }
	want=$(./known)
	got=$(count -q --uniform -- ./known)
	[ $? = 3 ] || fail "status: $words"
	[ "$got" = "$want" ] || fail "other output: $words"
	check_known known
done
words="gcc -O2"
gcc -O2 -Wl,--build-id=sha1 known.c -o known
# all ways of a jump table: 5 of 8 have an arm of their own or two
count -q --uniform -- ./known >/dev/null
for n in 1000 2000; do edges_in known choose | grep -qx $n || fail "choose: no edge ran $n times"; done

# the regions that a profile knows, also through programs that only exec the next one
cp p.prof prior.prof
for wrap in "" "env A=1" "setarch -R" "nice -n 0"; do
	words="--prior, $wrap"
	rm -f p.prof
	# shellcheck disable=SC2086
	count -q --prior prior.prof -- $wrap ./known >/dev/null
	[ $? = 3 ] || fail "status: $words"
	check_known known
done
# counts alone say what to count; a program they do not know is left alone
sed '/^s /d;/^samples/s/.*/samples 0/' prior.prof | awk '/^end/ { print "end " NR - 1; next } { print }' >edges.prof
words="--prior without samples"
count -q --prior edges.prof -- ./known >/dev/null || [ $? = 3 ] || fail "$words"
check_known known
cp p.prof twice.prof
"$tool" merge -f -o p.prof twice.prof twice.prof && expect known body 200002

# --- however it ends --------------------------------------------------------------------------------------------------
for how in 1 2 3; do
	(ulimit -c 0; ./known $how >want.out; echo $?) >want.status 2>/dev/null
	(ulimit -c 0; count -q --uniform -- ./known $how >got.out; echo $?) >got.status 2>/dev/null
	cmp -s want.status got.status || fail "status $(cat got.status), not $(cat want.status): ./known $how"
	cmp -s want.out got.out || fail "other output: ./known $how"
	words="end $how"
	check_known known
done

# --- exceptions, backtraces -------------------------------------------------------------------------------------------
cat >throws.cpp <<'C'
#include <cstdio>
#include <execinfo.h>
#include <stdexcept>
#include <string>
__attribute__((noipa)) int deep(int n)
{
	struct guard { int *p; ~guard() { ++*p; } };
	static int n_unwound;
	guard g{&n_unwound};
	if (n == 0)
		throw std::runtime_error("x" + std::to_string(n_unwound % 7));
	return deep(n - 1) + 1;
}
int main()
{
	int total = 0;
	for (int i = 0; i < 2000; i++)
		try { total += deep(i % 20); } catch (const std::exception &e) { total += e.what()[1]; }
	void *frames[20];
	printf("%d %d\n", total, backtrace(frames, 20) > 2);
}
C
g++ -O2 -Wl,--build-id=sha1 throws.cpp -o throws || exit 1
want=$(./throws)
[ "$(count -q --uniform -- ./throws)" = "$want" ] || fail "exceptions: other output"
words=exceptions
expect throws _Z4deepi 21000

# --- threads ----------------------------------------------------------------------------------------------------------
cat >threads.c <<'C'
#include <pthread.h>
#include <stdio.h>
__attribute__((noipa)) long step(long x) { return x * 3 + 1; }
static void *run(void *arg)
{
	long x = (long)arg;
	for (int i = 0; i < 3000000; i++)
		x = step(x);
	return (void *)x;
}
int main(void)
{
	pthread_t t[4];
	long sum = 0;
	void *x;
	for (long i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, run, (void *)i);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &x);
		sum += (long)x;
	}
	printf("%ld\n", sum);
	return 0;
}
C
gcc -O2 -pthread -Wl,--build-id=sha1 threads.c -o threads || exit 1
want=$(./threads)
[ "$(count -q --uniform -- ./threads)" = "$want" ] || fail "threads: other output"
got=$(entered threads step)
# plain increments: what two processors do at once may count as one, but no thread's own are lost for nothing
[ "$got" -ge 3000000 ] && [ "$got" -le 12000000 ] || fail "threads: $got of 12000000 counted"
echo "threads: $got of 12000000 increments counted"

# --- from samples, to the end -----------------------------------------------------------------------------------------
cat >long.c <<'C'
#include <stdio.h>
__attribute__((noipa)) unsigned step(unsigned x) { return x % 3 ? x * 1103515245u + 12345u : x / 3 + 7; }
int main(void)
{
	unsigned x = 1;
	for (long i = 0; i < 600000000; i++)
		x = step(x);
	printf("%u\n", x);
	return 0;
}
C
gcc -O2 -Wl,--build-id=sha1 long.c -o long || exit 1
want=$(./long)
for counters in auto on off; do
	[ "$("$tool" record -v -f -o p.prof --counters=$counters -- ./long 2>log)" = "$want" ] || fail "--counters=$counters: other output"
	if [ $counters = off ]; then
		grep -q '^e ' p.prof && fail "--counters=off counts"
	else
		[ "$(entered long step)" -gt 100000 ] || fail "--counters=$counters: $(cat log)"
	fi
done

# --- where it cannot be done: samples, and a reason --------------------------------------------------------------------
cat >filtered.c <<'C'
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	struct sock_filter allow = {0x06, 0, 0, 0x7fff0000};
	struct sock_fprog prog = {1, &allow};
	(void)argc;
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		return 77;
	execvp(argv[1], argv + 1);
	return 1;
}
C
gcc filtered.c -o filtered || exit 1
count -q --uniform -- ./long >/dev/null && cp p.prof long.prof
refused() { # REASON WORDS...: of `long`
	local reason=$1
	shift
	rm -f p.prof
	[ "$("$@" 2>log)" = "$want" ] || fail "other output: $*: $(cat log)"
	grep -q "no exact counts: .*$reason" log || fail "$*: $(cat log)"
	grep -q '^s ' p.prof || fail "no samples: $*"
	grep -q '^e ' p.prof && fail "counted all the same: $*"
}
for how in "--counters=auto" "--counters=on --prior long.prof"; do
	# shellcheck disable=SC2086
	if ./filtered true; then refused seccomp "$tool" record -v -f -o p.prof $how -- ./filtered ./long; fi
	# shellcheck disable=SC2086
	if command -v strace >/dev/null; then refused "trace" strace -f -o /dev/null "$tool" record -v -f -o p.prof $how -- ./long; fi
done
refused "none that the profile knows" "$tool" record -v -f -o p.prof --counters=on --prior prior.prof -- ./long

# --- processes too short to be counted each for itself ------------------------------------------------------------------
cat >brief.c <<'C'
#include <stdio.h>
__attribute__((noipa)) unsigned step(unsigned x) { return x % 3 ? x * 1103515245u + 12345u : x / 3 + 7; }
int main(void)
{
	unsigned x = 1;
	for (int i = 0; i < 150000000; i++)
		x = step(x);
	return printf("%u\n", x) < 0;
}
C
gcc -O2 -Wl,--build-id=sha1 brief.c -o brief
rm -f p.prof
"$tool" record -v -f -o p.prof -- sh -c 'n=0; while [ $n -lt 14 ]; do ./brief; n=$((n + 1)); done' >out 2>log || fail "brief: $(cat log)"
./brief >want
[ "$(sort -u out)" = "$(cat want)" ] && [ "$(wc -l <out)" = 14 ] || fail "brief: other output: $(cat out)"
va=$(nm brief | awk '$3 == "step" { print $1 }' | sed 's/^0*//')
grep -q "^e 0 $va " p.prof || fail "nothing counted in short processes: $(cat log)"

# --- processes that end before their copies are built: the next ones get them, wherever they are mapped -------------------
cat >heirs.cpp <<'C'
#include <cstdio>
__attribute__((noipa)) unsigned step(unsigned x) { return x % 3 ? x * 1103515245u + 12345u : x / 3 + 7; }
__attribute__((noipa)) unsigned caught(unsigned x)
{
	try {
		if (x % 1024 == 5)
			throw x;
	} catch (unsigned y) {
		return step(y) ^ 1;
	}
	return step(x);
}
int main()
{
	unsigned x = 1;
	for (int i = 0; i < 40000000; i++)
		x = caught(x);
	printf("%u\n", x);
	fprintf(stderr, "at %p\n", (void *)step);
}
C
for words in "-pie -fPIE" "-no-pie -fno-pie"; do
	# shellcheck disable=SC2086
	g++ -O2 $words -Wl,--build-id=sha1 heirs.cpp -o heirs && ./heirs >want 2>/dev/null || { fail "heirs $words"; continue; }
	rm -f p.prof
	OPTVM_FAULT=builder.chosen:sleep=1500 OVM_LOG=builder=info,counting=info,countrec=info "$tool" record -v -f -o p.prof -- \
		sh -c 'n=0; while [ $n -lt 40 ]; do ./heirs 2>>places; n=$((n + 1)); done' >out 2>log || fail "heirs $words: $(cat log)"
	[ "$(sort -u out)" = "$(cat want)" ] && [ "$(wc -l <out)" = 40 ] || fail "heirs $words: other output: $(sort out | uniq -c)"
	va=$(nm heirs | awk '$3 == "_Z6caughtj" { print $1 }' | sed 's/^0*//')
	awk -v va="$va" '$1 == "e" && $3 == va { n += $4 } END { exit !(n > 100000) }' p.prof || fail "heirs $words: not counted: $(cat log)"
	grep -q "the program ended while copies" log || echo "heirs $words: all lived long enough"
done

# --- usage ------------------------------------------------------------------------------------------------------------
usage() { # WORDS...
	"$tool" record -f -o p.prof "$@" >out 2>err
	[ $? = 2 ] && [ ! -s out ] || fail "no usage error: record $*: $(cat err)"
}
usage --prior prior.prof -- ./known
usage --uniform -- ./known
usage --counters=on --ptrace --prior prior.prof -- ./known
usage --counters=on --prior prior.prof -p $$
usage --counters=perhaps -- ./known
"$tool" record -q -f -o p.prof --counters=on --prior missing -- ./known >out 2>err
[ $? = 125 ] && [ ! -s out ] || fail "--prior missing: $(cat err)"

# --- kill -9 of the tool while the program is held, or armed -------------------------------------------------------------
n=${OPTVM_KILLS:-12}
cat >holder.c <<'C'
#include <stdio.h>
#include <unistd.h>
__attribute__((noipa)) unsigned step(unsigned x) { return x % 3 ? x * 1103515245u + 12345u : x / 3 + 7; }
int main(void)
{
	unsigned x = 1;
	for (int i = 0; i < 30000000; i++)
		x = step(x);
	FILE *out = fopen("result.tmp", "w");
	fprintf(out, "%u\n", x);
	fclose(out);
	return rename("result.tmp", "result");
}
C
gcc -O2 -Wl,--build-id=sha1 holder.c -o holder && ./holder && mv result result.want
for i in $(seq "$n"); do
	rm -f result
	"$tool" record -q -f -o p.prof --counters=on --uniform -- ./holder >/dev/null 2>&1 &
	pid=$!
	sleep "$(awk -v i="$i" -v n="$n" 'BEGIN { print 0.005 + 0.15 * (i - 1) / n }')"
	kill -9 $pid 2>/dev/null
	wait $pid 2>/dev/null
	for _ in $(seq 300); do [ -e result ] && break; sleep 0.01; done
	# before the exec nobody has started it
	if [ -e result ] && ! cmp -s result result.want; then fail "killed at step $i of $n: $(cat result)"; fi
	[ -e result ] && ended=$((${ended:-0} + 1))
done
[ "${ended:-0}" -ge $((n / 2)) ] || fail "only ${ended:-0} of $n programs ended well after kill -9"
[ $bad = 0 ] && echo ok
exit $bad
