/* Building the graph of one group.
 *
 *      decode, pull regions in (group.c)
 *            │
 *      ┌─────▼─────┐   leaders   ┌────────────┐   blocks, edges   ┌──────────────────┐
 *      │ mark      ├───────────▶ │ split, link├─────────────────▶ │ find jump tables │
 *      └───────────┘             └────────────┘                   └────────┬─────────┘
 *            ▲          new targets: more leaders, edges, regions          │
 *            └─────────────────────────────────────────────────────────────┘
 *                     until nothing changes
 *
 * A jump's table is found by looking at definitions that reach it, so every new edge can take a
 * proof away again. Proofs are therefore made anew in every round with all edges known so far, and
 * only those of the last, unchanged round count: then every path of the program follows edges that
 * were there when the proof was made. A jump that has not settled after MAX_ROUNDS is given up,
 * which can only make others unknown, so the loop ends.
 *
 * Once everything is settled and there are jumps nobody understands (or a partner region that could
 * not join), blocks may be entered along edges we do not see; the proofs are made once more under
 * that assumption (has_unseen_entries).
 */
#include "analyzer/cfg_private.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ROUNDS = 8, MAX_BLOCKS = 100000, MAX_EDGES = 4000000 };

/* --- blocks --- */

static uint32_t block_flags(const struct ovm_cfg_build *build, const struct ovm_part *part,
			    const struct ovm_insn *insn)
{
	uint8_t mark = build->marks.v[part->first_mark + (insn->va.v - part->lo.v)];
	return (insn->va.v == part->lo.v ? OVM_BLOCK_REGION_START : 0) |
	       (mark & OVM_MARK_PAD ? OVM_BLOCK_LANDING_PAD : 0);
}

static bool ends_block(const struct ovm_insn *insn)
{
	return ovm_insn_is_end(insn) || insn->kind == OVM_INSN_JCC || insn->kind == OVM_INSN_JCXZ;
}

static void split_part(struct ovm_cfg_build *build, struct ovm_part *part, uint32_t *jump)
{
	const uint8_t *marks = build->marks.v + part->first_mark;
	bool is_open = false;
	part->first_block = build->blocks.n;
	for (uint32_t i = part->first_insn; i < part->first_insn + part->n_insns; i++) {
		const struct ovm_insn *insn = &build->insns.v[i];
		if (!is_open || (marks[insn->va.v - part->lo.v] & OVM_MARK_LEADER))
			ovm_vec_push(&build->blocks,
				     (struct ovm_block){.lo = insn->va,
							.region = part->region,
							.first_insn = i,
							.table = OVM_NONE,
							.flags = block_flags(build, part, insn)});
		struct ovm_block *block = &build->blocks.v[build->blocks.n - 1];
		block->n_insns++;
		block->hi = ovm_va_add(insn->va, insn->len);
		is_open = !ends_block(insn);
		if (insn->kind == OVM_INSN_JMP_IND)
			build->jumps.v[(*jump)++].block = build->blocks.n - 1;
	}
	part->n_blocks = build->blocks.n - part->first_block;
}

static void split(struct ovm_cfg_build *build)
{
	uint32_t jump = 0;
	build->blocks.n = 0;
	for (uint32_t p = 0; p < build->parts.n; p++)
		split_part(build, &build->parts.v[p], &jump);
	OVM_ASSERT(jump == build->jumps.n);
}

/* Blocks by address: parts are disjoint, so sort parts and take their blocks in turn. */
static void sort_blocks(struct ovm_cfg_build *build)
{
	ovm_vec_reserve(&build->by_va, build->blocks.n);
	build->by_va.n = 0;
	ovm_va done = {0};
	for (uint32_t round = 0; round < build->parts.n; round++) {
		const struct ovm_part *next = NULL;
		for (uint32_t p = 0; p < build->parts.n; p++)
			if (build->parts.v[p].lo.v >= done.v &&
			    (!next || build->parts.v[p].lo.v < next->lo.v))
				next = &build->parts.v[p];
		for (uint32_t b = 0; b < next->n_blocks; b++)
			build->by_va.v[build->by_va.n++] = next->first_block + b;
		done = next->hi;
	}
}

