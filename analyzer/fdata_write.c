/* Writing fdata the way llvm-bolt's own instrumentation does.
 *
 * BOLT takes counts of edges as they are and guesses nothing, so every way out
 * of a block needs a line: jumps, and falls from the last instruction of a
 * block into the next block. From a profile:
 *
 *   exact edge, branch      a line
 *   edge from 0             entered from elsewhere: `0 [unknown] 0 1 f 0 0 N`,
 * less what other lines say of calls and jumps to f, which N includes ranges a
 * line for each fall-through edge of the graph, after weight.c call, exact a
 * line with the count of its block call that may throw     a fall into the
 * instruction behind it: there BOLT ends a block
 *
 * BOLT drops nops that end a block, so a fall is told of the last instruction
 * that is none. Edges that stay inside a block (callgrind's counts have one for
 * every instruction) are no branches to BOLT: left out, or it would take the
 * profile for that of another build. Where a module has exact edges, sampled branches are left out:
 * their scale is another.
 *
 * Limits: calls through pointers have no lines from exact edges; ranges in
 * regions that were refused a graph are left out.
 */
#include "analyzer/fdata.h"
#include "analyzer/program.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct line {
	ovm_va from, to; /* from 0: outside */
	uint64_t count, mispreds;
	bool is_call;	 /* from a call */
	bool is_derived; /* from the graph, not from the profile */
};

struct writer {
	struct ovm_ctx *ctx;
	struct ovm_image *image;
	const struct ovm_prof_module *module;
	struct ovm_regions regions;
	struct ovm_bolt_names names;
	struct ovm_program program;
	OVM_VEC(struct line) lines;
	bool is_exact;
	uint64_t n_printed, n_left_out;
};

