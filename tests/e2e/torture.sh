#!/usr/bin/env bash
# gcc's own test programs (Debian's gcc-12-source) must do in optvm's copies what they do without: tests/support/torture.py says how.
#   OPTVM_TORTURE        programs in C, chosen by OPTVM_SEED (300; 0 = all 2300): gcc.c-torture/execute, gcc.dg/torture; and
#   OPTVM_TORTURE_CXX    in C++, live (26 of g++.dg/eh; clang builds some of them not; 0 = all 196, those of g++.dg/torture, too)
#   OPTVM_TORTURE_WAYS   rewrite,live (and: counted)
#   OPTVM_TORTURE_COMBO  a number: so many of {gcc, clang-14} x {-O0..-O3, -Os} x {PIE, not, static} for each (1); or one: "gcc -O2 -static"
#   OPTVM_TORTURE_ONLY   one program alone, by its file's name
set -u
for tool in gcc g++ clang-14 objcopy python3; do
	command -v $tool >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done
work=${OPTVM_WORK:-$OPTVM_BUILD/work}
archive=$(find /usr/src/gcc-12 -name 'gcc-12*.tar.xz' 2>/dev/null | head -1)
[ -n "$archive" ] || { echo "skipped: gcc-12-source is not installed"; exit 77; }
suite=$work/gcc-testsuite
if [ ! -e "$suite/.complete" ]; then
	rm -rf "$suite"
	mkdir -p "$suite"
	tar -C "$suite" --strip-components=3 --wildcards -xf "$archive" '*/gcc/testsuite/gcc.c-torture/execute' '*/gcc/testsuite/gcc.dg/torture' \
		'*/gcc/testsuite/g++.dg/eh' '*/gcc/testsuite/g++.dg/torture' || exit 1
	touch "$suite/.complete"
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
only=() kinds=(c cxx)
if [ -n "${OPTVM_TORTURE_ONLY:-}" ]; then
	only=(--only "$OPTVM_TORTURE_ONLY")
	case $OPTVM_TORTURE_ONLY in *.C) kinds=(cxx) ;; *) kinds=(c) ;; esac
fi
run() {
	python3 "$OPTVM_SOURCE/tests/support/torture.py" "$suite" "$dir/work" --seed "${OPTVM_SEED:-1}" --combos "${OPTVM_TORTURE_COMBO:-1}" \
		--jobs "${OPTVM_JOBS:-2}" "${only[@]}" "$@"
}
bad=0
for kind in "${kinds[@]}"; do
	case $kind in
	c) run --programs "${OPTVM_TORTURE:-300}" --kinds execute,ieee,torture --ways "${OPTVM_TORTURE_WAYS:-rewrite,live}" || bad=1 ;;
	cxx) run --programs "${OPTVM_TORTURE_CXX:-26}" --kinds "$([ "${OPTVM_TORTURE_CXX:-26}" = 0 ] && echo eh,cxx || echo eh)" --least 0.5 --ways "${OPTVM_TORTURE_WAYS:-live}" || bad=1 ;;
	esac
done
exit $bad
