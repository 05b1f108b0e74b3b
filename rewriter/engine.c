/* Profile and image in, proved overlay out.
 *
 *   regions -> program (choose, graphs, weights, xrefs) -> two decoders agree -> [ layout ->
 * overlay -> check ] -> done ^                          |
 *                                                             +--- drop what failed -----+
 *
 * A graph that cannot be emitted, or whose copy the checker cannot prove, is dropped with its
 * reason and the rest built again. Others' direct branches to it then go to the original, so
 * dropping is always safe. Failures are rare; the number of rounds is bounded and beyond it nothing
 * is copied.
 *
 * Graphs take some 80 bytes an instruction. Where every region of a very large file is to be copied
 * the above is done with a piece of the regions at a time, and the proved overlays are joined and
 * proved once more (join.c).
 */
#define OVM_LOG_DOMAIN "engine"
#include "rewriter/engine.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/parallel.h"
#include "rewriter/check.h"
#include "rewriter/join.h"

#include <stdlib.h>

enum {
	MAX_ROUNDS = 64,
	COMPARE_PIECES = 16, /* what one remembers of decoding, another does not know */
	MIN_PIECES = 4,	     /* less code is gone through at once */
	CALLEE_STEPS =
	    2, /* from sampled regions: what runs there is instrumented before a sample finds it */
};

struct stopwatch {
	double last_ms;
};

static double lap_ms(struct stopwatch *watch)
{
	double now = ovm_now_ms(), ms = now - watch->last_ms;
	watch->last_ms = now;
	return ms;
}

static void refuse_skipped(struct ovm_ctx *ctx, const struct ovm_engine_opts *opts,
			   struct ovm_regions *regions)
{
	for (uint32_t i = 0; opts->skip_region && i < regions->v.n; i++)
		if (opts->skip_region[i])
			ovm_region_refuse(ctx, regions, i, OVM_REFUSE_UNWIND_HOOK);
}

/* Rule R8: what only one decoder understands is not copied. */
struct comparison {
	const struct ovm_engine *engine;
	bool *differs;	/* [cfgs.n] */
	uint32_t first; /* cfg; those before are known */
};

/* Every COMPARE_PIECES-th graph from the @piece-th on. */
static void compare_decoders(void *arg, uint32_t piece)
{
	const struct comparison *c = arg;
	struct ovm_check_known *known = ovm_check_known_new();
	for (uint32_t i = c->first + piece; i < c->engine->program.cfgs.n; i += COMPARE_PIECES) {
		const struct ovm_cfg *cfg = c->engine->program.cfgs.v[i];
		c->differs[i] =
		    cfg && ovm_check_decoders(c->engine->image, cfg->insns, cfg->n_insns, known);
	}
	free(known);
}

static void drop_disagreeing(struct ovm_ctx *ctx, struct ovm_engine *engine, uint32_t first)
{
	uint32_t n = engine->program.cfgs.n, n_new = n - first;
	struct comparison c = {engine, ovm_alloc_array(n, sizeof(bool)), first};
	ovm_parallel(n_new < COMPARE_PIECES ? n_new : COMPARE_PIECES, compare_decoders, &c);
	for (uint32_t i = first; i < n; i++)
		if (c.differs[i])
			ovm_program_drop(ctx, &engine->program, i, OVM_REFUSE_DECODERS_DISAGREE);
	free(c.differs);
}

static uint32_t count_selected(const struct ovm_program *program)
{
	uint32_t n = 0;
	for (uint32_t c = 0; c < program->cfgs.n; c++)
		n += program->cfgs.v[c] ? program->cfgs.v[c]->n_regions : 0;
	return n;
}

static void drop_all(struct ovm_ctx *ctx, struct ovm_program *program, enum ovm_refusal why)
{
	for (uint32_t c = 0; c < program->cfgs.n; c++)
		if (program->cfgs.v[c])
			ovm_program_drop(ctx, program, c, why);
}

