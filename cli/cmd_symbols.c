/* optvm symbols PID: names of live copies, for gdb and perf. */
#include "base/save.h"
#include "cli/commands.h"
#include "cli/live_options.h"
#include "cli/summary.h"
#include "runtime/names.h"

#include <stdlib.h>
#include <unistd.h>

static int save_elf(struct ovm_ctx *ctx, const struct ovm_names *names, const char *path,
		    bool force)
{
	struct ovm_buf elf = {0};
	if (!force && access(path, F_OK) == 0)
		return ovm_fail(ctx, OVM_E_USAGE, "%s exists: overwrite it with -f", path);
	ovm_names_elf(names, &elf);
	int err = ovm_save(ctx, path, elf.v, elf.n);
	ovm_buf_free(&elf);
	if (!err)
		ovm_summary(
		    ctx, "%s: names of %u pieces of optimized code%s; in gdb: add-symbol-file %s",
		    path, names->v.n,
		    names->n_left_out ? ", of others the original files are gone" : "", path);
	return err;
}

static int save_map(struct ovm_ctx *ctx, pid_t pid, const struct ovm_names *names, bool force)
{
	char *path;
	int err = ovm_names_perf_map(ctx, pid, names, force, &path);
	if (!err)
		ovm_summary(ctx, "%s: names of %u pieces of optimized code", path, names->v.n);
	free(path);
	return err;
}

int ovm_cmd_symbols(struct ovm_ctx *ctx, const struct ovm_options *opts, int *status)
{
	struct ovm_names names = {0};
	const char *path = opts->value[OVM_OPT_OUTPUT];
	bool force = ovm_option_given(opts, OVM_OPT_FORCE),
	     maps = ovm_option_given(opts, OVM_OPT_PERF_MAP);
	pid_t pid;
	(void)status;
	int err = ovm_live_pid(ctx, opts, &pid);
	if (!err && !path && !maps)
		err = ovm_fail(ctx, OVM_E_USAGE,
			       "symbols: for gdb (-o FILE), for perf (--perf-map), or both?");
	if (!err)
		err = ovm_names_read(ctx, pid, &names);
	if (!err && path)
		err = save_elf(ctx, &names, path, force);
	if (!err && maps)
		err = save_map(ctx, pid, &names, force);
	ovm_names_fini(&names);
	return err;
}
