#!/usr/bin/env bash
# A server that has forked its workers before anybody comes: run and attach (to the parent) optimize all of them, what is forked
# later inherits it, each computes the same, and each can be given its original code back alone.
. "$(dirname "$0")/../support/live.sh"
mkdir run
export XDG_RUNTIME_DIR=$dir/run
# prefork N BUSY: N workers that compute until SIGTERM; the parent computes too if BUSY, else it waits. SIGUSR1: one more worker.
cat >prefork.c <<'EOP'
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile sig_atomic_t over, more;
static void on_signal(int sig) { if (sig == SIGUSR1) more = 1; else over = 1; }
__attribute__((noinline)) static unsigned step(unsigned x) { return x % 3 == 0 ? x / 3 + 11 : x % 5 == 0 ? x * 7 + 1 : x * 1103515245u + 12345u; }
__attribute__((noipa)) static unsigned run(unsigned x) { unsigned sum = 0; for (int i = 0; i < 50000; i++) { x = step(x); sum += x ^ (sum << 3); } return sum; }
static unsigned want;
static FILE *pids;
static pid_t worker(void)
{
	pid_t pid = fork();
	if (pid) { fprintf(pids, "%d\n", pid); fflush(pids); return pid; }
	unsigned bad = 0;
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, 0);
	while (!over) bad += run(5) != want;
	_exit(bad ? 1 : 42);
}
int main(int argc, char **argv)
{
	pid_t w[16];
	int n = atoi(argv[1]), bad = 0;
	struct sigaction act = {.sa_handler = on_signal};
	sigaction(SIGTERM, &act, 0);
	sigaction(SIGUSR1, &act, 0);
	want = run(5);
	pids = fopen("pids", "w");
	for (int i = 0; i < n; i++) w[i] = worker();
	sigset_t set, old;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &old);
	while (!over) {
		if (more) { more = 0; w[n++] = worker(); }
		if (argc > 2) { sigprocmask(SIG_SETMASK, &old, 0); bad += run(5) != want; sigprocmask(SIG_BLOCK, &set, 0); }
		else sigsuspend(&old);
	}
	for (int i = 0; i < n; i++) {
		int status = 0;
		kill(w[i], SIGTERM);
		waitpid(w[i], &status, 0);
		bad += !WIFEXITED(status) || WEXITSTATUS(status) != 42;
	}
	printf("%d\n", bad);
	return bad ? 1 : 6;
}
EOP
gcc -O2 prefork.c -o prefork || exit 1
gcc -O1 "$OPTVM_SOURCE/tests/support/sametext.c" -o sametext || exit 1
state() { "$tool" status --json "$1" 2>/dev/null | sed -n 's/.*"state": "\([^"]*\)".*/\1/p'; }
workers() { [ "$(wc -l <pids)" = "$1" ]; }
wait_for() { for _ in $(seq 500); do "$@" && return; sleep 0.02; done; fail "waited for $*"; }
all_optimized() { # N LABEL: all workers that are there
	local pid
	[ "$(wc -l <pids)" = "$1" ] || fail "$2: $(wc -l <pids) workers"
	while read -r pid; do [ "$(state "$pid")" = optimized ] || fail "$2: worker $pid: $(state "$pid")"; done <pids
}
finish() { # LABEL
	kill -TERM "$pid"
	wait "$pid"
	local got=$?
	[ $got = 6 ] || fail "$1: the server ended with $got"
	[ "$(cat out.txt)" = 0 ] || fail "$1: wrong results: $(cat out.txt)"
}

