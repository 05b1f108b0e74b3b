/* optvm rewrite --all -p PROF -d DIR: every file that a profile finds hot.
 *
 * Programs get their own name, libraries the one they are asked for by (DT_SONAME), so that
 * LD_LIBRARY_PATH=DIR puts the copies in the originals' place. What is loaded by its path is not
 * found that way: the program interpreter is left alone; a plugin is written, and put into its
 * place by who knows where it belongs. Where $ORIGIN stood in the search path of a program the
 * original's folder goes into the command that is printed.
 *
 * One file after the other, hottest first; a file that cannot be used is told and skipped.
 */
#include "base/clock.h"
#include "cli/inputs.h"
#include "cli/rewrite.h"
#include "cli/summary.h"
#include "rewriter/elf_read.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { HOT_PERMILLE = 5 }; /* of all samples: less is not worth a file */

struct file { /* a module of the profile */
	const struct ovm_prof_module *module;
	uint64_t weight; /* samples, else the sum of other counts */
	char *name;	 /* in the folder; NULL: not written */
};

struct set {
	const struct ovm_options *opts;
	struct ovm_profile *prof;
	char hash[20];
	struct ovm_engine_opts engine_opts;
	const char *dir;
	OVM_VEC(struct file) files; /* hottest first */
	OVM_VEC(char *) programs;   /* as to be typed, hottest first; their interpreters: */
	OVM_VEC(char *) interps;
	char *search; /* further folders for LD_LIBRARY_PATH, each with a ':' before it */
	uint64_t total;
	uint32_t n_written;
};

static uint64_t weight_of(const struct ovm_prof_module *module)
{
	uint64_t n = ovm_prof_module_samples(module);
	for (uint32_t i = 0; !n && i < module->edges.n; i++)
		n += module->edges.v[i].count;
	for (uint32_t i = 0; !n && i < module->branches.n; i++)
		n += module->branches.v[i].count;
	return n;
}

static int hottest_first(const void *a, const void *b)
{
	const struct file *x = a, *y = b;
	if (x->weight != y->weight)
		return x->weight > y->weight ? -1 : 1;
	return strcmp(x->module->id, y->module->id);
}

static void list_files(struct set *set)
{
	for (uint32_t i = 0; i < set->prof->modules.n; i++) {
		const struct ovm_prof_module *module = &set->prof->modules.v[i];
		uint64_t weight = weight_of(module);
		set->total += weight;
		if (weight && module->path && module->path[0] == '/')
			ovm_vec_push(&set->files, (struct file){module, weight, NULL});
	}
	if (set->files.n)
		qsort(set->files.v, set->files.n, sizeof(*set->files.v), hottest_first);
}

/* --- one file
 * -------------------------------------------------------------------------------------------- */

static void say(const char *path, const char *what)
{
	ovm_put_clean(path, stdout);
	fputs(": ", stdout);
	ovm_put_clean(what, stdout);
	putchar('\n');
}

static int skip(struct ovm_ctx *ctx, const char *why)
{
	ovm_fail(ctx, OVM_OK, "left alone: %s", why);
	return OVM_REFUSED;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static bool is_program(const struct ovm_image *image)
{
	return !ovm_elf_soname(image) && (image->has_interp || image->is_static || !image->is_dyn);
}

static bool is_interp(const struct set *set, const char *path)
{
	for (uint32_t i = 0; i < set->interps.n; i++)
		if (ovm_inputs_same_file(set->interps.v[i], path))
			return true;
	return false;
}

static bool is_taken(const struct set *set, const char *name)
{
	for (uint32_t i = 0; i < set->files.n; i++)
		if (set->files.v[i].name && !strcmp(set->files.v[i].name, name))
			return true;
	return false;
}

/* What the file is called in the folder. NULL: it has no name there. */
static const char *name_of(const struct ovm_rewrite *job)
{
	const char *soname = ovm_elf_soname(job->image);
	const char *name = soname ? soname : base_name(job->in);
	return !*name || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, "..") ? NULL
											: name;
}

