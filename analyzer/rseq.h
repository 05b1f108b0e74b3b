#ifndef OVM_RSEQ_H
#define OVM_RSEQ_H
/* Code that must run where it is because the kernel compares rip with its addresses (rule R14). */
#include "analyzer/image.h"

struct ovm_rseq { /* a piece of code no copy may be made of, [lo, hi) */
	ovm_va lo, hi;
};
typedef OVM_VEC(struct ovm_rseq) ovm_rseqs;

/* All pieces of restartable sequences of @image, and of the code they abort to: sorted, disjoint.
 * Caller frees. A hostile file can name too much, which costs speed; it cannot hide anything that
 * the kernel would accept under the signature every libc registers. */
void ovm_rseq_find(const struct ovm_image *image, ovm_rseqs *out);

#endif
