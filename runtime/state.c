/* Where state lives, who may touch it, and how it is written.
 *
 * The folder must be ours alone (0700, no link): what stands in it is written into a process's
 * code. Root also works with the folder of the process's owner, but of nobody else, so that no user
 * can have anything done to another one's process. All files are opened relative to the folder's
 * descriptor.
 *
 * A file is written under another name and renamed: whoever reads it, at whatever moment the writer
 * is killed, finds a whole one. Generations are written before anything of them is in the process,
 * and the document says what is about to be done before it is done; which of the two it was when
 * the tool died is read from the process's memory (adopt.h). Nothing is synced to disk: processes
 * do not outlive the power either.
 *
 * The lock is a POSIX one: it ends with its process, and is not inherited by the builder's fork.
 */
#define OVM_LOG_DOMAIN "state"
#include "runtime/state.h"
#include "base/fault.h"
#include "base/log.h"
#include "profiler/elfid.h"
#include "runtime/procstat.h"
#include "runtime/tunables.h"

#include <dirent.h>
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

enum { NAME_SIZE = 64, MAX_FILE = 512 << 20, MAX_ANCESTORS = 16 };

/* --- folders
 * -------------------------------------------------------------------------------------------------
 */

typedef OVM_VEC(char *) path_list;

static void add_user_folders(path_list *list, uid_t uid)
{
	ovm_vec_push(list, ovm_asprintf("/run/user/%u/optvm", (unsigned)uid));
	ovm_vec_push(list, ovm_asprintf("/tmp/optvm-%u", (unsigned)uid));
}

/* Where state can be: new state goes to the first that can be made. */
static void list_folders(path_list *list, uid_t owner)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	if (xdg && xdg[0] == '/')
		ovm_vec_push(list, ovm_asprintf("%s/optvm", xdg));
	if (geteuid() == 0)
		ovm_vec_push(list, ovm_strdup("/run/optvm"));
	add_user_folders(list, geteuid());
	if (geteuid() == 0 && owner != 0)
		add_user_folders(list, owner);
}

static void free_folders(path_list *list)
{
	for (uint32_t i = 0; i < list->n; i++)
		free(list->v[i]);
	ovm_vec_free(list);
}

/* Open it if it is @owner's or our own and nobody else's; -1 if not. */
static int open_folder(const char *path, uid_t owner, uid_t *is)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -1;
	bool ok = fstat(fd, &st) == 0 && (st.st_mode & 077) == 0 &&
		  (st.st_uid == geteuid() || (geteuid() == 0 && st.st_uid == owner));
	if (!ok) {
		ovm_log(OVM_LOG_WARN, "%s: not used: other users may write or own it", path);
		close(fd);
		return -1;
	}
	*is = st.st_uid;
	return fd;
}

static int make_folder(struct ovm_ctx *ctx, const path_list *list, uid_t *is)
{
	for (uint32_t i = 0; i < list->n; i++) {
		if (mkdir(list->v[i], 0700) && errno != EEXIST)
			continue;
		int fd = open_folder(list->v[i], geteuid(), is);
		if (fd >= 0)
			return fd;
	}
	return ovm_fail(ctx, OVM_E_IO,
			"no folder for what is remembered of a process: set XDG_RUNTIME_DIR to one "
			"that is yours");
}

/* --- files
 * ---------------------------------------------------------------------------------------------------
 */

static void base_name(const struct ovm_state *s, const char *suffix, char name[NAME_SIZE])
{
	snprintf(name, NAME_SIZE, "%d-%llu%s", (int)s->pid, s->start, suffix);
}

static void gen_name(const struct ovm_state *s, uint32_t number, char name[NAME_SIZE])
{
	char suffix[24];
	snprintf(suffix, sizeof(suffix), ".%u.gen", number);
	base_name(s, suffix, name);
}

static bool put(int fd, const void *from, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t got = write(fd, (const char *)from + done, n - done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		done += (size_t)got;
	}
	return true;
}

