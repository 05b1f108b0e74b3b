#ifndef OVM_LAUNCH_H
#define OVM_LAUNCH_H
/* Starts the program of `record` and `run` the way a wrapper must (interfaces.md, rules for a
 * wrapper). */
#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

struct ovm_launch {
	pid_t pid;
	const char *name; /* argv[0], borrowed: for messages */
	int go_fd;	  /* write end: one byte lets the child exec */
	int err_fd; /* read end: errno of a failed exec, or end of file after a successful one */
};

/* Fork a child that waits before execvp(argv). The caller sets up sampling, then calls
 * ovm_launch_go. */
int ovm_launch_start(struct ovm_ctx *ctx, char *const argv[], struct ovm_launch *out);

/* Let it exec. Returns 0, or a failure; *exit_status is then 126 (not executable) or
 * 127 (not found), and the child is reaped. Closes both descriptors. */
int ovm_launch_go(struct ovm_ctx *ctx, struct ovm_launch *launch, int *exit_status);

/* SIGINT and SIGQUIT from the terminal are ignored in the tool, TERM/HUP/USR1/USR2 forwarded once
 * to @pid. If the calling thread runs out of memory, the tool still waits for @pid and has its
 * status, so ovm_parallel starts no others. Undone by _release. */
void ovm_launch_signals(pid_t pid);
void ovm_launch_signals_release(void);

/* Has @child ended? Its end is taken and reaped, but not a stop that waits for its tracer (the same
 * process, see runtime/tracee.c). Never blocks. */
bool ovm_launch_reap(pid_t child, int *wstatus);

/* With @seconds > 0, between the two: then SIGTERM to the program, once. Did that happen? */
void ovm_launch_timeout(double seconds);
bool ovm_launch_timed_out(void);

/* Leave as the program did: returns its exit status, or raises its signal after PR_SET_DUMPABLE 0.
 * @wstatus from waitpid. */
int ovm_launch_exit_status(int wstatus);

#endif
