/* Why a child process?
 *
 * Building takes about a second of decoding, flow and layout. Done in the tool itself, a program
 * that ends meanwhile would be waited for by nobody; in a thread, our own exit would have to wait
 * for LLVM. A forked child sees the profile and the target's open memory as they are, can be killed
 * at any moment, gives its memory back at once, and when it crashes (an assertion, a bug in a
 * decoder) the program goes on and its status comes through.
 *
 *   tool    --fork-->  child: choose modules, find the unwinder, build and prove overlays
 *   watch the program          |
 *   read the result  <---------+  flat arrays in a memory file
 *   arm, count, disarm         |  (it stays: images, regions and graphs are at hand)
 *   order  ------------------> +  the same modules by exact counts, and what to measure by
 *   read the result  <---------+
 *
 * To open a large library, find its regions, and all that refers to them, takes as long as to lay
 * out what is hot; so it is done once for a round.
 *
 * The child never ptraces: it reads /proc/PID/mem through the descriptor the tool opened.
 */
#define OVM_LOG_DOMAIN "builder"
#include "runtime/builder.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/parallel.h"
#include "runtime/codemem.h"
#include "runtime/family.h"
#include "runtime/generation.h"
#include "runtime/handover.h"
#include "runtime/cputime.h"
#include "runtime/presence.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- the child's work
 * ------------------------------------------------------------------------------------------ */

struct work {
	const struct ovm_generations *set;
	const struct ovm_tracee *tracee;
	struct ovm_livemap map; /* as it is now: what is there already is not chosen as a place */
	const struct ovm_profile *profile;
	const struct ovm_target_opts *opts;
	struct ovm_decoder *dec;
	ovm_targets targets;
	ovm_targets known; /* of the order before */
	struct ovm_unwindhook hook;
	bool is_hooked;
	char why_not[200];
};

static void explain(struct work *work, const struct ovm_ctx *ctx)
{
	if (!work->why_not[0])
		snprintf(work->why_not, sizeof(work->why_not), "%.190s", ctx->msg);
}

/* The hook's stub lies near the C library, like an overlay of it. */
static void find_hook(struct ovm_ctx *ctx, struct work *work)
{
	if (work->set->has_hook) { /* by an earlier generation */
		work->hook = work->set->hook;
		work->hook.module = ovm_livemap_module(&work->map, work->hook.function);
		work->is_hooked = true;
		return;
	}
	int rc = ovm_unwindhook_find(ctx, work->dec, work->tracee, &work->map, &work->hook);
	if (rc == 0 && !work->hook.is_installed)
		rc = ovm_codemem_place(ctx, &work->map, work->hook.module, OVM_UNWINDHOOK_SIZE,
				       &work->hook.page);
	work->is_hooked = rc == 0;
	if (rc) {
		ovm_log(OVM_LOG_INFO, "only leaf code: %s", ctx->msg);
		explain(work, ctx);
	}
}

/* Overlays that are there already, made for another process. */
static void take_all_of(struct ovm_ctx *ctx, struct work *work, const struct ovm_built *like)
{
	for (uint32_t i = 0; i < like->modules.n; i++) {
		struct ovm_target target;
		if (ovm_target_take(ctx, work->set, &work->map, like, i, &target) == 0)
			ovm_vec_push(&work->targets, target);
		else
			explain(work, ctx);
	}
	if (!work->targets.n || !like->is_hooked)
		return;
	if (ovm_decoder_open(ctx, &work->dec) == 0)
		find_hook(ctx, work);
	if (!work->is_hooked) { /* what calls could not be unwound */
		explain(work, ctx);
		work->targets.n = 0;
	}
}

static bool is_of_copies(const struct ovm_live_range *range)
{
	return range->prot & OVM_PROT_X ? !range->path[0] : strstr(range->path, "memfd:") != NULL;
}

static bool is_free(const struct ovm_livemap *map, const struct ovm_live_range *range)
{
	for (uint32_t i = 0; i < map->ranges.n; i++)
		if (map->ranges.v[i].lo.v < range->hi.v && range->lo.v < map->ranges.v[i].hi.v)
			return false;
	return true;
}

