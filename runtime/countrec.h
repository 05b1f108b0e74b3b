#ifndef OVM_COUNTREC_H
#define OVM_COUNTREC_H
/* `optvm record` with exact counts: the counting of one process at a time as a hook of the
 * recorder. */
#include "profiler/recorder.h"
#include "runtime/counting.h"

struct ovm_countrec;

struct ovm_countrec_opts {
	struct ovm_counting_opts counting;
	bool from_start; /* hold a launched program at its start and count it from there on */
	const struct ovm_profile *prior; /* from_start: what to count, and in which program of those
					    that are exec'ed one after another; borrowed. NULL: the
					    program's own file (counting.targets.uniform) */
};

/* Free with ovm_countrec_free, after the recording. */
struct ovm_countrec *ovm_countrec_new(const struct ovm_countrec_opts *opts);
void ovm_countrec_free(struct ovm_countrec *rec); /* accepts NULL */

struct ovm_recorder_hook ovm_countrec_hook(struct ovm_countrec *rec);

/* What was counted; complete when the recording is over. */
const struct ovm_counting_stats *ovm_countrec_stats(const struct ovm_countrec *rec);

#endif
