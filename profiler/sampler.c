/* Sampling a process tree with perf_event.
 *
 * An inherited event with a ring buffer must be bound to one CPU, so one event is opened per CPU
 * (and per thread, when the process runs already; the threads of one CPU share a ring). Children
 * and new threads inherit the events and write to the same rings, whatever CPU they run on:
 *
 *   cpu 0:  [ring] sample pid 7 | mmap pid 7 | sample pid 9 ...  \
 *                                                                  > merged by time -> procmap,
 * tally cpu 1:  [ring] fork 7->9 | sample pid 9 | lost 3 ...         /
 *
 * Each ring is in order of time but a process hops between them, and a sample can only be resolved
 * after the mmap that came before it on another CPU. So a drain collects all rings, sorts by time,
 * and applies what is older than the beginning of the drain (less SLACK_NS for records that were
 * being written); the rest waits for the next drain.
 *
 * Cost: the rings are large, so the tool wakes only a few times a second. Lost records are counted,
 * never ignored. Where the kernel forbids perf_event, ptrace_sampler.c does the work behind the
 * same interface.
 */
#define OVM_LOG_DOMAIN "sampler"
#include "profiler/sampler.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "profiler/launch.h"
#include "profiler/pmu.h"
#include "profiler/ptrace_sampler.h"
#include "profiler/record.h"
#include "profiler/ring.h"
#include "profiler/tally.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	/* At most 2 % where a timer interrupt costs 20 us (virtual machines); prime: no lockstep
	 * with timers of the program. */
	DEFAULT_HZ = 997,
	/* What perf_event_mlock_kb allows anybody; 4 s of samples at 4 kHz. */
	RING_BYTES = 512 << 10,
	/* Wake the tool when a ring is this part full. */
	WAKE_FRACTION = 2,
};

#define SLACK_NS 5000000ull

struct cpu_ring {
	struct ovm_ring ring;
	int fd; /* of the event that owns the ring */
};

struct due { /* a record waiting for its turn */
	uint64_t time;
	uint32_t at; /* in bytes */
};

struct ovm_sampler {
	struct ovm_tally tally;
	struct ovm_profile *profile;	   /* handed out last */
	struct ovm_ptrace_sampler *tracer; /* NULL: perf_event */
	char *event;
	uint64_t frequency;
	pid_t pid;
	bool is_running; /* not our child, or not from its start */
	pid_t child;	 /* of ours, to be reaped: @pid itself or another; 0 none */
	OVM_VEC(pid_t) others;
	bool has_ended;
	int wstatus;
	bool is_stopped;
	enum ovm_branch_stack branch_stack;

	struct perf_event_attr attr;
	struct ovm_record_format format;
	OVM_VEC(struct cpu_ring) rings; /* one a CPU that is online */
	OVM_VEC(int) fds;		/* every event */
	OVM_VEC(struct pollfd) polled;	/* the rings, and pidfd last */
	int pidfd;			/* readable when the process ends; -1: not available */
	struct ovm_buf bytes;		/* records not applied yet */
	OVM_VEC(struct due) due;	/* their index */
};

/* --- opening
 * -------------------------------------------------------------------------------------------------
 */

/* The kernel refuses more than kernel.perf_event_max_sample_rate. */
static uint64_t allowed_frequency(uint64_t wanted)
{
	uint64_t max = wanted;
	FILE *file = fopen("/proc/sys/kernel/perf_event_max_sample_rate", "re");
	if (file && fscanf(file, "%lu", &max) != 1)
		max = wanted;
	if (file)
		fclose(file);
	if (max && max < wanted)
		ovm_log(OVM_LOG_WARN,
			"kernel.perf_event_max_sample_rate is %lu: sampling at that rate", max);
	return max && max < wanted ? max : wanted;
}

