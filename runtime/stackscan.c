/* Which places in the code are on the stacks?
 *
 * Two questions are answered by one pass. Does somebody resume strictly inside the five bytes of a
 * jump we are about to write? Return addresses cannot be there (no call is, but as the last
 * instruction of a window), but the PC of an interrupted context can: a signal handler is running,
 * and its frame holds the PC of the interrupted code. And: which calls of a disarmed copy are still
 * to return?
 *
 * Unwinding each thread takes long and needs complete unwind tables; the stack's words need
 * neither. A word that only looks like an address costs one patch, or one jump over a nop that
 * nobody needed.
 *
 * A deep recursion has a million words, so almost all are thrown out by one bit of a filter (which
 * MiB they point to), and return addresses that repeat by a small table of words just seen: 8 MiB
 * took 4-5 ms (0.5-0.7 ms a MiB, on a busy machine with two CPUs).
 *
 * Limit: OVM_RT_STACK_SCAN bytes a thread, of the stack it is on; with a handler on an alternate
 * stack that one.
 */
#include "runtime/stackscan.h"
#include "runtime/tunables.h"

#include <stdlib.h>
#include <unistd.h>

enum { RED_ZONE = 128, CHUNK = 256 * 1024, GRANULE_BITS = 20 };

void ovm_stackscan_init(struct ovm_stackscan *scan)
{
	*scan = (struct ovm_stackscan){.words = ovm_alloc(CHUNK)};
}

void ovm_stackscan_fini(struct ovm_stackscan *scan)
{
	free(scan->words);
	scan->words = NULL;
}

void ovm_stackscan_add(struct ovm_stackscan *scan, ovm_rta lo, ovm_rta hi)
{
	for (uint64_t g = lo.v >> GRANULE_BITS; lo.v < hi.v && g <= (hi.v - 1) >> GRANULE_BITS; g++)
		scan->filter[g % OVM_STACKSCAN_FILTER / 64] |= UINT64_C(1) << g % 64;
}

static bool is_interesting(struct ovm_stackscan *scan, uint64_t word)
{
	uint64_t g = word >> GRANULE_BITS;
	if (word >> 47 || !(scan->filter[g % OVM_STACKSCAN_FILTER / 64] >> g % 64 & 1))
		return false;
	uint64_t *seen = &scan->seen[(word ^ word >> 12) % OVM_STACKSCAN_SEEN];
	bool is_new = *seen != word;
	*seen = word;
	return is_new;
}

bool ovm_stackscan_thread(struct ovm_stackscan *scan, const struct ovm_tracee *tracee,
			  const struct ovm_thread *thread, void (*visit)(uint64_t word, void *arg),
			  void *arg)
{
	uint64_t at = (thread->regs.rsp - RED_ZONE) & ~UINT64_C(7), end = thread->stack_end.v;
	bool any = false;
	if (end > at && end - at > OVM_RT_STACK_SCAN)
		end = at + OVM_RT_STACK_SCAN;
	while (at < end) {
		size_t want = end - at < CHUNK ? (size_t)(end - at) : (size_t)CHUNK;
		ssize_t got = pread(tracee->mem_fd, scan->words, want, (off_t)at);
		if (got < 8)
			break;
		any = true;
		for (size_t i = 0; i < (size_t)got / 8; i++)
			if (is_interesting(scan, scan->words[i]))
				visit(scan->words[i], arg);
		scan->n_bytes += (uint64_t)got;
		if ((size_t)got < want)
			break;
		at += (uint64_t)got;
	}
	return any;
}
