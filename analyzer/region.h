#ifndef OVM_REGION_H
#define OVM_REGION_H
/* A region is one FDE range: the unit of everything (rule R2). A function split by the compiler is two regions. */
#include "analyzer/cfi.h"
#include "analyzer/refuse.h"

#include <stdio.h>

struct ovm_region {
	ovm_va lo, hi;       /* code range, hi > lo */
	ovm_va fde;          /* link-time address of the FDE record */
	ovm_va lsda;         /* 0 if none */
	uint32_t cie;        /* index into cfi.cies */
	const uint8_t *prog; /* borrowed: the FDE's CFI program */
	uint32_t prog_len;
	bool is_fragment;    /* its first row is not CFA=rsp+8: certainly not a function's start */
	bool is_plt;
	uint8_t refused;     /* enum ovm_refusal, set by any stage; NONE while in play */
};

struct ovm_regions {
	OVM_VEC(struct ovm_region) v; /* sorted by lo, ranges disjoint, empty and duplicate FDEs dropped */
	struct ovm_cfi cfi;
	uint64_t n_dropped;           /* zero-length, duplicate or malformed FDEs */
};

/* All regions of @image from .eh_frame_hdr, or by walking .eh_frame if there is no table. CFI programs are not run here
 * except for the first row (is_fragment); ovm_region_spans does that on demand.
 * Fails: OVM_E_FORMAT if the image has no usable unwind information at all ("no FDEs"). A bad FDE is dropped and counted. */
int ovm_regions_build(struct ovm_ctx *ctx, const struct ovm_image *image, struct ovm_regions *out);
void ovm_regions_free(struct ovm_regions *regions);

uint32_t ovm_region_find(const struct ovm_regions *regions, ovm_va va); /* index, OVM_NONE if in no region */

/* Rows of region @idx by offset from its lo; spans.v[0].off == 0. Returns 0 or OVM_REFUSED (CFI). Caller frees spans. */
int ovm_region_spans(struct ovm_regions *regions, const struct ovm_image *image, uint32_t idx, ovm_cfi_spans *spans);

/* The same with the rows in @cfi, which has those of regions->cfi and may have more: what threads do beside each other. */
int ovm_region_spans_in(const struct ovm_regions *regions, struct ovm_cfi *cfi, const struct ovm_image *image, uint32_t idx,
			ovm_cfi_spans *spans);

/* Row id at byte offset @off of a region's spans. */
uint32_t ovm_spans_row(const ovm_cfi_spans *spans, uint32_t off);

/* Mark @idx refused for @why, once, and count it in the context. */
void ovm_region_refuse(struct ovm_ctx *ctx, struct ovm_regions *regions, uint32_t idx, enum ovm_refusal why);

/* A printable name for @va: "symbol+0x1c", or "0x401230" without symbols. Returns @buf. */
const char *ovm_region_name(const struct ovm_image *image, ovm_va va, char *buf, size_t size);

void ovm_regions_dump(const struct ovm_image *image, const struct ovm_regions *regions, FILE *to);

#endif
