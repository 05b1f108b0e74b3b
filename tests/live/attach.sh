#!/usr/bin/env bash
# attach, status, detach on a process that must not notice: two threads that throw and catch, a timer, results that are
# checked all the time. Then the tool is killed at random moments, and the process must still be right, and detachable.
. "$(dirname "$0")/../support/live.sh"
n_kills=${OPTVM_KILLS:-20}
mkdir run
export XDG_RUNTIME_DIR=$dir/run
cat >prog.cpp <<'EOP'
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <signal.h>
#include <stdexcept>
#include <sys/time.h>
#include <thread>
__attribute__((noinline)) static unsigned step(unsigned x) { if (x % 1009 == 0) throw std::runtime_error("x"); return x % 3 ? x * 1103515245u + 12345u : x / 3 + 7; }
__attribute__((noipa)) static unsigned run(unsigned x)
{
	unsigned sum = 0;
	for (int i = 0; i < 20000; i++)
		try { x = step(x); sum += x; } catch (const std::exception &e) { x += e.what()[0]; }
	return sum;
}
static std::atomic<bool> over;
static void on_alarm(int) {}
static void on_term(int) { over = true; }
int main()
{
	signal(SIGALRM, on_alarm);
	signal(SIGTERM, on_term);
	itimerval it = {{0, 3000}, {0, 3000}};
	setitimer(ITIMER_REAL, &it, nullptr);
	long bad[2] = {0, 0}, rounds[2] = {0, 0};
	auto body = [&](int t) { unsigned want = run(t + 5); while (!over) { bad[t] += run(t + 5) != want; rounds[t]++; } };
	std::thread other(body, 1);
	body(0);
	other.join();
	printf("%ld %ld\n", bad[0], bad[1]);
	return rounds[0] == 0 || rounds[1] == 0;
}
EOP
g++ -O2 -pthread prog.cpp -o prog || exit 1

# sametext PID: is all code as in the files?
gcc -O1 "$OPTVM_SOURCE/tests/support/sametext.c" -o sametext || exit 1

