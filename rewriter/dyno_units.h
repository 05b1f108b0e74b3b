#ifndef OVM_DYNO_UNITS_H
#define OVM_DYNO_UNITS_H
/* Lines of the instruction cache, or pages, with what is executed in them: for dynostats.c. */
#include "base/vec.h"

struct ovm_dyno_unit {	 /* a line or a page */
	uint64_t at;	 /* address >> shift */
	uint64_t weight; /* executed instructions that begin in it */
};
typedef OVM_VEC(struct ovm_dyno_unit) ovm_dyno_units;

/* Add @weight to unit @at. */
void ovm_dyno_touch(ovm_dyno_units *list, uint64_t at, uint64_t weight);

/* How many units there are, and how few hold all but a hundredth of the weight. Frees @list. */
void ovm_dyno_measure(ovm_dyno_units *list, uint64_t *all, uint64_t *hot);

#endif
