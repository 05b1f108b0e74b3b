/* optvm doctor PID: may this process be sampled, stopped and changed?
 *
 * Everything is asked from outside: /proc/PID says who it is and how it is locked up, opening its
 * memory asks the kernel exactly what PTRACE_ATTACH would ask (mode ATTACH: users, capabilities,
 * dumpable, Yama, security modules) without attaching, and an event on it is opened and closed. So
 * the process does not notice, and a production server can be asked at noon.
 *
 * When the kernel says no it does not say why; the reasons are guessed from what is seen, most
 * likely first.
 */
#include "analyzer/disasm.h"
#include "cli/doctor.h"
#include "runtime/tracee.h"
#include "runtime/unwindhook.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CAP_SYS_PTRACE_BIT = 19, MANY_THREADS = 64, STATUS_MAX = 16384 };

struct patient {
	pid_t pid;
	char status[STATUS_MAX]; /* /proc/PID/status */
	char name[64];
	bool is_privileged; /* we: root, or with CAP_SYS_PTRACE */
};

/* --- /proc --- */

/* False if it cannot be read: nobody of that number. */
static bool read_status(const char *pid, char *out)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%s/status", pid);
	FILE *from = fopen(path, "re");
	if (!from)
		return false;
	size_t n = fread(out, 1, STATUS_MAX - 1, from);
	out[n] = 0;
	fclose(from);
	return n > 0;
}

/* What stands behind "Key:", NULL if the kernel does not say. */
static const char *field(const char *status, const char *key)
{
	size_t len = strlen(key);
	for (const char *line = status; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, len) && line[len] == ':')
			return line + len + 1;
	}
	return NULL;
}

/* The @nth number of a field, -1 if there is none. */
static long number(const char *status, const char *key, unsigned nth)
{
	const char *p = field(status, key);
	long x = -1;
	for (unsigned i = 0; p && i <= nth; i++) {
		char *end;
		x = strtol(p, &end, 10);
		if (end == p)
			return -1;
		p = end;
	}
	return x;
}

static void read_name(const char *status, char *out, size_t size)
{
	const char *p = field(status, "Name");
	size_t n = p ? strcspn(p += strspn(p, " \t"), "\n") : 0;
	snprintf(out, size, "%.*s", (int)n, p ? p : "");
}

static bool has_capability(unsigned bit)
{
	char status[STATUS_MAX];
	const char *p = read_status("self", status) ? field(status, "CapEff") : NULL;
	return p && (strtoull(p, NULL, 16) >> bit & 1);
}

/* --- who it is --- */

static void check_process(struct ovm_findings *f, const struct patient *p)
{
	const char *state = field(p->status, "State");
	pid_t *tids;
	uint32_t n = ovm_tracee_tids(p->pid, &tids);
	free(tids);
	if (!field(p->status, "VmSize"))
		ovm_finding_add(f, OVM_LACK, "process", "%d %s, %s", (int)p->pid, p->name,
				state && strchr("ZX", state[strspn(state, " \t")])
				    ? "has ended, its parent has not noticed"
				    : "a thread of the kernel: runs no program");
	else if (n > MANY_THREADS)
		ovm_finding_add(f, OVM_NOTE, "process",
				"%d %s, %u threads: a stop waits for each that is running, so the "
				"pause may exceed --max-pause",
				(int)p->pid, p->name, n);
	else
		ovm_finding_add(f, OVM_GOOD, "process", "%d %s, %u thread%s", (int)p->pid, p->name,
				n, n == 1 ? "" : "s");
}

