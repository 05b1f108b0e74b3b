/* What a round knows: samples while its sampler is open, what was kept of them afterwards with the
 * counts of its window, and the profiles of the rounds before. */
#include "runtime/round.h"
#include "runtime/tunables.h"

#include <stdlib.h>

void ovm_round_end_sampling(struct ovm_ctx *ctx, struct ovm_round *r)
{
	if (!r->sampler)
		return;
	ovm_sampler_stop(r->sampler);
	ovm_sampler_drain(ctx, r->sampler, 0);
	ovm_profile_free(r->samples);
	r->samples = ovm_profile_new();
	ovm_profile_merge(r->samples, ovm_sampler_profile(r->sampler));
	if (!r->profile) {
		r->profile = ovm_profile_new();
		ovm_profile_merge(r->profile, r->samples);
	}
	ovm_sampler_close(r->sampler);
	r->sampler = NULL;
}

struct ovm_profile *ovm_round_profile(const struct ovm_round *r)
{
	const struct ovm_profile *now = r->profile   ? r->profile
					: r->sampler ? ovm_sampler_profile(r->sampler)
						     : NULL;
	if (!now && !r->past)
		return NULL;
	struct ovm_profile *sum = ovm_profile_new();
	if (r->past)
		ovm_profile_merge(sum, r->past);
	if (now)
		ovm_profile_merge(sum, now);
	return sum;
}

static ovm_rta original(void *arg, pid_t pid, ovm_rta at)
{
	const struct ovm_round *r = arg;
	(void)pid; /* its kin have the same copies */
	return ovm_generations_original(&r->set, at);
}

int ovm_round_open_sampler(struct ovm_ctx *ctx, struct ovm_round *r, uint64_t frequency,
			   bool no_ptrace, struct ovm_sampler **out)
{
	struct ovm_sampler_opts sampler = *r->sampling;
	ovm_family kin = {0};
	if (frequency || !sampler.frequency)
		sampler.frequency = frequency ? frequency : OVM_RT_FREQUENCY;
	sampler.original = original;
	sampler.arg = r;
	sampler.child = r->child;
	sampler.no_ptrace = no_ptrace;
	if (no_ptrace && sampler.force_ptrace)
		return ovm_fail(ctx, OVM_E_UNAVAILABLE, "only ptrace is there to sample by");
	if (r->is_running)
		ovm_family_kin(r->root, r->pid, &kin);
	pid_t *others = ovm_alloc_array(kin.n + 1u, sizeof(*others));
	for (uint32_t i = 1; i < kin.n; i++) /* the first is itself */
		others[sampler.n_others++] = kin.v[i].pid;
	sampler.others = others;
	int rc = ovm_sampler_open(ctx, &sampler, r->pid, r->is_running, out);
	ovm_vec_free(&kin);
	free(others);
	return rc;
}