static int attr_init(struct ovm_ctx *ctx, struct ovm_sampler *sampler)
{
	struct perf_event_attr *attr = &sampler->attr;
	attr->size = sizeof(*attr);
	attr->freq = 1;
	attr->sample_freq = sampler->frequency;
	attr->sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME;
	attr->disabled = 1;
	attr->enable_on_exec = !sampler->is_running;
	attr->inherit = 1;
	attr->exclude_kernel = 1;
	attr->exclude_hv = 1;
	attr->mmap = 1;
	attr->mmap2 = 1;
	attr->build_id = 1;
	attr->comm = 1;
	attr->comm_exec = 1;
	attr->task = 1;
	attr->sample_id_all = 1;
	attr->use_clockid = 1; /* one clock for all CPUs, that we can read too */
	attr->clockid = CLOCK_MONOTONIC;
	attr->watermark = 1;
	attr->wakeup_watermark = RING_BYTES / WAKE_FRACTION;
	return ovm_pmu_encode(ctx, sampler->event, attr);
}

/* Ask for branch stacks where they are wanted and the event has them. */
static int want_branches(struct ovm_ctx *ctx, struct ovm_sampler *sampler, bool may_change)
{
	bool is_must = sampler->branch_stack == OVM_BRANCH_STACK_ON;
	if (sampler->branch_stack == OVM_BRANCH_STACK_OFF)
		return OVM_OK;
	int rc = ovm_pmu_add_branches(&sampler->attr, is_must && may_change);
	if (rc && is_must)
		return ovm_fail(ctx, OVM_E_UNAVAILABLE,
				"no branch stacks (LBR) with event '%s' on this machine: the CPU "
				"has none, or the kernel or a hypervisor hides them: %s",
				sampler->event, strerror(-rc));
	if (!sampler->attr.freq) { /* the event was changed */
		free(sampler->event);
		sampler->event = ovm_strdup("branch-brs");
		sampler->frequency = 0;
	}
	return OVM_OK;
}

static bool has_branches(const struct ovm_sampler *sampler)
{
	return sampler->format.sample_type & PERF_SAMPLE_BRANCH_STACK;
}

/* Open the event for one thread on one CPU. Kernels before 5.12 do not know build_id. */
static int open_event(struct ovm_sampler *sampler, pid_t tid, int cpu)
{
	if (OVM_FAULT_FAILS(SAMPLER_EVENT))
		return -errno;
	int fd = ovm_pmu_open(&sampler->attr, tid, cpu);
	if (fd == -EINVAL && sampler->attr.build_id) {
		sampler->attr.build_id = 0;
		fd = ovm_pmu_open(&sampler->attr, tid, cpu);
		if (fd == -EINVAL)
			sampler->attr.build_id = 1; /* it was something else */
	}
	if (fd >= 0)
		ovm_vec_push(&sampler->fds, fd);
	return fd;
}

static int open_ring(struct ovm_ctx *ctx, struct ovm_sampler *sampler, int fd)
{
	struct cpu_ring ring = {.fd = fd};
	int rc = OVM_FAULT_FAILS(SAMPLER_RING) ? -errno : ovm_ring_map(&ring.ring, fd, RING_BYTES);
	if (rc == -EPERM)
		return ovm_fail(
		    ctx, OVM_E_PERM,
		    "no locked memory for perf rings: raise kernel.perf_event_mlock_kb, "
		    "or ulimit -l");
	if (rc)
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, -rc, "mapping a perf ring");
	if (ring.ring.size <
	    RING_BYTES) /* the watermark would never be reached: wake by time only */
		ovm_log(OVM_LOG_INFO, "perf ring of %zu KiB only", ring.ring.size >> 10);
	ovm_vec_push(&sampler->rings, ring);
	return OVM_OK;
}

/* One event per online CPU for @tid. The first thread's events own the rings, later ones write to
 * them. */
