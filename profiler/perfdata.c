/* perf.data -> profile.
 *
 * perf drains the rings of all CPUs in turn, so its file is sorted within each CPU only, while a
 * sample can be resolved only after the mmap that came before it on another CPU:
 *
 *   in the file:  cpu 0: mmap t=5, sample t=9 | cpu 1: fork t=3, sample t=7 | round | ...
 *   applied:      fork 3, mmap 5, sample 7, sample 9 ...
 *
 * perf marks rounds so that a reader can sort a part at a time. We read a whole file anyway (the
 * build-ids of what was mapped stand at its end), so everything is sorted at once; records of equal
 * time keep their order, and what perf itself wrote about processes that ran already has time 0.
 *
 * Then it is the sampler's work over again: procmap follows the processes, the tally counts. But
 * the processes are long gone, and their pids may belong to others by now, so procmap must never
 * meet a pid it has not heard of, because it would look into /proc. It is told of a new, empty
 * process first; `struct task` is who it knows.
 *
 * Several events: PC samples are to say where time goes. If one event counts time (cycles, clocks)
 * then only those; a page fault is no second of work. Branch stacks are facts whatever event they
 * came with.
 */
#define OVM_LOG_DOMAIN "perfdata"
#include "profiler/perfdata.h"
#include "base/log.h"
#include "profiler/perfdata_file.h"
#include "profiler/tally.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	CHUNK = 1 << 20,
	/* Executable mappings of one process and of all that live at one time, as damaged files can
	 * claim any number; the kernel's default limit is 65530 a process, of all kinds. */
	MAX_TASK_MAPS = 1 << 18,
	MAX_MAPS = 1 << 25,
};

static const uint64_t max_file = UINT64_C(4) << 30;

/* A process that procmap knows. It ends with its last thread, but not before its first: when perf
 * attaches, some threads are missed, and only their exits are seen. Procmap is not told of threads.
 */
struct task {
	uint32_t pid;
	bool is_headless; /* the first thread has ended */
	int64_t n_threads;
	uint64_t n_maps; /* at most */
	UT_hash_handle hh;
};

struct import {
	struct ovm_perfdata_file file;
	struct ovm_tally tally;
	struct task *tasks; /* by pid */
	uint64_t n_maps;    /* of all tasks */
	bool has_clock;	    /* one event counts time */
	uint64_t n_applied;
};

/* --- events --- */

static const char *const hardware[] = {"cycles",
				       "instructions",
				       "cache-references",
				       "cache-misses",
				       "branches",
				       "branch-misses",
				       "bus-cycles",
				       "stalled-cycles-frontend",
				       "stalled-cycles-backend",
				       "ref-cycles"};
static const char *const software[] = {"cpu-clock",	   "task-clock",     "page-faults",
				       "context-switches", "cpu-migrations", "minor-faults",
				       "major-faults"};

#define N_ELEMENTS(array) (sizeof(array) / sizeof((array)[0]))
#define HARDWARE_EVENT UINT32_MAX /* the config's rest tells kinds of cores apart */

static bool is_clock(const struct ovm_perfdata_attr *attr)
{
	uint64_t event = attr->config & HARDWARE_EVENT;
	if (attr->type == PERF_TYPE_HARDWARE)
		return event == PERF_COUNT_HW_CPU_CYCLES || event == PERF_COUNT_HW_REF_CPU_CYCLES;
	return attr->type == PERF_TYPE_SOFTWARE && (attr->config == PERF_COUNT_SW_CPU_CLOCK ||
						    attr->config == PERF_COUNT_SW_TASK_CLOCK);
}

static bool is_dummy(const struct ovm_perfdata_attr *attr) /* only there for its mmap records */
{
	return attr->type == PERF_TYPE_SOFTWARE && attr->config == PERF_COUNT_SW_DUMMY;
}

static bool counts_samples(const struct import *import, const struct ovm_perfdata_attr *attr)
{
	return import->has_clock ? is_clock(attr) : !is_dummy(attr);
}

