#!/usr/bin/env bash
# fuzz.sh build    builds the fuzz targets with clang-14, ASan and UBSan in $OPTVM_BUILD/fuzz
# fuzz.sh NAME     runs tests/fuzz/fuzz_NAME.c for $FUZZ_SECONDS (default 10) from the seeds in datasets/fuzz/NAME
# Fails on a crash, a failed assertion, 5 s for one input, or 1 GiB. $FUZZ_SEED: libFuzzer's (default 1; 0: another each time).
# $FUZZ_CORPUS: folder where what is found is kept and started from the next time (default: thrown away).
set -u
name=$1
build=$OPTVM_BUILD/fuzz
for tool in clang-14 clang++-14; do
	command -v $tool >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done

if [ "$name" = build ]; then
	cmake -S "$OPTVM_SOURCE" -B "$build" -G Ninja -DOPTVM_FUZZ=ON -DOPTVM_SANITIZE=address,undefined \
		-DCMAKE_C_COMPILER=clang-14 -DCMAKE_CXX_COMPILER=clang++-14 -DCMAKE_BUILD_TYPE=RelWithDebInfo >"$build.log" 2>&1 &&
		ninja -C "$build" -j "${OPTVM_JOBS:-2}" fuzzers >>"$build.log" 2>&1 || { tail -30 "$build.log"; exit 1; }
	exit 0
fi

seeds=$OPTVM_SOURCE/datasets/fuzz/$name
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
found=${FUZZ_CORPUS:+$FUZZ_CORPUS/$name}
mkdir -p "${found:=$work/corpus}"
program=$build/tests/fuzz_$name
limits="-timeout=5 -rss_limit_mb=1024 -max_len=4096 -entropic=0"
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# shellcheck disable=SC2086
"$program" $limits -max_total_time="${FUZZ_SECONDS:-10}" -seed="${FUZZ_SEED:-1}" -artifact_prefix="$work/" -print_final_stats=1 \
	"$found" "$seeds" >"$work/log" 2>&1
status=$?
grep -E 'Seed:|number_of_executed_units|slowest_unit|peak_rss' "$work/log"
[ $status = 0 ] && exit 0

tail -40 "$work/log"
for file in "$work"/crash-* "$work"/timeout-* "$work"/oom-* "$work"/leak-*; do
	[ -e "$file" ] || continue
	keep=$OPTVM_BUILD/fuzz-$name-$(basename "$file")
	cp "$file" "$keep"
	timeout 60 "$program" $limits -minimize_crash=1 -runs=20000 -exact_artifact_path="$keep.min" "$file" >/dev/null 2>&1
	echo "FAIL fuzz_$name: repeat with $program $keep (smaller: $keep.min); keep it in $seeds when mended"
	[ -e "$keep.min" ] && base64 "$keep.min"
done
exit 1
