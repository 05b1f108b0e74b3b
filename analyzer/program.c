/* Select what to optimize, and analyze it.
 *
 * The profile says which regions are hot. They are taken hottest first until the wished share of
 * the samples is covered; each becomes the head of a group (a cfg), and the group may pull in more
 * regions:
 *
 *      900 samples ┌─────┐ jcc  ┌────────┐ 3 samples
 *                  │ f   │────▶ │ f.cold │             one cfg {f, f.cold}:
 *                  └─────┘ ◀────└────────┘             f.cold is no head again
 *
 * Fragments (their first CFI row proves that they are no function) wait until all functions had
 * their turn, because their function should be the head. A region that is in a group is marked as
 * taken while the others are built, so that a second group that branches into it sees an external
 * edge: a region is in at most one cfg.
 *
 * Limits: a function whose hot callees were never sampled is followed only on request; an entry
 * that only forwards to dlsym with a jump is not seen as a caller of dlsym in its callers.
 */
#define OVM_LOG_DOMAIN "program"
#include "analyzer/program.h"
#include "analyzer/draft.h"
#include "analyzer/rescale.h"
#include "analyzer/weight.h"
#include "base/log.h"
#include "base/parallel.h"

#include <stdlib.h>
#include <string.h>

enum {
	MANY_INSNS =
	    1 << 20, /* more take a second and longer to copy: then callees can wait for a sample */
};

struct pick {
	uint32_t region;
	uint64_t samples;
};

struct selection {
	struct ovm_ctx *ctx;
	struct ovm_decoder *dec;
	const struct ovm_prof_module *module; /* NULL: everything, uniform */
	bool is_live;
	const uint32_t *part_of; /* [regions.n], or NULL */
	uint32_t part;
	uint64_t *samples; /* [regions.n] */
	OVM_VEC(struct pick) picks;
	struct ovm_drafters *drafters;
	ovm_draft_regions heads; /* scratch: of the graphs to build next */
};

/* Functions that look at their return address to find out which module calls (rule I7 of live
 * overlays). */
