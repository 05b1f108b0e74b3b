/* optvm doctor [PID|ELF]: what this machine, this kernel and this process or file allow, and what
 * to type to allow more.
 *
 * Asked by trying wherever trying is harmless (open an event on ourselves, trace a child of ours):
 * containers and security modules forbid things that no file in /proc tells.
 */
#include "analyzer/image.h"
#include "analyzer/region.h"
#include "cli/commands.h"
#include "cli/doctor.h"
#include "cli/summary.h"
#include "profiler/pmu.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

void ovm_finding_add(struct ovm_findings *f, enum ovm_verdict verdict, const char *what,
		     const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	ovm_vec_push(&f->v, (struct ovm_finding){what, verdict, ovm_strdup(text)});
	f->lacks |= verdict == OVM_LACK;
}

void ovm_findings_fini(struct ovm_findings *f)
{
	for (uint32_t i = 0; i < f->v.n; i++)
		free(f->v.v[i].text);
	ovm_vec_free(&f->v);
}

long ovm_doctor_number(const char *path, long missing)
{
	FILE *from = fopen(path, "re");
	long x;
	if (!from)
		return missing;
	if (fscanf(from, "%ld", &x) != 1)
		x = missing;
	fclose(from);
	return x;
}

/* --- the machine --- */

bool ovm_doctor_can_count(struct ovm_ctx *ctx, const char *event, pid_t pid)
{
	struct perf_event_attr attr = {.size = sizeof(attr)};
	if (ovm_pmu_encode(ctx, event, &attr))
		return false;
	attr.exclude_kernel = attr.exclude_hv = 1;
	int fd = ovm_pmu_open(&attr, pid, -1);
	if (fd < 0) {
		ovm_pmu_fail(ctx, -fd, event);
		return false;
	}
	close(fd);
	return true;
}

static void check_perf(struct ovm_findings *f)
{
	enum { ABSENT = -99 };
	long paranoid = ovm_doctor_number("/proc/sys/kernel/perf_event_paranoid", ABSENT);
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	if (paranoid == ABSENT)
		ovm_finding_add(f, OVM_NOTE, "perf_event_paranoid",
				"absent: this kernel has no perf_event");
	else
		ovm_finding_add(
		    f, paranoid <= 2 || !geteuid() ? OVM_GOOD : OVM_NOTE, "perf_event_paranoid",
		    paranoid <= 2
			? "%ld"
			: "%ld: without privileges needs <= 2: sysctl kernel.perf_event_paranoid=2",
		    paranoid);
	if (ovm_doctor_can_count(&ctx, "cpu-clock", 0))
		ovm_finding_add(f, OVM_GOOD, "sampling", "perf_event works (cpu-clock)");
	else
		ovm_finding_add(f, OVM_NOTE, "sampling",
				"no perf_event, the ptrace sampler is used: %s", ctx.msg);
	if (!strcmp(ovm_pmu_default_event(), "cycles"))
		ovm_finding_add(f, OVM_GOOD, "PMU", "present: cycles can be sampled");
	else
		ovm_finding_add(
		    f, OVM_NOTE, "PMU",
		    "none that counts cycles here (usual in virtual machines): cpu-clock is used");
}

/* Seize, stop and let go a child of ours: what `run` does. Returns 0 or an errno. */
static int try_ptrace(void)
{
	pid_t pid = fork();
	if (pid < 0)
		return errno;
	if (!pid) {
		for (;;)
			pause();
	}
	int err = 0, status;
	if (ptrace(PTRACE_SEIZE, pid, 0, 0) || ptrace(PTRACE_INTERRUPT, pid, 0, 0))
		err = errno;
	else if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
		err = EIO;
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status))
		;
	return err;
}

static void check_ptrace(struct ovm_findings *f)
{
	enum { ABSENT = -1 };
	static const char *const meanings[] = {
	    "any process of the same user",
	    "children only: 'record -p' needs sysctl kernel.yama.ptrace_scope=0, or root",
	    "root only: sysctl kernel.yama.ptrace_scope=1",
	    "nobody, until the next boot",
	};
	long scope = ovm_doctor_number("/proc/sys/kernel/yama/ptrace_scope", ABSENT);
	if (scope == ABSENT)
		ovm_finding_add(f, OVM_GOOD, "ptrace_scope",
				"absent (no Yama): any process of the same user");
	else
		ovm_finding_add(f, scope <= 1 ? OVM_GOOD : OVM_NOTE, "ptrace_scope", "%ld: %s",
				scope, scope >= 0 && scope <= 3 ? meanings[scope] : "unknown");
	int err = try_ptrace();
	if (err)
		ovm_finding_add(
		    f, OVM_LACK, "ptrace",
		    "a child cannot be traced (%s): 'run' can only start programs: allow ptrace "
		    "(in a container: --cap-add=SYS_PTRACE)",
		    strerror(err));
	else
		ovm_finding_add(f, OVM_GOOD, "ptrace", "a child can be traced and stopped");
}

static void check_machine(struct ovm_findings *f)
{
	struct utsname name;
	if (!uname(&name))
		ovm_finding_add(f, strcmp(name.machine, "x86_64") ? OVM_LACK : OVM_GOOD, "machine",
				"%s, Linux %s", name.machine, name.release);
	check_perf(f);
	check_ptrace(f);
}