/* Those forked from the same image shall get the same copies, beside what each has from before. */
static void avoid_kin(struct ovm_livemap *map, pid_t root, pid_t pid)
{
	ovm_family kin;
	struct ovm_ctx own;
	ovm_ctx_init(&own);
	ovm_family_kin(root, pid, &kin);
	for (uint32_t i = 0; i < kin.n; i++) {
		struct ovm_livemap other = {0};
		bool is_read =
		    kin.v[i].pid != pid && ovm_livemap_read(&own, kin.v[i].pid, &other) == 0;
		for (uint32_t k = 0; is_read && k < other.ranges.n; k++)
			if (is_of_copies(&other.ranges.v[k]) && is_free(map, &other.ranges.v[k]))
				ovm_livemap_reserve(map, other.ranges.v[k].lo,
						    other.ranges.v[k].hi);
		ovm_livemap_fini(&other);
	}
	ovm_vec_free(&kin);
}

/* What is known of its file is not found out again. */
static void inherit(struct work *work, struct ovm_target *target)
{
	for (uint32_t i = 0; i < work->known.n; i++)
		if (ovm_target_inherit(target, &work->known.v[i]))
			return;
}

static void build_all(struct ovm_ctx *ctx, struct work *work)
{
	if (ovm_livemap_read(ctx, work->tracee->pid, &work->map)) {
		explain(work, ctx);
		return;
	}
	ovm_livemap_modules(&work->map, work->tracee->pid);
	if (work->opts->root)
		avoid_kin(&work->map, work->opts->root, work->tracee->pid);
	if (work->is_hooked) /* the map is another one */
		work->hook.module = ovm_livemap_module(&work->map, work->hook.function);
	if (work->opts->like) {
		take_all_of(ctx, work, work->opts->like);
		return;
	}
	ovm_targets_choose(&work->map, work->profile, work->opts, &work->targets);
	if (!work->targets.n) {
		ovm_fail(ctx, OVM_OK, "no module has enough samples");
		explain(work, ctx);
		return;
	}
	if (!work->dec && ovm_decoder_open(ctx, &work->dec)) {
		explain(work, ctx);
		work->targets.n = 0;
		return;
	}
	if (!work->is_hooked)
		find_hook(ctx, work);
	uint32_t kept = 0;
	for (uint32_t i = 0; i < work->targets.n; i++) /* all, before the process may end */
		work->targets.v[i].print =
		    ovm_module_print(work->tracee, work->targets.v[i].module->lo);
	OVM_FAULT(BUILDER_CHOSEN);
	for (uint32_t i = 0; i < work->targets.n; i++) {
		struct ovm_target *target = &work->targets.v[i];
		inherit(work, target);
		int rc = ovm_target_build(ctx, work->dec, work->set, &work->map,
					  work->is_hooked ? &work->hook : NULL, work->opts, target);
		if (rc) {
			ovm_log(OVM_LOG_INFO, "%s: left alone: %s", target->module->path, ctx->msg);
			explain(work, ctx);
			ovm_target_fini(target);
			continue;
		}
		work->targets.v[kept++] = *target;
	}
	work->targets.n = kept;
}

/* The targets again as code to measure by; what cannot be is left out. */
static void build_reference(struct ovm_ctx *ctx, struct work *work)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < work->targets.n; i++) {
		struct ovm_target *target = &work->targets.v[i];
		if (ovm_target_build_reference(ctx, work->dec, &work->map, work->opts, target)) {
			ovm_log(OVM_LOG_INFO, "no reference: %s", ctx->msg);
			explain(work, ctx);
			ovm_target_fini(target);
			continue;
		}
		work->targets.v[kept++] = *target;
	}
	work->targets.n = kept;
}

/* --- processes
 * ---------------------------------------------------------------------------------------------------
 */

void ovm_built_module_fini(struct ovm_built_module *m)
{
	if (m->is_borrowed)
		return;
	ovm_overlay_fini(&m->overlay);
	ovm_vec_free(&m->arcs);
	ovm_vec_free(&m->calls);
}

