/* Names of the reasons in refuse.def. */
#include "analyzer/refuse.h"

_Static_assert((int)OVM_REFUSE_COUNT <= (int)OVM_MAX_REFUSALS, "grow OVM_MAX_REFUSALS in base/err.h");

static const struct {
	const char *id, *text;
} reasons[] = {
#define REFUSE(id, text) {#id, text},
#include "analyzer/refuse.def"
#undef REFUSE
};

const char *ovm_refusal_id(enum ovm_refusal why)
{
	return (unsigned)why < OVM_REFUSE_COUNT ? reasons[why].id : "?";
}

const char *ovm_refusal_text(enum ovm_refusal why)
{
	return (unsigned)why < OVM_REFUSE_COUNT ? reasons[why].text : "?";
}
