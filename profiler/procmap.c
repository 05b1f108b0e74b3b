/* Run-time address -> (module, link-time address), for every process of a tree.
 *
 * A sample says "pid 7, rip 0x55d0c3a41b2c". The same code sits elsewhere in the next run, so a
 * profile must speak of (build-id, link-time address) instead:
 *
 *   pid 7:  [55d0c3a40000, 55d0c3a58000) = /usr/bin/xz from file offset 0x3000
 *           0x55d0c3a41b2c -> file offset 0x4b2c -> PT_LOAD -> link-time 0x4b2c of build-id 5c22...
 *
 * Each process has its executable mappings in a sorted array: fork copies it, exec empties it, a
 * later mapping cuts holes into earlier ones. A process is forgotten when its last thread exits, so
 * a script with a million children stays small; a number of threads that is wrong because records
 * were lost costs a scan of /proc at worst.
 *
 * Files are identified when they are first mapped, once for each (path, build-id or device and
 * inode). The path alone is no proof: programs are replaced or deleted while they run, and other
 * mount namespaces have other files of that name. So each candidate (path, map_files, root, exe)
 * must show the build-id or inode the kernel reported, else its samples count as unmapped. File
 * systems that show another inode in mappings than stat does (overlayfs, btrfs) are believed when
 * the file's status has not changed since we started.
 */
#include "profiler/procmap.h"
#include "base/hash.h"
#include "base/vec.h"
#include "profiler/elfid.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

struct module {
	char *key;  /* path and identity; what the table is keyed by */
	char *path; /* without " (deleted)" */
	bool is_usable;
	struct ovm_elfid elf; /* if is_usable */
	uint32_t idx;
	UT_hash_handle hh;
};

struct mapping {
	uint64_t lo, hi;      /* run-time addresses */
	uint64_t file_offset; /* of lo */
	uint32_t module;      /* OVM_NONE: anonymous */
};

struct process {
	uint32_t pid;
	int64_t n_threads;
	OVM_VEC(struct mapping) maps; /* sorted, disjoint */
	UT_hash_handle hh;
};

struct ovm_procmap {
	struct process *processes; /* by pid */
	struct module *by_key;
	OVM_VEC(struct module *) modules;
	uint64_t n_processes;
	struct timespec start;
};

/* --- modules
 * -------------------------------------------------------------------------------------------------
 */

static bool has_prefix(const char *s, const char *prefix)
{
	return !strncmp(s, prefix, strlen(prefix));
}

/* Names the kernel gives to mappings that are no files of a file system. */
static bool is_file_path(const char *path)
{
	static const char *const others[] = {"//", "/memfd:", "/dev/", "/SYSV", "/anon_hugepage"};
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (has_prefix(path, others[i]))
			return false;
	return path[0] == '/';
}

static bool strip_deleted(char *path)
{
	static const char suffix[] = " (deleted)";
	size_t n = strlen(path), m = sizeof(suffix) - 1;
	if (n <= m || strcmp(path + n - m, suffix))
		return false;
	path[n - m] = 0;
	return true;
}

