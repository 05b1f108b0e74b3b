/* One document a process, and one file a generation.
 *
 * Generations are written before anything of them is in the process, and the document says what is
 * about to be done before it is done; which of the two it was when the tool died is read from the
 * process's memory (adopt.h). What cannot be seen there is the map from copies to originals, which
 * is why there are files at all.
 *
 * A child that is forked has what its parent had, and no files: it starts from its parent's.
 */
#define OVM_LOG_DOMAIN "state"
#include "runtime/state.h"
#include "base/log.h"
#include "profiler/elfid.h"
#include "runtime/procstat.h"
#include "runtime/tunables.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef OPTVM_VERSION
#define OPTVM_VERSION "0.1.0"
#endif

enum { MAX_ANCESTORS = 16 };

/* --- files
 * ---------------------------------------------------------------------------------------------------
 */

static void base_name(const struct ovm_state *s, const char *suffix, char name[OVM_STATE_NAME])
{
	snprintf(name, OVM_STATE_NAME, "%d-%llu%s", (int)s->pid, s->start, suffix);
}

static void gen_name(const struct ovm_state *s, uint32_t number, char name[OVM_STATE_NAME])
{
	char suffix[24];
	snprintf(suffix, sizeof(suffix), ".%u.gen", number);
	base_name(s, suffix, name);
}

static int read_document(struct ovm_ctx *ctx, struct ovm_state *s)
{
	char name[OVM_STATE_NAME];
	struct ovm_buf text = {0};
	base_name(s, ".json", name);
	int rc = ovm_statedir_read(ctx, &s->dir, name, &text);
	json_t *json =
	    rc ? NULL : json_loadb((const char *)text.v, text.n, JSON_REJECT_DUPLICATES, NULL);
	if (rc == 0 && (!json || !ovm_state_from_json(json, s)))
		rc = ovm_fail(ctx, OVM_E_FORMAT,
			      "state file %s: damaged, or of another version of optvm", name);
	json_decref(json);
	ovm_buf_free(&text);
	return rc;
}

