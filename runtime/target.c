/* From "this module got so many samples" to a proved overlay for exactly this process.
 *
 * Offline the file is all there is. Live, what counts is the memory: a probe, another patcher or
 * text relocations may have changed code that the file shows unchanged. So the engine works on the
 * file, and afterwards every region it copied is compared with memory; if one differs (rare) it is
 * refused and the engine runs again.
 *
 * Left alone as a whole: ld.so (it is what resolves calls), the unwinder (it looks at its own
 * frames), images of runtimes that look frames up by return address, images already rewritten.
 */
#define OVM_LOG_DOMAIN "target"
#include "runtime/target.h"
#include "analyzer/disasm.h"
#include "analyzer/passes.h"
#include "base/log.h"
#include "runtime/builder.h"
#include "runtime/codemem.h"
#include "runtime/generation.h"
#include "runtime/presence.h"
#include "runtime/tunables.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

typedef OVM_VEC(ovm_va) ovm_vas;

/* --- choosing
 * ---------------------------------------------------------------------------------------------- */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static bool is_system_part(const struct ovm_live_module *module)
{
	static const char *const prefixes[] = {"ld-linux", "ld-2.",	"ld.so",
					       "ld-musl",  "libgcc_s.", "libunwind"};
	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
		if (!strncmp(base_name(module->path), prefixes[i], strlen(prefixes[i])))
			return true;
	return false;
}

static bool is_wanted(const struct ovm_target_opts *opts, const char *path)
{
	if (opts->only && fnmatch(opts->only, path, 0) != 0 &&
	    fnmatch(opts->only, base_name(path), 0) != 0)
		return false;
	return !opts->skip ||
	       (fnmatch(opts->skip, path, 0) != 0 && fnmatch(opts->skip, base_name(path), 0) != 0);
}

static int by_samples(const void *a, const void *b)
{
	const struct ovm_target *x = a, *y = b;
	if (x->n_samples != y->n_samples)
		return x->n_samples < y->n_samples ? 1 : -1;
	return (x->module->lo.v > y->module->lo.v) - (x->module->lo.v < y->module->lo.v);
}

void ovm_targets_choose(const struct ovm_livemap *map, const struct ovm_profile *profile,
			const struct ovm_target_opts *opts, ovm_targets *out)
{
	for (uint32_t i = 0; i < profile->modules.n; i++) {
		const struct ovm_prof_module *prof = &profile->modules.v[i];
		uint64_t n = ovm_prof_module_samples(prof);
		const struct ovm_live_module *module = ovm_livemap_only(map, prof->path);
		if (!module || !n || is_system_part(module) || !is_wanted(opts, module->path))
			continue;
		if (!opts->uniform &&
		    (n < opts->min_samples || n * OVM_RT_MODULE_SHARE < profile->n_samples)) {
			ovm_log(OVM_LOG_INFO, "%s: %llu samples, left alone", module->path,
				(unsigned long long)n);
			continue;
		}
		ovm_vec_push(
		    out, (struct ovm_target){.module = module, .profile = prof, .n_samples = n});
	}
	if (out->n)
		qsort(out->v, out->n, sizeof(out->v[0]), by_samples);
	if (out->n > OVM_RT_MAX_MODULES)
		out->n = OVM_RT_MAX_MODULES;
}

/* --- what must be left out beforehand
 * ------------------------------------------------------------------------- */

/* Can the region be on the stack of a throw, a backtrace or a cancellation? Only if it calls, or
 * handles exceptions. */
static bool is_leaf(struct ovm_decoder *dec, const struct ovm_image *image,
		    const struct ovm_region *region, ovm_insns *scratch)
{
	enum ovm_refusal why;
	scratch->n = 0;
	if (region->lsda.v || ovm_decode_range(dec, image, region->lo, region->hi, scratch, &why))
		return false;
	for (uint32_t i = 0; i < scratch->n; i++)
		if (scratch->v[i].kind == OVM_INSN_CALL ||
		    scratch->v[i].kind == OVM_INSN_CALL_IND ||
		    scratch->v[i].kind == OVM_INSN_SYSCALL)
			return false;
	return true;
}

