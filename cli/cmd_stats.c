/* optvm stats IN -p PROF: what the layout changes, in llvm-bolt's dyno-stats and in lines of code.
 *
 *   stats prog: estimates from counts that are exact for 98.2 % of the executed instructions
 *   1042 regions with 97.9 % of the samples, 998 of them copied; 81,220 entries by a jump
 *
 *           original        optimized   change
 *        912,345,678      812,345,678   -11.0 %  taken branches
 *                ...
 */
#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/summary.h"
#include "rewriter/dynostats.h"
#include "rewriter/elf_write.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

struct job {
	struct ovm_engine_opts engine_opts;
	struct ovm_profile *prof;
	const struct ovm_prof_module *module;
	struct ovm_image *image;
	struct ovm_decoder *dec;
	struct ovm_dynostats stats;
};

static int check_words(struct ovm_ctx *ctx, const struct ovm_options *opts)
{
	if (!opts->n_words)
		return ovm_fail(ctx, OVM_E_USAGE, "stats: no input file: optvm stats IN -p PROF");
	if (opts->n_words > 1)
		return ovm_fail(ctx, OVM_E_USAGE, "stats: one input file at a time, not also %s",
				opts->words[1]);
	if (!opts->profiles.n)
		return ovm_fail(ctx, OVM_E_USAGE,
				"stats: no profile: -p PROF, made with optvm record");
	return 0;
}

/* --- text -------------------------------------------------------------------------------- */

/* "1,234,567", at the right of 17 columns. */
static void print_number(uint64_t n)
{
	char digits[24], text[32];
	int len = snprintf(digits, sizeof(digits), "%" PRIu64, n), at = 0;
	for (int i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			text[at++] = ',';
		text[at++] = digits[i];
	}
	text[at] = 0;
	printf("%17s", text);
}

static void print_row(const struct ovm_dynostats *stats, enum ovm_dyno_row row)
{
	uint64_t before = stats->before[row], after = stats->after[row];
	print_number(before);
	print_number(after);
	if (before == after)
		printf("%11s", "=");
	else if (!before)
		printf("%11s", "new");
	else
		printf("%+9.1f %%", 100 * ((double)after - (double)before) / (double)before);
	printf("  %s\n", ovm_dyno_name(row));
}

static void print_text(const struct job *job)
{
	const struct ovm_dynostats *stats = &job->stats;
	uint64_t samples = ovm_prof_module_samples(job->module);
	fputs("stats ", stdout);
	ovm_put_clean(job->image->path, stdout);
	printf(": estimates from counts that are exact for %.1f %% of the executed instructions\n",
	       ovm_percent(stats->insns_exact, stats->before[OVM_DYNO_INSNS]));
	printf("%" PRIu32 " regions", stats->n_regions);
	if (samples)
		printf(" with %.1f %% of the samples", ovm_percent(stats->samples, samples));
	printf(", %" PRIu32 " of them copied; %" PRIu64 " entries by a jump\n\n", stats->n_copied,
	       stats->entries);
	printf("%17s%17s%11s\n", "original", "optimized", "change");
	for (unsigned row = 0; row < OVM_N_DYNO_ROWS; row++)
		print_row(stats, (enum ovm_dyno_row)row);
}

/* --- JSON -------------------------------------------------------------------------------- */

static json_t *json_count(uint64_t n)
{
	return json_integer(n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

static json_t *json_rows(const struct ovm_dynostats *stats)
{
	json_t *rows = json_array();
	for (unsigned i = 0; i < OVM_N_DYNO_ROWS; i++) {
		uint64_t before = stats->before[i], after = stats->after[i];
		json_t *row =
		    json_pack("{s:s, s:o, s:o}", "name", ovm_dyno_name((enum ovm_dyno_row)i),
			      "original", json_count(before), "optimized", json_count(after));
		if (before)
			json_object_set_new(row, "ratio",
					    json_real((double)after / (double)before));
		json_array_append_new(rows, row);
	}
	return rows;
}

static void print_json(const struct job *job)
{
	const struct ovm_dynostats *stats = &job->stats;
	uint64_t insns = stats->before[OVM_DYNO_INSNS];
	uint64_t samples = ovm_prof_module_samples(job->module);
	json_t *doc =
	    json_pack("{s:s, s:s, s:b, s:f, s:o, s:o, s:o, s:o, s:o, s:o}", "schema",
		      "optvm.stats/1", "id", job->image->id, "is_estimate", 1, "exact_share",
		      insns ? (double)stats->insns_exact / (double)insns : 0.0, "samples",
		      json_count(samples), "samples_counted", json_count(stats->samples), "regions",
		      json_count(stats->n_regions), "regions_copied", json_count(stats->n_copied),
		      "entries_by_jump", json_count(stats->entries), "rows", json_rows(stats));
	OVM_ASSERT(doc);
	json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(doc);
}

/* --- the command ------------------------------------------------------------------------- */

/* What the engine leaves in place it forgets, so the graphs are made once more to count them all.
 */
static int count(struct ovm_ctx *ctx, struct job *job)
{
	const struct ovm_program_opts program_opts = {.share = job->engine_opts.share};
	struct ovm_regions regions = {0};
	struct ovm_program all = {0};
	struct ovm_engine engine = {0};
	struct ovm_ctx quiet; /* reasons are counted once */
	int rc = ovm_engine_run(ctx, job->dec, job->image, job->module, &job->engine_opts, &engine);
	int err = rc == OVM_REFUSED ? 0 : rc;
	ovm_ctx_init(&quiet);
	if (!err)
		err = ovm_regions_build(&quiet, job->image, &regions);
	if (!err)
		err = ovm_program_build(&quiet, job->dec, job->image, &regions, job->module,
					&program_opts, &all);
	if (!err)
		ovm_dynostats(job->dec, &all, &engine.program, &engine.layout,
			      rc ? NULL : &engine.overlay, &job->stats);
	ovm_program_fini(&all);
	ovm_regions_free(&regions);
	ovm_engine_fini(&engine);
	return err;
}

int ovm_cmd_stats(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	(void)status;
	struct job job = {0};
	int err = check_words(ctx, opts);
	if (!err)
		err = ovm_inputs_engine(ctx, opts, &job.engine_opts);
	if (!err)
		err = ovm_image_open(ctx, opts->words[0], &job.image);
	if (!err)
		err = ovm_inputs_merge(ctx, opts->profiles.v, opts->profiles.n, &job.prof);
	if (!err)
		err = ovm_inputs_module(ctx, job.prof, job.image, &job.module);
	if (!err)
		err = ovm_elf_plan(ctx, job.image, &job.engine_opts.base);
	if (!err)
		err = ovm_decoder_open(ctx, &job.dec);
	if (!err)
		err = count(ctx, &job);
	if (!err && ovm_option_given(opts, OVM_OPT_JSON))
		print_json(&job);
	else if (!err)
		print_text(&job);
	ovm_decoder_close(job.dec);
	ovm_image_close(job.image);
	ovm_profile_free(job.prof);
	return err;
}
