#!/usr/bin/env bash
# Promoted calls in new ELF files: function pointers and virtual functions, nearly always the same and sometimes another one;
# exceptions thrown through them, backtraces, frames of longjmp. Same output as the original, proved, and undone.
. "$(dirname "$0")/../support/e2e.sh"
unset OPTVM

# one N WORDS: record ./x of which N calls are promoted, rewrite, prove, run, undo
one() {
	local n at_least=$1
	shift
	./x 3 >want
	local status=$?
	"$tool" record -q --counters=on --uniform -f -o p.prof -- ./x 3 >got 2>err || true
	[ -s p.prof ] || { echo "skipped: cannot count here: $(cat err)"; exit 77; }
	cmp -s want got || fail "$*: recorded"
	n=$("$tool" dump layout ./x -p p.prof --passes=icp | grep -c '^promoted: ')
	[ "$n" -ge "$at_least" ] || fail "$*: only $n calls are promoted"
	[ "$("$tool" dump layout ./x -p p.prof --passes=-icp | grep -c '^promoted: ')" = 0 ] || fail "$*: -icp"
	# shellcheck disable=SC2086
	"$tool" rewrite -q $debug ./x -p p.prof --passes=icp,-worth -f -o y || { fail "$*: rewrite"; return; }
	"$tool" verify -q ./x y || fail "$*: verify"
	./y 3 >got
	[ $? = $status ] || fail "$*: status"
	cmp -s want got || { fail "$*: output"; diff want got; }
	"$tool" dump map y | grep -q added || fail "$*: nothing in the map"
	"$tool" rewrite -q --undo y -f -o z || fail "$*: undo"
	cmp -s x z || fail "$*: undone"
}

for word in "gcc pointers.c 3" "clang-14 pointers.c 3" "g++ virtuals.cc 2" "clang++-14 virtuals.cc 2"; do
	set -- $word
	command -v "$1" >/dev/null || { echo "without $1: not installed"; continue; }
	for opt in -O0 -O2; do for link in "-fPIE -pie" "-fno-pie -no-pie"; do
		# shellcheck disable=SC2086
		$1 $opt $link -g -w "$support/$2" -o x || { fail "$word $opt $link: build"; continue; }
		debug=--debug
		one "$3" "$word $opt $link"
		debug=
		strip x
		one "$3" "$word $opt $link, stripped"
	done; done
done

# What --passes does not know.
"$tool" dump layout ./x -p p.prof --passes=icq >/dev/null 2>err
[ $? = 2 ] && grep -q "icq" err || fail "an unknown pass: $(cat err)"
"$tool" help | grep -q ' icp ' || fail "help does not list the passes"
[ $bad = 0 ] && echo ok
exit $bad