/* The cfg whose edge to @va is counted, OVM_NONE: that is who put a counter where it cannot stand.
 */
static uint32_t counting_cfg(const struct ovm_engine *engine, ovm_va va)
{
	for (uint32_t i = 0; i < engine->probes.v.n; i++) {
		const struct ovm_probe *probe = &engine->probes.v.v[i];
		const struct ovm_cfg *cfg = engine->program.cfgs.v[probe->cfg];
		if (probe->kind == OVM_PROBE_EDGE && cfg->edges[probe->edge].to.v == va.v)
			return probe->cfg;
	}
	return OVM_NONE;
}

/* The cfg that contains the original address @va, OVM_NONE. */
static uint32_t cfg_at(const struct ovm_engine *engine, ovm_va va)
{
	uint32_t region = ovm_region_find(&engine->regions, va);
	uint32_t cfg = region == OVM_NONE ? OVM_NONE : engine->program.cfg_of_region[region];
	return cfg == OVM_NONE || !engine->program.cfgs.v[cfg] ? OVM_NONE : cfg;
}

static void discard(struct ovm_engine *engine)
{
	ovm_overlay_fini(&engine->overlay);
	ovm_layout_fini(&engine->layout);
	ovm_probes_fini(&engine->probes);
	engine->layout = (struct ovm_layout){0};
	engine->probes = (struct ovm_probes){0};
}

/* Instrumented copies are not worth a good order: they run for a moment, and the counters cost
 * more. */
static void plan_counters(struct ovm_decoder *dec, const struct ovm_engine_opts *opts,
			  struct ovm_engine *engine, struct ovm_overlay_opts *overlay_opts)
{
	struct stopwatch watch = {0};
	lap_ms(&watch);
	overlay_opts->is_gauged = !opts->is_counting;
	if (opts->is_counting)
		ovm_probes_build(dec, &engine->program, &engine->probes);
	else
		ovm_gauges_build(dec, &engine->program, opts->gauges, opts->n_gauges,
				 &engine->probes);
	overlay_opts->probes = &engine->probes;
	overlay_opts->counters = opts->counters;
	ovm_log(OVM_LOG_INFO, "probes: %u counters for %u arcs, %.1f ms", engine->probes.n_counters,
		engine->probes.arcs.n, lap_ms(&watch));
}

/* How many executions of indirect calls are direct now, as far as the profile knows. */
static void log_promotions(const struct ovm_engine *engine)
{
	double hits = 0, all = 0;
	for (uint32_t i = 0; i < engine->layout.promotions.n; i++)
		hits += (double)engine->layout.promotions.v[i].hits;
	for (uint32_t c = 0; c < engine->program.cfgs.n; c++) {
		const struct ovm_cfg *cfg = engine->program.cfgs.v[c];
		for (uint32_t bb = 0; cfg && bb < cfg->n_blocks; bb++)
			for (uint32_t k = 0; k < cfg->blocks[bb].n_insns; k++)
				if (cfg->insns[cfg->blocks[bb].first_insn + k].kind ==
				    OVM_INSN_CALL_IND)
					all += (double)cfg->blocks[bb].count;
	}
	ovm_log(OVM_LOG_INFO, "promote: %u calls, %.0f of %.0f executions of indirect calls",
		engine->layout.promotions.n, hits, all);
}

