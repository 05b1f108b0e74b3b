#ifndef OVM_ADDR_H
#define OVM_ADDR_H
/* Three address spaces, three types, so that the compiler finds a mix-up.
 *
 *   file offset           link-time address         run-time address
 *   ovm_off  --segment--> ovm_va        --bias----> ovm_rta
 *
 * A link-time address is what the ELF file says; a run-time address is what the target's rip holds.
 * Only this header converts. Intervals are half-open [lo, hi) everywhere.
 */
#include <stdbool.h>
#include <stdint.h>

typedef struct {
	uint64_t v;
} ovm_va; /* link-time address in one image */

typedef struct {
	uint64_t v;
} ovm_rta; /* address in the target process */

typedef struct {
	uint64_t v;
} ovm_off; /* offset in a file, bytes */

static inline ovm_va ovm_va_of(uint64_t v)
{
	return (ovm_va){v};
}

static inline ovm_rta ovm_rta_of(uint64_t v)
{
	return (ovm_rta){v};
}

static inline ovm_off ovm_off_of(uint64_t v)
{
	return (ovm_off){v};
}

static inline ovm_va ovm_va_add(ovm_va a, int64_t d)
{
	return (ovm_va){a.v + (uint64_t)d};
}

/* True if @a lies in [@lo, @hi). */
static inline bool ovm_va_in(ovm_va a, ovm_va lo, ovm_va hi)
{
	return a.v >= lo.v && a.v < hi.v;
}

/* @bias: run-time address of link-time address 0 (0 for a non-PIE executable); arithmetic is modulo 2^64. */
static inline ovm_rta ovm_va_to_rta(ovm_va a, uint64_t bias)
{
	return (ovm_rta){a.v + bias};
}

static inline ovm_va ovm_rta_to_va(ovm_rta a, uint64_t bias)
{
	return (ovm_va){a.v - bias};
}

#define OVM_NONE UINT32_MAX /* "no such index" for every uint32_t index in the program */

#endif