static char *event_name(const struct ovm_perfdata_attr *attr)
{
	uint64_t event = attr->config & HARDWARE_EVENT;
	if (attr->type == PERF_TYPE_HARDWARE && event < N_ELEMENTS(hardware))
		return ovm_strdup(hardware[event]);
	if (attr->type == PERF_TYPE_SOFTWARE && attr->config < N_ELEMENTS(software))
		return ovm_strdup(software[attr->config]);
	if (attr->type == PERF_TYPE_RAW)
		return ovm_asprintf("r%" PRIx64, attr->config);
	return ovm_asprintf("event-%" PRIu32 "-%" PRIx64, attr->type, attr->config);
}

/* The name and highest frequency of what was counted. */
static char *name_events(const struct import *import, uint64_t *frequency)
{
	char *name = NULL;
	for (uint32_t i = 0; i < import->file.attrs.n; i++) {
		const struct ovm_perfdata_attr *attr = &import->file.attrs.v[i];
		if (!counts_samples(import, attr))
			continue;
		char *next = event_name(attr);
		if (name && strcmp(name, next)) {
			free(next);
			next = ovm_strdup("mixed");
		}
		free(name);
		name = next;
		if (attr->frequency > *frequency)
			*frequency = attr->frequency;
	}
	return name ? name : ovm_strdup("none");
}

/* --- tasks --- */

static struct task *task_find(const struct import *import, uint32_t pid)
{
	struct task *task;
	HASH_FIND(hh, import->tasks, &pid, sizeof(pid), task);
	return task;
}

static struct task *task_get(struct import *import, uint32_t pid)
{
	struct task *task = task_find(import, pid);
	if (task)
		return task;
	task = ovm_alloc(sizeof(*task));
	task->pid = pid;
	task->n_threads = 1;
	HASH_ADD(hh, import->tasks, pid, sizeof(pid), task);
	return task;
}

static void set_maps(struct import *import, struct task *task, uint64_t n)
{
	import->n_maps += n - task->n_maps;
	task->n_maps = n;
}

static void task_drop(struct import *import, struct task *task)
{
	set_maps(import, task, 0);
	HASH_DEL(import->tasks, task);
	free(task);
}

/* A process whose program just began: no mappings, one thread. */
static void begin_task(struct import *import, uint32_t pid)
{
	struct task *task = task_get(import, pid);
	task->n_threads = 1;
	task->is_headless = false;
	set_maps(import, task, 0);
	ovm_procmap_apply(
	    import->tally.map,
	    &(struct ovm_sample){.kind = OVM_RECORD_COMM, .pid = pid, .tid = pid, .is_exec = true});
}

static void apply_fork(struct import *import, const struct ovm_sample *record)
{
	if (record->pid == record->ppid) {
		if (!task_find(import, record->pid))
			begin_task(import, record->pid);
		task_get(import, record->pid)->n_threads++;
	} else if (record->is_exec) { /* found running: its own mmap records follow */
		begin_task(import, record->pid);
	} else {
		const struct task *parent = task_find(import, record->ppid);
		struct task *child = task_get(import, record->pid);
		child->n_threads = 1;
		child->is_headless = false;
		set_maps(import, child, parent ? parent->n_maps : 0);
		ovm_procmap_apply(import->tally.map, record);
	}
}

static void apply_exit(struct import *import, const struct ovm_sample *record)
{
	struct task *task = task_find(import, record->pid);
	if (!task)
		return;
	task->n_threads--;
	task->is_headless |= record->pid == record->tid;
	if (task->is_headless && task->n_threads <= 0) {
		ovm_procmap_apply(import->tally.map, record);
		task_drop(import, task);
	}
}

static void apply_mmap(struct import *import, struct ovm_sample *record)
{
	if (record->pid == UINT32_MAX || record->addr + record->len <= record->addr)
		return; /* the kernel and its modules; nothing */
	const struct ovm_perfdata_build_id *id =
	    record->build_id || !record->path
		? NULL
		: ovm_perfdata_find_build_id(&import->file, record->path);
	if (id) {
		record->build_id = id->bytes;
		record->build_id_len = id->len;
	}
	struct task *task = task_get(import, record->pid);
	set_maps(import, task, task->n_maps + 2); /* one more, and one that it may cut in two */
	ovm_procmap_apply(import->tally.map, record);
}

/* --- records --- */

static void apply_sample(struct import *import, const struct ovm_perfdata_attr *attr,
			 const struct ovm_sample *record)
{
	if (!task_find(import, record->pid))
		begin_task(import, record->pid);
	if (record->is_user && counts_samples(import, attr))
		ovm_tally_add(&import->tally, (pid_t)record->pid, ovm_rta_of(record->ip));
	if (attr->has_stacks)
		ovm_lbr_add(&import->tally.lbr, import->tally.map, record);
}