static bool put_result(int fd, const struct ovm_ctx *ctx, const struct work *work)
{
	const struct ovm_handover result = {
	    .targets = &work->targets,
	    .tracee = work->tracee,
	    .map = &work->map,
	    .is_passing = work->opts->is_counting || work->opts->is_reference,
	    .is_hooked = work->is_hooked,
	    .hook = &work->hook,
	    .why_not = work->why_not,
	};
	return ovm_handover_put(fd, ctx, &result);
}

/* With gauges a second result follows the first: the code to measure by. */
static bool build_and_put(struct ovm_ctx *ctx, struct work *work, int fd)
{
	const struct ovm_target_opts *opts = work->opts;
	struct ovm_target_opts as_it_was = *opts;
	memset(ctx->n_refused, 0, sizeof(ctx->n_refused));
	build_all(ctx, work);
	if (OVM_FAULT_FAILS(BUILDER_PUT) || !put_result(fd, ctx, work))
		return false;
	if (opts->is_counting || !opts->gauges || !opts->gauges->v.n || !work->targets.n)
		return true;
	as_it_was.is_reference = true;
	work->opts = &as_it_was;
	build_reference(ctx, work);
	bool ok = put_result(fd, ctx, work);
	work->opts = opts;
	return ok;
}

/* Optimized code by what is known now. Gauges and known targets keep pointers into the map before.
 */
static bool build_again(struct ovm_ctx *ctx, struct work *work, struct ovm_handover_reader *r,
			int fd)
{
	struct ovm_target_opts opts = *work->opts;
	struct ovm_livemap before = work->map;
	struct ovm_gauges gauges = {0};
	struct ovm_profile *profile;
	if (!ovm_handover_take_order(ctx, r, &before, &gauges, &profile))
		return false;
	opts.is_counting = opts.no_callees = opts.stays = false;
	opts.counted = NULL;
	opts.gauges = &gauges;
	work->opts = &opts;
	work->profile = profile;
	work->known = work->targets;
	work->targets = (ovm_targets){0};
	work->map = (struct ovm_livemap){0};
	work->why_not[0] = '\0';
	return build_and_put(ctx, work, fd);
}

static bool say(int fd)
{
	return send(fd, "", 1, MSG_NOSIGNAL) == 1;
}

static bool hear(int fd)
{
	char c;
	ssize_t n;
	while ((n = recv(fd, &c, 1, 0)) < 0 && errno == EINTR)
		;
	return n == 1;
}