static int build(struct ovm_ctx *ctx, struct ovm_decoder *dec, const struct ovm_engine_opts *opts,
		 struct ovm_engine *engine, uint32_t *bad_cfg, enum ovm_refusal *why)
{
	struct ovm_overlay_opts overlay_opts = {.base = opts->base};
	struct stopwatch watch = {0};
	lap_ms(&watch);
	struct ovm_layout_opts layout_opts = opts->layout;
	if (opts->is_counting)
		layout_opts = (struct ovm_layout_opts){.keep_block_order = true};
	layout_opts.take_all |= opts->uniform;
	ovm_layout_build(ctx, &engine->program, &layout_opts, &engine->layout);
	for (uint32_t i = 0; i < engine->layout.not_worth.n; i++)
		ovm_program_drop(ctx, &engine->program, engine->layout.not_worth.v[i],
				 OVM_REFUSE_NO_GAIN);
	ovm_log(OVM_LOG_INFO, "layout: %u blocks, %u hot, %u graphs not worth it, %.1f ms",
		engine->layout.slots.n, engine->layout.n_hot, engine->layout.not_worth.n,
		lap_ms(&watch));
	if (engine->layout.promotions.n)
		log_promotions(engine);
	if (!engine->layout.slots.n)
		return 0;
	if (opts->is_counting || opts->n_gauges)
		plan_counters(dec, opts, engine, &overlay_opts);
	lap_ms(&watch);
	int rc = ovm_overlay_build(ctx, &engine->program, &engine->layout, &overlay_opts,
				   &engine->overlay, bad_cfg, why);
	if (rc == OVM_REFUSED)
		ovm_log(OVM_LOG_INFO, "overlay: graph %u refused: %s", *bad_cfg,
			ovm_refusal_id(*why));
	else if (rc == 0)
		ovm_log(OVM_LOG_INFO,
			"overlay: %u bytes, %u instructions, %u patches, %u sites, %.1f ms",
			engine->overlay.size, engine->overlay.n_insns, engine->overlay.patches.n,
			engine->overlay.sites.n, lap_ms(&watch));
	if (rc == 0 && (uint64_t)engine->overlay.n_counters * 8 > opts->counters_room)
		return OVM_REFUSED;
	return rc;
}

static uint32_t bad_cfg_of(const struct ovm_engine *engine, const struct ovm_check_result *result)
{
	const struct ovm_map_entry *entry = ovm_map_new(&engine->overlay.map, result->bad_off);
	uint32_t cfg = entry && (entry->flags & OVM_MAP_COUNT)
			   ? counting_cfg(engine, result->bad_old)
			   : OVM_NONE;
	return cfg == OVM_NONE ? cfg_at(engine, result->bad_old) : cfg;
}

static int prove(struct ovm_ctx *ctx, struct ovm_engine *engine, struct ovm_check_result *result)
{
	struct stopwatch watch = {0};
	*result = (struct ovm_check_result){0};
	lap_ms(&watch);
	int rc = ovm_check(ctx, engine->image, &engine->regions, &engine->overlay, result);
	if (rc == OVM_REFUSED) {
		engine->stats.n_dropped_by_checker++;
		ovm_log(OVM_LOG_INFO, "check: 0x%llx, overlay +0x%x: %s",
			(unsigned long long)result->bad_old.v, result->bad_off, result->reason);
	} else if (rc == 0) {
		engine->stats.n_pairs = result->n_pairs;
		ovm_log(OVM_LOG_INFO, "check: %llu pairs proved, %.1f ms",
			(unsigned long long)result->n_pairs, lap_ms(&watch));
	}
	return rc;
}

static int check(struct ovm_ctx *ctx, struct ovm_engine *engine, uint32_t *bad_cfg)
{
	struct ovm_check_result result;
	int rc = prove(ctx, engine, &result);
	if (rc == OVM_REFUSED)
		*bad_cfg = bad_cfg_of(engine, &result);
	return rc;
}

/* Build and check until nothing fails. */
static int build_proved(struct ovm_ctx *ctx, struct ovm_decoder *dec,
			const struct ovm_engine_opts *opts, struct ovm_engine *engine)
{
	for (unsigned round = 0; round < MAX_ROUNDS; round++) {
		uint32_t bad = OVM_NONE;
		enum ovm_refusal why = OVM_REFUSE_CHECKER;
		int rc = build(ctx, dec, opts, engine, &bad, &why);
		if (rc == 0 && engine->overlay.map.v.n)
			rc = check(ctx, engine, &bad);
		if (rc == 0 || rc < 0)
			return rc;
		discard(engine);
		if (bad == OVM_NONE)
			break;
		ovm_program_drop(ctx, &engine->program, bad, why);
	}
	drop_all(ctx, &engine->program, OVM_REFUSE_CHECKER);
	return 0;
}