static int apply(struct import *import, const struct ovm_perfdata_attr *attr,
		 struct ovm_sample *record)
{
	switch (record->kind) {
	case OVM_RECORD_SAMPLE:
		apply_sample(import, attr, record);
		break;
	case OVM_RECORD_LOST:
		import->tally.n_lost += record->n_lost;
		break;
	case OVM_RECORD_FORK:
		apply_fork(import, record);
		break;
	case OVM_RECORD_EXIT:
		apply_exit(import, record);
		break;
	case OVM_RECORD_MMAP:
		apply_mmap(import, record);
		break;
	case OVM_RECORD_COMM:
		if (record->is_exec)
			begin_task(import, record->pid);
		break;
	default:
		break;
	}
	const struct task *task = task_find(import, record->pid);
	if (import->n_maps > MAX_MAPS || (task && task->n_maps > MAX_TASK_MAPS))
		return ovm_fail(import->file.ctx, OVM_E_FORMAT,
				"%s: damaged perf.data: process %" PRIu32
				" has more mappings than can be",
				import->file.name, record->pid);
	return OVM_OK;
}

/* The record at @at and its event. False if it makes no sense; *attr is NULL if nobody knows the
 * event. */
static bool decode(const struct ovm_perfdata_file *file, uint64_t at,
		   const struct ovm_perfdata_attr **attr, struct ovm_sample *out)
{
	size_t size;
	const uint8_t *record = ovm_perfdata_record(file, at, &size);
	uint32_t idx = ovm_perfdata_attr_of(file, record, size);
	*attr = idx == OVM_NONE ? NULL : &file->attrs.v[idx];
	return idx == OVM_NONE ||
	       ovm_record_decode(&file->attrs.v[idx].format, record, size, out) == size;
}

/* Give every record its time; drop samples of unknown events. */
static int read_times(struct import *import)
{
	struct ovm_perfdata_file *file = &import->file;
	uint32_t n = 0;
	for (uint32_t i = 0; i < file->items.n; i++) {
		struct ovm_perfdata_item item = file->items.v[i];
		const struct ovm_perfdata_attr *attr;
		struct ovm_sample record;
		if (!decode(file, item.at, &attr, &record))
			return ovm_perfdata_damaged(file, item.at, "a record that makes no sense");
		if (!attr) {
			import->tally.n_lost++;
			continue;
		}
		item.time = record.time == UINT64_MAX ? 0 : record.time;
		file->items.v[n++] = item;
	}
	file->items.n = n;
	return OVM_OK;
}

static int compare_items(const void *a, const void *b)
{
	const struct ovm_perfdata_item *x = a, *y = b;
	if (x->time != y->time)
		return x->time < y->time ? -1 : 1;
	return (x->at > y->at) - (x->at < y->at);
}

static int apply_all(struct import *import)
{
	struct ovm_perfdata_file *file = &import->file;
	int rc = read_times(import);
	if (!rc && file->items.n)
		qsort(file->items.v, file->items.n, sizeof(*file->items.v), compare_items);
	for (uint32_t i = 0; i < file->items.n && !rc; i++) {
		const struct ovm_perfdata_attr *attr;
		struct ovm_sample record;
		decode(file, file->items.v[i].at, &attr, &record);
		rc = apply(import, attr, &record);
		import->n_applied++;
	}
	return rc;
}

/* --- what the user should know --- */

static void warn_of_files(const struct import *import)
{
	const struct ovm_procmap *map = import->tally.map;
	const char *first = NULL;
	uint32_t n = 0;
	for (uint32_t i = 0; i < ovm_procmap_n_modules(map); i++) {
		if (ovm_procmap_module_id(map, i))
			continue;
		n++;
		if (!first)
			first = ovm_procmap_module_path(map, i);
	}
	if (n)
		ovm_log(OVM_LOG_WARN,
			"%s: %" PRIu32 " mapped files are not here, or changed since (first: %s)",
			import->file.name, n, first);
}

