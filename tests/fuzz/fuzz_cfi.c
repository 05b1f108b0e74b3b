/* Unwind information on hostile bytes, inside a file that is well-formed otherwise.
 *
 *   +0  'e': the rest is .eh_frame   'h': .eh_frame_hdr (40 bytes) and .eh_frame
 *       else: the rest is the program of one FDE over 128 bytes of code
 */
#include "analyzer/image_private.h"
#include "analyzer/region.h"
#include "tests/support/mini_elf.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

enum { TEXT = 0x400, HDR = 0x1000, HDR_SIZE = 40, EH = HDR + HDR_SIZE, MAX = MINI_SIZE - EH - 64 };

static void put_unwind(struct mini *mini, const uint8_t *bytes, size_t len)
{
	struct ovm_buf frame = {0};
	if (bytes[0] == 'h') {
		mini_put(mini, HDR, bytes + 1, len - 1);
		mini_phdr(mini, PT_GNU_EH_FRAME, PF_R, HDR, HDR_SIZE);
	} else if (bytes[0] == 'e') {
		ovm_buf_put(&frame, bytes + 1, len - 1);
		mini_eh_frame(mini, &frame, HDR, EH);
	} else {
		mini_cie(&frame);
		mini_fde(&frame, EH, 0, TEXT, 0x80, bytes + 1, len - 1);
		mini_eh_frame(mini, &frame, HDR, EH);
	}
}

static void run_programs(const struct ovm_image *image, struct ovm_regions *regions)
{
	ovm_cfi_spans spans = {0};
	for (uint32_t r = 0; r < regions->v.n; r++) {
		const struct ovm_region *region = &regions->v.v[r];
		OVM_ASSERT(region->lo.v < region->hi.v);
		OVM_ASSERT(ovm_region_find(regions, region->lo) == r);
		spans.n = 0;
		if (ovm_region_spans(regions, image, r, &spans))
			continue;
		OVM_ASSERT(spans.n && !spans.v[0].off);
		for (uint32_t i = 0; i < spans.n; i++) {
			OVM_ASSERT(spans.v[i].row < regions->cfi.rows.n);
			OVM_ASSERT(!i || spans.v[i - 1].off < spans.v[i].off);
			OVM_ASSERT(spans.v[i].off < region->hi.v - region->lo.v);
		}
	}
	ovm_vec_free(&spans);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct ovm_ctx ctx;
	struct mini mini;
	struct ovm_image *image;
	struct ovm_regions regions;
	if (!len || len > MAX)
		return 0;
	mini_init(&mini, 0);
	put_unwind(&mini, bytes, len);
	ovm_ctx_init(&ctx);
	OVM_ASSERT(!ovm_image_open_bytes(&ctx, mini.v, MINI_SIZE, "fuzz", &image));
	if (!ovm_regions_build(&ctx, image, &regions)) {
		run_programs(image, &regions);
		ovm_regions_free(&regions);
	}
	ovm_image_close(image);
	return 0;
}