static void count_samples(const struct ovm_prof_module *module, struct ovm_engine *engine)
{
	struct ovm_engine_stats *stats = &engine->stats;
	if (!module)
		return;
	stats->samples = ovm_prof_module_samples(module);
	for (uint32_t i = 0; i < module->samples.n; i++) {
		const struct ovm_prof_sample *sample = &module->samples.v[i];
		uint32_t region = ovm_region_find(&engine->regions, sample->va);
		if (region == OVM_NONE || engine->regions.v.v[region].is_plt)
			continue; /* copies call through the GOT and need no stub */
		stats->samples_in_regions += sample->count;
		if (cfg_at(engine, sample->va) != OVM_NONE)
			stats->samples_covered += sample->count;
		else if (engine->regions.v.v[region].refused == OVM_REFUSE_NO_GAIN)
			stats->samples_left += sample->count;
	}
}

static struct ovm_program_opts program_opts(const struct ovm_engine_opts *opts)
{
	return (struct ovm_program_opts){
	    .share = opts->share,
	    .is_live = opts->is_live,
	    .callee_steps = opts->is_counting && !opts->no_callees ? CALLEE_STEPS : 0,
	};
}

/* The program is there; its graphs from @first on are new. */
static void accept_program(struct ovm_ctx *ctx, struct ovm_engine *engine, uint32_t first,
			   struct stopwatch *watch)
{
	engine->stats.n_selected = count_selected(&engine->program);
	ovm_log(OVM_LOG_INFO, "program: %u graphs, %u regions, %.1f ms", engine->program.cfgs.n,
		engine->stats.n_selected, lap_ms(watch));
	drop_disagreeing(ctx, engine, first);
	ovm_log(OVM_LOG_INFO, "decoders compared, %.1f ms", lap_ms(watch));
}

static int find_regions(struct ovm_ctx *ctx, const struct ovm_engine_opts *opts,
			struct ovm_engine *engine)
{
	struct stopwatch watch = {0};
	lap_ms(&watch);
	int rc = ovm_regions_build(ctx, engine->image, &engine->regions);
	if (rc)
		return rc;
	ovm_log(OVM_LOG_INFO, "regions: %u, %.1f ms", engine->regions.v.n, lap_ms(&watch));
	refuse_skipped(ctx, opts, &engine->regions);
	return 0;
}

static int select_regions(struct ovm_ctx *ctx, struct ovm_decoder *dec,
			  const struct ovm_prof_module *module, const struct ovm_engine_opts *opts,
			  const struct ovm_program_opts *how, struct ovm_engine *engine)
{
	struct stopwatch watch = {0};
	lap_ms(&watch);
	int rc = ovm_program_build(ctx, dec, engine->image, &engine->regions,
				   opts->uniform ? NULL : module, how, &engine->program);
	if (rc == 0)
		accept_program(ctx, engine, 0, &watch);
	return rc;
}

static int select_more(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		       const struct ovm_prof_module *module, const struct ovm_engine_opts *opts,
		       struct ovm_engine *engine)
{
	struct stopwatch watch = {0};
	const struct ovm_program_opts how = program_opts(opts);
	uint32_t first = engine->program.cfgs.n;
	lap_ms(&watch);
	int rc =
	    ovm_program_extend(ctx, dec, opts->uniform ? NULL : module, &how, &engine->program);
	if (rc == 0)
		accept_program(ctx, engine, first, &watch);
	return rc;
}

static bool is_gauged(const struct ovm_engine *engine, const struct ovm_engine_opts *opts,
		      const struct ovm_cfg *cfg)
{
	bool any = false;
	for (uint32_t g = 0; g < opts->n_gauges; g++)
		for (uint32_t i = 0; i < cfg->n_regions && !any; i++)
			any = engine->regions.v.v[cfg->regions[i]].lo.v == opts->gauges[g].v;
	return any;
}

