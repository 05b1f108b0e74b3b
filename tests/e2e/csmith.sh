#!/usr/bin/env bash
# Random programs, every region copied (uniform profile) and short ends of paths more than once, must print what the original prints:
# rewritten, and run to the end in instrumented copies. $OPTVM_CSMITH programs (default 150) x {gcc, clang} x {-O0, -O2} x {PIE, not};
# one in $OPTVM_CSMITH_COUNTED (default 8, with OPTVM_CSMITH given 1) seeds is also run instrumented. With OPTVM_CSMITH_TURNS each program
# is built in one of the 8 ways only, in turn: more programs for the same time.
set -u
for tool in csmith gcc clang-14; do
	command -v $tool >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done
n=${OPTVM_CSMITH:-150}
counted=${OPTVM_CSMITH_COUNTED:-${OPTVM_CSMITH:+1}}
counted=${counted:-8}
first=${OPTVM_CSMITH_SEED:-1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
include=$(dirname "$(find /usr/include -name csmith.h 2>/dev/null | head -1)")

# Run a program for at most so many seconds of processor time: busy machines make none of them late. $got: what it prints; $status.
run() { # SECONDS COMMAND...
	got=$(ulimit -t "$1" && shift && exec timeout 900 "$@" 2>&1)
	status=$?
}

# Run $d/p in instrumented copies from its first instruction to its end; needs a machine that allows it. A machine that is too
# busy for the tool to catch the program at its start may leave nothing to record; not three times.
count_one() { # NAME WANT STATUS
	local got status try
	for try in 1 2 3; do
		run 100 "$OPTVM" record -q --counters=on --uniform -f -o "$d/prof" -- "$d/p"
		[[ $status = 1 && $got = *"optvm: nothing recorded"* ]] || break
		sleep "$try"
	done
	if [ $status != "$3" ] || [ "$got" != "$2" ]; then
		echo "FAIL $1: csmith --seed $seed; $cc $opt $pie; optvm record --counters=on --uniform: status $status: ${got: -300}"
	elif grep -q '^e ' "$d/prof"; then
		echo "counted $1"
	else
		echo "FAIL $1: nothing was counted: optvm record --counters=on --uniform"
	fi
}

one_seed() {
	local seed=$1 d=$dir/$1 cc opt pie name want wanted got status way=0
	mkdir -p "$d"
	(cd "$d" && csmith --seed "$seed") >"$d/p.c" 2>/dev/null || return 0
	for cc in gcc clang-14; do for opt in -O2 -O0; do for pie in "-fPIE -pie" "-fno-pie -no-pie"; do
		way=$((way + 1))
		if [ -n "$turns" ] && [ $((seed % 8 + 1)) != $way ]; then continue; fi
		name="$seed $cc $opt $pie"
		# shellcheck disable=SC2086
		$cc $opt $pie -w -I"$include" "$d/p.c" -o "$d/p" 2>/dev/null || continue
		run 3 "$d/p"
		[ $status = 137 ] && break 3 # does not end: no oracle, nor will it have one built in another way
		want=$got wanted=$status
		if ! "$OPTVM" rewrite -q "$d/p" --uniform --passes=tails -f -o "$d/q" 2>"$d/err"; then
			echo "FAIL $name: rewrite: $(cat "$d/err")"
			continue
		fi
		run 20 "$d/q"
		if [ $status != "$wanted" ] || [ "$got" != "$want" ]; then
			echo "FAIL $name: csmith --seed $seed; $cc $opt $pie; optvm rewrite --uniform --passes=tails"
		else
			echo "ok $name"
		fi
		if [ $((seed % counted)) = 0 ]; then count_one "$name" "$want" "$wanted"; fi
	done; done; done
	rm -rf "$d"
}
# can programs be traced and counted here at all?
printf 'int main(void) { return 0; }' >"$dir/probe.c"
gcc "$dir/probe.c" -o "$dir/probe" || exit 77
why=$("$OPTVM" record -v --counters=on --uniform -f -o "$dir/probe.prof" -- "$dir/probe" 2>&1)
if ! grep -q '^e ' "$dir/probe.prof" 2>/dev/null; then
	echo "note: not run instrumented: $why"
	counted=1000000000
fi
export -f one_seed count_one run
turns=${OPTVM_CSMITH_TURNS-}
export dir include OPTVM counted turns
seq "$first" $((first + n - 1)) | xargs -P "${OPTVM_JOBS:-2}" -I{} bash -c 'one_seed {}' >"$dir/log"
grep FAIL "$dir/log"
ok=$(grep -c '^ok' "$dir/log")
bad=$(grep -c FAIL "$dir/log")
all=$((n * 8))
if [ -n "$turns" ]; then all=$n; fi
echo "csmith: $(grep -c '^counted' "$dir/log") equal in instrumented copies"
echo "csmith: $ok equal, $bad different, $((all - ok - bad)) without oracle (seeds $first..$((first + n - 1)))"
[ "$bad" = 0 ] && [ "$ok" -gt $((all / 2)) ]
