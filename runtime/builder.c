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
 *
 * The child never ptraces: it reads /proc/PID/mem through the descriptor the tool opened.
 */
#define OVM_LOG_DOMAIN "builder"
#include "runtime/builder.h"
#include "base/fault.h"
#include "base/log.h"
#include "runtime/codemem.h"
#include "runtime/family.h"
#include "runtime/generation.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
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
		if (ovm_target_take(ctx, work->set, &work->map, &like->modules.v[i], &target) == 0)
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

static void build_all(struct ovm_ctx *ctx, struct work *work)
{
	if (ovm_livemap_read(ctx, work->tracee->pid, &work->map)) {
		explain(work, ctx);
		return;
	}
	ovm_livemap_modules(&work->map, work->tracee->pid);
	if (work->opts->root)
		avoid_kin(&work->map, work->opts->root, work->tracee->pid);
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
	if (ovm_decoder_open(ctx, &work->dec)) {
		explain(work, ctx);
		return;
	}
	find_hook(ctx, work);
	uint32_t kept = 0;
	for (uint32_t i = 0; i < work->targets.n; i++) {
		struct ovm_target *target = &work->targets.v[i];
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

/* --- transfer: plain numbers and arrays, written and read in the same order by the same program
 * -------------------- */

struct head {
	uint32_t n_modules;
	bool is_passing, is_hooked;
	struct ovm_unwindhook hook;
	uint64_t n_refused[OVM_MAX_REFUSALS];
	char why_not[200];
};

struct module_head {
	ovm_rta module; /* any address of it */
	uint64_t inode; /* and its file */
	ovm_rta at, link_map;
	uint64_t n_samples, print;
	struct ovm_engine_stats stats;
	ovm_va base;
	uint32_t size, n_map, n_patches;
	struct ovm_section sections[OVM_N_SECTIONS];
	uint32_t n_regions, n_blocks, n_insns;
	ovm_va counters;
	uint32_t n_counters, n_sites, n_nodes, n_arcs, n_calls;
};

static bool put(int fd, const void *from, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t got = write(fd, (const char *)from + done, n - done);
		if (got <= 0)
			return false;
		done += (size_t)got;
	}
	return true;
}

static bool put_module(int fd, const struct work *work, const struct ovm_target *target)
{
	const struct ovm_overlay *o = &target->engine.overlay;
	struct module_head head = {
	    .module = target->module->lo,
	    .inode = target->module->inode,
	    .at = target->at,
	    .link_map = ovm_livedyn_link_map(work->tracee, &work->map, target->module),
	    .n_samples = target->n_samples,
	    .print = target->print,
	    .stats = target->engine.stats,
	    .base = o->base,
	    .size = o->size,
	    .n_map = o->map.v.n,
	    .n_patches = o->patches.n,
	    .n_regions = o->n_regions,
	    .n_blocks = o->n_blocks,
	    .n_insns = o->n_insns,
	    .counters = o->counters,
	    .n_counters = o->n_counters,
	    .n_sites = o->sites.n,
	    .n_nodes = target->engine.probes.n_nodes,
	    .n_arcs = target->engine.probes.arcs.n,
	    .n_calls = target->engine.calls.n,
	};
	memcpy(head.sections, o->sections, sizeof(head.sections));
	return put(fd, &head, sizeof(head)) && put(fd, o->bytes, o->size) &&
	       put(fd, o->map.v.v, o->map.v.n * sizeof(o->map.v.v[0])) &&
	       put(fd, o->map.by_old, o->map.v.n * sizeof(o->map.by_old[0])) &&
	       put(fd, o->patches.v, o->patches.n * sizeof(o->patches.v[0])) &&
	       put(fd, o->sites.v, o->sites.n * sizeof(o->sites.v[0])) &&
	       put(fd, target->engine.probes.arcs.v, head.n_arcs * sizeof(struct ovm_arc)) &&
	       put(fd, target->engine.calls.v, head.n_calls * sizeof(struct ovm_counted_call));
}

static bool put_all(int fd, const struct ovm_ctx *ctx, const struct work *work)
{
	struct head head = {.n_modules = work->targets.n,
			    .is_passing = work->opts->is_counting || work->opts->is_reference,
			    .is_hooked = work->is_hooked,
			    .hook = work->hook};
	memcpy(head.n_refused, ctx->n_refused, sizeof(head.n_refused));
	memcpy(head.why_not, work->why_not, sizeof(head.why_not));
	bool ok = put(fd, &head, sizeof(head));
	for (uint32_t i = 0; i < work->targets.n && ok; i++)
		ok = put_module(fd, work, &work->targets.v[i]);
	return ok;
}

struct reader {
	const uint8_t *p, *end;
};

static bool take(struct reader *r, void *to, size_t n)
{
	if ((size_t)(r->end - r->p) < n)
		return false;
	if (n)
		memcpy(to, r->p, n);
	r->p += n;
	return true;
}

/* A new array of @n elements of @size bytes, NULL if the file is too short. */
static void *take_array(struct reader *r, uint32_t n, size_t size)
{
	if ((size_t)(r->end - r->p) / size < n)
		return NULL;
	void *to = ovm_alloc_array(n, size);
	take(r, to, n * size);
	return to;
}

static bool take_module(struct reader *r, const struct ovm_livemap *map,
			struct ovm_built_module *out)
{
	struct module_head head;
	if (!take(r, &head, sizeof(head)))
		return false;
	struct ovm_overlay *o = &out->overlay;
	out->module = ovm_livemap_module(map, head.module);
	out->at = head.at;
	out->link_map = head.link_map;
	out->n_samples = head.n_samples;
	out->print = head.print;
	out->stats = head.stats;
	o->base = head.base;
	o->size = head.size;
	o->n_regions = head.n_regions;
	o->n_blocks = head.n_blocks;
	o->n_insns = head.n_insns;
	memcpy(o->sections, head.sections, sizeof(head.sections));
	o->bytes = take_array(r, head.size, 1);
	o->map.v.v = take_array(r, head.n_map, sizeof(o->map.v.v[0]));
	o->map.v.n = o->map.v.cap = o->map.v.v ? head.n_map : 0;
	o->map.by_old = take_array(r, head.n_map, sizeof(o->map.by_old[0]));
	o->patches.v = take_array(r, head.n_patches, sizeof(o->patches.v[0]));
	o->patches.n = o->patches.cap = o->patches.v ? head.n_patches : 0;
	o->counters = head.counters;
	o->n_counters = head.n_counters;
	o->sites.v = take_array(r, head.n_sites, sizeof(o->sites.v[0]));
	o->sites.n = o->sites.cap = o->sites.v ? head.n_sites : 0;
	out->n_nodes = head.n_nodes;
	out->arcs.v = take_array(r, head.n_arcs, sizeof(out->arcs.v[0]));
	out->arcs.n = out->arcs.cap = out->arcs.v ? head.n_arcs : 0;
	out->calls.v = take_array(r, head.n_calls, sizeof(out->calls.v[0]));
	out->calls.n = out->calls.cap = out->calls.v ? head.n_calls : 0;
	if (out->module && out->module->inode != head.inode)
		out->module = NULL;
	return o->bytes && o->map.v.v && o->map.by_old && o->patches.v && o->sites.v &&
	       out->arcs.v && out->calls.v;
}

static void fini_module(struct ovm_built_module *m)
{
	ovm_overlay_fini(&m->overlay);
	ovm_vec_free(&m->arcs);
	ovm_vec_free(&m->calls);
}

static bool take_all(struct reader *r, const struct ovm_livemap *map, struct ovm_built *out)
{
	struct head head;
	if (!take(r, &head, sizeof(head)))
		return false;
	out->is_passing = head.is_passing;
	out->is_hooked = head.is_hooked;
	out->hook = head.hook;
	out->hook.module = head.is_hooked ? ovm_livemap_module(map, head.hook.function) : NULL;
	memcpy(out->n_refused, head.n_refused, sizeof(out->n_refused));
	memcpy(out->why_not, head.why_not, sizeof(out->why_not));
	out->why_not[sizeof(out->why_not) - 1] = '\0';
	for (uint32_t i = 0; i < head.n_modules; i++) {
		ovm_vec_push(&out->modules, (struct ovm_built_module){0});
		struct ovm_built_module *m = &out->modules.v[out->modules.n - 1];
		if (!take_module(r, map, m))
			return false;
		if (m->module)
			continue;
		fini_module(m); /* loaded after we had looked, or another one is there now */
		out->modules.n--;
		snprintf(out->why_not, sizeof(out->why_not),
			 "libraries were loaded and unloaded meanwhile");
	}
	return true;
}

/* --- processes
 * ---------------------------------------------------------------------------------------------------
 */

static _Noreturn void child_main(struct ovm_ctx *ctx, struct work *work, int fd, pid_t parent)
{
	static const int plain[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		signal(plain[i], i < 2 ? SIG_IGN : SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	memset(ctx->n_refused, 0, sizeof(ctx->n_refused));
	OVM_FAULT(BUILDER_CHILD);
	build_all(ctx, work);
	_exit(!OVM_FAULT_FAILS(BUILDER_PUT) && put_all(fd, ctx, work) ? 0 : 1);
}

int ovm_builder_start(struct ovm_ctx *ctx, const struct ovm_generations *set,
		      const struct ovm_profile *profile, const struct ovm_target_opts *opts,
		      struct ovm_builder *out)
{
	*out = (struct ovm_builder){.fd = -1, .watch_fd = -1};
	int fd = OVM_FAULT_FAILS(BUILDER_FILE) ? -1 : memfd_create("optvm", MFD_CLOEXEC);
	if (fd < 0)
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, errno, "memfd_create");
	struct work work = {.set = set, .tracee = set->tracee, .profile = profile, .opts = opts};
	pid_t parent = getpid(), pid = OVM_FAULT_FAILS(BUILDER_FORK) ? -1 : fork();
	if (pid == 0)
		child_main(ctx, &work, fd, parent);
	if (pid < 0) {
		int err = errno;
		close(fd);
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, err, "fork");
	}
	OVM_FAULT(BUILDER_FORKED);
	out->pid = pid;
	out->fd = fd;
	out->watch_fd = (int)syscall(SYS_pidfd_open, pid, 0);
	return 0;
}

static int wait_child(struct ovm_builder *builder)
{
	int status = 0;
	while (waitpid(builder->pid, &status, 0) < 0 && errno == EINTR)
		;
	builder->pid = 0;
	return status;
}

int ovm_builder_result(struct ovm_ctx *ctx, struct ovm_builder *builder,
		       const struct ovm_generations *set, struct ovm_built *out)
{
	struct ovm_built built = {0};
	struct stat st;
	void *mem = MAP_FAILED;
	int status = wait_child(builder);
	int rc = ovm_fail(ctx, OVM_E_INTERNAL, "the optimizer's builder ended with status 0x%x",
			  (unsigned)status);
	if (status == 0 && !OVM_FAULT_FAILS(BUILDER_RESULT) && fstat(builder->fd, &st) == 0 &&
	    st.st_size > 0)
		mem = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, builder->fd, 0);
	if (mem != MAP_FAILED) {
		struct reader r = {.p = mem, .end = (const uint8_t *)mem + st.st_size};
		if (take_all(&r, set->map, &built))
			rc = 0;
		munmap(mem, (size_t)st.st_size);
	}
	ovm_builder_close(builder);
	if (rc) {
		ovm_built_fini(&built);
		return rc;
	}
	ctx->err = OVM_OK;
	ctx->msg[0] = '\0';
	*out = built;
	return 0;
}

void ovm_builder_close(struct ovm_builder *builder)
{
	if (builder->pid > 0) {
		kill(builder->pid, SIGKILL);
		wait_child(builder);
	}
	if (builder->fd > 0)
		close(builder->fd);
	if (builder->watch_fd > 0)
		close(builder->watch_fd);
	*builder = (struct ovm_builder){.fd = -1, .watch_fd = -1};
}

void ovm_built_fini(struct ovm_built *built)
{
	for (uint32_t i = 0; i < built->modules.n; i++)
		fini_module(&built->modules.v[i]);
	ovm_vec_free(&built->modules);
}
