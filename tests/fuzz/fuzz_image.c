/* The image loader, regions, CFI programs and exception tables on a hostile file: no crash, no
 * hang, no byte read outside. */
#include "analyzer/image_private.h"
#include "analyzer/region.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static void use_region(struct ovm_regions *regions, const struct ovm_image *image, uint32_t idx,
		       ovm_cfi_spans *spans)
{
	const struct ovm_region *region = &regions->v.v[idx];
	struct ovm_lsda lsda;
	char name[64];
	OVM_ASSERT(region->lo.v < region->hi.v);
	if (!ovm_region_spans(regions, image, idx, spans)) {
		OVM_ASSERT(spans->n && !spans->v[0].off);
		for (uint32_t i = 1; i < spans->n; i++)
			OVM_ASSERT(spans->v[i - 1].off < spans->v[i].off);
	}
	if (region->lsda.v &&
	    !ovm_lsda_parse(image, region->lsda, region->lo, region->hi.v - region->lo.v, &lsda)) {
		for (uint32_t i = 0; i < lsda.sites.n; i++)
			OVM_ASSERT(ovm_lsda_site(&lsda, lsda.sites.v[i].lo) == &lsda.sites.v[i]);
		ovm_lsda_fini(&lsda);
	}
	ovm_region_name(image, region->lo, name, sizeof(name));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct ovm_ctx ctx;
	struct ovm_image *image;
	struct ovm_regions regions;
	ovm_cfi_spans spans = {0};
	ovm_ctx_init(&ctx);
	if (ovm_image_open_bytes(&ctx, bytes, len, "fuzz", &image))
		return 0;
	for (uint32_t i = 0; i < image->relocs.n; i++)
		ovm_image_slot_symbol(image, image->relocs.v[i].at);
	if (!ovm_regions_build(&ctx, image, &regions)) {
		for (uint32_t i = 0; i < regions.v.n; i++)
			use_region(&regions, image, i, &spans);
		ovm_regions_free(&regions);
	}
	ovm_vec_free(&spans);
	ovm_image_close(image);
	return 0;
}