/* --- one file --- */

static void check_coverage(struct ovm_findings *f, struct ovm_ctx *ctx,
			   const struct ovm_image *image)
{
	struct ovm_regions regions = {0};
	uint64_t code = 0, covered = 0;
	if (ovm_regions_build(ctx, image, &regions)) {
		ovm_finding_add(f, OVM_LACK, "unwind data", "%s", ctx->msg);
		return;
	}
	for (uint32_t i = 0; i < image->segments.n; i++)
		if (image->segments.v[i].flags & PF_X)
			code += image->segments.v[i].filesz;
	for (uint32_t i = 0; i < regions.v.n; i++)
		covered += regions.v.v[i].hi.v - regions.v.v[i].lo.v;
	ovm_finding_add(f, regions.v.n ? OVM_GOOD : OVM_LACK, "unwind data",
			"%u regions, %.1f %% of %" PRIu64 " executable bytes", regions.v.n,
			ovm_percent(covered, code), code);
	ovm_regions_free(&regions);
}

static void check_runtimes(struct ovm_findings *f, const struct ovm_image *image)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} known[] = {
	    {OVM_RUNTIME_GO, "Go"},
	    {OVM_RUNTIME_OCAML, "OCaml"},
	    {OVM_RUNTIME_STATEPOINTS, "LLVM stack maps"},
	    {OVM_RUNTIME_GRAAL, "GraalVM"},
	    {OVM_RUNTIME_DOTNET, ".NET"},
	    {OVM_RUNTIME_GHC, "GHC"},
	    {OVM_RUNTIME_JVM, "JVM"},
	};
	char list[128] = "";
	for (size_t i = 0, at = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (image->runtimes & known[i].bit && at < sizeof(list))
			at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", at ? ", " : "",
					       known[i].name);
	if (list[0])
		ovm_finding_add(f, OVM_LACK, "runtime",
				"%s: looks frames up by return address, so it is left alone", list);
	else
		ovm_finding_add(f, OVM_GOOD, "runtime",
				"none that looks frames up by return address");
}

int ovm_doctor_file(struct ovm_findings *f, struct ovm_ctx *ctx, const char *path)
{
	struct ovm_image *image;
	int err = ovm_image_open(ctx, path, &image);
	if (err)
		return err;
	ovm_finding_add(f, OVM_GOOD, "file", "ELF64 x86-64, %s, id %s",
			!image->is_dyn	    ? "executable at a fixed address"
			: image->has_interp ? "executable, position-independent"
					    : "shared library or static PIE",
			image->id);
	check_coverage(f, ctx, image);
	check_runtimes(f, image);
	if (image->is_processed)
		ovm_finding_add(f, OVM_LACK, "processed",
				"already rewritten by optvm: give it the original");
	ovm_image_close(image);
	return 0;
}

/* --- output --- */

static void print_text(const struct ovm_findings *f, const struct ovm_style *style)
{
	static const char *const words[] = {"ok", "note", "lack"};
	for (uint32_t i = 0; i < f->v.n; i++) {
		const struct ovm_finding *x = &f->v.v[i];
		const char *colour = x->verdict == OVM_GOOD   ? style->good
				     : x->verdict == OVM_LACK ? style->bad
							      : style->bold;
		printf("%s%-5s%s %-20s ", colour, words[x->verdict], style->off, x->what);
		ovm_put_clean(x->text, stdout);
		putchar('\n');
	}
}

static void print_json(const struct ovm_findings *f)
{
	static const char *const words[] = {"ok", "note", "lack"};
	json_t *list = json_array();
	for (uint32_t i = 0; i < f->v.n; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "what", f->v.v[i].what,
						      "verdict", words[f->v.v[i].verdict], "text",
						      f->v.v[i].text));
	json_t *doc = json_pack("{s:s, s:b, s:o}", "schema", "optvm.doctor/1", "ok", !f->lacks,
				"findings", list);
	json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(doc);
}

/* Digits only; a file of such a name is called ./123. Too large for a PID: none has it. */
static bool is_pid(const char *word, pid_t *pid)
{
	if (!*word || word[strspn(word, "0123456789")])
		return false;
	long x = strtol(word, NULL, 10); /* LONG_MAX if too large */
	*pid = x > INT_MAX ? INT_MAX : (pid_t)x;
	return true;
}

int ovm_cmd_doctor(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	(void)status;
	struct ovm_style style;
	struct ovm_findings findings = {0};
	pid_t pid;
	if (opts->n_words > 1)
		return ovm_fail(ctx, OVM_E_USAGE, "doctor: one process or file at a time");
	int err = ovm_style_choose(ctx, opts, stdout, &style);
	if (err)
		return err;
	if (opts->n_words && is_pid(opts->words[0], &pid))
		err = ovm_doctor_process(&findings, ctx, pid);
	else if (opts->n_words)
		err = ovm_doctor_file(&findings, ctx, opts->words[0]);
	else
		check_machine(&findings);
	if (!err && ovm_option_given(opts, OVM_OPT_JSON))
		print_json(&findings);
	else if (!err)
		print_text(&findings, &style);
	ovm_findings_fini(&findings);
	if (err)
		return err;
	ctx->msg[0] = 0; /* what failed is told in the findings */
	return findings.lacks ? OVM_REFUSED : 0;
}