static void warn(const struct import *import)
{
	const struct ovm_perfdata_file *file = &import->file;
	bool is_filtered = false;
	for (uint32_t i = 0; i < file->attrs.n; i++)
		is_filtered |= (file->attrs.v[i].format.sample_type & PERF_SAMPLE_BRANCH_STACK) &&
			       !file->attrs.v[i].has_stacks;
	if (file->is_cut)
		ovm_log(OVM_LOG_WARN,
			"%s: cut off or not finished at offset %" PRIu64 ": used up to there",
			file->name, file->cut_at);
	if (file->n_aux)
		ovm_log(OVM_LOG_WARN,
			"%s: hardware traces (AUXTRACE) are skipped: perf inject turns them into "
			"samples",
			file->name);
	if (is_filtered)
		ovm_log(OVM_LOG_WARN,
			"%s: its branch stacks do not hold every branch: not used (record with "
			"-j any,u)",
			file->name);
	warn_of_files(import);
	const struct ovm_lbr *lbr = &import->tally.lbr;
	if (lbr->n_stacks)
		ovm_log(OVM_LOG_INFO,
			"%" PRIu64 " branch stacks: %" PRIu64 " branches, %" PRIu64
			" ranges; left out: %" PRIu64 " between files, %" PRIu64
			" outside files, %" PRIu64 " impossible",
			lbr->n_stacks, lbr->n_branches, lbr->n_ranges, lbr->n_crossing,
			lbr->n_nowhere, lbr->n_impossible);
}

/* --- public --- */

static bool has_anything(const struct import *import)
{
	return import->n_applied || !import->file.is_cut;
}

int ovm_perfdata_parse(struct ovm_ctx *ctx, const uint8_t *bytes, size_t len, const char *name,
		       struct ovm_profile **out)
{
	struct import import = {0};
	ovm_tally_init(&import.tally);
	int rc = ovm_perfdata_open(ctx, bytes, len, name, &import.file);
	for (uint32_t i = 0; i < import.file.attrs.n; i++)
		import.has_clock |= is_clock(&import.file.attrs.v[i]);
	if (!rc)
		rc = apply_all(&import);
	if (!rc && !has_anything(&import))
		rc = ovm_fail(ctx, OVM_E_FORMAT,
			      "%s: perf.data cut off at offset %" PRIu64 ", before any record",
			      name, import.file.cut_at);
	if (!rc) {
		uint64_t frequency = 0;
		char *event = name_events(&import, &frequency);
		warn(&import);
		*out = ovm_tally_profile(&import.tally, event,
					 import.tally.lbr.n_stacks ? "import+branches" : "import",
					 frequency);
		free(event);
	}
	while (import.tasks)
		task_drop(&import, import.tasks);
	ovm_tally_fini(&import.tally);
	ovm_perfdata_close(&import.file);
	return rc;
}

/* Everything behind @fd, which may be a pipe, into @to. */
static int read_all(struct ovm_ctx *ctx, int fd, const char *path, struct ovm_buf *to)
{
	uint8_t *chunk = ovm_alloc(CHUNK);
	int rc = OVM_OK;
	while (!rc) {
		ssize_t n = read(fd, chunk, CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot read", path);
		if (n <= 0)
			break;
		ovm_buf_put(to, chunk, (size_t)n);
		if (to->n > max_file)
			rc = ovm_fail(ctx, OVM_E_FORMAT,
				      "%s: more than 4 GiB: record less (perf record -F 99) or in "
				      "parts, and merge",
				      path);
		else if (to->n >= 8 && !ovm_perfdata_is(to->v, to->n))
			rc = ovm_fail(ctx, OVM_E_FORMAT, "%s: not a perf.data file", path);
	}
	free(chunk);
	return rc;
}

int ovm_perfdata_load(struct ovm_ctx *ctx, const char *path, struct ovm_profile **out)
{
	struct ovm_buf bytes = {0};
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot open", path);
	int rc = OVM_OK;
	if (!fstat(fd, &st) && S_ISDIR(st.st_mode))
		rc = ovm_fail(ctx, OVM_E_FORMAT,
			      "%s: a folder (perf record --threads): record into one file", path);
	if (!rc)
		rc = read_all(ctx, fd, path, &bytes);
	close(fd);
	if (!rc)
		rc = ovm_perfdata_parse(ctx, bytes.v, bytes.n, path, out);
	ovm_buf_free(&bytes);
	return rc;
}