static int open_thread(struct ovm_ctx *ctx, struct ovm_sampler *sampler, pid_t tid)
{
	bool is_first = sampler->rings.n == 0;
	int n_cpus = (int)sysconf(_SC_NPROCESSORS_CONF);
	uint32_t ring = 0;
	for (int cpu = 0; cpu < n_cpus; cpu++) {
		int fd = open_event(sampler, tid, cpu);
		if (fd == -ENODEV) /* offline */
			continue;
		if (fd < 0)
			return ovm_pmu_fail(ctx, -fd, sampler->event);
		if (is_first) {
			int rc = open_ring(ctx, sampler, fd);
			if (rc)
				return rc;
		} else if (ring < sampler->rings.n) {
			if (ioctl(fd, PERF_EVENT_IOC_SET_OUTPUT, sampler->rings.v[ring++].fd))
				return ovm_pmu_fail(ctx, errno, sampler->event);
		}
	}
	if (!sampler->rings.n)
		return ovm_pmu_fail(ctx, ENODEV, sampler->event);
	return OVM_OK;
}

/* A running process has one event per thread and CPU: soft limits of 1024 files are soon reached.
 */
static void raise_file_limit(void)
{
	struct rlimit limit;
	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* Threads made while this runs inherit from their creator if it was opened before, and are missed
 * if not: one pass, as opening them twice would count them twice. */
static int open_all_threads(struct ovm_ctx *ctx, struct ovm_sampler *sampler, pid_t pid)
{
	OVM_VEC(pid_t) tids = {0};
	char path[64];
	struct dirent *entry;
	int rc = OVM_OK;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *dir = opendir(path);
	if (!dir)
		return ovm_fail(ctx, OVM_E_GONE, "process %d is gone", (int)pid);
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			ovm_vec_push(&tids, (pid_t)strtol(entry->d_name, NULL, 10));
	closedir(dir);
	for (uint32_t i = 0; i < tids.n && !rc; i++) {
		rc = open_thread(ctx, sampler, tids.v[i]);
		if (rc == OVM_E_GONE && i > 0) /* that thread ended, the process lives */
			rc = OVM_OK;
	}
	ovm_vec_free(&tids);
	return rc;
}

/* The others may end meanwhile, or belong to somebody else. */
static int open_processes(struct ovm_ctx *ctx, struct ovm_sampler *sampler)
{
	struct ovm_ctx own = *ctx;
	raise_file_limit();
	int rc = open_all_threads(ctx, sampler, sampler->pid);
	for (uint32_t i = 0; i < sampler->others.n && !rc; i++)
		if (open_all_threads(&own, sampler, sampler->others.v[i]))
			ovm_log(OVM_LOG_INFO, "not sampled: %s", own.msg);
	return rc;
}

static void poll_init(struct ovm_sampler *sampler)
{
	for (uint32_t i = 0; i < sampler->rings.n; i++)
		ovm_vec_push(&sampler->polled,
			     (struct pollfd){.fd = sampler->rings.v[i].fd, .events = POLLIN});
	sampler->pidfd = (int)syscall(SYS_pidfd_open, sampler->pid, 0);
	if (sampler->pidfd >= 0)
		ovm_vec_push(&sampler->polled,
			     (struct pollfd){.fd = sampler->pidfd, .events = POLLIN});
}

static void events_ioctl(struct ovm_sampler *sampler, unsigned long request)
{
	for (uint32_t i = 0; i < sampler->fds.n; i++)
		ioctl(sampler->fds.v[i], request, 0);
}

static int open_perf(struct ovm_ctx *ctx, struct ovm_sampler *sampler, bool is_default_event)
{
	int rc = attr_init(ctx, sampler);
	if (!rc)
		rc = want_branches(ctx, sampler, is_default_event);
	if (rc)
		return rc;
	sampler->format =
	    (struct ovm_record_format){.sample_type = sampler->attr.sample_type,
				       .branch_sample_type = sampler->attr.branch_sample_type,
				       .sample_id_all = true};
	rc = sampler->is_running ? open_processes(ctx, sampler)
				 : open_thread(ctx, sampler, sampler->pid);
	if (rc)
		return rc;
	poll_init(sampler);
	if (sampler->is_running) {
		events_ioctl(sampler, PERF_EVENT_IOC_ENABLE);
		ovm_procmap_scan(sampler->tally.map, sampler->pid);
		for (uint32_t i = 0; i < sampler->others.n; i++)
			ovm_procmap_scan(sampler->tally.map, sampler->others.v[i]);
	}
	return OVM_OK;
}

static void close_perf(struct ovm_sampler *sampler)
{
	for (uint32_t i = 0; i < sampler->rings.n; i++)
		ovm_ring_unmap(&sampler->rings.v[i].ring);
	for (uint32_t i = 0; i < sampler->fds.n; i++)
		close(sampler->fds.v[i]);
	if (sampler->pidfd >= 0)
		close(sampler->pidfd);
	sampler->pidfd = -1;
	ovm_vec_free(&sampler->rings);
	ovm_vec_free(&sampler->fds);
	ovm_vec_free(&sampler->polled);
}

/* May another way of sampling do what perf_event just refused? Not if the event itself is the
 * problem. */
static bool is_forbidden(int rc, const struct ovm_sampler *sampler)
{
	if (sampler->branch_stack == OVM_BRANCH_STACK_ON)
		return false;
	return rc == OVM_E_PERM ||
	       (rc == OVM_E_UNAVAILABLE && !sampler->fds.n &&
		ovm_pmu_open(&(struct perf_event_attr){.size = 64}, 0, -1) == -ENOSYS);
}

static int open_tracer(struct ovm_ctx *ctx, struct ovm_sampler *sampler, uint64_t frequency)
{
	free(sampler->event);
	sampler->event = ovm_strdup("cpu-clock");
	const struct ovm_ptrace_who who = {.pid = sampler->pid,
					   .is_running = sampler->is_running,
					   .child = sampler->child,
					   .others = sampler->others.v,
					   .n_others = sampler->others.n};
	return ovm_ptrace_sampler_open(ctx, &sampler->tally, frequency, &who, &sampler->tracer);
}

int ovm_sampler_open(struct ovm_ctx *ctx, const struct ovm_sampler_opts *opts, pid_t pid,
		     bool is_running, struct ovm_sampler **out)
{
	struct ovm_sampler *sampler = ovm_alloc(sizeof(*sampler));
	uint64_t wanted = opts->frequency ? opts->frequency : DEFAULT_HZ;
	int rc;

	ovm_tally_init(&sampler->tally);
	sampler->tally.original = opts->original;
	sampler->tally.arg = opts->arg;
	sampler->pid = pid;
	sampler->is_running = is_running;
	sampler->child = is_running ? opts->child : pid;
	for (uint32_t i = 0; i < opts->n_others; i++)
		ovm_vec_push(&sampler->others, opts->others[i]);
	sampler->pidfd = -1;
	sampler->branch_stack = opts->branch_stack;
	if (opts->force_ptrace && opts->branch_stack == OVM_BRANCH_STACK_ON) {
		rc = ovm_fail(ctx, OVM_E_UNAVAILABLE, "ptrace sampling has no branch stacks");
	} else if (opts->force_ptrace) {
		rc = open_tracer(ctx, sampler, opts->frequency);
	} else {
		sampler->event = ovm_strdup(opts->event ? opts->event : ovm_pmu_default_event());
		sampler->frequency = allowed_frequency(wanted);
		rc = open_perf(ctx, sampler, !opts->event);
		if (rc && has_branches(sampler) && opts->branch_stack == OVM_BRANCH_STACK_AUTO) {
			/* the probe went well, the process itself did not */
			close_perf(sampler);
			memset(&sampler->attr, 0, sizeof(sampler->attr));
			sampler->branch_stack = OVM_BRANCH_STACK_OFF;
			rc = open_perf(ctx, sampler, !opts->event);
		}
		if (is_forbidden(rc, sampler) && !opts->no_ptrace) {
			ovm_log(OVM_LOG_WARN, "%s; sampling by ptrace instead", ctx->msg);
			close_perf(sampler);
			rc = open_tracer(ctx, sampler, opts->frequency);
		}
	}
	if (rc) {
		ovm_sampler_close(sampler);
		return rc;
	}
	OVM_FAULT(SAMPLER_OPENED);
	*out = sampler;
	return OVM_OK;
}

/* --- draining
 * ------------------------------------------------------------------------------------------------
 */

static int compare_due(const void *a, const void *b)
{
	const struct due *x = a, *y = b;
	if (x->time != y->time)
		return x->time < y->time ? -1 : 1;
	return x->at < y->at ? -1 : x->at > y->at;
}

static void apply(struct ovm_sampler *sampler, const struct ovm_sample *record)
{
	switch (record->kind) {
	case OVM_RECORD_SAMPLE:
		if (record->is_user)
			ovm_tally_add(&sampler->tally, (pid_t)record->pid, ovm_rta_of(record->ip));
		ovm_lbr_add(&sampler->tally.lbr, sampler->tally.map, record);
		break;
	case OVM_RECORD_LOST:
		sampler->tally.n_lost += record->n_lost;
		break;
	default:
		ovm_procmap_apply(sampler->tally.map, record);
	}
}

/* Index the records behind @from. What cannot be read (it never happens with a kernel's ring) is
 * dropped as one lost record. */
static void index_records(struct ovm_sampler *sampler, size_t from)
{
	struct ovm_sample record;
	size_t end = sampler->bytes.n;
	while (from < end) {
		size_t size = ovm_record_decode(&sampler->format, sampler->bytes.v + from,
						end - from, &record);
		if (!size || from > UINT32_MAX) {
			sampler->tally.n_lost++;
			return;
		}
		if (record.kind != OVM_RECORD_OTHER)
			ovm_vec_push(&sampler->due, (struct due){record.time, (uint32_t)from});
		from += size;
	}
}

/* Keep records [@first, due.n) for the next drain: move their bytes to a fresh buffer. */
static void keep_from(struct ovm_sampler *sampler, uint32_t first)
{
	struct ovm_buf kept = {0};
	uint32_t n = 0;
	for (uint32_t i = first; i < sampler->due.n; i++) {
		const uint8_t *record = sampler->bytes.v + sampler->due.v[i].at;
		struct due due = {sampler->due.v[i].time, (uint32_t)kept.n};
		ovm_buf_put(&kept, record, ovm_le16(record + 6)); /* size, checked when indexed */
		sampler->due.v[n++] = due;
	}
	sampler->due.n = n;
	ovm_buf_free(&sampler->bytes);
	sampler->bytes = kept;
}

/* Move everything from the rings, apply what was written before @until. */
static void drain_rings(struct ovm_sampler *sampler, uint64_t until)
{
	struct ovm_sample record;
	uint32_t i;
	for (i = 0; i < sampler->rings.n; i++) {
		size_t from = sampler->bytes.n;
		ovm_ring_drain(&sampler->rings.v[i].ring, &sampler->bytes);
		index_records(sampler, from);
	}
	if (sampler->due.n)
		qsort(sampler->due.v, sampler->due.n, sizeof(*sampler->due.v), compare_due);
	for (i = 0; i < sampler->due.n && sampler->due.v[i].time < until; i++) {
		uint32_t at = sampler->due.v[i].at;
		ovm_record_decode(&sampler->format, sampler->bytes.v + at, sampler->bytes.n - at,
				  &record);
		apply(sampler, &record);
	}
	keep_from(sampler, i);
}

/* A ring's descriptor hangs up when the task it was opened for is gone; children may still fill the
 * ring. */
static void drop_hung_up(struct ovm_sampler *sampler)
{
	for (uint32_t i = 0; i < sampler->rings.n; i++)
		if (sampler->polled.v[i].revents & (POLLHUP | POLLERR))
			sampler->polled.v[i].fd = -1;
}

int ovm_sampler_drain(struct ovm_ctx *ctx, struct ovm_sampler *sampler, int timeout_ms)
{
	OVM_FAULT(SAMPLER_DRAIN);
	if (sampler->tracer)
		return ovm_ptrace_sampler_drain(ctx, sampler->tracer, timeout_ms);
	if (timeout_ms && !sampler->is_stopped) {
		if (poll(sampler->polled.v, sampler->polled.n, timeout_ms) > 0)
			drop_hung_up(sampler);
	}
	drain_rings(sampler, sampler->is_stopped ? UINT64_MAX : ovm_now_ns() - SLACK_NS);
	return OVM_OK;
}

/* --- the rest
 * ------------------------------------------------------------------------------------------------
 */

struct ovm_profile *ovm_sampler_profile(struct ovm_sampler *sampler)
{
	uint64_t frequency =
	    sampler->tracer ? ovm_ptrace_sampler_frequency(sampler->tracer) : sampler->frequency;
	ovm_profile_free(sampler->profile);
	const char *source = sampler->tracer	     ? "ptrace-timer"
			     : has_branches(sampler) ? "perf_event+branches"
						     : "perf_event";
	sampler->profile = ovm_tally_profile(&sampler->tally, sampler->event, source, frequency);
	return sampler->profile;
}

bool ovm_sampler_wait(struct ovm_sampler *sampler, int *wstatus)
{
	if (sampler->pid == sampler->child)
		return ovm_sampler_reap(sampler, wstatus);
	*wstatus = 0;
	if (sampler->tracer)
		return ovm_ptrace_sampler_wait(sampler->tracer);
	return kill(sampler->pid, 0) && errno == ESRCH;
}

bool ovm_sampler_reap(struct ovm_sampler *sampler, int *wstatus)
{
	if (!sampler->has_ended && sampler->tracer)
		sampler->has_ended = ovm_ptrace_sampler_has(sampler->tracer, &sampler->wstatus);
	if (!sampler->has_ended && sampler->child && (!sampler->tracer || sampler->is_stopped))
		sampler->has_ended = ovm_launch_reap(sampler->child, &sampler->wstatus);
	if (sampler->has_ended)
		*wstatus = sampler->wstatus;
	return sampler->has_ended;
}

void ovm_sampler_stop(struct ovm_sampler *sampler)
{
	OVM_FAULT(SAMPLER_STOP);
	if (sampler->tracer)
		ovm_ptrace_sampler_stop(sampler->tracer);
	else
		events_ioctl(sampler, PERF_EVENT_IOC_DISABLE);
	sampler->is_stopped = true;
}

/* A clock's frequency was made a period when it was opened. */
void ovm_sampler_slow_down(struct ovm_sampler *sampler, uint64_t frequency)
{
	bool is_clock = sampler->attr.type == PERF_TYPE_SOFTWARE &&
			(sampler->attr.config == PERF_COUNT_SW_CPU_CLOCK ||
			 sampler->attr.config == PERF_COUNT_SW_TASK_CLOCK);
	uint64_t value = is_clock ? 1000000000u / frequency : frequency;
	if (sampler->tracer || !sampler->attr.freq || frequency >= sampler->frequency)
		return;
	for (uint32_t i = 0; i < sampler->fds.n; i++)
		ioctl(sampler->fds.v[i], PERF_EVENT_IOC_PERIOD, &value);
}

uint64_t ovm_sampler_n_samples(const struct ovm_sampler *sampler)
{
	return sampler->tally.n_samples;
}

bool ovm_sampler_is_tracer(const struct ovm_sampler *sampler)
{
	return sampler->tracer != NULL;
}

pid_t ovm_sampler_busiest(const struct ovm_sampler *sampler,
			  bool (*is_wanted)(void *arg, pid_t pid), void *arg)
{
	return ovm_tally_busiest(&sampler->tally, is_wanted, arg);
}

void ovm_sampler_close(struct ovm_sampler *sampler)
{
	if (!sampler)
		return;
	ovm_ptrace_sampler_close(sampler->tracer);
	close_perf(sampler);
	ovm_buf_free(&sampler->bytes);
	ovm_vec_free(&sampler->due);
	ovm_vec_free(&sampler->others);
	ovm_tally_fini(&sampler->tally);
	ovm_profile_free(sampler->profile);
	free(sampler->event);
	free(sampler);
}
