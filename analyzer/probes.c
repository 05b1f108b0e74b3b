/* Which arcs get a counter, and where it stands.
 *
 *      EXT ══▶ A ══▶ B ──▶ EXT     6 arcs between the 4 nodes EXT, A, B, C. A spanning tree has
 *              │     ║      ▲      3, here those with most samples (══). The other 3 are counted:
 *              └───▶ C ─────┘      C->EXT in C, A->C and B->EXT on the edge itself
 *
 * A counter of a block is cheaper than one of an edge, which needs a piece of
 * code of its own:
 *
 *      source has one way out  ->  in the source
 *      target has one way in   ->  in the target
 *      neither                 ->  on the edge
 *
 * What cannot be counted (the way into a loop that starts at the function's
 * start; code where flags stay alive) must go on the tree and is given infinite
 * weight. Where that closes a cycle the arc stays unknown. Ties: edges before
 * blocks, since they are dearer to count; then the first.
 *
 * An entry patch leads behind endbr64, so no counter stands before one, and a
 * block of nothing else can neither be counted nor its way out.
 *
 * Jumps that share a table share its copy, so a counter on an entry counts all of them. Such a
 * table is a node of its own between the jumps and their targets; an interpreter with 200
 * dispatches has 400 arcs there and not 40,000:
 *
 *      jmp *%rax ──▶ ┌───────┐ ──▶ case 1
 *      jmp *%rax ──▶ │ table │ ──▶ case 2
 *      jmp *%rax ──▶ └───────┘ ──▶ case 3
 *
 * Reference: Knuth and Stevenson 1973, "Optimal measurement points for program
 * frequency counts". Cost: a few passes over the instructions, and a sort of
 * each graph's arcs.
 */
#include "analyzer/probes.h"
#include "analyzer/flagsdead.h"

#include <stdlib.h>
#include <string.h>

#define NOT_COUNTABLE (1ull << 63)

enum place { PLACE_NONE, PLACE_SRC, PLACE_DST, PLACE_EDGE };

struct way {		   /* what planning needs to know of an arc */
	uint64_t key;	   /* weight, and how dear it is to count: the larger, the better
			      on the tree */
	uint32_t arc;	   /* into out->arcs */
	uint32_t src, dst; /* blocks; OVM_NONE: EXT */
	uint32_t edge;	   /* OVM_NONE: not an edge of the cfg */
	uint32_t hub;	   /* node of a shared table, if it is one of the ends */
	uint8_t kind;	   /* enum ovm_arc_kind */
	uint8_t place;	   /* enum place */
};

struct rank {
	uint64_t key;
	uint32_t way;
};

struct planner {
	struct ovm_decoder *dec;
	const struct ovm_program *program;
	struct ovm_probes *out;
	uint8_t *is_target;    /* [all blocks]: another graph goes there */
	uint32_t *first_block; /* [cfgs.n]: of the cfg's blocks in is_target */
	/* of the graph at hand, arrays by block: */
	uint32_t cfg_idx;
	const struct ovm_cfg *cfg;
	const uint8_t *is_entered; /* from another graph */
	uint32_t ext;		   /* node; blocks' nodes follow */
	uint32_t *node;		   /* OVM_NONE: not reachable */
	uint32_t *n_in, *n_out;	   /* arcs */
	uint32_t *spot;		   /* where a counter of the block stands, OVM_NONE: nowhere */
	uint32_t *parent;	   /* by node - ext: union-find */
	uint32_t *shared;	   /* by table: the first one equal to it, OVM_NONE: no other is */
	uint32_t *hub;		   /* by table, at the first one: its node, OVM_NONE: not yet */
	OVM_VEC(struct way) ways;
	OVM_VEC(struct rank) order; /* of the ways with weight, for the tree */
};

static bool is_node(const struct planner *planner, uint32_t bb)
{
	return bb != OVM_NONE && planner->node[bb] != OVM_NONE;
}

/* --- where a block can be counted --- */

