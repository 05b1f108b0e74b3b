/* An hour at 4 kHz on 64 CPUs is a billion samples, but only some ten thousand different addresses.
 * So samples are counted when they arrive, in one small hash table per module, and a profile is
 * made from the tables when somebody asks.
 */
#include "profiler/tally.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_CAP = 256 };

static uint32_t slot_of(const struct ovm_tally_module *module, ovm_va va)
{
	uint32_t mask = module->cap - 1;
	uint32_t at = (uint32_t)((va.v * 0x9e3779b97f4a7c15ull) >> 32) & mask;
	while (module->count[at] && module->va[at].v != va.v)
		at = (at + 1) & mask;
	return at;
}

static void grow(struct ovm_tally_module *module)
{
	struct ovm_tally_module old = *module;
	OVM_ASSERT(old.cap <= UINT32_MAX / 2);
	module->cap = old.cap ? 2 * old.cap : FIRST_CAP;
	module->va = ovm_alloc_array(module->cap, sizeof(*module->va));
	module->count = ovm_alloc_array(module->cap, sizeof(*module->count));
	for (uint32_t i = 0; i < old.cap; i++) {
		if (!old.count[i])
			continue;
		uint32_t at = slot_of(module, old.va[i]);
		module->va[at] = old.va[i];
		module->count[at] = old.count[i];
	}
	free(old.va);
	free(old.count);
}

static void count(struct ovm_tally_module *module, ovm_va va)
{
	if (module->n >= module->cap / 4 * 3)
		grow(module);
	uint32_t at = slot_of(module, va);
	if (!module->count[at]) {
		module->va[at] = va;
		module->n++;
	}
	module->count[at]++;
}

/* The newest processes are the busy ones. */
static void count_process(struct ovm_tally *tally, pid_t pid)
{
	for (uint32_t i = tally->processes.n; i-- > 0;) {
		if (tally->processes.v[i].pid == pid) {
			tally->processes.v[i].n_samples++;
			return;
		}
	}
	ovm_vec_push(&tally->processes, ((struct ovm_tally_process){pid, 1}));
}

pid_t ovm_tally_busiest(const struct ovm_tally *tally, bool (*is_wanted)(void *arg, pid_t pid),
			void *arg)
{
	struct ovm_tally_process best = {0, 0};
	for (uint32_t i = 0; i < tally->processes.n; i++)
		if (tally->processes.v[i].n_samples > best.n_samples &&
		    is_wanted(arg, tally->processes.v[i].pid))
			best = tally->processes.v[i];
	return best.pid;
}

bool ovm_tally_add(struct ovm_tally *tally, pid_t pid, ovm_rta rta)
{
	count_process(tally, pid);
	ovm_va va;
	uint32_t module = ovm_procmap_resolve(tally->map, pid, rta, &va);
	if (module == OVM_NONE && tally->original)
		module =
		    ovm_procmap_resolve(tally->map, pid, tally->original(tally->arg, pid, rta), &va);
	tally->n_samples++;
	if (module == OVM_NONE) {
		tally->n_unmapped++;
		return false;
	}
	while (tally->modules.n <= module)
		ovm_vec_push(&tally->modules, (struct ovm_tally_module){0});
	count(&tally->modules.v[module], va);
	return true;
}

static void emit_samples(const struct ovm_tally_module *from, struct ovm_prof_module *to)
{
	ovm_vec_reserve(&to->samples, to->samples.n + from->n);
	for (uint32_t k = 0; k < from->cap; k++)
		if (from->count[k])
			ovm_vec_push(&to->samples,
				     (struct ovm_prof_sample){from->va[k], from->count[k]});
}

static void emit(const struct ovm_tally *tally, uint32_t module, struct ovm_profile *prof)
{
	bool is_sampled = module < tally->modules.n && tally->modules.v[module].n;
	bool is_branched =
	    module < tally->lbr.modules.n &&
	    (tally->lbr.modules.v[module].branches.n || tally->lbr.modules.v[module].ranges.n);
	if (!is_sampled && !is_branched)
		return;
	struct ovm_prof_module *to =
	    ovm_profile_module(prof, ovm_procmap_module_id(tally->map, module),
			       ovm_procmap_module_path(tally->map, module));
	if (is_sampled)
		emit_samples(&tally->modules.v[module], to);
	ovm_lbr_emit(&tally->lbr, module, to);
}

struct ovm_profile *ovm_tally_profile(const struct ovm_tally *tally, const char *event,
				      const char *source, uint64_t frequency)
{
	struct ovm_profile *prof = ovm_profile_new();
	free(prof->event);
	free(prof->source);
	prof->event = ovm_strdup(event);
	prof->source = ovm_strdup(source);
	prof->frequency = frequency;
	prof->n_samples = tally->n_samples;
	prof->n_lost = tally->n_lost;
	prof->n_unmapped = tally->n_unmapped;
	prof->n_processes = ovm_procmap_n_processes(tally->map);
	for (uint32_t i = 0; i < ovm_procmap_n_modules(tally->map); i++)
		emit(tally, i, prof);
	ovm_profile_normalize(prof);
	return prof;
}

void ovm_tally_init(struct ovm_tally *tally)
{
	memset(tally, 0, sizeof(*tally));
	tally->map = ovm_procmap_new();
}

void ovm_tally_fini(struct ovm_tally *tally)
{
	ovm_vec_free(&tally->processes);
	for (uint32_t i = 0; i < tally->modules.n; i++) {
		free(tally->modules.v[i].va);
		free(tally->modules.v[i].count);
	}
	ovm_vec_free(&tally->modules);
	ovm_lbr_fini(&tally->lbr);
	ovm_procmap_free(tally->map);
	tally->map = NULL;
}
