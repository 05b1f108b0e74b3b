/* The folder must be ours alone (0700, no link): what stands in it is written into a process's
 * code. Root also works with the folder of the process's owner, but of nobody else, so that no user
 * can have anything done to another one's process. All files are opened relative to the folder's
 * descriptor, none through a link.
 *
 * A file is written under another name and renamed: whoever reads it, at whatever moment the writer
 * is killed, finds a whole one. Nothing is synced to disk: processes do not outlive the power
 * either.
 *
 * The lock is a POSIX one: it ends with its process, and is not inherited by the builder's fork.
 */
#define OVM_LOG_DOMAIN "state"
#include "runtime/statedir.h"
#include "base/fault.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILE = 512 << 20 };

/* --- folders
 * -------------------------------------------------------------------------------------------------
 */

void ovm_statedir_paths_of(uid_t uid, ovm_statedir_paths *list)
{
	ovm_vec_push(list, ovm_asprintf("/run/user/%u/optvm", (unsigned)uid));
	ovm_vec_push(list, ovm_asprintf("/tmp/optvm-%u", (unsigned)uid));
}

void ovm_statedir_paths_for(uid_t owner, ovm_statedir_paths *list)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	if (xdg && xdg[0] == '/')
		ovm_vec_push(list, ovm_asprintf("%s/optvm", xdg));
	if (geteuid() == 0)
		ovm_vec_push(list, ovm_strdup("/run/optvm"));
	ovm_statedir_paths_of(geteuid(), list);
	if (geteuid() == 0 && owner != 0)
		ovm_statedir_paths_of(owner, list);
}

void ovm_statedir_paths_fini(ovm_statedir_paths *list)
{
	for (uint32_t i = 0; i < list->n; i++)
		free(list->v[i]);
	ovm_vec_free(list);
}

bool ovm_statedir_open(const char *path, uid_t owner, struct ovm_statedir *out)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool ok = fstat(fd, &st) == 0 && (st.st_mode & 077) == 0 &&
		  (st.st_uid == geteuid() || (geteuid() == 0 && st.st_uid == owner));
	if (ok) {
		*out = (struct ovm_statedir){fd, st.st_uid};
	} else {
		ovm_log(OVM_LOG_WARN, "%s: not used: other users may write or own it", path);
		close(fd);
	}
	return ok;
}

int ovm_statedir_make(struct ovm_ctx *ctx, const ovm_statedir_paths *list, struct ovm_statedir *out)
{
	for (uint32_t i = 0; i < list->n; i++) {
		if (mkdir(list->v[i], 0700) && errno != EEXIST)
			continue;
		if (ovm_statedir_open(list->v[i], geteuid(), out))
			return 0;
	}
	return ovm_fail(ctx, OVM_E_IO,
			"no folder for what is remembered of a process: set XDG_RUNTIME_DIR to one "
			"that is yours");
}

void ovm_statedir_close(struct ovm_statedir *dir)
{
	if (dir->fd >= 0)
		close(dir->fd);
	dir->fd = -1;
}

DIR *ovm_statedir_list(const struct ovm_statedir *dir)
{
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? NULL : fdopendir(fd);
}

bool ovm_statedir_has(const struct ovm_statedir *dir, const char *name)
{
	struct stat st;
	return fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* --- files
 * ---------------------------------------------------------------------------------------------------
 */

/* What root writes into a user's folder is the user's. */
static bool give_to_owner(const struct ovm_statedir *dir, int fd)
{
	return dir->owner == geteuid() || fchown(fd, dir->owner, (gid_t)-1) == 0;
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

int ovm_statedir_write(struct ovm_ctx *ctx, const struct ovm_statedir *dir, const char *name,
		       const void *bytes, size_t n)
{
	char temp[OVM_STATE_NAME + 8];
	snprintf(temp, sizeof(temp), "%s.new", name);
	unlinkat(dir->fd, temp, 0); /* of one that was killed; we hold the lock */
	int fd =
	    OVM_FAULT_FAILS(STATE_WRITE)
		? -1
		: openat(dir->fd, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "state file %s", name);
	bool ok = give_to_owner(dir, fd) && put(fd, bytes, n) && !OVM_FAULT_FAILS(STATE_RENAME) &&
		  renameat(dir->fd, temp, dir->fd, name) == 0;
	int err = errno;
	close(fd);
	OVM_FAULT(STATE_WRITTEN);
	if (ok)
		return 0;
	unlinkat(dir->fd, temp, 0);
	return ovm_fail_errno(ctx, OVM_E_IO, err, "state file %s", name);
}

int ovm_statedir_read(struct ovm_ctx *ctx, const struct ovm_statedir *dir, const char *name,
		      struct ovm_buf *out)
{
	struct stat st;
	int rc = 0, fd = openat(dir->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "state file %s", name);
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_uid != dir->owner ||
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

/* --- the lock
 * -------------------------------------------------------------------------------------------------
 */

int ovm_statedir_lock(struct ovm_ctx *ctx, const struct ovm_statedir *dir, const char *name,
		      int *out)
{
	struct stat mine, named;
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = openat(dir->fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || !give_to_owner(dir, fd)) {
		int err = errno;
		if (fd >= 0)
			close(fd);
		return ovm_fail_errno(ctx, OVM_E_IO, err, "state file %s", name);
	}
	if (fcntl(fd, F_SETLK, &lock) == 0 && fstat(fd, &mine) == 0 &&
	    fstatat(dir->fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	    mine.st_ino == named.st_ino) { /* else: removed by the one that held it */
		*out = fd;
		return 0;
	}
	close(fd);
	return OVM_REFUSED;
}

pid_t ovm_statedir_holder(const struct ovm_statedir *dir, const char *name)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = openat(dir->fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return 0;
	bool asked = fcntl(fd, F_GETLK, &lock) == 0;
	close(fd);
	return asked && lock.l_type != F_UNLCK ? lock.l_pid : 0;
}
