#ifndef OVM_SESSION_H
#define OVM_SESSION_H
/* One live optimization: launch -> sample -> count in instrumented copies -> build overlays in the
 * background -> stop, patch, move PCs, resume. */
#include "profiler/sampler.h"
#include "rewriter/engine.h"

struct ovm_session_opts {
	struct ovm_sampler_opts sampler;
	unsigned sample_ms;   /* CPU time of the target to sample before building; 0: the default */
	uint64_t min_samples; /* fewer: do nothing (rule R12); 0: the default */
	unsigned max_pause_ms;	  /* 0: the default */
	const char *save_profile; /* NULL: none */
	const char *report;	  /* JSON report file, NULL: none */
	bool uniform;		  /* tests: copy every region of every module that has samples */
	const char *only, *skip;  /* globs over module paths, NULL: none */
	bool strict;
	bool no_counters; /* samples only */
};

struct ovm_session_result { /* for the summary line */
	int wstatus;	    /* of the program */
	uint32_t n_modules, n_regions, n_patches, n_threads, n_moved;
	uint64_t overlay_bytes;
	uint32_t n_counted;		  /* regions with exact counts, 0: samples only */
	double counted_ms;		  /* for which they ran instrumented */
	double pause_ms, patched_after_s; /* since the program's start */
	char why_not[200];		  /* empty if patched */
};

/* Run @argv to its end. Returns 0 (result->wstatus is the program's) even if nothing could be
 * optimized; a failure only if the program could not be started: *exit_status is then 125, 126 or
 * 127. */
int ovm_session_run(struct ovm_ctx *ctx, const struct ovm_session_opts *opts, char *const argv[],
		    struct ovm_session_result *result, int *exit_status);

#endif
