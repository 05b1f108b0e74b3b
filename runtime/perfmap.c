/* perf names code in anonymous memory by /tmp/perf-PID.map, one line a symbol: start, size, name,
 * in hexadecimal without 0x. It looks for the file where the process sees /tmp, by the number the
 * process has there, and takes it only from the process's user. /tmp is everybody's: the file is
 * made anew, never opened, so that nobody's link is followed.
 *
 * It stays when the process ends, as those of JITs do; that is why it is only written on request.
 */
#include "runtime/names.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The process's number in its innermost pid namespace: the last word of NSpid. */
static pid_t inner_pid(pid_t pid)
{
	char path[64], line[512];
	long inner = pid;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		const char *last = strrchr(line, '\t');
		if (!strncmp(line, "NSpid:", 6) && last)
			inner = strtol(last, NULL, 10);
	}
	if (f)
		fclose(f);
	return inner > 0 ? (pid_t)inner : pid;
}

static void print(const struct ovm_names *names, FILE *to)
{
	for (uint32_t i = 0; i < names->v.n; i++) {
		const struct ovm_buf *symbols = &names->v.v[i].symbols;
		for (size_t off = 0; off + sizeof(Elf64_Sym) <= symbols->n;
		     off += sizeof(Elf64_Sym)) {
			Elf64_Sym sym;
			memcpy(&sym, symbols->v + off, sizeof(sym));
			const char *name = (const char *)names->strings.v + sym.st_name;
			if (strstr(name, "optvm")) /* not the second name of the same code */
				fprintf(to, "%" PRIx64 " %" PRIx64 " %s\n", (uint64_t)sym.st_value,
					(uint64_t)sym.st_size, name);
		}
	}
}

static int make_room(struct ovm_ctx *ctx, const char *path, uid_t owner, bool force)
{
	struct stat st;
	if (lstat(path, &st))
		return 0;
	if (!force)
		return ovm_fail(ctx, OVM_E_USAGE, "%s exists: overwrite it with -f", path);
	if (!S_ISREG(st.st_mode) || st.st_uid != owner)
		return ovm_fail(ctx, OVM_E_PERM,
				"%s exists and is not the process's own file: remove it", path);
	if (unlink(path))
		return ovm_fail_errno(ctx, OVM_E_PERM, errno, "%s", path);
	return 0;
}

int ovm_names_perf_map(struct ovm_ctx *ctx, pid_t pid, const struct ovm_names *names, bool force,
		       char **out)
{
	struct stat st;
	char *path = ovm_asprintf("/proc/%d", (int)pid);
	int rc = stat(path, &st) ? ovm_fail(ctx, OVM_E_GONE, "process %d is gone", (int)pid) : 0;
	free(path);
	*out = NULL;
	if (rc)
		return rc;
	path = ovm_asprintf("/proc/%d/root/tmp/perf-%d.map", (int)pid, (int)inner_pid(pid));
	rc = make_room(ctx, path, st.st_uid, force);
	if (rc) {
		free(path);
		return rc;
	}
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	FILE *to = fd < 0 ? NULL : fdopen(fd, "w");
	bool bad = !to || (st.st_uid != geteuid() && fchown(fd, st.st_uid, st.st_gid));
	if (to && !bad)
		print(names, to);
	if (to)
		bad |= ferror(to) || fclose(to);
	if (bad)
		rc = ovm_fail_errno(ctx, errno == EACCES || errno == EPERM ? OVM_E_PERM : OVM_E_IO,
				    errno, "%s: cannot write", path);
	if (bad && fd >= 0)
		unlink(path);
	if (rc)
		free(path);
	else
		*out = path;
	return rc;
}
