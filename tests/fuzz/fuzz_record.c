/* The decoder of raw perf records on hostile bytes: the first words choose the format, the rest is
 * a stream of records. */
#include "base/err.h"
#include "base/vec.h"
#include "profiler/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	enum { FORMAT = 25 };
	if (len < FORMAT)
		return 0;
	struct ovm_record_format format = {.sample_type = ovm_le64(bytes),
					   .branch_sample_type = ovm_le64(bytes + 8),
					   .sample_id_all = bytes[16] & 1,
					   .read_format = ovm_le64(bytes + 17)};
	uint64_t sum = 0;
	for (size_t at = FORMAT; at < len;) {
		struct ovm_sample sample;
		size_t size = ovm_record_decode(&format, bytes + at, len - at, &sample);
		if (!size)
			break;
		OVM_ASSERT(size % 8 == 0 && size <= len - at);
		for (const char *p = sample.path; p && *p; p++)
			sum += (uint8_t)*p;
		for (uint32_t i = 0; i < sample.build_id_len; i++)
			sum += sample.build_id[i];
		for (uint32_t i = 0; i < sample.n_branches; i++)
			sum += ovm_record_branch(&sample, i).from;
		at += size;
	}
	return sum == UINT64_MAX ? -1 : 0; /* so that nothing is optimized away */
}
