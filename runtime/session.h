#ifndef OVM_SESSION_H
#define OVM_SESSION_H
/* One live optimization: launch -> sample -> count in instrumented copies -> build overlays in the
 * background -> stop, patch, move PCs, resume. */
#include "runtime/round.h"

struct ovm_session_opts {
	struct ovm_sampler_opts sampler;
	struct ovm_round_opts round;
	const char *save_profile; /* NULL: none */
	const char *report;	  /* JSON report file, NULL: none */
	double timeout;		  /* seconds; then the program is told to end; 0: never */
	bool strict;
	unsigned max_rounds; /* without follows_exec; at least 1 */
	bool follows_exec;   /* programs that it execs, and its children do, are optimized too */
};

struct ovm_session_result {
	int wstatus;		       /* of the program */
	struct ovm_round_result round; /* of the process that was optimized last, or tried */
	uint32_t n_processes;	       /* follows_exec: that had a round */
	uint32_t n_optimized;	       /* of them; the others were left as they were */
};

/* Run @argv to its end. Returns 0 (result->wstatus is the program's) even if nothing could be
 * optimized; a failure only if the program could not be started: *exit_status is then 125, 126 or
 * 127. */
int ovm_session_run(struct ovm_ctx *ctx, const struct ovm_session_opts *opts, char *const argv[],
		    struct ovm_session_result *result, int *exit_status);

#endif
