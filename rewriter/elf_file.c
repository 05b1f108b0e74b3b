/* Output files: a temporary in the same folder, fsync, rename. So an output is whole or absent, and
 * nobody ever runs half of one. Owner, mode, times and attributes are the input's.
 */
#include "rewriter/elf_private.h"
#include "base/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

bool ovm_elf_put(int fd, const uint8_t *bytes, uint64_t len, uint64_t off)
{
	while (len) {
		size_t chunk = len < (64u << 20) ? (size_t)len : 64u << 20;
		ssize_t n = pwrite(fd, bytes, chunk, (off_t)off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			errno = n ? errno : ENOSPC;
			return false;
		}
		bytes += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return true;
}

static int check_output(struct ovm_ctx *ctx, const struct stat *in, const char *path, bool force)
{
	struct stat out;
	if (stat(path, &out))
		return 0;
	if (out.st_dev == in->st_dev && out.st_ino == in->st_ino)
		return ovm_fail(ctx, OVM_E_USAGE, "%s is the input: choose another output (-o)",
				path);
	if (!S_ISREG(out.st_mode))
		return ovm_fail(ctx, OVM_E_USAGE, "%s exists and is not a regular file", path);
	if (!force)
		return ovm_fail(ctx, OVM_E_USAGE, "%s exists: overwrite it with -f", path);
	return 0;
}

/* Labels and lists of access, but no capabilities: the output gets no more rights than set-id bits
 * would give it. */
static bool is_kept(const char *name)
{
	return !strncmp(name, "user.", 5) || !strcmp(name, "security.selinux") ||
	       !strcmp(name, "system.posix_acl_access");
}

static void copy_xattrs(int in, int fd)
{
	char names[4096], value[4096];
	ssize_t len = flistxattr(in, names, sizeof(names));
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(names + at) + 1) {
		ssize_t n =
		    is_kept(names + at) ? fgetxattr(in, names + at, value, sizeof(value)) : -1;
		if (n >= 0 && fsetxattr(fd, names + at, value, (size_t)n, 0))
			continue; /* another file system: it may not know them */
	}
}

/* Owner, attributes, mode and time of modification, as `cp -p` keeps them: what is not allowed is
 * left, but for the mode. */
static int be_like(struct ovm_ctx *ctx, int in, int fd, const struct stat *st, const char *temp)
{
	const struct timespec times[] = {{.tv_nsec = UTIME_NOW}, st->st_mtim};
	if (fchown(fd, st->st_uid, st->st_gid) && fchown(fd, (uid_t)-1, st->st_gid)) {
		/* not allowed: it is whose we are */
	}
	copy_xattrs(in, fd);
	if (fchmod(fd, st->st_mode & 0777) || futimens(fd, times))
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "cannot set the mode of %s", temp);
	return 0;
}

static int publish(struct ovm_ctx *ctx, int fd, const char *temp, const char *path, bool force)
{
	if (fsync(fd))
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "cannot write %s", path);
	if (!force && !renameat2(AT_FDCWD, temp, AT_FDCWD, path, RENAME_NOREPLACE))
		return 0;
	if (!force && errno == EEXIST)
		return ovm_fail(ctx, OVM_E_USAGE, "%s exists: overwrite it with -f", path);
	if (!force && errno != EINVAL && errno != ENOSYS) /* file systems without the flag */
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "cannot create %s", path);
	if (rename(temp, path))
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "cannot create %s", path);
	return 0;
}

int ovm_elf_save(struct ovm_ctx *ctx, const char *like, const char *path, bool force,
		 int (*fill)(struct ovm_ctx *ctx, void *arg, int in, int fd), void *arg)
{
	struct stat st;
	int in = open(like, O_RDONLY | O_CLOEXEC);
	if (in < 0 || fstat(in, &st)) {
		int err = ovm_fail_errno(ctx, OVM_E_IO, errno, "cannot open %s", like);
		if (in >= 0)
			close(in);
		return err;
	}
	sigset_t saved;
	ovm_signals_hold(&saved);
	char *temp = ovm_asprintf("%s.optvm-XXXXXX", path);
	int fd = -1, err = check_output(ctx, &st, path, force);
	if (!err && (fd = mkostemp(temp, O_CLOEXEC)) < 0)
		err = ovm_fail_errno(ctx, OVM_E_IO, errno, "cannot create %s", path);
	if (!err)
		err = fill(ctx, arg, in, fd);
	if (!err)
		err = be_like(ctx, in, fd, &st, temp);
	if (!err)
		err = publish(ctx, fd, temp, path, force);
	if (fd >= 0) {
		close(fd);
		if (err)
			unlink(temp);
	}
	ovm_signals_release(&saved);
	close(in);
	free(temp);
	return err;
}
