#ifndef OVM_KNOWN_H
#define OVM_KNOWN_H
/* Recognizing instructions that were decoded before, by their bytes. Each decoder keeps a table of
 * its own results; what is shared here is only how bytes are compared and where to look. */
#include <stdbool.h>
#include <stdint.h>

enum { OVM_KNOWN_BYTES = 15 }; /* readable at every @p below */

/* The bytes of an instruction but for one field, which may have any value. */
struct ovm_known {
	uint64_t bytes[2], mask[2]; /* of bytes 0..7 and 7..14; mask[0] 0: nothing is known */
};

/* A number for the instruction at @p: the same for the same bytes, and mostly for other values of a
 * branch's distance or a RIP-relative displacement. */
uint32_t ovm_known_hash(const uint8_t *p);

/* Remember the instruction of @len bytes at @p but for @field_len bytes at @field_off > 0 (none if
 * @field_len is 0). */
void ovm_known_set(struct ovm_known *known, const uint8_t *p, unsigned len, unsigned field_off,
		   unsigned field_len);

/* Does an instruction that was remembered start at @p? */
bool ovm_known_is(const struct ovm_known *known, const uint8_t *p);

#endif
