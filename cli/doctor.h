#ifndef OVM_DOCTOR_H
#define OVM_DOCTOR_H
/* What doctor finds, one line each, and the examinations it is made of. */
#include "base/err.h"
#include "base/vec.h"

#include <sys/types.h>

enum ovm_verdict { OVM_GOOD, OVM_NOTE, OVM_LACK };

struct ovm_finding {
	const char *what; /* static */
	enum ovm_verdict verdict;
	char *text; /* owned */
};
struct ovm_findings {
	OVM_VEC(struct ovm_finding) v;
	bool lacks; /* there is a LACK among them */
};

void ovm_finding_add(struct ovm_findings *f, enum ovm_verdict verdict, const char *what,
		     const char *fmt, ...) __attribute__((format(printf, 4, 5)));
void ovm_findings_fini(struct ovm_findings *f);

/* The ELF file @path. Fails as ovm_image_open does, with nothing added. */
int ovm_doctor_file(struct ovm_findings *f, struct ovm_ctx *ctx, const char *path);

/* Process @pid: looks at it without stopping it. Fails: OVM_E_GONE. */
int ovm_doctor_process(struct ovm_findings *f, struct ovm_ctx *ctx, pid_t pid);

/* The event @event opens for @pid (0: ourselves), user mode. False: the reason is in ctx. */
bool ovm_doctor_can_count(struct ovm_ctx *ctx, const char *event, pid_t pid);

/* The number in a one-line file, or @missing. */
long ovm_doctor_number(const char *path, long missing);

#endif