static int rewrite_file(struct ovm_ctx *ctx, struct set *set, struct file *file,
			struct ovm_rewrite *job)
{
	char why[160];
	job->in = file->module->path;
	if (file->weight < set->total / 1000 * HOT_PERMILLE) {
		snprintf(why, sizeof(why), "%.1f %% of the samples",
			 ovm_percent(file->weight, set->total));
		return skip(ctx, why);
	}
	int err = ovm_rewrite_open(ctx, job);
	if (err)
		return err;
	const struct ovm_image *now = job->rewritten ? job->rewritten : job->image;
	const char *name = name_of(job);
	if (strcmp(now->id, file->module->id)) {
		snprintf(why, sizeof(why), "changed since: build-id %.40s, the profile's is %.40s",
			 now->id, file->module->id);
		return skip(ctx, why);
	}
	if (is_interp(set, job->in))
		return skip(ctx, "the program interpreter, which is loaded by its path");
	if (!name || is_taken(set, name))
		return skip(ctx, "another file of this name is in the folder");
	job->prof = ovm_profile_new();
	ovm_profile_merge(job->prof, set->prof);
	snprintf(job->hash, sizeof(job->hash), "%s", set->hash);
	err = ovm_rewrite_move_profile(ctx, job);
	job->module = err ? NULL : ovm_profile_find(job->prof, job->image->id);
	if (err || !job->module)
		return err ? err : skip(ctx, "no samples");
	job->force = ovm_option_given(set->opts, OVM_OPT_FORCE);
	job->debug = ovm_option_given(set->opts, OVM_OPT_DEBUG);
	job->engine_opts = set->engine_opts;
	file->name = ovm_strdup(name);
	char *out = ovm_asprintf("%s/%s", set->dir, name);
	job->out = out;
	err = ovm_decoder_open(ctx, &job->dec);
	if (!err)
		err = ovm_rewrite_write(ctx, job);
	if (!err) {
		char text[256];
		say(out, ovm_rewrite_describe(job, text, sizeof(text)));
		if (!ovm_elf_soname(job->image) && !is_program(job->image))
			say(out, "has no DT_SONAME: put it where the program loads it from");
	} else {
		free(file->name);
		file->name = NULL;
	}
	free(out);
	return err;
}

/* Failures of the place to write to, not of the file. */
static bool is_fatal(int err)
{
	return err == OVM_E_USAGE || err == OVM_E_NOMEM || err == OVM_E_INTERNAL;
}

static int use_file(struct ovm_ctx *ctx, struct set *set, struct file *file)
{
	struct ovm_rewrite job = {.start = ovm_now_s()};
	struct ovm_ctx own; /* refusals are counted a file */
	ovm_ctx_init(&own);
	own.quiet = ctx->quiet;
	own.verbose = ctx->verbose;
	int err = rewrite_file(&own, set, file, &job);
	ovm_rewrite_fini(&job);
	set->n_written += !err;
	if (is_fatal(err))
		return ovm_fail(ctx, (enum ovm_err)err, "%s", own.msg);
	if (err) {
		size_t len = strlen(file->module->path); /* some messages begin with it */
		bool named = !strncmp(own.msg, file->module->path, len) && own.msg[len] == ':';
		say(file->module->path, named ? own.msg + len + 2 : own.msg);
	}
	return 0;
}

/* --- programs
 * -------------------------------------------------------------------------------------------- */

/* The folders of a search path of @image with $ORIGIN in it, $ORIGIN replaced by the folder of
 * @path. */
static void add_search(struct set *set, const struct ovm_image *image, const char *path)
{
	const char *list = ovm_elf_search_path(image);
	char *copy = list ? ovm_strdup(list) : NULL, *rest = copy, *one;
	while (rest && (one = strsep(&rest, ":"))) {
		const char *tail = !strncmp(one, "$ORIGIN", 7)	   ? one + 7
				   : !strncmp(one, "${ORIGIN}", 9) ? one + 9
								   : NULL;
		if (!tail)
			continue;
		char *more = ovm_asprintf("%s:%.*s%s", set->search ? set->search : "",
					  (int)(base_name(path) - path - 1), path, tail);
		free(set->search);
		set->search = more;
	}
	free(copy);
}

/* Programs among the hot files, before anything is written: what their interpreters are. */
static void find_programs(struct set *set)
{
	for (uint32_t i = 0; i < set->files.n; i++) {
		const char *path = set->files.v[i].module->path;
		struct ovm_image *image;
		struct ovm_ctx own;
		ovm_ctx_init(&own);
		if (ovm_image_open(&own, path, &image))
			continue;
		const char *interp = ovm_elf_interp(image);
		if (is_program(image)) {
			ovm_vec_push(&set->programs, ovm_strdup(path));
			ovm_vec_push(&set->interps, ovm_strdup(interp ? interp : ""));
			add_search(set, image, path);
		}
		ovm_image_close(image);
	}
}

