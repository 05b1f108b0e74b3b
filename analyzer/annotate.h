#ifndef OVM_ANNOTATE_H
#define OVM_ANNOTATE_H
/* Adds to a fresh profile what its readers will need without the recorded files: which regions the
 * counts are in, their names, and hashes by which another build finds them again. */
#include "profiler/profile.h"

/* Annotate every module of @prof whose file can still be read and has its build-id; the others stay
 * as they are. Normalizes @prof. Never fails: without annotations a profile is less useful, not
 * wrong. */
void ovm_annotate_profile(struct ovm_profile *prof);

#endif
