#!/usr/bin/env bash
# The command line: usage, exit codes, help, streams; no optimization is judged here.
. "$(dirname "$0")/../support/e2e.sh"
unset OPTVM NO_COLOR CLICOLOR_FORCE OPTVM_LOG

# STATUS REGEX COMMAND...: exit status; stdout empty; one line "optvm: ..." on stderr that matches
refuses() {
	local status=$1 regex=$2 got
	shift 2
	"$tool" "$@" >stdout 2>stderr </dev/null
	got=$?
	[ $got = "$status" ] || fail "status $got, not $status: optvm $*: $(cat stderr)"
	[ -s stdout ] && fail "stdout is not empty: optvm $*"
	[ "$(wc -l <stderr)" = 1 ] || fail "$(wc -l <stderr) lines on stderr: optvm $*"
	grep -Eq "^optvm: .*$regex" stderr || fail "'$regex' is not in: $(cat stderr)"
}
# REGEX COMMAND...: status 0, stderr empty, stdout matches
prints() {
	local regex=$1
	shift
	"$tool" "$@" >stdout 2>stderr </dev/null || fail "status $?: optvm $*: $(cat stderr)"
	[ -s stderr ] && fail "stderr is not empty: optvm $*: $(cat stderr)"
	[ -z "$regex" ] || grep -Eq -- "$regex" stdout || fail "'$regex' is not printed by optvm $*"
}

"$tool" --version >/dev/null || { echo "FAIL the tool does not start"; exit 1; }

# help
prints '^optvm [0-9]+\.[0-9]+\.[0-9]+$' --version
prints '^Usage: optvm COMMAND' --help
prints '^Usage: optvm COMMAND' help
prints '^\.TH OPTVM 1' help --man
prints '^complete .*optvm$' help --completion bash
for command in run record rewrite merge convert report dump doctor help; do
	prints "^Usage: optvm $command" "$command" --help
	[ "$(head -n 1 stdout)" = Examples: ] || fail "$command --help does not begin with examples"
	awk 'length > 79 {exit 1}' stdout || fail "$command --help is wider than 80 columns"
	cp stdout help
	prints "^Usage: optvm $command" help "$command"
	cmp -s stdout help || fail "help $command and $command --help differ"
	"$tool" help --man | grep -q "^\.SS optvm $command" || fail "$command is not in the manual"
done
"$tool" help --completion bash >completion
bash -n completion || fail "the completion is not bash"
completes() { bash -c '. ./completion; COMP_WORDS=(optvm "$@"); COMP_CWORD=$#; _optvm; echo "${COMPREPLY[*]}"' - "$@"; }
[ "$(completes rew)" = rewrite ] || fail "completion of a command"
[ "$(completes report --w)" = --why ] || fail "completion of an option"
if command -v man >/dev/null && man -l /dev/null >/dev/null 2>&1; then
	warnings=$("$tool" help --man | man --warnings -l -E UTF-8 -Tutf8 - 2>&1 >/dev/null)
	[ -z "$warnings" ] || fail "the manual page: $warnings"
fi

# usage
refuses 2 'no command'
refuses 2 "unknown command 'reprot': did you mean 'report'" reprot
refuses 2 "unknown command 'xyzzy'" xyzzy
refuses 2 "did you mean 'rewrite'" help rewrit
refuses 2 'unknown command' annotate 1
refuses 2 'unknown option --bogus' --bogus
refuses 2 'did you mean --json' report --jsn x
refuses 2 'no program' run
refuses 2 'no program' record
refuses 2 'needs an argument' run -F
refuses 2 "'x' is not a number" run -F x true
refuses 2 'not both' record -p 1 true
refuses 2 'not a number of seconds' record --duration soon true
refuses 2 'no input' rewrite
refuses 2 'no output' rewrite a
refuses 2 'no profile' rewrite a -o b
refuses 2 'is not a number over 0' rewrite a -o b -p p --share 2
refuses 2 'not original' rewrite a -o b -p p --order best
refuses 2 'no output' merge a
refuses 2 'no profiles' merge -o a
refuses 2 'no profile' report
refuses 2 'which stage' dump
refuses 2 "did you mean 'layout'" dump layuot a
refuses 2 'not auto' report --color=blue completion

# inputs
refuses 1 'absent: cannot open: No such file' report absent
refuses 3 'not a profile' report completion
refuses 3 'not a profile' merge -o sum completion
refuses 1 'No such file' merge -o sum absent
refuses 3 '' doctor completion
refuses 1 'No such file' dump regions absent
refuses 3 '' dump regions completion
[ -e sum ] && fail "merge left an output"

