#ifndef OVM_PROFILE_H
#define OVM_PROFILE_H
/* A profile: how often which code ran, by module and link-time address.
 *
 * Keyed by build-id; no address that ASLR changes; merging is addition, so any number of profiles
 * can be summed in any order. Counts are sampled (PC samples, branch records) or exact (edges from
 * instrumented copies), never mixed up: each has its own list. A profile is advice (rule R11):
 * readers must survive any numbers in it.
 */
#include "base/addr.h"
#include "base/err.h"
#include "base/vec.h"

#include <stdio.h>

struct ovm_prof_sample { /* one PC, seen @count times */
	ovm_va va;
	uint64_t count;
};

struct ovm_prof_branch { /* taken branch from the instruction at @from to @to; @to may be in another
			    region */
	ovm_va from, to;
	uint64_t count, mispreds;
};

struct ovm_prof_range { /* straight-line run from @from up to and including the instruction at @to
			   (fall-through) */
	ovm_va from, to;
	uint64_t count;
};

struct ovm_prof_edge { /* exact: control went from the instruction at @from directly to @to, taken
			  or fallen into; @from 0: from anywhere outside (entries of regions) */
	ovm_va from, to;
	uint64_t count;
};

struct ovm_prof_region { /* so that a report can be read without the module at hand */
	ovm_va lo, hi;
	uint64_t hash; /* of its code without addresses (analyzer/blockhash.h), 0 unknown */
	char *name;    /* symbol, or NULL */
};

struct ovm_prof_block { /* how to find a block that has counts again in another build */
	ovm_va lo;
	uint64_t last; /* bytes from lo to its last instruction */
	uint64_t hash; /* analyzer/blockhash.h */
};

struct ovm_prof_module {
	char *id; /* build-id as lower-case hex; "xxh3-<32 hex>" of the file if it has none; "anon"
		     for JIT etc. */
	char *path; /* where it was seen first (lexically least of all after a merge) */
	OVM_VEC(struct ovm_prof_sample)
	samples; /* sorted by va, unique, after ovm_profile_normalize */
	OVM_VEC(struct ovm_prof_branch) branches; /* sorted by (from, to), unique */
	OVM_VEC(struct ovm_prof_range) ranges;	  /* sorted by (from, to), unique */
	OVM_VEC(struct ovm_prof_edge) edges;	  /* sorted by (from, to), unique */
	OVM_VEC(struct ovm_prof_region) regions;  /* sorted by lo, unique */
	OVM_VEC(struct ovm_prof_block) blocks;	  /* sorted by lo, unique */
};

struct ovm_profile {
	char *event;	      /* "cpu-clock", "cycles", ...; "mixed" after merging different ones */
	char *source;	      /* "perf_event", "ptrace-timer", "import", "mixed" */
	uint64_t frequency;   /* Hz asked for; the largest after a merge */
	uint64_t n_samples;   /* user-space samples taken, mapped to a module or not */
	uint64_t n_lost;      /* records the kernel dropped */
	uint64_t n_unmapped;  /* samples outside every file-backed module */
	uint64_t n_processes; /* processes seen */
	OVM_VEC(struct ovm_prof_module) modules; /* sorted by id after ovm_profile_normalize */
};

struct ovm_profile *ovm_profile_new(void);
void ovm_profile_free(struct ovm_profile *prof); /* accepts NULL */

/* The module with key @id, made if missing (@path is copied; may be NULL). Borrowed until the next
 * call. */
struct ovm_prof_module *ovm_profile_module(struct ovm_profile *prof, const char *id,
					   const char *path);

/* The same without making it; NULL if there is none. */
const struct ovm_prof_module *ovm_profile_find(const struct ovm_profile *prof, const char *id);

/* Sum of sample counts of one module. */
uint64_t ovm_prof_module_samples(const struct ovm_prof_module *module);

/* Sort every list and add up equal keys (saturating). Idempotent. */
void ovm_profile_normalize(struct ovm_profile *prof);

/* Add @from to @into. Commutative and associative on normalized profiles; @from is unchanged. */
void ovm_profile_merge(struct ovm_profile *into, const struct ovm_profile *from);

/* Tells normalized profiles apart: equal ones have equal hashes, on every machine of our byte order. */
uint64_t ovm_profile_hash(const struct ovm_profile *prof);

/* profile_io.c: the text format, zstd when the name ends in ".zst". The written file is 0600, made
 * as a temporary in the same folder, fsynced, renamed. Fails with OVM_E_IO, OVM_E_PERM,
 * OVM_E_FORMAT (not a profile; line named). */
int ovm_profile_save(struct ovm_ctx *ctx, const struct ovm_profile *prof, const char *path);
int ovm_profile_load(struct ovm_ctx *ctx, const char *path, struct ovm_profile **out);

/* The same over memory, for tests and fuzzing. @text need not end in NUL. */
int ovm_profile_parse(struct ovm_ctx *ctx, const char *text, size_t len, const char *name,
		      struct ovm_profile **out);
void ovm_profile_print(const struct ovm_profile *prof, FILE *to);

#endif