static void skip_counted(const struct ovm_counted *counted, const struct ovm_live_module *module,
			 const struct ovm_regions *regions, bool *skip)
{
	for (uint32_t i = 0; i < counted->v.n; i++) {
		uint32_t r = counted->v.v[i].module.v == module->lo.v
				 ? ovm_region_find(regions, counted->v.v[i].lo)
				 : OVM_NONE;
		if (r != OVM_NONE)
			skip[r] = true;
	}
}

static bool is_gauged(const ovm_vas *gauges, ovm_va lo)
{
	bool any = false;
	for (uint32_t i = 0; i < gauges->n; i++)
		any |= gauges->v[i].v == lo.v;
	return any;
}

/* Mark regions that must not be copied in this process. NULL if there are none. */
static bool *skip_list(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		       const struct ovm_target *target, const struct ovm_unwindhook *hook,
		       const struct ovm_target_opts *opts, const ovm_vas *gauges, uint64_t bias)
{
	struct ovm_regions regions = {0};
	const struct ovm_counted *counted = opts->counted;
	if ((hook && hook->module != target->module && !counted && !opts->is_reference) ||
	    ovm_regions_build(ctx, target->image, &regions))
		return NULL;
	bool *skip = ovm_alloc_array(regions.v.n, sizeof(bool));
	ovm_insns scratch = {0};
	for (uint32_t i = 0; i < regions.v.n; i++)
		if (hook)
			skip[i] = hook->module == target->module &&
				  ovm_va_in(ovm_rta_to_va(hook->function, bias), regions.v.v[i].lo,
					    regions.v.v[i].hi);
		else
			skip[i] = !is_leaf(dec, target->image, &regions.v.v[i], &scratch);
	for (uint32_t i = 0; opts->is_reference && i < regions.v.n; i++)
		skip[i] |= !is_gauged(gauges, regions.v.v[i].lo);
	if (counted)
		skip_counted(counted, target->module, &regions, skip);
	ovm_vec_free(&scratch);
	ovm_regions_free(&regions);
	return skip;
}

/* --- memory against file
 * ------------------------------------------------------------------------------------- */

static bool same_bytes(const struct ovm_generations *set, const struct ovm_image *image,
		       uint64_t bias, ovm_va lo, ovm_va hi)
{
	enum { CHUNK = 16384 };
	uint8_t mem[CHUNK];
	for (uint64_t done = 0, len = hi.v - lo.v; done < len; done += CHUNK) {
		size_t n = len - done < CHUNK ? (size_t)(len - done) : CHUNK;
		ovm_va at = ovm_va_add(lo, (int64_t)done);
		const uint8_t *file = ovm_image_code(image, at, n);
		if (!file || !ovm_mem_read(set->tracee, ovm_va_to_rta(at, bias), mem, n))
			return false;
		ovm_generations_unpatch(set, ovm_va_to_rta(at, bias), mem, n);
		if (memcmp(mem, file, n) != 0)
			return false;
	}
	return true;
}

/* Compare every copied region with memory; differing ones are added to @skip (made if NULL).
 * Returns how many. */
static uint32_t find_changed(const struct ovm_generations *set, const struct ovm_target *target,
			     bool **skip)
{
	const struct ovm_program *program = &target->engine.program;
	uint32_t n = 0;
	for (uint32_t c = 0; c < program->cfgs.n; c++) {
		const struct ovm_cfg *cfg = program->cfgs.v[c];
		for (uint32_t i = 0; cfg && i < cfg->n_regions; i++) {
			const struct ovm_region *region =
			    &target->engine.regions.v.v[cfg->regions[i]];
			if (same_bytes(set, target->image, target->module->bias, region->lo,
				       region->hi))
				continue;
			if (!*skip)
				*skip = ovm_alloc_array(target->engine.regions.v.n, sizeof(bool));
			(*skip)[cfg->regions[i]] = true;
			n++;
		}
	}
	return n;
}

