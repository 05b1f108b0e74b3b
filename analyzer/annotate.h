#ifndef OVM_ANNOTATE_H
#define OVM_ANNOTATE_H
/* Adds to a fresh profile what its readers will need without the recorded files: which regions the
 * counts are in, their names, and hashes by which another build finds them again. */
#include "profiler/profile.h"

/* Annotate every module of @prof whose file can still be read and has its build-id; the others stay
 * as they are. Normalizes @prof. Never fails: without annotations a profile is less useful, not
 * wrong. */
void ovm_annotate_profile(struct ovm_profile *prof);

/* The same in steps, while what is to be annotated is still being recorded. */
struct ovm_annotator;

struct ovm_annotator *ovm_annotator_new(void);
void ovm_annotator_free(struct ovm_annotator *annotator); /* accepts NULL */

/* Are there so many samples, @n_samples, that it should look what is hot? */
bool ovm_annotator_wants(const struct ovm_annotator *annotator, uint64_t n_samples);

/* Look what is hot in @samples; or open something that is needed for that (one file each time, some
 * 10 ms for a large one), and still want to look. */
void ovm_annotator_look(struct ovm_annotator *annotator, const struct ovm_profile *samples);

/* Prepare what is hot, for about @ms. */
void ovm_annotator_ahead(struct ovm_annotator *annotator, double ms);

/* As ovm_annotate_profile, with what is prepared. The result is the same. */
void ovm_annotator_finish(struct ovm_annotator *annotator, struct ovm_profile *prof);

#endif
