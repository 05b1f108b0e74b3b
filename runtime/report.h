#ifndef OVM_LIVE_REPORT_H
#define OVM_LIVE_REPORT_H
/* The JSON document of `optvm run --report FILE` and of `attach`: "schema": "optvm.run/1" or
 * "optvm.attach/1". */
#include "runtime/round.h"

/* Write @path (temporary, rename). @profile may be NULL. @wstatus: of a program that has ended,
 * else NULL. Fails: OVM_E_IO, OVM_E_PERM. */
int ovm_live_report(struct ovm_ctx *ctx, const char *path, const struct ovm_round *round,
		    const struct ovm_profile *profile, const int *wstatus);

#endif
