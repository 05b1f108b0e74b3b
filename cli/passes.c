#include "cli/passes.h"

#include <stdio.h>
#include <string.h>

static enum ovm_pass find(const char *name, size_t len)
{
	int i = 0;
	while (i < OVM_N_PASSES &&
	       (strlen(ovm_passes[i].name) != len || strncmp(ovm_passes[i].name, name, len) != 0))
		i++;
	return (enum ovm_pass)i;
}

static int unknown(struct ovm_ctx *ctx, const char *name, size_t len)
{
	char all[128] = "";
	size_t n = 0;
	for (int i = 0; i < OVM_N_PASSES; i++)
		n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%s", i ? ", " : "",
				      ovm_passes[i].name);
	return ovm_fail(ctx, OVM_E_USAGE, "--passes: '%.*s' is no pass; there are %s",
			(int)(len < 40 ? len : 40), name, all);
}

int ovm_option_passes(struct ovm_ctx *ctx, const struct ovm_options *opts, uint32_t *set)
{
	const char *list = opts->value[OVM_OPT_PASSES];
	uint32_t found = ovm_passes_default();
	while (list && *list) {
		size_t len = strcspn(list, ",");
		bool is_signed = *list == '-' || *list == '+', off = *list == '-';
		const char *name = list + is_signed;
		enum ovm_pass pass = find(name, len - is_signed);
		if (len == 3 && !strncmp(list, "all", 3))
			found = (UINT32_C(1) << OVM_N_PASSES) - 1;
		else if (len == 4 && !strncmp(list, "none", 4))
			found = 0;
		else if (pass == OVM_N_PASSES)
			return unknown(ctx, name, len - is_signed);
		else
			found = off ? found & ~(UINT32_C(1) << pass) : found | UINT32_C(1) << pass;
		list += len + (list[len] == ',');
	}
	*set = found;
	return 0;
}