/* --- building
 * ------------------------------------------------------------------------------------------------
 */

static int refuse_path(struct ovm_ctx *ctx, const char *path, const char *why)
{
	ovm_fail(ctx, OVM_OK, "%s: %s", path, why);
	return OVM_REFUSED;
}

static int refuse(struct ovm_ctx *ctx, const struct ovm_target *target, const char *why)
{
	return refuse_path(ctx, target->module->path, why);
}

static int open_image(struct ovm_ctx *ctx, struct ovm_target *target)
{
	int rc = ovm_image_open(ctx, target->module->path, &target->image);
	if (rc)
		return rc;
	const struct ovm_image *image = target->image;
	if (strcmp(image->id, target->profile->id) != 0)
		return refuse(ctx, target, "the file was replaced");
	if (image->runtimes)
		return refuse(ctx, target, ovm_refusal_text(OVM_REFUSE_RA_RUNTIME));
	if (image->is_processed)
		return refuse(ctx, target, "already rewritten");
	return 0;
}

static uint64_t whole_pages(uint64_t size)
{
	return (size + 4095) & ~UINT64_C(4095);
}

static void gauges_of(const struct ovm_target *target, const struct ovm_gauges *all, ovm_vas *out)
{
	for (uint32_t i = 0; all && i < all->v.n; i++)
		if (all->v.v[i].module->lo.v == target->module->lo.v)
			ovm_vec_push(out, all->v.v[i].entry);
}

/* Room for the overlay before its size is known: copies are seldom larger than the code. */
static uint64_t room_for(const struct ovm_image *image)
{
	uint64_t code = 0;
	for (uint32_t i = 0; i < image->segments.n; i++)
		if (image->segments.v[i].flags & 1) /* PF_X */
			code += image->segments.v[i].filesz;
	return 2 * code + OVM_RT_ROOM_EXTRA;
}

int ovm_target_build(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		     const struct ovm_generations *set, struct ovm_livemap *map,
		     const struct ovm_unwindhook *hook, const struct ovm_target_opts *opts,
		     struct ovm_target *target)
{
	ctx->msg[0] = '\0';
	target->print = ovm_module_print(set->tracee, target->module->lo);
	int rc = open_image(ctx, target);
	if (rc)
		return rc;
	uint64_t bias = target->module->bias, room = room_for(target->image);
	ovm_vas gauges = {0};
	gauges_of(target, opts->gauges, &gauges);
	if (opts->is_reference && !gauges.n)
		return refuse(ctx, target, "nothing to measure by");
	uint64_t counters_room = opts->is_counting ? whole_pages(room / OVM_RT_COUNTERS_SHARE)
						   : whole_pages(gauges.n * sizeof(uint64_t));
	room = whole_pages(room) + counters_room;
	rc = ovm_codemem_place(ctx, map, target->module, room, &target->at);
	if (rc) {
		ovm_vec_free(&gauges);
		return rc;
	}
	bool *skip = skip_list(ctx, dec, target, hook, opts, &gauges, bias);
	target->counters = ovm_rta_of(target->at.v + room - counters_room);
	uint32_t passes = opts->passes;
	if (opts->is_reference)
		passes &= ~(UINT32_C(1) << OVM_PASS_BLOCKS | UINT32_C(1) << OVM_PASS_ICP);
	for (unsigned attempt = 0; attempt < 2; attempt++) {
		struct ovm_engine_opts engine_opts = {
		    .share = 1.0,
		    .uniform = opts->uniform,
		    .is_live = true,
		    .skip_region = skip,
		    .layout = ovm_passes_layout(passes, OVM_ORDER_CDSORT),
		    .base = ovm_rta_to_va(target->at, bias),
		    .is_counting = opts->is_counting,
		    .no_callees = opts->no_callees,
		    .gauges = gauges.v,
		    .n_gauges = gauges.n,
		    .counters = ovm_rta_to_va(target->counters, bias),
		    .counters_room = counters_room,
		};
		ovm_engine_fini(&target->engine);
		rc = ovm_engine_run(ctx, dec, target->image, target->profile, &engine_opts,
				    &target->engine);
		uint32_t changed = rc ? 0 : find_changed(set, target, &skip);
		if (!changed)
			break;
		ovm_log(OVM_LOG_INFO, "%s: %u regions differ from the file", target->module->path,
			changed);
		rc = refuse(ctx, target, ovm_refusal_text(OVM_REFUSE_CHANGED));
	}
	free(skip);
	ovm_vec_free(&gauges);
	if (rc == OVM_REFUSED && !ctx->msg[0])
		refuse(ctx, target, "nothing to copy");
	if (rc == 0 && target->engine.overlay.size > room - counters_room)
		rc = refuse(ctx, target, "its overlay is larger than the place for it");
	return rc;
}

