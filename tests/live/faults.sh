#!/usr/bin/env bash
# Our death, our stopping and our failing at every fault point (base/fault.def) harm no program (rule R13): it computes the same,
# ends by itself with its own output and status, no thread of it stays stopped, no partial file is left.
#   OPTVM_FAULTS=N     N kills at random instants; default 12, and of points and programs a share. From 200 on every point with
#                      every program, of run, attach and detach (an hour)
#   OPTVM_FAULT_KILLS=1  of these only the kills: no stops, no errors, each point the first time it is passed
#   OPTVM_FAULT_SHARE=K/N  the Kth of N parts of the points and of the random kills
#   OPTVM_SEED=N       of the random kills and of the share
#   OPTVM_FAULT_JOBS=N at a time; default: two a processor
#   faults.sh MODE FAULT WORDS...   one case, verbose: faults.sh threads patch.page#2:kill --counters=off
#   faults.sh MODE FAULT attach|detach
. "$(dirname "$0")/../support/live.sh"
points=$(OPTVM_FAULT=list "$tool" 2>/dev/null | sed '$d')
[ -n "$points" ] || { echo "skipped: built without fault points (-DOPTVM_DEV=ON)"; exit 77; }
seed=${OPTVM_SEED:-1} n_random=${OPTVM_FAULTS:-12} jobs=${OPTVM_FAULT_JOBS:-$((2 * $(nproc)))}
RANDOM=$seed
printf '#!/bin/sh\nexec date +%%s%%N\n' >metric && chmod +x metric
modes=(single threads signals forks throw server)
g++ -O2 -pthread "$OPTVM_SOURCE/tests/support/targets.cpp" -o targets || exit 1
off="--always --counters=off --sample-ms 100 --min-samples 60"

# --- one case
n_cases=0
complain() { echo "FAIL $*" >>"$dir/failures"; for f in err log; do [ -s $f ] && sed "s/^/   /" $f | head -5 >>"$dir/failures"; done; }