static int write_file(struct ovm_ctx *ctx, const struct ovm_state *s, const char *name,
		      const void *bytes, size_t n)
{
	char temp[NAME_SIZE + 8];
	snprintf(temp, sizeof(temp), "%s.new", name);
	unlinkat(s->dir_fd, temp, 0); /* of one that was killed; we hold the lock */
	int fd = OVM_FAULT_FAILS(STATE_WRITE)
		     ? -1
		     : openat(s->dir_fd, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			      0600);
	if (fd < 0)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "state file %s", name);
	bool ok = (s->owner == geteuid() || fchown(fd, s->owner, (gid_t)-1) == 0) &&
		  put(fd, bytes, n) && !OVM_FAULT_FAILS(STATE_RENAME) &&
		  renameat(s->dir_fd, temp, s->dir_fd, name) == 0;
	int err = errno;
	close(fd);
	OVM_FAULT(STATE_WRITTEN);
	if (ok)
		return 0;
	unlinkat(s->dir_fd, temp, 0);
	return ovm_fail_errno(ctx, OVM_E_IO, err, "state file %s", name);
}

static int read_file(struct ovm_ctx *ctx, const struct ovm_state *s, const char *name,
		     struct ovm_buf *out)
{
	struct stat st;
	int rc = 0, fd = openat(s->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "state file %s", name);
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_uid != s->owner ||
	    st.st_size > MAX_FILE)
		rc = ovm_fail(ctx, OVM_E_FORMAT, "state file %s: damaged", name);
	for (ssize_t got = 1; rc == 0 && got > 0;) {
		uint8_t piece[65536];
		got = read(fd, piece, sizeof(piece));
		if (got < 0)
			rc = ovm_fail_errno(ctx, OVM_E_IO, errno, "state file %s", name);
		else if (out->n + (size_t)got > MAX_FILE)
			rc = ovm_fail(ctx, OVM_E_FORMAT, "state file %s: damaged", name);
		else
			ovm_buf_put(out, piece, (size_t)got);
	}
	close(fd);
	return rc;
}

