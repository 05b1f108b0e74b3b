#ifndef OVM_TEST_SELFEXE_H
#define OVM_TEST_SELFEXE_H
/* The test program itself as the image: assembly functions in it become regions to analyze. */
#include "analyzer/cfg.h"

#include <string.h>

struct self {
	struct ovm_ctx ctx;
	struct ovm_decoder *dec;
	struct ovm_image *image;
	struct ovm_regions regions;
};

static inline void self_open(struct self *self)
{
	memset(self, 0, sizeof(*self));
	ovm_ctx_init(&self->ctx);
	OVM_ASSERT(ovm_decoder_open(&self->ctx, &self->dec) == 0);
	OVM_ASSERT(ovm_image_open(&self->ctx, "/proc/self/exe", &self->image) == 0);
	OVM_ASSERT(ovm_regions_build(&self->ctx, self->image, &self->regions) == 0);
}

static inline void self_close(struct self *self)
{
	ovm_regions_free(&self->regions);
	ovm_image_close(self->image);
	ovm_decoder_close(self->dec);
}

static inline ovm_va self_symbol(const struct self *self, const char *name)
{
	for (uint32_t i = 0; i < self->image->symbols.n; i++)
		if (strcmp(self->image->symbols.v[i].name, name) == 0)
			return self->image->symbols.v[i].va;
	OVM_ASSERT(!"symbol");
	return ovm_va_of(0);
}

static inline uint32_t self_region(const struct self *self, const char *name)
{
	return ovm_region_find(&self->regions, self_symbol(self, name));
}

/* The verified graph of function @name, NULL if refused. */
static inline struct ovm_cfg *self_cfg(struct self *self, const char *name)
{
	struct ovm_cfg *cfg = NULL;
	if (ovm_cfg_build(&self->ctx, self->dec, self->image, &self->regions,
			  self_region(self, name), &cfg) != 0)
		return NULL;
	ovm_cfg_verify(cfg, &self->regions);
	return cfg;
}

/* A function with unwind information around assembly lines. Its symbols are global so that they
 * survive. */
#define ASM_FUNCTION(name, body)                                                                   \
	__asm__(".text\n.globl " name "\n.type " name ",@function\n" name                          \
		":\n.cfi_startproc\n" body "\n.cfi_endproc\n.size " name ",.-" name "\n")

#endif