# merge and report
cat >a.prof <<'END'
optvm-profile 1
event cpu-clock
source perf_event
frequency 2000
samples 30
lost 0
unmapped 5
processes 1
module 00aa /nonexistent/prog
r 1000 1100 1 main
r 1100 1200 2 odd\x1bname
s 1010 10
s 1120 5
s 9000 4
module 00bb /nonexistent/lib.so
s 10 6
end 16
END
sed 's/cpu-clock/cycles/; s/^s 1010 10/s 1010 2/' a.prof >b.prof
prints '' merge -o ab.prof a.prof b.prof
prints '' merge -o ba.prof b.prof a.prof
cmp -s ab.prof ba.prof || fail "the order of a merge matters"
grep -qx 's 1010 12' ab.prof || fail "counts are not added"
grep -qx 'event mixed' ab.prof || fail "events are not mixed"
[ "$(stat -c %a ab.prof)" = 600 ] || fail "a profile is readable by others"
prints '' merge -o ab.prof.zst a.prof b.prof
zstd -dcq ab.prof.zst 2>/dev/null | cmp -s - ab.prof || ! command -v zstd >/dev/null || fail "zstd"
refuses 2 'exists: -f overwrites' merge -o ab.prof a.prof
prints '' merge -f -o ab.prof a.prof
cmp -s a.prof ab.prof || fail "merge of one profile is not the profile"
refuses 2 'both input and output' merge -f -o a.prof a.prof b.prof
refuses 1 'cannot write' merge -o nowhere/x a.prof
head -n 12 a.prof >cut.prof
refuses 3 'cut short after line 12' report cut.prof
prints '^ +10 +33\.33  prog main$' report a.prof
grep -q 'odd?name' stdout || fail "control characters of a name reach the terminal"
grep -q 'outside every region' stdout || fail "samples outside regions are not shown"
prints 'not examined' report --why a.prof
prints '"schema": "optvm.report/1"' report --json --why a.prof
prints '"may_gain": (true|false)' report --json a.prof
python3 -c 'import json,sys; d=json.load(open("stdout")); assert d["regions"][0]["lo"] == "0x1000", d; assert d["modules"][0]["samples"] == 19' ||
	fail "the JSON report"
prints "$(printf '\033')" report --color=always a.prof
"$tool" report a.prof | grep -q "$(printf '\033')" && fail "colour in a pipe"
CLICOLOR_FORCE=1 "$tool" report a.prof | grep -q "$(printf '\033')" || fail "CLICOLOR_FORCE"
NO_COLOR=1 CLICOLOR_FORCE=1 "$tool" report a.prof | grep -q "$(printf '\033')" && fail "NO_COLOR"
"$tool" report a.prof >/dev/full 2>stderr && fail "a full disk is not noticed"

# doctor
"$tool" doctor >stdout 2>stderr
[ $? -le 1 ] || fail "doctor: $(cat stderr)"
grep -q '^.* ptrace ' stdout || fail "doctor says nothing of ptrace"
"$tool" doctor --json | python3 -c 'import json,sys; d=json.load(sys.stdin); assert d["schema"] == "optvm.doctor/1"' ||
	fail "the JSON of doctor"
prints 'unwind data .* regions' doctor /bin/sh

# wrappers: status, streams, arguments
cat >a.c <<'END'
#include <stdio.h>
int main(int c, char **v) { volatile long s = 0; for (long i = 0; i < 300000000; i++) s += i; puts(c > 1 ? v[1] : "none"); return 5; }
END
gcc -O1 a.c -o prog || exit 1
for wrapper in run "record -o out.prof"; do
	# shellcheck disable=SC2086
	got=$("$tool" $wrapper -q ./prog --version 2>stderr)
	[ $? = 5 ] || fail "$wrapper: the status is not the program's"
	[ "$got" = --version ] || fail "$wrapper: the program printed '$got'"
	[ -s stderr ] && fail "$wrapper: $(cat stderr)"
done
refuses 127 './absent' run -- ./absent
refuses 126 '\./a\.c' run -- ./a.c
refuses 127 './absent' record -o no.prof -- ./absent
refuses 1 'nothing recorded' record -o no.prof -- true
refuses 125 'cannot write' record -o nowhere/no.prof -- true
refuses 2 'exists: -f' record -o out.prof -- true
[ -e no.prof ] && fail "an empty profile was written"
[ "$(stat -c %a out.prof)" = 600 ] || fail "the profile is readable by others"
prints ' prog main$' report out.prof
prints '(copied regions|not examined)' report --why out.prof
prints '^footprint .* (may gain|no gain to be expected)$' report out.prof
refuses 3 'no samples of this build' rewrite /bin/true -p out.prof -o no
[ "$(OPTVM=off "$tool" run -- ./prog off 2>&1)" = off ] || fail "OPTVM=off"
OPTVM=off "$tool" run -- ./absent 2>/dev/null
[ $? = 127 ] || fail "OPTVM=off, no program"

# --timeout
refuses 2 "not a number of seconds" run --timeout x true
if "$tool" run true 2>/dev/null; then
	"$tool" run --timeout 0.2 -- sleep 1000 2>/dev/null
	[ $? = 124 ] || fail "--timeout: not 124"
	"$tool" run --timeout 0.2 -- sh -c 'trap "exit 3" TERM; while :; do :; done' 2>/dev/null
	[ $? = 124 ] || fail "--timeout of a program that ends by itself: not 124"
	"$tool" run --timeout 1000 -- sh -c 'exit 7' 2>/dev/null
	[ $? = 7 ] || fail "--timeout that does not come: not the status"
fi

# dump
for stage in regions cfg weights traces layout overlay; do
	prints . dump "$stage" prog --only main
	cp stdout first
	prints . dump "$stage" prog --only main
	cmp -s stdout first || fail "dump $stage is not stable"
	prints . dump "$stage" prog -p out.prof
done
refuses 2 "no region 'nothere'" dump cfg prog --only nothere
exit $bad
