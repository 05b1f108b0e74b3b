/* optvm verify IN OUT: the checker over two files. */
#include "cli/commands.h"
#include "cli/summary.h"
#include "rewriter/elf_verify.h"

#include <stdio.h>

static void print_proof(const char *in, const char *out, const struct ovm_verify_result *result)
{
	ovm_put_clean(out, stdout);
	fputs(" equals ", stdout);
	ovm_put_clean(in, stdout);
	printf(": %llu instructions proved (%.2f %% of the code copied), %u patches, %u tables, %u "
	       "FDEs; ",
	       (unsigned long long)result->n_pairs, ovm_percent(result->copied, result->bytes),
	       result->n_patches, result->n_tables, result->n_fdes);
	puts(result->only_loaded ? "what is loaded is as written, the rest was changed by a tool"
				 : "every other byte as written");
}

static int verify(struct ovm_ctx *ctx, const char *in_path, const char *out_path,
		  struct ovm_verify_result *result)
{
	struct ovm_image *in = NULL, *out = NULL;
	int err = ovm_image_open(ctx, in_path, &in);
	if (!err)
		err = ovm_image_open(ctx, out_path, &out);
	if (!err)
		err = ovm_elf_verify(ctx, in, out, result);
	ovm_image_close(in);
	ovm_image_close(out);
	return err;
}

int ovm_cmd_verify(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	struct ovm_verify_result result = {0};
	(void)status;
	if (opts->n_words != 2)
		return ovm_fail(ctx, OVM_E_USAGE,
				"verify: takes two files, not %d: optvm verify IN OUT",
				opts->n_words);
	int err = verify(ctx, opts->words[0], opts->words[1], &result);
	if (err == OVM_E_IO) /* 1 would mean: looked at, and differs */
		err = OVM_E_FORMAT;
	if (err == OVM_REFUSED)
		ovm_fail(ctx, OVM_OK, "%s", result.reason);
	else if (!err && !ctx->quiet)
		print_proof(opts->words[0], opts->words[1], &result);
	return err;
}
