#ifndef OVM_REFUSE_H
#define OVM_REFUSE_H
/* The reasons of refuse.def as an enum, and their names. A refusal is a normal result (rule R10). */
#include "base/err.h"

enum ovm_refusal {
#define REFUSE(id, text) OVM_REFUSE_##id,
#include "analyzer/refuse.def"
#undef REFUSE
	OVM_REFUSE_COUNT
};

const char *ovm_refusal_id(enum ovm_refusal why);   /* "DECODE" */
const char *ovm_refusal_text(enum ovm_refusal why); /* one line for people */

#endif
