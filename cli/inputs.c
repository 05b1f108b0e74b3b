/* Inputs shared by several commands, with messages that say what the profile does hold. */
#include "cli/inputs.h"
#include "cli/passes.h"
#include "profiler/perfdata.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_LISTED = 4, HEAD = 64 };

/* @head holds the first bytes and a NUL. */
static enum ovm_format format_of(const char *head, size_t len)
{
	static const char zstd[] = {0x28, (char)0xb5, 0x2f, (char)0xfd, 0};
	static const struct {
		const char *text;
		enum ovm_format format;
	} starts[] = {
	    {"optvm-profile ", OVM_FORMAT_PROFILE},
	    {zstd, OVM_FORMAT_PROFILE},
	    {"no_lbr", OVM_FORMAT_FDATA},
	    {"boltedcollection\n", OVM_FORMAT_FDATA},
	};
	for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++)
		if (!strncmp(head, starts[i].text, strlen(starts[i].text)))
			return starts[i].format;
	if (ovm_perfdata_is((const uint8_t *)head, len))
		return OVM_FORMAT_PERFDATA;
	if (len < 2 || head[1] != ' ')
		return OVM_FORMAT_UNKNOWN;
	if (*head >= '0' && *head <= '5')
		return OVM_FORMAT_FDATA;
	return strchr("EBFfrTRS", *head) && *head ? OVM_FORMAT_PREAGG : OVM_FORMAT_UNKNOWN;
}

int ovm_inputs_format(struct ovm_ctx *ctx, const char *path, enum ovm_format *out)
{
	char head[HEAD + 1] = "";
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	*out = OVM_FORMAT_UNKNOWN;
	if (fd < 0)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot open", path);
	/* what a pipe gave once would be gone */
	ssize_t n = !fstat(fd, &st) && S_ISREG(st.st_mode) ? read(fd, head, HEAD) : 0;
	int bad = n < 0 ? errno : 0;
	close(fd);
	if (bad)
		return ovm_fail_errno(ctx, OVM_E_IO, bad, "%s: cannot read", path);
	*out = format_of(head, (size_t)n);
	return 0;
}

int ovm_inputs_load(struct ovm_ctx *ctx, const char *path, struct ovm_profile **out)
{
	enum ovm_format format;
	int err = ovm_inputs_format(ctx, path, &format);
	if (err)
		return err;
	if (format == OVM_FORMAT_PERFDATA)
		return ovm_perfdata_load(ctx, path, out);
	if (format == OVM_FORMAT_FDATA || format == OVM_FORMAT_PREAGG)
		return ovm_fail(ctx, OVM_E_USAGE,
				"%s: a profile of BOLT's: optvm convert %s --binary ELF -o PROF",
				path, path);
	return ovm_profile_load(ctx, path, out);
}

int ovm_inputs_merge(struct ovm_ctx *ctx, const char *const *paths, size_t n,
		     struct ovm_profile **out)
{
	struct ovm_profile *sum = NULL;
	for (size_t i = 0; i < n; i++) {
		struct ovm_profile *one;
		int err = ovm_inputs_load(ctx, paths[i], &one);
		if (err) {
			ovm_profile_free(sum);
			return err;
		}
		if (sum) {
			ovm_profile_merge(sum, one);
			ovm_profile_free(one);
		} else { /* all loaders normalize */
			sum = one;
		}
	}
	*out = sum ? sum : ovm_profile_new();
	return 0;
}

static bool has_counts(const struct ovm_prof_module *m)
{
	return m->samples.n || m->branches.n || m->ranges.n || m->edges.n;
}

/* " /usr/bin/a (build-id 12ab)," for the modules with most samples. */
static void list_modules(const struct ovm_profile *prof, char *buf, size_t size)
{
	size_t at = 0;
	uint64_t below = UINT64_MAX;
	uint32_t last = OVM_NONE;
	buf[0] = 0;
	for (int k = 0; k < MAX_LISTED;
	     k++) { /* the next in order of (samples descending, index) */
		uint32_t best = OVM_NONE;
		uint64_t most = 0;
		for (uint32_t i = 0; i < prof->modules.n; i++) {
			uint64_t n = ovm_prof_module_samples(&prof->modules.v[i]);
			bool later = n < below || (n == below && last != OVM_NONE && i > last);
			if (last == OVM_NONE)
				later = true;
			if (has_counts(&prof->modules.v[i]) && later &&
			    (best == OVM_NONE || n > most)) {
				best = i;
				most = n;
			}
		}
		if (best == OVM_NONE || at >= size)
			return;
		const struct ovm_prof_module *m = &prof->modules.v[best];
		at += (size_t)snprintf(buf + at, size - at, "%s %s (build-id %.40s)", k ? "," : "",
				       m->path ? m->path : "?", m->id);
		last = best;
		below = most;
	}
	if (at < size)
		snprintf(buf + at, size - at, "%s", prof->modules.n > MAX_LISTED ? ", ..." : "");
}