/* Emission leaves trailing nops out where control falls into the next block. */
static uint32_t end_without_nops(const struct ovm_cfg *cfg, const struct ovm_block *block)
{
	uint32_t n = block->n_insns;
	while (n > 1 && cfg->insns[block->first_insn + n - 1].kind == OVM_INSN_NOP)
		n--;
	return block->first_insn + n;
}

/* The first instruction from @from on, but before @end, at which the flags are
 * dead, given that they are written @ahead instructions behind @last and not
 * read in between. */
static uint32_t spot_before(const struct ovm_cfg *cfg, uint32_t from, uint32_t last, uint32_t end,
			    unsigned ahead)
{
	uint32_t reach = OVM_FLAGS_HORIZON - ahead;
	if (last - from > reach)
		from = last - reach;
	return from < end && cfg->insns[from].kind != OVM_INSN_SYSCALL ? from : OVM_NONE;
}

/* The first instruction of the block before which the flags are dead: so a
 * block that is left by a call that does not return is counted too. */
uint32_t ovm_probe_spot(struct ovm_decoder *dec, const struct ovm_image *image,
			const struct ovm_cfg *cfg, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	uint32_t from = block->first_insn, behind = block->first_insn + block->n_insns;
	uint32_t end = end_without_nops(cfg, block), spot = OVM_NONE;
	from += cfg->insns[from].op == OVM_OP_ENDBR;
	for (uint32_t i = from; i < behind && spot == OVM_NONE; i++) {
		enum ovm_flags_effect effect = ovm_flags_effect(&cfg->insns[i]);
		if (effect == OVM_FLAGS_WRITTEN)
			spot = spot_before(cfg, from, i, end, 1);
		if (effect != OVM_FLAGS_KEPT)
			from = i + 1;
	}
	if (spot != OVM_NONE || from >= end)
		return spot;
	const struct ovm_insn *last = &cfg->insns[behind - 1];
	ovm_va next = last->kind == OVM_INSN_JMP ? last->target : block->hi;
	unsigned ahead = ovm_flags_distance(dec, image, cfg, next, OVM_FLAGS_HORIZON - 1);
	return ahead ? spot_before(cfg, from, behind - 1, end, ahead + 1) : OVM_NONE;
}

/* --- arcs --- */

/* As the rewriter does it: such a table is not copied, its jump leads to the
 * original. */
static bool leaves_by_table(const struct planner *planner, uint32_t bb)
{
	const struct ovm_cfg *cfg = planner->cfg;
	uint32_t idx = cfg->blocks[bb].table;
	if (idx == OVM_NONE)
		return false;
	const struct ovm_jumptable *table = &cfg->tables[idx];
	return !is_node(planner, ovm_cfg_block_of(cfg, cfg->insns[table->load_insn].va));
}

static void add_arc(struct planner *planner, struct way way, ovm_va from, ovm_va to,
		    uint64_t weight)
{
	bool has_src = is_node(planner, way.src), has_dst = is_node(planner, way.dst);
	struct ovm_arc arc = {.from = from, .to = to, .counter = OVM_NONE};
	arc.src = has_src ? planner->node[way.src] : planner->ext;
	arc.dst = has_dst ? planner->node[way.dst] : planner->ext;
	arc.kind = way.kind;
	if (way.kind == OVM_ARC_TO_TABLE)
		arc.dst = way.hub;
	else if (way.kind == OVM_ARC_FROM_TABLE)
		arc.src = way.hub;
	way.src = has_src ? way.src : OVM_NONE;
	way.dst = has_dst ? way.dst : OVM_NONE;
	if (has_src)
		planner->n_out[way.src]++;
	if (has_dst)
		planner->n_in[way.dst]++;
	way.arc = planner->out->arcs.n;
	way.key = weight < NOT_COUNTABLE / 2 ? weight * 2 : NOT_COUNTABLE - 2;
	ovm_vec_push(&planner->out->arcs, arc);
	ovm_vec_push(&planner->ways, way);
}

static bool is_same_table(const struct ovm_jumptable *a, const struct ovm_jumptable *b)
{
	return a->table.v == b->table.v && a->base.v == b->base.v && a->n_entries == b->n_entries &&
	       a->entry_size == b->entry_size;
}

