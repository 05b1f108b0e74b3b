#ifndef OVM_STARTGATE_H
#define OVM_STARTGATE_H
/* Holding a launched program at its start, where all its libraries are mapped and none of its own
 * code has run. */
#include "runtime/livemap.h"
#include "runtime/tracee.h"

/* Before its exec: @pid is a child of ours that waits for it. Fails: OVM_E_PERM (somebody else
 * traces it already). */
int ovm_startgate_seize(struct ovm_ctx *ctx, pid_t pid);

/* After the exec, once seized: let the program run up to its start, then read its @map with
 * modules. If it is not wanted (a shell, env, setarch: the real program comes with the next exec),
 * let it go on to its next exec, for a while, and look again.
 *
 * Returns 0: its only thread is listed in @tracee, stopped, and its memory is open; ovm_remote_run,
 * ovm_switch and ovm_tracee_resume know what to do with it. Fails: OVM_E_GONE (tracee->ended),
 * OVM_E_TARGET (start not found, not wanted): it runs on, *map is empty. */
int ovm_startgate_hold(struct ovm_ctx *ctx, struct ovm_tracee *tracee,
		       bool (*is_wanted)(void *arg, const struct ovm_livemap *map), void *arg,
		       struct ovm_livemap *map);

enum ovm_gate_stop {
	OVM_GATE_ENTRY, /* of a system call */
	OVM_GATE_EXIT,	/* of a system call */
	OVM_GATE_EXEC,
	OVM_GATE_ENDED, /* tracee->ended is set */
	OVM_GATE_LATE,	/* it runs on: seized, and let go by ovm_tracee_service when it stops */
};

/* Let the held @thread go on to the entry or exit of its next system call (or exec). Signals reach
 * it as they come; if job control stops it, it stays stopped. */
enum ovm_gate_stop ovm_startgate_next(struct ovm_tracee *tracee, struct ovm_thread *thread,
				      double deadline);

/* The thread of @tracee that is held, NULL if none is. */
struct ovm_thread *ovm_startgate_held(struct ovm_tracee *tracee);

#endif
