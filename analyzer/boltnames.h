#ifndef OVM_BOLTNAMES_H
#define OVM_BOLTNAMES_H
/* The functions of a file and their names as BOLT makes them, which its fdata
 * files hold. */
#include "analyzer/disasm.h"
#include "analyzer/region.h"

struct ovm_bolt_func {
	ovm_va lo, hi;
	const char *name; /* what llvm-bolt knows it by, not escaped; NULL if it
			     cannot be written */
};

struct ovm_bolt_name { /* any name, of a function or of a place inside one */
	const char *name;
	ovm_va va;
	uint32_t rank; /* of equal names the lowest is meant */
};

struct ovm_bolt_names {
	OVM_VEC(struct ovm_bolt_func) funcs; /* sorted by lo, disjoint */
	OVM_VEC(struct ovm_bolt_name) names; /* sorted by (name, rank) */
	const struct ovm_regions *regions;   /* borrowed */
	struct ovm_arena arena;
};

/* @image and @regions must outlive the result. Always succeeds: a file without
 * symbols has the names that BOLT makes of FDEs. */
void ovm_bolt_names_build(const struct ovm_image *image, const struct ovm_regions *regions,
			  struct ovm_bolt_names *out);
void ovm_bolt_names_free(struct ovm_bolt_names *names);

const struct ovm_bolt_func *ovm_bolt_func_at(const struct ovm_bolt_names *names, ovm_va va);
bool ovm_bolt_find(const struct ovm_bolt_names *names, const char *name, ovm_va *out);

/* BOLT's files do not say whether control was taken from @from to @to or fell
 * through. True if the instruction at @from cannot have jumped to @to, which
 * lies behind it. */
bool ovm_bolt_is_fall(struct ovm_decoder *dec, const struct ovm_image *image, ovm_va from,
		      ovm_va to);

#endif