static void find_shared_tables(struct planner *planner)
{
	const struct ovm_cfg *cfg = planner->cfg;
	memset(planner->shared, 0xff, cfg->n_tables * sizeof(*planner->shared));
	memset(planner->hub, 0xff, cfg->n_tables * sizeof(*planner->hub));
	for (uint32_t i = 0; i < cfg->n_tables; i++) {
		if (planner->shared[i] != OVM_NONE)
			continue;
		for (uint32_t k = i + 1; k < cfg->n_tables; k++)
			if (is_same_table(&cfg->tables[i], &cfg->tables[k]))
				planner->shared[i] = planner->shared[k] = i;
	}
}

/* Executions of all jumps through the table of @bb to target number @k. */
static uint64_t table_weight(const struct planner *planner, uint32_t bb, uint32_t k)
{
	const struct ovm_cfg *cfg = planner->cfg;
	uint32_t first = planner->shared[cfg->blocks[bb].table];
	uint64_t sum = 0;
	for (uint32_t t = first; t < cfg->n_tables; t++) {
		if (planner->shared[t] != first)
			continue;
		uint32_t jump = ovm_cfg_block_of(cfg, cfg->insns[cfg->tables[t].jump_insn].va);
		const struct ovm_block *block = &cfg->blocks[jump];
		uint64_t count = k < block->n_edges ? cfg->edges[block->first_edge + k].count : 0;
		sum = count > UINT64_MAX - sum ? UINT64_MAX : sum + count;
	}
	return sum;
}

/* From the jump to the table; from there on for the first jump only, whose edges stand for those of
 * all: the rewriter looks there too. */
static void add_shared_ways(struct planner *planner, uint32_t bb)
{
	const struct ovm_cfg *cfg = planner->cfg;
	const struct ovm_block *block = &cfg->blocks[bb];
	ovm_va table = cfg->tables[block->table].table;
	uint32_t *hub = &planner->hub[planner->shared[block->table]];
	bool is_first = *hub == OVM_NONE;
	if (is_first)
		*hub = planner->out->n_nodes++;
	add_arc(planner,
		(struct way){.src = bb,
			     .dst = OVM_NONE,
			     .edge = OVM_NONE,
			     .hub = *hub,
			     .kind = OVM_ARC_TO_TABLE},
		ovm_block_last(cfg, bb)->va, table, block->count);
	for (uint32_t k = 0; is_first && k < block->n_edges; k++) {
		const struct ovm_edge *edge = &cfg->edges[block->first_edge + k];
		add_arc(planner,
			(struct way){.src = OVM_NONE,
				     .dst = edge->dst,
				     .edge = block->first_edge + k,
				     .hub = *hub,
				     .kind = OVM_ARC_FROM_TABLE},
			table, edge->to, table_weight(planner, bb, k));
	}
}

static void add_ways_out(struct planner *planner, uint32_t bb)
{
	const struct ovm_cfg *cfg = planner->cfg;
	const struct ovm_block *block = &cfg->blocks[bb];
	ovm_va from = ovm_block_last(cfg, bb)->va;
	if (!block->n_edges || leaves_by_table(planner, bb)) {
		add_arc(planner, (struct way){.src = bb, .dst = OVM_NONE, .edge = OVM_NONE}, from,
			ovm_va_of(0), block->count);
		return;
	}
	if (block->table != OVM_NONE && planner->shared[block->table] != OVM_NONE) {
		add_shared_ways(planner, bb);
		return;
	}
	for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++)
		add_arc(planner, (struct way){.src = bb, .dst = cfg->edges[e].dst, .edge = e}, from,
			cfg->edges[e].to, cfg->edges[e].count);
}

static bool is_entry(const struct planner *planner, uint32_t bb)
{
	const struct ovm_block *block = &planner->cfg->blocks[bb];
	bool is_fragment = planner->program->regions->v.v[block->region].is_fragment;
	return !planner->n_in[bb] || planner->is_entered[bb] ||
	       (block->flags & OVM_BLOCK_LANDING_PAD) ||
	       ((block->flags & OVM_BLOCK_REGION_START) &&
		(!is_fragment || block->region == planner->cfg->regions[0]));
}

