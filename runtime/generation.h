#ifndef OVM_GENERATION_H
#define OVM_GENERATION_H
/* Generations: overlays that are in a process together, armed or not, and the switch between them.
 *
 *   load     map, fill, plan jumps           all while the process runs; nothing leads there yet
 *   switch   stop, rewrite jumps, move PCs   want[i] says which generations are armed then
 *
 *   want        {0,0}        {1,0}           {0,1}           {0,0}
 *            original -> instrumented -> optimized -> original again
 *
 * Overlays are immortal (rule R7): a generation is never unloaded, only disarmed, and may be armed
 * again. Where several armed ones have a jump for the same place, the one loaded last wins.
 *
 * A thread whose PC is in a generation that is not to be armed is moved out, to the same state in
 * an armed one or in the original. Frames return to where they came from, but a return into an
 * instrumented copy finds a jump out behind the call (OVM_MAP_EXIT). Generations without EXIT
 * entries keep their frames until these return: harmless, but slower to leave. So does what is not
 * found on a stack (jmp_buf, coroutines, a stack below a handler on an alternate one), and the few
 * EXIT nops that cross a page.
 */
#include "runtime/builder.h"
#include "runtime/countmem.h"
#include "runtime/remote.h"
#include "runtime/tunables.h"

struct ovm_state;

struct ovm_exit {	 /* the 5-byte nop behind one copied call */
	uint32_t module; /* in built.modules */
	uint32_t off;	 /* in its overlay */
	ovm_va old;	 /* what the call returns to */
	ovm_rta to;	 /* a jump there stands over the nop; 0: the nop */
	bool is_listed;	 /* in generation->returns */
};

struct ovm_generation {
	struct ovm_built built; /* its overlays */
	struct ovm_patchset
	    jumps; /* of all modules, from original code; DROPPED: cannot be written */
	OVM_VEC(struct ovm_exit) exits; /* ascending (module, off); none crosses a page */
	OVM_VEC(uint32_t) returns;	/* exits ever found on a stack; room for all is reserved */
	struct ovm_countmem
	    counters; /* a copy of the caller's, without its ownership; fd -1: none */
	uint64_t counter_idx[OVM_RT_MAX_MODULES]; /* in counters.v: counter 0 of each module */
	bool is_armed;
};

struct ovm_generations {	   /* what we have put into one process */
	struct ovm_tracee *tracee; /* borrowed */
	struct ovm_livemap *map;   /* borrowed; its modules must not change */
	OVM_VEC(struct ovm_generation)
	v;			     /* in order of loading; indices are stable, pointers are not */
	struct ovm_patchset applied; /* jumps that are in the original code now, ascending */
	struct ovm_unwindhook hook;
	struct ovm_live_patch hook_jump;
	bool has_hook;	     /* the pages are filled */
	bool is_hook_active; /* the jump is written; it stays for ever, for frames in overlays */
	OVM_VEC(struct ovm_remote) stubs; /* to be cleared at a stop */
	bool is_view;			  /* built is borrowed from another set */
	int remote_ms; /* how long a load waits for a thread that runs; 0: the default */
	struct ovm_state
	    *state; /* borrowed; where loads and switches are written down, NULL: nowhere
		     */
};

struct ovm_switch_result {
	uint32_t n_patches;  /* jumps in original code now */
	uint32_t n_written;  /* of them new or changed; restored ones are counted apart */
	uint32_t n_restored; /* places that hold original bytes again */
	uint32_t n_dropped;  /* wanted but left out: bytes of somebody else, a thread or stack
				forbade it */
	uint32_t n_stuck;    /* unwanted, but somebody else's bytes are there: left alone */
	uint32_t n_threads, n_moved; /* stopped; moved to other code */
	uint32_t n_left;  /* threads whose PC is in a disarmed generation and could not be moved */
	uint32_t n_exits; /* jumps written over EXIT nops, or taken back */
	double pause_ms;  /* from the first interrupt to the last resume */
};

/* @tracee, @map (with modules; loads reserve their places in it) are borrowed until fini. fini
 * frees our memory, the process keeps everything as it is. */
void ovm_generations_init(struct ovm_generations *set, struct ovm_tracee *tracee,
			  struct ovm_livemap *map);
void ovm_generations_fini(struct ovm_generations *set);

/* Bytes of counters that @built needs: whole pages for each module. 0: it has none. */
uint64_t ovm_built_counter_bytes(const struct ovm_built *built);

/* Put @built into the process, disarmed, while it runs. Moved in on success (*built is then empty),
 * the caller's still on failure. @counters: NULL if no overlay has any, else at least
 * ovm_built_counter_bytes; each module's slice is mapped at overlay.counters + bias, which must be
 * page-aligned and was placed with ovm_codemem_place. Must stay open until the next ovm_switch has
 * returned. *idx: into set->v. Fails: OVM_E_TARGET (nowhere to map, or the target may not open the
 * counters: other namespaces, other user), OVM_E_GONE, OVM_E_PERM, OVM_E_IO (the state cannot be
 * written): the process is as it was, but for unused memory. */
int ovm_generation_load(struct ovm_ctx *ctx, struct ovm_generations *set, struct ovm_built *built,
			const struct ovm_countmem *counters, uint32_t *idx);

/* Add a generation that is in the process already, loaded by another optvm; @set->tracee's memory
 * is open. *built is moved in. Which of its jumps and exits are written is read from there, and
 * tells whether it is armed. @counters: not open, only named. */
void ovm_generation_adopt(struct ovm_generations *set, struct ovm_built *built,
			  const struct ovm_countmem *counters);

/* Counters of module @module of a generation: an array of overlay.n_counters. NULL if it has none.
 */
const uint64_t *ovm_generation_counters(const struct ovm_generation *gen, uint32_t module);

/* One stop; afterwards set->v.v[i].is_armed == want[i] for all i < set->v.n. Tries again if not all
 * threads can be stopped within @max_pause_ms. Fails: OVM_E_TARGET, OVM_E_GONE, OVM_E_PERM: nothing
 * has changed. Afterwards the caller looks at tracee->ended and calls ovm_tracee_service until it
 * returns false. */
int ovm_switch(struct ovm_ctx *ctx, struct ovm_generations *set, const bool *want, int max_pause_ms,
	       struct ovm_switch_result *out);

/* The same with only generation @idx armed; OVM_NONE: none, the original. */
int ovm_switch_to(struct ovm_ctx *ctx, struct ovm_generations *set, uint32_t idx, int max_pause_ms,
		  struct ovm_switch_result *out);

/* The original of what @at, in some overlay, is a copy of; 0: in none. */
ovm_rta ovm_generations_original(const struct ovm_generations *set, ovm_rta at);

/* @bytes were read from [at, at + n) of the process: make them what they would be without our jumps
 * (the unwinder's included). For builders that compare memory with the file. */
void ovm_generations_unpatch(const struct ovm_generations *set, ovm_rta at, uint8_t *bytes,
			     size_t n);

#endif
