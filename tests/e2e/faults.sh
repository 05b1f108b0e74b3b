#!/usr/bin/env bash
# Every system call and every allocation of the tool fails once (tests/support/faultlib.c): never a crash, a hang, or half an
# output; the program under run and record always gives its own output and status. Then: a full disk, SIGINT and SIGTERM.
#   OPTVM_FAULTS=all   every call with every errno (an hour); default: a sample, OPTVM_SEED=N chooses it
set -u
tool=${OPTVM:?path of the tool} support=${OPTVM_SOURCE:?}/tests/support
unset OPTVM
dir=$(mktemp -d)
trap '[ $BASHPID = $$ ] && rm -rf "$dir"' EXIT
cd "$dir" || exit 1
bad=0
fail() { echo "FAIL $*"; bad=1; }
seed=${OPTVM_SEED:-1} RANDOM=${OPTVM_SEED:-1}
all=$([ "${OPTVM_FAULTS:-}" = all ] && echo y)
gcc -O1 -shared -fPIC "$support/faultlib.c" -o faultlib.so || exit 1
g++ -O2 -pthread "$support/targets.cpp" -o targets || exit 1
LD_PRELOAD=./faultlib.so FAULT_CALL=count "$tool" --version >/dev/null 2>&1 ||
	{ echo "skipped: the tool cannot be preloaded (sanitizers)"; exit 77; }

# A program that ends by itself after 0.3 s or what is asked for, with status 3.
cat >timed <<'EOP'
#!/bin/sh
rm -f stop
(sleep "$1"; : >stop) >/dev/null 2>&1 &
exec ./targets "${2:-single}"
EOP
chmod +x timed
"$tool" record -f -F 1999 -o good.prof -- ./timed 0.7 >/dev/null 2>rec.err
[ -s good.prof ] || { echo "skipped: nothing can be recorded here: $(cat rec.err)"; exit 77; }
cp good.prof other.prof

# What each command writes, and its words. A word @OUT is the output.
words() {
	case $1 in
	rewrite) echo "rewrite targets -p good.prof -o @OUT" ;;
	merge) echo "merge -o @OUT good.prof other.prof" ;;
	report) echo "report good.prof" ;;
	record) echo "record -F 1999 -o @OUT -- ./timed 0.35" ;;
	counted) echo "record -F 1999 -o @OUT -- ./timed 1.3" ;;
	run) echo "run --counters=off --sample-ms 100 --min-samples 40 --save-profile @OUT --report json -- ./timed 0.5" ;;
	traced) echo "record --ptrace -o @OUT -- ./timed 0.4" ;;
	esac
}
is_wrapper() { case $1 in record | run | counted | traced) ;; *) false ;; esac; }

# attempt COMMAND CALL NTH ERRNO: one run, judged.
n_runs=0 n_failed=0
attempt() {
	local cmd=$1 call=$2 nth=$3 errnum=$4 line
	line="FAULT_CALL=$call FAULT_NTH=$nth FAULT_ERRNO=$errnum optvm $(words "$cmd")"
	n_runs=$((n_runs + 1))
	rm -rf work && mkdir work && cp targets timed good.prof other.prof work && cd work || exit 1
	# shellcheck disable=SC2046
	LD_PRELOAD=$dir/faultlib.so FAULT_CALL=$call FAULT_NTH=$nth FAULT_ERRNO=$errnum \
		timeout -s KILL 20 "$tool" $(words "$cmd" | sed 's/@OUT/output/') >out 2>err </dev/null
	status=$?
	[ $status -lt 124 ] || [ $status = 125 ] || fail "status $status: $line: $(head -3 err)"
	[ $status = 0 ] || [ $status = 3 ] || n_failed=$((n_failed + 1))
	grep -qi 'assertion\|sanitizer' err && fail "$line: $(head -3 err)"
	if is_wrapper "$cmd"; then
		case $status in
		3) [ "$(cat out)" = "ok single" ] || fail "output '$(cat out)': $line" ;;
		70) # out of memory after its end: no profile
			{ grep -q 'out of memory' err && [ "$(cat result)" = "ok single" ] && [ "$(cat out)" = "ok single" ]; } ||
				fail "status 70: $line: $(cat err)" ;;
		*) [ -e pid ] && fail "status $status although the program ran: $line: $(head -3 err)"
			[ -s err ] || fail "status $status without a message: $line" ;;
		esac
	else
		[ $status = 0 ] || [ "$(grep -c '^optvm: ' err)" -ge 1 ] || fail "status $status without a message: $line: $(cat err)"
	fi
	# an output is whole, or not there; temporaries never are
	ls output.* output?* json.* >/dev/null 2>&1 && fail "left behind $(ls output.* output?* json.* 2>/dev/null): $line"
	if [ -e output ]; then
		case $cmd in
		rewrite) : >stop; ./output single >out2; [ "$(cat out2)" = "ok single" ] || fail "half an output: $line" ;;
		*) "$tool" report output >/dev/null 2>err2 || fail "half an output: $line: $(cat err2)" ;;
		esac
		# (run: the profile is whole, then there was no memory for the report)
		[ $status = 0 ] || [ $status = 3 ] || [ "$call" = fflush ] || { is_wrapper "$cmd" && [ $status = 70 ]; } ||
			fail "an output in spite of status $status: $line"
	elif [ $status = 0 ] && [ "$cmd" != report ]; then
		fail "status 0 but no output: $line"
	fi
	cd ..
}

