#ifndef OVM_LIVE_REPORT_H
#define OVM_LIVE_REPORT_H
/* The JSON document of `optvm run --report FILE` and of `attach`: "schema": "optvm.run/1" or
 * "optvm.attach/1". */
#include "runtime/round.h"

/* Several processes: documents of their own in the one of the last, as "processes". */
struct ovm_live_processes;
struct ovm_live_processes *ovm_live_processes_new(void);
void ovm_live_processes_free(struct ovm_live_processes *processes); /* accepts NULL */
void ovm_live_processes_add(struct ovm_live_processes *processes, const struct ovm_round *round,
			    const struct ovm_profile *profile);
uint32_t ovm_live_processes_count(const struct ovm_live_processes *processes); /* NULL: 0 */

/* Write @path (temporary, rename). @profile may be NULL. @wstatus: of a program that has ended,
 * else NULL. @processes: NULL: only @round is told of. Fails: OVM_E_IO, OVM_E_PERM. */
int ovm_live_report(struct ovm_ctx *ctx, const char *path, const struct ovm_round *round,
		    const struct ovm_profile *profile, const int *wstatus,
		    const struct ovm_live_processes *processes);

#endif
