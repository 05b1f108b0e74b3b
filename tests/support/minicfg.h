#ifndef OVM_TEST_MINICFG_H
#define OVM_TEST_MINICFG_H
/* A program of hand-made graphs over code assembled into the test itself: no ELF file, no cfg.c.
 * Each region becomes one cfg; leaders are given, edges follow from the last instruction of each
 * block. */
#include "analyzer/program.h"
#include "rewriter/overlay.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

enum { MINI_VA = 0x401000, MINI_MAX = 8 };

struct mini {
	struct ovm_ctx ctx;
	struct ovm_decoder *dec;
	struct ovm_image image;
	struct ovm_regions regions;
	struct ovm_program program;
	struct ovm_layout layout;
	const char *start;
};

static inline ovm_va mini_va(const struct mini *m, const char *label)
{
	return ovm_va_of(MINI_VA + (uint64_t)(label - m->start));
}

static inline void mini_open(struct mini *m, const char *start, const char *end)
{
	memset(m, 0, sizeof(*m));
	ovm_ctx_init(&m->ctx);
	OVM_ASSERT(ovm_decoder_open(&m->ctx, &m->dec) == 0);
	m->start = start;
	m->image.bytes = (const uint8_t *)start;
	m->image.size = (size_t)(end - start);
	m->image.lo = ovm_va_of(MINI_VA);
	m->image.hi = ovm_va_of(MINI_VA + m->image.size);
	ovm_vec_push(
	    &m->image.segments,
	    (struct ovm_segment){m->image.lo, m->image.hi, {0}, m->image.size, PF_R | PF_X});
	ovm_cfi_init(&m->regions.cfi);
	struct ovm_cfi_row row = {.cfa_reg = 7, .cfa_off = 8};
	row.reg[16] = (struct ovm_cfi_rule){.kind = OVM_CFI_OFFSET, .off = -8};
	struct ovm_cie cie = {.code_align = 1,
			      .data_align = -8,
			      .ra_reg = 16,
			      .fde_enc = 0x1b,
			      .lsda_enc = 0xff,
			      .personality_enc = 0xff};
	cie.initial_row = ovm_cfi_intern(&m->regions.cfi, &row);
	ovm_vec_push(&m->regions.cfi.cies, cie);
	m->program.image = &m->image;
	m->program.regions = &m->regions;
	m->program.cfg_of_region = ovm_alloc_array(MINI_MAX, sizeof(uint32_t));
}

static inline void mini_edge(struct ovm_cfg *cfg, uint32_t src, ovm_va to, enum ovm_edge_kind kind)
{
	cfg->edges[cfg->n_edges] = (struct ovm_edge){src, OVM_NONE, to, (uint8_t)kind, 1};
	for (uint32_t b = 0; b < cfg->n_blocks; b++)
		if (cfg->blocks[b].lo.v == to.v)
			cfg->edges[cfg->n_edges].dst = b;
	cfg->blocks[src].n_edges++;
	cfg->n_edges++;
}

static inline void mini_edges(struct ovm_cfg *cfg)
{
	cfg->edges = ovm_alloc_array(cfg->n_blocks * 2, sizeof(*cfg->edges));
	for (uint32_t b = 0; b < cfg->n_blocks; b++) {
		const struct ovm_insn *last = ovm_block_last(cfg, b);
		cfg->blocks[b].first_edge = cfg->n_edges;
		if (!ovm_insn_is_end(last))
			mini_edge(cfg, b, cfg->blocks[b].hi, OVM_EDGE_FALL);
		if (last->kind == OVM_INSN_JMP || last->kind == OVM_INSN_JCC ||
		    last->kind == OVM_INSN_JCXZ)
			mini_edge(cfg, b, last->target, OVM_EDGE_TAKEN);
	}
}

/* Region [lo, hi) as one cfg with blocks that start at the @n @leaders (ascending, leaders[0] ==
 * lo). */
static inline struct ovm_cfg *mini_region(struct mini *m, const char *lo, const char *hi,
					  const char *const *leaders, uint32_t n)
{
	struct ovm_cfg *cfg = ovm_alloc(sizeof(*cfg));
	ovm_insns insns = {0};
	enum ovm_refusal why = OVM_REFUSE_NONE;
	uint32_t region = m->regions.v.n;
	OVM_ASSERT(region < MINI_MAX);
	OVM_ASSERT(
	    ovm_decode_range(m->dec, &m->image, mini_va(m, lo), mini_va(m, hi), &insns, &why) == 0);
	cfg->insns = insns.v;
	cfg->n_insns = insns.n;
	cfg->regions = ovm_alloc(sizeof(uint32_t));
	cfg->regions[0] = region;
	cfg->n_regions = 1;
	cfg->n_blocks = n;
	cfg->blocks = ovm_alloc_array(n, sizeof(*cfg->blocks));
	cfg->by_va = ovm_alloc_array(n, sizeof(*cfg->by_va));
	uint32_t at = 0;
	for (uint32_t b = 0; b < n; b++) {
		struct ovm_block *block = &cfg->blocks[b];
		*block = (struct ovm_block){.lo = mini_va(m, leaders[b]),
					    .region = region,
					    .table = OVM_NONE,
					    .flags = OVM_BLOCK_REACHABLE,
					    .count = 1};
		block->hi = mini_va(m, b + 1 < n ? leaders[b + 1] : hi);
		block->first_insn = at;
		while (at < insns.n && insns.v[at].va.v < block->hi.v)
			at++;
		block->n_insns = at - block->first_insn;
		cfg->by_va[b] = b;
	}
	mini_edges(cfg);
	ovm_vec_push(&m->regions.v,
		     (struct ovm_region){.lo = mini_va(m, lo), .hi = mini_va(m, hi)});
	m->program.cfg_of_region[region] = m->program.cfgs.n;
	ovm_vec_push(&m->program.cfgs, cfg);
	return cfg;
}

static inline void mini_slot(struct mini *m, uint32_t cfg, uint32_t block, uint16_t align)
{
	ovm_vec_push(
	    &m->layout.slots,
	    (struct ovm_slot){.cfg = cfg, .block = block, .align = align, .max_pad = align});
	m->layout.n_hot = m->layout.slots.n;
}

static inline void mini_close(struct mini *m)
{
	for (uint32_t c = 0; c < m->program.cfgs.n; c++) {
		struct ovm_cfg *cfg = m->program.cfgs.v[c];
		free(cfg->insns);
		free(cfg->regions);
		free(cfg->blocks);
		free(cfg->by_va);
		free(cfg->edges);
		free(cfg->tables);
		free(cfg);
	}
	ovm_vec_free(&m->program.cfgs);
	ovm_vec_free(&m->program.xrefs);
	free(m->program.cfg_of_region);
	ovm_vec_free(&m->layout.slots);
	ovm_vec_free(&m->image.segments);
	ovm_vec_free(&m->regions.v);
	ovm_cfi_fini(&m->regions.cfi);
	ovm_decoder_close(m->dec);
}

#endif
