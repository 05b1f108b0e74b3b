/* optvm dump STAGE IN: each stage of the way as stable text, for people and for golden tests.
 *
 *   regions   the FDE ranges                       traces    hot paths
 *   cfg       blocks, edges, jump tables           layout    the order of the copies
 *   weights   the same with counts                 overlay   the bytes, as they would be installed
 *   score     how good the profile is, against exact counts
 *   map       of a rewritten file: which original instruction each copy is of
 */
#include "analyzer/trace.h"
#include "analyzer/weight.h"
#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/score.h"
#include "cli/summary.h"
#include "rewriter/elf_read.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum stage { REGIONS, CFG, WEIGHTS, TRACES, LAYOUT, OVERLAY, SCORE, MAP, N_STAGES };
static const char *const stage_names[N_STAGES] = {"regions", "cfg",	"weights", "traces",
						  "layout",  "overlay", "score",   "map"};

struct job {
	enum stage stage;
	const char *only; /* NULL: all */
	struct ovm_engine_opts engine_opts;
	struct ovm_profile *prof;
	const struct ovm_prof_module *module; /* NULL: uniform */
	struct ovm_image *image;
	struct ovm_decoder *dec;
};

static int check_words(struct ovm_ctx *ctx, const struct ovm_options *opts, struct job *job)
{
	if (!opts->n_words)
		return ovm_fail(
		    ctx, OVM_E_USAGE,
		    "dump: which stage? regions cfg weights traces layout overlay score map");
	for (job->stage = REGIONS; job->stage < N_STAGES; job->stage++)
		if (!strcmp(stage_names[job->stage], opts->words[0]))
			break;
	if (job->stage == N_STAGES) {
		const char *near = ovm_nearest(opts->words[0], stage_names, N_STAGES);
		return ovm_fail(ctx, OVM_E_USAGE, "dump: unknown stage '%s'%s%s%s", opts->words[0],
				near ? ": did you mean '"
				     : ": regions cfg weights traces layout overlay score map",
				near ? near : "", near ? "'?" : "");
	}
	if (opts->n_words < 2)
		return ovm_fail(ctx, OVM_E_USAGE, "dump: no input file: optvm dump %s IN",
				opts->words[0]);
	if (opts->n_words > 2)
		return ovm_fail(ctx, OVM_E_USAGE, "dump: one input file at a time, not also %s",
				opts->words[2]);
	if (job->stage != SCORE && (opts->value[OVM_OPT_AGAINST] || opts->value[OVM_OPT_JSON]))
		return ovm_fail(ctx, OVM_E_USAGE,
				"dump %s: --against and --json are for dump score", opts->words[0]);
	if (job->stage == MAP && (opts->profiles.n || opts->value[OVM_OPT_UNIFORM]))
		return ovm_fail(ctx, OVM_E_USAGE,
				"dump map: -p and --uniform are for other stages");
	if (job->stage == SCORE &&
	    (opts->value[OVM_OPT_ONLY_REGION] || opts->value[OVM_OPT_UNIFORM]))
		return ovm_fail(ctx, OVM_E_USAGE,
				"dump score: --only and --uniform are for other stages");
	job->only = opts->value[OVM_OPT_ONLY_REGION];
	return ovm_inputs_engine(ctx, opts, &job->engine_opts);
}

static bool parse_hex(const char *text, uint64_t *out)
{
	char *end;
	*out = strtoull(text, &end, 16);
	return isxdigit((unsigned char)text[0]) && !*end;
}

/* The region called @name, or that contains the hex address @name. */
static int find_region(struct ovm_ctx *ctx, const struct ovm_image *image,
		       const struct ovm_regions *regions, const char *name, uint32_t *out)
{
	uint64_t va;
	for (uint32_t i = 0; i < image->symbols.n; i++) {
		*out = strcmp(image->symbols.v[i].name, name)
			   ? OVM_NONE
			   : ovm_region_find(regions, image->symbols.v[i].va);
		if (*out != OVM_NONE)
			return 0;
	}
	*out = parse_hex(name, &va) ? ovm_region_find(regions, ovm_va_of(va)) : OVM_NONE;
	if (*out == OVM_NONE)
		return ovm_fail(ctx, OVM_E_USAGE, "--only: %s has no region '%s'", image->path,
				name);
	return 0;
}

