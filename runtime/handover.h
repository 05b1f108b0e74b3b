#ifndef OVM_HANDOVER_H
#define OVM_HANDOVER_H
/* What goes between the tool and its builder, in memory files: orders one way, results the other.
 */
#include "runtime/builder.h"

struct ovm_handover { /* a result; all is borrowed */
	const ovm_targets *targets;
	const struct ovm_tracee *tracee;
	const struct ovm_livemap *map;
	bool is_passing, is_hooked; /* see struct ovm_built */
	const struct ovm_unwindhook *hook;
	const char *why_not;
};

struct ovm_handover_reader {
	const uint8_t *lo, *p, *end;
};

/* Append to the file. False: it cannot be written. */
bool ovm_handover_put(int fd, const struct ovm_ctx *ctx, const struct ovm_handover *from);
bool ovm_handover_put_order(int fd, const struct ovm_profile *profile,
			    const struct ovm_gauges *gauges);

/* Map the file. False: it cannot be, or is empty. */
bool ovm_handover_open(int fd, struct ovm_handover_reader *out);
void ovm_handover_close(struct ovm_handover_reader *r);

/* The next result, with modules that are in @map: others are left out. False: it is too short; free
 * *out all the same. */
bool ovm_handover_take(struct ovm_handover_reader *r, const struct ovm_livemap *map,
		       struct ovm_built *out);

/* The order, which is all that is in the file. Gauges of modules that @map has not are left out.
 * False: it is none; the caller frees both, *profile only if it is true. */
bool ovm_handover_take_order(struct ovm_ctx *ctx, struct ovm_handover_reader *r,
			     const struct ovm_livemap *map, struct ovm_gauges *gauges,
			     struct ovm_profile **profile);

#endif
