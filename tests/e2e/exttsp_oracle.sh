#!/bin/bash
# Block order against LLVM's own, on random graphs made now. The recorded ones are in test_exttsp.
set -eu
program=$OPTVM_BUILD/tests/test_exttsp
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

[ -x "$program" ] || { echo "skipped: $program is not built"; exit 77; }
root=/usr/lib/llvm-19 # other versions have other limits
g++ -O1 -std=c++17 -fno-rtti "-I$root/include" "$OPTVM_SOURCE/datasets/exttsp/oracle.cpp" \
	"-L$root/lib" -lLLVM-19 -o "$work/oracle" 2>"$work/errors" ||
	{ echo "skipped: no LLVM 19 to ask: $(head -1 "$work/errors")"; exit 77; }
for seed in 2 3 4; do
	"$work/oracle" "$seed" 500 120 >"$work/graphs"
	echo "seed $seed (repeat with: oracle $seed 500 120)"
	OVM_EXTTSP_GRAPHS=$work/graphs "$program" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
	grep 'below LLVM' "$work/log"
done