/* One pass over the code: where blocks can be counted is found on the way. */
static void add_arcs(struct planner *planner)
{
	const struct ovm_cfg *cfg = planner->cfg;
	planner->ways.n = 0;
	find_shared_tables(planner);
	ovm_cfg_foreach_bb (cfg, bb)
		if (is_node(planner, bb)) {
			planner->spot[bb] =
			    ovm_probe_spot(planner->dec, planner->program->image, planner->cfg, bb);
			add_ways_out(planner, bb);
		}
	ovm_cfg_foreach_bb (cfg, bb)
		if (is_node(planner, bb) && is_entry(planner, bb))
			add_arc(planner, (struct way){.src = OVM_NONE, .dst = bb, .edge = OVM_NONE},
				ovm_va_of(0), cfg->blocks[bb].lo, cfg->blocks[bb].count);
}

/* --- how each arc would be counted --- */

static bool is_only_endbr(const struct ovm_cfg *cfg, uint32_t bb)
{
	return cfg->blocks[bb].n_insns == 1 && ovm_block_last(cfg, bb)->op == OVM_OP_ENDBR;
}

/* May code of its own stand on @edge, and count it and nothing else? */
static bool is_edge_countable(const struct planner *planner, const struct ovm_edge *edge)
{
	const struct ovm_cfg *cfg = planner->cfg;
	const struct ovm_block *src = &cfg->blocks[edge->src];
	if (is_only_endbr(cfg, edge->src))
		return false;
	if (edge->kind == OVM_EDGE_TABLE) /* entries copied too generously lead anywhere */
		return src->table != OVM_NONE && edge->dst != OVM_NONE;
	for (uint32_t e = src->first_edge; e < src->first_edge + src->n_edges; e++)
		if (&cfg->edges[e] != edge && cfg->edges[e].to.v == edge->to.v)
			return false;
	return true;
}

static bool is_dead_at_target(const struct planner *planner, const struct ovm_edge *edge)
{
	uint32_t dst = edge->dst;
	if (is_node(planner, dst) && planner->spot[dst] == planner->cfg->blocks[dst].first_insn)
		return true;
	return ovm_flags_distance(planner->dec, planner->program->image, planner->cfg, edge->to,
				  OVM_FLAGS_HORIZON) != 0;
}

static enum place place_of(const struct planner *planner, const struct way *way)
{
	const struct ovm_edge *edge =
	    way->edge == OVM_NONE ? NULL : &planner->cfg->edges[way->edge];
	if (way->src != OVM_NONE && planner->n_out[way->src] == 1 &&
	    planner->spot[way->src] != OVM_NONE)
		return PLACE_SRC;
	if (way->dst != OVM_NONE && planner->n_in[way->dst] == 1 &&
	    planner->spot[way->dst] != OVM_NONE)
		return PLACE_DST;
	if (edge && is_edge_countable(planner, edge) && is_dead_at_target(planner, edge))
		return PLACE_EDGE;
	return PLACE_NONE;
}

static void place_all(struct planner *planner)
{
	for (uint32_t i = 0; i < planner->ways.n; i++) {
		struct way *way = &planner->ways.v[i];
		way->place = (uint8_t)place_of(planner, way);
		if (way->place == PLACE_NONE)
			way->key |= NOT_COUNTABLE;
		else if (way->place == PLACE_EDGE)
			way->key |= 1;
	}
}

/* --- the tree --- */

static int by_key(const void *a, const void *b)
{
	const struct rank *x = a, *y = b;
	if (x->key != y->key)
		return x->key < y->key ? 1 : -1;
	return x->way < y->way ? -1 : x->way > y->way;
}

static uint32_t root_of(struct planner *planner, uint32_t node)
{
	uint32_t *parent = planner->parent;
	uint32_t at = node - planner->ext;
	while (parent[at] != at) {
		parent[at] = parent[parent[at]];
		at = parent[at];
	}
	return at;
}