static void dump_regions(const struct job *job, struct ovm_regions *regions, uint32_t only)
{
	struct ovm_regions view = *regions;
	if (only != OVM_NONE) {
		view.v.v += only;
		view.v.n = 1;
	}
	ovm_regions_dump(job->image, &view, stdout);
}

static void dump_cfg(const struct job *job, const struct ovm_cfg *cfg)
{
	if (job->stage == CFG) {
		ovm_cfg_dump(job->image, cfg, stdout);
	} else if (job->stage == WEIGHTS) {
		ovm_weights_dump(job->image, cfg, stdout);
	} else {
		struct ovm_arena arena = {0};
		ovm_traces traces = {0};
		ovm_trace_form(cfg, &arena, &traces);
		ovm_traces_dump(job->image, cfg, &traces, stdout);
		ovm_vec_free(&traces);
		ovm_arena_free(&arena);
	}
}

static int fail_refused(struct ovm_ctx *ctx, const struct ovm_image *image,
			const struct ovm_region *region)
{
	char name[256];
	ovm_fail(ctx, OVM_OK, "%s: %s is refused: %s", image->path,
		 ovm_region_name(image, region->lo, name, sizeof(name)),
		 ovm_refusal_text((enum ovm_refusal)region->refused));
	return OVM_REFUSED;
}

static int dump_one_cfg(struct ovm_ctx *ctx, const struct job *job, struct ovm_regions *regions,
			uint32_t only)
{
	struct ovm_cfg *cfg = NULL;
	int err = ovm_cfg_build(ctx, job->dec, job->image, regions, only, &cfg);
	if (err == OVM_REFUSED)
		return fail_refused(ctx, job->image, &regions->v.v[only]);
	if (err)
		return err;
	if (job->module)
		ovm_weight_attach(ctx, cfg, job->module);
	else
		ovm_weight_uniform(cfg);
	dump_cfg(job, cfg);
	ovm_cfg_free(cfg);
	return 0;
}

static int dump_cfgs(struct ovm_ctx *ctx, const struct job *job, struct ovm_regions *regions)
{
	struct ovm_program program = {0};
	const struct ovm_program_opts opts = {.share = job->engine_opts.share};
	int err =
	    ovm_program_build(ctx, job->dec, job->image, regions, job->module, &opts, &program);
	for (uint32_t i = 0; !err && i < program.cfgs.n; i++)
		if (program.cfgs.v[i])
			dump_cfg(job, program.cfgs.v[i]);
	ovm_program_fini(&program);
	return err;
}

/* regions, cfg, weights, traces: without the engine */
static int dump_analysis(struct ovm_ctx *ctx, struct job *job)
{
	struct ovm_regions regions = {0};
	uint32_t only = OVM_NONE;
	int err = ovm_regions_build(ctx, job->image, &regions);
	if (!err && job->only)
		err = find_region(ctx, job->image, &regions, job->only, &only);
	if (!err && job->stage == REGIONS) {
		dump_regions(job, &regions, only);
	} else if (!err) {
		err = ovm_decoder_open(ctx, &job->dec);
		if (!err)
			err = only == OVM_NONE ? dump_cfgs(ctx, job, &regions)
					       : dump_one_cfg(ctx, job, &regions, only);
	}
	ovm_regions_free(&regions);
	return err;
}

/* For --only: which regions the engine must leave out: all but the group of the wanted one. Caller
 * frees *out. */
static int skip_others(struct ovm_ctx *ctx, const struct job *job, bool **out)
{
	struct ovm_regions regions = {0};
	struct ovm_cfg *cfg = NULL;
	uint32_t only;
	int err = ovm_regions_build(ctx, job->image, &regions);
	if (!err)
		err = find_region(ctx, job->image, &regions, job->only, &only);
	if (!err)
		err = ovm_cfg_build(ctx, job->dec, job->image, &regions, only, &cfg);
	if (err == OVM_REFUSED)
		err = fail_refused(ctx, job->image, &regions.v.v[only]);
	if (!err) {
		bool *skip = ovm_alloc_array(regions.v.n, sizeof(*skip));
		memset(skip, 1, regions.v.n * sizeof(*skip));
		for (uint32_t i = 0; i < cfg->n_regions; i++)
			skip[cfg->regions[i]] = false;
		*out = skip;
	}
	ovm_cfg_free(cfg);
	ovm_regions_free(&regions);
	return err;
}

