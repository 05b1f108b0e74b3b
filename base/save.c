#include "base/save.h"
#include "base/vec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static bool put(int fd, const char *bytes, size_t n)
{
	while (n) {
		ssize_t done = write(fd, bytes, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0) {
			errno = done ? errno : ENOSPC;
			return false;
		}
		bytes += done;
		n -= (size_t)done;
	}
	return true;
}

int ovm_save(struct ovm_ctx *ctx, const char *path, const void *bytes, size_t n)
{
	struct stat st;
	bool is_special = !stat(path, &st) && !S_ISREG(st.st_mode);
	char *temp = is_special ? ovm_strdup(path) : ovm_asprintf("%s.XXXXXX", path);
	int fd = is_special ? open(path, O_WRONLY | O_CLOEXEC) : mkostemp(temp, O_CLOEXEC);
	bool bad =
	    fd < 0 || !put(fd, bytes, n) || (!is_special && (fsync(fd) || rename(temp, path)));
	int err = bad ? ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot write", path) : 0;
	if (fd >= 0)
		close(fd);
	if (bad && fd >= 0 && !is_special)
		unlink(temp);
	free(temp);
	return err;
}