/* --- edges --- */

static uint32_t block_starting_at(struct ovm_cfg_build *build, ovm_va va)
{
	const struct ovm_part *part = ovm_group_part(build, va);
	if (!part)
		return OVM_NONE;
	uint32_t lo = part->first_block, hi = lo + part->n_blocks;
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (build->blocks.v[mid].lo.v <= va.v)
			lo = mid;
		else
			hi = mid;
	}
	return build->blocks.v[lo].lo.v == va.v ? lo : OVM_NONE;
}

static void add_edge(struct ovm_cfg_build *build, uint32_t src, ovm_va to, uint8_t kind)
{
	ovm_vec_push(&build->edges,
		     (struct ovm_edge){
			 .src = src, .dst = block_starting_at(build, to), .to = to, .kind = kind});
}

static int by_address(const void *a, const void *b)
{
	const ovm_va *x = a, *y = b;
	return x->v < y->v ? -1 : x->v > y->v;
}

/* How many of the @n targets come before the first that is in the group but no instruction:
 * compilers make no such entry, so the real table has ended there. */
static uint32_t count_real(struct ovm_cfg_build *build, const ovm_va *targets, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		const struct ovm_part *part = ovm_group_part(build, targets[i]);
		if (part && !(build->marks.v[part->first_mark + (targets[i].v - part->lo.v)] &
			      OVM_MARK_START))
			return i;
	}
	return n;
}

/* The table's entries, as they stand there, into build->targets; how many of them are real. */
static uint32_t read_real(struct ovm_cfg_build *build, const struct ovm_jumptable *table)
{
	ovm_vec_reserve(&build->targets, table->n_entries);
	ovm_jumptable_read(build->image, table, build->targets.v);
	return count_real(build, build->targets.v, table->n_entries);
}

/* The table's targets, sorted and unique, into build->targets. */
static void collect_targets(struct ovm_cfg_build *build, const struct ovm_jumptable *table)
{
	uint32_t n_real = read_real(build, table), n = 0;
	ovm_va *v = build->targets.v;
	qsort(v, n_real, sizeof(*v), by_address);
	for (uint32_t i = 0; i < n_real; i++)
		if (!n || v[n - 1].v != v[i].v)
			v[n++] = v[i];
	build->targets.n = n;
}

/* Over-copied entries hold anything: only those that can be code become edges. */
static void add_table_edges(struct ovm_cfg_build *build, uint32_t bb,
			    const struct ovm_jumptable *table)
{
	collect_targets(build, table);
	for (uint32_t i = 0; i < build->targets.n; i++) {
		ovm_va to = build->targets.v[i];
		if (ovm_group_part(build, to) ? block_starting_at(build, to) != OVM_NONE
					      : ovm_image_code(build->image, to, 1) != NULL)
			add_edge(build, bb, to, OVM_EDGE_TABLE);
	}
}

/* A call at the very end of a region does not return. Anything else there runs into what follows.
 */
static void add_fall(struct ovm_cfg_build *build, uint32_t bb, const struct ovm_insn *last)
{
	const struct ovm_block *block = &build->blocks.v[bb];
	bool is_region_end =
	    bb + 1 == build->blocks.n || build->blocks.v[bb + 1].region != block->region;
	if (is_region_end && (last->kind == OVM_INSN_CALL || last->kind == OVM_INSN_CALL_IND))
		return;
	add_edge(build, bb, block->hi, OVM_EDGE_FALL);
}