static uint64_t add_sat(uint64_t a, uint64_t b)
{
	uint64_t sum;
	return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static int by_place(const void *pa, const void *pb)
{
	const struct line *a = pa, *b = pb;
	if (a->from.v != b->from.v)
		return a->from.v < b->from.v ? -1 : 1;
	if (a->to.v != b->to.v)
		return a->to.v < b->to.v ? -1 : 1;
	return a->is_derived - b->is_derived;
}

static int by_target(const void *pa, const void *pb)
{
	const struct line *a = pa, *b = pb;
	return a->to.v != b->to.v ? (a->to.v < b->to.v ? -1 : 1) : by_place(pa, pb);
}

static void add_line(struct writer *w, struct line line)
{
	if (line.count && line.to.v)
		ovm_vec_push(&w->lines, line);
}

/* The graph that holds @va, NULL if none does. */
static const struct ovm_cfg *cfg_of(const struct writer *w, ovm_va va)
{
	uint32_t r = ovm_region_find(&w->regions, va);
	uint32_t idx = r == OVM_NONE ? OVM_NONE : w->program.cfg_of_region[r];
	return idx == OVM_NONE ? NULL : w->program.cfgs.v[idx];
}

/* A place in a graph. */
struct spot {
	const struct ovm_cfg *cfg; /* NULL: in none */
	const struct ovm_block *block;
	const struct ovm_insn *insn;
};

static struct spot spot_at(const struct writer *w, ovm_va va)
{
	const struct ovm_cfg *cfg = cfg_of(w, va);
	uint32_t bb = cfg ? ovm_cfg_block_of(cfg, va) : OVM_NONE;
	for (uint32_t i = 0; bb != OVM_NONE && i < cfg->blocks[bb].n_insns; i++) {
		const struct ovm_insn *insn = &cfg->insns[cfg->blocks[bb].first_insn + i];
		if (insn->va.v == va.v)
			return (struct spot){cfg, &cfg->blocks[bb], insn};
	}
	return (struct spot){0};
}

static bool is_call(const struct spot *spot)
{
	return spot->cfg &&
	       (spot->insn->kind == OVM_INSN_CALL || spot->insn->kind == OVM_INSN_CALL_IND);
}

/* Control fell from @spot into the next instruction. Where BOLT's block ends: at a call that may
 * throw, at the last instruction of ours that is no nop, or (0) not here. */
static ovm_va fall_from(const struct writer *w, const struct spot *spot)
{
	const struct ovm_insn *first = &spot->cfg->insns[spot->block->first_insn];
	const struct ovm_insn *last = first + spot->block->n_insns - 1;
	if (spot->insn != last)
		return is_call(spot) && w->regions.v.v[spot->block->region].lsda.v ? spot->insn->va
										   : ovm_va_of(0);
	while (last > first && last->kind == OVM_INSN_NOP)
		last--;
	return last->va;
}

/* --- lines that the profile has --- */

static void add_edges(struct writer *w)
{
	for (uint32_t i = 0; i < w->module->edges.n; i++) {
		const struct ovm_prof_edge *e = &w->module->edges.v[i];
		struct spot spot = e->from.v ? spot_at(w, e->from) : (struct spot){0};
		bool falls = spot.cfg && e->to.v == spot.insn->va.v + spot.insn->len;
		ovm_va from = falls ? fall_from(w, &spot) : e->from;
		if (from.v)
			add_line(w, (struct line){from, e->to, .count = e->count,
						  .is_call = is_call(&spot) && !falls});
	}
}

static void add_branches(struct writer *w)
{
	for (uint32_t i = 0; i < w->module->branches.n; i++) {
		const struct ovm_prof_branch *b = &w->module->branches.v[i];
		add_line(w, (struct line){b->from, b->to, b->count, b->mispreds, false, false});
	}
}

/* --- lines that only the graph knows --- */

static void add_falls(struct writer *w, const struct ovm_cfg *cfg)
{
	for (uint32_t e = 0; e < cfg->n_edges; e++) {
		const struct ovm_edge *edge = &cfg->edges[e];
		if (edge->kind == OVM_EDGE_FALL)
			add_line(w, (struct line){ovm_block_last(cfg, edge->src)->va, edge->to,
						  .count = edge->count, .is_derived = true});
	}
}

/* Calls to known places run as often as their block. */
static void add_calls(struct writer *w, const struct ovm_cfg *cfg)
{
	ovm_cfg_foreach_bb (cfg, bb) {
		const struct ovm_block *block = &cfg->blocks[bb];
		for (uint32_t i = 0; i < block->n_insns; i++) {
			const struct ovm_insn *insn = &cfg->insns[block->first_insn + i];
			if (insn->kind == OVM_INSN_CALL)
				add_line(w, (struct line){insn->va, insn->target, block->count,
							  .is_call = true, .is_derived = true});
		}
	}
}

/* Lines for one pair of places are added up; what the profile says goes before
 * what was derived. */
static void sort_lines(struct writer *w)
{
	uint32_t kept = 0;
	if (w->lines.n)
		qsort(w->lines.v, w->lines.n, sizeof(*w->lines.v), by_place);
	for (uint32_t i = 0; i < w->lines.n; i++) {
		struct line *last = kept ? &w->lines.v[kept - 1] : NULL;
		const struct line *next = &w->lines.v[i];
		if (!last || last->from.v != next->from.v || last->to.v != next->to.v)
			w->lines.v[kept++] = *next;
		else if (last->is_derived == next->is_derived)
			last->count = add_sat(last->count, next->count);
	}
	w->lines.n = kept;
}

/* Edges from 0 count every arrival from another graph; what has a line of its
 * own is taken off. */
static void add_entries(struct writer *w)
{
	uint32_t n = w->lines.n, at = 0;
	struct line *sorted = ovm_alloc_array(n ? n : 1, sizeof(*sorted));
	if (n)
		memcpy(sorted, w->lines.v, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), by_target);
	for (uint32_t i = 0; i < w->module->edges.n && !w->module->edges.v[i].from.v; i++) {
		const struct ovm_prof_edge *e = &w->module->edges.v[i];
		uint64_t known = 0;
		while (at < n && sorted[at].to.v < e->to.v)
			at++;
		for (; at < n && sorted[at].to.v == e->to.v; at++) {
			const struct ovm_cfg *src = cfg_of(w, sorted[at].from);
			if (!src || src != cfg_of(w, e->to) || sorted[at].is_call)
				known = add_sat(known, sorted[at].count);
		}
		if (e->count > known)
			add_line(w, (struct line){.to = e->to, .count = e->count - known});
	}
	free(sorted);
}

/* --- printing --- */

static void put_name(const char *name, FILE *to)
{
	for (; *name; name++) {
		if (*name == ' ' || *name == '\\')
			fputc('\\', to);
		fputc(*name, to);
	}
}

