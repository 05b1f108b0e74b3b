#ifndef OVM_FAMILY_H
#define OVM_FAMILY_H
/* A process and what it has started, and which of them run the same image. */
#include "base/vec.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What an exec gives a program and forks inherit (family.c): equal in processes that were forked
 * from one another since, different after an exec. */
struct ovm_image_mark {
	bool is_known;
	uint8_t bytes[16];
};

/* False, and a mark that is not known, if the process is gone or may not be looked at. */
bool ovm_image_mark_read(pid_t pid, struct ovm_image_mark *out);
bool ovm_image_mark_same(const struct ovm_image_mark *a, const struct ovm_image_mark *b);

struct ovm_relative {
	pid_t pid;
	unsigned long long start; /* as /proc/PID/stat counts */
	uint64_t cpu_ms;	  /* used so far, by all its threads */
};
typedef OVM_VEC(struct ovm_relative) ovm_family;

/* @root and all processes descended from it that have not ended, parents before their children.
 * Empty if @root has ended. Caller frees with ovm_vec_free. */
void ovm_family_list(pid_t root, ovm_family *out);

/* Of these only the ones that run the same image as @pid: @pid first, if it lives. */
void ovm_family_kin(pid_t root, pid_t pid, ovm_family *out);

/* Was OPTVM=off in its environment when it was exec'ed? */
bool ovm_process_opted_out(pid_t pid);

#endif