static void add_edges(struct ovm_cfg_build *build, uint32_t bb, const struct ovm_jump *jump)
{
	const struct ovm_insn *last =
	    &build->insns.v[build->blocks.v[bb].first_insn + build->blocks.v[bb].n_insns - 1];
	switch (last->kind) {
	case OVM_INSN_JMP:
		add_edge(build, bb, last->target, OVM_EDGE_TAKEN);
		break;
	case OVM_INSN_JCC:
	case OVM_INSN_JCXZ:
		add_fall(build, bb, last);
		add_edge(build, bb, last->target, OVM_EDGE_TAKEN);
		break;
	case OVM_INSN_JMP_IND:
		if (jump->cls == OVM_JUMP_TABLE)
			add_table_edges(build, bb, &jump->table);
		break;
	case OVM_INSN_RET:
	case OVM_INSN_TRAP:
		break;
	default:
		add_fall(build, bb, last);
	}
}

static void link_blocks(struct ovm_cfg_build *build)
{
	uint32_t next = 0; /* into jumps, which are in block order */
	build->edges.n = 0;
	build->tables.n = 0;
	for (uint32_t bb = 0; bb < build->blocks.n; bb++) {
		const struct ovm_jump *jump = NULL;
		if (next < build->jumps.n && build->jumps.v[next].block == bb)
			jump = &build->jumps.v[next++];
		if (jump && jump->cls == OVM_JUMP_TABLE) {
			build->blocks.v[bb].table = build->tables.n;
			ovm_vec_push(&build->tables, jump->table);
		}
		build->blocks.v[bb].first_edge = build->edges.n;
		add_edges(build, bb, jump);
		build->blocks.v[bb].n_edges = build->edges.n - build->blocks.v[bb].first_edge;
	}
}

/* Counting sort of the edges by destination. */
static void link_preds(struct ovm_cfg_build *build)
{
	uint32_t n = build->blocks.n, sum = 0;
	ovm_vec_reserve(&build->first_pred, n + 1);
	ovm_vec_reserve(&build->preds, build->edges.n);
	uint32_t *first = build->first_pred.v;
	memset(first, 0, (n + 1) * sizeof(*first));
	for (uint32_t e = 0; e < build->edges.n; e++)
		if (build->edges.v[e].dst != OVM_NONE)
			first[build->edges.v[e].dst]++;
	for (uint32_t bb = 0; bb <= n; bb++) {
		sum += first[bb];
		first[bb] = sum;
	}
	build->preds.n = sum;
	for (uint32_t e = build->edges.n; e-- > 0;)
		if (build->edges.v[e].dst != OVM_NONE)
			build->preds.v[--first[build->edges.v[e].dst]] = e;
}

/* A view of the graph as it is now, for the slicer. */
static void update_view(struct ovm_cfg_build *build, struct ovm_cfg *cfg)
{
	split(build);
	sort_blocks(build);
	link_blocks(build);
	link_preds(build);
	cfg->insns = build->insns.v;
	cfg->n_insns = build->insns.n;
	cfg->blocks = build->blocks.v;
	cfg->n_blocks = build->blocks.n;
	cfg->edges = build->edges.v;
	cfg->n_edges = build->edges.n;
	cfg->tables = build->tables.v;
	cfg->n_tables = build->tables.n;
	cfg->by_va = build->by_va.v;
	cfg->first_pred = build->first_pred.v;
	cfg->preds = build->preds.v;
}

/* --- jump tables to a fixed point --- */

static bool is_same_table(const struct ovm_jumptable *a, const struct ovm_jumptable *b)
{
	return a->load_insn == b->load_insn && a->table.v == b->table.v && a->base.v == b->base.v &&
	       a->n_entries == b->n_entries && a->entry_size == b->entry_size &&
	       a->bound == b->bound;
}

static bool is_table_start(const struct ovm_cfg_build *build, ovm_va va)
{
	for (uint32_t j = 0; j < build->jumps.n; j++)
		if (build->jumps.v[j].cls == OVM_JUMP_TABLE &&
		    build->jumps.v[j].table.table.v == va.v)
			return true;
	return false;
}

static bool is_foreign(struct ovm_cfg_build *build, ovm_va va)
{
	if (ovm_group_part(build, va))
		return false;
	uint32_t idx = ovm_region_find(build->regions, va);
	return idx == OVM_NONE || !build->regions->v.v[idx].is_fragment;
}