/* Another user's, or one whose rights were raised by its file. */
static void check_user(struct ovm_findings *f, const struct patient *p)
{
	long real = number(p->status, "Uid", 0), effective = number(p->status, "Uid", 1);
	if (real != effective || number(p->status, "Gid", 0) != number(p->status, "Gid", 1)) {
		ovm_finding_add(f, OVM_LACK, "user", "a set-id program: left alone");
		return;
	}
	if ((uid_t)real == geteuid() || p->is_privileged)
		ovm_finding_add(f, OVM_GOOD, "user", "%ld, %s", real,
				(uid_t)real == geteuid() ? "yours" : "you may trace others'");
	else if (!real)
		ovm_finding_add(f, OVM_LACK, "user", "runs as root, you are %u: use sudo",
				geteuid());
	else
		ovm_finding_add(f, OVM_LACK, "user",
				"runs as user %ld, you are %u: sudo -u '#%ld' optvm ...", real,
				geteuid(), real);
}

/* The kernel gives the files in /proc of a process that is not dumpable to root. */
static void check_dumpable(struct ovm_findings *f, const struct patient *p)
{
	char path[64];
	struct stat st;
	long effective = number(p->status, "Uid", 1);
	snprintf(path, sizeof(path), "/proc/%d/status", (int)p->pid);
	if (stat(path, &st) || !effective)
		return; /* root's own cannot be told apart */
	if (st.st_uid == (uid_t)effective)
		ovm_finding_add(f, OVM_GOOD, "dumpable", "yes");
	else
		ovm_finding_add(
		    f, p->is_privileged ? OVM_NOTE : OVM_LACK, "dumpable",
		    "no (it asked for that, or its file is not readable): only root may "
		    "trace it");
}

/* --- how it is locked up --- */

static void check_tracer(struct ovm_findings *f, const struct patient *p)
{
	char status[STATUS_MAX], name[64] = "?", pid[16];
	long tracer = number(p->status, "TracerPid", 0);
	if (tracer <= 0) {
		ovm_finding_add(f, OVM_GOOD, "tracer", "none");
		return;
	}
	snprintf(pid, sizeof(pid), "%d", (int)tracer);
	if (read_status(pid, status))
		read_name(status, name, sizeof(name));
	ovm_finding_add(f, OVM_LACK, "tracer", "process %s (%s): end it or detach it first", pid,
			name);
}

static void check_seccomp(struct ovm_findings *f, const struct patient *p)
{
	long mode = number(p->status, "Seccomp", 0);
	if (mode > 0)
		ovm_finding_add(f, OVM_LACK, "seccomp",
				"%s: could kill it for the system calls made inside it: left alone",
				mode == 1 ? "strict" : "filter");
	else
		ovm_finding_add(f, OVM_GOOD, "seccomp", "none");
	if (number(p->status, "NoNewPrivs", 0) > 0)
		ovm_finding_add(f, OVM_GOOD, "no_new_privs", "set: no obstacle");
}

static const char *why_not_traced(const struct patient *p, const struct ovm_findings *f)
{
	long scope = ovm_doctor_number("/proc/sys/kernel/yama/ptrace_scope", 0);
	if (f->lacks)
		return "see above";
	if (scope == 3)
		return "kernel.yama.ptrace_scope is 3: nobody may until the next boot";
	if (scope && !p->is_privileged)
		return scope == 1
			   ? "kernel.yama.ptrace_scope is 1, it is no child of yours: sysctl "
			     "kernel.yama.ptrace_scope=0, or sudo"
			   : "kernel.yama.ptrace_scope is 2: sudo";
	return "a security module or a container forbids it (in a container: "
	       "--cap-add=SYS_PTRACE)";
}

static bool check_tracing(struct ovm_findings *f, struct ovm_ctx *ctx, const struct patient *p,
			  struct ovm_tracee *tracee)
{
	bool is_allowed = !ovm_tracee_open_mem(ctx, tracee);
	if (is_allowed)
		ovm_finding_add(f, OVM_GOOD, "tracing",
				"it may be stopped, its memory read and written");
	else
		ovm_finding_add(f, OVM_LACK, "tracing", "not permitted: %s", why_not_traced(p, f));
	return is_allowed;
}

/* What the runtime itself asks before it changes anything; what is new in it is that memory is
 * shared. */
