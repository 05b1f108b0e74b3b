/* What can be counted here?
 *
 * Event names and their encodings are libpfm4's business: it knows some hundred CPUs. Whether an
 * event also *counts* is another question. Virtual machines often show no PMU (perf_event_open says
 * ENOENT or EOPNOTSUPP), and some show one whose counters stand still. So "cycles" is opened on
 * ourselves, a short loop is run, and only a counter that moved is believed. "cpu-clock", a timer
 * of the kernel, works everywhere perf_event is permitted: it finds where time goes.
 *
 * The same for branch stacks: Intel LBR and AMD LBRv2 come with any hardware event, AMD BRS only
 * with the event that counts taken branches, at a fixed period. Software events have none, and
 * hypervisors often hide them, so the kernel is asked by opening the event.
 */
#include "profiler/pmu.h"

#include <linux/perf_event.h>
#include <perfmon/pfmlib_perf_event.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	PROBE_LOOPS = 100000, /* about 50 us: enough for any cycle counter to move */
	BRS_EVENT = 0xc4,     /* retired taken branches, families 19h with BRS */
	BRS_PERIOD = 200003,  /* taken branches: some 1000 samples a second; prime */
};

int ovm_pmu_encode(struct ovm_ctx *ctx, const char *event, struct perf_event_attr *attr)
{
	struct perf_event_attr encoded = {.size = sizeof(encoded)};
	pfm_perf_encode_arg_t arg = {.attr = &encoded, .size = sizeof(arg), .cpu = -1};
	int rc = pfm_initialize(); /* counts its callers; there is nothing to undo */
	if (rc != PFM_SUCCESS)
		return ovm_fail(ctx, OVM_E_UNAVAILABLE, "libpfm4: %s", pfm_strerror(rc));
	rc = pfm_get_os_event_encoding(event, PFM_PLM3, PFM_OS_PERF_EVENT_EXT, &arg);
	if (rc != PFM_SUCCESS)
		return ovm_fail(ctx, OVM_E_USAGE, "event '%s': %s (try cycles or cpu-clock)", event,
				pfm_strerror(rc));
	attr->type = encoded.type;
	attr->config = encoded.config;
	attr->config1 = encoded.config1;
	attr->config2 = encoded.config2;
	attr->precise_ip = encoded.precise_ip;
	return OVM_OK;
}

int ovm_pmu_open(struct perf_event_attr *attr, pid_t pid, int cpu)
{
	long fd = syscall(SYS_perf_event_open, attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
	return fd < 0 ? -errno : (int)fd;
}

/* Does the event move while we run? */
static bool counts(struct perf_event_attr *attr)
{
	uint64_t value = 0;
	int fd = ovm_pmu_open(attr, 0, -1);
	if (fd < 0)
		return false;
	for (volatile int i = 0; i < PROBE_LOOPS; i++)
		;
	bool moved = read(fd, &value, sizeof(value)) == (ssize_t)sizeof(value) && value > 0;
	close(fd);
	return moved;
}

const char *ovm_pmu_default_event(void)
{
	struct ovm_ctx scratch;
	struct perf_event_attr attr = {.size = sizeof(attr), .exclude_kernel = 1, .exclude_hv = 1};
	ovm_ctx_init(&scratch);
	if (ovm_pmu_encode(&scratch, "cycles", &attr) == OVM_OK && counts(&attr))
		return "cycles";
	return "cpu-clock";
}

static int try_open(const struct perf_event_attr *wanted)
{
	struct perf_event_attr attr = *wanted;
	attr.build_id = 0; /* kernels before 5.12 refuse it, the sampler knows */
	attr.disabled = 1;
	int fd = ovm_pmu_open(&attr, 0, -1);
	if (fd >= 0)
		close(fd);
	return fd < 0 ? fd : 0;
}

static bool has_brs(void)
{
	return !access("/sys/bus/event_source/devices/cpu/events/branch-brs", F_OK);
}

int ovm_pmu_add_branches(struct perf_event_attr *attr, bool may_change)
{
	struct perf_event_attr with = *attr;
	with.sample_type |= PERF_SAMPLE_BRANCH_STACK;
	with.branch_sample_type = PERF_SAMPLE_BRANCH_USER | PERF_SAMPLE_BRANCH_ANY;
	int rc = try_open(&with);
	if (rc && may_change && has_brs()) {
		with.type = PERF_TYPE_RAW;
		with.config = BRS_EVENT;
		with.config1 = with.config2 = 0;
		with.precise_ip = 0;
		with.freq = 0;
		with.sample_period = BRS_PERIOD;
		rc = try_open(&with);
	}
	if (!rc)
		*attr = with;
	return rc;
}

static int paranoid_level(void)
{
	int level = -2;
	FILE *file = fopen("/proc/sys/kernel/perf_event_paranoid", "re");
	if (!file)
		return level;
	if (fscanf(file, "%d", &level) != 1)
		level = -2;
	fclose(file);
	return level;
}

int ovm_pmu_fail(struct ovm_ctx *ctx, int errnum, const char *event)
{
	int level = paranoid_level();
	switch (errnum) {
	case EPERM:
	case EACCES:
		if (level > 2)
			return ovm_fail(ctx, OVM_E_PERM,
					"kernel.perf_event_paranoid is %d, needs <= 2: "
					"sysctl kernel.perf_event_paranoid=2",
					level);
		return ovm_fail(
		    ctx, OVM_E_PERM,
		    "perf_event_open is not permitted (kernel.perf_event_paranoid is %d, "
		    "so a container's seccomp filter or another user's process): allow it, "
		    "or run as root",
		    level);
	case ENOSYS:
		return ovm_fail(ctx, OVM_E_UNAVAILABLE,
				"this kernel or container has no perf_event_open");
	case ESRCH:
		return ovm_fail(ctx, OVM_E_GONE, "the process to sample is gone");
	case EMFILE:
	case ENFILE:
		return ovm_fail(
		    ctx, OVM_E_UNAVAILABLE,
		    "too many open files for one perf event per thread and CPU: ulimit -n");
	case EINVAL:
	case ENOENT:
	case ENODEV:
	case EOPNOTSUPP:
		return ovm_fail(ctx, OVM_E_UNAVAILABLE,
				"event '%s' cannot be sampled on this machine (try -e cpu-clock)",
				event);
	default:
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, errnum, "perf_event_open of '%s'",
				      event);
	}
}
