#!/usr/bin/env bash
# Attach, patch, revert, detach, many times on one process with threads under load: nothing of it is different afterwards but
# the copies that stay (rule R7), and of these there is a most: text, mappings, memory, descriptors, signal masks, results.
#   OPTVM_CYCLES=N   default 20; `OPTVM_CYCLES=200 OPTVM=build/optvm OPTVM_SOURCE=. tests/live/cycles.sh` takes some minutes
. "$(dirname "$0")/../support/live.sh"
n_cycles=${OPTVM_CYCLES:-20}
full_after=8 # cycles: a process takes 16 generations, a cycle makes two of them
mkdir run
export XDG_RUNTIME_DIR=$dir/run
gcc -O1 "$OPTVM_SOURCE/tests/support/sametext.c" -o sametext || exit 1
# Two threads that throw and catch, one that asks and one that answers over a socket, each with a signal mask of its own, a
# timer, a handler on its own stack, one that only waits. Everybody checks what he gets.
cat >prog.cpp <<'EOP'
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <signal.h>
#include <stdexcept>
#include <sys/socket.h>
#include <sys/time.h>
#include <thread>
#include <unistd.h>
#include <vector>
static std::atomic<bool> over;
static std::atomic<long> bad, rounds[4], alarms;
__attribute__((noinline)) static unsigned step(unsigned x) { if (x % 1009 == 0) throw std::runtime_error("x"); return x % 3 ? x * 1103515245u + 12345u : x / 3 + 7; }
__attribute__((noipa)) static unsigned run(unsigned x)
{
	unsigned sum = 0;
	for (int i = 0; i < 20000; i++)
		try { x = step(x); sum += x; } catch (const std::exception &e) { x += e.what()[0]; }
	return sum;
}
static void on_alarm(int) { alarms++; }
static void on_term(int) { over = true; }
static void mask(int sig) { sigset_t s; sigemptyset(&s); sigaddset(&s, sig); pthread_sigmask(SIG_BLOCK, &s, nullptr); }
static void throwing(int t) { mask(SIGRTMIN + t); unsigned want = run(t + 5); while (!over) { bad += run(t + 5) != want; rounds[t]++; } }
static void answering(int fd) { mask(SIGUSR1); unsigned x; while (read(fd, &x, 4) == 4) { x = run(x); if (write(fd, &x, 4) != 4) bad++; } }
static void asking(int fd)
{
	mask(SIGUSR2);
	unsigned want[8];
	for (unsigned i = 0; i < 8; i++) want[i] = run(i);
	for (unsigned i = 0; !over; i++) {
		unsigned x = i % 8;
		if (write(fd, &x, 4) != 4 || read(fd, &x, 4) != 4 || x != want[i % 8]) bad++;
		rounds[2]++;
		usleep(500);
	}
	close(fd);
}
int main()
{
	int s[2], p[2];
	static char stack[65536];
	stack_t alt = {stack, 0, sizeof stack};
	struct sigaction act = {};
	sigaltstack(&alt, nullptr);
	act.sa_handler = on_alarm;
	act.sa_flags = SA_RESTART | SA_ONSTACK;
	sigaction(SIGALRM, &act, nullptr);
	signal(SIGTERM, on_term);
	signal(SIGHUP, SIG_IGN);
	itimerval it = {{0, 3000}, {0, 3000}};
	setitimer(ITIMER_REAL, &it, nullptr);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, s) || pipe(p)) return 2;
	std::vector<std::thread> threads;
	threads.emplace_back(throwing, 1);
	threads.emplace_back(answering, s[0]);
	threads.emplace_back(asking, s[1]);
	threads.emplace_back([&] { char c; mask(SIGTERM); while (!over) if (read(p[0], &c, 1) == 1) return; });
	throwing(0);
	if (write(p[1], "", 1) != 1) bad++;
	for (auto &t : threads) t.join();
	printf("%ld\n", bad.load());
	return rounds[0] == 0 || rounds[1] == 0 || rounds[2] == 0 || alarms == 0;
}
EOP
g++ -O2 -pthread prog.cpp -o prog || exit 1
./prog >out.txt & pid=$!
sleep 1

