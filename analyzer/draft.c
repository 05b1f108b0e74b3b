/* Graphs of many regions on all processors, the same as if built one after the other.
 *
 *   one after the other    build f, mark its regions as taken; build g, which sees what f took; ...
 *   here                   draft f, g, ... beside each other     nobody took anything
 *                          take f; take g; ...                   in order, each if it still holds
 *
 * Building a graph asks one thing of the others: is this region refused (or taken), or may I pull
 * it in? Regions are only ever refused meanwhile, never freed. So a draft that found a region
 * refused is right about it for ever, and one that found it free is right if it still is when the
 * draft's turn comes. If not, its graph is built again. That is rare: functions pull in their own
 * fragments only, as a rule.
 *
 * A drafter interns unwind rows in a table of its own; a graph keeps none of their numbers.
 */
#include "analyzer/draft.h"
#include "analyzer/cfg_private.h"
#include "base/parallel.h"

#include <stdlib.h>

enum { FEW_HEADS = 128 }; /* not worth opening decoders: one takes as long as some 100 graphs */

struct drafter {
	struct ovm_cfg_build build;
	struct ovm_cfi cfi;
	struct ovm_decoder *own; /* closed with the drafter */
	bool is_ready, is_unable;
};

struct ovm_drafters {
	struct ovm_decoder *dec;
	const struct ovm_image *image;
	const struct ovm_regions *regions;
	struct drafter v[OVM_MAX_WORKERS];
};

/* --- one draft --- */

static void build_reset(struct ovm_cfg_build *build)
{
	build->parts.n = build->insns.n = build->marks.n = build->jumps.n = build->rows.v.n = 0;
	build->pads.n = build->blocks.n = build->edges.n = build->tables.n = build->by_va.n = 0;
	build->first_pred.n = build->preds.n = build->targets.n = 0;
	build->n_followed = 0;
	build->has_outside_partner = false;
}

static void build_fini(struct ovm_cfg_build *build)
{
	ovm_vec_free(&build->parts);
	ovm_vec_free(&build->insns);
	ovm_vec_free(&build->marks);
	ovm_vec_free(&build->jumps);
	ovm_vec_free(&build->rows.v);
	ovm_vec_free(&build->pads);
	ovm_vec_free(&build->blocks);
	ovm_vec_free(&build->edges);
	ovm_vec_free(&build->tables);
	ovm_vec_free(&build->by_va);
	ovm_vec_free(&build->first_pred);
	ovm_vec_free(&build->preds);
	ovm_vec_free(&build->targets);
}

static struct ovm_draft draft_one(struct ovm_cfg_build *build, uint32_t head)
{
	struct ovm_draft draft = {.head = head, .cfg = ovm_alloc(sizeof(*draft.cfg))};
	build_reset(build);
	ovm_vec_push(&build->assumed_free, head);
	enum ovm_refusal why = ovm_cfg_build_group(build, head, draft.cfg);
	if (why != OVM_REFUSE_NONE) {
		ovm_cfg_free(draft.cfg);
		draft.cfg = NULL;
		ovm_vec_push(&build->refused, (struct ovm_draft_refusal){head, why});
	}
	draft.refused = build->refused;
	draft.assumed_free = build->assumed_free;
	build->refused = (ovm_draft_refusals){0};
	build->assumed_free = (ovm_draft_regions){0};
	return draft;
}

void ovm_draft_fini(struct ovm_draft *draft)
{
	ovm_cfg_free(draft->cfg);
	ovm_vec_free(&draft->refused);
	ovm_vec_free(&draft->assumed_free);
	*draft = (struct ovm_draft){0};
}

/* Hands the graph over, and what was refused on the way. */
static int settle(struct ovm_ctx *ctx, struct ovm_regions *regions, struct ovm_draft *draft,
		  struct ovm_cfg **out)
{
	struct ovm_cfg *cfg = draft->cfg;
	for (uint32_t i = 0; i < draft->refused.n; i++)
		ovm_region_refuse(ctx, regions, draft->refused.v[i].region,
				  draft->refused.v[i].why);
	draft->cfg = NULL;
	ovm_draft_fini(draft);
	if (!cfg)
		return OVM_REFUSED;
	*out = cfg;
	return 0;
}