static int write_document(struct ovm_ctx *ctx, struct ovm_state *s)
{
	char name[OVM_STATE_NAME];
	base_name(s, ".json", name);
	json_t *json = ovm_state_to_json(s);
	char *text = json_dumps(json, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
	int rc = text ? ovm_statedir_write(ctx, &s->dir, name, text, strlen(text))
		      : ovm_fail(ctx, OVM_E_INTERNAL, "state cannot be written as JSON");
	free(text);
	json_decref(json);
	return rc;
}

/* Whose file is it? What stands behind the point; NULL: not one of ours. */
static const char *parse_name(const char *name, pid_t *pid, unsigned long long *start)
{
	int n = 0;
	return sscanf(name, "%d-%llu.%n", pid, start, &n) == 2 && n && *pid > 0 ? name + n : NULL;
}

static void remove_files(const struct ovm_state *s)
{
	pid_t pid;
	unsigned long long start;
	DIR *dir = ovm_statedir_list(&s->dir);
	for (struct dirent *e; dir && (e = readdir(dir));)
		if (parse_name(e->d_name, &pid, &start) && pid == s->pid && start == s->start)
			unlinkat(s->dir.fd, e->d_name, 0);
	if (dir)
		closedir(dir);
}

/* Remove the files of processes that are gone. */
static void sweep(const struct ovm_statedir *folder)
{
	pid_t pid;
	unsigned long long start;
	DIR *dir = ovm_statedir_list(folder);
	for (struct dirent *e; dir && (e = readdir(dir));)
		if (parse_name(e->d_name, &pid, &start) && ovm_proc_start(pid) != start)
			unlinkat(folder->fd, e->d_name, 0);
	if (dir)
		closedir(dir);
}

/* --- the lock
 * -------------------------------------------------------------------------------------------------
 */

static pid_t lock_holder(const struct ovm_state *s)
{
	char name[OVM_STATE_NAME];
	base_name(s, ".lock", name);
	return ovm_statedir_holder(&s->dir, name);
}

static int lock(struct ovm_ctx *ctx, struct ovm_state *s)
{
	char name[OVM_STATE_NAME];
	base_name(s, ".lock", name);
	for (unsigned i = 0;; i++) {
		int rc = ovm_statedir_lock(ctx, &s->dir, name, &s->lock_fd);
		if (rc != OVM_REFUSED)
			return rc;
		if (i == OVM_RT_LOCK_TRIES)
			return ovm_fail(ctx, OVM_E_TARGET,
					"another optvm (process %d) is at work on process %d",
					(int)lock_holder(s), (int)s->pid);
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
}

/* --- opening
 * -------------------------------------------------------------------------------------------------
 */

static struct ovm_state *new_state(pid_t pid, unsigned long long start)
{
	struct ovm_state *s = ovm_alloc(sizeof(*s));
	*s = (struct ovm_state){
	    .pid = pid, .start = start, .dir = {.fd = -1}, .lock_fd = -1, .is_done = true};
	return s;
}

static bool has_document(const struct ovm_state *s)
{
	char name[OVM_STATE_NAME];
	base_name(s, ".json", name);
	return ovm_statedir_has(&s->dir, name);
}

/* Open the folder that has state of the process. */
static bool find_folder(const ovm_statedir_paths *list, uid_t owner, struct ovm_state *s)
{
	for (uint32_t i = 0; i < list->n; i++) {
		if (!ovm_statedir_open(list->v[i], owner, &s->dir))
			continue;
		if (has_document(s))
			return true;
		ovm_statedir_close(&s->dir);
	}
	return false;
}

static uid_t owner_of(pid_t pid)
{
	char name[32];
	struct stat st;
	snprintf(name, sizeof(name), "/proc/%d", (int)pid);
	return stat(name, &st) == 0 ? st.st_uid : geteuid();
}

static char *program_of(pid_t pid)
{
	char name[32], path[PATH_MAX];
	snprintf(name, sizeof(name), "/proc/%d/exe", (int)pid);
	ssize_t n = readlink(name, path, sizeof(path));
	return ovm_strndup(path, n > 0 ? (size_t)n : 0);
}

/* --- what a child has from its parent
 * ---------------------------------------------------------------------
 */

static void take_over(struct ovm_state *s, struct ovm_state *parent)
{
	char from[OVM_STATE_NAME], to[OVM_STATE_NAME];
	struct ovm_ctx own;
	ovm_ctx_init(&own);
	for (uint32_t i = 0; i < parent->v.n; i++) {
		gen_name(parent, parent->v.v[i].number, from);
		gen_name(s, parent->v.v[i].number, to);
		if (linkat(s->dir.fd, from, s->dir.fd, to, 0) && errno != EEXIST)
			return;
	}
	struct ovm_state copy = *parent;
	copy.dir = s->dir;
	copy.pid = s->pid;
	copy.start = s->start;
	if (write_document(&own, &copy))
		ovm_log(OVM_LOG_WARN, "%s", own.msg);
}

/* The nearest ancestor of @s's process that was changed, NULL if none was. */
static struct ovm_state *find_ancestor(const ovm_statedir_paths *list, uid_t owner,
				       const struct ovm_state *s)
{
	struct ovm_procstat stat;
	struct ovm_ctx own;
	ovm_ctx_init(&own);
	pid_t pid = s->pid;
	for (unsigned i = 0; i < MAX_ANCESTORS && ovm_procstat_read(pid, &stat); i++) {
		pid = stat.parent;
		struct ovm_state *a = new_state(pid, ovm_proc_start(pid));
		if (a->start && find_folder(list, owner, a) && read_document(&own, a) == 0)
			return a;
		ovm_state_close(a);
	}
	return NULL;
}

/* It may have what an ancestor had when it was forked. Whether it has is seen in its memory; here
 * the ancestor's files become its own. */
static bool inherit(struct ovm_ctx *ctx, const ovm_statedir_paths *list, struct ovm_state *s,
		    int *rc)
{
	struct ovm_state *ancestor = find_ancestor(list, owner_of(s->pid), s);
	if (!ancestor)
		return false;
	s->dir = ancestor->dir;
	ancestor->dir.fd = -1;
	*rc = lock(ctx, s);
	if (*rc == 0 && !has_document(s))
		take_over(s, ancestor);
	ovm_state_close(ancestor);
	return true;
}

/* The folder, and the lock in it. OVM_REFUSED: @make is false and there is nothing. */
static int open_locked(struct ovm_ctx *ctx, struct ovm_state *s, bool make)
{
	uid_t owner = owner_of(s->pid);
	ovm_statedir_paths folders = {0};
	int rc = 0;
	ovm_statedir_paths_for(owner, &folders);
	if (find_folder(&folders, owner, s)) {
		rc = lock(ctx, s);
	} else if (inherit(ctx, &folders, s, &rc)) {
		/* locked */
	} else if (make) {
		rc = ovm_statedir_make(ctx, &folders, &s->dir);
		if (rc == 0)
			rc = lock(ctx, s);
		if (rc == 0)
			sweep(&s->dir);
	} else {
		rc = OVM_REFUSED;
	}
	ovm_statedir_paths_fini(&folders);
	if (rc == 0 && !make && !has_document(s))
		rc = OVM_REFUSED;
	if (rc == OVM_REFUSED)
		ovm_fail(ctx, OVM_OK, "process %d was not changed by optvm", (int)s->pid);
	return rc;
}

int ovm_state_open(struct ovm_ctx *ctx, pid_t pid, const char *by, struct ovm_state **out)
{
	unsigned long long start = ovm_proc_start(pid);
	if (!start)
		return ovm_fail(ctx, OVM_E_GONE, "there is no process %d", (int)pid);
	struct ovm_state *s = new_state(pid, start);
	int rc = open_locked(ctx, s, by != NULL);
	if (rc == 0 && has_document(s))
		rc = read_document(ctx, s);
	if (rc) {
		ovm_state_close(s);
		return rc;
	}
	if (by) {
		free(s->program);
		free(s->version);
		free(s->by);
		s->program = program_of(pid);
		s->version = ovm_strdup(OPTVM_VERSION);
		s->by = ovm_strdup(by);
	}
	*out = s;
	return 0;
}

static void free_generation(struct ovm_state_generation *gen)
{
	for (uint32_t i = 0; i < gen->modules.n; i++)
		free(gen->modules.v[i].path);
	ovm_vec_free(&gen->modules);
}

void ovm_state_unlock(struct ovm_state *s)
{
	char name[OVM_STATE_NAME];
	if (s->lock_fd < 0)
		return;
	base_name(s, ".lock", name);
	if (!has_document(s))
		unlinkat(s->dir.fd, name, 0);
	close(s->lock_fd);
	s->lock_fd = -1;
}

void ovm_state_close(struct ovm_state *s)
{
	if (!s)
		return;
	ovm_state_unlock(s);
	ovm_statedir_close(&s->dir);
	for (uint32_t i = 0; i < s->v.n; i++)
		free_generation(&s->v.v[i]);
	ovm_vec_free(&s->v);
	free(s->program);
	free(s->version);
	free(s->by);
	free(s);
}

/* --- generations
 * ---------------------------------------------------------------------------------------------
 */

static double now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	return (double)ts.tv_sec + (double)(ts.tv_nsec / 1000000) / 1e3;
}

/* The build-id of the file at @path, "" if it cannot be read. */
static void read_id(const char *path, char id[48])
{
	struct ovm_ctx own;
	struct ovm_elfid elf = {0};
	ovm_ctx_init(&own);
	id[0] = '\0';
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && ovm_elfid_read(&own, fd, path, &elf) == 0)
		memcpy(id, elf.id, sizeof(elf.id));
	ovm_elfid_fini(&elf);
	if (fd >= 0)
		close(fd);
}

