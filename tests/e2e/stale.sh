#!/usr/bin/env bash
# A profile of another build of the same program: most of it is found again, the output stays right; one of another
# program is refused.
. "$(dirname "$0")/../support/e2e.sh" gcc
unset OPTVM OPTVM_LOG

# Two versions: the second has a function more, one less, one edited, another order, and other data.
cat >common.h <<'END'
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#define FN __attribute__((noinline))
END
cat >a.c <<'END'
#include "common.h"
uint32_t table[256];
FN uint32_t hash(const uint8_t *p, int n) { uint32_t h = 2166136261u; while (n--) { h ^= *p++; h *= 16777619; if (h & 1) h ^= table[h & 255]; } return h; }
FN void fill(uint8_t *p, int n, uint32_t s) { for (int i = 0; i < n; i++) { s = s * 1103515245 + 12345; p[i] = s >> 24 > 200 ? i : s >> 16; } }
END
cat >b.c <<'END'
#include "common.h"
FN int removed(int x) { return x > 3 ? x * 7 : puts("no") + x; }
FN int compare(const void *a, const void *b) { int x = *(const uint8_t *)a, y = *(const uint8_t *)b; return x < y ? -1 : x > y; }
FN uint64_t collatz(uint64_t n) { uint64_t steps = 0; while (n != 1) { n = n & 1 ? 3 * n + 1 : n / 2; steps++; } return steps; }
FN uint64_t work(uint8_t *p, int n, int kind)
{
	uint64_t sum = 0;
	for (int i = 0; i < n; i++) {
		switch (kind + p[i] % 6) {
		case 0: sum += p[i]; break;
		case 1: sum ^= p[i] << 3; break;
		case 2: sum *= 31; break;
		case 3: sum -= i; break;
		case 4: sum = sum << 7 | sum >> 57; break;
		default: if (sum % 3) sum++; else sum += EXTRA;
		}
		EDIT
	}
	return sum;
}
END
cat >main.c <<'END'
#include "common.h"
uint32_t hash(const uint8_t *, int);
void fill(uint8_t *, int, uint32_t);
int compare(const void *, const void *);
uint64_t collatz(uint64_t), work(uint8_t *, int, int);
int main(int argc, char **argv)
{
	static uint8_t buf[4096];
	uint64_t sum = 0;
	for (int i = 0, n = argc > 1 ? atoi(argv[1]) : 10; i < n; i++) {
		fill(buf, sizeof(buf), i);
		sum += hash(buf, sizeof(buf)) + work(buf, sizeof(buf), i & 1);
		for (int k = 1; k < 60; k++)
			sum += collatz(k + i);
		qsort(buf, 200, 1, compare);
		sum = sum * 3 + buf[100];
	}
	printf("%llx\n", (unsigned long long)sum);
	return 3;
}
END
{ echo '#include "common.h"'
  echo 'FN int added(int x) { static int seen[99]; return seen[x % 99]++ > 5 ? x : puts("added"); }'
  grep -v removed b.c; } >b2.c
mkdir v1 v2
for pie in "-fPIE -pie" "-fno-pie -no-pie"; do
	# shellcheck disable=SC2086
	gcc -O2 $pie -w -s -DEXTRA=5 -DEDIT= main.c a.c b.c -o v1/prog || exit 1
	# shellcheck disable=SC2086
	gcc -O2 $pie -w -s -DEXTRA=900 -DEDIT='if (sum == 12345) sum += i * 3;' b2.c a.c main.c -o v2/prog || exit 1
	rm -f old.prof v2/opt
	"$tool" record -q -F 2000 -o old.prof -- ./v1/prog 6000 >out 2>err || [ $? = 3 ] || fail "record: $(cat err)"
	grep -q '^h ' old.prof || fail "$pie: the profile has no blocks"
	"$tool" rewrite v2/prog -p old.prof -o v2/opt 2>err || fail "$pie: rewrite: $(cat err)"
	grep -q 'of another build' err || fail "$pie: no word of another build: $(cat err)"
	kept=$(grep -o '[0-9]*\.[0-9] % of its samples kept' err)
	[ "${kept%%.*}" -gt 80 ] || fail "$pie: $kept"
	want=$(./v2/prog 500)
	got=$(./v2/opt 500)
	[ $? = 3 ] || fail "$pie: the status of the rewritten program"
	[ "$got" = "$want" ] || fail "$pie: '$got', not '$want'"
	echo "$pie: $kept"
done

# Lies: the other build's regions and hashes, any counts at any address.
awk 'BEGIN {srand(1)} $1 == "s" || $1 == "h" {if ($1 == "s") $3 = int(rand() * 1e15); else $4 = last ? last : $4; last = $4} {print}' \
	old.prof >lies.prof
"$tool" rewrite -f -q v2/prog -p lies.prof -o v2/lied 2>err
case $? in
0) [ "$(./v2/lied 500)" = "$want" ] || fail "a false profile changed the output" ;;
3) ;;
*) fail "a false profile: $(cat err)" ;;
esac

# Another program under the same name, and under its own.
mkdir other
printf '#include <math.h>\nint main(int c, char **v) { double s = 0; for (long i = 1; i < 40000000; i++) s += 1.0 / (i * c); return s > 1e9; }\n' >other.c
gcc -O2 -s other.c -o other/prog -lm || exit 1
"$tool" record -q -F 2000 -o other.prof -- ./other/prog >out 2>err || fail "record: $(cat err)"
"$tool" rewrite v2/prog -p other.prof -o none 2>err
[ $? = 3 ] || fail "another program's profile: status $?: $(cat err)"
[ -e none ] && fail "another program's profile left an output"
grep -q 'of another build' err || fail "another program's profile: $(cat err)"
"$tool" rewrite /bin/true -p old.prof -o none 2>err
[ $? = 3 ] || fail "a profile without this program: status $?"
grep -q 'no samples of this build' err || fail "a profile without this program: $(cat err)"
exit $bad