static void join(struct planner *planner, const struct way *way)
{
	struct ovm_arc *arc = &planner->out->arcs.v[way->arc];
	uint32_t src = root_of(planner, arc->src), dst = root_of(planner, arc->dst);
	arc->on_tree = src != dst;
	planner->parent[src] = dst;
}

/* Kruskal's. Most arcs of a sampled graph have no weight: these need no
 * sorting. */
static void choose_tree(struct planner *planner)
{
	for (uint32_t n = 0; n < planner->out->n_nodes - planner->ext; n++)
		planner->parent[n] = n;
	planner->order.n = 0;
	for (uint32_t i = 0; i < planner->ways.n; i++)
		if (planner->ways.v[i].key > 1)
			ovm_vec_push(&planner->order, (struct rank){planner->ways.v[i].key, i});
	if (planner->order.n)
		qsort(planner->order.v, planner->order.n, sizeof(*planner->order.v), by_key);
	for (uint32_t i = 0; i < planner->order.n; i++)
		join(planner, &planner->ways.v[planner->order.v[i].way]);
	for (uint64_t key = 2; key-- > 0;)
		for (uint32_t i = 0; i < planner->ways.n; i++)
			if (planner->ways.v[i].key == key)
				join(planner, &planner->ways.v[i]);
}

/* --- the counters --- */

static int by_position(const void *a, const void *b)
{
	const struct ovm_probe *x = a, *y = b;
	if (x->block != y->block)
		return x->block < y->block ? -1 : 1;
	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	return x->edge < y->edge ? -1 : x->edge > y->edge;
}

/* A probe for each arc that needs one, its arc in `counter`. */
static void add_probes(struct planner *planner)
{
	for (uint32_t i = 0; i < planner->ways.n; i++) {
		const struct way *way = &planner->ways.v[i];
		struct ovm_probe probe = {.cfg = planner->cfg_idx,
					  .insn = OVM_NONE,
					  .edge = OVM_NONE,
					  .counter = way->arc};
		if (planner->out->arcs.v[way->arc].on_tree || way->place == PLACE_NONE)
			continue;
		probe.kind = way->place == PLACE_EDGE ? OVM_PROBE_EDGE : OVM_PROBE_BLOCK;
		probe.block = way->place == PLACE_DST ? way->dst : way->src;
		if (probe.kind == OVM_PROBE_EDGE) {
			probe.edge = way->edge;
			probe.block = planner->cfg->edges[way->edge].src;
		} else {
			probe.insn = planner->spot[probe.block];
		}
		ovm_vec_push(&planner->out->v, probe);
	}
}

/* Counters in the order of the code, so that those of a path share cache lines.
 * Arcs that are both counted in one block share its counter. */
static void number_counters(struct planner *planner, uint32_t first)
{
	struct ovm_probes *out = planner->out;
	uint32_t n = first;
	if (out->v.n > first)
		qsort(out->v.v + first, out->v.n - first, sizeof(*out->v.v), by_position);
	for (uint32_t i = first; i < out->v.n; i++) {
		struct ovm_probe probe = out->v.v[i];
		const struct ovm_probe *before = n > first ? &out->v.v[n - 1] : NULL;
		bool is_same = before && probe.kind == OVM_PROBE_BLOCK &&
			       before->kind == OVM_PROBE_BLOCK && before->block == probe.block;
		uint32_t counter = is_same ? before->counter : out->n_counters++;
		out->arcs.v[probe.counter].counter = counter;
		probe.counter = counter;
		if (!is_same)
			out->v.v[n++] = probe;
	}
	out->v.n = n;
}

/* --- all graphs --- */

static void number_nodes(struct planner *planner)
{
	struct ovm_probes *out = planner->out;
	planner->ext = out->n_nodes++;
	ovm_cfg_foreach_bb (planner->cfg, bb) {
		bool is_reachable = planner->cfg->blocks[bb].flags & OVM_BLOCK_REACHABLE;
		planner->node[bb] = is_reachable ? out->n_nodes++ : OVM_NONE;
		planner->n_in[bb] = planner->n_out[bb] = 0;
	}
}

