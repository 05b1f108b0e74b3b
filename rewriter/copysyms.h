#ifndef OVM_COPYSYMS_H
#define OVM_COPYSYMS_H
/* Symbols for copied code, for debuggers and profilers: each run of copied code is a LOCAL FUNC
 * "name.optvm.N" ("optvm_ADDRESS" where the original has no name), and where the first instruction
 * of a function was copied its copy is a LOCAL FUNC of the same name. */
#include "analyzer/region.h"
#include "rewriter/overlay.h"

#include <elf.h>

struct ovm_copysyms {
	const struct ovm_image *image; /* of the original */
	const Elf64_Shdr *old_names;   /* the input's names of symbols, with which *names begins;
					  NULL: it does not */
	const struct ovm_overlay *overlay;
	uint16_t text;			/* section of the symbols */
	struct ovm_buf symbols, *names; /* Elf64_Sym[] (owned), what they are called */
	uint8_t *is_named;		/* private */
};

/* Append to symbols and *names what @copies->overlay has of @regions. Its fdes say where its runs
 * are. */
void ovm_copysyms_put(struct ovm_copysyms *copies, const struct ovm_regions *regions);

#endif
