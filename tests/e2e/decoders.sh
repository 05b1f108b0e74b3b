#!/usr/bin/env bash
# Two decoders on Debian's own files: $OPTVM_FILES of /usr/bin and /usr/lib (default 12), chosen by $OPTVM_SEED (default 1). Each
# instruction is decoded by LLVM MC and Zydis, every region copied and proved, each copy decoded again (tests/support/decode_check.c).
# Files above $OPTVM_FILE_MB (default 20) are left out.
set -u
n=${OPTVM_FILES:-12}
seed=${OPTVM_SEED:-1}
check=$OPTVM_BUILD/tests/decode_check
[ -x "$check" ] || { echo "FAIL no $check"; exit 1; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 - "$n" "$seed" "${OPTVM_FILE_MB:-20}" >"$dir/files" <<'PY'
import hashlib, os, sys
n, seed, largest = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) << 20
files = set()
for top in "/usr/bin", "/usr/sbin", "/usr/lib":
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.realpath(os.path.join(folder, name))
            try:
                if 0 < os.path.getsize(path) <= largest:
                    with open(path, "rb") as f:
                        head = f.read(20)
                    if head[:5] == b"\x7fELF\2" and head[16] in (2, 3) and head[18] == 62 and not path.endswith(".debug"):
                        files.add(path)
            except OSError:
                pass
order = sorted(files, key=lambda p: hashlib.sha1((seed + " " + p).encode()).digest())
print("\n".join(order[:n]))
PY
[ -s "$dir/files" ] || { echo "skipped: no ELF files"; exit 77; }
echo "seed $seed, $(wc -l <"$dir/files") files"
xargs -P "${OPTVM_JOBS:-2}" -n 4 -d '\n' "$check" <"$dir/files" >"$dir/log" 2>"$dir/err"
status=$?
grep -E '^(bad|FAIL)' "$dir/log"
grep ' files (' "$dir/log" | tr -cs '0-9\n' ' ' | awk '{ for (i = 1; i <= 10; i++) s[i] += $i } END {
	printf "%d files (%d without code), %d regions, %d instructions; regions not decoded %d, left alone %d, refused for disagreement %d; ", s[1], s[2], s[3], s[4], s[5], s[6], s[7]
	printf "%d instructions copied, %d pairs proved, %d bad\n", s[8], s[9], s[10] }'
tail -5 "$dir/err"
[ $status = 0 ] || echo "FAIL: repeat with OPTVM_FILES=$n OPTVM_SEED=$seed, or $check FILE"
exit $((status != 0))
