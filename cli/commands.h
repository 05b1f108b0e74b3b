#ifndef OVM_COMMANDS_H
#define OVM_COMMANDS_H
/* One function a subcommand. Each returns 0, OVM_REFUSED ("no", exit 1) or a failure whose message
 * is in the context; main prints it and turns it into the exit status. *status is what to exit with
 * instead, if not negative: wrappers pass the program's status through.
 */
#include "cli/options.h"

int ovm_cmd_run(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_attach(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_detach(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_status(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_symbols(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_record(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_rewrite(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_verify(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_merge(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_convert(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_report(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_stats(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_dump(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);
int ovm_cmd_doctor(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status);

#endif
