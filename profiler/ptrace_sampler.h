#ifndef OVM_PTRACE_SAMPLER_H
#define OVM_PTRACE_SAMPLER_H
/* The sampler for places without perf_event: interrupts running threads by a timer and reads their
 * PCs. The contracts are those of sampler.h; all calls come from one thread. */
#include "profiler/tally.h"

struct ovm_ptrace_sampler;

struct ovm_ptrace_who {
	pid_t pid;
	bool is_running;     /* from now on, not from its exec on */
	pid_t child;	     /* of ours: its end is kept for _has; 0 none */
	const pid_t *others; /* to be sampled too, [n_others] */
	uint32_t n_others;
};

/* @tally is borrowed until close. @frequency 0: the default. */
int ovm_ptrace_sampler_open(struct ovm_ctx *ctx, struct ovm_tally *tally, uint64_t frequency,
			    const struct ovm_ptrace_who *who, struct ovm_ptrace_sampler **out);
int ovm_ptrace_sampler_drain(struct ovm_ctx *ctx, struct ovm_ptrace_sampler *sampler,
			     int timeout_ms);
bool ovm_ptrace_sampler_wait(const struct ovm_ptrace_sampler *sampler); /* has @pid ended? */
/* Has it got the end of the child? *wstatus is that. Afterwards, or once it is stopped, waitpid is
 * the caller's again. */
bool ovm_ptrace_sampler_has(const struct ovm_ptrace_sampler *sampler, int *wstatus);
uint64_t ovm_ptrace_sampler_frequency(const struct ovm_ptrace_sampler *sampler); /* measured, Hz */
void ovm_ptrace_sampler_stop(struct ovm_ptrace_sampler *sampler); /* detaches from every thread */
void ovm_ptrace_sampler_close(struct ovm_ptrace_sampler *sampler);

#endif
