/* Exception tables on hostile bytes: no crash, sites ascend, and what can be written elsewhere
 * reads back the same: sites, actions, types. */
#include "rewriter/lsda_write.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

enum {
	CODE = 0x400000,
	CODE_SIZE = 0x1000,
	TABLE = 0x500000,
	COPY = 0x600000,
	COPIED_CODE = 0x700000
};

static void image_init(struct ovm_image *image, uint64_t va, const uint8_t *bytes, size_t len)
{
	*image = (struct ovm_image){.bytes = bytes, .size = len, .lo = {va}, .hi = {va + len}};
	ovm_vec_push(&image->segments, (struct ovm_segment){image->lo, image->hi, {0}, len, PF_R});
}

static void compare(const struct ovm_lsda *a, const struct ovm_lsda *b)
{
	OVM_ASSERT(a->sites.n == b->sites.n);
	for (uint32_t i = 0; i < a->sites.n; i++) {
		const struct ovm_callsite *x = &a->sites.v[i], *y = &b->sites.v[i];
		OVM_ASSERT(x->lo == y->lo && x->hi == y->hi && x->action == y->action &&
			   !x->landing == !y->landing);
		OVM_ASSERT(!x->landing || a->lp_start.v + x->landing == b->lp_start.v + y->landing);
	}
	OVM_ASSERT(a->actions_len <= b->actions_len); /* more may be padding in front of types */
	OVM_ASSERT(!a->actions_len || !memcmp(a->actions, b->actions, a->actions_len));
	OVM_ASSERT(a->types.n == b->types.n);
	for (uint32_t i = 0; i < a->types.n; i++)
		OVM_ASSERT(a->types.v[i].v == b->types.v[i].v);
}

static void write_elsewhere(const struct ovm_lsda *lsda)
{
	struct ovm_buf out = {0};
	ovm_callsites sites = {0};
	struct ovm_image image;
	struct ovm_lsda again;
	for (uint32_t i = 0; i < lsda->sites.n; i++)
		ovm_vec_push(&sites, lsda->sites.v[i]);
	if (ovm_lsda_write(&out, ovm_va_of(COPY), ovm_va_of(COPIED_CODE), lsda, &sites)) {
		image_init(&image, COPY, out.v, out.n);
		OVM_ASSERT(!ovm_lsda_parse(&image, ovm_va_of(COPY), ovm_va_of(COPIED_CODE),
					   CODE_SIZE, &again));
		compare(lsda, &again);
		ovm_lsda_fini(&again);
		ovm_vec_free(&image.segments);
	}
	ovm_vec_free(&sites);
	ovm_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct ovm_image image;
	struct ovm_lsda lsda;
	if (!len)
		return 0;
	image_init(&image, TABLE, bytes, len);
	if (!ovm_lsda_parse(&image, ovm_va_of(TABLE), ovm_va_of(CODE), CODE_SIZE, &lsda)) {
		for (uint32_t i = 0; i < lsda.sites.n; i++) {
			OVM_ASSERT(lsda.sites.v[i].lo < lsda.sites.v[i].hi);
			OVM_ASSERT(!i || lsda.sites.v[i - 1].hi <= lsda.sites.v[i].lo);
		}
		for (int is_dyn = 0; is_dyn < 2; is_dyn++)
			if (ovm_lsda_can_move(&lsda, is_dyn))
				write_elsewhere(&lsda);
		ovm_lsda_fini(&lsda);
	}
	ovm_vec_free(&image.segments);
	return 0;
}
