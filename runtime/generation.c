/* Bringing overlays into a running process, in an order in which we may die at any point:
 *
 *   counters  opened and mapped by the target itself    a shared file nobody refers to
 *   overlays  mapped by the target, filled, read back   unused memory, nothing refers to it
 *   unwinder  an entry in its table                     overlays can be unwound before anybody is
 * in one jumps     planned, not written                      ovm_switch does that
 *
 * The process is not stopped for any of this.
 */
#define OVM_LOG_DOMAIN "generation"
#include "runtime/generation.h"
#include "base/fault.h"
#include "base/log.h"
#include "runtime/codemem.h"
#include "runtime/hugepages.h"
#include "runtime/state.h"
#include "runtime/tunables.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	JUMP_LEN = 5,
	MORE_CALLS = 3, /* for huge pages two more than without, and the hook */
};

static uint64_t whole_pages(uint64_t size)
{
	return (size + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

/* --- memory
 * -------------------------------------------------------------------------------------------------
 */

static uint64_t counter_bytes(const struct ovm_built_module *m)
{
	return whole_pages((uint64_t)m->overlay.n_counters * sizeof(uint64_t));
}

static ovm_rta counters_at(const struct ovm_built_module *m)
{
	return ovm_va_to_rta(m->overlay.counters, m->module->bias);
}

uint64_t ovm_built_counter_bytes(const struct ovm_built *built)
{
	uint64_t total = 0;
	for (uint32_t i = 0; i < built->modules.n; i++)
		total += counter_bytes(&built->modules.v[i]);
	return total;
}

static int check_built(struct ovm_ctx *ctx, const struct ovm_built *built,
		       const struct ovm_countmem *counters, pid_t pid)
{
	uint64_t need = ovm_built_counter_bytes(built);
	if (built->modules.n > OVM_RT_MAX_MODULES)
		return ovm_fail(ctx, OVM_E_INTERNAL, "%u modules are too many", built->modules.n);
	if (need > (counters ? counters->size : 0))
		return ovm_fail(ctx, OVM_E_INTERNAL, "no memory for %llu bytes of counters",
				(unsigned long long)need);
	for (uint32_t i = 0; i < built->modules.n; i++)
		if (built->modules.v[i].is_unseen)
			return ovm_fail(ctx, OVM_E_TARGET,
					"process %d has run something else meanwhile", (int)pid);
	for (uint32_t i = 0; i < built->modules.n; i++)
		if (counter_bytes(&built->modules.v[i]) &&
		    counters_at(&built->modules.v[i]).v % PAGE)
			return ovm_fail(ctx, OVM_E_INTERNAL, "counters do not begin a page");
	return 0;
}

/* Memory for an overlay. What shall be on huge pages is mapped first, and the rest of it, if only
 * one page that is never touched, behind the advice: who sees that in /proc/PID/maps knows that
 * the advice has been given, and may fill. */
static uint32_t plan_overlay(const struct ovm_built_module *m, bool huge,
			     struct ovm_remote_call *calls)
{
	uint64_t part = huge ? ovm_huge_part(m->at, m->overlay.size) : 0;
	if (!part) {
		calls[0] = ovm_remote_mmap(m->at, whole_pages(m->overlay.size));
		return 1;
	}
	calls[0] = ovm_remote_mmap(m->at, part);
	calls[1] = ovm_remote_madvise(m->at, part, MADV_HUGEPAGE);
	calls[2] = ovm_remote_mmap(ovm_rta_of(m->at.v + part),
				   ovm_huge_room(m->at, m->overlay.size) - part);
	return 3;
}

/* The mappings of @built as calls; file mappings first (see ovm_remote_run). */
static uint32_t plan_calls(const struct ovm_generations *set, const struct ovm_built *built,
			   const struct ovm_countmem *counters, const char *path, bool huge,
			   struct ovm_remote_call *calls)
{
	uint32_t n = 0;
	uint64_t off = 0;
	if (path)
		calls[n++] = ovm_remote_open(path);
	for (uint32_t i = 0; i < built->modules.n; i++) {
		const struct ovm_built_module *m = &built->modules.v[i];
		if (!counter_bytes(m))
			continue;
		calls[n++] =
		    ovm_remote_mmap_file(counters_at(m), counter_bytes(m), off, counters->inode);
		off += counter_bytes(m);
	}
	if (path)
		calls[n++] = ovm_remote_close();
	for (uint32_t i = 0; i < built->modules.n; i++)
		n += plan_overlay(&built->modules.v[i],
				  huge && n + (built->modules.n - i) + MORE_CALLS <=
					      OVM_REMOTE_MAX_CALLS,
				  calls + n);
	if (built->is_hooked && !built->hook.is_installed && !set->has_hook)
		calls[n++] = ovm_remote_mmap(built->hook.page, OVM_UNWINDHOOK_SIZE);
	return n;
}

static int map_memory(struct ovm_ctx *ctx, struct ovm_generations *set,
		      const struct ovm_built *built, const struct ovm_countmem *counters)
{
	struct ovm_remote_call calls[OVM_REMOTE_MAX_CALLS];
	_Static_assert(2 * OVM_RT_MAX_MODULES + 3 <= OVM_REMOTE_MAX_CALLS, "one stub maps it all");
	const char *path = ovm_built_counter_bytes(built) > 0 ? counters->path : NULL;
	/* what only counts for a while is not worth the memory */
	bool huge = !built->is_passing && ovm_huge_is_allowed(set->tracee->pid);
	uint32_t n = plan_calls(set, built, counters, path, huge, calls);
	struct ovm_remote stub;
	int rc = ovm_tracee_open_mem(ctx, set->tracee);
	if (rc)
		return rc;
	if (huge && !ovm_remote_has_room(set->tracee, set->map, calls, n))
		n = plan_calls(set, built, counters, path, false, calls);
	rc = ovm_remote_run(ctx, set->tracee, set->map, calls, n,
			    set->remote_ms ? set->remote_ms : OVM_RT_REMOTE_MS, &stub);
	if (stub.n)
		ovm_vec_push(&set->stubs, stub);
	return rc ? rc : ovm_tracee_open_mem(ctx, set->tracee);
}

/* So that the next generation is placed elsewhere. */
static void reserve_places(struct ovm_livemap *map, const struct ovm_built *built)
{
	for (uint32_t i = 0; i < built->modules.n; i++) {
		const struct ovm_built_module *m = &built->modules.v[i];
		ovm_livemap_reserve(map, m->at,
				    ovm_rta_of(m->at.v + ovm_huge_room(m->at, m->overlay.size)));
		if (counter_bytes(m))
			ovm_livemap_reserve(map, counters_at(m),
					    ovm_rta_of(counters_at(m).v + counter_bytes(m)));
	}
	if (built->is_hooked && !built->hook.is_installed)
		ovm_livemap_reserve(map, built->hook.page,
				    ovm_rta_of(built->hook.page.v + OVM_UNWINDHOOK_SIZE));
}

static int fill_overlays(struct ovm_ctx *ctx, const struct ovm_generations *set,
			 const struct ovm_built *built)
{
	int rc = 0;
	for (uint32_t i = 0; i < built->modules.n && rc == 0; i++)
		rc = ovm_codemem_fill(ctx, set->tracee, built->modules.v[i].at,
				      built->modules.v[i].overlay.bytes,
				      built->modules.v[i].overlay.size);
	return rc;
}

/* --- the unwinder
 * ------------------------------------------------------------------------------------------- */

static int fill_hook(struct ovm_ctx *ctx, struct ovm_generations *set,
		     const struct ovm_built *built)
{
	uint8_t pages[OVM_UNWINDHOOK_SIZE];
	set->hook = built->hook;
	if (!set->hook.is_installed) {
		if (!ovm_unwindhook_build(&set->hook, pages, &set->hook_jump))
			return ovm_fail(ctx, OVM_E_INTERNAL,
					"the unwinder's stub does not reach the C library");
		int rc = ovm_codemem_fill(ctx, set->tracee, set->hook.page, pages, sizeof(pages));
		if (rc)
			return rc;
	}
	OVM_FAULT(HOOK_FILLED);
	set->has_hook = true;
	set->is_hook_active = set->hook.is_installed;
	return 0;
}

static int add_unwind_tables(struct ovm_ctx *ctx, struct ovm_generations *set,
			     const struct ovm_built *built)
{
	int rc = built->is_hooked && !set->has_hook ? fill_hook(ctx, set, built) : 0;
	if (rc || !set->has_hook)
		return rc;
	for (uint32_t i = 0; i < built->modules.n; i++) {
		const struct ovm_built_module *m = &built->modules.v[i];
		const struct ovm_section *hdr = &m->overlay.sections[OVM_SECTION_EH_FRAME_HDR];
		if (hdr->size &&
		    !ovm_unwindhook_append(set->tracee, &set->hook, m->at,
					   ovm_rta_of(m->at.v + m->overlay.size), m->link_map,
					   ovm_rta_of(m->at.v + hdr->off)))
			return ovm_fail(ctx, OVM_E_TARGET,
					"no room for more overlays in the unwinder's table");
	}
	return 0;
}

/* --- jumps and exits
 * ---------------------------------------------------------------------------------------- */

static void plan_jumps(struct ovm_generation *gen)
{
	for (uint32_t i = 0; i < gen->built.modules.n; i++)
		ovm_patchset_add_overlay(&gen->jumps, &gen->built.modules.v[i].overlay,
					 gen->built.modules.v[i].module->bias);
	ovm_patchset_seal(&gen->jumps);
}

static void plan_exits(struct ovm_generation *gen)
{
	for (uint32_t i = 0; i < gen->built.modules.n; i++) {
		const struct ovm_built_module *m = &gen->built.modules.v[i];
		for (uint32_t k = 0; k < m->overlay.map.v.n; k++) {
			const struct ovm_map_entry *entry = &m->overlay.map.v.v[k];
			uint64_t at = m->at.v + entry->off;
			if ((entry->flags & OVM_MAP_EXIT) && entry->new_len == JUMP_LEN &&
			    at % PAGE <= PAGE - JUMP_LEN)
				ovm_vec_push(&gen->exits, (struct ovm_exit){.module = i,
									    .off = entry->off,
									    .old = entry->old});
		}
	}
	ovm_vec_reserve(&gen->returns, gen->exits.n);
}

static void add_generation(struct ovm_generations *set, struct ovm_built *built,
			   const struct ovm_countmem *counters)
{
	struct ovm_generation gen = {.built = *built, .counters = {.fd = -1}};
	uint64_t idx = 0;
	if (counters && ovm_built_counter_bytes(built))
		gen.counters = *counters;
	for (uint32_t i = 0; i < built->modules.n; i++) {
		gen.counter_idx[i] = idx;
		idx += counter_bytes(&built->modules.v[i]) / sizeof(uint64_t);
	}
	plan_jumps(&gen);
	plan_exits(&gen);
	ovm_vec_push(&set->v, gen);
	*built = (struct ovm_built){0};
}

/* --- public
 * --------------------------------------------------------------------------------------------------
 */

void ovm_generations_init(struct ovm_generations *set, struct ovm_tracee *tracee,
			  struct ovm_livemap *map)
{
	*set = (struct ovm_generations){.tracee = tracee, .map = map};
}

void ovm_generations_fini(struct ovm_generations *set)
{
	for (uint32_t i = 0; i < set->v.n; i++) {
		struct ovm_generation *gen = &set->v.v[i];
		ovm_vec_free(&gen->exits);
		ovm_vec_free(&gen->returns);
		if (set->is_view)
			continue;
		ovm_patchset_fini(&gen->jumps);
		ovm_built_fini(&gen->built);
	}
	ovm_vec_free(&set->v);
	ovm_patchset_fini(&set->applied);
	ovm_vec_free(&set->stubs);
}

static int bring_in(struct ovm_ctx *ctx, struct ovm_generations *set, const struct ovm_built *built,
		    const struct ovm_countmem *counters)
{
	int rc = map_memory(ctx, set, built, counters);
	if (rc == 0) {
		reserve_places(set->map, built);
		rc = fill_overlays(ctx, set, built);
	}
	return rc ? rc : add_unwind_tables(ctx, set, built);
}

int ovm_generation_load(struct ovm_ctx *ctx, struct ovm_generations *set, struct ovm_built *built,
			const struct ovm_countmem *counters, uint32_t *idx)
{
	int rc = check_built(ctx, built, counters, set->tracee->pid);
	if (rc == 0 && set->state)
		rc = ovm_state_add(ctx, set->state, built, counters);
	if (rc)
		return rc;
	rc = bring_in(ctx, set, built, counters);
	if (rc) {
		if (set->state)
			ovm_state_drop(set->state, set->v.n);
		return rc;
	}
	add_generation(set, built, counters);
	*idx = set->v.n - 1;
	OVM_FAULT(GENERATION_LOADED);
	const struct ovm_generation *gen = &set->v.v[*idx];
	ovm_log(OVM_LOG_INFO, "generation %u: %u modules, %u jumps, %u exits", *idx,
		gen->built.modules.n, gen->jumps.v.n, gen->exits.n);
	return 0;
}

/* Exits of module @module as they are in the process. */
static void read_exits(const struct ovm_tracee *tracee, struct ovm_generation *gen, uint32_t module)
{
	const struct ovm_built_module *m = &gen->built.modules.v[module];
	uint8_t *bytes = ovm_alloc_array(m->overlay.size, 1);
	bool is_read = ovm_mem_read(tracee, m->at, bytes, m->overlay.size);
	for (uint32_t i = 0; i < gen->exits.n && is_read; i++) {
		struct ovm_exit *e = &gen->exits.v[i];
		if (e->module != module || bytes[e->off] != 0xe9)
			continue;
		e->to.v = m->at.v + e->off + JUMP_LEN +
			  (uint64_t)(int64_t)(int32_t)ovm_le32(bytes + e->off + 1);
		e->is_listed = true;
		ovm_vec_push(&gen->returns, i);
	}
	free(bytes);
}

void ovm_generation_adopt(struct ovm_generations *set, struct ovm_built *built,
			  const struct ovm_countmem *counters)
{
	struct ovm_patchset there = {0};
	add_generation(set, built, counters);
	struct ovm_generation *gen = &set->v.v[set->v.n - 1];
	for (uint32_t i = 0; i < gen->built.modules.n; i++)
		read_exits(set->tracee, gen, i);
	ovm_patchset_find(set->tracee, &gen->jumps, &there);
	gen->is_armed = there.v.n > 0;
	if (!gen->is_armed &&
	    gen->built.is_passing) /* no forked process needs to be told that it ends */
		gen->counters = (struct ovm_countmem){.fd = -1};
	ovm_patchset_merge(&set->applied, &there);
	ovm_patchset_fini(&there);
}

const uint64_t *ovm_generation_counters(const struct ovm_generation *gen, uint32_t module)
{
	if (!gen->counters.v || !gen->built.modules.v[module].overlay.n_counters)
		return NULL;
	return gen->counters.v + gen->counter_idx[module];
}

ovm_rta ovm_generations_original(const struct ovm_generations *set, ovm_rta at)
{
	for (uint32_t i = 0; i < set->v.n; i++)
		for (uint32_t k = 0; k < set->v.v[i].built.modules.n; k++) {
			const struct ovm_built_module *m = &set->v.v[i].built.modules.v[k];
			uint64_t off = at.v - m->at.v;
			if (off >= m->overlay.size)
				continue;
			const struct ovm_map_entry *e = ovm_map_new(&m->overlay.map, (uint32_t)off);
			bool runs = e && (e->flags & (OVM_MAP_PAD | OVM_MAP_SYNTH)) != OVM_MAP_PAD;
			return runs ? ovm_va_to_rta(e->old, m->module->bias) : ovm_rta_of(0);
		}
	return ovm_rta_of(0);
}

static void unpatch(const struct ovm_live_patch *p, ovm_rta at, uint8_t *bytes, size_t n)
{
	for (unsigned i = 0; i < p->len; i++)
		if (p->at.v + i - at.v < n)
			bytes[p->at.v + i - at.v] = p->old_bytes[i];
}

void ovm_generations_unpatch(const struct ovm_generations *set, ovm_rta at, uint8_t *bytes,
			     size_t n)
{
	uint32_t lo = 0, hi = set->applied.v.n; /* first patch that ends behind @at */
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (set->applied.v.v[mid].at.v + set->applied.v.v[mid].len <= at.v)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < set->applied.v.n && set->applied.v.v[lo].at.v < at.v + n; lo++)
		unpatch(&set->applied.v.v[lo], at, bytes, n);
	if (set->is_hook_active)
		unpatch(&set->hook_jump, at, bytes, n);
}
