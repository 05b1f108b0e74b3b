#ifndef OVM_ATTACH_H
#define OVM_ATTACH_H
/* A process that nobody started for us: optimize it and let go; later, give it its original code
 * back. Neither leaves a tracer, a stopped thread or a process of ours behind. */
#include "runtime/round.h"

struct ovm_attach_opts {
	struct ovm_sampler_opts sampler;
	struct ovm_round_opts round;
	const char *save_profile; /* NULL: none */
	const char *report;	  /* JSON report file, NULL: none */
	unsigned max_rounds; /* more than 1: stay until so many are done, it ends, or a signal */
};

/* One round on process @pid. If SIGINT, SIGTERM or SIGHUP comes before it is patched, *signal is
 * that, the process runs on as before, and a failure is returned; else *signal is 0. OVM_REFUSED:
 * nothing worth it. Fails: OVM_E_USAGE (ourselves, a thread), OVM_E_GONE, OVM_E_PERM, OVM_E_TARGET,
 * and as ovm_sampler_open, ovm_round_run. */
int ovm_attach(struct ovm_ctx *ctx, const struct ovm_attach_opts *opts, pid_t pid,
	       struct ovm_round_result *result, int *signal);

struct ovm_detach_result {
	uint32_t n_restored; /* places in the code; 0: there was nothing to restore */
	uint32_t n_threads, n_moved;
	double pause_ms;
};

/* Put the original code back, wherever our jumps stand, and move threads there. The overlays stay,
 * for frames that return into them, and so do the few bytes by which unwinders find them. Works
 * also if the optvm that changed the process was killed at any moment. @max_pause_ms 0: the
 * default. OVM_REFUSED: it was not changed. Fails: OVM_E_GONE, OVM_E_PERM, OVM_E_TARGET (also: some
 * places hold bytes of somebody else), OVM_E_FORMAT, OVM_E_IO. */
int ovm_detach(struct ovm_ctx *ctx, pid_t pid, unsigned max_pause_ms,
	       struct ovm_detach_result *result);

/* Changes nothing. What a forked process has inherited is remembered as its own, and what is
 * remembered made what is in its memory. OVM_REFUSED: it has nothing. Fails as ovm_detach. */
int ovm_refresh(struct ovm_ctx *ctx, pid_t pid);

#endif
