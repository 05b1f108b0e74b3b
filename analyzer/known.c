/* The same instruction again.
 *
 * Decoding takes some 800 instructions; programs consist of few different ones: of those in
 * cc1plus, 81 % have the same bytes as one shortly before. What a decoder says of bytes
 * depends on these bytes alone, and on no byte behind the instruction, so it can be remembered. Two
 * fields would make most bytes differ and mean nothing to a decoder but a number: the distance of a
 * direct branch and the displacement from RIP. They are left out of the comparison, and the
 * decoder's owner puts in the new one.
 *
 *   48 8b 05 [74 0e 00 00]       known:  48 8b 05 .. .. .. ..
 *   48 8b 05 [6d 0e 00 00]       is the same, its displacement another
 *
 * Where to look is guessed from the bytes up to the displacement, the length being unknown. A wrong
 * guess costs time only: all bytes are compared afterwards.
 */
#include "analyzer/known.h"
#include "analyzer/encoding.h"

#include <string.h>

enum { SECOND = 7 }; /* where the second word starts */

static uint64_t load64(const uint8_t *p)
{
	uint64_t x;
	memcpy(&x, p, sizeof(x));
	return x;
}

/* Bytes [0, @n) of the two words. */
static void mask_of(unsigned n, uint64_t mask[2])
{
	mask[0] = n >= 8 ? UINT64_MAX : (UINT64_C(1) << 8 * n) - 1;
	mask[1] = n <= SECOND ? 0 : n >= 15 ? UINT64_MAX : (UINT64_C(1) << 8 * (n - SECOND)) - 1;
}

uint32_t ovm_known_hash(const uint8_t *p)
{
	uint64_t mask[2];
	mask_of(ovm_encoding_guess_len(p), mask);
	uint64_t x = (load64(p) & mask[0]) * UINT64_C(0x9e3779b97f4a7c15);
	x ^= (load64(p + SECOND) & mask[1]) * UINT64_C(0xc2b2ae3d27d4eb4f);
	return (uint32_t)(x >> 32);
}

void ovm_known_set(struct ovm_known *known, const uint8_t *p, unsigned len, unsigned field_off,
		   unsigned field_len)
{
	mask_of(len, known->mask);
	if (field_len) {
		uint64_t before[2], with[2];
		mask_of(field_off, before);
		mask_of(field_off + field_len, with);
		for (unsigned i = 0; i < 2; i++)
			known->mask[i] &= ~(with[i] & ~before[i]);
	}
	known->bytes[0] = load64(p) & known->mask[0];
	known->bytes[1] = load64(p + SECOND) & known->mask[1];
}

bool ovm_known_is(const struct ovm_known *known, const uint8_t *p)
{
	uint64_t differ = ((load64(p) & known->mask[0]) ^ known->bytes[0]) |
			  ((load64(p + SECOND) & known->mask[1]) ^ known->bytes[1]);
	return known->mask[0] && !differ;
}
