#ifndef OVM_NAMES_H
#define OVM_NAMES_H
/* What the copies in a process are called, and how frames in them are unwound: for gdb and perf. */
#include "runtime/state.h"

struct ovm_named { /* one overlay in the process, armed or not */
	ovm_rta at;
	uint32_t size;
	struct ovm_buf symbols; /* Elf64_Sym[], run-time addresses, section OVM_NAMES_TEXT plus its
				   index; owned */
};

enum { OVM_NAMES_TEXT = 1 }; /* ELF section of the first overlay */

struct ovm_names {
	OVM_VEC(struct ovm_named) v;
	struct ovm_buf strings; /* what the symbols are called */
	struct ovm_buf frames;	/* .debug_frame of all; owned */
	uint32_t n_left_out;	/* overlays whose original file is gone or another one now */
};

/* Of all that optvm remembers of process @pid. OVM_REFUSED (message in ctx): it was not optimized,
 * or none of its files is there any more. Fails: OVM_E_GONE, OVM_E_PERM (its memory), OVM_E_IO,
 * OVM_E_FORMAT. Caller frees with ovm_names_fini. */
int ovm_names_read(struct ovm_ctx *ctx, pid_t pid, struct ovm_names *out);
void ovm_names_fini(struct ovm_names *names); /* accepts zeroed */

/* An ELF file of symbols and .debug_frame for gdb's add-symbol-file: names and unwind data at
 * run-time addresses, no code. Appended to @out. */
void ovm_names_elf(const struct ovm_names *names, struct ovm_buf *out);

/* /tmp/perf-PID.map in the mount namespace of process @pid, by its number there; its owner is the
 * process's, as perf asks for. @force: one that is there already and is the process's is replaced.
 * *path: its name as seen from here, caller frees. Source: linux/tools/perf/Documentation/
 * jit-interface.txt. Fails: OVM_E_USAGE (it is there), OVM_E_GONE, OVM_E_PERM, OVM_E_IO. */
int ovm_names_perf_map(struct ovm_ctx *ctx, pid_t pid, const struct ovm_names *names, bool force,
		       char **path);

#endif