static bool is_unmapped(const struct ovm_livemap *map, ovm_rta lo, uint64_t size)
{
	for (uint32_t i = 0; i < map->ranges.n; i++)
		if (map->ranges.v[i].lo.v < lo.v + size && lo.v < map->ranges.v[i].hi.v)
			return false;
	return true;
}

/* All code of the module, in memory and in the file. */
static bool same_code(const struct ovm_generations *set, const struct ovm_target *target)
{
	const struct ovm_image *image = target->image;
	for (uint32_t i = 0; i < image->segments.n; i++) {
		ovm_va lo = image->segments.v[i].lo;
		if ((image->segments.v[i].flags & 1) && /* PF_X */
		    !same_bytes(set, image, target->module->bias, lo,
				ovm_va_add(lo, (int64_t)image->segments.v[i].filesz)))
			return false;
	}
	return true;
}

int ovm_target_take(struct ovm_ctx *ctx, const struct ovm_generations *set, struct ovm_livemap *map,
		    const struct ovm_built_module *like, struct ovm_target *out)
{
	const struct ovm_live_module *was = like->module;
	struct ovm_target target = {.module = ovm_livemap_module(map, was->lo),
				    .n_samples = like->n_samples,
				    .at = like->at,
				    .print = ovm_module_print(set->tracee, was->lo)};
	const struct ovm_live_module *is = target.module;
	if (!is || target.print != like->print || is->lo.v != was->lo.v || is->bias != was->bias ||
	    is->inode != was->inode || strcmp(is->path, was->path) != 0)
		return refuse_path(ctx, was->path, "it is not where it is in the other process");
	uint64_t size = whole_pages(like->overlay.size);
	uint64_t n_counters = whole_pages((uint64_t)like->overlay.n_counters * sizeof(uint64_t));
	target.counters = ovm_va_to_rta(like->overlay.counters, is->bias);
	if (!is_unmapped(map, target.at, size) || !is_unmapped(map, target.counters, n_counters))
		return refuse(ctx, &target, "something else is where its copy would be");
	int rc = ovm_image_open(ctx, is->path, &target.image);
	if (rc == 0 && !same_code(set, &target))
		rc = refuse(ctx, &target, ovm_refusal_text(OVM_REFUSE_CHANGED));
	ovm_image_close(target.image);
	target.image = NULL;
	if (rc)
		return rc;
	ovm_livemap_reserve(map, target.at, ovm_rta_of(target.at.v + size));
	if (n_counters)
		ovm_livemap_reserve(map, target.counters,
				    ovm_rta_of(target.counters.v + n_counters));
	target.engine.overlay = like->overlay;
	target.engine.stats = like->stats;
	target.engine.probes.n_nodes = like->n_nodes;
	target.engine.probes.arcs = like->arcs;
	target.engine.calls = like->calls;
	*out = target;
	return 0;
}

void ovm_target_fini(struct ovm_target *target)
{
	ovm_engine_fini(&target->engine);
	ovm_image_close(target->image);
	target->image = NULL;
}