static bool is_older(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

/* Is the open file @st/@elf the one that @record says is mapped? @is_plain: reached by its own
 * path, not deleted. */
static bool is_same_file(const struct ovm_procmap *map, const struct ovm_sample *record,
			 const struct stat *st, const struct ovm_elfid *elf, bool is_plain)
{
	if (record->build_id) {
		char hex[2 * 20 + 1];
		ovm_elfid_hex(record->build_id, record->build_id_len, hex);
		return elf->has_build_id && !strcmp(hex, elf->id);
	}
	if (record->dev == (uint64_t)st->st_dev && record->inode == st->st_ino)
		return true;
	return is_plain && is_older(&st->st_ctim, &map->start);
}

/* Read @candidate into @module if it is the mapped file. */
static bool try_file(struct ovm_procmap *map, struct module *module,
		     const struct ovm_sample *record, const char *candidate, bool is_plain)
{
	struct ovm_ctx scratch;
	struct stat st;
	struct ovm_elfid elf = {0};
	int fd = open(candidate, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return false;
	ovm_ctx_init(&scratch);
	bool ok = !fstat(fd, &st) && S_ISREG(st.st_mode) &&
		  ovm_elfid_read(&scratch, fd, candidate, &elf) == OVM_OK;
	close(fd);
	if (ok && is_same_file(map, record, &st, &elf, is_plain)) {
		module->elf = elf;
		module->is_usable = true;
		return true;
	}
	if (ok)
		ovm_elfid_fini(&elf);
	return false;
}

static bool try_proc(struct ovm_procmap *map, struct module *module,
		     const struct ovm_sample *record, char *candidate)
{
	bool found = try_file(map, module, record, candidate, false);
	free(candidate);
	return found;
}

static void identify(struct ovm_procmap *map, struct module *module,
		     const struct ovm_sample *record, bool is_deleted)
{
	uint32_t pid = record->pid;
	(void)(try_file(map, module, record, module->path, !is_deleted) ||
	       try_proc(map, module, record,
			ovm_asprintf("/proc/%u/map_files/%" PRIx64 "-%" PRIx64, pid, record->addr,
				     record->addr + record->len)) ||
	       try_proc(map, module, record, ovm_asprintf("/proc/%u/root%s", pid, module->path)) ||
	       try_proc(map, module, record, ovm_asprintf("/proc/%u/exe", pid)));
}

static char *module_key(const struct ovm_sample *record)
{
	char hex[2 * 20 + 1];
	if (!record->build_id)
		return ovm_asprintf("%s|%" PRIx64 ":%" PRIx64, record->path, record->dev,
				    record->inode);
	ovm_elfid_hex(record->build_id, record->build_id_len, hex);
	return ovm_asprintf("%s|%s", record->path, hex);
}

/* The module an MMAP record speaks of, identified if it is new. OVM_NONE if it is no file. */
static uint32_t module_of(struct ovm_procmap *map, const struct ovm_sample *record)
{
	if (!record->path || !is_file_path(record->path))
		return OVM_NONE;
	char *key = module_key(record);
	struct module *module;
	HASH_FIND_STR(map->by_key, key, module);
	if (module) {
		free(key);
		return module->idx;
	}
	module = ovm_alloc(sizeof(*module));
	module->key = key;
	module->path = ovm_strdup(record->path);
	module->idx = map->modules.n;
	identify(map, module, record, strip_deleted(module->path));
	HASH_ADD_KEYPTR(hh, map->by_key, module->key, strlen(module->key), module);
	ovm_vec_push(&map->modules, module);
	return module->idx;
}

/* --- processes
 * -----------------------------------------------------------------------------------------------
 */

static struct process *process_find(struct ovm_procmap *map, uint32_t pid)
{
	struct process *process;
	HASH_FIND(hh, map->processes, &pid, sizeof(pid), process);
	return process;
}

static struct process *process_get(struct ovm_procmap *map, uint32_t pid)
{
	struct process *process = process_find(map, pid);
	if (process)
		return process;
	process = ovm_alloc(sizeof(*process));
	process->pid = pid;
	process->n_threads = 1;
	HASH_ADD(hh, map->processes, pid, sizeof(pid), process);
	map->n_processes++;
	return process;
}

static void process_drop(struct ovm_procmap *map, struct process *process)
{
	HASH_DEL(map->processes, process);
	ovm_vec_free(&process->maps);
	free(process);
}

/* Index of the first mapping that ends above @addr. */
static uint32_t mapping_at(const struct process *process, uint64_t addr)
{
	uint32_t lo = 0, hi = process->maps.n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (process->maps.v[mid].hi <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void mapping_insert(struct process *process, uint32_t at, struct mapping mapping)
{
	ovm_vec_push(&process->maps, mapping);
	memmove(&process->maps.v[at + 1], &process->maps.v[at],
		(process->maps.n - 1 - at) * sizeof(mapping));
	process->maps.v[at] = mapping;
}

/* Forget [@lo, @hi): what lies inside goes, what sticks out is cut. Returns where a mapping of that
 * range belongs. */
static uint32_t mapping_cut(struct process *process, uint64_t lo, uint64_t hi)
{
	uint32_t at = mapping_at(process, lo);
	if (at < process->maps.n && process->maps.v[at].lo < lo) {
		struct mapping *left = &process->maps.v[at++];
		struct mapping right = *left;
		left->hi = lo;
		if (right.hi > hi) { /* a hole in the middle */
			right.file_offset += hi - right.lo;
			right.lo = hi;
			mapping_insert(process, at, right);
			return at;
		}
	}
	uint32_t end = at;
	while (end < process->maps.n && process->maps.v[end].hi <= hi)
		end++;
	if (end > at) {
		memmove(&process->maps.v[at], &process->maps.v[end],
			(process->maps.n - end) * sizeof(struct mapping));
		process->maps.n -= end - at;
	}
	if (at < process->maps.n && process->maps.v[at].lo < hi) {
		process->maps.v[at].file_offset += hi - process->maps.v[at].lo;
		process->maps.v[at].lo = hi;
	}
	return at;
}

static void apply_mmap(struct ovm_procmap *map, const struct ovm_sample *record)
{
	uint64_t lo = record->addr, hi = lo + record->len;
	if (hi <= lo)
		return;
	struct process *process = process_get(map, record->pid);
	uint32_t at = mapping_cut(process, lo, hi);
	if (record->is_exec)
		mapping_insert(
		    process, at,
		    (struct mapping){lo, hi, record->file_offset, module_of(map, record)});
}

static void apply_fork(struct ovm_procmap *map, const struct ovm_sample *record)
{
	if (record->pid == record->ppid) { /* a thread */
		process_get(map, record->pid)->n_threads++;
		return;
	}
	struct process *old = process_find(map, record->pid);
	if (old) /* its exit was lost */
		process_drop(map, old);
	struct process *parent = process_find(map, record->ppid);
	struct process *child = process_get(map, record->pid);
	if (!parent || !parent->maps.n)
		return;
	ovm_vec_reserve(&child->maps, parent->maps.n);
	memcpy(child->maps.v, parent->maps.v, parent->maps.n * sizeof(struct mapping));
	child->maps.n = parent->maps.n;
}

static void apply_exit(struct ovm_procmap *map, const struct ovm_sample *record)
{
	struct process *process = process_find(map, record->pid);
	if (process && --process->n_threads <= 0)
		process_drop(map, process);
}

static void apply_exec(struct ovm_procmap *map, const struct ovm_sample *record)
{
	struct process *process = process_get(map, record->pid);
	process->maps.n = 0;
	process->n_threads = 1;
}

void ovm_procmap_apply(struct ovm_procmap *map, const struct ovm_sample *record)
{
	if (record->kind == OVM_RECORD_MMAP)
		apply_mmap(map, record);
	else if (record->kind == OVM_RECORD_FORK)
		apply_fork(map, record);
	else if (record->kind == OVM_RECORD_EXIT)
		apply_exit(map, record);
	else if (record->kind == OVM_RECORD_COMM && record->is_exec)
		apply_exec(map, record);
}

/* --- /proc
 * ---------------------------------------------------------------------------------------------------
 */

/* One line of /proc/PID/maps: "55d0c3a40000-55d0c3a58000 r-xp 00003000 fe:00 1234      /usr/bin/xz"
 */
static bool parse_line(char *line, struct ovm_sample *out)
{
	uint64_t lo, hi, offset, inode;
	unsigned int major, minor;
	char perms[5];
	int path = 0;
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &lo, &hi,
		   perms, &offset, &major, &minor, &inode, &path) != 7 ||
	    !path)
		return false;
	line[strcspn(line, "\n")] = 0;
	*out = (struct ovm_sample){.kind = OVM_RECORD_MMAP,
				   .addr = lo,
				   .len = hi - lo,
				   .file_offset = offset,
				   .dev = makedev(major, minor),
				   .inode = inode,
				   .is_exec = perms[2] == 'x',
				   .path = line + path};
	return true;
}

static int64_t count_threads(pid_t pid)
{
	struct stat st;
	char *path = ovm_asprintf("/proc/%d/task", (int)pid);
	int rc = stat(path, &st);
	free(path);
	return rc || st.st_nlink < 3 ? 1 : (int64_t)st.st_nlink - 2;
}

bool ovm_procmap_read(struct ovm_procmap *map, pid_t pid, FILE *maps)
{
	char *line = NULL;
	size_t cap = 0;
	struct ovm_sample record;

	struct process *process = process_get(map, (uint32_t)pid);
	process->maps.n = 0;
	process->n_threads = count_threads(pid);
	while (getline(&line, &cap, maps) > 0) {
		if (!parse_line(line, &record) || !record.is_exec)
			continue;
		record.pid = (uint32_t)pid;
		apply_mmap(map, &record);
	}
	free(line);
	return process->maps.n > 0;
}

bool ovm_procmap_scan(struct ovm_procmap *map, pid_t pid)
{
	char *name = ovm_asprintf("/proc/%d/maps", (int)pid);
	FILE *file = fopen(name, "re");

	free(name);
	if (!file)
		return false;
	bool ok = ovm_procmap_read(map, pid, file);
	fclose(file);
	return ok;
}

/* --- the rest of the public part
 * ----------------------------------------------------------------------------- */

uint32_t ovm_procmap_resolve(struct ovm_procmap *map, pid_t pid, ovm_rta rta, ovm_va *va)
{
	struct process *process = process_find(map, (uint32_t)pid);
	if (!process) {
		ovm_procmap_scan(map, pid);
		process = process_get(map, (uint32_t)pid); /* even if empty: scanned once */
	}
	uint32_t at = mapping_at(process, rta.v);
	if (at == process->maps.n || process->maps.v[at].lo > rta.v)
		return OVM_NONE;
	const struct mapping *mapping = &process->maps.v[at];
	if (mapping->module == OVM_NONE || !map->modules.v[mapping->module]->is_usable)
		return OVM_NONE;
	ovm_off off = ovm_off_of(mapping->file_offset + (rta.v - mapping->lo));
	if (!ovm_elfid_va(&map->modules.v[mapping->module]->elf, off, va))
		return OVM_NONE;
	return mapping->module;
}

uint32_t ovm_procmap_n_modules(const struct ovm_procmap *map)
{
	return map->modules.n;
}

const char *ovm_procmap_module_id(const struct ovm_procmap *map, uint32_t module)
{
	OVM_ASSERT(module < map->modules.n);
	return map->modules.v[module]->is_usable ? map->modules.v[module]->elf.id : NULL;
}

const char *ovm_procmap_module_path(const struct ovm_procmap *map, uint32_t module)
{
	OVM_ASSERT(module < map->modules.n);
	return map->modules.v[module]->path;
}

uint64_t ovm_procmap_n_processes(const struct ovm_procmap *map)
{
	return map->n_processes;
}

struct ovm_procmap *ovm_procmap_new(void)
{
	struct ovm_procmap *map = ovm_alloc(sizeof(*map));
	clock_gettime(CLOCK_REALTIME_COARSE, &map->start); /* the clock of file times */
	return map;
}

void ovm_procmap_free(struct ovm_procmap *map)
{
	if (!map)
		return;
	struct process *process, *next;
	HASH_ITER(hh, map->processes, process, next)
	process_drop(map, process);
	HASH_CLEAR(hh, map->by_key);
	for (uint32_t i = 0; i < map->modules.n; i++) {
		ovm_elfid_fini(&map->modules.v[i]->elf);
		free(map->modules.v[i]->key);
		free(map->modules.v[i]->path);
		free(map->modules.v[i]);
	}
	ovm_vec_free(&map->modules);
	free(map);
}