static void describe(const struct ovm_built_module *m, const char id[48],
		     struct ovm_state_module *out)
{
	const struct ovm_overlay *o = &m->overlay;
	*out = (struct ovm_state_module){
	    .path = ovm_strdup(m->module->path),
	    .image = m->module->lo,
	    .overlay = m->at,
	    .bias = m->module->bias,
	    .overlay_bytes = o->size,
	    .n_regions = o->n_regions,
	    .n_patches = o->patches.n,
	};
	if (o->n_counters)
		out->counters = ovm_va_to_rta(o->counters, m->module->bias);
	memcpy(out->id, id, sizeof(out->id));
}

int ovm_state_add(struct ovm_ctx *ctx, struct ovm_state *s, const struct ovm_built *built,
		  const struct ovm_countmem *counters)
{
	char name[OVM_STATE_NAME], ids[OVM_RT_MAX_MODULES][48];
	struct ovm_buf bytes = {0};
	struct ovm_state_generation gen = {.loaded = now(), .is_counting = built->is_passing};
	bool has_counters = false;
	OVM_ASSERT(s->lock_fd >= 0 && built->modules.n <= OVM_RT_MAX_MODULES);
	gen.number = s->v.n ? s->v.v[s->v.n - 1].number + 1 : 0;
	for (uint32_t i = 0; i < built->modules.n; i++) {
		struct ovm_state_module m;
		read_id(built->modules.v[i].module->path, ids[i]);
		describe(&built->modules.v[i], ids[i], &m);
		has_counters |= m.counters.v != 0;
		ovm_vec_push(&gen.modules, m);
	}
	gen_name(s, gen.number, name);
	int rc = ovm_genfile_encode(ctx, built, ids, has_counters ? counters : NULL, &bytes);
	if (rc == 0)
		rc = ovm_statedir_write(ctx, &s->dir, name, bytes.v, bytes.n);
	ovm_log(OVM_LOG_INFO, "%s: %zu bytes", name, bytes.n);
	ovm_buf_free(&bytes);
	ovm_vec_push(&s->v, gen);
	if (rc == 0)
		rc = write_document(ctx, s);
	if (rc)
		ovm_state_drop(s, s->v.n - 1);
	return rc;
}

