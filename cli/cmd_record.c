/* optvm record [-o PROF] CMD, or -p PID: sample, name what was hit, save.
 *
 * The program's status comes out. If the profile could not be made although the program ended well,
 * the status is ours: nothing recorded is an error.
 */
#include "analyzer/region.h"
#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/summary.h"
#include "profiler/launch.h"
#include "profiler/recorder.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

enum { EXIT_OURS = 125 };

static const char default_output[] = "optvm.prof";

/* --- regions of the samples, so that the report can be read elsewhere --- */

static void add_region(struct ovm_prof_module *module, const struct ovm_image *image,
		       const struct ovm_region *region)
{
	const struct ovm_symbol *symbol = ovm_image_symbol(image, region->lo);
	uint64_t size = region->hi.v - region->lo.v;
	const uint8_t *bytes = ovm_image_at(image, region->lo, size);
	struct ovm_prof_region record = {region->lo, region->hi, 0, NULL};
	if (bytes)
		record.hash = XXH3_64bits(bytes, size);
	if (symbol && symbol->name[0])
		record.name = ovm_strdup(symbol->name);
	ovm_vec_push(&module->regions, record);
}

/* Samples are sorted, so each region is met once. */
static void name_regions(struct ovm_prof_module *module, const struct ovm_image *image,
			 const struct ovm_regions *regions)
{
	for (uint32_t i = 0; i < module->samples.n;) {
		uint32_t idx = ovm_region_find(regions, module->samples.v[i].va);
		if (idx == OVM_NONE) {
			i++;
			continue;
		}
		const struct ovm_region *region = &regions->v.v[idx];
		add_region(module, image, region);
		while (i < module->samples.n && module->samples.v[i].va.v < region->hi.v)
			i++;
	}
}

/* A module that cannot be read here (deleted, of another mount namespace) stays without names. */
static void name_module(struct ovm_prof_module *module)
{
	struct ovm_ctx ctx; /* its own: trouble here is not the command's */
	struct ovm_image *image = NULL;
	struct ovm_regions regions = {0};
	ovm_ctx_init(&ctx);
	if (!module->samples.n || !module->path || module->path[0] != '/')
		return;
	if (!ovm_image_open(&ctx, module->path, &image) && !strcmp(image->id, module->id) &&
	    !ovm_regions_build(&ctx, image, &regions))
		name_regions(module, image, &regions);
	ovm_regions_free(&regions);
	ovm_image_close(image);
}

static int finish(struct ovm_ctx *ctx, struct ovm_profile *prof, const char *path)
{
	uint32_t n_modules = 0;
	for (uint32_t i = 0; i < prof->modules.n; i++) {
		name_module(&prof->modules.v[i]);
		n_modules += prof->modules.v[i].samples.n > 0;
	}
	if (!n_modules) {
		ovm_fail(ctx, OVM_OK,
			 "nothing recorded, %s not written: %" PRIu64 " samples at %" PRIu64
			 " Hz: the program used too little processor time",
			 path, prof->n_samples, prof->frequency);
		return OVM_REFUSED;
	}
	ovm_profile_normalize(prof);
	int err = ovm_profile_save(ctx, prof, path);
	if (!err)
		ovm_summary(ctx,
			    "%s: %" PRIu64 " samples (%s, %s, %" PRIu64
			    " Hz) of %u modules in %" PRIu64 " processes, %" PRIu64 " lost",
			    path, prof->n_samples, prof->event ? prof->event : "?",
			    prof->source ? prof->source : "?", prof->frequency, n_modules,
			    prof->n_processes, prof->n_lost);
	return err;
}

/* --- the command --- */

static int parse_duration(struct ovm_ctx *ctx, const char *text, double *out)
{
	char *end;
	*out = text ? strtod(text, &end) : 0;
	if (text && (end == text || *end || !isfinite(*out) || *out <= 0))
		return ovm_fail(ctx, OVM_E_USAGE, "--duration: '%s' is not a number of seconds",
				text);
	return 0;
}

static int record_program(struct ovm_ctx *ctx, const struct ovm_recorder_opts *recorder,
			  char *const argv[], const char *path, int *status)
{
	struct ovm_profile *prof = NULL;
	int wstatus = 0, exit_status = EXIT_OURS;
	int err = ovm_record_command(ctx, recorder, argv, &prof, &wstatus, &exit_status);
	if (err) {
		*status = exit_status;
		return exit_status == EXIT_OURS ? err : ovm_fail_about(ctx, err, argv[0]);
	}
	if (prof)
		err = finish(ctx, prof, path);
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

static int record_process(struct ovm_ctx *ctx, const struct ovm_recorder_opts *recorder, pid_t pid,
			  const char *path)
{
	struct ovm_profile *prof = NULL;
	int err = ovm_record_process(ctx, recorder, pid, &prof);
	if (!err)
		err = finish(ctx, prof, path);
	ovm_profile_free(prof);
	return err;
}

int ovm_cmd_record(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	const char *path =
	    opts->value[OVM_OPT_OUTPUT] ? opts->value[OVM_OPT_OUTPUT] : default_output;
	struct ovm_recorder_opts recorder = {
	    .sampler = {.event = opts->value[OVM_OPT_EVENT],
			.force_ptrace = ovm_option_given(opts, OVM_OPT_PTRACE)},
	};
	uint64_t pid;
	int err =
	    ovm_option_u64(ctx, opts, OVM_OPT_FREQUENCY, 1, 100000, 0, &recorder.sampler.frequency);
	if (!err)
		err = ovm_option_u64(ctx, opts, OVM_OPT_PID, 1, INT_MAX, 0, &pid);
	if (!err)
		err = parse_duration(ctx, opts->value[OVM_OPT_DURATION], &recorder.duration);
	if (err)
		return err;
	if (pid && opts->n_words)
		return ovm_fail(ctx, OVM_E_USAGE, "record: either a program or -p PID, not both");
	if (!pid && !opts->n_words)
		return ovm_fail(ctx, OVM_E_USAGE,
				"record: no program: optvm record -o PROF CMD [ARG]...");
	err = ovm_inputs_output(ctx, opts, path); /* now, not after an hour of recording */
	if (err) {
		*status = pid || err == OVM_E_USAGE ? -1 : EXIT_OURS;
		return err;
	}
	if (pid)
		return record_process(ctx, &recorder, (pid_t)pid, path);
	return record_program(ctx, &recorder, opts->words, path, status);
}
