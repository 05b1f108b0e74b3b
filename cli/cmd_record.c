/* optvm record: sample a program to its end, or a running process, and write a profile.
 *
 * A recorded program keeps its exit status. What goes wrong on our side is one message; it changes
 * the status only where the program's own says success, because a script must not take an empty
 * profile for a good one.
 */
#include "cli/commands.h"
#include "cli/summary.h"
#include "profiler/launch.h"
#include "profiler/recorder.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_OURS = 125 };

#define DEFAULT_OUTPUT "optvm.prof"

static int parse_duration(struct ovm_ctx *ctx, const char *text, double *out)
{
	char *end;
	if (!text)
		return 0;
	double seconds = strtod(text, &end);
	if (end == text || *end || !isfinite(seconds) || seconds <= 0)
		return ovm_fail(ctx, OVM_E_USAGE, "--duration %s: not a number of seconds", text);
	*out = seconds;
	return 0;
}

static int parse(struct ovm_ctx *ctx, const struct ovm_options *opts, struct ovm_recorder_opts *out,
		 uint64_t *pid)
{
	out->sampler.event = opts->value[OVM_OPT_EVENT];
	out->sampler.force_ptrace = ovm_option_given(opts, OVM_OPT_PTRACE);
	int err =
	    ovm_option_u64(ctx, opts, OVM_OPT_FREQUENCY, 1, 100000, 0, &out->sampler.frequency);
	if (!err)
		err = ovm_option_u64(ctx, opts, OVM_OPT_PID, 1, INT_MAX, 0, pid);
	if (!err)
		err = parse_duration(ctx, opts->value[OVM_OPT_DURATION], &out->duration);
	if (!err && *pid && opts->n_words)
		return ovm_fail(ctx, OVM_E_USAGE, "record: either -p PID or a program, not both");
	if (!err && !*pid && !opts->n_words)
		return ovm_fail(ctx, OVM_E_USAGE,
				"record: no program: optvm record -o PROF -- CMD [ARG]...");
	return err;
}

/* Better now than after an hour: can a file be made where the profile shall be? */
static int check_output(struct ovm_ctx *ctx, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder = !slash ? ovm_strdup(".") : ovm_strndup(path, (size_t)(slash - path) + 1);
	int rc = access(folder, W_OK | X_OK);
	free(folder);
	if (rc)
		return ovm_fail(ctx, OVM_E_IO,
				"%s: cannot be written: its folder is missing or not "
				"writable",
				path);
	return 0;
}

static int save(struct ovm_ctx *ctx, const struct ovm_profile *prof, const char *path)
{
	if (!prof->n_samples)
		return ovm_fail(ctx, OVM_E_IO,
				"nothing recorded: the program used no CPU time of its own between "
				"two samples; %s not written (try a longer run, or -F)",
				path);
	int err = ovm_profile_save(ctx, prof, path);
	if (!err)
		ovm_summary(ctx,
			    "%llu samples (%llu lost, %llu outside modules) of %llu processes in "
			    "%u modules, %s by %s: %s",
			    (unsigned long long)prof->n_samples, (unsigned long long)prof->n_lost,
			    (unsigned long long)prof->n_unmapped,
			    (unsigned long long)prof->n_processes, prof->modules.n, prof->event,
			    prof->source, path);
	return err;
}

static int record_process(struct ovm_ctx *ctx, const struct ovm_recorder_opts *recorder, pid_t pid,
			  const char *path)
{
	struct ovm_profile *prof = NULL;
	int err = ovm_record_process(ctx, recorder, pid, &prof);
	if (!err)
		err = save(ctx, prof, path);
	ovm_profile_free(prof);
	return err;
}

static int record_command(struct ovm_ctx *ctx, const struct ovm_recorder_opts *recorder,
			  char *const argv[], const char *path, int *status)
{
	struct ovm_profile *prof = NULL;
	int wstatus = 0, exit_status = EXIT_OURS;
	int err = ovm_record_command(ctx, recorder, argv, &prof, &wstatus, &exit_status);
	if (err) {
		*status = exit_status;
		return err;
	}
	err = prof ? save(ctx, prof, path) : (int)ctx->err;
	ovm_profile_free(prof);
	if (!err) {
		*status = ovm_launch_exit_status(wstatus);
		return 0;
	}
	if (!WIFEXITED(wstatus) ||
	    WEXITSTATUS(wstatus)) { /* the program's own failure comes first */
		ovm_warning(ctx, "%s", ctx->msg);
		*status = ovm_launch_exit_status(wstatus);
		return 0;
	}
	return err;
}

int ovm_cmd_record(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	struct ovm_recorder_opts recorder = {0};
	const char *path =
	    opts->value[OVM_OPT_OUTPUT] ? opts->value[OVM_OPT_OUTPUT] : DEFAULT_OUTPUT;
	uint64_t pid = 0;
	int err = parse(ctx, opts, &recorder, &pid);
	if (!err)
		err = check_output(ctx, path);
	if (err) {
		if (err != OVM_E_USAGE && !pid)
			*status = EXIT_OURS;
		return err;
	}
	if (pid)
		return record_process(ctx, &recorder, (pid_t)pid, path);
	return record_command(ctx, &recorder, opts->words, path, status);
}