errnos_of() { # which make sense for the call
	case $1 in
	malloc | calloc | realloc) echo 12 ;;	    # ENOMEM
	waitpid | poll | nanosleep) echo "4 10" ;;  # EINTR ECHILD
	read | write | pread | pwrite) echo "5 4" ;; # EIO EINTR
	ptrace) echo "1 3 5" ;;			    # EPERM ESRCH EIO
	kill) echo "1 3" ;;
	open | openat | fopen | opendir | mkostemp) echo "13 24 5" ;; # EACCES EMFILE EIO
	*) echo "5 12 1" ;;
	esac
}

# sweep COMMAND MANY: every call, or MANY of them by chance.
sweep() {
	local cmd=$1 many=$2 call n errnum list=()
	rm -rf work && mkdir work && cp targets timed good.prof other.prof work && cd work || exit 1
	# shellcheck disable=SC2046
	LD_PRELOAD=$dir/faultlib.so FAULT_CALL=count FAULT_COUNTS=$dir/counts "$tool" $(words "$cmd" | sed 's/@OUT/output/') \
		>/dev/null 2>err </dev/null
	cd ..
	while read -r call n; do
		for ((i = 1; i <= n; i++)); do
			for errnum in $(errnos_of "$call"); do
				list+=("$call $i $errnum")
			done
		done
	done <counts
	local total=${#list[@]}
	if [ -z "$all" ]; then # half from all calls, half evenly from the kinds of calls
		local few=() kinds
		mapfile -t kinds < <(awk '$2 { print $1 }' counts)
		for ((i = 0; i < many; i += 2)); do
			few+=("${list[RANDOM % total]}")
			call=${kinds[(RANDOM + i) % ${#kinds[@]}]}
			mapfile -t kind < <(printf '%s\n' "${list[@]}" | grep "^$call ")
			few+=("${kind[RANDOM % ${#kind[@]}]}")
		done
		list=("${few[@]}")
	fi
	n_runs=0 n_failed=0
	# shellcheck disable=SC2086
	for i in "${!list[@]}"; do attempt "$cmd" ${list[i]}; done
	echo "$cmd: $total faults possible, $n_runs tried, $n_failed changed its status"
}

# no memory before the program starts: 125, whichever allocation fails
for cmd in run record counted traced; do
	for n in 1 2 5 9; do
		attempt $cmd calloc $n 12
		[ -e work/pid ] || [ $status = 125 ] || fail "status $status before the program: $cmd, calloc $n: $(cat work/err)"
	done
done

sweep rewrite 140
sweep merge 60
sweep report 40
sweep record 16
sweep counted 4
sweep run 16
sweep traced 6

# --- a full disk: the message says so, and nothing is left
full() {
	local where=$1
	for cmd in rewrite merge run; do
		# shellcheck disable=SC2046
		"$tool" $(words $cmd | sed "s,@OUT,$where/output,") >out 2>err </dev/null
		status=$?
		want=1
		[ $cmd = run ] && want=3
		[ $status = $want ] || fail "disk full: $cmd: status $status: $(cat err)"
		grep -qi 'no space left\|file too large' err || fail "disk full: $cmd does not say so: $(cat err)"
		[ -z "$(ls "$where")" ] || fail "disk full: $cmd left $(ls "$where")"
		rm -f "$where"/*
	done
}
mkdir full
if [ "$(id -u)" = 0 ] && mount -t tmpfs -o size=4k none full 2>/dev/null; then
	: >full/all
	head -c 4096 /dev/zero >full/all 2>/dev/null
	mv full/all full/.all
	full full
	umount full
else
	(trap '' XFSZ; ulimit -f 1; full full; exit $bad) || bad=1
fi

# --- SIGINT and SIGTERM at any moment
for i in $(seq $([ "$all" ] && echo 200 || echo 24)); do
	for sig in INT TERM; do
		rm -f output output.*
		env --default-signal=INT,TERM "$tool" rewrite targets -p good.prof -o output >/dev/null 2>err &
		pid=$!
		sleep 0.00$((RANDOM % 10))$((RANDOM % 10))
		kill -$sig $pid 2>/dev/null
		wait $pid 2>/dev/null
		if [ -e output ]; then : >stop; [ "$(./output single)" = "ok single" ] || fail "rewrite, SIG$sig: half an output"; fi
		ls output.* >/dev/null 2>&1 && fail "rewrite, SIG$sig: left $(ls output.*)"
	done
done
for i in $(seq $([ "$all" ] && echo 60 || echo 6)); do
	rm -f output output.* pid result
	setsid "$tool" record -F 1999 -o output -- ./timed 0.5 >out 2>err </dev/null &
	pid=$!
	sleep 0.$((RANDOM % 6))$((RANDOM % 10))
	kill -TERM $pid 2>/dev/null # the program gets it, and dies of it
	wait $pid 2>/dev/null
	status=$?
	[ $status = 143 ] || [ $status = 3 ] || fail "record, SIGTERM: status $status: $(cat err)"
	if [ -e output ]; then "$tool" report output >/dev/null || fail "record, SIGTERM: half an output"; fi
	ls output.* >/dev/null 2>&1 && fail "record, SIGTERM: left $(ls output.*)"
	sleep 0.1
done 2>/dev/null
echo "seed $seed"
[ $bad = 0 ] && echo ok
exit $bad
