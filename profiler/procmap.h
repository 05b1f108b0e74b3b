#ifndef OVM_PROCMAP_H
#define OVM_PROCMAP_H
/* Which file's code runs at this address of this process? Follows mmap, fork, exec and exit of any
 * number of processes. */
#include "base/addr.h"
#include "base/err.h"
#include "profiler/record.h"

#include <stdio.h>
#include <sys/types.h>

struct ovm_procmap;

struct ovm_procmap *ovm_procmap_new(void);
void ovm_procmap_free(struct ovm_procmap *map); /* accepts NULL */

/* Apply one MMAP, FORK, EXIT or COMM record (others are ignored). Records must come in order of
 * time. */
void ovm_procmap_apply(struct ovm_procmap *map, const struct ovm_sample *record);

/* Replace what is known of @pid by /proc/PID/maps. False if that cannot be read (the process is
 * gone, or not ours). */
bool ovm_procmap_scan(struct ovm_procmap *map, pid_t pid);

/* The same from @maps, text of that form: for tests and fuzzing. */
bool ovm_procmap_read(struct ovm_procmap *map, pid_t pid, FILE *maps);

/* Module index and link-time address of @rta in process @pid, or OVM_NONE: anonymous code, vdso, a
 * file that is gone or replaced. A process never heard of is scanned once. */
uint32_t ovm_procmap_resolve(struct ovm_procmap *map, pid_t pid, ovm_rta rta, ovm_va *va);

/* Modules are numbered from 0 in order of appearance and never go away. Two of them can have the
 * same id (two paths). */
uint32_t ovm_procmap_n_modules(const struct ovm_procmap *map);
const char *ovm_procmap_module_id(const struct ovm_procmap *map,
				  uint32_t module); /* borrowed; NULL if it is no usable file */
const char *ovm_procmap_module_path(const struct ovm_procmap *map, uint32_t module); /* borrowed */

/* Processes (pids) ever seen. */
uint64_t ovm_procmap_n_processes(const struct ovm_procmap *map);

#endif