/* How many of the entries @v[@n] are surely not behind the end of the table. One that was copied
 * for safety has as many entries as its index can tell apart: the real one has ended where another
 * table begins, and where an entry is outside the group and in no fragment. Where all functions are
 * split (BOLT) fragments lie everywhere, and each that joins a group by mistake brings others. */
static uint32_t count_own(struct ovm_cfg_build *build, const struct ovm_jumptable *table,
			  const ovm_va *v, uint32_t n)
{
	if (table->bound == OVM_BOUND_CMP)
		return n;
	for (uint32_t i = 0; i < n; i++) {
		ovm_va entry = ovm_va_add(table->table, (int64_t)i * table->entry_size);
		if (is_foreign(build, v[i]) || (i && is_table_start(build, entry)))
			return i;
	}
	return n;
}

/* Regions that the table leads to join the group. */
static void pull_targets(struct ovm_cfg_build *build, const struct ovm_jumptable *table)
{
	uint32_t n_real = read_real(build, table);
	uint32_t n = count_own(build, table, build->targets.v, n_real);
	for (uint32_t i = 0; i < n; i++)
		ovm_group_pull(build, build->targets.v[i]);
}

static bool mark_targets(struct ovm_cfg_build *build, const struct ovm_jumptable *table)
{
	bool is_new = false;
	pull_targets(build, table);
	collect_targets(build, table);
	ovm_group_close(build);
	for (uint32_t i = 0; i < build->targets.n; i++)
		is_new |= ovm_group_mark(build, build->targets.v[i], OVM_MARK_LEADER);
	return is_new;
}

static bool classify(struct ovm_slicer *slicer, struct ovm_jump *jump, bool is_last_chance)
{
	struct ovm_jumptable table = {0};
	uint8_t cls = OVM_JUMP_UNKNOWN;
	if (!jump->is_given_up)
		cls = (uint8_t)ovm_jumptable_find(slicer, jump->block, &table);
	if (cls == OVM_JUMP_TAIL && !jump->is_frame_empty)
		cls = OVM_JUMP_UNKNOWN; /* with a frame still there it jumps inside the function */
	bool is_changed =
	    cls != jump->cls || (cls == OVM_JUMP_TABLE && !is_same_table(&table, &jump->table));
	if (is_changed && is_last_chance) {
		jump->is_given_up = true;
		cls = OVM_JUMP_UNKNOWN;
	}
	jump->cls = cls;
	jump->table = table;
	return is_changed;
}

static bool classify_all(struct ovm_cfg_build *build, const struct ovm_cfg *cfg, bool is_tentative,
			 bool is_last_chance)
{
	struct ovm_slicer slicer;
	bool is_changed = false;
	ovm_slicer_init(&slicer, build->image, build->regions, cfg, &build->rows);
	slicer.is_tentative = is_tentative;
	for (uint32_t j = 0; j < build->jumps.n; j++)
		is_changed |= classify(&slicer, &build->jumps.v[j], is_last_chance);
	ovm_slicer_fini(&slicer);
	for (uint32_t j = 0; is_changed && j < build->jumps.n; j++) {
		struct ovm_jumptable table = build->jumps.v[j].table;
		if (build->jumps.v[j].cls == OVM_JUMP_TABLE)
			mark_targets(build, &table);
	}
	return is_changed;
}

/* Code that nothing reaches, other than padding and traps, while some jump may go anywhere. */
static bool has_unseen_entries(const struct ovm_cfg_build *build, const struct ovm_cfg *cfg)
{
	struct ovm_slicer slicer;
	bool is_doubtful = build->has_outside_partner, is_unseen = false;
	for (uint32_t j = 0; j < build->jumps.n; j++)
		is_doubtful |= build->jumps.v[j].cls != OVM_JUMP_TABLE;
	if (!is_doubtful || !build->jumps.n)
		return false;
	ovm_slicer_init(&slicer, build->image, build->regions, cfg, &build->rows);
	ovm_cfg_foreach_bb (cfg, bb) {
		const struct ovm_insn *last = ovm_block_last(cfg, bb);
		if (!slicer.is_reachable[bb] && last->kind != OVM_INSN_NOP &&
		    last->kind != OVM_INSN_TRAP)
			is_unseen = true;
	}
	ovm_slicer_fini(&slicer);
	return is_unseen;
}

