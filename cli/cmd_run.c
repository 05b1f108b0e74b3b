/* optvm run [--] CMD: the program's own status comes out, whatever becomes of us. */
#include "cli/commands.h"
#include "cli/summary.h"
#include "profiler/launch.h"
#include "runtime/session.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_OURS = 125, EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127 };

static int parse(struct ovm_ctx *ctx, const struct ovm_options *opts, struct ovm_session_opts *out)
{
	struct ovm_session_opts session = {
	    .sampler = {.event = opts->value[OVM_OPT_EVENT],
			.force_ptrace = ovm_option_given(opts, OVM_OPT_PTRACE)},
	    .save_profile = opts->value[OVM_OPT_SAVE_PROFILE],
	    .report = opts->value[OVM_OPT_REPORT],
	    .uniform = ovm_option_given(opts, OVM_OPT_UNIFORM),
	    .only = opts->value[OVM_OPT_ONLY_MODULE],
	    .skip = opts->value[OVM_OPT_SKIP],
	    .strict = ovm_option_given(opts, OVM_OPT_STRICT),
	};
	uint64_t sample_ms, max_pause;
	enum ovm_when counters, branches;
	int err =
	    ovm_option_u64(ctx, opts, OVM_OPT_FREQUENCY, 1, 100000, 0, &session.sampler.frequency);
	if (!err)
		err = ovm_option_u64(ctx, opts, OVM_OPT_SAMPLE_MS, 1, UINT_MAX, 0, &sample_ms);
	if (!err)
		err = ovm_option_u64(ctx, opts, OVM_OPT_MAX_PAUSE, 1, UINT_MAX, 0, &max_pause);
	if (!err)
		err = ovm_option_u64(ctx, opts, OVM_OPT_MIN_SAMPLES, 1, UINT64_MAX, 0,
				     &session.min_samples);
	if (!err)
		err = ovm_option_when(ctx, opts, OVM_OPT_COUNTERS, &counters);
	if (!err)
		err = ovm_option_when(ctx, opts, OVM_OPT_BRANCH_STACK, &branches);
	if (err)
		return err;
	session.no_counters = counters == OVM_WHEN_OFF;
	session.sampler.branch_stack = branches == OVM_WHEN_ON	  ? OVM_BRANCH_STACK_ON
				       : branches == OVM_WHEN_OFF ? OVM_BRANCH_STACK_OFF
								  : OVM_BRANCH_STACK_AUTO;
	session.sample_ms = (unsigned)sample_ms;
	session.max_pause_ms = (unsigned)max_pause;
	*out = session;
	return 0;
}

/* OPTVM=off: become the program. Returns only if that is not possible. */
static int exec_directly(struct ovm_ctx *ctx, char *const argv[], int *status)
{
	execvp(argv[0], argv);
	*status = errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN;
	return ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot be run", argv[0]);
}

static void summarize(const struct ovm_ctx *ctx, const struct ovm_session_result *r)
{
	char bytes[32];
	ovm_summary_bytes(r->overlay_bytes, bytes, sizeof(bytes));
	if (r->why_not[0])
		ovm_summary(ctx, "left as it was: %s", r->why_not);
	else
		ovm_summary(
		    ctx,
		    "optimized %u regions of %u modules (%s, %u patches) %.2f s after the start, "
		    "%u of them counted for %.2f s; longest pause %.2f ms, %u threads, %u moved",
		    r->n_regions, r->n_modules, bytes, r->n_patches, r->patched_after_s,
		    r->n_counted, r->counted_ms / 1e3, r->pause_ms, r->n_threads, r->n_moved);
}

int ovm_cmd_run(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	struct ovm_session_opts session;
	int err = parse(ctx, opts, &session);
	if (err)
		return err;
	if (!opts->n_words)
		return ovm_fail(ctx, OVM_E_USAGE, "run: no program: optvm run CMD [ARG]...");
	const char *env = getenv("OPTVM");
	if (env && !strcmp(env, "off"))
		return exec_directly(ctx, opts->words, status);

	struct ovm_session_result result = {0};
	int exit_status = EXIT_OURS;
	err = ovm_session_run(ctx, &session, opts->words, &result, &exit_status);
	if (err) {
		*status = exit_status;
		return exit_status == EXIT_OURS ? err : ovm_fail_about(ctx, err, opts->words[0]);
	}
	if (ctx->err < 0) { /* after the exec: the program went on, say so once */
		ovm_warning(ctx, "%s", ctx->msg);
		if (session.strict) {
			*status = EXIT_OURS;
			return 0;
		}
	} else {
		summarize(ctx, &result);
	}
	*status = ovm_launch_exit_status(result.wstatus);
	return 0;
}
