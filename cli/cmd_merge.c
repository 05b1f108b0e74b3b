/* optvm merge -o OUT PROF...: profiles are sums, in any order. */
#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/summary.h"

int ovm_cmd_merge(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	(void)status;
	const char *path = opts->value[OVM_OPT_OUTPUT];
	if (!path)
		return ovm_fail(ctx, OVM_E_USAGE, "merge: no output file: -o OUT");
	if (!opts->n_words)
		return ovm_fail(ctx, OVM_E_USAGE, "merge: no profiles to add");
	for (int i = 0; i < opts->n_words; i++)
		if (ovm_inputs_same_file(path, opts->words[i]))
			return ovm_fail(ctx, OVM_E_USAGE, "merge: %s is both input and output",
					path);
	struct ovm_profile *sum;
	int err = ovm_inputs_output(ctx, opts, path);
	if (err)
		return err;
	err = ovm_inputs_merge(ctx, (const char *const *)opts->words, (size_t)opts->n_words, &sum);
	if (err)
		return err;
	err = ovm_profile_save(ctx, sum, path);
	if (!err)
		ovm_summary(ctx, "%s: %llu samples of %u modules from %d profiles", path,
			    (unsigned long long)sum->n_samples, sum->modules.n, opts->n_words);
	ovm_profile_free(sum);
	return err;
}