void ovm_state_drop(struct ovm_state *s, uint32_t idx)
{
	char name[OVM_STATE_NAME];
	uint32_t number = s->v.v[idx].number;
	struct ovm_ctx own;
	ovm_ctx_init(&own);
	free_generation(&s->v.v[idx]);
	memmove(&s->v.v[idx], &s->v.v[idx + 1], (s->v.n - idx - 1) * sizeof(s->v.v[0]));
	s->v.n--;
	if (!s->v.n) { /* as if we had never been there; the lock is kept */
		base_name(s, ".json", name);
		unlinkat(s->dir.fd, name, 0);
	} else if (write_document(&own, s)) {
		ovm_log(OVM_LOG_WARN, "%s", own.msg);
		return; /* the old document still names the file */
	}
	gen_name(s, number, name);
	unlinkat(s->dir.fd, name, 0);
}

int ovm_state_load(struct ovm_ctx *ctx, const struct ovm_state *s, uint32_t idx,
		   struct ovm_genfile *out)
{
	char name[OVM_STATE_NAME];
	struct ovm_buf bytes = {0};
	gen_name(s, s->v.v[idx].number, name);
	int rc = ovm_statedir_read(ctx, &s->dir, name, &bytes);
	if (rc == 0)
		rc = ovm_genfile_decode(ctx, name, bytes.v, bytes.n, out);
	ovm_buf_free(&bytes);
	return rc;
}

static void try_write(struct ovm_state *s)
{
	struct ovm_ctx own;
	ovm_ctx_init(&own);
	if (s->v.n && write_document(&own, s))
		ovm_log(OVM_LOG_WARN, "%s", own.msg);
}

void ovm_state_plan(struct ovm_state *s, const bool *want)
{
	for (uint32_t i = 0; i < s->v.n; i++)
		s->v.v[i].is_wanted = want[i];
	s->is_done = false;
	try_write(s);
}

void ovm_state_done(struct ovm_state *s, bool has_changed, double pause_ms)
{
	for (uint32_t i = 0; i < s->v.n; i++) {
		struct ovm_state_generation *gen = &s->v.v[i];
		gen->is_armed = has_changed ? gen->is_wanted : gen->is_armed;
		gen->is_wanted = gen->is_armed;
	}
	s->is_done = true;
	if (has_changed) {
		s->since = now();
		s->pause_ms = pause_ms;
		s->gain = 0;
	}
	try_write(s);
}

void ovm_state_measured(struct ovm_state *s, double ratio)
{
	s->gain = ratio;
	try_write(s);
}

void ovm_state_forget(struct ovm_state *s)
{
	remove_files(s);
	for (uint32_t i = 0; i < s->v.n; i++)
		free_generation(&s->v.v[i]);
	s->v.n = 0;
}

int ovm_state_remove(struct ovm_ctx *ctx, pid_t pid)
{
	unsigned long long start = ovm_proc_start(pid);
	if (!start)
		return ovm_fail(ctx, OVM_E_GONE, "there is no process %d", (int)pid);
	struct ovm_state *s = new_state(pid, start);
	int rc = open_locked(ctx, s, false);
	if (rc == 0)
		remove_files(s);
	ovm_state_close(s);
	return rc;
}

