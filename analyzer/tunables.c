#include "analyzer/tunables.h"

const struct ovm_tunable ovm_tunables[OVM_N_TUNABLES] = {
#define TUNABLE(name, value, unit, meaning, source) {#name, value, unit, meaning, source},
#include "analyzer/tunables.def"
#undef TUNABLE
};
