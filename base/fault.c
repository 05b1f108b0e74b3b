/* Proof that our death harms nobody needs us dead at chosen instants.
 *
 * The points are numbered by a table (fault.def), so that a test walks all of them without knowing
 * any. What is asked for lies in a few fixed entries, set once at the start; each passage compares
 * and counts, and allocates nothing: most points lie where nothing may be allocated. The counts are
 * a process's own: a builder inherits them at its fork.
 */
#include "base/fault.h"

#ifdef OPTVM_FAULT_POINTS

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_WISHES = 8, MAX_ERRNO = 133, EACH = 0 };
enum { FAILS = 1, HOLDS = 2, OTHER = 4 };

static const struct {
	const char *name, *text;
	unsigned flags;
} points[] = {
#define OVM_FAULT_POINT(id, name, flags, text) {name, text, flags},
#include "base/fault.def"
#undef OVM_FAULT_POINT
};

struct wish {
	enum ovm_fault point;
	unsigned long nth; /* EACH, or from 1 */
	int signal;	   /* to ourselves; 0: none */
	int errnum;	   /* to fail with; 0: not to fail */
	long sleep_ms;
};

static struct wish wishes[MAX_WISHES];
static unsigned n_wishes;
static unsigned long n_passed[OVM_N_FAULTS];

/* --- what is asked for
 * ---------------------------------------------------------------------------------------- */

static bool find_point(const char *word, size_t len, enum ovm_fault *out)
{
	char *end;
	unsigned long number = strtoul(word, &end, 10);
	if (end == word + len && number >= 1 && number <= OVM_N_FAULTS) {
		*out = (enum ovm_fault)(number - 1);
		return true;
	}
	for (unsigned i = 0; i < OVM_N_FAULTS; i++)
		if (strlen(points[i].name) == len && !memcmp(points[i].name, word, len)) {
			*out = (enum ovm_fault)i;
			return true;
		}
	return false;
}

static int errno_of(const char *name)
{
	for (int e = 1; e <= MAX_ERRNO; e++) {
		const char *known = strerrorname_np(e);
		if (known && !strcmp(known, name))
			return e;
	}
	return 0;
}

static bool parse_what(const char *what, struct wish *wish)
{
	char *end;
	if (!strcmp(what, "kill"))
		wish->signal = SIGKILL;
	else if (!strcmp(what, "stop"))
		wish->signal = SIGSTOP;
	else if (!strncmp(what, "errno=", 6))
		wish->errnum = errno_of(what + 6);
	else if (!strncmp(what, "sleep=", 6))
		wish->sleep_ms = strtol(what + 6, &end, 10);
	return wish->signal || wish->errnum || (wish->sleep_ms > 0 && !*end);
}

/* One "STEP[#N]:WHAT"; @word is the caller's copy. */
static int parse_wish(struct ovm_ctx *ctx, const char *word)
{
	const char *colon = strchr(word, ':');
	struct wish wish = {.nth = 1};
	if (!colon)
		return ovm_fail(ctx, OVM_E_USAGE, "OPTVM_FAULT: '%s' is not STEP[#N]:WHAT", word);
	size_t len = (size_t)(colon - word);
	const char *hash = memchr(word, '#', len);
	if (!find_point(word, hash ? (size_t)(hash - word) : len, &wish.point))
		return ovm_fail(ctx, OVM_E_USAGE,
				"OPTVM_FAULT: no step '%.*s': OPTVM_FAULT=list shows them",
				(int)(hash ? hash - word : colon - word), word);
	if (hash) {
		char *end;
		wish.nth = hash[1] == '*' ? EACH : strtoul(hash + 1, &end, 10);
		if (hash[1] == '*' ? hash + 2 != colon : !wish.nth || end != colon)
			return ovm_fail(ctx, OVM_E_USAGE, "OPTVM_FAULT: '%s': # is not a number",
					word);
	}
	if (!parse_what(colon + 1, &wish))
		return ovm_fail(ctx, OVM_E_USAGE,
				"OPTVM_FAULT: '%s' is none of kill, stop, errno=NAME, sleep=MS",
				colon + 1);
	if (wish.errnum && !(points[wish.point].flags & FAILS))
		return ovm_fail(ctx, OVM_E_USAGE, "OPTVM_FAULT: nothing can fail at %s",
				points[wish.point].name);
	if (n_wishes == MAX_WISHES)
		return ovm_fail(ctx, OVM_E_USAGE, "OPTVM_FAULT: more than %d", MAX_WISHES);
	wishes[n_wishes++] = wish;
	return 0;
}

int ovm_fault_setup(struct ovm_ctx *ctx, const char *spec)
{
	char word[128];
	int rc = 0;
	while (rc == 0 && spec && *spec) {
		size_t len = strcspn(spec, ",");
		if (len >= sizeof(word))
			return ovm_fail(ctx, OVM_E_USAGE, "OPTVM_FAULT: '%s' is too long", spec);
		memcpy(word, spec, len);
		word[len] = '\0';
		rc = parse_wish(ctx, word);
		spec += len + (spec[len] == ',');
	}
	return rc;
}

void ovm_fault_print(FILE *to)
{
	for (unsigned i = 0; i < OVM_N_FAULTS; i++)
		fprintf(to, "%3u %-20s %c%c%c %s\n", i + 1, points[i].name,
			points[i].flags & FAILS ? 'f' : '-', points[i].flags & HOLDS ? 'h' : '-',
			points[i].flags & OTHER ? 'o' : '-', points[i].text);
	fputs("f: can fail, h: the program is held, o: in a process of its own\n", to);
}

/* --- passing
 * --------------------------------------------------------------------------------------------------
 */

bool ovm_fault_pass(enum ovm_fault point)
{
	if (!n_wishes)
		return false;
	unsigned long n = ++n_passed[point];
	int errnum = 0;
	for (unsigned i = 0; i < n_wishes; i++) {
		const struct wish *wish = &wishes[i];
		if (wish->point != point || (wish->nth != EACH && wish->nth != n))
			continue;
		if (wish->sleep_ms)
			nanosleep(&(struct timespec){wish->sleep_ms / 1000,
						     wish->sleep_ms % 1000 * 1000000},
				  NULL);
		if (wish->signal)
			kill(getpid(), wish->signal);
		errnum = wish->errnum ? wish->errnum : errnum;
	}
	errno = errnum ? errnum : errno;
	return errnum != 0;
}

#endif