static int read_document(struct ovm_ctx *ctx, struct ovm_state *s)
{
	char name[NAME_SIZE];
	struct ovm_buf text = {0};
	base_name(s, ".json", name);
	int rc = read_file(ctx, s, name, &text);
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
	char name[NAME_SIZE];
	base_name(s, ".json", name);
	json_t *json = ovm_state_to_json(s);
	char *text = json_dumps(json, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
	int rc = text ? write_file(ctx, s, name, text, strlen(text))
		      : ovm_fail(ctx, OVM_E_INTERNAL, "state cannot be written as JSON");
	free(text);
	json_decref(json);
	return rc;
}

/* Remove what begins with "PID-START." */
static void remove_files(const struct ovm_state *s)
{
	char prefix[NAME_SIZE];
	base_name(s, ".", prefix);
	int fd = openat(s->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	for (struct dirent *e; dir && (e = readdir(dir));)
		if (!strncmp(e->d_name, prefix, strlen(prefix)))
			unlinkat(s->dir_fd, e->d_name, 0);
	if (dir)
		closedir(dir);
}

/* --- the lock
 * -------------------------------------------------------------------------------------------------
 */

static bool try_lock(struct ovm_state *s)
{
	char name[NAME_SIZE];
	struct stat mine, named;
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	base_name(s, ".lock", name);
	int fd = openat(s->dir_fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return false;
	if (fcntl(fd, F_SETLK, &lock) == 0 && fstat(fd, &mine) == 0 &&
	    fstatat(s->dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	    mine.st_ino == named.st_ino) { /* else: removed by the one that held it */
		s->lock_fd = fd;
		return true;
	}
	close(fd);
	return false;
}

/* Who holds it; 0 nobody. */
static pid_t lock_holder(const struct ovm_state *s)
{
	char name[NAME_SIZE];
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	base_name(s, ".lock", name);
	int fd = openat(s->dir_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return 0;
	bool asked = fcntl(fd, F_GETLK, &lock) == 0;
	close(fd);
	return asked && lock.l_type != F_UNLCK ? lock.l_pid : 0;
}

static int lock(struct ovm_ctx *ctx, struct ovm_state *s)
{
	for (unsigned i = 0; !try_lock(s); i++) {
		if (i == OVM_RT_LOCK_TRIES)
			return ovm_fail(ctx, OVM_E_TARGET,
					"another optvm (process %d) is at work on process %d",
					(int)lock_holder(s), (int)s->pid);
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	return 0;
}

/* --- opening
 * -------------------------------------------------------------------------------------------------
 */

static struct ovm_state *new_state(pid_t pid, unsigned long long start)
{
	struct ovm_state *s = ovm_alloc(sizeof(*s));
	*s = (struct ovm_state){
	    .pid = pid, .start = start, .dir_fd = -1, .lock_fd = -1, .is_done = true};
	return s;
}

static bool has_document(const struct ovm_state *s)
{
	char name[NAME_SIZE];
	struct stat st;
	base_name(s, ".json", name);
	return fstatat(s->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Open the folder that has state of the process. */
static bool find_folder(const path_list *list, uid_t owner, struct ovm_state *s)
{
	for (uint32_t i = 0; i < list->n; i++) {
		s->dir_fd = open_folder(list->v[i], owner, &s->owner);
		if (s->dir_fd >= 0 && has_document(s))
			return true;
		if (s->dir_fd >= 0)
			close(s->dir_fd);
	}
	s->dir_fd = -1;
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
	char from[NAME_SIZE], to[NAME_SIZE];
	struct ovm_ctx own;
	ovm_ctx_init(&own);
	for (uint32_t i = 0; i < parent->v.n; i++) {
		gen_name(parent, parent->v.v[i].number, from);
		gen_name(s, parent->v.v[i].number, to);
		if (linkat(s->dir_fd, from, s->dir_fd, to, 0) && errno != EEXIST)
			return;
	}
	struct ovm_state copy = *parent;
	copy.pid = s->pid;
	copy.start = s->start;
	if (write_document(&own, &copy))
		ovm_log(OVM_LOG_WARN, "%s", own.msg);
}

/* The nearest ancestor of @s's process that was changed, NULL if none was. */
static struct ovm_state *find_ancestor(const path_list *list, uid_t owner,
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
static bool inherit(struct ovm_ctx *ctx, const path_list *list, struct ovm_state *s, int *rc)
{
	struct ovm_state *ancestor = find_ancestor(list, owner_of(s->pid), s);
	if (!ancestor)
		return false;
	s->dir_fd = fcntl(ancestor->dir_fd, F_DUPFD_CLOEXEC, 0);
	s->owner = ancestor->owner;
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
	path_list folders = {0};
	int rc = 0;
	list_folders(&folders, owner);
	if (find_folder(&folders, owner, s)) {
		rc = lock(ctx, s);
	} else if (inherit(ctx, &folders, s, &rc)) {
		/* locked */
	} else if (make) {
		s->dir_fd = make_folder(ctx, &folders, &s->owner);
		rc = s->dir_fd < 0 ? s->dir_fd : lock(ctx, s);
	} else {
		rc = OVM_REFUSED;
	}
	free_folders(&folders);
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
	char name[NAME_SIZE];
	if (s->lock_fd < 0)
		return;
	base_name(s, ".lock", name);
	if (!has_document(s))
		unlinkat(s->dir_fd, name, 0);
	close(s->lock_fd);
	s->lock_fd = -1;
}

void ovm_state_close(struct ovm_state *s)
{
	if (!s)
		return;
	ovm_state_unlock(s);
	if (s->dir_fd >= 0)
		close(s->dir_fd);
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
	char name[NAME_SIZE], ids[OVM_RT_MAX_MODULES][48];
	struct ovm_buf bytes = {0};
	struct ovm_state_generation gen = {.loaded = now()};
	OVM_ASSERT(s->lock_fd >= 0 && built->modules.n <= OVM_RT_MAX_MODULES);
	gen.number = s->v.n ? s->v.v[s->v.n - 1].number + 1 : 0;
	for (uint32_t i = 0; i < built->modules.n; i++) {
		struct ovm_state_module m;
		read_id(built->modules.v[i].module->path, ids[i]);
		describe(&built->modules.v[i], ids[i], &m);
		gen.is_counting |= m.counters.v != 0;
		ovm_vec_push(&gen.modules, m);
	}
	gen_name(s, gen.number, name);
	int rc = ovm_genfile_encode(ctx, built, ids, gen.is_counting ? counters : NULL, &bytes);
	if (rc == 0)
		rc = write_file(ctx, s, name, bytes.v, bytes.n);
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
	char name[NAME_SIZE];
	uint32_t number = s->v.v[idx].number;
	struct ovm_ctx own;
	ovm_ctx_init(&own);
	free_generation(&s->v.v[idx]);
	memmove(&s->v.v[idx], &s->v.v[idx + 1], (s->v.n - idx - 1) * sizeof(s->v.v[0]));
	s->v.n--;
	if (!s->v.n) { /* as if we had never been there; the lock is kept */
		base_name(s, ".json", name);
		unlinkat(s->dir_fd, name, 0);
	} else if (write_document(&own, s)) {
		ovm_log(OVM_LOG_WARN, "%s", own.msg);
		return; /* the old document still names the file */
	}
	gen_name(s, number, name);
	unlinkat(s->dir_fd, name, 0);
}

int ovm_state_load(struct ovm_ctx *ctx, const struct ovm_state *s, uint32_t idx,
		   struct ovm_genfile *out)
{
	char name[NAME_SIZE];
	struct ovm_buf bytes = {0};
	gen_name(s, s->v.v[idx].number, name);
	int rc = read_file(ctx, s, name, &bytes);
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
	}
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

static bool parse_name(const char *name, pid_t *pid, unsigned long long *start)
{
	int n = 0;
	return sscanf(name, "%d-%llu.json%n", pid, start, &n) == 2 && n && !name[n] && *pid > 0;
}

/* One document of the folder. */
static void list_one(const char *name, pid_t only, uid_t owner, int dir_fd, ovm_states *out)
{
	struct ovm_ctx own;
	pid_t pid;
	unsigned long long start;
	if (!parse_name(name, &pid, &start) || (only && pid != only))
		return;
	for (uint32_t i = 0; i < out->n; i++)
		if (out->v[i]->pid == pid && out->v[i]->start == start)
			return; /* XDG_RUNTIME_DIR is often /run/user/UID */
	ovm_ctx_init(&own);
	struct ovm_state *s = new_state(pid, start);
	s->dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
	s->owner = owner;
	s->busy = lock_holder(s);
	bool is_alive = ovm_proc_start(pid) == start;
	bool is_same_user = owner == geteuid() || (is_alive && owner_of(pid) == owner);
	int rc = read_document(&own, s);
	if (!is_alive || (rc == 0 && !s->busy && !is_there(s))) {
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
	uid_t owner;
	int fd = open_folder(path, user, &owner);
	if (fd < 0)
		return;
	int again = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	DIR *dir = fdopendir(again);
	for (struct dirent *e; dir && (e = readdir(dir));)
		list_one(e->d_name, only, owner, fd, out);
	if (dir)
		closedir(dir);
	close(fd);
}

/* Root sees everybody's. */
static void list_users(pid_t only, ovm_states *out)
{
	DIR *dir = geteuid() == 0 ? opendir("/run/user") : NULL;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		path_list folders = {0};
		unsigned long uid = strtoul(e->d_name, NULL, 10);
		if (uid)
			add_user_folders(&folders, (uid_t)uid);
		for (uint32_t i = 0; i < folders.n; i++)
			list_folder(folders.v[i], only, (uid_t)uid, out);
		free_folders(&folders);
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
	path_list folders = {0};
	list_folders(&folders, geteuid());
	for (uint32_t i = 0; i < folders.n; i++)
		list_folder(folders.v[i], pid, geteuid(), out);
	list_users(pid, out);
	free_folders(&folders);
	if (out->n)
		qsort(out->v, out->n, sizeof(out->v[0]), by_pid);
}

void ovm_states_fini(ovm_states *states)
{
	for (uint32_t i = 0; i < states->n; i++)
		ovm_state_close(states->v[i]);
	ovm_vec_free(states);
}