pid=0
start() { ./prog >out.txt & pid=$!; sleep 0.1; }
# It computed the right thing to its end.
finish() {
	kill -TERM "$pid"
	wait "$pid" || fail "$1: the process ended with $?"
	[ "$(cat out.txt)" = "0 0" ] || fail "$1: wrong results: $(cat out.txt)"
}
attach() { "$tool" attach --always --sample-ms 150 "$@" "$pid"; }
untraced() {
	grep -q '^TracerPid:	0' "/proc/$pid/status" || fail "$1: still traced"
	! grep -q '^State:	[tT]' /proc/"$pid"/task/*/status || fail "$1: stopped"
	! pgrep -f "attach.* $pid\$" >/dev/null || fail "$1: a process of the tool is left"
}
n_fds() { find "/proc/$pid/fd" -mindepth 1 | wc -l; }
state() { "$tool" status --json "$pid" | sed -n 's/.*"state": "\([^"]*\)".*/\1/p'; }

# --- once
start
! "$tool" detach "$pid" 2>err || fail "detach of a process that was never changed"
fds=$(n_fds)
attach --report report.json --save-profile p.prof >o 2>e || fail "attach: $? $(cat e)"
[ ! -s o ] || fail "attach wrote to stdout: $(cat o)"
grep -q '"schema": "optvm.attach/1"' report.json || fail "report: $(head -3 report.json)"
[ "$(number regions_counted)" != 0 ] || fail "nothing was counted: $(cat report.json)"
[ -s p.prof ] || fail "no profile"
untraced attach
./sametext "$pid" >diff.txt && fail "attach changed nothing"
[ "$(state)" = optimized ] || fail "status: $(state)"
"$tool" status >table || fail "status"
grep -q "^$pid .*optimized *prog\$" table || fail "status table: $(cat table)"
"$tool" status "$pid" | grep -q "optimized copies, in use" || fail "status PID: $("$tool" status "$pid")"
[ "$(stat -c %a run/optvm)" = 700 ] || fail "state folder: $(stat -c %a run/optvm)"
[ -z "$(find run/optvm -type f ! -perm 600)" ] || fail "state files: $(ls -l run/optvm)"
"$tool" detach "$pid" || fail detach
untraced detach
./sametext "$pid" || fail "text after detach"
[ "$(state)" = original ] || fail "status after detach: $(state)"
"$tool" detach "$pid" || fail "detach twice"
[ "$(n_fds)" = "$fds" ] || fail "file descriptors: $(ls -l "/proc/$pid/fd")"

# a second round replaces the first, a third one after a revert; --keep forgets
attach || fail "attach after detach"
attach --counters=off --duration 0.5 || fail "attach again"
[ "$(state)" = optimized ] || fail "status after a second round"
"$tool" detach --revert "$pid" || fail "detach after two rounds"
./sametext "$pid" || fail "text after two rounds"
attach || fail "attach before --keep"
"$tool" detach --keep "$pid" || fail "detach --keep"
[ -z "$(ls run/optvm)" ] || fail "left after --keep: $(ls run/optvm)"
./sametext "$pid" >diff.txt && fail "--keep reverted"
finish once

# --- what cannot be
start
"$tool" attach 2>/dev/null; [ $? = 2 ] || fail "no pid"
"$tool" attach 12x 2>/dev/null; [ $? = 2 ] || fail "no number"
"$tool" detach --keep --revert "$pid" 2>/dev/null; [ $? = 2 ] || fail "--keep --revert"
"$tool" attach 999999999 2>/dev/null; [ $? = 5 ] || fail "a process that is gone"
other=$(ls "/proc/$pid/task" | tail -1)
"$tool" attach "$other" 2>e; [ $? = 2 ] || fail "a thread: $(cat e)"
[ ! -e /proc/2/stat ] || ! grep -q kthreadd /proc/2/stat || { "$tool" attach 2 2>/dev/null; [ $? = 5 ] || fail "a thread of the kernel"; }
sleep 0 & zombie=$!
sleep 0.2
exec 3< <(sleep 100)
sleeper=$!
"$tool" attach --duration 0.3 $sleeper 2>e; [ $? = 1 ] || fail "a process that sleeps: $(cat e)"
kill $sleeper
exec 3<&-
wait $zombie
OPTVM=off ./prog >/dev/null & off=$!
sleep 0.1
"$tool" attach $off 2>e; [ $? = 5 ] || fail "OPTVM=off: $(cat e)"
grep -q OPTVM=off e || fail "OPTVM=off: $(cat e)"
kill -9 $off
wait $off 2>/dev/null
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	chmod 711 "$dir"
	cp "$tool" ./tool && chmod 755 tool
	setpriv --reuid=65534 --regid=65534 --clear-groups env XDG_RUNTIME_DIR= ./tool attach "$pid" 2>e; [ $? = 4 ] || fail "another user's process: $(cat e)"
	setpriv --reuid=65534 --regid=65534 --clear-groups env XDG_RUNTIME_DIR= ./tool detach "$pid" 2>/dev/null; [ $? = 4 ] || fail "detach of another user's process"
fi
./prog >out2.txt & second=$!
(sleep 1; "$tool" attach --always --sample-ms 150 "$second") 2>/dev/null & # two at once: one waits, or says so
"$tool" attach --always --duration 1.2 "$second" 2>/dev/null
wait $! || true
kill -TERM $second
wait $second || fail "two tools at once"
[ "$(cat out2.txt)" = "0 0" ] || fail "two tools at once: $(cat out2.txt)"
"$tool" record --ptrace -q -o traced.prof -p "$pid" --duration 1.5 & tracer=$!
sleep 0.7
"$tool" attach "$pid" 2>e; [ $? = 5 ] || fail "traced by another: $(cat e)"
grep -q "traced by process" e || fail "traced by another: $(cat e)"
wait $tracer
# interrupted
for sig in INT TERM; do
	env --default-signal=INT "$tool" attach --duration 100 "$pid" 2>e & at=$! # jobs of scripts ignore SIGINT
	sleep 0.7
	kill -$sig $at
	wait $at
	got=$?
	[ $sig$got = INT130 ] || [ $sig$got = TERM143 ] || fail "SIG$sig: status $got: $(cat e)"
	untraced "SIG$sig"
	./sametext "$pid" || fail "text after SIG$sig"
done
finish "what cannot be"
"$tool" status >table
! grep -q "^$pid \|^$second " table || fail "status of processes that are gone: $(cat table)"
[ -z "$(ls run/optvm)" ] || fail "stale files: $(ls run/optvm)"

# --- run leaves state too, and what it did can be undone
"$tool" run --always --sample-ms 150 -- ./prog >out.txt & run=$!
for _ in $(seq 100); do
	pid=$(sed -n 's/^ "pid": \([0-9]*\),/\1/p' run/optvm/*.json 2>/dev/null)
	[ -n "$pid" ] && [ "$(state)" = optimized ] && break
	sleep 0.1
done
"$tool" detach "${pid:-0}" || fail "detach of a process of run"
./sametext "${pid:-0}" || fail "text of a process of run"
kill -TERM "${pid:-0}"
wait $run || fail "run ended with $?"
[ "$(cat out.txt)" = "0 0" ] || fail "run, detach: $(cat out.txt)"
[ -z "$(ls run/optvm)" ] || fail "left after run: $(ls run/optvm)"

# --- a child has what its parent had, and each can be detached alone
cat >parent.c <<'EOP'
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile sig_atomic_t forking, over;
static void on_signal(int sig) { if (sig == SIGUSR1) forking = 1; else over = 1; }
__attribute__((noinline)) static unsigned step(unsigned x) { return x % 3 == 0 ? x / 3 + 11 : x % 5 == 0 ? x * 7 + 1 : x * 1103515245u + 12345u; }
__attribute__((noipa)) static unsigned run(unsigned x) { unsigned sum = 0; for (int i = 0; i < 100000; i++) { x = step(x); sum += x ^ (sum << 3); } return sum; }
int main(void)
{
	int status = 0;
	pid_t child = 0;
	signal(SIGUSR1, on_signal);
	signal(SIGTERM, on_signal);
	unsigned want = run(5), bad = 0;
	while (!over) {
		bad += run(5) != want;
		if (forking && !child) {
			if (!(child = fork())) { while (!over) bad += run(5) != want; return bad != 0; }
			FILE *f = fopen("child", "w");
			fprintf(f, "%d\n", child);
			fclose(f);
		}
	}
	if (child) waitpid(child, &status, 0);
	return bad != 0 || status != 0;
}
EOP
gcc -O2 parent.c -o parent || exit 1
./parent & pid=$!
sleep 0.1
attach || fail "attach to the parent"
kill -USR1 $pid
for _ in $(seq 200); do [ -s child ] && break; sleep 0.01; done
child=$(cat child)
./sametext "$child" >diff.txt && fail "the child has not inherited the copies"
"$tool" detach "$child" || fail "detach of the child"
./sametext "$child" || fail "text of the child"
./sametext "$pid" >diff.txt && fail "detach of the child reverted the parent"
"$tool" attach --always --sample-ms 150 "$child" || fail "attach to the child"
"$tool" detach "$pid" || fail "detach of the parent"
./sametext "$pid" || fail "text of the parent"
[ "$(state)" = original ] || fail "state of the parent: $(state)"
"$tool" status "$child" | grep -q "state *optimized" || fail "state of the child: $("$tool" status "$child" 2>&1)"
kill -TERM "$child" $pid
wait $pid || fail "the parent or its child computed something else"

# --- the program's file is replaced; the process is stopped by job control
cp prog upgraded
./upgraded >out.txt & pid=$!
sleep 0.1
attach || fail "attach before the file is replaced"
cp prog new && mv new upgraded
attach 2>/dev/null; [ $? = 1 ] || fail "attach after the file was replaced"
./sametext "$pid" >diff.txt && fail "the failed attach reverted"
kill -STOP $pid
"$tool" detach "$pid" || fail "detach after the file was replaced"
for _ in 1 2 3 4 5; do # it is runnable for a moment, on its way from one stop to the other
	grep -q '^State:	T' "/proc/$pid/status" && break
	sleep 0.1
done
grep -q '^State:	T' "/proc/$pid/status" || fail "detach let a stopped process go on"
kill -CONT $pid
"$tool" status "$pid" | grep -q 'state *original' || fail "status after the file was replaced"
finish "replaced file"

# --- exec: nothing of it is left
cat >exec.c <<'EOP'
#include <signal.h>
#include <unistd.h>
static volatile sig_atomic_t over;
static void on_signal(int sig) { (void)sig; over = 1; }
int main(int argc, char **argv)
{
	signal(SIGUSR1, on_signal);
	for (unsigned x = 1; !over; x++) for (int i = 0; i < 10000; i++) x = x % 3 ? x * 1103515245u + 12345u : x / 3 + 7;
	execl(argv[0], argv[0], "again", (char *)0);
	return argc;
}
EOP
gcc -O2 exec.c -o exec || exit 1
./exec & pid=$!
sleep 0.1
attach || fail "attach before exec"
kill -USR1 $pid
sleep 0.3
"$tool" detach $pid 2>e; [ $? = 1 ] || fail "detach after exec: $(cat e)"
./sametext "$pid" || fail "text after exec"
attach || fail "attach after exec"
"$tool" detach $pid || fail "detach after exec and attach"
kill -9 $pid
wait $pid 2>/dev/null

# --- kill -9 of the tool
start
patched=0 nothing=0 full=0
for i in $(seq "$n_kills"); do
	# a fresh process now and then: there is a most of generations
	if [ $((i % 8)) = 0 ]; then finish "kills"; start; fi
	"$tool" attach --always --sample-ms 150 "$pid" 2>e & at=$!
	sleep "$(awk -v i="$i" -v n="$n_kills" -v r="$RANDOM" 'BEGIN { print 0.02 + 2.2 * (i - 1 + r / 32768) / n }')"
	kill -9 $at 2>/dev/null
	wait $at 2>/dev/null
	sleep 0.05 # the builder's end
	untraced "kill $i"
	./sametext "$pid" >diff.txt || patched=$((patched + 1))
	"$tool" detach "$pid" 2>e
	case $? in
	0) ;;
	1) nothing=$((nothing + 1)) ;;
	*) fail "kill $i: detach: $(cat e)" ;;
	esac
	./sametext "$pid" || fail "kill $i: text"
done
attach 2>e || { full=1; grep -q generations e || fail "attach after kills: $(cat e)"; }
"$tool" detach "$pid" || fail "detach after kills"
./sametext "$pid" || fail "text after kills"
finish "$n_kills kills"
echo "$n_kills kills: $patched while patched, $nothing before anything was done; full $full"
done_testing
