/* optvm run [--] CMD: the program's own status comes out, whatever becomes of us. */
#include "cli/commands.h"
#include "cli/live_options.h"
#include "cli/summary.h"
#include "profiler/launch.h"
#include "runtime/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_TIMEOUT = 124, EXIT_OURS = 125, EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127 };

/* OPTVM=off: become the program. Returns only if that is not possible. */
static int exec_directly(struct ovm_ctx *ctx, char *const argv[], int *status)
{
	execvp(argv[0], argv);
	*status = errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN;
	return ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot be run", argv[0]);
}

static int follow_option(struct ovm_ctx *ctx, const struct ovm_options *opts, bool *follows_exec)
{
	const char *what = opts->value[OVM_OPT_FOLLOW];
	*follows_exec = what && !strcmp(what, "exec");
	if (what && !*follows_exec && strcmp(what, "fork") != 0)
		return ovm_fail(ctx, OVM_E_USAGE, "--follow: '%s' is not fork or exec", what);
	return 0;
}

int ovm_cmd_run(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	struct ovm_session_opts session = {.save_profile = opts->value[OVM_OPT_SAVE_PROFILE],
					   .report = opts->value[OVM_OPT_REPORT],
					   .strict = ovm_option_given(opts, OVM_OPT_STRICT)};
	int err = ovm_live_options(ctx, opts, &session.sampler, &session.round);
	if (!err)
		err = ovm_option_seconds(ctx, opts, OVM_OPT_TIMEOUT, &session.timeout);
	if (!err)
		err = ovm_live_rounds(ctx, opts, OVM_RT_ROUNDS, &session.max_rounds);
	if (!err)
		err = follow_option(ctx, opts, &session.follows_exec);
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
		ovm_live_summary(ctx, &result.round);
		if (result.n_processes > 1)
			ovm_summary(ctx, "%u of %u busy processes optimized; above is the last",
				    result.n_optimized, result.n_processes);
	}
	if (ovm_launch_timed_out())
		*status = EXIT_TIMEOUT;
	else
		*status = ovm_launch_exit_status(result.wstatus);
	return 0;
}