static void keep_gauged(struct ovm_ctx *ctx, const struct ovm_engine_opts *opts,
			struct ovm_engine *engine)
{
	for (uint32_t c = 0; c < engine->program.cfgs.n; c++)
		if (engine->program.cfgs.v[c] &&
		    !is_gauged(engine, opts, engine->program.cfgs.v[c]))
			ovm_program_drop(ctx, &engine->program, c, OVM_REFUSE_NOT_HOT);
}

/* All that depends on what is built. */
static int finish(const struct ovm_prof_module *module, const struct ovm_engine_opts *opts,
		  struct ovm_engine *out)
{
	count_samples(module, out);
	if (opts->is_counting)
		ovm_callcount_list(&out->program, &out->calls);
	out->stats.n_copied = out->overlay.n_regions;
	out->stats.score_ratio =
	    out->layout.score_original > 0 ? out->layout.score / out->layout.score_original : 1.0;
	return out->overlay.n_insns ? 0 : OVM_REFUSED;
}

/* --- in pieces --- */

struct pieces {
	uint32_t *of; /* [regions.n]: the piece it is in, OVM_NONE */
	uint32_t n;
	uint64_t size; /* bytes of the regions in the last one */
	bool *taken;   /* [regions.n]: in a graph of a piece before */
	struct ovm_join join;
	struct ovm_engine_stats stats;
	double score, score_original;
};

static void divide(const struct ovm_regions *regions, uint64_t size, bool fragments,
		   struct pieces *pieces)
{
	for (uint32_t r = 0; r < regions->v.n; r++) {
		const struct ovm_region *region = &regions->v.v[r];
		if (region->refused != OVM_REFUSE_NONE || region->is_fragment != fragments)
			continue;
		if (!pieces->n || pieces->size >= size) {
			pieces->n++;
			pieces->size = 0;
		}
		pieces->of[r] = pieces->n - 1;
		pieces->size += region->hi.v - region->lo.v;
	}
}

/* In the order in which graphs are taken: fragments, whose functions should be the heads, last. */
static void divide_all(const struct ovm_regions *regions, uint64_t size, struct pieces *pieces)
{
	*pieces = (struct pieces){.of = ovm_alloc_array((size_t)regions->v.n + 1, sizeof(uint32_t)),
				  .taken = ovm_alloc_array((size_t)regions->v.n + 1, sizeof(bool))};
	for (uint32_t r = 0; r < regions->v.n; r++)
		pieces->of[r] = OVM_NONE;
	divide(regions, size, false, pieces);
	divide(regions, size, true, pieces);
}

static void pieces_fini(struct pieces *pieces)
{
	free(pieces->of);
	free(pieces->taken);
	ovm_join_fini(&pieces->join);
}

/* Keep what was built of the program, and no more; its regions are nobody else's. */
static void keep_piece(struct ovm_engine *engine, struct pieces *pieces)
{
	for (uint32_t r = 0; r < engine->regions.v.n; r++) {
		if (engine->program.cfg_of_region[r] == OVM_NONE)
			continue;
		pieces->taken[r] = true;
		engine->regions.v.v[r].refused = OVM_REFUSE_OVERLAP;
	}
	if (engine->overlay.n_insns)
		ovm_join_add(&pieces->join, &engine->overlay);
	pieces->stats.n_selected += engine->stats.n_selected;
	pieces->score += engine->layout.score;
	pieces->score_original += engine->layout.score_original;
	discard(engine);
	ovm_program_fini(&engine->program);
	ovm_image_release(engine->image, engine->image->bytes, engine->image->size);
}