static _Noreturn void child_main(struct ovm_ctx *ctx, struct work *work,
				 const struct ovm_builder *builder, int talk, pid_t parent)
{
	static const int plain[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
	struct ovm_handover_reader order;
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		signal(plain[i], i < 2 ? SIG_IGN : SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	ovm_parallel_spare(1);
	close(builder->watch_fd);
	OVM_FAULT(BUILDER_CHILD);
	bool ok = build_and_put(ctx, work, builder->fd) && say(talk);
	if (ok && builder->stays && hear(talk))
		ok = ftruncate(builder->fd, 0) == 0 && lseek(builder->fd, 0, SEEK_SET) == 0 &&
		     ovm_handover_open(builder->order_fd, &order) &&
		     build_again(ctx, work, &order, builder->fd) && say(talk);
	_exit(ok ? 0 : 1);
}

static int open_files(struct ovm_builder *b, int *talk)
{
	int ends[2];
	b->fd = OVM_FAULT_FAILS(BUILDER_FILE) ? -1 : memfd_create("optvm", MFD_CLOEXEC);
	if (b->fd < 0)
		return errno;
	b->order_fd = b->stays ? memfd_create("optvm", MFD_CLOEXEC) : -1;
	if ((b->stays && b->order_fd < 0) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return errno;
	b->watch_fd = ends[0];
	*talk = ends[1];
	return 0;
}

int ovm_builder_start(struct ovm_ctx *ctx, const struct ovm_generations *set,
		      const struct ovm_profile *profile, const struct ovm_target_opts *opts,
		      struct ovm_builder *out)
{
	struct ovm_builder builder = {
	    .fd = -1, .order_fd = -1, .watch_fd = -1, .stays = opts->stays};
	int talk = -1, err = open_files(&builder, &talk);
	*out = (struct ovm_builder){.fd = -1, .order_fd = -1, .watch_fd = -1};
	if (err) {
		ovm_builder_close(&builder);
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, err, "memfd_create, socketpair");
	}
	struct work work = {.set = set, .tracee = set->tracee, .profile = profile, .opts = opts};
	pid_t parent = getpid(), pid = OVM_FAULT_FAILS(BUILDER_FORK) ? -1 : fork();
	if (pid == 0)
		child_main(ctx, &work, &builder, talk, parent);
	err = errno;
	close(talk);
	if (pid < 0) {
		ovm_builder_close(&builder);
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, err, "fork");
	}
	OVM_FAULT(BUILDER_FORKED);
	builder.pid = pid;
	builder.like = opts->like;
	*out = builder;
	return 0;
}

static int wait_child(struct ovm_builder *builder)
{
	int status = 0;
	struct rusage used = {0};
	while (wait4(builder->pid, &status, 0, &used) < 0 && errno == EINTR)
		;
	builder->pid = 0;
	builder->used_ms = (double)ovm_rusage_ms(&used);
	ovm_log(OVM_LOG_INFO, "used %.0f ms of CPU time", builder->used_ms);
	return status;
}

static bool read_result(const struct ovm_builder *builder, const struct ovm_livemap *map,
			struct ovm_built *out, struct ovm_built *reference)
{
	struct ovm_handover_reader r;
	if (OVM_FAULT_FAILS(BUILDER_RESULT) || !ovm_handover_open(builder->fd, &r))
		return false;
	bool ok = ovm_handover_take(&r, map, out) &&
		  (r.p == r.end || ovm_handover_take(&r, map, reference));
	ovm_handover_close(&r);
	return ok;
}

static void borrow(const struct ovm_built *from, struct ovm_built_module *to)
{
	if (to->like == OVM_NONE)
		return;
	const struct ovm_built_module *like = &from->modules.v[to->like];
	to->overlay = like->overlay;
	to->arcs = like->arcs;
	to->calls = like->calls;
	to->is_borrowed = true;
}

int ovm_builder_result(struct ovm_ctx *ctx, struct ovm_builder *builder,
		       const struct ovm_livemap *map, struct ovm_built *out,
		       struct ovm_built *reference)
{
	struct ovm_built built = {0}, other = {0};
	bool is_done = hear(builder->watch_fd);
	int status = is_done && builder->stays ? 0 : wait_child(builder);
	int rc = ovm_fail(ctx, OVM_E_INTERNAL, "the optimizer's builder ended with status 0x%x",
			  (unsigned)status);
	if (is_done && status == 0 && read_result(builder, map, &built, &other))
		rc = 0;
	for (uint32_t i = 0; i < built.modules.n && rc == 0; i++)
		borrow(builder->like, &built.modules.v[i]);
	if (rc || !builder->stays)
		ovm_builder_close(builder);
	if (rc) {
		ovm_built_fini(&built);
		ovm_built_fini(&other);
		return rc;
	}
	ctx->err = OVM_OK;
	ctx->msg[0] = '\0';
	*out = built;
	if (reference)
		*reference = other;
	else
		ovm_built_fini(&other);
	return 0;
}

int ovm_builder_order(struct ovm_ctx *ctx, struct ovm_builder *builder,
		      const struct ovm_profile *profile, const struct ovm_gauges *gauges)
{
	builder->stays = false;
	if (ovm_handover_put_order(builder->order_fd, profile, gauges) && say(builder->watch_fd))
		return 0;
	ovm_builder_close(builder);
	return ovm_fail(ctx, OVM_E_UNAVAILABLE, "the optimizer's builder takes no more orders");
}

void ovm_builder_close(struct ovm_builder *builder)
{
	if (builder->pid > 0) {
		kill(builder->pid, SIGKILL);
		wait_child(builder);
	}
	const int fds[] = {builder->fd, builder->order_fd, builder->watch_fd};
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] > 0)
			close(fds[i]);
	*builder = (struct ovm_builder){
	    .fd = -1, .order_fd = -1, .watch_fd = -1, .used_ms = builder->used_ms};
}

void ovm_built_fini(struct ovm_built *built)
{
	for (uint32_t i = 0; i < built->modules.n; i++)
		ovm_built_module_fini(&built->modules.v[i]);
	ovm_vec_free(&built->modules);
}
