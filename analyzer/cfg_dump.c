/* The graph as stable text for people and golden tests, and its invariants. */
#include "analyzer/cfg.h"

#include <inttypes.h>
#include <stdio.h>

/* --- verify --- */

static void verify_insns(const struct ovm_cfg *cfg, const struct ovm_block *block)
{
	ovm_va at = block->lo;
	for (uint32_t i = block->first_insn; i < block->first_insn + block->n_insns; i++) {
		const struct ovm_insn *insn = &cfg->insns[i];
		bool is_last = i + 1 == block->first_insn + block->n_insns;
		OVM_ASSERT(insn->va.v == at.v && insn->len >= 1 && insn->len <= 15);
		OVM_ASSERT(is_last || (!ovm_insn_is_end(insn) && insn->kind != OVM_INSN_JCC &&
				       insn->kind != OVM_INSN_JCXZ));
		OVM_ASSERT(insn->kind != OVM_INSN_REFUSE);
		at = ovm_va_add(at, insn->len);
	}
	OVM_ASSERT(at.v == block->hi.v);
}

static void verify_edges(const struct ovm_cfg *cfg, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++) {
		const struct ovm_edge *edge = &cfg->edges[e];
		OVM_ASSERT(edge->src == bb);
		OVM_ASSERT(edge->dst == OVM_NONE || edge->dst < cfg->n_blocks);
		OVM_ASSERT(edge->dst == OVM_NONE || cfg->blocks[edge->dst].lo.v == edge->to.v);
		OVM_ASSERT((edge->kind == OVM_EDGE_TABLE) == (block->table != OVM_NONE));
		if (edge->kind == OVM_EDGE_FALL) {
			OVM_ASSERT(e == block->first_edge && edge->to.v == block->hi.v);
			OVM_ASSERT(edge->dst == OVM_NONE || edge->dst == bb + 1 ||
				   cfg->blocks[edge->dst].region != block->region);
		}
		if (edge->kind == OVM_EDGE_TABLE && e > block->first_edge)
			OVM_ASSERT(cfg->edges[e - 1].to.v < edge->to.v);
	}
}

static void verify_tables(const struct ovm_cfg *cfg, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	if (block->table == OVM_NONE)
		return;
	OVM_ASSERT(block->table < cfg->n_tables);
	const struct ovm_jumptable *table = &cfg->tables[block->table];
	OVM_ASSERT(table->jump_insn == block->first_insn + block->n_insns - 1);
	OVM_ASSERT(cfg->insns[table->jump_insn].kind == OVM_INSN_JMP_IND);
	OVM_ASSERT(table->load_insn < cfg->n_insns &&
		   ovm_insn_has_mem(&cfg->insns[table->load_insn]));
	OVM_ASSERT(table->n_entries >= 1 && table->targets);
	OVM_ASSERT(table->entry_size == 4 || table->entry_size == 8);
}

static void verify_preds(const struct ovm_cfg *cfg)
{
	uint32_t n = 0;
	OVM_ASSERT(cfg->first_pred[0] == 0);
	ovm_cfg_foreach_bb (cfg, bb) {
		OVM_ASSERT(cfg->first_pred[bb] <= cfg->first_pred[bb + 1]);
		for (uint32_t p = cfg->first_pred[bb]; p < cfg->first_pred[bb + 1]; p++)
			OVM_ASSERT(cfg->preds[p] < cfg->n_edges &&
				   cfg->edges[cfg->preds[p]].dst == bb);
	}
	for (uint32_t e = 0; e < cfg->n_edges; e++)
		n += cfg->edges[e].dst != OVM_NONE;
	OVM_ASSERT(n == cfg->first_pred[cfg->n_blocks]);
}

