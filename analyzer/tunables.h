#ifndef OVM_TUNABLES_H
#define OVM_TUNABLES_H
/* The constants of tunables.def as an enum-like set of names: OVM_TUNE_TSP_MAX_CHAIN and so on. */
#include <stdint.h>

struct ovm_tunable {
	const char *name;
	int64_t value;
	const char *unit, *meaning, *source;
};

enum ovm_tunable_idx {
#define TUNABLE(name, value, unit, meaning, source) OVM_TUNABLE_##name,
#include "analyzer/tunables.def"
#undef TUNABLE
	OVM_N_TUNABLES
};

/* The table itself, for `optvm doctor`-like listings. */
extern const struct ovm_tunable ovm_tunables[OVM_N_TUNABLES];

/* Value by name, a constant to the compiler: OVM_TUNE(TSP_MAX_CHAIN). */
#define OVM_TUNE(name) OVM_TUNE_##name
#define OVM_TUNE_DECL(name, value)                                                                 \
	static const int64_t OVM_TUNE_##name __attribute__((unused)) = (value);
#define TUNABLE(name, value, unit, meaning, source) OVM_TUNE_DECL(name, value)
#include "analyzer/tunables.def"
#undef TUNABLE
#undef OVM_TUNE_DECL

#endif