static int dump_engine(struct ovm_ctx *ctx, struct job *job)
{
	struct ovm_engine engine = {0};
	bool *skip = NULL;
	int err = ovm_elf_plan(ctx, job->image, &job->engine_opts.base);
	if (!err)
		err = ovm_decoder_open(ctx, &job->dec);
	if (!err && job->only)
		err = skip_others(ctx, job, &skip);
	if (!err) {
		job->engine_opts.skip_region = skip;
		err = ovm_engine_run(ctx, job->dec, job->image, job->module, &job->engine_opts,
				     &engine);
		if (err == OVM_REFUSED)
			ovm_fail(ctx, OVM_OK, "%s: nothing to copy", job->image->path);
	}
	if (!err && job->stage == LAYOUT)
		ovm_layout_dump(&engine.program, &engine.layout, stdout);
	else if (!err)
		ovm_overlay_dump(&engine.program, &engine.overlay, job->dec, stdout);
	ovm_engine_fini(&engine);
	free(skip);
	return err;
}

/* One line an instruction: where the copy is, its length, what it is of. Jumps and counters of
 * ours, about to execute what they stand for, end in "added". Filler is left out. */
static void print_map(const struct ovm_image *original, const struct ovm_regions *regions,
		      const struct ovm_overlay *overlay, uint32_t only)
{
	char name[256];
	for (uint32_t i = 0; i < overlay->map.v.n; i++) {
		const struct ovm_map_entry *entry = &overlay->map.v.v[i];
		uint32_t region = ovm_region_find(regions, entry->old);
		if ((entry->flags & (OVM_MAP_PAD | OVM_MAP_SYNTH)) == OVM_MAP_PAD ||
		    !entry->new_len || (only != OVM_NONE && region != only))
			continue;
		printf("0x%llx %u 0x%llx", (unsigned long long)(overlay->base.v + entry->off),
		       entry->new_len, (unsigned long long)entry->old.v);
		if (region != OVM_NONE) {
			ovm_va lo = regions->v.v[region].lo;
			putchar(' ');
			ovm_put_clean(ovm_region_name(original, lo, name, sizeof(name)), stdout);
			printf("+0x%llx", (unsigned long long)(entry->old.v - lo.v));
		}
		puts(entry->flags & OVM_MAP_SYNTH ? " added" : "");
	}
}

static int dump_map(struct ovm_ctx *ctx, const struct job *job)
{
	struct ovm_image *original = NULL;
	struct ovm_regions regions = {0};
	struct ovm_overlay overlay = {0};
	uint32_t only = OVM_NONE;
	int err = ovm_elf_open_original(ctx, job->image, &original);
	if (!err)
		err = ovm_regions_build(ctx, original, &regions);
	if (!err && job->only)
		err = find_region(ctx, original, &regions, job->only, &only);
	if (!err)
		err = ovm_elf_overlay(ctx, job->image, original, &regions, &overlay);
	if (!err)
		print_map(original, &regions, &overlay, only);
	ovm_elf_overlay_fini(&overlay);
	ovm_regions_free(&regions);
	ovm_image_close(original);
	return err;
}

static int dump(struct ovm_ctx *ctx, const struct ovm_options *opts, struct job *job)
{
	if (job->stage == SCORE)
		return ovm_dump_score(ctx, opts, &job->engine_opts, job->image, job->module);
	if (job->stage == MAP)
		return dump_map(ctx, job);
	return job->stage < LAYOUT ? dump_analysis(ctx, job) : dump_engine(ctx, job);
}

int ovm_cmd_dump(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	(void)status;
	struct job job = {0};
	int err = check_words(ctx, opts, &job);
	if (!err)
		err = ovm_image_open(ctx, opts->words[1], &job.image);
	if (!err && opts->profiles.n)
		err = ovm_inputs_merge(ctx, opts->profiles.v, opts->profiles.n, &job.prof);
	if (!err && job.prof)
		err = ovm_inputs_module(ctx, job.prof, job.image, &job.module);
	if (job.engine_opts.uniform)
		job.module = NULL;
	job.engine_opts.uniform = !job.module;
	if (!err)
		err = dump(ctx, opts, &job);
	ovm_decoder_close(job.dec);
	ovm_image_close(job.image);
	ovm_profile_free(job.prof);
	return err;
}
