/* optvm doctor [ELF]: what this machine, this kernel and this file allow, and what to type to allow
 * more.
 *
 * Asked by trying wherever trying is harmless (open an event on ourselves, trace a child of ours):
 * containers and security modules forbid things that no file in /proc tells.
 */
#include "analyzer/image.h"
#include "analyzer/region.h"
#include "cli/commands.h"
#include "cli/summary.h"
#include "profiler/pmu.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

enum verdict { GOOD, NOTE, LACK };

struct finding {
	const char *what;
	enum verdict verdict;
	char *text;
};
struct findings {
	OVM_VEC(struct finding) v;
	bool lacks;
};

static void add(struct findings *f, enum verdict verdict, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void add(struct findings *f, enum verdict verdict, const char *what, const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	ovm_vec_push(&f->v, (struct finding){what, verdict, ovm_strdup(text)});
	f->lacks |= verdict == LACK;
}

/* The number in a one-line file, or @missing. */
static long read_number(const char *path, long missing)
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

static bool can_count(const char *event, struct ovm_ctx *ctx)
{
	struct perf_event_attr attr = {.size = sizeof(attr)};
	if (ovm_pmu_encode(ctx, event, &attr))
		return false;
	attr.exclude_kernel = attr.exclude_hv = 1;
	int fd = ovm_pmu_open(&attr, 0, -1);
	if (fd < 0) {
		ovm_pmu_fail(ctx, -fd, event);
		return false;
	}
	close(fd);
	return true;
}

static void check_perf(struct findings *f)
{
	enum { ABSENT = -99 };
	long paranoid = read_number("/proc/sys/kernel/perf_event_paranoid", ABSENT);
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	if (paranoid == ABSENT)
		add(f, NOTE, "perf_event_paranoid", "absent: this kernel has no perf_event");
	else
		add(f, paranoid <= 2 || !geteuid() ? GOOD : NOTE, "perf_event_paranoid",
		    paranoid <= 2
			? "%ld"
			: "%ld: without privileges needs <= 2: sysctl kernel.perf_event_paranoid=2",
		    paranoid);
	if (can_count("cpu-clock", &ctx))
		add(f, GOOD, "sampling", "perf_event works (cpu-clock)");
	else
		add(f, NOTE, "sampling", "no perf_event, the ptrace sampler is used: %s", ctx.msg);
	if (!strcmp(ovm_pmu_default_event(), "cycles"))
		add(f, GOOD, "PMU", "present: cycles can be sampled");
	else
		add(f, NOTE, "PMU",
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

static void check_ptrace(struct findings *f)
{
	enum { ABSENT = -1 };
	static const char *const meanings[] = {
	    "any process of the same user",
	    "children only: 'record -p' needs sysctl kernel.yama.ptrace_scope=0, or root",
	    "root only: sysctl kernel.yama.ptrace_scope=1",
	    "nobody, until the next boot",
	};
	long scope = read_number("/proc/sys/kernel/yama/ptrace_scope", ABSENT);
	if (scope == ABSENT)
		add(f, GOOD, "ptrace_scope", "absent (no Yama): any process of the same user");
	else
		add(f, scope <= 1 ? GOOD : NOTE, "ptrace_scope", "%ld: %s", scope,
		    scope >= 0 && scope <= 3 ? meanings[scope] : "unknown");
	int err = try_ptrace();
	if (err)
		add(f, LACK, "ptrace",
		    "a child cannot be traced (%s): 'run' can only start programs: allow ptrace "
		    "(in a container: --cap-add=SYS_PTRACE)",
		    strerror(err));
	else
		add(f, GOOD, "ptrace", "a child can be traced and stopped");
}

static void check_machine(struct findings *f)
{
	struct utsname name;
	if (!uname(&name))
		add(f, strcmp(name.machine, "x86_64") ? LACK : GOOD, "machine", "%s, Linux %s",
		    name.machine, name.release);
	check_perf(f);
	check_ptrace(f);
}

/* --- one file --- */

static void check_coverage(struct findings *f, struct ovm_ctx *ctx, const struct ovm_image *image)
{
	struct ovm_regions regions = {0};
	uint64_t code = 0, covered = 0;
	if (ovm_regions_build(ctx, image, &regions)) {
		add(f, LACK, "unwind data", "%s", ctx->msg);
		return;
	}
	for (uint32_t i = 0; i < image->segments.n; i++)
		if (image->segments.v[i].flags & PF_X)
			code += image->segments.v[i].filesz;
	for (uint32_t i = 0; i < regions.v.n; i++)
		covered += regions.v.v[i].hi.v - regions.v.v[i].lo.v;
	add(f, regions.v.n ? GOOD : LACK, "unwind data",
	    "%u regions, %.1f %% of %" PRIu64 " executable bytes", regions.v.n,
	    ovm_percent(covered, code), code);
	ovm_regions_free(&regions);
}

static void check_runtimes(struct findings *f, const struct ovm_image *image)
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
		add(f, LACK, "runtime",
		    "%s: looks frames up by return address, so it is left alone", list);
	else
		add(f, GOOD, "runtime", "none that looks frames up by return address");
}

static int check_file(struct findings *f, struct ovm_ctx *ctx, const char *path)
{
	struct ovm_image *image;
	int err = ovm_image_open(ctx, path, &image);
	if (err)
		return err;
	add(f, GOOD, "file", "ELF64 x86-64, %s, id %s",
	    !image->is_dyn	? "executable at a fixed address"
	    : image->has_interp ? "executable, position-independent"
				: "shared library or static PIE",
	    image->id);
	check_coverage(f, ctx, image);
	check_runtimes(f, image);
	if (image->is_processed)
		add(f, LACK, "processed", "already rewritten by optvm: give it the original");
	ovm_image_close(image);
	return 0;
}

/* --- output --- */

static void print_text(const struct findings *f, const struct ovm_style *style)
{
	static const char *const words[] = {"ok", "note", "lack"};
	for (uint32_t i = 0; i < f->v.n; i++) {
		const struct finding *x = &f->v.v[i];
		const char *colour = x->verdict == GOOD	  ? style->good
				     : x->verdict == LACK ? style->bad
							  : style->bold;
		printf("%s%-5s%s %-20s ", colour, words[x->verdict], style->off, x->what);
		ovm_put_clean(x->text, stdout);
		putchar('\n');
	}
}

static void print_json(const struct findings *f)
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

int ovm_cmd_doctor(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	(void)status;
	struct ovm_style style;
	struct findings findings = {0};
	if (opts->n_words > 1)
		return ovm_fail(ctx, OVM_E_USAGE, "doctor: one file at a time");
	int err = ovm_style_choose(ctx, opts, stdout, &style);
	if (err)
		return err;
	if (opts->n_words)
		err = check_file(&findings, ctx, opts->words[0]);
	else
		check_machine(&findings);
	if (!err && ovm_option_given(opts, OVM_OPT_JSON))
		print_json(&findings);
	else if (!err)
		print_text(&findings, &style);
	for (uint32_t i = 0; i < findings.v.n; i++)
		free(findings.v.v[i].text);
	ovm_vec_free(&findings.v);
	if (err)
		return err;
	ctx->msg[0] = 0; /* what failed is told in the findings */
	return findings.lacks ? OVM_REFUSED : 0;
}
