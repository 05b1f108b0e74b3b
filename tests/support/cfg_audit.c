/* Developer's tool: build the graphs of all regions of the files given and count indirect jumps by
 * class.
 *
 *   cfg_audit [-u] [-a ADDR] FILE...     -u: list the unknown jumps; -a: dump the graph of the
 * region at ADDR
 */
#include "analyzer/cfg.h"
#include "analyzer/liveness.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct counts {
	uint64_t cfgs, parts, insns, blocks, edges, tail, unknown, unseen, bounds[4], hoisted,
	    entries;
};

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void show_jump(const char *what, struct ovm_decoder *dec, const struct ovm_image *image,
		      const struct ovm_cfg *cfg, uint32_t bb)
{
	const struct ovm_block *block = &cfg->blocks[bb];
	uint32_t last = block->first_insn + block->n_insns - 1, first = last > 14 ? last - 14 : 0;
	char text[128];
	printf("%s at %#lx (region %#lx)%s\n", what, (unsigned long)cfg->insns[last].va.v,
	       (unsigned long)cfg->blocks[0].lo.v, cfg->has_unseen_entries ? " unseen" : "");
	for (uint32_t i = first; i <= last; i++) {
		const uint8_t *p = ovm_image_at(image, cfg->insns[i].va, cfg->insns[i].len);
		printf("    %s%lx: %s\n", i == block->first_insn ? "> " : "  ",
		       (unsigned long)cfg->insns[i].va.v,
		       ovm_decoder_text(dec, p, cfg->insns[i].len, cfg->insns[i].va, text,
					sizeof(text)));
	}
}

static void count(struct counts *c, const struct ovm_cfg *cfg)
{
	c->cfgs++;
	c->parts += cfg->n_regions;
	c->insns += cfg->n_insns;
	c->blocks += cfg->n_blocks;
	c->edges += cfg->n_edges;
	c->unknown += cfg->n_unknown_jumps;
	c->unseen += cfg->has_unseen_entries;
	ovm_cfg_foreach_bb (cfg, bb)
		c->tail += (cfg->blocks[bb].flags & OVM_BLOCK_TAIL_CALL) != 0;
	for (uint32_t t = 0; t < cfg->n_tables; t++) {
		c->bounds[cfg->tables[t].bound]++;
		c->entries += cfg->tables[t].n_entries;
	}
}

static void audit(struct ovm_ctx *ctx, struct ovm_decoder *dec, const char *path, int mode,
		  uint64_t addr)
{
	struct ovm_image *image;
	struct ovm_regions regions = {0};
	struct counts c = {0};
	double t = 0, t_max = 0;
	uint32_t max_region = 0;
	if (ovm_image_open(ctx, path, &image) != 0 ||
	    ovm_regions_build(ctx, image, &regions) != 0) {
		printf("%s: %s\n", path, ctx->msg);
		return;
	}
	uint8_t *taken = ovm_alloc(regions.v.n);
	for (uint32_t pass = 0; pass < 2; pass++)
		for (uint32_t r = 0; r < regions.v.n; r++) {
			struct ovm_cfg *cfg;
			if (taken[r] || regions.v.v[r].is_fragment != (pass == 1))
				continue;
			if (addr &&
			    !ovm_va_in(ovm_va_of(addr), regions.v.v[r].lo, regions.v.v[r].hi))
				continue;
			double t0 = now();
			int err = ovm_cfg_build(ctx, dec, image, &regions, r, &cfg);
			double dt = now() - t0;
			t += dt;
			if (dt > t_max)
				t_max = dt, max_region = r;
			if (err)
				continue;
			for (uint32_t i = 0; i < cfg->n_regions; i++) {
				taken[cfg->regions[i]] = 1;
				regions.v.v[cfg->regions[i]].refused = OVM_REFUSE_OVERLAP;
			}
			ovm_cfg_verify(cfg, &regions);
			count(&c, cfg);
			if (addr)
				ovm_cfg_dump(image, cfg, stdout);
			if (mode == 'u' || mode == 'c')
				ovm_cfg_foreach_bb (cfg, bb) {
					if (mode == 'u' &&
					    (cfg->blocks[bb].flags & OVM_BLOCK_UNKNOWN_JUMP))
						show_jump("unknown", dec, image, cfg, bb);
					if (mode == 'c' && cfg->blocks[bb].table != OVM_NONE &&
					    cfg->tables[cfg->blocks[bb].table].bound ==
						OVM_BOUND_COPY) {
						show_jump("copy", dec, image, cfg, bb);
						printf(
						    "      table %#lx n %u\n",
						    (unsigned long)cfg
							->tables[cfg->blocks[bb].table]
							.table.v,
						    cfg->tables[cfg->blocks[bb].table].n_entries);
					}
				}
			ovm_cfg_free(cfg);
		}
	printf("%s: %lu cfgs of %lu regions, %lu insns, %lu blocks, %lu edges | tables cmp %lu "
	       "mask %lu width %lu copy %lu, %lu entries | tail %lu unknown %lu "
	       "unseen %lu | %.3f s, longest %.3f at %#lx\n",
	       path, c.cfgs, c.parts, c.insns, c.blocks, c.edges, c.bounds[0], c.bounds[1],
	       c.bounds[2], c.bounds[3], c.entries, c.tail, c.unknown, c.unseen, t, t_max,
	       (unsigned long)regions.v.v[max_region].lo.v);
	for (unsigned i = 1; i < OVM_REFUSE_COUNT; i++)
		if (ctx->n_refused[i])
			printf("   refused %s %lu\n", ovm_refusal_id((enum ovm_refusal)i),
			       (unsigned long)ctx->n_refused[i]);
	memset(ctx->n_refused, 0, sizeof(ctx->n_refused));
	free(taken);
	ovm_regions_free(&regions);
	ovm_image_close(image);
}

int main(int argc, char **argv)
{
	struct ovm_ctx ctx;
	struct ovm_decoder *dec;
	int mode = 0;
	uint64_t addr = 0;
	ovm_ctx_init(&ctx);
	if (ovm_decoder_open(&ctx, &dec) != 0)
		return 1;
	for (int a = 1; a < argc; a++) {
		if (strcmp(argv[a], "-u") == 0)
			mode = 'u';
		else if (strcmp(argv[a], "-c") == 0)
			mode = 'c';
		else if (strcmp(argv[a], "-a") == 0)
			addr = strtoull(argv[++a], NULL, 0);
		else
			audit(&ctx, dec, argv[a], mode, addr);
	}
	ovm_decoder_close(dec);
	return 0;
}