/* --- all of them
 * ---------------------------------------------------------------------------------------------
 */

/* Is anything of it still in the process? After an exec nothing is. If we may not look, say yes. */
static bool is_there(const struct ovm_state *s)
{
	struct ovm_ctx own;
	struct ovm_livemap map = {0};
	ovm_ctx_init(&own);
	if (ovm_livemap_read(&own, s->pid, &map) || !map.ranges.n)
		return own.err != OVM_E_GONE;
	bool found = false;
	for (uint32_t i = 0; i < s->v.n; i++)
		for (uint32_t k = 0; k < s->v.v[i].modules.n; k++) {
			const struct ovm_state_module *m = &s->v.v[i].modules.v[k];
			found |= ovm_livemap_covers(&map, m->overlay,
						    ovm_rta_of(m->overlay.v + m->overlay_bytes),
						    OVM_PROT_R | OVM_PROT_X, 0);
		}
	ovm_livemap_fini(&map);
	return found;
}

/* One document of the folder. */
static void list_one(const char *name, pid_t only, const struct ovm_statedir *folder,
		     ovm_states *out)
{
	struct ovm_ctx own;
	pid_t pid;
	unsigned long long start;
	const char *suffix = parse_name(name, &pid, &start);
	if (!suffix || strcmp(suffix, "json") != 0 || (only && pid != only))
		return;
	for (uint32_t i = 0; i < out->n; i++)
		if (out->v[i]->pid == pid && out->v[i]->start == start)
			return; /* XDG_RUNTIME_DIR is often /run/user/UID */
	ovm_ctx_init(&own);
	struct ovm_state *s = new_state(pid, start);
	s->dir = (struct ovm_statedir){fcntl(folder->fd, F_DUPFD_CLOEXEC, 0), folder->owner};
	s->busy = lock_holder(s);
	bool is_same_user = folder->owner == geteuid() || owner_of(pid) == folder->owner;
	int rc = read_document(&own, s);
	if (rc == 0 && !s->busy && !is_there(s)) {
		remove_files(s);
		ovm_state_close(s);
	} else if (rc || !is_same_user) {
		ovm_log(OVM_LOG_WARN, "%s", rc ? own.msg : "state of another user's process");
		ovm_state_close(s);
	} else {
		ovm_vec_push(out, s);
	}
}

static void list_folder(const char *path, pid_t only, uid_t user, ovm_states *out)
{
	struct ovm_statedir folder;
	if (!ovm_statedir_open(path, user, &folder))
		return;
	sweep(&folder);
	DIR *dir = ovm_statedir_list(&folder);
	for (struct dirent *e; dir && (e = readdir(dir));)
		list_one(e->d_name, only, &folder, out);
	if (dir)
		closedir(dir);
	ovm_statedir_close(&folder);
}

/* Root sees everybody's. */
static void list_users(pid_t only, ovm_states *out)
{
	DIR *dir = geteuid() == 0 ? opendir("/run/user") : NULL;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		ovm_statedir_paths folders = {0};
		unsigned long uid = strtoul(e->d_name, NULL, 10);
		if (uid)
			ovm_statedir_paths_of((uid_t)uid, &folders);
		for (uint32_t i = 0; i < folders.n; i++)
			list_folder(folders.v[i], only, (uid_t)uid, out);
		ovm_statedir_paths_fini(&folders);
	}
	if (dir)
		closedir(dir);
}

static int by_pid(const void *a, const void *b)
{
	const struct ovm_state *const *x = a, *const *y = b;
	return ((*x)->pid > (*y)->pid) - ((*x)->pid < (*y)->pid);
}

void ovm_states_list(pid_t pid, ovm_states *out)
{
	ovm_statedir_paths folders = {0};
	ovm_statedir_paths_for(geteuid(), &folders);
	for (uint32_t i = 0; i < folders.n; i++)
		list_folder(folders.v[i], pid, geteuid(), out);
	list_users(pid, out);
	ovm_statedir_paths_fini(&folders);
	if (out->n)
		qsort(out->v, out->n, sizeof(out->v[0]), by_pid);
}

void ovm_states_fini(ovm_states *states)
{
	for (uint32_t i = 0; i < states->n; i++)
		ovm_state_close(states->v[i]);
	ovm_vec_free(states);
}
