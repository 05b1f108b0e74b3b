#!/usr/bin/env bash
# Promoted calls in live copies: while the program is counted, optimized and measured its pointers are called through originals,
# counting copies and comparing copies in turn; exceptions, longjmp and backtraces pass all of them.
. "$(dirname "$0")/../support/live.sh"
export OVM_LOG=engine=info

promoted() { sed -n 's/.*promote: \([0-9]*\) calls.*/\1/p' got.err | sort -n | tail -1; }

for word in "gcc pointers.c 250000" "g++ virtuals.cc 50000"; do
	set -- $word
	for link in "-fPIE -pie" "-fno-pie -no-pie"; do
		# shellcheck disable=SC2086
		$1 -O2 $link -w "$support/$2" -o x || exit 1
		expected ./x "$3"
		for try in 1 2 3; do # a busy machine may have no time to count
			live "--passes=icp,-worth" ./x "$3"
			n=$(promoted)
			[ "${n:-0}" -gt 0 ] && break
		done
		echo "$word $link: ${n:-0} calls promoted"
		[ "${n:-0}" -gt 0 ] || fail "$word $link: nothing was promoted"
		live "--passes=-icp" ./x "$3"
		[ -z "$(promoted)" ] || fail "$word $link: promoted with -icp"
	done
done
done_testing
