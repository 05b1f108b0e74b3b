#ifndef OVM_RESCALE_H
#define OVM_RESCALE_H
#include "analyzer/program.h"

/* Bring counts that were inferred from samples to the scale of exact ones, if a program has both. */
void ovm_rescale(struct ovm_program *program);

#endif