static void print_word(const char *word)
{
	if (word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
			      "/._-+:=@%")]) {
		putchar('\'');
		for (; *word; word++) {
			if (*word == '\'')
				fputs("'\\'", stdout);
			putchar(*word);
		}
		putchar('\'');
	} else {
		fputs(word, stdout);
	}
}

static void print_command(const struct set *set)
{
	char *dir = realpath(set->dir, NULL);
	char *search = ovm_asprintf("%s%s", dir ? dir : set->dir, set->search ? set->search : "");
	for (uint32_t i = 0; i < set->programs.n; i++) {
		const char *path = set->programs.v[i];
		bool written = is_taken(set, base_name(path));
		char *program = written
				    ? ovm_asprintf("%s/%s", dir ? dir : set->dir, base_name(path))
				    : ovm_strdup(path);
		fputs("LD_LIBRARY_PATH=", stdout);
		print_word(search);
		putchar(' ');
		print_word(program);
		putchar('\n');
		free(program);
	}
	if (!set->programs.n) {
		fputs("LD_LIBRARY_PATH=", stdout);
		print_word(search);
		puts(" PROGRAM");
	}
	free(search);
	free(dir);
}

/* --- the command
 * -------------------------------------------------------------------------------------------- */

static int check_words(struct ovm_ctx *ctx, const struct ovm_options *opts, struct set *set)
{
	set->dir = opts->value[OVM_OPT_DIR];
	if (!set->dir || !*set->dir)
		return ovm_fail(ctx, OVM_E_USAGE, "rewrite: --all needs a folder: -d DIR");
	if (!opts->profiles.n)
		return ovm_fail(ctx, OVM_E_USAGE,
				"rewrite: no profile: -p PROF, made with optvm record");
	if (ovm_option_given(opts, OVM_OPT_OUTPUT) || ovm_option_given(opts, OVM_OPT_UNDO) ||
	    ovm_option_given(opts, OVM_OPT_UNIFORM))
		return ovm_fail(ctx, OVM_E_USAGE,
				"rewrite: --all goes with none of -o, --undo, --uniform");
	return ovm_inputs_engine(ctx, opts, &set->engine_opts);
}

/* Every -p PROF, and all words. */
static int load(struct ovm_ctx *ctx, const struct ovm_options *opts, struct set *set)
{
	OVM_VEC(const char *) paths = {0};
	for (uint32_t i = 0; i < opts->profiles.n; i++)
		ovm_vec_push(&paths, opts->profiles.v[i]);
	for (int i = 0; i < opts->n_words; i++)
		ovm_vec_push(&paths, opts->words[i]);
	int err = ovm_inputs_merge(ctx, paths.v, paths.n, &set->prof);
	ovm_vec_free(&paths);
	if (err)
		return err;
	ovm_rewrite_hash(set->prof, set->hash, sizeof(set->hash));
	list_files(set);
	if (!set->files.n)
		return ovm_fail(ctx, OVM_E_FORMAT,
				"the profile is empty: it holds no samples of any file");
	return 0;
}

static int write_all(struct ovm_ctx *ctx, struct set *set)
{
	if (mkdir(set->dir, 0777) && errno != EEXIST)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "cannot make the folder %s", set->dir);
	find_programs(set);
	for (uint32_t i = 0; i < set->files.n; i++) {
		int err = use_file(ctx, set, &set->files.v[i]);
		if (err)
			return err;
		fflush(stdout);
	}
	if (!set->n_written)
		return ovm_fail(ctx, OVM_E_MISMATCH,
				"rewrite: no file of the profile was written to %s", set->dir);
	print_command(set);
	return 0;
}

int ovm_rewrite_all(struct ovm_ctx *ctx, const struct ovm_options *opts)
{
	struct set set = {.opts = opts};
	int err = check_words(ctx, opts, &set);
	if (!err)
		err = load(ctx, opts, &set);
	if (!err)
		err = write_all(ctx, &set);
	for (uint32_t i = 0; i < set.files.n; i++)
		free(set.files.v[i].name);
	for (uint32_t i = 0; i < set.programs.n; i++) {
		free(set.programs.v[i]);
		free(set.interps.v[i]);
	}
	ovm_vec_free(&set.files);
	ovm_vec_free(&set.programs);
	ovm_vec_free(&set.interps);
	ovm_profile_free(set.prof);
	free(set.search);
	return err;
}
