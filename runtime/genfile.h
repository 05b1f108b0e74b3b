#ifndef OVM_GENFILE_H
#define OVM_GENFILE_H
/* One generation as bytes: all that another optvm needs to disarm it or to arm it again, in a
 * process that goes on when the tool that loaded it is gone. The code itself is in the process. */
#include "runtime/builder.h"
#include "runtime/countmem.h"

struct ovm_genfile_module {
	struct ovm_live_module module; /* path and segments are owned */
	char id[48];		       /* build-id of its file, "" unknown */
	ovm_rta at, link_map;
	uint64_t n_samples;
	uint64_t hash;		    /* of the overlay's bytes */
	uint64_t print;		    /* of the module (presence.h) */
	struct ovm_overlay overlay; /* no bytes, tables, fdes, sites; owned */
};

struct ovm_genfile {
	OVM_VEC(struct ovm_genfile_module) modules;
	uint64_t counters_inode; /* 0: it does not count */
	uint32_t counters_major, counters_minor;
};

/* Append to @out. @ids[i]: of module i. @counters: NULL if it does not count. Fails:
 * OVM_E_UNAVAILABLE (zstd). */
int ovm_genfile_encode(struct ovm_ctx *ctx, const struct ovm_built *built, char (*ids)[48],
		       const struct ovm_countmem *counters, struct ovm_buf *out);

/* The opposite; overlays' maps are indexed. Everything is checked: addresses in their modules and
 * overlays, in order, jumps that lead where they say. Fails: OVM_E_FORMAT, @name is for the
 * message. Caller frees with ovm_genfile_fini. */
int ovm_genfile_decode(struct ovm_ctx *ctx, const char *name, const uint8_t *bytes, size_t n,
		       struct ovm_genfile *out);
void ovm_genfile_fini(struct ovm_genfile *file); /* accepts zeroed */

/* Hash of an overlay's bytes, with nops where its exits may have jumps by now: these are put into
 * @bytes. */
uint64_t ovm_genfile_hash(const struct ovm_map *map, uint8_t *bytes, uint32_t size);

#endif
