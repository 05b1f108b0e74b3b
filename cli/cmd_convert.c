/* optvm convert IN [--binary ELF] [--to FORMAT] -o OUT: one profile in another form.
 *
 *   perf.data ─────────────┐
 *   fdata, preagg + ELF ───┼──▶ ovm_profile ──┬──▶ profile
 *   profile ───────────────┘                  └──▶ fdata (needs the ELF), preagg
 *
 * The input's format is told by its content, the output's by --to or OUT's suffix. What the ELF
 * file has no name or place for is left out, and said once.
 */
#include "analyzer/annotate.h"
#include "analyzer/fdata.h"
#include "analyzer/preagg.h"
#include "base/save.h"
#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/summary.h"
#include "profiler/perfdata.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct job {
	struct ovm_ctx *ctx;
	const char *in, *path;
	enum ovm_format from, to;
	struct ovm_image *image; /* of --binary, NULL without */
	struct ovm_profile *prof;
	uint64_t n_printed, n_left_out; /* of foreign text */
};

/* --- reading --- */

static void tell_import(const struct job *job, const struct ovm_import *met)
{
	if (met->n_unknown)
		ovm_warning(job->ctx,
			    "%s: %" PRIu64 " of %" PRIu64
			    " records have a name or address that is not in %s: left out",
			    job->in, met->n_unknown, met->n_records,
			    job->image ? job->image->path : "any file");
	if (met->is_bolted)
		ovm_warning(job->ctx,
			    "%s: recorded on a file that BOLT had made: some branches may not fit",
			    job->in);
}

static int load(struct job *job)
{
	struct ovm_import met = {0};
	int err;
	switch (job->from) {
	case OVM_FORMAT_FDATA:
		if (!job->image)
			return ovm_fail(job->ctx, OVM_E_USAGE,
					"%s: fdata names symbols: name their file with --binary",
					job->in);
		err = ovm_fdata_load(job->ctx, job->image, job->in, &met, &job->prof);
		break;
	case OVM_FORMAT_PREAGG:
		err = ovm_preagg_load(job->ctx, job->image, job->in, &met, &job->prof);
		break;
	case OVM_FORMAT_PERFDATA:
		err = ovm_perfdata_load(job->ctx, job->in, &job->prof);
		break;
	default:
		return ovm_profile_load(job->ctx, job->in, &job->prof);
	}
	if (err)
		return err;
	tell_import(job, &met);
	ovm_annotate_profile(job->prof);
	return 0;
}

/* --- writing foreign text --- */

static int print_preagg(struct job *job, FILE *to)
{
	const struct ovm_prof_module *only = NULL;
	struct ovm_decoder *dec = NULL;
	int err = 0;
	if (job->image)
		err = ovm_inputs_module(job->ctx, job->prof, job->image, &only);
	for (uint32_t i = 0; i < job->prof->modules.n && !err && !job->image; i++)
		if (job->prof->modules.v[i].edges.n)
			err = ovm_fail(job->ctx, OVM_E_USAGE,
				       "%s: holds exact edges: --binary must name the file that "
				       "tells the taken ones",
				       job->in);
	if (!err && only && only->edges.n)
		err = ovm_decoder_open(job->ctx, &dec);
	for (uint32_t i = 0; i < job->prof->modules.n && !err; i++) {
		const struct ovm_prof_module *m = &job->prof->modules.v[i];
		if (!only || m == only)
			job->n_printed +=
			    ovm_preagg_print(m, job->prof->event, !only, dec, job->image, to);
	}
	ovm_decoder_close(dec);
	return err;
}

static int print_fdata(struct job *job, FILE *to)
{
	const struct ovm_prof_module *module;
	if (!job->image)
		return ovm_fail(job->ctx, OVM_E_USAGE,
				"fdata names symbols: name their file with --binary");
	int err = ovm_inputs_module(job->ctx, job->prof, job->image, &module);
	if (err)
		return err;
	return ovm_fdata_print(job->ctx, job->image, module, job->prof->event, to, &job->n_printed,
			       &job->n_left_out);
}

