#ifndef OVM_LIVE_REPORT_H
#define OVM_LIVE_REPORT_H
/* The JSON document of `optvm run --report FILE`: "schema": "optvm.run/1". */
#include "runtime/builder.h"
#include "runtime/session.h"

/* Write @path (temporary, rename). @built may be NULL: nothing was built. Fails: OVM_E_IO,
 * OVM_E_PERM. */
int ovm_live_report(struct ovm_ctx *ctx, const char *path, const struct ovm_session_result *result,
		    const struct ovm_built *built, const struct ovm_profile *profile);

#endif