# Threads of the program that stay in a tracing or job control stop.
held() {
	local pid states
	pid=$(cat pid 2>/dev/null) || return 1
	for _ in 1 2 3 4; do
		states=$(awk '{ sub(/.*\) /, ""); print $1 }' "/proc/$pid"/task/*/stat 2>/dev/null | tr -d '\n')
		case $states in *[tT]*) sleep 0.05 ;; *) return 1 ;; esac
	done
}

wait_for() { # SECONDS COMMAND...: until it is true
	local n=$(($1 * 100))
	shift
	while ((n-- > 0)); do "$@" && return 0; sleep 0.01; done
	return 1
}
gone() { ! kill -0 "$1" 2>/dev/null; }
stopped() { case $(awk '{ sub(/.*\) /, ""); print $1 }' "/proc/$1/stat" 2>/dev/null) in T) return 0 ;; *) return 1 ;; esac; }
gone_or_stopped() { gone "$1" || stopped "$1"; }
program_over() { local p; p=$(cat pid 2>/dev/null) && { gone "$p" || grep -q ') Z' "/proc/$p/stat" 2>/dev/null; }; }

# case MODE FAULT FLAGS WORDS...: FAULT is POINT:WHAT, or random:SECONDS
one_case() {
	local mode=$1 fault=$2 flags=$3 tool_pid client='' status what=${2##*:} point=${2%%[:#]*} patience=2
	local label="$tool run ${*:4} -- targets $mode, OPTVM_FAULT=$fault"
	shift 3
	mkdir "case$n_cases" && cd "case$n_cases" || exit 1
	case $point in session.ended | save*) patience=0.5 ;; esac
	case " $* " in *off*) ;; *) patience=4 ;; esac
	case $point in watch.* | round.*) patience=25 ;; esac # it takes so long until they are passed
	case $what$patience in errno*2) patience=0.5 ;; errno*4) patience=1.5 ;; esac
	if [ "$point" = random ]; then
		"$tool" run "$@" -- ../targets "$mode" >out 2>err </dev/null &
	else
		OPTVM_FAULT=$fault "$tool" run "$@" -- ../targets "$mode" >out 2>err </dev/null &
	fi
	tool_pid=$!
	if [ "$mode" = server ]; then ../targets client >client.out & client=$!; fi
	if [ "$point" = random ]; then
		sleep "$what"
		kill -9 $tool_pid 2>/dev/null
	else
		case $patience in *.5) sleep $patience ;; *) wait_for $patience gone_or_stopped $tool_pid ;; esac
	fi
	if stopped $tool_pid; then
		case $flags in
		*h*) sleep 0.1; kill -CONT $tool_pid ;;
		*) held && complain "held while the tool is stopped: $label"
			: >stop
			[ -e pid ] && { wait_for 8 test -e result || complain "does not end while the tool is stopped: $label"; }
			kill -CONT $tool_pid ;;
		esac
	fi
	if gone $tool_pid; then
		held && complain "threads stay stopped: $label"
		sleep 0.15
	fi
	: >stop
	if ! wait_for 8 gone_or_stopped $tool_pid; then
		complain "the tool hangs: $label"
		kill -9 $tool_pid
	fi
	stopped $tool_pid && kill -CONT $tool_pid # a point at the very end
	wait $tool_pid
	status=$?
	local ran=y
	[ "$what" != stop ] && [ ! -e pid ] && # killed or failed before the exec: it never ran
		case $point in random | launch.* | sampler.event | sampler.ring | sampler.opened | tracer.seize) ran= ;; esac
	if [ -n "$client" ] && ! wait $client; then
		case $point$what in
		launch.*stop) ;; # the server was let go when the client was told to end
		*) [ $ran ] && complain "client: $(cat client.out): $label" ;;
		esac
	fi
	if [ $ran ]; then
		wait_for 8 test -e result || complain "no result: $label"
		wait_for 5 program_over || complain "does not end: $label"
		[ "$(cat result 2>/dev/null)" = "ok $mode" ] || complain "result '$(cat result 2>/dev/null)': $label"
		[ "$(cat out)" = "ok $mode" ] || complain "output '$(cat out)': $label"
	else
		[ -e pid ] && complain "the program ran: $label"
	fi
	case $what in
	kill) case $status$flags in 137* | *o*) ;; *) echo "$fault" >>"$dir/unreached" ;; esac
		[ $status = 137 ] || [ $status = 3 ] || complain "status $status: $label" ;;
	errno=*) if [ $ran ]; then
			[ $status = 3 ] || complain "status $status, not 3: $label"
		else
			{ [ $status = 125 ] && [ "$(grep -c '^optvm: ' err)" = 1 ]; } || complain "status $status, not 125: $label"
		fi ;;
	stop) [ $status = 3 ] || complain "status $status, not 3: $label" ;;
	esac
	if [ "$what" != kill ] && [ "$point" != random ] && ls prof.* report.json.* >/dev/null 2>&1; then
		complain "left behind $(ls prof.* report.json.*): $label"
	fi
	cd .. && rm -rf "case$n_cases"
}

# attach_case MODE FAULT attach|detach: a process that runs already. Afterwards the next tool can still give it its code back.
attach_case() {
	local mode=$1 fault=$2 which=$3 prog client='' status what=${2##*:}
	local label="$which of targets $mode, OPTVM_FAULT=$fault"
	mkdir "case$n_cases" && cd "case$n_cases" || exit 1
	export XDG_RUNTIME_DIR=$PWD
	../targets "$mode" >out </dev/null &
	prog=$!
	if [ "$mode" = server ]; then ../targets client >client.out & client=$!; fi
	wait_for 5 test -e pid
	# shellcheck disable=SC2086
	[ "$which" = detach ] && "$tool" attach $off $prog 2>err
	# shellcheck disable=SC2046
	OPTVM_FAULT=$fault timeout -s KILL 15 "$tool" "$which" $([ "$which" = attach ] && echo "$off") $prog 2>err
	status=$?
	case $what$status in
	kill137) ;;
	kill*) echo "$which-$fault" >>"$dir/unreached" ;;
	*) if [ $status -gt 5 ] || { [ $status -gt 1 ] && ! grep -q '^optvm: ' err; }; then complain "status $status: $label"; fi ;;
	esac
	held && complain "threads stay stopped: $label"
	sleep 0.1
	timeout -s KILL 15 "$tool" detach $prog 2>err
	status=$?
	[ $status -le 1 ] || complain "the next detach says $status: $label"
	held && complain "threads stay stopped after the next detach: $label"
	sleep 0.05
	: >stop
	wait_for 8 gone $prog || complain "does not end: $label"
	wait $prog
	status=$?
	[ $status = 3 ] || complain "status $status, not 3: $label"
	[ "$(cat out)" = "ok $mode" ] || complain "output '$(cat out)': $label"
	if [ -n "$client" ]; then wait $client || complain "client: $(cat client.out): $label"; fi
	cd .. && rm -rf "case$n_cases"
}

# The same in the background, a few at a time.
start() {
	local what=$1
	shift
	while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
	n_cases=$((n_cases + 1))
	$what "$@" 2>/dev/null & # the shell tells of everybody who is killed
}

if [ $# -ge 2 ]; then # by hand
	mode=$1 fault=$2
	shift 2
	export OVM_LOG=${OVM_LOG:-info}
	case ${1:-} in attach | detach) attach_case "$mode" "$fault" "$1"; cat failures 2>/dev/null && exit 1; done_testing ;; esac
	one_case "$mode" "$fault" "$(echo "$points" | awk -v p="${fault%%[:#]*}" '$2 == p { print $3 }')" --save-profile prof "$@"
	cat failures 2>/dev/null && exit 1
	done_testing
fi

# --- all of them
is_full() { [ "$n_random" -ge 200 ]; }
is_all() { is_full && [ -z "${OPTVM_FAULT_KILLS:-}" ]; }
: >"$dir/failures"
: >"$dir/unreached"

# Words under which the point is passed, soon after the start if that is possible.
words_for() {
	case $1 in
	tracer.*) echo "$off --ptrace" ;;
	counters.* | counting.* | exit* | forks.*) echo "--always --sample-ms 100" ;;
	measure.*) echo "$off --metric ../metric" ;;
	follow.*) echo "$off --follow=exec" ;;
	watch.* | round.*) echo "$off --rounds 2" ;;
	*) echo "$off" ;;
	esac
}

k=0 share=${OPTVM_FAULT_SHARE:-0/1}
while read -r _ point flags _; do
	k=$((k + 1))
	[ $((k % ${share#*/})) = $((${share%/*} % ${share#*/})) ] || continue
	if is_full; then these=("${modes[@]}"); else these=("${modes[(k + seed) % 6]}"); fi
	case $point in
	forks.*) is_full || these=(forks) ;;
	exit*) is_full || these=(single) ;; # a caller with a frame in a copy
	spread.*) these=(prefork) ;;
	watch.* | round.*) these=(phases) ;;
	esac
	if is_full || [ $((k % 5)) = $((seed % 5)) ]; then
		for mode in "${these[@]}"; do
			case $flags$point in
			??o* | ???launch.* | ???tracer.* | ???sampler.* | ???count* | ???exit* | ???forks.* | ???session* | ???follow* | ???watch* | ???round.* | ???save* | ???detach* | ???spread*) ;;
			*) start attach_case "$mode" "$point:kill" attach ;;
			esac
			case $point in
			stop.* | switch.* | patch.* | jumps.* | osr.* | resume.* | state.* | tracee.* | livemap.*)
				start attach_case "$mode" "$point:kill" detach
				case $flags in *f*) [ -n "${OPTVM_FAULT_KILLS:-}" ] || start attach_case "$mode" "$point:errno=EIO" detach ;; esac ;;
			esac
		done
	fi
	case $point in
	spread.*) start attach_case prefork "$point:kill" attach; start attach_case prefork "$point#2:kill" attach ;;
	attached) is_full || start attach_case "${these[0]}" "$point:kill" attach; continue ;;
	detach*) for mode in "${these[@]}"; do start attach_case "$mode" "$point:kill" detach; done; continue ;;
	esac
	if [ "$point" = patch.undo ]; then # passed only if something else fails
		start one_case "${these[0]}" patch.page#2:errno=EIO,patch.undo:kill "$flags" --save-profile prof $off
		start one_case "${these[0]}" patch.page#2:errno=EIO,patch.undo:errno=EIO "$flags" --save-profile prof $off
		continue
	fi
	for mode in "${these[@]}"; do
		# shellcheck disable=SC2046
		case $flags in
		*o*) start one_case "$mode" "$point:kill" "$flags" --save-profile prof $(words_for "$point") ;;
		*) start one_case "$mode" "$point:kill" "$flags" --save-profile prof $(words_for "$point")
			is_all && start one_case "$mode" "$point#2:kill" "$flags" --save-profile prof $(words_for "$point")
			is_all && start one_case "$mode" "$point#3:kill" "$flags" --save-profile prof --always --sample-ms 100 ;;
		esac
		if is_all || { [ -z "${OPTVM_FAULT_KILLS:-}" ] && [ $((k % 3)) = $((seed % 3)) ]; }; then
			# the sampler that traces is in all signals of the program: stopped, it stops them
			# shellcheck disable=SC2046
			case $flags$point in ??o* | ???tracer*) ;; *) start one_case "$mode" "$point:stop" "$flags" --save-profile prof $(words_for "$point") ;; esac
		fi
		case $flags in
		*f*) [ -n "${OPTVM_FAULT_KILLS:-}" ] || for e in EIO ENOMEM EPERM EINTR ESRCH; do
				is_full || [ $e = EIO ] || continue
				# shellcheck disable=SC2046
				start one_case "$mode" "$point:errno=$e" "$flags" --save-profile prof $(words_for "$point")
			done ;;
		esac
	done
done <<<"$points"
for ((i = 0; i < n_random / ${share#*/}; i++)); do
	ms=$((RANDOM % 1500))
	words=$off
	[ $((RANDOM % 3)) = 0 ] || words="--always --sample-ms 100"
	# shellcheck disable=SC2086
	start one_case "${modes[RANDOM % 6]}" "random:$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))" - $words
done
wait
[ -s failures ] && { bad=1; cat failures; }
echo "$(echo "$points" | wc -l) points, $n_cases cases, seed $seed; not reached: $(sort unreached | uniq -c | awk '{ printf "%s%s", $2, ($1 > 1 ? "x" $1 " " : " ") }')"
done_testing
