/* The perf.data reader on hostile bytes: no crash, bounded memory, and every failure is one of
 * format. */
#include "base/log.h"
#include "profiler/perfdata.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct ovm_ctx ctx;
	struct ovm_profile *prof = NULL;
	ovm_ctx_init(&ctx);
	ovm_log_setup("error"); /* cut files warn */
	int rc = ovm_perfdata_parse(&ctx, bytes, len, "fuzz", &prof);
	OVM_ASSERT(rc == OVM_OK ? prof != NULL : rc == OVM_E_FORMAT && !prof);
	ovm_profile_free(prof);
	return 0;
}