static int save_foreign(struct job *job)
{
	char *text = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&text, &len);
	if (!to)
		return ovm_fail(job->ctx, OVM_E_NOMEM, "out of memory");
	int err = job->to == OVM_FORMAT_FDATA ? print_fdata(job, to) : print_preagg(job, to);
	if (fclose(to) && !err)
		err = ovm_fail(job->ctx, OVM_E_NOMEM, "out of memory");
	if (!err && !job->n_printed)
		err = ovm_fail(job->ctx, OVM_E_MISMATCH,
			       "%s: no record that the output could hold: %s not written", job->in,
			       job->path);
	if (!err)
		err = ovm_save(job->ctx, job->path, text, len);
	if (!err && job->n_left_out)
		ovm_warning(job->ctx, "%s: %" PRIu64 " records in no function of %s: left out",
			    job->in, job->n_left_out, job->image->path);
	free(text);
	return err;
}

/* --- the command --- */

static int choose_output(struct job *job, const char *name)
{
	static const struct {
		const char *name, *suffix;
		enum ovm_format format;
	} formats[] = {
	    {"profile", NULL, OVM_FORMAT_PROFILE},
	    {"fdata", ".fdata", OVM_FORMAT_FDATA},
	    {"preagg", ".preagg", OVM_FORMAT_PREAGG},
	};
	size_t len = strlen(job->path);
	job->to = OVM_FORMAT_PROFILE;
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		size_t n = formats[i].suffix ? strlen(formats[i].suffix) : 0;
		bool fits = n && len > n && !strcmp(job->path + len - n, formats[i].suffix);
		if (name ? !strcmp(name, formats[i].name) : fits) {
			job->to = formats[i].format;
			return 0;
		}
	}
	if (name)
		return ovm_fail(job->ctx, OVM_E_USAGE, "--to: '%s' is not profile, fdata or preagg",
				name);
	return 0;
}

/* The profile will name the file: by a path that is good elsewhere, too. */
static int open_binary(struct job *job, const char *path)
{
	char *full = realpath(path, NULL);
	int err = ovm_image_open(job->ctx, full ? full : path, &job->image);
	free(full);
	return err;
}

static int prepare(struct job *job, const struct ovm_options *opts)
{
	struct ovm_ctx *ctx = job->ctx;
	if (!opts->n_words)
		return ovm_fail(ctx, OVM_E_USAGE, "convert: no input: optvm convert IN -o OUT");
	if (opts->n_words > 1)
		return ovm_fail(ctx, OVM_E_USAGE, "convert: takes one input, not %d",
				opts->n_words);
	job->in = opts->words[0];
	job->path = opts->value[OVM_OPT_OUTPUT];
	if (!job->path)
		return ovm_fail(ctx, OVM_E_USAGE, "convert: no output file: -o OUT");
	if (ovm_inputs_same_file(job->in, job->path))
		return ovm_fail(ctx, OVM_E_USAGE, "convert: %s is both input and output",
				job->path);
	int err = choose_output(job, opts->value[OVM_OPT_TO]);
	if (!err)
		err = ovm_inputs_output(ctx, opts, job->path);
	if (!err)
		err = ovm_inputs_format(ctx, job->in, &job->from);
	if (!err && opts->value[OVM_OPT_BINARY])
		err = open_binary(job, opts->value[OVM_OPT_BINARY]);
	return err;
}

static void summarize(const struct job *job)
{
	uint64_t n_flow = 0;
	for (uint32_t i = 0; i < job->prof->modules.n; i++) {
		const struct ovm_prof_module *m = &job->prof->modules.v[i];
		n_flow += (uint64_t)m->branches.n + m->ranges.n + m->edges.n;
	}
	if (job->to != OVM_FORMAT_PROFILE)
		ovm_summary(job->ctx, "%s: %" PRIu64 " lines", job->path, job->n_printed);
	else
		ovm_summary(job->ctx,
			    "%s: %" PRIu64 " samples, %" PRIu64
			    " branches, runs and edges of %u modules",
			    job->path, job->prof->n_samples, n_flow, job->prof->modules.n);
}

int ovm_cmd_convert(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	struct job job = {.ctx = ctx};
	(void)status;
	int err = prepare(&job, opts);
	if (!err)
		err = load(&job);
	if (!err)
		err = job.to == OVM_FORMAT_PROFILE ? ovm_profile_save(ctx, job.prof, job.path)
						   : save_foreign(&job);
	if (!err)
		summarize(&job);
	ovm_profile_free(job.prof);
	ovm_image_close(job.image);
	return err;
}