static void check_memory(struct ovm_findings *f, struct ovm_ctx *ctx, const struct patient *p)
{
	if (!ovm_tracee_check(ctx, p->pid))
		ovm_finding_add(f, OVM_GOOD, "memory", "its own");
	else if (!f->lacks)
		ovm_finding_add(f, OVM_LACK, "memory", "%s", ctx->msg);
}

/* --- what can be done with it --- */

static void check_sampling(struct ovm_findings *f, struct ovm_ctx *ctx, const struct patient *p)
{
	if (ovm_doctor_can_count(ctx, "cpu-clock", p->pid))
		ovm_finding_add(f, OVM_GOOD, "sampling", "perf_event works on it");
	else
		ovm_finding_add(f, OVM_NOTE, "sampling",
				"no perf_event on it, the ptrace sampler is used: %s", ctx->msg);
}

static void check_namespace(struct ovm_findings *f, const struct patient *p)
{
	char path[64], theirs[64], ours[64];
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)p->pid);
	ssize_t n = readlink(path, theirs, sizeof(theirs));
	ssize_t m = readlink("/proc/self/ns/mnt", ours, sizeof(ours));
	if (n > 0 && m > 0 && (n != m || memcmp(theirs, ours, (size_t)n)))
		ovm_finding_add(
		    f, OVM_NOTE, "files",
		    "it sees other files than you (a container): run optvm in there, or "
		    "only files of equal path are found");
}

static void check_unwinder(struct ovm_findings *f, struct ovm_ctx *ctx,
			   const struct ovm_tracee *tracee)
{
	struct ovm_livemap map = {0};
	struct ovm_unwindhook hook;
	struct ovm_decoder *dec = NULL;
	int err = ovm_livemap_read(ctx, tracee->pid, &map);
	if (!err)
		err = ovm_decoder_open(ctx, &dec);
	if (!err) {
		ovm_livemap_modules(&map, tracee->pid);
		err = ovm_unwindhook_find(ctx, dec, tracee, &map, &hook);
	}
	if (err)
		ovm_finding_add(f, OVM_NOTE, "unwinder",
				"cannot be told of copies, so only code without calls can be "
				"optimized: %s",
				ctx->msg);
	else
		ovm_finding_add(f, OVM_GOOD, "unwinder",
				"%u code files; exceptions and backtraces will work in copies",
				map.modules.n);
	ovm_decoder_close(dec);
	ovm_livemap_fini(&map);
}

static void check_program(struct ovm_findings *f, struct ovm_ctx *ctx, const struct patient *p)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/exe", (int)p->pid);
	if (ovm_doctor_file(f, ctx, path))
		ovm_finding_add(f, OVM_LACK, "file", "%s", ctx->msg);
}

int ovm_doctor_process(struct ovm_findings *f, struct ovm_ctx *ctx, pid_t pid)
{
	struct patient p = {.pid = pid,
			    .is_privileged = !geteuid() || has_capability(CAP_SYS_PTRACE_BIT)};
	struct ovm_tracee tracee;
	char name[16];
	snprintf(name, sizeof(name), "%d", (int)pid);
	if (!read_status(name, p.status))
		return ovm_fail(ctx, OVM_E_GONE, "there is no process %d", (int)pid);
	read_name(p.status, p.name, sizeof(p.name));
	check_process(f, &p);
	if (f->lacks)
		return 0;
	ovm_tracee_init(&tracee, pid);
	check_user(f, &p);
	check_dumpable(f, &p);
	bool is_open = check_tracing(f, ctx, &p, &tracee);
	check_tracer(f, &p);
	check_seccomp(f, &p);
	check_sampling(f, ctx, &p);
	check_namespace(f, &p);
	if (is_open) {
		check_memory(f, ctx, &p);
		check_unwinder(f, ctx, &tracee);
		check_program(f, ctx, &p);
	}
	ovm_tracee_close(&tracee);
	return 0;
}
