#ifndef OVM_STATE_H
#define OVM_STATE_H
/* What optvm has done to a process, in files, so that another optvm can undo it or go on.
 *
 *   $XDG_RUNTIME_DIR/optvm/  (0700; root: /run/optvm)
 *     4711-88123.json     pid and start time: who, when, which generations are armed
 *     4711-88123.0.gen    generation 0 (genfile.h)
 *     4711-88123.lock     locked by the optvm that is at work on the process
 */
#include "runtime/genfile.h"
#include "runtime/statedir.h"

#include <jansson.h>

struct ovm_state_module {
	char *path; /* owned */
	char id[48];
	ovm_rta image, overlay, counters; /* counters: 0 none */
	uint64_t bias, overlay_bytes;
	uint32_t n_regions, n_patches;
};

struct ovm_state_generation {
	uint32_t number;  /* of its file */
	bool is_counting; /* to be armed for moments only: counting, or to measure by */
	bool is_armed, is_wanted;
	double loaded; /* seconds since 1970 */
	OVM_VEC(struct ovm_state_module) modules;
};

struct ovm_state {
	pid_t pid;
	unsigned long long start; /* of the process, clock ticks after boot */
	char *program;		  /* its file, owned */
	char *version, *by;	  /* of the optvm that wrote this; its command; owned */
	double since;		  /* of the last change, seconds since 1970 */
	double pause_ms;	  /* of the last switch */
	double gain;		  /* measured: time after / time before; 0 unknown */
	bool is_done;		  /* false: a switch to what is_wanted says was begun */
	OVM_VEC(struct ovm_state_generation) v; /* in order of loading */
	pid_t busy;				/* of a list: an optvm at work on it now, 0 none */
	struct ovm_statedir dir;		/* private to state.c */
	int lock_fd;
};

/* The state of process @pid, locked until it is closed. @by: "run" or "attach": made if there is
 * none, nothing is written before the first generation. NULL: OVM_REFUSED (message in ctx) if there
 * is none. Fails: OVM_E_GONE; OVM_E_TARGET: another optvm is at work; OVM_E_IO, OVM_E_PERM: no
 * folder that is ours alone; OVM_E_FORMAT: damaged. */
int ovm_state_open(struct ovm_ctx *ctx, pid_t pid, const char *by, struct ovm_state **out);
void ovm_state_close(struct ovm_state *state); /* accepts NULL */

/* Others may work on the process; ours is for ovm_state_forget only from now on. */
void ovm_state_unlock(struct ovm_state *state);

/* Remember a generation that is about to be loaded; forget the last one, or number @idx, which is
 * not in the process. Fails: OVM_E_IO. */
int ovm_state_add(struct ovm_ctx *ctx, struct ovm_state *state, const struct ovm_built *built,
		  const struct ovm_countmem *counters);
void ovm_state_drop(struct ovm_state *state, uint32_t idx);

/* Read generation @idx. Fails: OVM_E_IO, OVM_E_FORMAT. Caller frees with ovm_genfile_fini. */
int ovm_state_load(struct ovm_ctx *ctx, const struct ovm_state *state, uint32_t idx,
		   struct ovm_genfile *out);

/* Before a switch: @want[i] of all generations. After it: did it happen? What cannot be written is
 * only logged: the process's memory tells it too. */
void ovm_state_plan(struct ovm_state *state, const bool *want);
void ovm_state_done(struct ovm_state *state, bool has_changed, double pause_ms);

/* What is armed needs @ratio of the time; 0: not known, as after every switch to something new. */
void ovm_state_measured(struct ovm_state *state, double ratio);

/* Remove all files of the process; the state has no generations then. */
void ovm_state_forget(struct ovm_state *state);

/* Remove all files of @pid, whatever is in them. OVM_REFUSED: there are none. Fails as
 * ovm_state_open. */
int ovm_state_remove(struct ovm_ctx *ctx, pid_t pid);

typedef OVM_VEC(struct ovm_state *) ovm_states;

/* All that are readable, ascending pid, not locked; files of processes that are gone, or have
 * exec'ed, are removed. @pid 0: all processes. */
void ovm_states_list(pid_t pid, ovm_states *out);
void ovm_states_fini(ovm_states *states);

/* statejson.c: the same as a document. False: not a state, nothing in @state is to be used but for
 * ovm_state_close. */
json_t *ovm_state_to_json(const struct ovm_state *state);
bool ovm_state_from_json(const json_t *json, struct ovm_state *state);

#endif
