#ifndef OVM_SAMPLER_H
#define OVM_SAMPLER_H
/* Samples a process tree and folds what it sees into a profile.
 *
 * perf_event (attributes from libpfm4) where permitted, else a ptrace/timer sampler; the profile
 * says which. One object serves `record` (drain until the end) and `run` (drain for a while, take
 * the profile, go on).
 */
#include "profiler/profile.h"

#include <sys/types.h>

enum ovm_branch_stack {
	OVM_BRANCH_STACK_AUTO, /* where the event has them */
	OVM_BRANCH_STACK_ON,   /* fail without; may choose another event if none was asked for */
	OVM_BRANCH_STACK_OFF,
};

struct ovm_sampler_opts {
	const char *event;  /* libpfm4 name; NULL: "cycles" if the PMU works, else "cpu-clock" */
	uint64_t frequency; /* Hz per CPU; 0: the default; a ptrace sampler does at most 200 */
	enum ovm_branch_stack branch_stack; /* the profile's source tells: "perf_event+branches" */
	bool force_ptrace; /* use the ptrace sampler even if perf_event works (tests) */
	bool no_ptrace;	   /* fail where perf_event is not permitted */
	const pid_t
	    *others; /* more running processes to sample, [n_others]; borrowed for the open */
	uint32_t n_others;
	pid_t
	    child; /* a child of ours whose end ovm_sampler_reap tells, if it is not @pid itself */
	/* Asked about addresses of process @pid that no file claims: which code is a copy of that
	 * there? 0: none that is known. NULL: there are no copies. */
	ovm_rta (*original)(void *arg, pid_t pid, ovm_rta at);
	void *arg;
};

struct ovm_sampler;

/* Sample @pid and all its future threads and children. @pid is either a child of ours that has not
 * exec'ed yet (counting begins with its exec) or a running process (@is_running: all its threads
 * are opened one by one). Where perf_event is not permitted, the ptrace sampler takes over with one
 * warning. Fails: OVM_E_PERM (names kernel.perf_event_paranoid and what to type),
 * OVM_E_UNAVAILABLE (also: branch stacks are a must and there are none), OVM_E_USAGE (unknown
 * event), OVM_E_GONE. */
int ovm_sampler_open(struct ovm_ctx *ctx, const struct ovm_sampler_opts *opts, pid_t pid,
		     bool is_running, struct ovm_sampler **out);

/* Wait at most @timeout_ms for a ring to fill, drain every ring, decode, fold. Returns 0, or a
 * failure. Call at least every 100 ms, from the thread that opened the sampler. Records of the last
 * milliseconds may be held back until the next drain (rings of different CPUs are merged in order
 * of time). */
int ovm_sampler_drain(struct ovm_ctx *ctx, struct ovm_sampler *sampler, int timeout_ms);

/* What was seen so far, normalized; borrowed until the next call of this function or of
 * ovm_sampler_close. */
struct ovm_profile *ovm_sampler_profile(struct ovm_sampler *sampler);

/* Has the sampled process @pid ended? Never blocks. For a child of ours *wstatus gets what waitpid
 * reports, and the child is reaped; for another's process it gets 0. Callers with a sampler use
 * this, not waitpid: a ptrace sampler has to take all waitpid reports for itself. Drains return
 * early when the process ends. */
bool ovm_sampler_wait(struct ovm_sampler *sampler, int *wstatus);

/* The same for the child of ours that opts->child named, whatever is sampled: reaped, *wstatus is
 * its own. */
bool ovm_sampler_reap(struct ovm_sampler *sampler, int *wstatus);

/* The process seen most often so far for which @is_wanted(arg, pid) is true, 0 if there is none. */
pid_t ovm_sampler_busiest(const struct ovm_sampler *sampler,
			  bool (*is_wanted)(void *arg, pid_t pid), void *arg);

/* Samples of user code so far, of all processes. */
uint64_t ovm_sampler_n_samples(const struct ovm_sampler *sampler);

/* Does it sample by ptrace? Then threads wait for its drains. */
bool ovm_sampler_is_tracer(const struct ovm_sampler *sampler);

/* Disable the events (a ptrace sampler lets go of every thread). Draining still works and then
 * holds nothing back. */
void ovm_sampler_stop(struct ovm_sampler *sampler);

/* From now on only @frequency samples a second, each of which counts as much as one before. Threads
 * that were born since the sampler was opened keep their rate; so does everybody where this cannot
 * be changed (ptrace, events with a fixed period). */
void ovm_sampler_slow_down(struct ovm_sampler *sampler, uint64_t frequency);

void ovm_sampler_close(struct ovm_sampler *sampler); /* accepts NULL */

#endif
