#ifndef OVM_UNWINDHOOK_H
#define OVM_UNWINDHOOK_H
/* Exceptions and backtraces through live overlays: every unwinder's question "whose code is this
 * PC?" answered for our memory (rule R15). */
#include "analyzer/disasm.h"
#include "runtime/livedyn.h"
#include "runtime/patch.h"

enum { OVM_UNWINDHOOK_SIZE = 8192, OVM_UNWINDHOOK_MAX = 160 };

struct ovm_unwindhook {
	ovm_rta function; /* _dl_find_object in the target */
	uint64_t function_size;
	const struct ovm_live_module *module; /* that holds it; borrowed from the map */
	uint32_t skip;			      /* endbr64 kept at its start */
	uint32_t displaced_len; /* bytes of whole instructions that the jump overwrites */
	struct ovm_insn displaced[5];
	uint32_t n_displaced;
	uint8_t old_bytes[32]; /* of the function, from its start */
	ovm_rta page;	       /* where the stub goes, chosen by the caller */
	bool is_installed;     /* found in place: page and entries are what stands there */
	uint32_t n_entries;
	uint64_t entries[OVM_UNWINDHOOK_MAX]
			[4]; /* lo, hi, link_map, eh_frame_hdr; entry 0 is the stub itself */
};

/* Find what has to be hooked, or is already. OVM_REFUSED with a message in ctx: nothing to hook, an
 * unwinder that asks something else, or a first instruction that cannot be moved. Then only code
 * that is never on the stack of a throw may be overlaid. */
int ovm_unwindhook_find(struct ovm_ctx *ctx, struct ovm_decoder *dec,
			const struct ovm_tracee *tracee, const struct ovm_livemap *map,
			struct ovm_unwindhook *out);

/* Answer for [lo, hi): unwind table at @eh_frame_hdr, owner @link_map. False if the table is full.
 */
bool ovm_unwindhook_add(struct ovm_unwindhook *hook, ovm_rta lo, ovm_rta hi, ovm_rta link_map,
			ovm_rta eh_frame_hdr);

/* The same with the page in place, while the program runs: the entry becomes visible as a whole.
 * False also if the memory cannot be written. */
bool ovm_unwindhook_append(const struct ovm_tracee *tracee, struct ovm_unwindhook *hook, ovm_rta lo,
			   ovm_rta hi, ovm_rta link_map, ovm_rta eh_frame_hdr);

/* The pages' bytes (OVM_UNWINDHOOK_SIZE) for hook->page, and the jump to it. False if a
 * displacement does not reach. */
bool ovm_unwindhook_build(const struct ovm_unwindhook *hook, uint8_t *page,
			  struct ovm_live_patch *jump);

#endif
