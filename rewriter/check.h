#ifndef OVM_CHECK_H
#define OVM_CHECK_H
/* Proves an overlay equal to the original before anything is installed (rules R8, R9).
 *
 * A simulation proof by worklist. Start from the pairs (overlay pc, original pc) that patches claim; decode both sides with Zydis
 * (not the decoder that built the copy); the two instructions must be equal but for branch sense, displacements and removed or added
 * direct jumps; push the pairs their successors form. Leaving the overlay must arrive exactly at the paired original address. Tables:
 * each entry of a copy forms a pair with the original's. Unwind rows and call sites of a pair must be equal too, read back from the bytes that
 * were written. Axiom, stated not proved: the length of a jump table is what jumptable.c says.
 */
#include "rewriter/overlay.h"

struct ovm_check_result {
	uint64_t n_pairs;     /* pairs proved */
	ovm_va bad_old;       /* on refusal: original instruction of the failing pair */
	uint32_t bad_off;     /* and the overlay offset */
	char reason[160];     /* one line: what differs */
};

/* Returns 0 if every instruction reachable from the patches, table entries and from each map entry that claims a correspondence is proved;
 * OVM_REFUSED with @result filled at the first failure. Never reads outside image or overlay, whatever their bytes. */
int ovm_check(struct ovm_ctx *ctx, const struct ovm_image *image, struct ovm_regions *regions, const struct ovm_overlay *overlay,
	      struct ovm_check_result *result);

/* What the second decoder has seen (check_known.c). One for each thread; free with free(). */
struct ovm_check_known;
struct ovm_check_known *ovm_check_known_new(void);

/* The two decoders agree on the instructions @insns: lengths, control flow, RIP-relative fields. 0 or OVM_REFUSED. @known may be
 * NULL. For disagreement tests and engine.c. */
int ovm_check_decoders(const struct ovm_image *image, const struct ovm_insn *insns, uint32_t n, struct ovm_check_known *known);

#endif
