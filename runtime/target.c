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
#include "runtime/hugepages.h"
#include "runtime/generation.h"
#include "runtime/presence.h"
#include "runtime/tunables.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

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

/* Mark regions that must not be copied in this process. NULL if there are none. */
static bool *skip_list(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		       const struct ovm_target *target, const struct ovm_unwindhook *hook,
		       const struct ovm_counted *counted)
{
	struct ovm_regions regions = {0};
	bool any_counted = counted && counted->v.n;
	uint64_t before[OVM_MAX_REFUSALS];
	if (hook && hook->module != target->module && !any_counted)
		return NULL;
	memcpy(before, ctx->n_refused, sizeof(before)); /* the engine counts them */
	int rc = ovm_regions_build(ctx, target->image, &regions);
	memcpy(ctx->n_refused, before, sizeof(before));
	if (rc)
		return NULL;
	bool *skip = ovm_alloc_array(regions.v.n, sizeof(bool));
	ovm_insns scratch = {0};
	for (uint32_t i = 0; i < regions.v.n; i++)
		if (hook)
			skip[i] = hook->module == target->module &&
				  ovm_va_in(ovm_rta_to_va(hook->function, target->module->bias),
					    regions.v.v[i].lo, regions.v.v[i].hi);
		else
			skip[i] = !is_leaf(dec, target->image, &regions.v.v[i], &scratch);
	if (any_counted)
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

/* Hash of all code of the module, in the file (@image) or, if that is NULL, in memory. 0: it cannot
 * be read. */
static uint64_t hash_code(const struct ovm_generations *set, const struct ovm_image *image,
			  const struct ovm_live_module *module)
{
	enum { CHUNK = 65536 };
	uint8_t *mem = ovm_alloc_array(CHUNK, 1);
	XXH3_state_t *state = XXH3_createState();
	bool ok = state && XXH3_64bits_reset(state) == XXH_OK;
	for (uint32_t i = 0; i < module->segments.n; i++) {
		const struct ovm_live_segment *s = &module->segments.v[i];
		for (uint64_t done = 0; s->is_exec && done < s->filesz && ok; done += CHUNK) {
			uint64_t left = s->filesz - done;
			size_t n = left < CHUNK ? (size_t)left : CHUNK;
			ovm_va at = ovm_va_add(s->va, (int64_t)done);
			ovm_rta rta = ovm_va_to_rta(at, module->bias);
			const uint8_t *bytes = image ? ovm_image_code(image, at, n) : mem;
			ok = bytes && (image || ovm_mem_read(set->tracee, rta, mem, n));
			if (ok && !image)
				ovm_generations_unpatch(set, rta, mem, n);
			ok = ok && XXH3_64bits_update(state, bytes, n) == XXH_OK;
		}
	}
	uint64_t hash = ok ? XXH3_64bits_digest(state) | 1 : 0;
	XXH3_freeState(state);
	free(mem);
	return hash;
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

/* Where the overlay and its counters will be. */
static int place(struct ovm_ctx *ctx, struct ovm_livemap *map, const struct ovm_target_opts *opts,
		 uint32_t n_gauges, struct ovm_target *target, struct ovm_engine_opts *engine_opts)
{
	uint64_t bias = target->module->bias, room = room_for(target->image);
	uint64_t counters_room = opts->is_counting ? whole_pages(room / OVM_RT_COUNTERS_SHARE)
						   : whole_pages(n_gauges * sizeof(uint64_t));
	room = whole_pages(room) + counters_room;
	int rc = ovm_codemem_place(ctx, map, target->module, room, &target->at);
	if (rc)
		return rc;
	target->counters = ovm_rta_of(target->at.v + room - counters_room);
	engine_opts->base = ovm_rta_to_va(target->at, bias);
	engine_opts->counters = ovm_rta_to_va(target->counters, bias);
	engine_opts->counters_room = counters_room;
	return 0;
}

static struct ovm_engine_opts engine_opts_of(const struct ovm_target_opts *opts,
					     const ovm_vas *gauges)
{
	uint32_t passes = opts->passes;
	if (opts->is_reference)
		passes &= ~(UINT32_C(1) << OVM_PASS_BLOCKS | UINT32_C(1) << OVM_PASS_ICP);
	return (struct ovm_engine_opts){
	    .share = 1.0,
	    .uniform = opts->uniform,
	    .is_live = true,
	    .layout = ovm_passes_layout(passes, OVM_ORDER_CDSORT),
	    .is_counting = opts->is_counting,
	    .no_callees = opts->no_callees,
	    .gauged_only = opts->is_reference,
	    .gauges = gauges->v,
	    .n_gauges = gauges->n,
	};
}

static int is_fitting(struct ovm_ctx *ctx, const struct ovm_target *target)
{
	if (ovm_huge_room(target->at, target->engine.overlay.size) >
	    target->counters.v - target->at.v)
		return refuse(ctx, target, "its overlay is larger than the place for it");
	return 0;
}

static void note_refused(const struct ovm_ctx *ctx, const uint64_t *before,
			 struct ovm_target *target)
{
	for (uint32_t why = 0; why < OVM_MAX_REFUSALS; why++)
		target->n_refused[why] = ctx->n_refused[why] - before[why];
}

static int run_first(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		     const struct ovm_engine_opts *opts, struct ovm_target *target)
{
	uint64_t before[OVM_MAX_REFUSALS];
	memcpy(before, ctx->n_refused, sizeof(before));
	ovm_engine_fini(&target->engine);
	int rc = ovm_engine_run(ctx, dec, target->image, target->profile, opts, &target->engine);
	note_refused(ctx, before, target);
	return rc;
}

/* What was refused before is so still, but is not counted by the engine again; all that was too
 * cold is looked at anew. */
static int run_again(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		     const struct ovm_engine_opts *opts, struct ovm_target *target)
{
	uint64_t before[OVM_MAX_REFUSALS];
	memcpy(before, ctx->n_refused, sizeof(before));
	int rc = ovm_engine_again(ctx, dec, target->profile, opts, &target->engine);
	for (uint32_t why = 0; why < OVM_MAX_REFUSALS; why++)
		if (why != OVM_REFUSE_NOT_HOT && why != OVM_REFUSE_NO_PROFILE)
			ctx->n_refused[why] += target->n_refused[why];
	note_refused(ctx, before, target);
	return rc;
}

static int run_engine(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		      const struct ovm_generations *set, struct ovm_engine_opts *opts,
		      struct ovm_target *target)
{
	int rc = OVM_REFUSED;
	for (unsigned attempt = 0; attempt < 2; attempt++) {
		if (target->engine.regions.v.n && attempt == 0) {
			rc = run_again(ctx, dec, opts, target);
		} else {
			opts->skip_region = target->skip;
			rc = run_first(ctx, dec, opts, target);
		}
		uint32_t changed = rc ? 0 : find_changed(set, target, &target->skip);
		target->is_unseen = changed && !ovm_module_print(set->tracee, target->module->lo);
		if (!changed || target->is_unseen)
			break;
		ovm_log(OVM_LOG_INFO, "%s: %u regions differ from the file", target->module->path,
			changed);
		rc = refuse(ctx, target, ovm_refusal_text(OVM_REFUSE_CHANGED));
	}
	if (rc == OVM_REFUSED && !ctx->msg[0])
		refuse(ctx, target, "nothing to copy");
	return rc ? rc : is_fitting(ctx, target);
}

int ovm_target_build(struct ovm_ctx *ctx, struct ovm_decoder *dec,
		     const struct ovm_generations *set, struct ovm_livemap *map,
		     const struct ovm_unwindhook *hook, const struct ovm_target_opts *opts,
		     struct ovm_target *target)
{
	ovm_vas gauges = {0};
	ctx->msg[0] = '\0';
	bool is_known = target->image != NULL;
	int rc = is_known ? 0 : open_image(ctx, target);
	if (rc)
		return rc;
	gauges_of(target, opts->gauges, &gauges);
	struct ovm_engine_opts engine_opts = engine_opts_of(opts, &gauges);
	rc = place(ctx, map, opts, gauges.n, target, &engine_opts);
	if (rc == 0 && !is_known)
		target->skip = skip_list(ctx, dec, target, hook, opts->counted);
	if (rc == 0)
		rc = run_engine(ctx, dec, set, &engine_opts, target);
	if (rc == 0 && !target->code)
		target->code = hash_code(set, target->image, target->module);
	target->like = OVM_NONE;
	ovm_vec_free(&gauges);
	return rc;
}

int ovm_target_build_reference(struct ovm_ctx *ctx, struct ovm_decoder *dec,
			       struct ovm_livemap *map, const struct ovm_target_opts *opts,
			       struct ovm_target *target)
{
	ovm_vas gauges = {0};
	ctx->msg[0] = '\0';
	gauges_of(target, opts->gauges, &gauges);
	if (!gauges.n)
		return refuse(ctx, target, "nothing to measure by");
	struct ovm_engine_opts engine_opts = engine_opts_of(opts, &gauges);
	int rc = place(ctx, map, opts, gauges.n, target, &engine_opts);
	if (rc == 0)
		rc = run_again(ctx, dec, &engine_opts, target);
	if (rc == OVM_REFUSED && !ctx->msg[0])
		refuse(ctx, target, "nothing to copy");
	ovm_vec_free(&gauges);
	return rc ? rc : is_fitting(ctx, target);
}

bool ovm_target_inherit(struct ovm_target *to, struct ovm_target *from)
{
	if (!from->image || to->image || to->module->lo.v != from->module->lo.v ||
	    to->module->bias != from->module->bias || to->module->inode != from->module->inode ||
	    strcmp(to->module->path, from->module->path) != 0 ||
	    strcmp(to->profile->id, from->image->id) != 0)
		return false;
	to->image = from->image;
	to->engine = from->engine;
	to->skip = from->skip;
	to->code = from->code;
	memcpy(to->n_refused, from->n_refused, sizeof(to->n_refused));
	from->image = NULL;
	from->engine = (struct ovm_engine){0};
	from->skip = NULL;
	return true;
}

static bool is_unmapped(const struct ovm_livemap *map, ovm_rta lo, uint64_t size)
{
	for (uint32_t i = 0; i < map->ranges.n; i++)
		if (map->ranges.v[i].lo.v < lo.v + size && lo.v < map->ranges.v[i].hi.v)
			return false;
	return true;
}

int ovm_target_take(struct ovm_ctx *ctx, const struct ovm_generations *set, struct ovm_livemap *map,
		    const struct ovm_built *from, uint32_t module, struct ovm_target *out)
{
	const struct ovm_built_module *like = &from->modules.v[module];
	const struct ovm_live_module *was = like->module;
	const struct ovm_live_module *is = ovm_livemap_same_file(map, was);
	if (!is)
		return refuse_path(ctx, was->path, "it is not that of the other process");
	struct ovm_target target = {.module = is,
				    .n_samples = like->n_samples,
				    .code = like->code,
				    .like = module,
				    .at =
					ovm_va_to_rta(ovm_rta_to_va(like->at, was->bias), is->bias),
				    .print = ovm_module_print(set->tracee, is->lo)};
	if (!target.print || target.print != like->print)
		return refuse_path(ctx, was->path, "it is not that of the other process");
	uint64_t size = ovm_huge_room(target.at, like->overlay.size);
	uint64_t n_counters = whole_pages((uint64_t)like->overlay.n_counters * sizeof(uint64_t));
	target.counters = ovm_va_to_rta(like->overlay.counters, is->bias);
	if (!is_unmapped(map, target.at, size) || !is_unmapped(map, target.counters, n_counters) ||
	    (n_counters && size > target.counters.v - target.at.v))
		return refuse(ctx, &target, "something else is where its copy would be");
	if (!like->code || hash_code(set, NULL, is) != like->code)
		return refuse(ctx, &target, ovm_refusal_text(OVM_REFUSE_CHANGED));
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
	free(target->skip);
	target->skip = NULL;
}
