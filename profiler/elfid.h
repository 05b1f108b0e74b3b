#ifndef OVM_ELFID_H
#define OVM_ELFID_H
/* The little the profiler needs to know of an ELF file: who it is, and where file offsets land in
 * link-time addresses. */
#include "base/addr.h"
#include "base/err.h"

#include <stddef.h>

struct ovm_elfid_load { /* one PT_LOAD */
	ovm_off off;
	uint64_t filesz;
	ovm_va va;
	bool is_exec;
};

struct ovm_elfid {
	char id[48]; /* build-id as lower-case hex, or "xxh3-<32 hex>" of the content */
	bool has_build_id;
	uint32_t n_loads;
	struct ovm_elfid_load *loads; /* in file order; owned */
};

/* Read the file open at @fd (its position is not used). Fails: OVM_E_IO, OVM_E_FORMAT (not a whole
 * ELF64 x86-64 executable or shared library). @name is for messages. On success the caller ends it
 * with ovm_elfid_fini. */
int ovm_elfid_read(struct ovm_ctx *ctx, int fd, const char *name, struct ovm_elfid *out);
void ovm_elfid_fini(struct ovm_elfid *id); /* accepts zeroed */

/* Link-time address of the byte at @off, which was seen executing: an executable segment that holds
 * it, else one whose first or last page does (the kernel maps whole pages), else any segment. False
 * if there is none. */
bool ovm_elfid_va(const struct ovm_elfid *id, ovm_off off, ovm_va *va);

/* @n <= 20 bytes as lower-case hex with a NUL; @hex has room for 2 * n + 1. */
void ovm_elfid_hex(const uint8_t *bytes, size_t n, char *hex);

#endif