static bool is_ra_sensitive_name(const char *name)
{
	static const char *const names[] = {"dlopen", "dlmopen", "dlsym",
					    "dlvsym", "dlinfo",	 "__libc_dlopen_mode"};

	for (size_t i = 0; name && i < sizeof(names) / sizeof(*names); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* True if @insn calls, jumps to, or loads the address of such a function through the PLT or a GOT
 * slot. */
static bool is_ra_sensitive(const struct ovm_image *image, const struct ovm_insn *insn)
{
	if (insn->kind == OVM_INSN_CALL || insn->kind == OVM_INSN_JMP ||
	    insn->kind == OVM_INSN_JCC) {
		const struct ovm_plt *plt = ovm_image_plt(image, insn->target);

		return plt && is_ra_sensitive_name(plt->symbol);
	}
	return (insn->flags & OVM_INSN_RIP_REL) &&
	       is_ra_sensitive_name(ovm_image_slot_symbol(image, insn->target));
}

static enum ovm_refusal call_refusal(const struct selection *sel, const struct ovm_image *image,
				     const struct ovm_cfg *cfg)
{
	for (uint32_t i = 0; i < cfg->n_insns; i++) {
		const struct ovm_insn *insn = &cfg->insns[i];

		if (image->runtimes &&
		    (insn->kind == OVM_INSN_CALL || insn->kind == OVM_INSN_CALL_IND))
			return OVM_REFUSE_RA_RUNTIME;
		if (sel->is_live && is_ra_sensitive(image, insn))
			return OVM_REFUSE_RA_SENSITIVE;
	}
	return OVM_REFUSE_NONE;
}

static void count_samples(struct selection *sel, const struct ovm_regions *regions)
{
	for (uint32_t i = 0; sel->module && i < sel->module->samples.n; i++) {
		const struct ovm_prof_sample *sample = &sel->module->samples.v[i];
		uint32_t r = ovm_region_find(regions, sample->va);

		if (r != OVM_NONE &&
		    __builtin_add_overflow(sel->samples[r], sample->count, &sel->samples[r]))
			sel->samples[r] = UINT64_MAX;
	}
}

static void make_known(struct selection *sel, const struct ovm_regions *regions, ovm_va va,
		       uint64_t count)
{
	uint32_t r = count ? ovm_region_find(regions, va) : OVM_NONE;

	if (r != OVM_NONE && !sel->samples[r])
		sel->samples[r] = 1;
}

/* Exact edges and branch records make a region known even if no sample hit it. */
static void count_records(struct selection *sel, const struct ovm_regions *regions)
{
	const struct ovm_prof_module *module = sel->module;

	for (uint32_t i = 0; module && i < module->edges.n; i++) {
		const struct ovm_prof_edge *edge = &module->edges.v[i];
		make_known(sel, regions, edge->from.v ? edge->from : edge->to, edge->count);
	}
	for (uint32_t i = 0; module && i < module->branches.n; i++)
		make_known(sel, regions, module->branches.v[i].to, module->branches.v[i].count);
}

static int by_samples(const void *a, const void *b)
{
	const struct pick *x = a, *y = b;

	if (x->samples != y->samples)
		return x->samples < y->samples ? 1 : -1;
	return x->region < y->region ? -1 : x->region > y->region;
}

static bool is_candidate(const struct selection *sel, const struct ovm_regions *regions, uint32_t r)
{
	return regions->v.v[r].refused == OVM_REFUSE_NONE &&
	       (!sel->part_of || sel->part_of[r] == sel->part);
}

/* The regions worth a look, hottest first (uniform: by address). Regions refused by earlier stages
 * are left out. */
static void choose(struct selection *sel, const struct ovm_regions *regions)
{
	for (uint32_t r = 0; r < regions->v.n; r++)
		if (is_candidate(sel, regions, r) && (!sel->module || sel->samples[r]))
			ovm_vec_push(&sel->picks, (struct pick){r, sel->samples[r]});
	if (sel->picks.n)
		qsort(sel->picks.v, sel->picks.n, sizeof(*sel->picks.v), by_samples);
}

/* How many picks it takes to cover @share of the samples of all picks. */
static uint32_t cut(const struct selection *sel, double share)
{
	double total = 0, seen = 0;
	uint32_t n = 0;

	if (!sel->module || share >= 1.0)
		return sel->picks.n;
	for (uint32_t i = 0; i < sel->picks.n; i++)
		total += (double)sel->picks.v[i].samples;
	while (n < sel->picks.n && seen < share * total)
		seen += (double)sel->picks.v[n++].samples;
	return n;
}

static void claim(struct ovm_program *program, struct ovm_cfg *cfg)
{
	for (uint32_t i = 0; i < cfg->n_regions; i++) {
		uint32_t r = cfg->regions[i];

		OVM_ASSERT(program->cfg_of_region[r] == OVM_NONE);
		program->cfg_of_region[r] = program->cfgs.n;
		program->regions->v.v[r].refused =
		    OVM_REFUSE_OVERLAP; /* taken; lifted by release() */
	}
	ovm_vec_push(&program->cfgs, cfg);
}

static void release(struct ovm_program *program)
{
	for (uint32_t r = 0; r < program->regions->v.n; r++)
		if (program->cfg_of_region[r] != OVM_NONE)
			program->regions->v.v[r].refused = OVM_REFUSE_NONE;
}

static void refuse_group(struct ovm_ctx *ctx, struct ovm_regions *regions,
			 const struct ovm_cfg *cfg, enum ovm_refusal why)
{
	for (uint32_t i = 0; i < cfg->n_regions; i++)
		ovm_region_refuse(ctx, regions, cfg->regions[i], why);
}

static void take(struct selection *sel, struct ovm_program *program, struct ovm_draft *draft)
{
	enum ovm_refusal why;
	struct ovm_cfg *cfg;

	if (ovm_draft_take(sel->ctx, sel->drafters, program->regions, draft, &cfg))
		return;
	why = call_refusal(sel, program->image, cfg);
	if (why != OVM_REFUSE_NONE) {
		refuse_group(sel->ctx, program->regions, cfg, why);
		ovm_cfg_free(cfg);
		return;
	}
	claim(program, cfg);
}

/* The graphs of sel->heads: drafted in any order, taken in this one. */
static void build_heads(struct selection *sel, struct ovm_program *program)
{
	struct ovm_draft *drafts = ovm_drafts_build(sel->drafters, sel->heads.v, sel->heads.n);

	for (uint32_t i = 0; i < sel->heads.n; i++)
		take(sel, program, &drafts[i]);
	free(drafts);
	sel->heads.n = 0;
}

struct weighing {
	const struct selection *sel;
	const struct ovm_program *program;
};

static void weigh(void *arg, uint32_t i)
{
	const struct weighing *w = arg;

	if (!w->program->cfgs.v[i])
		return;
	if (w->sel->module)
		ovm_weight_attach(w->sel->ctx, w->program->cfgs.v[i], w->sel->module);
	else
		ovm_weight_uniform(w->program->cfgs.v[i]);
}

static void build_picks(struct selection *sel, struct ovm_program *program, uint32_t n,
			bool fragments)
{
	for (uint32_t i = 0; i < n; i++) {
		const struct ovm_region *region = &program->regions->v.v[sel->picks.v[i].region];

		if (region->is_fragment == fragments && region->refused == OVM_REFUSE_NONE)
			ovm_vec_push(&sel->heads, sel->picks.v[i].region);
	}
	build_heads(sel, program);
}

static uint64_t n_insns(const struct ovm_program *program)
{
	uint64_t sum = 0;
	for (uint32_t c = 0; c < program->cfgs.n; c++)
		sum += program->cfgs.v[c] ? program->cfgs.v[c]->n_insns : 0;
	return sum;
}

/* What the graphs from @first on call directly. */
static void build_callees(struct selection *sel, struct ovm_program *program, uint32_t first)
{
	const struct ovm_regions *regions = program->regions;
	bool *is_head = ovm_alloc_array(regions->v.n, sizeof(*is_head));

	for (uint32_t c = first; c < program->cfgs.n; c++) {
		for (uint32_t i = 0; program->cfgs.v[c] && i < program->cfgs.v[c]->n_insns; i++) {
			const struct ovm_insn *insn = &program->cfgs.v[c]->insns[i];
			uint32_t r = insn->kind == OVM_INSN_CALL
					 ? ovm_region_find(regions, insn->target)
					 : OVM_NONE;

			if (r == OVM_NONE || is_head[r] ||
			    regions->v.v[r].refused != OVM_REFUSE_NONE ||
			    regions->v.v[r].lo.v != insn->target.v)
				continue;
			is_head[r] = true;
			ovm_vec_push(&sel->heads, r);
		}
	}
	free(is_head);
	build_heads(sel, program);
}

/* Every region has a reason for being left alone (rule R10). */
static void refuse_rest(struct selection *sel, struct ovm_program *program)
{
	for (uint32_t r = 0; r < program->regions->v.n; r++)
		if (program->cfg_of_region[r] == OVM_NONE && is_candidate(sel, program->regions, r))
			ovm_region_refuse(sel->ctx, program->regions, r,
					  sel->samples[r] ? OVM_REFUSE_NOT_HOT
							  : OVM_REFUSE_NO_PROFILE);
}

static void scan_xrefs(struct selection *sel, struct ovm_program *program)
{
	uint32_t n = program->regions->v.n;
	struct ovm_cfg **cfg_of = ovm_alloc_array(n ? n : 1, sizeof(*cfg_of));

	for (uint32_t r = 0; r < n; r++) {
		if (program->cfg_of_region[r] == OVM_NONE)
			continue;
		cfg_of[r] = program->cfgs.v[program->cfg_of_region[r]];
		ovm_vec_push(&program->xrefs, (struct ovm_xref){.region = r});
	}
	if (program->xrefs.n)
		ovm_xref_scan(sel->dec, program->image, program->regions, cfg_of, program->xrefs.v,
			      program->xrefs.n);
	free(cfg_of);
}

/* The region in the program that starts at @target, or OVM_NONE. */
static uint32_t callee_of(const struct ovm_program *program, ovm_va target)
{
	uint32_t r = ovm_region_find(program->regions, target);

	if (r == OVM_NONE || program->regions->v.v[r].lo.v != target.v ||
	    program->cfg_of_region[r] == OVM_NONE)
		return OVM_NONE;
	return r;
}

static bool is_indirect_call(const struct ovm_cfg *cfg, uint32_t bb, ovm_va at)
{
	const struct ovm_block *block = &cfg->blocks[bb];

	for (uint32_t k = block->first_insn; k < block->first_insn + block->n_insns; k++)
		if (cfg->insns[k].va.v == at.v)
			return cfg->insns[k].kind == OVM_INSN_CALL_IND;
	return false;
}

/* Exact edges from indirect calls to region starts. */
static void find_indirect(const struct ovm_prof_module *module, struct ovm_program *program)
{
	for (uint32_t i = 0; module && i < module->edges.n; i++) {
		const struct ovm_prof_edge *edge = &module->edges.v[i];
		uint32_t callee = edge->from.v ? callee_of(program, edge->to) : OVM_NONE;
		uint32_t r =
		    callee == OVM_NONE ? OVM_NONE : ovm_region_find(program->regions, edge->from);
		uint32_t idx = r == OVM_NONE ? OVM_NONE : program->cfg_of_region[r];
		uint32_t bb =
		    idx == OVM_NONE ? OVM_NONE : ovm_cfg_block_of(program->cfgs.v[idx], edge->from);

		if (bb == OVM_NONE || !is_indirect_call(program->cfgs.v[idx], bb, edge->from))
			continue;
		const struct ovm_block *block = &program->cfgs.v[idx]->blocks[bb];
		uint64_t count = edge->count < block->count ? edge->count : block->count;
		ovm_vec_push(&program->indirect,
			     (struct ovm_call){idx, bb, (uint32_t)(edge->from.v - block->lo.v),
					       callee, count});
	}
}

/* Select among the regions that are not refused, and analyze them; weigh all of @program. */
static void grow(struct selection *sel, const struct ovm_program_opts *opts,
		 struct ovm_program *program)
{
	uint32_t n = program->regions->v.n, n_picks;

	sel->samples = ovm_alloc_array(n ? n : 1, sizeof(*sel->samples));
	count_samples(sel, program->regions);
	count_records(sel, program->regions);
	choose(sel, program->regions);
	n_picks = cut(sel, opts->share);
	sel->drafters = ovm_drafters_new(sel->dec, program->image, program->regions);
	build_picks(sel, program, n_picks, false);
	build_picks(sel, program, n_picks, true);
	for (uint32_t step = 0, first = 0;
	     step < opts->callee_steps && n_insns(program) < MANY_INSNS; step++) {
		uint32_t n_known = program->cfgs.n;
		build_callees(sel, program, first);
		first = n_known;
	}
	ovm_drafters_free(sel->drafters);
	release(program);
	ovm_log(OVM_LOG_INFO, "%u graphs", program->cfgs.n);
	ovm_parallel(program->cfgs.n, weigh, &(struct weighing){sel, program});
	if (sel->module)
		ovm_rescale(program);
	find_indirect(sel->module, program);
	refuse_rest(sel, program);
	ovm_log(OVM_LOG_INFO, "graphs weighed");
	scan_xrefs(sel, program);
	ovm_vec_free(&sel->heads);
	ovm_vec_free(&sel->picks);
	free(sel->samples);
}

static struct selection selection_of(struct ovm_ctx *ctx, struct ovm_decoder *dec,
				     const struct ovm_prof_module *module,
				     const struct ovm_program_opts *opts)
{
	return (struct selection){.ctx = ctx,
				  .dec = dec,
				  .module = module,
				  .is_live = opts->is_live,
				  .part_of = opts->part_of,
				  .part = opts->part};
}

int ovm_program_build(struct ovm_ctx *ctx, struct ovm_decoder *dec, struct ovm_image *image,
		      struct ovm_regions *regions, const struct ovm_prof_module *module,
		      const struct ovm_program_opts *opts, struct ovm_program *out)
{
	struct selection sel = selection_of(ctx, dec, module, opts);
	struct ovm_program program = {.image = image, .regions = regions};
	size_t n = regions->v.n ? regions->v.n : 1;

	program.cfg_of_region = ovm_alloc_array(n, sizeof(*program.cfg_of_region));
	memset(program.cfg_of_region, 0xff, n * sizeof(*program.cfg_of_region));
	grow(&sel, opts, &program);
	*out = program;
	return 0;
}

int ovm_program_extend(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		       const struct ovm_prof_module *module, const struct ovm_program_opts *opts,
		       struct ovm_program *program)
{
	struct selection sel = selection_of(ctx, dec, module, opts);

	for (uint32_t r = 0; r < program->regions->v.n; r++) {
		uint8_t *refused = &program->regions->v.v[r].refused;

		if (program->cfg_of_region[r] != OVM_NONE)
			*refused = OVM_REFUSE_OVERLAP; /* taken, as in claim() */
		else if (*refused == OVM_REFUSE_NOT_HOT || *refused == OVM_REFUSE_NO_PROFILE)
			*refused = OVM_REFUSE_NONE;
	}
	program->xrefs.n = program->indirect.n = 0;
	grow(&sel, opts, program);
	return 0;
}

void ovm_program_fini(struct ovm_program *program)
{
	if (!program)
		return;
	for (uint32_t i = 0; i < program->cfgs.n; i++)
		ovm_cfg_free(program->cfgs.v[i]);
	ovm_vec_free(&program->cfgs);
	ovm_vec_free(&program->xrefs);
	ovm_vec_free(&program->indirect);
	free(program->cfg_of_region);
	program->cfg_of_region = NULL;
}

void ovm_program_drop(struct ovm_ctx *ctx, struct ovm_program *program, uint32_t idx,
		      enum ovm_refusal why)
{
	struct ovm_cfg *cfg;
	uint32_t n = 0;

	OVM_ASSERT(idx < program->cfgs.n);
	cfg = program->cfgs.v[idx];
	if (!cfg)
		return;
	refuse_group(ctx, program->regions, cfg, why);
	for (uint32_t i = 0; i < cfg->n_regions; i++)
		program->cfg_of_region[cfg->regions[i]] = OVM_NONE;
	for (uint32_t i = 0; i < program->xrefs.n; i++)
		if (program->cfg_of_region[program->xrefs.v[i].region] != OVM_NONE)
			program->xrefs.v[n++] = program->xrefs.v[i];
	program->xrefs.n = n;
	program->cfgs.v[idx] = NULL;
	ovm_cfg_free(cfg);
}

static void block_calls(const struct ovm_program *program, uint32_t idx, uint32_t bb,
			ovm_calls *calls)
{
	const struct ovm_cfg *cfg = program->cfgs.v[idx];
	const struct ovm_block *block = &cfg->blocks[bb];
	const struct ovm_insn *last = ovm_block_last(cfg, bb);
	uint32_t callee;

	for (uint32_t i = 0; i < block->n_insns; i++) {
		const struct ovm_insn *insn = &cfg->insns[block->first_insn + i];

		if (insn->kind == OVM_INSN_CALL &&
		    (callee = callee_of(program, insn->target)) != OVM_NONE)
			ovm_vec_push(calls, (struct ovm_call){idx, bb,
							      (uint32_t)(insn->va.v - block->lo.v),
							      callee, block->count});
	}
	for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
		const struct ovm_edge *edge = &cfg->edges[e];

		if (edge->dst == OVM_NONE && edge->kind == OVM_EDGE_TAKEN &&
		    (callee = callee_of(program, edge->to)) != OVM_NONE)
			ovm_vec_push(calls, (struct ovm_call){idx, bb,
							      (uint32_t)(last->va.v - block->lo.v),
							      callee, edge->count});
	}
}

uint32_t ovm_call_insn(const struct ovm_cfg *cfg, const struct ovm_call *call)
{
	const struct ovm_block *block = &cfg->blocks[call->block];
	uint32_t insn = block->first_insn;

	while (cfg->insns[insn].va.v < block->lo.v + call->offset)
		insn++;
	return insn;
}

static int by_place(const void *a, const void *b)
{
	const struct ovm_call *x = a, *y = b;

	if (x->cfg != y->cfg)
		return x->cfg < y->cfg ? -1 : 1;
	if (x->block != y->block)
		return x->block < y->block ? -1 : 1;
	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	return x->callee < y->callee ? -1 : x->callee > y->callee;
}

/* Two sorted lists become one. */
static void merge_calls(ovm_calls *calls, const ovm_calls *others)
{
	uint32_t i = calls->n, k = others->n;
	ovm_vec_reserve(calls, calls->n + others->n);
	calls->n += others->n;
	for (uint32_t to = calls->n; k; to--) {
		bool is_other = !i || by_place(&calls->v[i - 1], &others->v[k - 1]) <= 0;
		calls->v[to - 1] = is_other ? others->v[--k] : calls->v[--i];
	}
}

void ovm_program_calls(const struct ovm_program *program, ovm_calls *calls)
{
	ovm_calls indirect = {0};

	OVM_ASSERT(!calls->n);
	for (uint32_t c = 0; c < program->cfgs.n; c++)
		for (uint32_t bb = 0; program->cfgs.v[c] && bb < program->cfgs.v[c]->n_blocks; bb++)
			block_calls(program, c, bb, calls);
	for (uint32_t i = 0; i < program->indirect.n; i++) {
		const struct ovm_call *call = &program->indirect.v[i];

		if (program->cfgs.v[call->cfg] &&
		    program->cfg_of_region[call->callee] != OVM_NONE) /* not dropped */
			ovm_vec_push(&indirect, *call);
	}
	if (indirect.n)
		qsort(indirect.v, indirect.n, sizeof(indirect.v[0]), by_place);
	merge_calls(calls, &indirect);
	ovm_vec_free(&indirect);
}
