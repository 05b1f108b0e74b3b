#ifndef OVM_ROUND_H
#define OVM_ROUND_H
/* One round of optimization on a process that runs: sample, count, build in the background, switch.
 * What `run` and `attach` have in common. */
#include "analyzer/footprint.h"
#include "profiler/sampler.h"
#include "runtime/adopt.h"
#include "runtime/family.h"
#include "runtime/measure.h"

struct ovm_round_opts {
	unsigned sample_ms; /* CPU time of the process to sample before building; 0: the default */
	double duration;    /* instead: so many seconds by the clock; 0: no */
	uint64_t min_samples;	 /* fewer: do nothing (rule R12); 0: the default */
	unsigned max_pause_ms;	 /* 0: the default */
	uint32_t passes;	 /* set of enum ovm_pass */
	bool uniform;		 /* tests: copy every region of every module that has samples */
	const char *only, *skip; /* globs over module paths, NULL: none */
	bool no_counters;	 /* samples only */
	bool always;		 /* whatever is predicted, and without measuring by gauges */
	const char *metric;	 /* a command to measure by, see measure.h; NULL: none */
	int status_fd;		 /* where events go (events.h); 0: nowhere */
};

struct ovm_round_result { /* for the summary line */
	uint32_t n_modules, n_regions, n_patches, n_threads, n_moved;
	uint64_t overlay_bytes;
	uint32_t n_counted;		  /* regions with exact counts, 0: samples only */
	double counted_ms;		  /* for which they ran instrumented */
	uint64_t cost_ms;		  /* CPU time of ours */
	double pause_ms, patched_after_s; /* since round->started_ms */
	unsigned n_rounds;		  /* with one of which it was optimized */
	bool is_again;			  /* nothing was built, what was there is armed again */
	struct ovm_footprint footprint;	  /* what was predicted from; n_samples 0: nothing was */
	struct ovm_measured measured;	  /* n_pairs 0: was not */
	uint32_t n_others;		  /* further processes of the same image that have it too */
	uint32_t n_others_left;		  /* and such that were left as they were */
	char why_not[200];		  /* empty if patched */
};

struct ovm_round {
	/* to be set by the caller, after ovm_round_init */
	const struct ovm_round_opts *opts; /* borrowed */
	pid_t pid;
	int watch_fd; /* pidfd: readable when the process has ended; -1 none */
	pid_t root; /* the tree in which processes forked from @pid, or it from them, are looked for
		     */
	double started_ms;    /* see ovm_now_ms */
	const char *by;	      /* for the state: "run" or "attach"; NULL: only to undo */
	bool is_running;      /* it ran before the round: its time counts from now on */
	bool needs_state;     /* nothing without a place to remember it in */
	unsigned patience_ms; /* for a process that hardly computes; 0: without end */
	const struct ovm_sampler_opts *sampling; /* how; borrowed */
	pid_t child;				 /* see ovm_sampler_opts */
	struct ovm_sampler *sampler;		 /* open from ovm_round_run on; borrowed */
	bool (*is_over)(void *arg); /* the process has ended, or we shall: asked often */
	void *arg;

	/* results */
	struct ovm_round_result result;
	struct ovm_profile *profile; /* samples and counts, once counting is over; NULL: none */
	struct ovm_profile *samples; /* of the last round alone */
	struct ovm_profile *past;    /* profiles of rounds before; NULL: there were none */
	struct ovm_builder builder;  /* at work, or staying; pid 0: none */
	bool root_ended; /* seen while @root was stopped: if it is our child its status is taken */
	int root_wstatus;
	uint64_t ended_cpu_ms; /* CPU time of @pid when the last round was over */
	uint32_t final;	       /* in set: what is armed, OVM_NONE: nothing was */

	/* the process, once looked at */
	struct ovm_tracee tracee;
	struct ovm_livemap map;
	struct ovm_generations set;
	struct ovm_adopted adopted;
	struct ovm_state *state; /* NULL: none could be had */
	ovm_family before;	 /* it and its kin when the round began */
	ovm_family now;		 /* and some time later */
	double kin_at;		 /* when that was */
};

void ovm_round_init(struct ovm_round *round, pid_t pid);
void ovm_round_fini(struct ovm_round *round); /* the process keeps what it has */

/* Look at the process: may it be changed, what is mapped, what has been done to it by whom? Copies
 * that another optvm was counting with when it was killed are disarmed. May be repeated. Fails:
 * OVM_E_TARGET, OVM_E_PERM, OVM_E_GONE, OVM_E_IO, OVM_E_FORMAT. Only to undo: OVM_REFUSED if
 * nothing was done. */
int ovm_round_look(struct ovm_ctx *ctx, struct ovm_round *round);

/* The round. If forked processes of the same image are busier than @round->pid, it is the busiest
 * that is optimized first, and is @round->pid afterwards; then the others get the same (spread.h).
 * Returns 0, OVM_REFUSED (message in ctx: nothing worth it) or a failure; in all these
 * cases but 0 the process runs what it ran before, and the caller explains. */
int ovm_round_run(struct ovm_ctx *ctx, struct ovm_round *round);

/* @tracee is to be closed. If it is of @round->root, and that ended meanwhile, it is remembered. */
void ovm_round_end_of_root(struct ovm_round *round, const struct ovm_tracee *tracee);

/* Sample the process and its kin as round->sampling says. @frequency 0: as there, else the default.
 * @no_ptrace: see sampler.h. Fails as ovm_sampler_open. */
int ovm_round_open_sampler(struct ovm_ctx *ctx, struct ovm_round *round, uint64_t frequency,
			   bool no_ptrace, struct ovm_sampler **out);

/* What was sampled in the last round is kept in round->samples and round->profile, and the sampler
 * closed. */
void ovm_round_end_sampling(struct ovm_ctx *ctx, struct ovm_round *round);

/* All rounds together, for the user to keep. Caller frees; NULL: nothing. */
struct ovm_profile *ovm_round_profile(const struct ovm_round *round);

/* Give back what is known of the process; results and profile stay. */
void ovm_round_forget(struct ovm_round *round);

/* Wait until no thread is half stopped, at most for a few seconds. */
void ovm_round_settle(struct ovm_round *round);

/* Bring what @from has built into @to's process, a fork of the same image, and arm it. @to: looked
 * at. OVM_REFUSED: it cannot be the same there. Fails as ovm_round_run. */
int ovm_round_copy(struct ovm_ctx *ctx, struct ovm_round *to, const struct ovm_round *from);

/* What was built and is armed, NULL if nothing. */
const struct ovm_built *ovm_round_built(const struct ovm_round *round);

#endif
