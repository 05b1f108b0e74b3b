/* The second decoder's memory of instructions it has decoded (analyzer/known.c says why that is
 * worth it). Its own, filled by Zydis alone: what the first decoder thinks is not in it.
 */
#include "rewriter/check_private.h"

#include "analyzer/known.h"

#include <string.h>

enum { LOG2 = 12 };

struct ovm_check_known {
	struct ovm_known bytes;
	struct ovm_check_insn insn;
};

struct ovm_check_known *ovm_check_known_new(void)
{
	return ovm_alloc_array(1 << LOG2, sizeof(struct ovm_check_known));
}

/* The known instruction at another place, with the field that stands there. */
static void recall(const struct ovm_check_known *known, const uint8_t *p, uint64_t va,
		   struct ovm_check_insn *out)
{
	*out = known->insn;
	if (!out->field_len)
		return;
	const uint8_t *field = p + out->field_off;
	int64_t distance = out->field_len == 1 ? (int8_t)*field : (int32_t)ovm_le32(field);
	if (out->is_rip)
		out->disp = distance;
	out->target = va + out->len + (uint64_t)distance;
}

bool ovm_check_decode_known(struct ovm_check_known *table, const ZydisDecoder *dec,
			    const uint8_t *p, size_t avail, uint64_t va, struct ovm_check_insn *out)
{
	if (!table || avail < OVM_KNOWN_BYTES)
		return ovm_check_decode(dec, p, avail, va, out);
	struct ovm_check_known *known = &table[ovm_known_hash(p) & ((1u << LOG2) - 1)];
	if (ovm_known_is(&known->bytes, p)) {
		recall(known, p, va, out);
		return true;
	}
	if (!ovm_check_decode(dec, p, avail, va, out))
		return false;
	ovm_known_set(&known->bytes, p, out->len, out->field_off, out->field_len);
	known->insn = *out;
	return true;
}