static bool has_name(const struct writer *w, ovm_va va)
{
	const struct ovm_bolt_func *func = va.v ? ovm_bolt_func_at(&w->names, va) : NULL;
	return func && func->name;
}

static void put_place(const struct writer *w, ovm_va va, FILE *to)
{
	if (!has_name(w, va)) {
		fputs("0 [unknown] 0 ", to);
		return;
	}
	const struct ovm_bolt_func *func = ovm_bolt_func_at(&w->names, va);
	fputs("1 ", to);
	put_name(func->name, to);
	fprintf(to, " %" PRIx64 " ", va.v - func->lo.v);
}

/* BOLT's counts have a sign. */
static uint64_t signed_count(uint64_t count)
{
	return count < INT64_MAX ? count : INT64_MAX;
}

static void print_line(struct writer *w, const struct line *line, FILE *to)
{
	if (!has_name(w, line->from) && !has_name(w, line->to)) {
		w->n_left_out++;
		return;
	}
	put_place(w, line->from, to);
	put_place(w, line->to, to);
	fprintf(to, "%" PRIu64 " %" PRIu64 "\n", signed_count(line->mispreds),
		signed_count(line->count));
	w->n_printed++;
}

static int print_flow(struct writer *w, FILE *to)
{
	struct ovm_ctx quiet; /* refusals here are not the command's */
	struct ovm_decoder *dec = NULL;
	int err = ovm_decoder_open(w->ctx, &dec);
	ovm_ctx_init(&quiet);
	if (!err &&
	    (err = ovm_program_build(&quiet, dec, w->image, &w->regions, w->module,
				     &(struct ovm_program_opts){.share = 1.0}, &w->program)))
		ovm_fail(w->ctx, (enum ovm_err)err, "%s", quiet.msg);
	if (err) {
		ovm_decoder_close(dec);
		return err;
	}
	w->is_exact = w->module->edges.n > 0;
	if (w->is_exact)
		add_edges(w);
	else
		add_branches(w);
	for (uint32_t i = 0; i < w->program.cfgs.n; i++) {
		const struct ovm_cfg *cfg = w->program.cfgs.v[i];
		if (w->is_exact && cfg->is_exact)
			add_calls(w, cfg);
		else if (!w->is_exact)
			add_falls(w, cfg);
	}
	sort_lines(w);
	if (w->is_exact)
		add_entries(w);
	for (uint32_t i = 0; i < w->lines.n; i++)
		print_line(w, &w->lines.v[i], to);
	ovm_program_fini(&w->program);
	ovm_decoder_close(dec);
	return 0;
}

/* BOLT divides samples by instructions if the event is called cycles: right for
 * clocks, too. */
static void print_samples(struct writer *w, const char *event, FILE *to)
{
	fputs("no_lbr", to);
	if (event && *event) {
		fputc(' ', to);
		put_name(event, to);
		if (!strcmp(event, "cpu-clock") || !strcmp(event, "task-clock"))
			fputs(" cycles", to);
	}
	fputc('\n', to);
	for (uint32_t i = 0; i < w->module->samples.n; i++) {
		const struct ovm_prof_sample *s = &w->module->samples.v[i];
		if (!has_name(w, s->va)) {
			w->n_left_out++;
			continue;
		}
		put_place(w, s->va, to);
		fprintf(to, "%" PRIu64 "\n", signed_count(s->count));
		w->n_printed++;
	}
}

int ovm_fdata_print(struct ovm_ctx *ctx, struct ovm_image *image,
		    const struct ovm_prof_module *module, const char *event, FILE *to,
		    uint64_t *n_printed, uint64_t *n_left_out)
{
	struct writer w = {.ctx = ctx, .image = image, .module = module};
	struct ovm_ctx quiet; /* a file without FDEs still has symbols */
	int err = 0;
	ovm_ctx_init(&quiet);
	ovm_regions_build(&quiet, image, &w.regions);
	ovm_bolt_names_build(image, &w.regions, &w.names);
	if (module->edges.n || module->branches.n || module->ranges.n)
		err = print_flow(&w, to);
	else
		print_samples(&w, event, to);
	*n_printed = w.n_printed;
	*n_left_out = w.n_left_out;
	ovm_vec_free(&w.lines);
	ovm_bolt_names_free(&w.names);
	ovm_regions_free(&w.regions);
	return err;
}
