#!/usr/bin/env bash
# Rule R11: a profile is advice. Programs rewritten with counts that no run can give (tests/support/hostile_profile.py) print what the
# originals print; the tool neither crashes nor takes long. $OPTVM_HOSTILE random programs (csmith, default 3) and Debian's bash, git,
# gzip, python3.11, with $OPTVM_HOSTILE_PROFILES profiles each (default 3); seeds from $OPTVM_SEED (default 1).
set -u
programs=${OPTVM_HOSTILE:-3}
profiles=${OPTVM_HOSTILE_PROFILES:-3}
first=${OPTVM_SEED:-1}
hostile=$OPTVM_SOURCE/tests/support/hostile_profile.py
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
include=$(dirname "$(find /usr/include -name csmith.h 2>/dev/null | head -1)")
export LC_ALL=C

cat >"$dir/work.sh" <<'SH'
fib() { local n=$1; if ((n < 2)); then r=$n; else fib $((n - 1)); local a=$r; fib $((n - 2)); r=$((r + a)); fi; }
fib 12; echo $r
declare -A seen
for w in the quick {a..z}{0..9} brown fox; do case $w in q*) continue ;; [a-f]?) seen[${w^^}]=${#w} ;; *) s+=${w//o/0} ;; esac; done
echo "${#seen[@]} ${s:3:80}"; printf '%s\n' "${!seen[@]}" | { while read -r x; do ((i += ${#x})); done; echo $i; }
SH
cat >"$dir/work.py" <<'PY'
import json, re, collections
class Shape:
    def __init__(self, n): self.n = n
    def area(self): return sum(i * i % 7 for i in range(self.n))
try:
    raise ValueError(Shape(9).area())
except ValueError as e:
    print(e)
words = re.findall(r"\w+", "the quick brown fox jumps over the lazy dog " * 50)
print(collections.Counter(words).most_common(3), json.dumps(sorted({w: len(w) for w in words}.items())))
print(sum(s.area() for s in map(Shape, range(60))), f"{2 ** 200:x}", sorted(words, key=lambda w: w[::-1])[::40])
PY
seq 1 4000 >"$dir/a"
sed 's/7$/seven/; /33/d' "$dir/a" >"$dir/b"

work() { # NAME PROGRAM: runs PROGRAM on the work of NAME
	case $1 in
	bash) "$2" --norc "$dir/work.sh" ;;
	git) "$2" diff --no-index --stat -p "$dir/a" "$dir/b" && :; "$2" hash-object "$dir/a" "$dir/b" ;;
	gzip) "$2" -c9n "$dir/a" | sha256sum; "$2" -c1n "$dir/b" | "$2" -dc | sha256sum ;;
	python3.11) PYTHONHOME=/usr PYTHONHASHSEED=0 "$2" -B "$dir/work.py" ;;
	*) "$2" ;;
	esac 2>&1
}

one() { # NAME PROGRAM SEED
	local name=$1 program=$2 seed=$3 out=$dir/$1.$3.opt want status start
	local options=("" --drop-cold "--order hfsort" "--order original --share 0.7" "--share 0.99 --drop-cold" --keep-order)
	want=$(work "$name" "$program" | sha256sum)
	python3.11 "$hostile" "$program" "$seed" >"$out.prof" || { echo "FAIL $name $seed: no profile"; return; }
	start=$(date +%s%N)
	# shellcheck disable=SC2086
	timeout 30 "$OPTVM" rewrite -q "$program" -p "$out.prof" -f -o "$out" ${options[seed % ${#options[@]}]} 2>"$out.err"
	status=$?
	case $status in
	0) ;;
	1 | 3) # nothing worth copying is an answer
		echo "none $name $seed: $(cat "$out.err")"
		return ;;
	*)
		echo "FAIL $name $seed: rewrite ends with $status: $(cat "$out.err")"
		return ;;
	esac
	if [ "$(work "$name" "$out" | sha256sum)" = "$want" ]; then
		echo "ok $name $seed $((($(date +%s%N) - start) / 1000000)) ms"
	else
		echo "FAIL $name $seed: output differs: python3.11 $hostile $program $seed >p; optvm rewrite $program -p p ${options[seed % ${#options[@]}]}"
	fi
	rm -f "$out" "$out.prof" "$out.err"
}
export -f one work
export dir hostile OPTVM

for ((seed = first; seed < first + programs; seed++)); do
	csmith --seed "$seed" >"$dir/p.c" 2>/dev/null && gcc "-O$((seed % 3))" -w -I"$include" "$dir/p.c" -o "$dir/csmith$seed" 2>/dev/null &&
		timeout 5 "$dir/csmith$seed" >/dev/null || continue
	for ((i = 0; i < profiles; i++)); do echo "csmith$seed $dir/csmith$seed $((seed * 1000 + i))"; done
done >"$dir/jobs"
for name in bash git gzip python3.11; do
	program=/usr/bin/$name # Debian's own, not another of the same name
	readelf -nW $program 2>/dev/null | grep -q 'Build ID' || { echo "left out: $program"; continue; }
	for ((i = 0; i < profiles; i++)); do echo "$name $program $((first * 1000 + i))"; done
done >>"$dir/jobs"
xargs -P "${OPTVM_JOBS:-2}" -L1 bash -c 'one "$@"' one <"$dir/jobs" >"$dir/log"
grep -E '^(FAIL|none)' "$dir/log"
ok=$(grep -c '^ok' "$dir/log")
echo "hostile: $ok equal, $(grep -c '^none' "$dir/log") nothing to copy, $(grep -c '^FAIL' "$dir/log") wrong" \
	"(seed $first, $programs random programs, $profiles profiles each)"

# counts below zero and beyond 64 bits are no profile
id=$(readelf -nW /usr/bin/bash | sed -n 's/.*Build ID: //p')
for line in "s 30000 -5" "e 30000 30010 -1" "b 30000 30010 18446744073709551616 0" "s -30000 5" "e 30000 30010" "s 30000 5 5"; do
	printf 'optvm-profile 1\nevent x\nsource x\nfrequency 1\nsamples 1\nlost 0\nunmapped 0\nprocesses 1\nmodule %s -\n%s\nend 10\n' "$id" "$line" >"$dir/bad"
	"$OPTVM" rewrite -q /usr/bin/bash -p "$dir/bad" -o "$dir/out" 2>"$dir/err"
	[ $? = 3 ] && ! [ -e "$dir/out" ] || { echo "FAIL accepted: $line: $(cat "$dir/err")"; ok=0; }
done
! grep -q '^FAIL' "$dir/log" && [ "$ok" -gt $(($(wc -l <"$dir/jobs") / 2)) ]