static int settle(struct ovm_cfg_build *build, struct ovm_cfg *cfg)
{
	bool is_tentative = true;
	for (uint32_t round = 0;; round++) {
		update_view(build, cfg);
		if (build->blocks.n > MAX_BLOCKS || build->edges.n > MAX_EDGES)
			return OVM_REFUSED;
		bool is_last_chance = round >= MAX_ROUNDS;
		if (build->jumps.n && classify_all(build, cfg, is_tentative, is_last_chance))
			continue;
		if (build->jumps.n && is_tentative) {
			is_tentative = false;
			continue;
		}
		if (cfg->has_unseen_entries || !has_unseen_entries(build, cfg))
			return 0;
		cfg->has_unseen_entries = true;
	}
}

/* --- the result --- */

/* Hands out pieces of one allocation: graphs are many and mostly small. */
static void *take(struct ovm_cfg *cfg, size_t *used, const void *from, size_t n, size_t size)
{
	char *p = cfg->storage ? (char *)cfg->storage + *used : NULL;
	*used += (n * size + 15) & ~(size_t)15;
	if (p && from && n)
		memcpy(p, from, n * size);
	return p;
}

static void set_jump_flags(struct ovm_cfg_build *build, struct ovm_cfg *cfg)
{
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		if (cfg->edges[e].kind == OVM_EDGE_TABLE && cfg->edges[e].dst != OVM_NONE)
			cfg->blocks[cfg->edges[e].dst].flags |= OVM_BLOCK_TABLE_TARGET;
	for (uint32_t j = 0; j < build->jumps.n; j++) {
		uint8_t cls = build->jumps.v[j].cls;
		if (cls == OVM_JUMP_TABLE)
			continue;
		cfg->n_unknown_jumps += cls == OVM_JUMP_UNKNOWN;
		cfg->blocks[build->jumps.v[j].block].flags |=
		    cls == OVM_JUMP_UNKNOWN ? OVM_BLOCK_UNKNOWN_JUMP : OVM_BLOCK_TAIL_CALL;
	}
}

/* A tracer's breakpoint may stand on a probe point: such a block is executed in the original only.
 */
static bool has_probe(const struct ovm_image *image, const struct ovm_block *block)
{
	uint32_t lo = 0, hi = image->probes.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (image->probes.v[mid].v < block->lo.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < image->probes.n && image->probes.v[lo].v < block->hi.v;
}

/* From functions' starts along all edges; the head counts as entered even if it is a fragment. */
static bool set_reachable(struct ovm_cfg_build *build, struct ovm_cfg *cfg)
{
	uint32_t *stack = ovm_alloc_array(cfg->n_blocks, sizeof(*stack));
	uint32_t n = 0;
	for (uint32_t p = 0; p < build->parts.n; p++) {
		uint32_t bb = build->parts.v[p].first_block;
		if (p && build->regions->v.v[build->parts.v[p].region].is_fragment)
			continue;
		if (has_probe(build->image, &cfg->blocks[bb]))
			continue;
		cfg->blocks[bb].flags |= OVM_BLOCK_REACHABLE;
		stack[n++] = bb;
	}
	bool is_any = n;
	while (n) {
		const struct ovm_block *block = &cfg->blocks[stack[--n]];
		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
			uint32_t dst = cfg->edges[e].dst;
			if (dst == OVM_NONE || (cfg->blocks[dst].flags & OVM_BLOCK_REACHABLE) ||
			    has_probe(build->image, &cfg->blocks[dst]))
				continue;
			cfg->blocks[dst].flags |= OVM_BLOCK_REACHABLE;
			stack[n++] = dst;
		}
	}
	free(stack);
	return is_any;
}

