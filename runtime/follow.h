#ifndef OVM_FOLLOW_H
#define OVM_FOLLOW_H
/* Which process of a tree is worth a round next: images that use processor time, one after the
 * other, each once. */
#include "runtime/family.h"

struct ovm_follow {
	pid_t root;
	unsigned after_ms; /* CPU time a process must have used */
	double next_look;  /* see ovm_now_ms */
	OVM_VEC(struct ovm_image_mark) seen;
	OVM_VEC(struct ovm_follow_file {
		char *path;
		unsigned after_ms;
	})
	files;	       /* programs whose processes ended before they could be optimized */
	char *current; /* file of the process chosen last */
};

/* @root: the program that was started; its descendants are followed. @after_ms 0: the default. */
void ovm_follow_init(struct ovm_follow *follow, pid_t root, unsigned after_ms);
void ovm_follow_fini(struct ovm_follow *follow);

/* The process that has used most time among those whose image has not had its turn; it has it now.
 * 0: none, or it is too early to look again. Cheap enough to be asked all the time. */
pid_t ovm_follow_next(struct ovm_follow *follow);

/* The process chosen last (or what it has exec'ed meanwhile: @pid, 0 if it is gone) needs no other
 * turn. @too_soon: it ended before anything came of it. */
void ovm_follow_done(struct ovm_follow *follow, pid_t pid, bool too_soon);

#endif
