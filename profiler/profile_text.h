#ifndef OVM_PROFILE_TEXT_H
#define OVM_PROFILE_TEXT_H
/* The profile's text format as a stream: fed in chunks, it needs only the memory of the profile
 * itself. Private to profiler/; others use profile.h. */
#include "profiler/profile.h"

enum { OVM_PROFILE_MAX_LINE = 64 << 10 };

struct ovm_profile_reader {
	struct ovm_ctx *ctx;
	const char *name;		/* of the file, for messages; borrowed */
	struct ovm_profile *prof;	/* under construction; owned */
	struct ovm_prof_module *module; /* the last one of prof, NULL before the first */
	uint64_t n_lines;		/* complete lines read */
	bool ended;			/* saw the end line */
};

void ovm_profile_reader_init(struct ovm_profile_reader *reader, struct ovm_ctx *ctx,
			     const char *name);
void ovm_profile_reader_fini(struct ovm_profile_reader *reader);

/* Read the complete lines of @text; *used receives their length. The rest, at most
 * OVM_PROFILE_MAX_LINE bytes, is to be given again with what follows. Fails: OVM_E_FORMAT, naming
 * the line. */
int ovm_profile_reader_feed(struct ovm_profile_reader *reader, const char *text, size_t len,
			    size_t *used);

/* After the last byte: @rest bytes of an unfinished line were left. Hands over the profile,
 * normalized. Fails: OVM_E_FORMAT. */
int ovm_profile_reader_finish(struct ovm_profile_reader *reader, size_t rest,
			      struct ovm_profile **out);

#endif