# What must never change: descriptors, masks and dispositions of all threads, mappings.
descriptors() { find "/proc/$pid/fd" -mindepth 1 -printf '%f %l\n' | sort -n; }
signals() { grep -h '^\(Pid\|SigBlk\|SigIgn\|SigCgt\|Seccomp\|NoNewPrivs\):' /proc/"$pid"/task/*/status; }
copies='r-xp 00000000 00:00 0 *$\|/memfd:' # overlays and the unwinder's stub; counters
others() { grep -v "$copies" "/proc/$pid/maps"; }
overlays() { grep -c "$copies" "/proc/$pid/maps"; }
overlay_kb() { awk '/^[0-9a-f]+-/ { ours = $2 == "r-xp" && NF == 5 || /memfd:/ } ours && /^Rss:/ { n += $2 } END { print n + 0 }' "/proc/$pid/smaps"; }
own_kb() { awk '/^Anonymous:/ { print $2 }' "/proc/$pid/smaps_rollup"; } # copies and changed pages of code too
descriptors >fds; signals >masks; others >maps
before_kb=$(own_kb)
for i in $(seq "$n_cycles"); do
	for try in 1 2 3; do # on a busy machine it may give up
		"$tool" attach --always --sample-ms 150 "$pid" 2>e && break
		[ $try != 3 ] && grep -q "did not stop within" e || fail "cycle $i: attach: $(cat e)"
	done
	./sametext "$pid" >diff.txt && fail "cycle $i: attach changed nothing"
	for try in 1 2 3; do
		"$tool" detach --revert "$pid" 2>e && break
		[ $try != 3 ] && grep -q "did not stop within" e || fail "cycle $i: detach: $(cat e)"
	done
	./sametext "$pid" || fail "cycle $i: text"
	descriptors | diff fds - || fail "cycle $i: descriptors"
	signals | diff masks - || fail "cycle $i: signals"
	others | diff maps - || fail "cycle $i: mappings"
	! grep -q '^State:	[tT]' /proc/"$pid"/task/*/status || fail "cycle $i: stopped"
	grep -qv '^TracerPid:	0' <(grep -h ^TracerPid /proc/"$pid"/task/*/status) && fail "cycle $i: still traced"
	if [ "$i" = $full_after ]; then
		kept=$(overlays) kept_kb=$(overlay_kb) memory_kb=$(own_kb) files=$(find run -type f | wc -l)
	elif [ "$i" -gt $full_after ]; then
		[ "$(overlays)" = "$kept" ] || fail "cycle $i: $(overlays) kept mappings, were $kept"
		[ "$(overlay_kb)" -le "$kept_kb" ] || fail "cycle $i: $(overlay_kb) KiB kept, were $kept_kb"
		[ "$(own_kb)" -le $((memory_kb + 256)) ] || fail "cycle $i: $(own_kb) KiB of its own memory, were $memory_kb"
		[ "$(find run -type f | wc -l)" = "$files" ] || fail "cycle $i: $(find run -type f)"
	fi
	[ $bad = 0 ] || break
done
echo "$n_cycles cycles: $(overlays) mappings, $(overlay_kb) KiB are kept, $(find run -type f | wc -l) files of state; memory of its own $before_kb KiB before, ${memory_kb:-?} when full, $(own_kb) now"
kill -TERM "$pid"
wait "$pid" || fail "the process ended with $?"
[ "$(cat out.txt)" = 0 ] || fail "wrong results: $(cat out.txt)"
"$tool" status >/dev/null
[ -z "$(find run -type f)" ] || fail "left behind: $(find run -type f)"
done_testing
