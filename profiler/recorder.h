#ifndef OVM_RECORDER_H
#define OVM_RECORDER_H
/* The work of `optvm record`: launch or find a program, sample it to its end, hand out the profile.
 */
#include "profiler/sampler.h"

/* What else is done with the process while it is sampled: counting, see runtime/countrec.h. */
struct ovm_recorder_hook {
	/* A launched program: before its exec, when the sampler is open, and after it. */
	void (*prepare)(void *arg, pid_t pid);
	void (*begin)(void *arg);
	/* After every drain. True if the process was seen to end: *wstatus is its status. */
	bool (*step)(void *arg, struct ovm_sampler *sampler, pid_t pid, int *wstatus);
	int (*patience)(void *arg); /* ms until the next step is due */
	/* Sampling is over, the process may go on: leave it as it was, add to the profile. */
	void (*finish)(void *arg, struct ovm_profile *into);
	void *arg;
};

struct ovm_recorder_opts {
	struct ovm_sampler_opts sampler;
	const struct ovm_recorder_hook *hook; /* NULL: none */
	/* Work that may be done while nothing is urgent, some 10 ms at a time. NULL: none */
	void (*spare)(void *arg, struct ovm_sampler *sampler);
	void *spare_arg;
	double duration; /* seconds of sampling, 0: until the program ends. A launched program then
			    goes on unsampled */
};

/* Run @argv to its end and sample it and its children. *wstatus is the program's, from waitpid;
 * *profile is the caller's (ovm_profile_free), NULL if sampling failed after the program was
 * started.
 *
 * Returns 0 if the program ran. If something failed but the program ran all the same, ctx->err and
 * ctx->msg say what (OVM_OK if nothing did). A failure is returned only if the program did not run:
 * *exit_status is then 125, 126 or 127. */
int ovm_record_command(struct ovm_ctx *ctx, const struct ovm_recorder_opts *opts,
		       char *const argv[], struct ovm_profile **profile, int *wstatus,
		       int *exit_status);

/* Sample the running process @pid until it ends, the duration is over, or SIGINT or SIGTERM comes.
 */
int ovm_record_process(struct ovm_ctx *ctx, const struct ovm_recorder_opts *opts, pid_t pid,
		       struct ovm_profile **profile);

#endif