int ovm_cfg_build(struct ovm_ctx *ctx, struct ovm_decoder *dec, const struct ovm_image *image,
		  struct ovm_regions *regions, uint32_t head, struct ovm_cfg **out)
{
	struct ovm_cfg_build build = {
	    .dec = dec, .image = image, .regions = regions, .cfi = &regions->cfi};
	OVM_ASSERT(head < regions->v.n);
	if (regions->v.v[head].refused != OVM_REFUSE_NONE)
		return OVM_REFUSED;
	struct ovm_draft draft = draft_one(&build, head);
	build_fini(&build);
	return settle(ctx, regions, &draft, out);
}

/* --- many --- */

struct ovm_drafters *ovm_drafters_new(struct ovm_decoder *dec, const struct ovm_image *image,
				      const struct ovm_regions *regions)
{
	struct ovm_drafters *drafters = ovm_alloc(sizeof(*drafters));
	*drafters = (struct ovm_drafters){.dec = dec, .image = image, .regions = regions};
	return drafters;
}

void ovm_drafters_free(struct ovm_drafters *drafters)
{
	for (unsigned w = 0; drafters && w < OVM_MAX_WORKERS; w++) {
		build_fini(&drafters->v[w].build);
		ovm_cfi_fini(&drafters->v[w].cfi);
		ovm_decoder_close(drafters->v[w].own);
	}
	free(drafters);
}

/* The tools of @worker, made when it begins. NULL: it has no decoder. */
static struct ovm_cfg_build *tools_of(struct ovm_drafters *drafters, unsigned worker)
{
	struct drafter *drafter = &drafters->v[worker];
	struct ovm_ctx ctx = {0}; /* a failure shows where the caller's own decoder is used */
	if (drafter->is_ready || drafter->is_unable)
		return drafter->is_ready ? &drafter->build : NULL;
	if (worker && ovm_decoder_open(&ctx, &drafter->own)) {
		drafter->is_unable = true;
		return NULL;
	}
	ovm_cfi_copy_rows(&drafter->cfi, &drafters->regions->cfi);
	drafter->build = (struct ovm_cfg_build){.dec = worker ? drafter->own : drafters->dec,
						.image = drafters->image,
						.regions = drafters->regions,
						.cfi = &drafter->cfi};
	drafter->is_ready = true;
	return &drafter->build;
}

struct drafting {
	struct ovm_drafters *drafters;
	struct ovm_draft *drafts;
};

static void work(void *arg, unsigned worker, uint32_t i)
{
	const struct drafting *d = arg;
	struct ovm_cfg_build *build = tools_of(d->drafters, worker);
	if (build)
		d->drafts[i] = draft_one(build, d->drafts[i].head);
}

struct ovm_draft *ovm_drafts_build(struct ovm_drafters *drafters, const uint32_t *heads, uint32_t n)
{
	struct drafting d = {drafters, ovm_alloc_array(n ? n : 1, sizeof(struct ovm_draft))};
	for (uint32_t i = 0; i < n; i++)
		d.drafts[i].head = heads[i];
	if (n >= FEW_HEADS)
		ovm_parallel_workers(n, work, &d);
	return d.drafts; /* those not drafted yet are when they are taken */
}

static bool still_holds(const struct ovm_draft *draft, const struct ovm_regions *regions)
{
	for (uint32_t i = 0; i < draft->assumed_free.n; i++)
		if (regions->v.v[draft->assumed_free.v[i]].refused != OVM_REFUSE_NONE)
			return false;
	return draft->assumed_free.n; /* else it was not drafted */
}

int ovm_draft_take(struct ovm_ctx *ctx, struct ovm_drafters *drafters, struct ovm_regions *regions,
		   struct ovm_draft *draft, struct ovm_cfg **out)
{
	uint32_t head = draft->head;
	if (regions->v.v[head].refused != OVM_REFUSE_NONE) {
		ovm_draft_fini(draft);
		return OVM_REFUSED;
	}
	if (!still_holds(draft, regions)) {
		ovm_draft_fini(draft);
		*draft = draft_one(tools_of(drafters, 0), head);
	}
	return settle(ctx, regions, draft, out);
}
