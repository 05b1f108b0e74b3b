#ifndef OVM_LIVEMAP_H
#define OVM_LIVEMAP_H
/* What is mapped where in a live process: /proc/PID/maps as ranges, and the ELF files among them as
 * modules.
 *
 *   ranges   7f55..000-7f55..000 r-xp 00026000 libc.so.6      one line of maps, ascending
 *   modules  libc.so.6  bias 0x7f556cfd3000  segments[]       consecutive ranges of one file + its
 * program headers
 */
#include "base/addr.h"
#include "base/err.h"
#include "base/vec.h"

#include <sys/types.h>

enum { OVM_PROT_R = 1, OVM_PROT_W = 2, OVM_PROT_X = 4 };

struct ovm_live_range {
	ovm_rta lo, hi;
	uint64_t off;	/* in the file */
	uint64_t inode; /* 0: not a file */
	uint32_t major, minor;
	uint8_t prot; /* OVM_PROT_* */
	bool is_private;
	char *path; /* owned; "" for anonymous memory, "[heap]" etc. as the kernel writes them */
};

struct ovm_live_segment { /* one PT_LOAD, as the file says; link-time addresses */
	ovm_va va;
	uint64_t off, filesz, memsz;
	bool is_exec, is_writable;
};

struct ovm_live_module {
	const char *path; /* borrowed from the first range */
	uint64_t bias;	  /* run-time minus link-time address */
	ovm_rta lo, hi;	  /* span of its PT_LOADs, whole pages */
	ovm_va dynamic;	  /* PT_DYNAMIC, 0 if none */
	uint64_t dynamic_size;
	uint32_t first_range,
	    n_ranges; /* file-backed ranges only lie in this run; bss may be mixed in */
	uint64_t inode;
	uint32_t major, minor;
	bool is_dyn; /* ET_DYN */
	bool is_exe; /* what /proc/PID/exe names: the program itself */
	OVM_VEC(struct ovm_live_segment) segments;
};

struct ovm_livemap {
	OVM_VEC(struct ovm_live_range) ranges;
	OVM_VEC(struct ovm_live_module) modules; /* empty until ovm_livemap_modules */
};

/* Parse the text of a maps file. Malformed lines are left out. */
void ovm_livemap_parse(const char *text, size_t len, struct ovm_livemap *out);

/* Read /proc/@pid/maps. Fails: OVM_E_GONE, OVM_E_PERM, OVM_E_IO. */
int ovm_livemap_read(struct ovm_ctx *ctx, pid_t pid, struct ovm_livemap *out);

/* Find the ELF files among the ranges. A file that is deleted, replaced (other inode) or not ELF64
 * x86-64 is no module. */
void ovm_livemap_modules(struct ovm_livemap *map, pid_t pid);

/* The only module mapped from @path; NULL if there is none, the file is mapped twice, or @path is
 * NULL. */
const struct ovm_live_module *ovm_livemap_only(const struct ovm_livemap *map, const char *path);

/* The same, if it is the very file that @module, of another process, is mapped from; NULL. */
const struct ovm_live_module *ovm_livemap_same_file(const struct ovm_livemap *map,
						    const struct ovm_live_module *module);

void ovm_livemap_fini(struct ovm_livemap *map);

const struct ovm_live_range *ovm_livemap_range(const struct ovm_livemap *map,
					       ovm_rta at); /* NULL if unmapped */

/* The module whose span contains @at, NULL if none. */
const struct ovm_live_module *ovm_livemap_module(const struct ovm_livemap *map, ovm_rta at);

/* True if every byte of [lo, hi) is mapped with exactly protection @prot, private, and belongs to
 * file @inode (0: anonymous). */
bool ovm_livemap_covers(const struct ovm_livemap *map, ovm_rta lo, ovm_rta hi, uint8_t prot,
			uint64_t inode);

/* True if every byte of [lo, hi) is a shared mapping of file @inode, readable and writable. */
bool ovm_livemap_shares(const struct ovm_livemap *map, ovm_rta lo, ovm_rta hi, uint64_t inode);

/* What must be mapped at the moment of patching. */
struct ovm_live_need {
	ovm_rta lo, hi;
	uint64_t inode;	 /* 0: anonymous */
	bool is_counter; /* shared, readable and writable; else private, readable and executable */
};

/* Call @visit for each line of /proc/@pid/maps, in ascending order; range->path is NULL. Allocates
 * nothing: for use while the target is stopped. False if the file cannot be read. */
bool ovm_livemap_walk(pid_t pid, void (*visit)(const struct ovm_live_range *range, void *arg),
		      void *arg);

/* For such visits: use up what @range satisfies of the needs; is nothing left of them? */
void ovm_livemap_meet(const struct ovm_live_range *range, struct ovm_live_need *needs, uint32_t n);
bool ovm_livemap_met(const struct ovm_live_need *needs, uint32_t n);

/* Are all of [lo, hi) of each need still mapped? @needs is used up. */
bool ovm_livemap_still(pid_t pid, struct ovm_live_need *needs, uint32_t n);

/* Reserve [lo, hi) in the map, so that ovm_codemem_place does not choose it twice. */
void ovm_livemap_reserve(struct ovm_livemap *map, ovm_rta lo, ovm_rta hi);

#endif
