/* optvm detach PID: the original code again; or only forget what is known of the process. */
#include "cli/commands.h"
#include "cli/live_options.h"
#include "cli/summary.h"
#include "runtime/attach.h"
#include "runtime/family.h"

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

static int forget(struct ovm_ctx *ctx, pid_t pid, unsigned max_pause_ms)
{
	(void)max_pause_ms;
	int err = ovm_state_remove(ctx, pid);
	if (!err)
		ovm_summary(ctx, "process %d keeps what it has, and optvm forgets it", (int)pid);
	return err;
}

static bool is_done(const ovm_family *done, const struct ovm_relative *one)
{
	for (uint32_t i = 0; i < done->n; i++)
		if (done->v[i].pid == one->pid && done->v[i].start == one->start)
			return true;
	return false;
}

/* Parents come before their children, so that no new one inherits what is about to go; who was
 * forked meanwhile is found by looking again. One that cannot be changed does not stop the others.
 */
static int each_of_tree(struct ovm_ctx *ctx, pid_t root,
			int (*detach)(struct ovm_ctx *, pid_t, unsigned), unsigned max_pause_ms)
{
	ovm_family done = {0};
	struct ovm_ctx first = *ctx, own = *ctx;
	uint32_t n_changed = 0, before;
	int rc = 0;
	do {
		ovm_family kin;
		before = done.n;
		ovm_family_kin(root, root, &kin);
		for (uint32_t i = 0; i < kin.n; i++) {
			if (is_done(&done, &kin.v[i]))
				continue;
			ovm_vec_push(&done, kin.v[i]);
			int err = detach(&own, kin.v[i].pid, max_pause_ms);
			n_changed += err == 0;
			if (err < 0 && err != OVM_E_GONE && !rc) {
				rc = err;
				first = own;
			}
		}
		ovm_vec_free(&kin);
	} while (done.n > before);
	if (rc) {
		*ctx = first;
	} else if (!done.n) {
		rc = detach(ctx, root, max_pause_ms); /* which says why there is nobody */
	} else if (!n_changed) {
		ovm_fail(ctx, OVM_OK, "neither process %d nor what it has forked was changed",
			 (int)root);
		rc = OVM_REFUSED;
	}
	ovm_vec_free(&done);
	return rc;
}

int ovm_cmd_detach(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	uint64_t max_pause;
	pid_t pid;
	bool keep = ovm_option_given(opts, OVM_OPT_KEEP);
	(void)status;
	int err = ovm_option_u64(ctx, opts, OVM_OPT_MAX_PAUSE, 1, INT_MAX, 0, &max_pause);
	if (!err)
		err = ovm_live_pid(ctx, opts, &pid);
	if (err)
		return err;
	if (keep && ovm_option_given(opts, OVM_OPT_REVERT))
		return ovm_fail(ctx, OVM_E_USAGE, "detach: either --keep or --revert, not both");
	if (ovm_option_given(opts, OVM_OPT_TREE))
		return each_of_tree(ctx, pid, keep ? forget : revert, (unsigned)max_pause);
	return keep ? forget(ctx, pid, 0) : revert(ctx, pid, (unsigned)max_pause);
}
