#ifndef OVM_TALLY_H
#define OVM_TALLY_H
/* Counts samples by (module, link-time address), and their branch stacks: what a sampler sees, in
 * memory bounded by the code that runs, not by time. */
#include "profiler/lbr.h"
#include "profiler/procmap.h"
#include "profiler/profile.h"

struct ovm_tally_module { /* open addressing */
	ovm_va *va;	  /* valid where count is not 0 */
	uint64_t *count;  /* samples seen at va */
	uint32_t n, cap;  /* cap: 0 or a power of two */
};

struct ovm_tally_process {
	pid_t pid;
	uint64_t n_samples;
};

struct ovm_tally {
	struct ovm_procmap *map;		     /* owned; the sampler feeds it */
	OVM_VEC(struct ovm_tally_process) processes; /* in order of appearance */
	uint64_t n_samples, n_lost, n_unmapped;
	OVM_VEC(struct ovm_tally_module) modules; /* indices of ovm_procmap */
	ovm_rta (*original)(void *arg, pid_t pid, ovm_rta at); /* see sampler.h; or NULL */
	void *arg;
	struct ovm_lbr lbr; /* feed it with ovm_lbr_add(&tally->lbr, tally->map, ...) */
};

void ovm_tally_init(struct ovm_tally *tally);
void ovm_tally_fini(struct ovm_tally *tally); /* accepts zeroed */

/* One sample: process @pid was seen at @rta. False if no module claims it. */
bool ovm_tally_add(struct ovm_tally *tally, pid_t pid, ovm_rta rta);

/* The process with most samples for which @is_wanted(arg, pid) is true, 0 if there is none. */
pid_t ovm_tally_busiest(const struct ovm_tally *tally, bool (*is_wanted)(void *arg, pid_t pid),
			void *arg);

/* A new normalized profile of everything counted so far. Caller frees with ovm_profile_free. */
struct ovm_profile *ovm_tally_profile(const struct ovm_tally *tally, const char *event,
				      const char *source, uint64_t frequency);

#endif
