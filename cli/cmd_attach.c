/* optvm attach PID: optimize a process that runs, let go, say what was done. */
#include "cli/commands.h"
#include "cli/live_options.h"
#include "runtime/attach.h"

enum { EXIT_SIGNAL = 128 };

int ovm_cmd_attach(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	struct ovm_attach_opts attach = {.save_profile = opts->value[OVM_OPT_SAVE_PROFILE],
					 .report = opts->value[OVM_OPT_REPORT]};
	struct ovm_round_result result = {0};
	int signal = 0;
	pid_t pid;
	int err = ovm_live_options(ctx, opts, &attach.sampler, &attach.round);
	if (!err)
		err = ovm_live_rounds(ctx, opts, 1, &attach.max_rounds);
	if (!err)
		err = ovm_live_pid(ctx, opts, &pid);
	if (!err)
		err = ovm_attach(ctx, &attach, pid, &result, &signal);
	if (!err)
		ovm_live_summary(ctx, &result);
	if (signal)
		*status = EXIT_SIGNAL + signal;
	return err;
}
