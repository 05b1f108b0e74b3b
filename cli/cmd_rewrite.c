/* optvm rewrite IN -p PROF... -o OUT: the engine with the ELF writer as its sink.
 *
 * A file that optvm wrote is never rewritten on top: its original is restored in memory, a profile
 * that was taken of the optimized program is moved back to the original's addresses, and all starts
 * anew. So rewriting is idempotent, and --undo is the first half of it.
 */
#include "analyzer/stale.h"
#include "cli/commands.h"
#include "base/clock.h"
#include "cli/inputs.h"
#include "cli/rewrite.h"
#include "cli/summary.h"
#include "rewriter/elf_profile.h"

#include <stdlib.h>
#include <string.h>

/* bytes of code whose graphs are in memory together, where all is copied */
enum { PIECE = 8 << 20 };

static int check_words(struct ovm_ctx *ctx, const struct ovm_options *opts, struct ovm_rewrite *job)
{
	bool undo = ovm_option_given(opts, OVM_OPT_UNDO);
	bool uniform = ovm_option_given(opts, OVM_OPT_UNIFORM);
	job->out = opts->value[OVM_OPT_OUTPUT];
	job->force = ovm_option_given(opts, OVM_OPT_FORCE);
	job->debug = ovm_option_given(opts, OVM_OPT_DEBUG);
	if (ovm_option_given(opts, OVM_OPT_DIR))
		return ovm_fail(ctx, OVM_E_USAGE, "rewrite: -d DIR goes with --all");
	if (!opts->n_words)
		return ovm_fail(ctx, OVM_E_USAGE,
				"rewrite: no input file: optvm rewrite IN -p PROF -o OUT");
	job->in = opts->words[0];
	if (!job->out)
		return ovm_fail(ctx, OVM_E_USAGE, "rewrite: no output file: -o OUT");
	if (undo && (opts->profiles.n || uniform))
		return ovm_fail(ctx, OVM_E_USAGE, "rewrite: --undo takes no profile");
	if (!opts->profiles.n && !uniform && !undo)
		return ovm_fail(ctx, OVM_E_USAGE,
				"rewrite: no profile: -p PROF, made with optvm record");
	if (opts->n_words > 1 && !opts->profiles.n)
		return ovm_fail(ctx, OVM_E_USAGE, "rewrite: one input file at a time, not also %s",
				opts->words[1]);
	if (ovm_inputs_same_file(job->in, job->out))
		return ovm_fail(ctx, OVM_E_USAGE, "rewrite: %s is both input and output", job->out);
	return ovm_inputs_output(ctx, opts, job->out);
}

/* --- one file
 * -------------------------------------------------------------------------------------------- */

void ovm_rewrite_hash(const struct ovm_profile *prof, char *out, size_t size)
{
	snprintf(out, size, "%016llx", (unsigned long long)ovm_profile_hash(prof));
}

int ovm_rewrite_open(struct ovm_ctx *ctx, struct ovm_rewrite *job)
{
	struct ovm_image *image;
	struct ovm_note note;
	int err = ovm_image_open(ctx, job->in, &image);
	if (err)
		return err;
	if (!image->is_processed && ovm_elf_note(ctx, image, &note) == OVM_E_MISMATCH) {
		job->image = image;
		return 0;
	}
	job->rewritten = image;
	return ovm_elf_open_original(ctx, image, &job->image);
}

int ovm_rewrite_move_profile(struct ovm_ctx *ctx, struct ovm_rewrite *job)
{
	struct ovm_profile *moved;
	if (!job->rewritten || !job->prof || !ovm_profile_find(job->prof, job->rewritten->id))
		return 0;
	int err = ovm_elf_profile_back(ctx, job->rewritten, job->image, job->prof, &moved);
	if (err)
		return err;
	ovm_profile_free(job->prof);
	job->prof = moved;
	return 0;
}

/* With -v: how many regions were left alone for what. */
static void summarize_refused(const struct ovm_ctx *ctx)
{
	for (int i = OVM_REFUSE_NONE + 1; i < OVM_REFUSE_COUNT; i++)
		if (ctx->verbose && ctx->n_refused[i])
			ovm_summary(ctx, "left alone: %llu regions: %s",
				    (unsigned long long)ctx->n_refused[i],
				    ovm_refusal_text((enum ovm_refusal)i));
}

static const char *likeliest_reason(const struct ovm_ctx *ctx)
{
	int best = OVM_REFUSE_NONE;
	for (int i = OVM_REFUSE_NONE + 1; i < OVM_REFUSE_COUNT; i++)
		if (i != OVM_REFUSE_NO_PROFILE && i != OVM_REFUSE_NOT_HOT &&
		    ctx->n_refused[i] > ctx->n_refused[best])
			best = i;
	return best == OVM_REFUSE_NONE ? "no region with unwind information has samples"
				       : ovm_refusal_text((enum ovm_refusal)best);
}

int ovm_rewrite_write(struct ovm_ctx *ctx, struct ovm_rewrite *job)
{
	int err = ovm_elf_plan(ctx, job->image, &job->engine_opts.base);
	job->engine_opts.piece = PIECE;
	if (!err)
		err = ovm_engine_run(ctx, job->dec, job->image, job->module, &job->engine_opts,
				     &job->engine);
	if (err == OVM_REFUSED)
		ovm_fail(ctx, OVM_OK, "%s: nothing to copy, nothing written: %s", job->in,
			 likeliest_reason(ctx));
	if (err)
		return err;
	const char *no_debug = job->debug ? ovm_elf_no_debug(ctx, job->image) : NULL;
	if (no_debug)
		ovm_warning(ctx, "%s: --debug adds nothing: %s", job->in, no_debug);
	struct ovm_elf_opts elf = {.force = job->force,
				   .debug = job->debug,
				   .profile_hash = job->hash[0] ? job->hash : NULL,
				   .from_memory = job->rewritten};
	return ovm_elf_write(ctx, job->image, &job->engine.regions, &job->engine.overlay, &elf,
			     job->out);
}

