#ifndef OVM_REMOTE_H
#define OVM_REMOTE_H
/* System calls made by the target on our behalf, by a stub that restores everything by itself (rule
 * R13). */
#include "runtime/livemap.h"
#include "runtime/tracee.h"

struct ovm_remote_call { /* nr(arg[0], ..., arg[5]); results are looked for in /proc, not in
			    registers */
	uint64_t nr;
	uint64_t arg[6];  /* arg[0] and arg[4] may be OVM_REMOTE_FD */
	const char *path; /* not NULL: a copy of it stands in the stub, and arg[0] is its address */
	uint64_t inode;	  /* mmap: of the file that must be seen there, 0: anonymous memory */
};

enum { OVM_REMOTE_MAX_CALLS = 32, OVM_REMOTE_MAX_TRIES = 4, OVM_REMOTE_MAX_PATHS = 128 };

#define OVM_REMOTE_FD (UINT64_MAX - 1) /* "what the last open returned" */

struct ovm_remote { /* where stubs stand */
	ovm_rta at[OVM_REMOTE_MAX_TRIES];
	uint32_t n, size;
};

/* An mmap of private anonymous readable and executable memory at exactly @at. */
struct ovm_remote_call ovm_remote_mmap(ovm_rta at, uint64_t size);

/* Advice on memory mapped before; whether the kernel takes it is not asked. */
struct ovm_remote_call ovm_remote_madvise(ovm_rta at, uint64_t size, int advice);

/* An open of @path (borrowed) for reading and writing; an mmap of [off, off + size) of that file,
 * shared, readable and writable, at exactly @at; the close of it. @inode: of the file, which tells
 * whether the target has opened the right one. If the open fails, so do the others. */
struct ovm_remote_call ovm_remote_open(const char *path);
struct ovm_remote_call ovm_remote_mmap_file(ovm_rta at, uint64_t size, uint64_t off,
					    uint64_t inode);
struct ovm_remote_call ovm_remote_close(void);

/* Put the stub into unused bytes behind a code segment and send one thread through it: one that
 * runs user code or, if there is none for a part of @timeout_ms, one that waits in a system call,
 * which is restarted afterwards. All threads run; the one is stopped for some 30 us. Returns when
 * every mmap among
 * @calls is seen in /proc/PID/maps; @map: what is mapped now, with modules. If they are not seen
 * soon (a signal handler has jumped out of the stub), another stub is tried.
 * @out tells where stubs are, also on failure, for ovm_remote_clean. Fails: OVM_E_GONE, OVM_E_PERM,
 * OVM_E_TARGET (no room for the stub; all threads blocked in uncommon system calls for @timeout_ms;
 * the kernel refused a mapping or the target could not open a file): the target is as it was, but
 * for mappings that succeeded. Mappings of files should come before all others: if one is missing
 * when the last call's mapping is there, the file could not be opened, and nothing is tried again.
 *
 * If a thread of @tracee is held (startgate.h) it is the one, and is held still on return, inside
 * the stub, after its last call. */
int ovm_remote_run(struct ovm_ctx *ctx, struct ovm_tracee *tracee, const struct ovm_livemap *map,
		   const struct ovm_remote_call *calls, uint32_t n, int timeout_ms,
		   struct ovm_remote *out);

/* Is there room for a stub that makes these calls? The tracee's memory is open. */
bool ovm_remote_has_room(const struct ovm_tracee *tracee, const struct ovm_livemap *map,
			 const struct ovm_remote_call *calls, uint32_t n);

/* Stubs in the process that nobody cleans: of an optvm that was killed. At most @max, one an entry
 * of @out. The tracee's memory is open. Returns how many. */
uint32_t ovm_remote_find(const struct ovm_tracee *tracee, const struct ovm_livemap *map,
			 struct ovm_remote *out, uint32_t max);

/* Is @address inside a stub? */
bool ovm_remote_holds(const struct ovm_remote *remote, uint64_t address);

/* Write zeros over the stubs. The caller has stopped all threads and seen that none is inside and
 * none will return there. */
void ovm_remote_clean(const struct ovm_tracee *tracee, struct ovm_remote *remote);

/* The stub as bytes, for tests: at most @size, returns its length, 0 if it does not fit. @at: where
 * it will stand; @resume: where the thread goes on, @behind: the same if rax is -EINTR. */
uint32_t ovm_remote_stub(uint8_t *to, uint32_t size, const struct ovm_remote_call *calls,
			 uint32_t n, ovm_rta at, ovm_rta resume, ovm_rta behind);

#endif
