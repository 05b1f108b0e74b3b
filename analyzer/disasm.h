#ifndef OVM_DISASM_H
#define OVM_DISASM_H
/* Region bytes -> ovm_insn[]. One decoder object per thread of work; start-up costs some 10 ms,
 * decoding about 10 M insn/s. */
#include "analyzer/image.h"
#include "analyzer/insn.h"
#include "analyzer/refuse.h"

#include <stdio.h>

struct ovm_decoder;
typedef OVM_VEC(struct ovm_insn) ovm_insns;

/* Fails: OVM_E_INTERNAL if LLVM has no X86 target. */
int ovm_decoder_open(struct ovm_ctx *ctx, struct ovm_decoder **out);
void ovm_decoder_close(struct ovm_decoder *dec); /* accepts NULL */

/* Decode one instruction at @bytes (link-time address @va, @avail bytes readable). Lock and other
 * glued prefixes are part of the record. Returns its length, 0 if it does not decode. */
unsigned ovm_decode_one(struct ovm_decoder *dec, const uint8_t *bytes, size_t avail, ovm_va va,
			struct ovm_insn *out);

/* Linear sweep over [lo, hi), appended to @out; must tile exactly. Returns 0, or OVM_REFUSED with
 * *why = DECODE or SPECIAL_INSN. */
int ovm_decode_range(struct ovm_decoder *dec, const struct ovm_image *image, ovm_va lo, ovm_va hi,
		     ovm_insns *out, enum ovm_refusal *why);

/* AT&T text of one instruction for dumps, e.g. "movslq (%rdx,%rax,4), %rax". Returns @buf. */
const char *ovm_decoder_text(struct ovm_decoder *dec, const uint8_t *bytes, size_t avail, ovm_va va,
			     char *buf, size_t size);

#endif
