/* Windows are a share of the time since the recording began, and some time more in the beginning,
 * when least is known:
 *
 *   armed     ##  ##  ##      ##            ##                     3 % of the time, 250 ms free
 *   builds   1 2          ?          ?                  ?          looked at when the samples are 1.4 times as many
 *
 * A build costs processor time (a second and more for a compiler), what it can win is exact counts of
 * code that has samples but no copy. What was refused will be refused again: so only what is outside
 * in addition to what was left outside by the last build counts, and it must have used more time
 * than a build takes.
 */
#define OVM_LOG_DOMAIN "counting"
#include "runtime/countpace.h"
#include "base/log.h"
#include "runtime/tunables.h"

#include <string.h>

/* How long not to count: until the time armed is within the budget again. */
static double rest_ms(const struct ovm_count_pace *pace, double now)
{
	double spent = pace->armed_ms - OVM_RT_WINDOW_FREE_MS;
	double rest = spent * 100 / OVM_RT_WINDOW_PERCENT - (now - pace->started_at);
	return rest > OVM_RT_WINDOW_REST_MS ? rest : OVM_RT_WINDOW_REST_MS;
}

void ovm_pace_window(struct ovm_count_pace *pace, double ms, double now)
{
	pace->armed_ms += ms;
	pace->next_window_at = now + rest_ms(pace, now);
}

static void plan_next_build(struct ovm_count_pace *pace, uint64_t n_samples)
{
	pace->next_build = n_samples * OVM_RT_COUNT_GROWTH / 100;
}

void ovm_pace_build(struct ovm_count_pace *pace, uint64_t n_samples)
{
	pace->n_builds++;
	pace->outside = -1;
	plan_next_build(pace, n_samples);
}

static bool is_inside(const struct ovm_built *built, const char *path, ovm_va va)
{
	for (uint32_t m = 0; m < built->modules.n; m++)
		if (!strcmp(built->modules.v[m].module->path, path) &&
		    ovm_map_old(&built->modules.v[m].overlay.map, va))
			return true;
	return false;
}

double ovm_pace_outside(const struct ovm_built *const *built, uint32_t n,
			const struct ovm_profile *samples)
{
	uint64_t all = 0, out = 0;
	for (uint32_t i = 0; i < samples->modules.n; i++) {
		const struct ovm_prof_module *module = &samples->modules.v[i];
		uint64_t of_module = ovm_prof_module_samples(module);
		if (of_module * OVM_RT_MODULE_SHARE < samples->n_samples)
			continue;
		all += of_module;
		for (uint32_t k = 0; k < module->samples.n; k++) {
			bool found = false;
			for (uint32_t g = 0; g < n && !found && module->path; g++)
				found = is_inside(built[g], module->path, module->samples.v[k].va);
			out += found ? 0 : module->samples.v[k].count;
		}
	}
	return all ? (double)out / (double)all : 1;
}

bool ovm_pace_is_worth(struct ovm_count_pace *pace, double outside,
		       const struct ovm_profile *samples)
{
	double new_ms = pace->outside < 0 ? 0
					  : (outside - pace->outside) * (double)samples->n_samples *
						1e3 / (double)samples->frequency;
	ovm_log(OVM_LOG_INFO,
		"%.3f of the samples outside copies, was %.3f: %.0f ms; a build took %.0f", outside,
		pace->outside, new_ms, pace->build_ms);
	if (outside > pace->outside + OVM_RT_COUNT_OUTSIDE && new_ms > pace->build_ms)
		return true;
	if (pace->outside < 0)
		pace->outside = outside;
	plan_next_build(pace, samples->n_samples);
	return false;
}
