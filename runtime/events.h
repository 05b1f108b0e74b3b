#ifndef OVM_EVENTS_H
#define OVM_EVENTS_H
/* --status-fd: what happens, when it happens, for a program to read. One JSON object a line:
 *
 *   {"schema": "optvm.events/1", "time": 1700000000.123, "event": "optimized", "pid": 4711, ...}
 *
 *   started    the program runs, or the process was attached to
 *   sampled    samples: so many were taken; counting and building begin
 *   optimized  regions, patches, pause_ms; time_ratio, if it was measured; like: the process it was
 *              built for, if that is another one
 *   left       why: the process goes on as it was before the round
 *   ended      exit_status or signal: the program; neither: we let go of the process
 */
#include "runtime/round.h"

/* @fd 0: none. The program that we start must not inherit it. OVM_E_USAGE: it is not open. */
int ovm_events_setup(struct ovm_ctx *ctx, int fd);

/* A reader that is gone, or full, is no trouble. @fd 0: nothing. */
void ovm_event_started(int fd, pid_t pid);
void ovm_event_sampled(int fd, pid_t pid, uint64_t n_samples);
void ovm_event_round(int fd, const struct ovm_round *round, const char *why); /* NULL: optimized */
void ovm_event_also(int fd, pid_t pid, pid_t like);
void ovm_event_ended(int fd, pid_t pid, const int *wstatus); /* NULL: let go */

#endif
