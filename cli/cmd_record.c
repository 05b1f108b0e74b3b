/* optvm record [-o PROF] CMD, or -p PID: sample, name what was hit, save.
 *
 * The program's status comes out. If the profile could not be made although the program ended well,
 * the status is ours: nothing recorded is an error.
 */
#include "analyzer/annotate.h"
#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/summary.h"
#include "profiler/launch.h"
#include "profiler/recorder.h"
#include "runtime/countrec.h"
#include "runtime/tunables.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	EXIT_OURS = 125,
	SPARE_MS = 10, /* of work ahead, between two drains */
};

static const char default_output[] = "optvm.prof";

struct recording {
	struct ovm_recorder_opts opts;
	struct ovm_recorder_hook hook;
	struct ovm_countrec *counts; /* NULL: samples only */
	struct ovm_profile *prior;   /* NULL: none given */
	struct ovm_annotator *annotator;
	bool uniform;
	const char *path;
};

/* What became of the exact counts, in a few words for the summary. */
static void describe_counts(const struct recording *rec, char *out, size_t n)
{
	out[0] = '\0';
	if (!rec->counts)
		return;
	const struct ovm_counting_stats *stats = ovm_countrec_stats(rec->counts);
	if (stats->n_windows)
		snprintf(
		    out, n, "; %u regions counted for %.2f s in %u windows, longest pause %.1f ms",
		    stats->n_regions, stats->armed_ms / 1e3, stats->n_windows, stats->max_pause_ms);
	else
		snprintf(out, n, "; no exact counts: %s", stats->why_not);
}

static int finish(struct ovm_ctx *ctx, const struct recording *rec, struct ovm_profile *prof)
{
	const char *path = rec->path;
	char counts[300];
	uint32_t n_modules = 0;
	describe_counts(rec, counts, sizeof(counts));
	for (uint32_t i = 0; i < prof->modules.n; i++)
		n_modules += prof->modules.v[i].samples.n > 0 || prof->modules.v[i].edges.n > 0;
	if (!n_modules) {
		ovm_fail(ctx, OVM_OK,
			 "nothing recorded, %s not written: %" PRIu64 " samples at %" PRIu64
			 " Hz: the program used too little processor time%s",
			 path, prof->n_samples, prof->frequency,
			 rec->prior || rec->uniform ? counts : "");
		return OVM_REFUSED;
	}
	ovm_annotator_finish(rec->annotator, prof);
	int err = ovm_profile_save(ctx, prof, path);
	if (!err)
		ovm_summary(ctx,
			    "%s: %" PRIu64 " samples (%s, %s, %" PRIu64
			    " Hz) of %u modules in %" PRIu64 " processes, %" PRIu64 " lost%s",
			    path, prof->n_samples, prof->event ? prof->event : "?",
			    prof->source ? prof->source : "?", prof->frequency, n_modules,
			    prof->n_processes, prof->n_lost, counts);
	return err;
}

/* --- the command --- */

static int record_program(struct ovm_ctx *ctx, const struct recording *rec, char *const argv[],
			  int *status)
{
	struct ovm_profile *prof = NULL;
	int wstatus = 0, exit_status = EXIT_OURS;
	int err = ovm_record_command(ctx, &rec->opts, argv, &prof, &wstatus, &exit_status);
	if (err) {
		*status = exit_status;
		return exit_status == EXIT_OURS ? err : ovm_fail_about(ctx, err, argv[0]);
	}
	if (prof)
		err = finish(ctx, rec, prof);
	else
		err = ctx->err ? (int)ctx->err : ovm_fail(ctx, OVM_E_INTERNAL, "nothing recorded");
	ovm_profile_free(prof);
	bool ended_well = WIFEXITED(wstatus) && !WEXITSTATUS(wstatus);
	if (err && ended_well)
		return err;
	if (err) { /* told here: the program's death by a signal may be ours as well */
		fprintf(stderr, "optvm: %s\n", ctx->msg);
		ctx->msg[0] = 0;
	}
	*status = ovm_launch_exit_status(wstatus);
	return err;
}

static int record_process(struct ovm_ctx *ctx, const struct recording *rec, pid_t pid)
{
	struct ovm_profile *prof = NULL;
	int err = ovm_record_process(ctx, &rec->opts, pid, &prof);
	if (!err)
		err = finish(ctx, rec, prof);
	ovm_profile_free(prof);
	return err;
}

