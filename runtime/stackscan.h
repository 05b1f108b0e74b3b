#ifndef OVM_STACKSCAN_H
#define OVM_STACKSCAN_H
/* Finds addresses on the stacks of stopped threads, quickly and without unwind tables. */
#include "runtime/tracee.h"

enum { OVM_STACKSCAN_FILTER = 1 << 16, OVM_STACKSCAN_SEEN = 1 << 12 };

struct ovm_stackscan {
	uint64_t *words;			    /* one chunk of a stack */
	uint64_t filter[OVM_STACKSCAN_FILTER / 64]; /* which MiB, modulo 64 GiB, are of interest */
	uint64_t seen[OVM_STACKSCAN_SEEN];	    /* words visited lately */
	uint64_t n_bytes;			    /* read so far */
};

/* To be called before the stop: allocates. */
void ovm_stackscan_init(struct ovm_stackscan *scan);
void ovm_stackscan_fini(struct ovm_stackscan *scan);

/* Words in [lo, hi) are of interest. */
void ovm_stackscan_add(struct ovm_stackscan *scan, ovm_rta lo, ovm_rta hi);

/* Visit aligned words of the thread's stack that may be of interest (some are not), from its red
 * zone up to thread->stack_end, at most OVM_RT_STACK_SCAN bytes. A word that occurs again is mostly
 * left out. Returns false if nothing could be read. */
bool ovm_stackscan_thread(struct ovm_stackscan *scan, const struct ovm_tracee *tracee,
			  const struct ovm_thread *thread, void (*visit)(uint64_t word, void *arg),
			  void *arg);

#endif