/* Move everything from the build's scratch vectors into one block; called first without the block,
 * to measure it. */
static size_t store(struct ovm_cfg_build *build, struct ovm_cfg *cfg)
{
	size_t used = 0;
	cfg->regions = take(cfg, &used, NULL, build->parts.n, sizeof(*cfg->regions));
	cfg->insns = take(cfg, &used, build->insns.v, build->insns.n, sizeof(*cfg->insns));
	cfg->blocks = take(cfg, &used, build->blocks.v, build->blocks.n, sizeof(*cfg->blocks));
	cfg->edges = take(cfg, &used, build->edges.v, build->edges.n, sizeof(*cfg->edges));
	cfg->tables = take(cfg, &used, build->tables.v, build->tables.n, sizeof(*cfg->tables));
	cfg->by_va = take(cfg, &used, build->by_va.v, build->blocks.n, sizeof(*cfg->by_va));
	cfg->first_pred =
	    take(cfg, &used, build->first_pred.v, build->blocks.n + 1u, sizeof(*cfg->first_pred));
	cfg->preds = take(cfg, &used, build->preds.v, build->preds.n, sizeof(*cfg->preds));
	for (uint32_t t = 0; t < build->tables.n; t++) {
		ovm_va *targets =
		    take(cfg, &used, NULL, build->tables.v[t].n_entries, sizeof(ovm_va));
		if (cfg->storage)
			cfg->tables[t].targets = targets;
	}
	return used;
}

static bool finish(struct ovm_cfg_build *build, struct ovm_cfg *cfg)
{
	cfg->storage = ovm_alloc(store(build, cfg));
	store(build, cfg);
	cfg->n_regions = build->parts.n;
	for (uint32_t p = 0; p < build->parts.n; p++)
		cfg->regions[p] = build->parts.v[p].region;
	for (uint32_t t = 0; t < cfg->n_tables; t++)
		ovm_jumptable_read(build->image, &cfg->tables[t], cfg->tables[t].targets);
	set_jump_flags(build, cfg);
	return set_reachable(build, cfg);
}

enum ovm_refusal ovm_cfg_build_group(struct ovm_cfg_build *build, uint32_t head,
				     struct ovm_cfg *cfg)
{
	enum ovm_refusal why;
	if (build->regions->v.v[head].is_plt)
		return OVM_REFUSE_PLT;
	if (ovm_group_add(build, head, &why))
		return why;
	ovm_group_close(build);
	if (settle(build, cfg))
		return OVM_REFUSE_TOO_BIG;
	if (!finish(build, cfg))
		return OVM_REFUSE_SDT;
	ovm_cfg_verify(cfg, build->regions);
	return OVM_REFUSE_NONE;
}

void ovm_cfg_free(struct ovm_cfg *cfg)
{
	if (!cfg)
		return;
	ovm_arena_free(&cfg->arena);
	free(cfg->storage);
	free(cfg);
}

/* --- questions --- */

uint32_t ovm_cfg_block_of(const struct ovm_cfg *cfg, ovm_va va)
{
	uint32_t lo = 0, hi = cfg->n_blocks;
	while (lo < hi) { /* first block that starts behind va */
		uint32_t mid = lo + (hi - lo) / 2;
		if (cfg->blocks[cfg->by_va[mid]].lo.v <= va.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo)
		return OVM_NONE;
	uint32_t bb = cfg->by_va[lo - 1];
	return va.v < cfg->blocks[bb].hi.v ? bb : OVM_NONE;
}

uint32_t ovm_cfg_block_at(const struct ovm_cfg *cfg, ovm_va va)
{
	uint32_t bb = ovm_cfg_block_of(cfg, va);
	return bb != OVM_NONE && cfg->blocks[bb].lo.v == va.v ? bb : OVM_NONE;
}

const struct ovm_insn *ovm_block_last(const struct ovm_cfg *cfg, uint32_t bb)
{
	return &cfg->insns[cfg->blocks[bb].first_insn + cfg->blocks[bb].n_insns - 1];
}
