#ifndef OVM_ELF_VERIFY_H
#define OVM_ELF_VERIFY_H
/* Proves that one file is another, rewritten: `optvm verify IN OUT`. */
#include "rewriter/elf_read.h"

enum ovm_verify_by { /* what found a mismatch, in the order in which it is looked for */
		     OVM_VERIFY_NOTE,	  /* the note does not agree with itself */
		     OVM_VERIFY_FORM,	  /* map or unwind tables cannot be read */
		     OVM_VERIFY_PROOF,	  /* the checker */
		     OVM_VERIFY_CHECKSUM, /* nothing that matters, but the overlay is not what was
					     written */
		     OVM_VERIFY_BYTES, /* outside the overlay it is not what the writer makes of IN
					*/
};

struct ovm_verify_result {
	uint64_t n_pairs; /* instructions proved */
	uint32_t n_patches, n_tables, n_fdes;
	uint64_t bytes, copied; /* of code in IN's FDE regions but PLTs; of regions with copies */
	bool only_loaded; /* a tool made section headers and names anew: only what is loaded was
			     compared */
	enum ovm_verify_by by; /* on refusal */
	char reason[240];      /* and one line: what is wrong, where */
};

/* Is @out what optvm makes of @in? The overlay is read back from @out and proved equal to @in by
 * the checker; everything else must be, byte by byte, what elf_write.c makes of @in and this
 * overlay: headers, note, undo list, merged tables, symbols, and all bytes of @in that nobody had
 * to change.
 *
 * Returns 0; OVM_REFUSED with @result filled: it is not. Fails: OVM_E_MISMATCH, @out was not
 * written by optvm, by another version of it, or was not made from @in. */
int ovm_elf_verify(struct ovm_ctx *ctx, const struct ovm_image *in, const struct ovm_image *out,
		   struct ovm_verify_result *result);

#endif
