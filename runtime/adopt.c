/* A process that was changed is recognised by its memory: an overlay is mapped where the state says
 * and holds the bytes it was filled with, and the module it belongs to is where it was.
 *
 *   state written, tool killed before the mapping     not there: dropped
 *   mapped, not all filled                            other bytes, no jump leads there: dropped
 *   jumps written, or some of them                    adopted; jumps are found one by one
 *   the process has exec'ed, the library was unloaded  not there: dropped
 *   another file, or new content, is in its place      the same (presence.h)
 *
 * The files of programs and libraries may have been replaced since (an upgrade); then the module is
 * made from what the state says of it.
 */
#define OVM_LOG_DOMAIN "adopt"
#include "runtime/adopt.h"
#include "base/log.h"
#include "runtime/presence.h"

#include <stdlib.h>
#include <string.h>

/* The module as it is mapped; NULL if it is not. */
static const struct ovm_live_module *find_module(const struct ovm_generations *set,
						 struct ovm_genfile_module *m,
						 struct ovm_adopted *adopted)
{
	const struct ovm_livemap *map = set->map;
	const struct ovm_live_module *was = &m->module;
	if (!ovm_module_is_there(set->tracee, map, was, m->print))
		return NULL;
	const struct ovm_live_module *is = ovm_livemap_module(map, was->lo);
	if (is && is->lo.v == was->lo.v && is->bias == was->bias && is->inode == was->inode)
		return is;
	struct ovm_live_module *made = ovm_alloc(sizeof(*made));
	*made = m->module;
	m->module = (struct ovm_live_module){0};
	ovm_vec_push(&adopted->modules, made);
	return made;
}

/* Does any jump to this overlay stand in the code? */
static bool is_led_to(const struct ovm_tracee *tracee, const struct ovm_genfile_module *m,
		      uint64_t bias)
{
	struct ovm_patchset jumps = {0}, found = {0};
	ovm_patchset_add_overlay(&jumps, &m->overlay, bias);
	ovm_patchset_seal(&jumps);
	ovm_patchset_find(tracee, &jumps, &found);
	bool any = found.v.n > 0;
	ovm_patchset_fini(&jumps);
	ovm_patchset_fini(&found);
	return any;
}

/* Take the overlay over. OVM_REFUSED: it is not there. */
static int take_module(struct ovm_ctx *ctx, const struct ovm_generations *set,
		       struct ovm_genfile_module *m, struct ovm_adopted *adopted,
		       struct ovm_built *built)
{
	uint64_t bias = m->module.bias;
	if (!ovm_livemap_covers(set->map, m->at, ovm_rta_of(m->at.v + m->overlay.size),
				OVM_PROT_R | OVM_PROT_X, 0))
		return OVM_REFUSED;
	uint8_t *bytes = ovm_alloc_array(m->overlay.size, 1);
	const struct ovm_live_module *module = NULL;
	bool is_read = ovm_mem_read(set->tracee, m->at, bytes, m->overlay.size);
	bool is_same =
	    is_read && ovm_genfile_hash(&m->overlay.map, bytes, m->overlay.size) == m->hash;
	if (is_same)
		module = find_module(set, m, adopted);
	if (!module) {
		free(bytes);
		if (is_read && !is_same && is_led_to(set->tracee, m, bias))
			return ovm_fail(ctx, OVM_E_TARGET,
					"optimized code at 0x%llx of process %d was changed by "
					"somebody else (a breakpoint?)",
					(unsigned long long)m->at.v, (int)set->tracee->pid);
		return OVM_REFUSED;
	}
	struct ovm_built_module b = {.module = module,
				     .at = m->at,
				     .link_map = m->link_map,
				     .n_samples = m->n_samples,
				     .print = m->print,
				     .overlay = m->overlay};
	b.overlay.bytes = bytes;
	m->overlay = (struct ovm_overlay){0};
	ovm_vec_push(&built->modules, b);
	return 0;
}

static int take_generation(struct ovm_ctx *ctx, struct ovm_generations *set, uint32_t idx,
			   struct ovm_adopted *adopted)
{
	struct ovm_genfile file;
	struct ovm_built built = {0};
	int rc = ovm_state_load(ctx, set->state, idx, &file);
	if (rc)
		return rc;
	struct ovm_countmem counters = {.fd = -1,
					.inode = file.counters_inode,
					.major = file.counters_major,
					.minor = file.counters_minor};
	for (uint32_t i = 0; i < file.modules.n && rc >= 0; i++)
		rc = take_module(ctx, set, &file.modules.v[i], adopted, &built);
	if (rc >= 0)
		rc = built.modules.n ? 0 : OVM_REFUSED;
	built.is_passing = set->state->v.v[idx].is_counting;
	if (rc == 0)
		ovm_generation_adopt(set, &built, &counters);
	ovm_built_fini(&built);
	ovm_genfile_fini(&file);
	return rc;
}

int ovm_adopt(struct ovm_ctx *ctx, struct ovm_generations *set, struct ovm_adopted *out)
{
	struct ovm_state *state = set->state;
	for (uint32_t i = 0; state && i < state->v.n;) {
		int rc = take_generation(ctx, set, i, out);
		if (rc < 0)
			return rc;
		if (rc == 0) {
			i++;
			continue;
		}
		ovm_log(OVM_LOG_INFO, "generation %u is not in the process", state->v.v[i].number);
		ovm_state_drop(state, i);
	}
	for (uint32_t i = 0; i < set->v.n; i++)
		ovm_log(OVM_LOG_INFO, "generation %u: adopted, %s", state->v.v[i].number,
			set->v.v[i].is_armed ? "armed" : "not armed");
	return 0;
}

void ovm_adopted_fini(struct ovm_adopted *adopted)
{
	for (uint32_t i = 0; i < adopted->modules.n; i++) {
		free((char *)adopted->modules.v[i]->path);
		ovm_vec_free(&adopted->modules.v[i]->segments);
		free(adopted->modules.v[i]);
	}
	ovm_vec_free(&adopted->modules);
}
