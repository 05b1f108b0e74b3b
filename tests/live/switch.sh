#!/usr/bin/env bash
# Instrumented and plain overlays of one program replace each other 50 times and more, under load: threads, deep recursion,
# signals, exceptions, backtraces, thread exits, forks. Results stay the same, disarmed code stops counting, and with all of
# them off the text is what it was. Driven by tests/unit/test_switch.c.
. "$(dirname "$0")/../support/live.sh"
driver=$(find "$OPTVM_BUILD" -name test_switch -type f -perm -u+x | head -1)
[ -n "$driver" ] || { echo "skipped: test_switch is not built"; exit 77; }
cat >crowd.cpp <<'EOP'
#include "tests/support/crowd.h"
int main(int, char **argv)
{
	void *at = mmap(0, sizeof(crowd_shared), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[1]), 0);
	if (at == MAP_FAILED)
		return 2;
	crowd_run((live_shared *)at);
	return ((live_shared *)at)->n_wrong ? 1 : 0;
}
EOP
for words in "-O2" "-O1 -fno-pie -no-pie" "-O2 -fcf-protection=none -fno-plt"; do
	# shellcheck disable=SC2086
	g++ $words -g -pthread -I"$OPTVM_SOURCE" crowd.cpp -o crowd || exit 1
	"$driver" ./crowd >switch.out 2>&1 || { fail "$words"; cat switch.out; }
done
done_testing
