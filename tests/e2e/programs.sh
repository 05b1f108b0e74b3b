#!/usr/bin/env bash
# Debian's own stripped programs: recorded on one input, rewritten, and run under `optvm run`, must print the same on another;
# and the same while they are recorded, sampled and counted for short windows, or counted from the start to the end.
# $OPTVM_PROGRAMS: names of scripts/workloads (default all); $OPTVM_HOW: rewrite, count (needs what rewrite records), run.
set -u
workloads=$OPTVM_SOURCE/scripts/workloads
export OPTVM_WORK=${OPTVM_WORK:-$OPTVM_BUILD/work}
"$workloads" prepare >/dev/null || { echo "skipped: the inputs could not be prepared"; exit 77; }
out=$OPTVM_WORK/e2e
mkdir -p "$out"
chmod 755 "$out"
bad=0

check() { # NAME HOW WANT GOT
	if [ "$3" = "$4" ]; then echo "ok $1 $2"; else echo "FAIL $1 $2: output differs"; bad=$((bad + 1)); fi
}

for name in ${OPTVM_PROGRAMS:-$("$workloads" list)}; do
	want=$("$workloads" run "$name" test | sha256sum)
	if [ "$want" = "$(: | sha256sum)" ]; then # nothing to compare: a test that cannot fail
		echo "FAIL $name: the original prints nothing"
		bad=$((bad + 1))
		continue
	fi
	prof=$out/$name.prof
	trained=$("$workloads" run "$name" train | sha256sum)
	case ${OPTVM_HOW:-all} in all | rewrite)
		rm -rf "$out/$name.opt"
		mkdir -p "$out/$name.opt"
		prof_dir=$(mktemp -d)
		chmod 777 "$prof_dir"
		got=$(WRAP="$OPTVM record -q -f -o $prof_dir/p --" "$workloads" run "$name" train | sha256sum)
		check "$name" record "$trained" "$got"
		cp "$prof_dir/p" "$prof"
		rm -rf "$prof_dir"
		for file in $("$workloads" files "$name"); do
			"$OPTVM" rewrite -v "$file" -p "$prof" -f -o "$out/$name.opt/$(basename "$file")" ||
				{ echo "FAIL $name: rewrite of $file"; bad=$((bad + 1)); }
		done
		check "$name" rewrite "$want" "$(OPT_DIR=$out/$name.opt "$workloads" run "$name" test | sha256sum)"
		;;
	esac
	case ${OPTVM_HOW:-all} in all | count)
		prof_dir=$(mktemp -d)
		chmod 777 "$prof_dir"
		install -m 644 "$prof" "$prof_dir/prior"
		got=$(WRAP="$OPTVM record -q -f -o $prof_dir/p --counters=on --prior $prof_dir/prior --" \
			"$workloads" run "$name" train | sha256sum)
		check "$name" count "$trained" "$got"
		grep -q '^e ' "$prof_dir/p" || { echo "FAIL $name: nothing was counted"; bad=$((bad + 1)); }
		rm -rf "$prof_dir"
		;;
	esac
	case ${OPTVM_HOW:-all} in all | run)
		check "$name" run "$want" "$(WRAP="$OPTVM run --" "$workloads" run "$name" test | sha256sum)"
		;;
	esac
done
exit $((bad > 0))