# --- attach to a parent that only waits: the busiest worker, the others, and the parent, whose later workers inherit it
for words in "" "--counters=off"; do
	rm -f pids
	./prefork 3 >out.txt & pid=$!
	wait_for test -s pids
	wait_for workers 3
	# shellcheck disable=SC2086
	"$tool" attach --always --sample-ms 300 --report report.json $words "$pid" 2>e || fail "attach $words: $(cat e)"
	all_optimized 3 "attach $words"
	[ "$(number others_optimized)" -ge 3 ] || fail "others: $(grep others report.json)"
	[ "$(state "$pid")" = optimized ] || fail "attach $words: the parent: $(state "$pid")"
	kill -USR1 "$pid"
	wait_for workers 4
	late=$(tail -1 pids)
	./sametext "$late" >diff.txt && fail "attach $words: a worker forked later runs the original"
	"$tool" status --tree "$pid" >table || fail "status --tree: $(cat table)"
	[ "$(grep -c ' optimized *prefork$' table)" = 5 ] || fail "attach $words: status --tree: $(cat table)"
	first=$(head -1 pids) second=$(sed -n 2p pids)
	"$tool" detach "$first" || fail "detach of a worker"
	[ "$(state "$first")" = original ] || fail "state after detach: $(state "$first")"
	[ "$(state "$second")" = optimized ] || fail "detach of one worker reverted another"
	kill -USR1 "$pid" # has it, and no file says so
	wait_for workers 5
	"$tool" detach --tree "$pid" || fail "detach --tree"
	for p in "$pid" $(cat pids); do ./sametext "$p" || fail "attach $words: detach --tree left process $p"; done
	"$tool" status --tree "$pid" >table
	! grep -q optimized table || fail "status --tree after detach --tree: $(cat table)"
	"$tool" detach --tree --keep "$pid" || fail "detach --tree --keep"
	[ -z "$(ls run/optvm)" ] || fail "left after --tree --keep: $(ls run/optvm)"
	"$tool" detach --tree "$pid" 2>e
	[ $? = 1 ] || fail "detach --tree of what is forgotten: $(cat e)"
	finish "attach $words"
done

# --- a parent that computes: it is one of them, and what it forks later has it from the start
rm -f pids
./prefork 2 busy >out.txt & pid=$!
wait_for test -s pids
wait_for workers 2
"$tool" attach --always --sample-ms 300 --report report.json "$pid" 2>e || fail "attach, busy parent: $(cat e)"
all_optimized 2 "attach, busy parent"
[ "$(state "$pid")" = optimized ] || fail "the parent: $(state "$pid")"
kill -USR1 "$pid"
wait_for workers 3
late=$(tail -1 pids)
"$tool" detach "$late" || fail "detach of a worker that was forked later"
"$tool" attach --always --sample-ms 300 --counters=off "$pid" 2>e || fail "attach again: $(cat e)" # a second generation for all
all_optimized 3 "attach again"
for p in $(cat pids); do "$tool" detach "$p" || fail "detach of $p"; done
finish "busy parent"

# --- one worker was optimized alone and has copies of its own: later all of them get the same, beside these
rm -f pids
./prefork 2 >out.txt & pid=$!
wait_for test -s pids
wait_for workers 2
second=$(tail -1 pids)
"$tool" attach --always --sample-ms 200 --counters=off "$second" 2>e || fail "attach to one worker: $(cat e)"
"$tool" detach "$second" || fail "detach of one worker"
kill -STOP "$second" # so that the other one is the busiest
(sleep 0.7; kill -CONT "$second") &
"$tool" attach --always --duration 1 --counters=off "$pid" 2>e || fail "attach to all: $(cat e)"
all_optimized 2 "after one alone"
[ "$(state "$pid")" = optimized ] || fail "after one alone: the parent: $(state "$pid")"
finish "after one alone"

# --- run
rm -f pids report.json
"$tool" run --always --sample-ms 300 --report report.json -- ./prefork 2 >out.txt & run=$!
wait_for test -s pids
wait_for workers 2
all_there() { [ "$(for p in $(cat pids); do state "$p"; done | grep -c optimized)" = 2 ]; }
wait_for all_there
pid=$(ps -o pid= --ppid $run | head -1)
kill -TERM "$pid"
wait $run
got=$?
[ $got = 6 ] || fail "run: status $got"
[ "$(cat out.txt)" = 0 ] || fail "run: wrong results: $(cat out.txt)"
grep -q '"optimized": true' report.json || fail "run: $(grep why_not report.json)"
"$tool" status >/dev/null # forgets who is gone
[ -z "$(find run -type f)" ] || fail "left behind: $(find run -type f)"
done_testing
