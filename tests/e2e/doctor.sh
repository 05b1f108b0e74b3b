#!/usr/bin/env bash
# optvm doctor PID: each obstacle is named, nothing of the process is touched.
set -u
: "${OPTVM:?path of the tool}"
unset OPTVM_LOG NO_COLOR CLICOLOR_FORCE
dir=$(mktemp -d)
cp "$OPTVM" "$dir/optvm" && chmod 755 "$dir" "$dir/optvm"
tool=$dir/optvm
unset OPTVM
pids=()
# shellcheck disable=SC2317
clean() {
	for p in "${pids[@]}"; do kill -9 "$p" 2>/dev/null; done
	rm -rf "$dir"
}
trap clean EXIT
cd "$dir" || exit 1
bad=0
fail() { echo "FAIL $*"; bad=1; }

cat >target.c <<'END'
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
static char stack[65536];
static int child(void *arg)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* or it would outlive the test */
	pause();
	return arg != NULL;
}
static void *thread(void *arg) { pause(); return arg; }
int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "plain";
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog prog = {1, &allow};
	pthread_t t;
	if (!strcmp(how, "seccomp") || !strcmp(how, "no-new-privs"))
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (!strcmp(how, "seccomp"))
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
	if (!strcmp(how, "undumpable"))
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (!strcmp(how, "shared"))
		clone(child, stack + sizeof(stack), CLONE_VM, NULL);
	for (int i = 0; !strcmp(how, "threads") && i < 7; i++)
		pthread_create(&t, NULL, thread, NULL);
	puts("ready");
	fflush(stdout);
	pause();
	return 0;
}
END
gcc -O1 target.c -o target -pthread || exit 1

# COMMAND...: starts it and waits until it is ready; its PID in $pid
start() {
	: >ready
	"$@" >ready &
	pid=$!
	pids+=("$pid")
	disown "$pid"
	for _ in $(seq 100); do [ -s ready ] && return; sleep 0.05; done
	fail "it does not start: $*"
}
# STATUS REGEX PID [COMMAND PREFIX...]
says() {
	local status=$1 regex=$2 about=$3 got
	shift 3
	"$@" "$tool" doctor "$about" >stdout 2>stderr </dev/null
	got=$?
	[ $got = "$status" ] || fail "status $got, not $status: doctor of '$regex': $(cat stdout stderr)"
	grep -Eq -- "$regex" stdout || fail "'$regex' is not in: $(cat stdout stderr)"
}
# REGEX: nor in the last answer
silent() { grep -Eq -- "$1" stdout && fail "'$1' is in: $(cat stdout)"; }

if "$tool" run true 2>/dev/null; then can=0; else can=1; fi

start ./target
says $can "^ok +process +$pid target, 1 thread" "$pid"
if [ $can = 0 ]; then
	says 0 '^ok +user ' "$pid"
	says 0 '^ok +tracing ' "$pid"
	says 0 '^ok +memory ' "$pid"
	says 0 '^(ok|note) +sampling ' "$pid"
	says 0 '^ok +file .*ELF64' "$pid"
	says 0 '^(ok|note) +unwinder ' "$pid"
	silent '^lack'
fi
grep -q 'TracerPid:.0$' "/proc/$pid/status" || fail "still traced"
grep -q 'State:.S' "/proc/$pid/status" || fail "not running any more: $(grep State "/proc/$pid/status")"
"$tool" doctor --json "$pid" | python3 -c '
import json, sys
d = json.load(sys.stdin)
assert d["schema"] == "optvm.doctor/1" and isinstance(d["ok"], bool)
assert {"process", "user", "tracing", "seccomp", "sampling"} <= {f["what"] for f in d["findings"]}
assert all(f["verdict"] in ("ok", "note", "lack") for f in d["findings"])' || fail "the JSON of doctor PID"

start ./target threads
says $can "^ok +process +$pid target, 8 threads" "$pid"
start ./target seccomp
says 1 '^lack +seccomp +filter' "$pid"
says 1 '^ok +no_new_privs +set' "$pid"
start ./target no-new-privs
says $can '^ok +no_new_privs +set' "$pid"
says $can '^ok +seccomp +none' "$pid"
start ./target shared
if [ $can = 0 ] && [ -e "/proc/$pid/task/$pid/children" ]; then
	says 1 '^lack +memory +.*shares the memory' "$pid"
fi

if [ $can = 0 ]; then
	start ./target
	strace -o /dev/null -p "$pid" 2>/dev/null &
	tracer=$!
	pids+=("$tracer")
	disown "$tracer"
	for _ in $(seq 100); do grep -q "TracerPid:.$tracer\$" "/proc/$pid/status" && break; sleep 0.05; done
	says 1 "^lack +tracer +process $tracer \(strace\)" "$pid"
fi

# another user: root asks as nobody, others ask about root's first process
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
	start ./target
	says 1 '^lack +user +.*runs as root' "$pid" "${nobody[@]}"
	start "${nobody[@]}" ./target undumpable
	says 1 '^lack +dumpable +no' "$pid" "${nobody[@]}"
	start "${nobody[@]}" ./target
	says 0 '^ok +user ' "$pid"
else
	says 1 '^lack +user +.*runs as root' 1
fi
kernel=$(awk '$2 == "(kthreadd)" {print $1}' /proc/2/stat 2>/dev/null)
[ -z "$kernel" ] || says 1 '^lack +process +.*kernel' "$kernel"

# nobody there
sleep 0 &
gone=$!
wait $gone
for p in $gone 4194304999 99999999999999999999999; do
	"$tool" doctor "$p" >stdout 2>stderr
	[ $? = 5 ] || fail "a process that is gone: $(cat stdout stderr)"
	if [ -s stdout ] || [ "$(wc -l <stderr)" != 1 ]; then fail "a process that is gone: $(cat stdout stderr)"; fi
done
# a file may have such a name
cp target 1234567
says 0 '^ok +file' ./1234567
exit $bad
