#ifndef OVM_FLAGSDEAD_H
#define OVM_FLAGSDEAD_H
/* Where the arithmetic flags are certainly dead, by looking straight ahead. Private to probes.c and
 * flagsdead.c; the rule itself is ovm_flags_dead of probes.h. */
#include "analyzer/cfg.h"

enum { OVM_FLAGS_HORIZON = 32 }; /* instructions looked at */

enum ovm_flags_effect {			   /* of one instruction */
			OVM_FLAGS_KEPT,	   /* neither reads nor writes them; a direct jump too */
			OVM_FLAGS_WRITTEN, /* all of them, without reading one; or nobody looks
					      after it */
			OVM_FLAGS_READ, /* or maybe: some stay as they were, control is not known */
};

enum ovm_flags_effect ovm_flags_effect(const struct ovm_insn *insn);

/* Instructions from @va up to and including the one that writes the flags, if nothing reads them
 * before and there are at most @limit of them; else 0. @cfg may be NULL: what it has decoded need
 * not be decoded again. */
unsigned ovm_flags_distance(struct ovm_decoder *dec, const struct ovm_image *image,
			    const struct ovm_cfg *cfg, ovm_va va, unsigned limit);

#endif