static int build_pieces(struct ovm_ctx *ctx, struct ovm_decoder *dec,
			const struct ovm_engine_opts *opts, struct pieces *pieces,
			struct ovm_engine *out)
{
	struct ovm_engine_opts here = *opts;
	struct ovm_program_opts how = program_opts(opts);
	int rc = 0;
	how.part_of = pieces->of;
	pieces->join.overlay.base = opts->base;
	for (how.part = 0; how.part < pieces->n && !rc; how.part++) {
		here.base = ovm_join_base(&pieces->join);
		rc = select_regions(ctx, dec, NULL, opts, &how, out);
		if (!rc)
			rc = build_proved(ctx, dec, &here, out);
		if (!rc)
			keep_piece(out, pieces);
	}
	for (uint32_t r = 0; r < out->regions.v.n; r++)
		if (pieces->taken[r])
			out->regions.v.v[r].refused = OVM_REFUSE_NONE;
	return rc;
}

static int run_pieces(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		      const struct ovm_engine_opts *opts, struct pieces *pieces,
		      struct ovm_engine *out)
{
	struct stopwatch watch = {0};
	struct ovm_check_result result;
	int rc = build_pieces(ctx, dec, opts, pieces, out);
	out->stats.n_selected = pieces->stats.n_selected;
	out->layout.score = pieces->score;
	out->layout.score_original = pieces->score_original;
	lap_ms(&watch);
	if (rc || !pieces->join.overlay.n_insns)
		return rc;
	rc = ovm_join_finish(ctx, out->image, &out->regions, &pieces->join, &out->overlay);
	ovm_log(OVM_LOG_INFO, "%u pieces joined, %.1f ms", pieces->n, lap_ms(&watch));
	if (rc)
		return rc;
	rc = prove(ctx, out, &result);
	uint32_t bad = rc ? ovm_region_find(&out->regions, result.bad_old) : OVM_NONE;
	if (bad != OVM_NONE)
		ovm_region_refuse(ctx, &out->regions, bad, OVM_REFUSE_CHECKER);
	return rc;
}

/* --- all of it --- */

int ovm_engine_run(struct ovm_ctx *ctx, struct ovm_decoder *dec, struct ovm_image *image,
		   const struct ovm_prof_module *module, const struct ovm_engine_opts *opts,
		   struct ovm_engine *out)
{
	*out = (struct ovm_engine){.image = image};
	struct pieces pieces = {0};
	int rc = OVM_REFUSED;
	if (!module && !opts->uniform)
		return rc;
	rc = find_regions(ctx, opts, out);
	if (!rc && opts->piece && opts->uniform && !module)
		divide_all(&out->regions, opts->piece, &pieces);
	if (!rc && pieces.n > MIN_PIECES) {
		rc = run_pieces(ctx, dec, opts, &pieces, out);
	} else if (!rc) {
		const struct ovm_program_opts how = program_opts(opts);
		rc = select_regions(ctx, dec, module, opts, &how, out);
		rc = rc ? rc : build_proved(ctx, dec, opts, out);
	}
	pieces_fini(&pieces);
	if (!rc)
		return finish(module, opts, out);
	ovm_engine_fini(out);
	return rc;
}

int ovm_engine_again(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		     const struct ovm_prof_module *module, const struct ovm_engine_opts *opts,
		     struct ovm_engine *engine)
{
	int rc = 0;
	discard(engine);
	engine->program.regions = &engine->regions; /* it may have been moved */
	ovm_vec_free(&engine->calls);
	engine->stats = (struct ovm_engine_stats){0};
	if (opts->gauged_only)
		keep_gauged(ctx, opts, engine);
	else
		rc = select_more(ctx, dec, module, opts, engine);
	if (!rc)
		rc = build_proved(ctx, dec, opts, engine);
	if (!rc)
		return finish(module, opts, engine);
	ovm_engine_fini(engine);
	return rc;
}

void ovm_engine_fini(struct ovm_engine *engine)
{
	ovm_overlay_fini(&engine->overlay);
	ovm_layout_fini(&engine->layout);
	ovm_probes_fini(&engine->probes);
	ovm_vec_free(&engine->calls);
	ovm_program_fini(&engine->program);
	ovm_regions_free(&engine->regions);
	*engine = (struct ovm_engine){0};
}