const char *ovm_rewrite_describe(const struct ovm_rewrite *job, char *buf, size_t size)
{
	const struct ovm_engine_stats *stats = &job->engine.stats;
	const struct ovm_overlay *overlay = &job->engine.overlay;
	char bytes[32];
	ovm_summary_bytes(overlay->size, bytes, sizeof(bytes));
	snprintf(buf, size,
		 "%u regions, %s, %.1f %% of the samples in regions covered, %.1f %% better left "
		 "in place, %llu pairs proved, %.2f s",
		 overlay->n_regions, bytes,
		 ovm_percent(stats->samples_covered, stats->samples_in_regions),
		 ovm_percent(stats->samples_left, stats->samples_in_regions),
		 (unsigned long long)stats->n_pairs, ovm_now_s() - job->start);
	return buf;
}

void ovm_rewrite_fini(struct ovm_rewrite *job)
{
	ovm_engine_fini(&job->engine);
	ovm_decoder_close(job->dec);
	ovm_profile_free(job->prof);
	ovm_image_close(job->image);
	ovm_image_close(job->rewritten);
}

/* --- profiles
 * -------------------------------------------------------------------------------------------- */

/* No module of the profile has this build-id: it may be of another build of the same program. Where
 * no module has this name either, the failure stays the one of ovm_inputs_module. */
static int match_stale(struct ovm_ctx *ctx, struct ovm_rewrite *job)
{
	struct ovm_regions regions = {0};
	struct ovm_profile *moved;
	struct ovm_stale_stats stats;
	int err = ovm_regions_build(ctx, job->image, &regions);
	if (!err)
		err =
		    ovm_stale_match(ctx, job->dec, job->image, &regions, job->prof, &moved, &stats);
	ovm_regions_free(&regions);
	if (err)
		return err == OVM_REFUSED ? OVM_E_MISMATCH : err;
	ovm_profile_free(job->prof);
	job->prof = moved;
	job->module = ovm_profile_find(moved, job->image->id);
	ovm_warning(ctx,
		    "%s: the profile is of another build (build-id %.40s): %u of %u regions "
		    "matched, %u of them changed, %.1f %% of its samples kept",
		    job->in, stats.id, stats.n_same + stats.n_changed, stats.n_regions,
		    stats.n_changed, ovm_percent(stats.kept, stats.counts));
	return 0;
}

/* Every -p PROF, and the words after IN: "-p a.prof b.prof". */
static int load_profiles(struct ovm_ctx *ctx, const struct ovm_options *opts,
			 struct ovm_rewrite *job)
{
	if (!opts->profiles.n)
		return 0;
	OVM_VEC(const char *) paths = {0};
	for (uint32_t i = 0; i < opts->profiles.n; i++)
		ovm_vec_push(&paths, opts->profiles.v[i]);
	for (int i = 1; i < opts->n_words; i++)
		ovm_vec_push(&paths, opts->words[i]);
	int err = ovm_inputs_merge(ctx, paths.v, paths.n, &job->prof);
	ovm_vec_free(&paths);
	if (err)
		return err;
	ovm_rewrite_hash(job->prof, job->hash, sizeof(job->hash));
	err = ovm_rewrite_move_profile(ctx, job);
	if (err)
		return err;
	err = ovm_inputs_module(ctx, job->prof, job->image, &job->module);
	return err == OVM_E_MISMATCH ? match_stale(ctx, job) : err;
}

/* --- the command
 * -------------------------------------------------------------------------------------------- */

static int undo(struct ovm_ctx *ctx, struct ovm_rewrite *job)
{
	int err = ovm_image_open(ctx, job->in, &job->rewritten);
	if (!err)
		err = ovm_elf_undo_to(ctx, job->rewritten, job->force, job->out);
	if (!err)
		ovm_summary(ctx, "%s: the original of %s", job->out, job->in);
	return err;
}

static int rewrite(struct ovm_ctx *ctx, const struct ovm_options *opts, struct ovm_rewrite *job)
{
	char text[256];
	int err = ovm_inputs_engine(ctx, opts, &job->engine_opts);
	if (!err)
		err = check_words(ctx, opts, job);
	if (err)
		return err;
	if (ovm_option_given(opts, OVM_OPT_UNDO))
		return undo(ctx, job);
	err = ovm_rewrite_open(ctx, job);
	if (!err)
		err = ovm_elf_plan(ctx, job->image, &job->engine_opts.base);
	if (!err)
		err = ovm_decoder_open(ctx, &job->dec);
	if (!err)
		err = load_profiles(ctx, opts, job);
	if (!err)
		err = ovm_rewrite_write(ctx, job);
	if (err)
		return err;
	summarize_refused(ctx);
	ovm_summary(ctx, "%s: %s", job->out, ovm_rewrite_describe(job, text, sizeof(text)));
	return 0;
}

int ovm_cmd_rewrite(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	(void)status;
	if (ovm_option_given(opts, OVM_OPT_ALL))
		return ovm_rewrite_all(ctx, opts);
	struct ovm_rewrite job = {.start = ovm_now_s()};
	int err = rewrite(ctx, opts, &job);
	ovm_rewrite_fini(&job);
	return err;
}
