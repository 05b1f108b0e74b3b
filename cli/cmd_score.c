/* optvm dump score IN -p PROF --against EXACT: how good a profile is.
 *
 *   regions   1042 with exact counts, 998 in the profile too, with 99.91 % of the weight
 *   edges     9120 executed, equal within 0.1 %: 12.31 % of the weight; overlap 93.40 %
 *   exact     812345678  100.00 %      score of the layout made from the exact counts
 *   profile   799812345   98.46 %      ... from the profile, by the exact counts
 *   original  512345678   63.07 %      ... of the order that the file has
 */
#include "cli/score.h"
#include "analyzer/score.h"
#include "cli/inputs.h"
#include "cli/summary.h"

#include <inttypes.h>
#include <jansson.h>

/* @part of @whole; nothing of nothing is all. */
static double share_of(double part, double whole)
{
	return whole > 0 ? part / whole : 1;
}

static void print_score(const char *name, double score, double exact)
{
	printf("%-9s %.0f  %.2f %%\n", name, score, 100 * share_of(score, exact));
}

static void print_text(const struct ovm_image *image, const struct ovm_score *s)
{
	fputs("score ", stdout);
	ovm_put_clean(image->path, stdout);
	printf("\nregions   %" PRIu32 " with exact counts, %" PRIu32
	       " in the profile too, with %.2f %% of the weight\n",
	       s->n_regions, s->n_shared, 100 * share_of(s->weight_shared, s->weight));
	printf("edges     %" PRIu64
	       " executed, equal within 0.1 %%: %.2f %% of the weight; overlap "
	       "%.2f %%\n",
	       s->n_edges, 100 * share_of(s->weight_equal, s->weight_shared),
	       100 * share_of(s->overlap, s->weight_shared));
	print_score("exact", s->exact, s->exact);
	print_score("profile", s->profile, s->exact);
	print_score("original", s->original, s->exact);
}

static void print_json(const struct ovm_image *image, const struct ovm_score *s)
{
	json_t *doc = json_pack(
	    "{s:s, s:s, s:I, s:I, s:f, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "schema",
	    "optvm.score/1", "id", image->id, "regions", (json_int_t)s->n_regions, "regions_shared",
	    (json_int_t)s->n_shared, "weight_shared", share_of(s->weight_shared, s->weight),
	    "edges", (json_int_t)s->n_edges, "weight_equal",
	    share_of(s->weight_equal, s->weight_shared), "overlap",
	    share_of(s->overlap, s->weight_shared), "score_exact", s->exact, "score_profile",
	    s->profile, "score_original", s->original, "ratio_profile",
	    share_of(s->profile, s->exact), "ratio_original", share_of(s->original, s->exact));

	OVM_ASSERT(doc);
	json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(doc);
}

static int load_exact(struct ovm_ctx *ctx, const char *path, const struct ovm_image *image,
		      struct ovm_profile **prof, const struct ovm_prof_module **module)
{
	int err = ovm_profile_load(ctx, path, prof);
	if (!err)
		err = ovm_inputs_module(ctx, *prof, image, module);
	if (!err && !(*module)->edges.n)
		err = ovm_fail(ctx, OVM_E_FORMAT, "%s: no exact edges of %s", path, image->path);
	return err;
}

int ovm_dump_score(struct ovm_ctx *ctx, const struct ovm_options *opts,
		   const struct ovm_engine_opts *engine_opts, struct ovm_image *image,
		   const struct ovm_prof_module *module)
{
	const char *path = opts->value[OVM_OPT_AGAINST];
	struct ovm_profile *prof = NULL;
	const struct ovm_prof_module *exact;
	struct ovm_decoder *dec = NULL;
	struct ovm_score score;
	if (!module || !path)
		return ovm_fail(ctx, OVM_E_USAGE,
				"dump score: which profile? -p PROF --against EXACT");
	int err = load_exact(ctx, path, image, &prof, &exact);
	if (!err)
		err = ovm_decoder_open(ctx, &dec);
	if (!err)
		err = ovm_score_profile(ctx, dec, image, module, exact, engine_opts->share,
					&engine_opts->layout, &score);
	if (!err && ovm_option_given(opts, OVM_OPT_JSON))
		print_json(image, &score);
	else if (!err)
		print_text(image, &score);
	ovm_decoder_close(dec);
	ovm_profile_free(prof);
	return err;
}
