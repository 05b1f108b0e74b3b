/* The decoder on any bytes: fields of the record lie inside the instruction, decoding never reads
 * behind what is available, and the graph of a region of such bytes holds its invariants. */
#include "analyzer/cfg.h"
#include "analyzer/liveness.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

enum { VA = 0x401000, MAX = 4096 };

static void check_insn(const struct ovm_insn *insn, unsigned len, size_t avail)
{
	OVM_ASSERT(len == insn->len && len >= 1 && len <= 15 && len <= avail);
	OVM_ASSERT(!insn->disp_len == !insn->disp_off && insn->disp_off + insn->disp_len <= len);
	OVM_ASSERT(insn->modrm_off < len);
	OVM_ASSERT(!(insn->uses & ~(uint32_t)OVM_MASK_ALL) &&
		   !(insn->defs & ~(uint32_t)OVM_MASK_ALL));
	OVM_ASSERT(insn->dst < OVM_RIP || insn->dst == OVM_REG_NONE);
	OVM_ASSERT(insn->src < OVM_RIP || insn->src == OVM_REG_NONE);
	if (insn->flags & OVM_INSN_RIP_REL)
		OVM_ASSERT(insn->disp_len == 4 &&
			   insn->target.v == insn->va.v + len + (uint64_t)(int64_t)insn->disp);
}

static void decode_all(struct ovm_decoder *dec, const uint8_t *bytes, size_t len)
{
	for (size_t at = 0; at < len; at++) {
		struct ovm_insn insn;
		uint8_t exact[15];
		char text[64];
		size_t avail = len - at < 15 ? len - at : 15;
		unsigned n = ovm_decode_one(dec, bytes + at, avail, ovm_va_of(VA + at), &insn);
		ovm_decoder_text(dec, bytes + at, avail, ovm_va_of(VA + at), text, sizeof(text));
		if (!n)
			continue;
		check_insn(&insn, n, avail);
		memcpy(exact, bytes + at, n);
		OVM_ASSERT(ovm_decode_one(dec, exact, n, ovm_va_of(VA + at), &insn) == n);
	}
}

/* The bytes as one function of a made-up image; part of them is its read-only data. */
static void build_graph(struct ovm_decoder *dec, const uint8_t *bytes, size_t len)
{
	struct ovm_ctx ctx;
	struct ovm_image image = {.bytes = bytes, .size = len, .lo = {VA}, .hi = {VA + len}};
	struct ovm_regions regions = {0};
	struct ovm_cfi_row row = {.cfa_reg = 7, .cfa_off = 8};
	struct ovm_cfg *cfg;
	size_t code = len > 64 ? len / 4 * 3 : len;
	ovm_ctx_init(&ctx);
	ovm_cfi_init(&regions.cfi);
	struct ovm_cie cie = {.code_align = 1,
			      .data_align = -8,
			      .ra_reg = 16,
			      .initial_row = ovm_cfi_intern(&regions.cfi, &row)};
	ovm_vec_push(&regions.cfi.cies, cie);
	ovm_vec_push(&image.segments,
		     (struct ovm_segment){image.lo, image.hi, {0}, len, PF_R | PF_X});
	ovm_vec_push(&regions.v, (struct ovm_region){
				     .lo = image.lo, .hi = ovm_va_of(VA + code), .prog = bytes});
	if (ovm_cfg_build(&ctx, dec, &image, &regions, 0, &cfg) == 0) {
		uint32_t *live = ovm_alloc_array(cfg->n_blocks, sizeof(*live));
		ovm_cfg_verify(cfg, &regions);
		ovm_liveness(cfg, live);
		free(live);
		ovm_cfg_free(cfg);
	}
	ovm_vec_free(&image.segments);
	ovm_vec_free(&regions.v);
	ovm_vec_free(&regions.cfi.cies);
	ovm_cfi_fini(&regions.cfi);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	static struct ovm_decoder *dec;
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	if (!dec && ovm_decoder_open(&ctx, &dec) != 0)
		abort();
	if (len == 0 || len > MAX)
		return 0;
	decode_all(dec, bytes, len);
	build_graph(dec, bytes, len);
	return 0;
}
