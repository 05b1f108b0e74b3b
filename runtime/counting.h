#ifndef OVM_COUNTING_H
#define OVM_COUNTING_H
/* Exact counts of a running process, by instrumented copies that are armed for short windows. */
#include "profiler/sampler.h"
#include "runtime/generation.h"
#include "runtime/stock.h"

struct ovm_counting_opts {
	struct ovm_target_opts targets; /* is_counting and counted are set here */
	unsigned max_pause_ms;
	unsigned n_windows; /* then it is done; 0: as many as the budget of time allows */
	bool is_whole;	    /* never disarm: one window to the end */
	bool at_once;	    /* enough has been sampled already, in other processes */
};

struct ovm_counting_stats {
	uint32_t n_generations, n_windows;
	uint32_t n_regions, n_counters;		 /* instrumented */
	double armed_ms, pause_ms, max_pause_ms; /* sums and the longest single one */
	char why_not[200];			 /* nothing was counted; empty if something was */
};

struct ovm_counting;

/* @set: of the process to count in; borrowed, as are its tracee and map. @before: what was counted
 * in other processes, so that copies of the same code are made at once; borrowed, NULL: nothing.
 * @stock: what was built for them, and the pace of all; borrowed, NULL: there are no others.
 * Nothing happens until the first step. */
struct ovm_counting *ovm_counting_new(struct ovm_generations *set,
				      const struct ovm_counting_opts *opts,
				      const struct ovm_profile *before, struct ovm_stock *stock);
void ovm_counting_free(struct ovm_counting *counting); /* accepts NULL; disarm first */

/* Instead of the first step, for a process that is held at its start (runtime/startgate.h): count
 * in all that @known knows, from there on. Blocks until the copies are built and armed; then, or if
 * nothing comes of it, the process runs. */
void ovm_counting_start(struct ovm_ctx *ctx, struct ovm_counting *counting,
			const struct ovm_profile *known);

/* Do what is due: start or fetch a build, open or close a window. To be called every few
 * milliseconds (ovm_counting_patience) with what was sampled so far, normalized, and the CPU time
 * of the process. Blocks for the pauses only. Never fails: what goes wrong ends the counting and
 * stands in why_not. */
void ovm_counting_step(struct ovm_ctx *ctx, struct ovm_counting *counting,
		       struct ovm_sampler *sampler, uint64_t cpu_ms);

/* How long the next step may wait, ms. */
int ovm_counting_patience(const struct ovm_counting *counting);

/* True if no step will do anything any more: all windows are over, or it cannot be done. */
bool ovm_counting_is_done(const struct ovm_counting *counting);

/* Close the open window if there is one: the process then runs its original code. */
void ovm_counting_stop(struct ovm_ctx *ctx, struct ovm_counting *counting);

/* The builder that stayed (opts.targets.stays), to order optimized code from; the caller closes it.
 * False: there is none, or nothing was counted. When no window is open. */
bool ovm_counting_take_builder(struct ovm_counting *counting, struct ovm_builder *out);

/* The process has ended, its counts are read: what was built for it, or is being built, goes to the
 * stock. Its map (set->map) too, if need be: free the set, not the map's modules. */
void ovm_counting_leave(struct ovm_counting *counting);

/* Add the exact edges counted so far to @into (normalized afterwards). Also after the process has
 * ended. */
void ovm_counting_profile(const struct ovm_counting *counting, struct ovm_profile *into);

const struct ovm_counting_stats *ovm_counting_stats(const struct ovm_counting *counting);

#endif
