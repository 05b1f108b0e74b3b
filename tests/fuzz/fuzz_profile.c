/* The profile reader on hostile text: no crash, and what it accepts it must print and read again
 * unchanged. */
#include "profiler/profile.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static char *print(const struct ovm_profile *prof, size_t *len)
{
	char *text = NULL;
	FILE *to = open_memstream(&text, len);
	OVM_ASSERT(to);
	ovm_profile_print(prof, to);
	fclose(to);
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct ovm_ctx ctx;
	ovm_ctx_init(&ctx);
	struct ovm_profile *prof = NULL, *again = NULL;
	if (ovm_profile_parse(&ctx, (const char *)bytes, len, "fuzz", &prof))
		return 0;
	size_t len_a = 0, len_b = 0;
	char *a = print(prof, &len_a);
	OVM_ASSERT(!ovm_profile_parse(&ctx, a, len_a, "printed", &again));
	char *b = print(again, &len_b);
	OVM_ASSERT(len_a == len_b && !memcmp(a, b, len_a));
	free(a);
	free(b);
	ovm_profile_free(prof);
	ovm_profile_free(again);
	return 0;
}
