#ifndef OVM_PMU_H
#define OVM_PMU_H
/* Event names -> perf_event_attr by libpfm4, and what this CPU and kernel allow. */
#include "base/err.h"

#include <linux/perf_event.h>
#include <sys/types.h>

/* Fill the event's part of @attr (type, config, config1, config2, precise_ip): @event is any name
 * libpfm4 knows, for example "cycles", "cpu-clock", "retired_instructions". User mode only. Fails:
 * OVM_E_USAGE (unknown event), OVM_E_UNAVAILABLE (no libpfm4 tables). */
int ovm_pmu_encode(struct ovm_ctx *ctx, const char *event, struct perf_event_attr *attr);

/* The default event: "cycles" if it opens and counts here, else "cpu-clock". */
const char *ovm_pmu_default_event(void);

/* perf_event_open(2): a descriptor (close-on-exec) or a negative errno. */
int ovm_pmu_open(struct perf_event_attr *attr, pid_t pid, int cpu);

/* Make @attr ask for branch stacks of user-mode branches. An event of AMD BRS (Zen 3) records only
 * with its own event and period: @attr gets that event instead if @may_change. Returns 0, or a
 * negative errno (nearly always -EOPNOTSUPP) with @attr untouched. */
int ovm_pmu_add_branches(struct perf_event_attr *attr, bool may_change);

/* The failure for errno @errnum of perf_event_open on @event: OVM_E_PERM (names the knob),
 * OVM_E_UNAVAILABLE, OVM_E_GONE. */
int ovm_pmu_fail(struct ovm_ctx *ctx, int errnum, const char *event);

#endif