int ovm_inputs_module(struct ovm_ctx *ctx, const struct ovm_profile *prof,
		      const struct ovm_image *image, const struct ovm_prof_module **out)
{
	bool any = false;
	for (uint32_t i = 0; i < prof->modules.n; i++)
		any |= has_counts(&prof->modules.v[i]);
	if (!any)
		return ovm_fail(ctx, OVM_E_FORMAT,
				"the profile is empty: it holds no samples of any module");
	const struct ovm_prof_module *module = ovm_profile_find(prof, image->id);
	if (module && has_counts(module)) {
		*out = module;
		return 0;
	}
	char list[512];
	list_modules(prof, list, sizeof(list));
	return ovm_fail(ctx, OVM_E_MISMATCH,
			"%s: the profile holds no samples of this build (build-id %s); it has:%s",
			image->path, image->id, list);
}

static int parse_share(struct ovm_ctx *ctx, const struct ovm_options *opts, double *out)
{
	const char *text = opts->value[OVM_OPT_SHARE];
	*out = 1;
	if (!text)
		return 0;
	char *end;
	double x = strtod(text, &end);
	if (end == text || *end || !(x > 0 && x <= 1))
		return ovm_fail(ctx, OVM_E_USAGE,
				"--share: '%s' is not a number over 0 and up to 1", text);
	*out = x;
	return 0;
}

static int parse_order(struct ovm_ctx *ctx, const struct ovm_options *opts, enum ovm_order *out)
{
	static const char *const names[] = {"original", "hfsort", "cdsort"};
	const char *text = opts->value[OVM_OPT_ORDER];
	*out = OVM_ORDER_CDSORT;
	for (int i = 0; text && i < 3; i++) {
		if (!strcmp(text, names[i])) {
			*out = (enum ovm_order)i;
			return 0;
		}
	}
	if (text)
		return ovm_fail(ctx, OVM_E_USAGE, "--order: '%s' is not original, hfsort or cdsort",
				text);
	return 0;
}

int ovm_inputs_engine(struct ovm_ctx *ctx, const struct ovm_options *opts,
		      struct ovm_engine_opts *out)
{
	struct ovm_engine_opts engine = {0};
	enum ovm_order order;
	uint32_t passes;
	engine.uniform = ovm_option_given(opts, OVM_OPT_UNIFORM);
	int err = parse_share(ctx, opts, &engine.share);
	if (!err)
		err = parse_order(ctx, opts, &order);
	if (!err)
		err = ovm_option_passes(ctx, opts, &passes);
	if (err)
		return err;
	engine.layout = ovm_passes_layout(passes, order);
	engine.layout.drop_cold |= ovm_option_given(opts, OVM_OPT_DROP_COLD);
	engine.layout.keep_block_order |= ovm_option_given(opts, OVM_OPT_KEEP_ORDER);
	*out = engine;
	return 0;
}

bool ovm_inputs_same_file(const char *a, const char *b)
{
	struct stat sa, sb;
	return !stat(a, &sa) && !stat(b, &sb) && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

int ovm_inputs_output(struct ovm_ctx *ctx, const struct ovm_options *opts, const char *path)
{
	struct stat st;
	if (!stat(path, &st)) {
		if (S_ISDIR(st.st_mode))
			return ovm_fail(ctx, OVM_E_IO, "%s: cannot write: it is a directory", path);
		if (!S_ISREG(st.st_mode))
			return 0;
		if (!ovm_option_given(opts, OVM_OPT_FORCE))
			return ovm_fail(ctx, OVM_E_USAGE, "%s exists: -f overwrites it", path);
	}
	const char *slash = strrchr(path, '/');
	char *folder = slash ? ovm_strndup(path, (size_t)(slash - path) + 1) : ovm_strdup(".");
	int bad = access(folder, W_OK | X_OK) ? errno : 0;
	free(folder);
	return bad ? ovm_fail_errno(ctx, OVM_E_IO, bad, "%s: cannot write", path) : 0;
}
