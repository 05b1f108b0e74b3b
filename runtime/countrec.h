#ifndef OVM_COUNTREC_H
#define OVM_COUNTREC_H
/* `optvm record` with exact counts: the counting of one process at a time as a hook of the
 * recorder. */
#include "profiler/recorder.h"
#include "runtime/counting.h"

struct ovm_countrec;

/* Free with ovm_countrec_free, after the recording. */
struct ovm_countrec *ovm_countrec_new(const struct ovm_counting_opts *opts);
void ovm_countrec_free(struct ovm_countrec *rec); /* accepts NULL */

struct ovm_recorder_hook ovm_countrec_hook(struct ovm_countrec *rec);

/* What was counted; complete when the recording is over. */
const struct ovm_counting_stats *ovm_countrec_stats(const struct ovm_countrec *rec);

#endif