void ovm_cfg_verify(const struct ovm_cfg *cfg, const struct ovm_regions *regions)
{
	uint32_t part = OVM_NONE, insn = 0, edge = 0;
	OVM_ASSERT(cfg->n_regions >= 1 && cfg->n_blocks >= 1);
	ovm_cfg_foreach_bb (cfg, bb) {
		const struct ovm_block *block = &cfg->blocks[bb];
		bool is_start = bb == 0 || cfg->blocks[bb - 1].region != block->region;
		part += is_start;
		OVM_ASSERT(part < cfg->n_regions && cfg->regions[part] == block->region &&
			   block->region < regions->v.n);
		OVM_ASSERT(is_start == ((block->flags & OVM_BLOCK_REGION_START) != 0));
		OVM_ASSERT(block->lo.v == (is_start ? regions->v.v[block->region].lo.v
						    : cfg->blocks[bb - 1].hi.v));
		OVM_ASSERT(!is_start || !bb ||
			   cfg->blocks[bb - 1].hi.v == regions->v.v[cfg->regions[part - 1]].hi.v);
		OVM_ASSERT(block->first_insn == insn && block->n_insns >= 1 &&
			   block->first_edge == edge);
		insn += block->n_insns;
		edge += block->n_edges;
		OVM_ASSERT(insn <= cfg->n_insns && edge <= cfg->n_edges);
		verify_insns(cfg, block);
		verify_edges(cfg, bb);
		verify_tables(cfg, bb);
	}
	OVM_ASSERT(part == cfg->n_regions - 1 && insn == cfg->n_insns && edge == cfg->n_edges);
	OVM_ASSERT(cfg->blocks[cfg->n_blocks - 1].hi.v == regions->v.v[cfg->regions[part]].hi.v);
	for (uint32_t i = 1; i < cfg->n_blocks; i++)
		OVM_ASSERT(cfg->blocks[cfg->by_va[i - 1]].hi.v <= cfg->blocks[cfg->by_va[i]].lo.v);
	verify_preds(cfg);
}

/* --- dump --- */

static void dump_flags(uint32_t flags, FILE *to)
{
	static const char *const names[] = {"start",	 "pad",		 "table-target",
					    "reachable", "unknown-jump", "tail-call"};
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (flags >> i & 1)
			fprintf(to, " %s", names[i]);
}

static void dump_table(const struct ovm_cfg *cfg, const struct ovm_jumptable *table, FILE *to)
{
	static const char *const bounds[] = {"cmp", "mask", "width", "copy"};
	fprintf(to,
		"    table 0x%" PRIx64 " base 0x%" PRIx64
		" %u x %u bytes, bound %s, load 0x%" PRIx64 "\n",
		table->table.v, table->base.v, table->n_entries, table->entry_size,
		bounds[table->bound & 3], cfg->insns[table->load_insn].va.v);
}

static void dump_edge(const struct ovm_edge *edge, FILE *to)
{
	static const char *const kinds[] = {"fall", "taken", "table"};
	if (edge->dst != OVM_NONE)
		fprintf(to, "    -> bb%u %s", edge->dst, kinds[edge->kind]);
	else
		fprintf(to, "    -> 0x%" PRIx64 " %s", edge->to.v, kinds[edge->kind]);
	if (edge->count)
		fprintf(to, " %" PRIu64, edge->count);
	fputc('\n', to);
}

void ovm_cfg_dump(const struct ovm_image *image, const struct ovm_cfg *cfg, FILE *to)
{
	char name[256];
	fprintf(to, "cfg %s: %u regions, %u blocks, %u insns, %u tables, %u unknown jumps%s\n",
		ovm_region_name(image, cfg->blocks[0].lo, name, sizeof(name)), cfg->n_regions,
		cfg->n_blocks, cfg->n_insns, cfg->n_tables, cfg->n_unknown_jumps,
		cfg->has_unseen_entries ? ", unseen entries" : "");
	ovm_cfg_foreach_bb (cfg, bb) {
		const struct ovm_block *block = &cfg->blocks[bb];
		if (block->flags & OVM_BLOCK_REGION_START)
			fprintf(to, "  region %s\n",
				ovm_region_name(image, block->lo, name, sizeof(name)));
		fprintf(to, "  bb%u [0x%" PRIx64 ", 0x%" PRIx64 ") %u insns", bb, block->lo.v,
			block->hi.v, block->n_insns);
		dump_flags(block->flags, to);
		fputc('\n', to);
		if (block->table != OVM_NONE)
			dump_table(cfg, &cfg->tables[block->table], to);
		for (uint32_t e = block->first_edge; e < block->first_edge + block->n_edges; e++)
			dump_edge(&cfg->edges[e], to);
	}
}
