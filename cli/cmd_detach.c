/* optvm detach PID: the original code again; or only forget what is known of the process. */
#include "cli/commands.h"
#include "cli/live_options.h"
#include "cli/summary.h"
#include "runtime/attach.h"

#include <limits.h>

static int revert(struct ovm_ctx *ctx, pid_t pid, unsigned max_pause_ms)
{
	struct ovm_detach_result r;
	int err = ovm_detach(ctx, pid, max_pause_ms, &r);
	if (err)
		return err;
	if (r.n_restored)
		ovm_summary(ctx,
			    "process %d runs its original code again: %u places restored, pause "
			    "%.2f ms, %u threads, %u moved",
			    (int)pid, r.n_restored, r.pause_ms, r.n_threads, r.n_moved);
	else
		ovm_summary(ctx, "process %d ran its original code already", (int)pid);
	return 0;
}

int ovm_cmd_detach(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	uint64_t max_pause;
	pid_t pid;
	(void)status;
	int err = ovm_option_u64(ctx, opts, OVM_OPT_MAX_PAUSE, 1, INT_MAX, 0, &max_pause);
	if (!err)
		err = ovm_live_pid(ctx, opts, &pid);
	if (err)
		return err;
	if (!ovm_option_given(opts, OVM_OPT_KEEP))
		return revert(ctx, pid, (unsigned)max_pause);
	if (ovm_option_given(opts, OVM_OPT_REVERT))
		return ovm_fail(ctx, OVM_E_USAGE, "detach: either --keep or --revert, not both");
	err = ovm_state_remove(ctx, pid);
	if (!err)
		ovm_summary(ctx, "process %d keeps what it has, and optvm forgets it", (int)pid);
	return err;
}