static void plan_cfg(struct planner *planner, uint32_t idx)
{
	uint32_t first = planner->out->v.n;
	planner->cfg_idx = idx;
	planner->cfg = planner->program->cfgs.v[idx];
	planner->is_entered = planner->is_target + planner->first_block[idx];
	number_nodes(planner);
	add_arcs(planner);
	place_all(planner);
	choose_tree(planner);
	add_probes(planner);
	number_counters(planner, first);
}

/* Copies of graphs are linked to each other, also into the middle. */
static void mark_target(struct planner *planner, ovm_va to)
{
	const struct ovm_program *program = planner->program;
	uint32_t region = ovm_region_find(program->regions, to);
	uint32_t idx = region == OVM_NONE ? OVM_NONE : program->cfg_of_region[region];
	if (idx == OVM_NONE || !program->cfgs.v[idx])
		return;
	uint32_t bb = ovm_cfg_block_at(program->cfgs.v[idx], to);
	if (bb != OVM_NONE)
		planner->is_target[planner->first_block[idx] + bb] = 1;
}

static void mark_targets(struct planner *planner)
{
	for (uint32_t c = 0; c < planner->program->cfgs.n; c++) {
		const struct ovm_cfg *cfg = planner->program->cfgs.v[c];
		for (uint32_t e = 0; cfg && e < cfg->n_edges; e++)
			if (cfg->edges[e].dst == OVM_NONE)
				mark_target(planner, cfg->edges[e].to);
	}
}

static void planner_init(struct planner *planner)
{
	const struct ovm_program *program = planner->program;
	uint32_t n = 0, n_edges = 0, most = 1, most_tables = 1;
	planner->first_block = ovm_alloc_array(program->cfgs.n + 1u, sizeof(uint32_t));
	for (uint32_t c = 0; c < program->cfgs.n; c++) {
		const struct ovm_cfg *cfg = program->cfgs.v[c];
		planner->first_block[c] = n;
		if (!cfg)
			continue;
		n += cfg->n_blocks;
		n_edges += cfg->n_edges;
		most = cfg->n_blocks > most ? cfg->n_blocks : most;
		most_tables = cfg->n_tables > most_tables ? cfg->n_tables : most_tables;
	}
	ovm_vec_reserve(&planner->out->arcs, n_edges + n);
	planner->is_target = ovm_alloc(n + 1u);
	planner->node = ovm_alloc_array(most, sizeof(uint32_t));
	planner->n_in = ovm_alloc_array(most, sizeof(uint32_t));
	planner->n_out = ovm_alloc_array(most, sizeof(uint32_t));
	planner->spot = ovm_alloc_array(most, sizeof(uint32_t));
	planner->parent = ovm_alloc_array(most + most_tables + 1ull, sizeof(uint32_t));
	planner->shared = ovm_alloc_array(most_tables, sizeof(uint32_t));
	planner->hub = ovm_alloc_array(most_tables, sizeof(uint32_t));
}

static void planner_fini(struct planner *planner)
{
	ovm_vec_free(&planner->order);
	ovm_vec_free(&planner->ways);
	free(planner->hub);
	free(planner->shared);
	free(planner->parent);
	free(planner->spot);
	free(planner->n_out);
	free(planner->n_in);
	free(planner->node);
	free(planner->is_target);
	free(planner->first_block);
}

void ovm_probes_build(struct ovm_decoder *dec, const struct ovm_program *program,
		      struct ovm_probes *out)
{
	struct planner planner = {.dec = dec, .program = program, .out = out};
	*out = (struct ovm_probes){0};
	planner_init(&planner);
	mark_targets(&planner);
	for (uint32_t c = 0; c < program->cfgs.n; c++)
		if (program->cfgs.v[c])
			plan_cfg(&planner, c);
	planner_fini(&planner);
}

void ovm_probes_fini(struct ovm_probes *probes)
{
	if (!probes)
		return;
	ovm_vec_free(&probes->v);
	ovm_vec_free(&probes->arcs);
	probes->n_nodes = probes->n_counters = 0;
}
