#ifndef OVM_XREF_H
#define OVM_XREF_H
/* Who may enter these addresses? Answers, for a set of 5-byte entry windows, whether control may arrive inside one.
 *
 * Nothing but the bytes is known of a stripped file, so the scan is conservative: at EVERY byte position of every executable
 * segment, an E8/E9/0F 8x opcode byte followed by a disp32, or a RIP-relative lea, is taken as a reference, whether or not an
 * instruction starts there. So are all RELATIVE relocations, symbols, the entry point and, in a non-PIE file, every 4-byte value in any
 * segment. Random hits are rare (a disp32 has 2^32 values) and cost only a refusal. rel8 branches reach 128 bytes: the regions within
 * reach of the window are decoded properly.
 */
#include "analyzer/cfg.h"

enum { /* ovm_xref.flags */
	OVM_XREF_CALLED = 1 << 0,      /* a direct call or jump to the region start was seen */
	OVM_XREF_ADDRESS = 1 << 1,     /* its start is taken as data (reloc, lea, immediate, symbol) */
	OVM_XREF_INSIDE = 1 << 2,      /* something refers into (start+skip, start+skip+5): no jump may be written there */
	OVM_XREF_NO_ROOM = 1 << 3,     /* a leader, landing pad or call return lies inside, or the region is too short */
};

struct ovm_xref {
	uint32_t region;
	uint8_t skip;   /* bytes to keep at the start: 4 for endbr64, else 0 */
	uint8_t flags;
};

/* Scan for the given regions (@refs[i].region set by the caller, ascending); fills skip and flags.
 * @cfg_of: for region index r, the cfg that contains it or NULL (its leaders and landing pads are checked). One pass over the
 * image, about 1 GB/s. Always succeeds. */
void ovm_xref_scan(struct ovm_decoder *dec, const struct ovm_image *image, const struct ovm_regions *regions,
		   struct ovm_cfg *const *cfg_of, struct ovm_xref *refs, uint32_t n);

#endif