static int parse(struct ovm_ctx *ctx, const struct ovm_options *opts, struct recording *rec,
		 enum ovm_when *counters, uint64_t *pid)
{
	enum ovm_when branches;
	*rec = (struct recording){
	    .path = opts->value[OVM_OPT_OUTPUT] ? opts->value[OVM_OPT_OUTPUT] : default_output,
	    .opts = {.sampler = {.event = opts->value[OVM_OPT_EVENT],
				 .force_ptrace = ovm_option_given(opts, OVM_OPT_PTRACE)}},
	};
	int err = ovm_option_u64(ctx, opts, OVM_OPT_FREQUENCY, 1, 100000, 0,
				 &rec->opts.sampler.frequency);
	if (!err)
		err = ovm_option_u64(ctx, opts, OVM_OPT_PID, 1, INT_MAX, 0, pid);
	if (!err)
		err = ovm_option_seconds(ctx, opts, OVM_OPT_DURATION, &rec->opts.duration);
	if (!err)
		err = ovm_option_when(ctx, opts, OVM_OPT_COUNTERS, counters);
	if (!err)
		err = ovm_option_when(ctx, opts, OVM_OPT_BRANCH_STACK, &branches);
	if (err)
		return err;
	rec->opts.sampler.branch_stack = branches == OVM_WHEN_ON    ? OVM_BRANCH_STACK_ON
					 : branches == OVM_WHEN_OFF ? OVM_BRANCH_STACK_OFF
								    : OVM_BRANCH_STACK_AUTO;
	if (*pid && opts->n_words)
		return ovm_fail(ctx, OVM_E_USAGE, "record: either a program or -p PID, not both");
	if (!*pid && !opts->n_words)
		return ovm_fail(ctx, OVM_E_USAGE,
				"record: no program: optvm record -o PROF CMD [ARG]...");
	return 0;
}

/* What to count from the start. */
static int parse_start(struct ovm_ctx *ctx, const struct ovm_options *opts, enum ovm_when counters,
		       uint64_t pid, struct recording *rec)
{
	const char *prior = opts->value[OVM_OPT_PRIOR];
	rec->uniform = ovm_option_given(opts, OVM_OPT_UNIFORM);
	if (!prior && !rec->uniform)
		return 0;
	if (counters != OVM_WHEN_ON || pid || rec->opts.sampler.force_ptrace)
		return ovm_fail(ctx, OVM_E_USAGE,
				"record: %s needs --counters=on and a program to launch, without "
				"--ptrace",
				prior ? "--prior" : "--uniform");
	return prior ? ovm_inputs_load(ctx, prior, &rec->prior) : 0;
}

/* A ptrace sampler and counting would both want to be the tracer. */
static void set_counting(struct recording *rec, enum ovm_when when)
{
	bool from_start = rec->prior || rec->uniform;
	const struct ovm_countrec_opts opts = {
	    .counting = {.targets = {.min_samples = from_start ? 1 : OVM_RT_MIN_MODULE_SAMPLES,
				     .uniform = rec->uniform},
			 .max_pause_ms = OVM_RT_MAX_PAUSE_MS,
			 .is_whole = when == OVM_WHEN_ON},
	    .from_start = from_start,
	    .prior = rec->prior,
	};
	if (when == OVM_WHEN_OFF || rec->opts.sampler.force_ptrace)
		return;
	rec->counts = ovm_countrec_new(&opts);
	rec->hook = ovm_countrec_hook(rec->counts);
	rec->opts.hook = &rec->hook;
}

/* While the program runs: what would be to do at its end. */
static void work_ahead(void *arg, struct ovm_sampler *sampler)
{
	struct ovm_annotator *annotator = arg;
	if (ovm_annotator_wants(annotator, ovm_sampler_n_samples(sampler)))
		ovm_annotator_look(annotator, ovm_sampler_profile(sampler));
	ovm_annotator_ahead(annotator, SPARE_MS);
}

int ovm_cmd_record(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	struct recording rec;
	enum ovm_when counters;
	uint64_t pid;
	int err = parse(ctx, opts, &rec, &counters, &pid);
	if (err)
		return err;
	err = ovm_inputs_output(ctx, opts, rec.path); /* now, not after an hour of recording */
	if (!err)
		err = parse_start(ctx, opts, counters, pid, &rec);
	if (err) {
		*status = pid || err == OVM_E_USAGE ? -1 : EXIT_OURS;
		return err;
	}
	set_counting(&rec, counters);
	rec.annotator = ovm_annotator_new();
	rec.opts.spare = work_ahead;
	rec.opts.spare_arg = rec.annotator;
	err = pid ? record_process(ctx, &rec, (pid_t)pid)
		  : record_program(ctx, &rec, opts->words, status);
	ovm_annotator_free(rec.annotator);
	ovm_countrec_free(rec.counts);
	ovm_profile_free(rec.prior);
	return err;
}
