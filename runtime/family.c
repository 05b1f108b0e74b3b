/* Is this process still the program that it was, and are those two the same one?
 *
 * Neither pid and start time (an exec keeps them) nor the file (a program may exec itself) tell.
 * But the kernel puts 16 random bytes on the stack of every new image, for the C library's stack
 * guard, and says where in the auxiliary vector (AT_RANDOM):
 *
 *   server  a7 31 .. --fork--> worker  a7 31 ..        the same image, inherited
 *      \------------fork-----> shell   a7 31 .. --exec--> 5c 02 ..      another one
 *
 * Children are listed by the kernel per thread (/proc/PID/task/TID/children); where it was built
 * without that, all of /proc is read.
 *
 * Limits: a program that overwrites the bytes looks as if it had exec'ed; who is not allowed to
 * read its memory cannot tell. A process whose parent has ended belongs to no family any more.
 */
#include "runtime/family.h"
#include "base/err.h"
#include "runtime/procstat.h"
#include "runtime/tracee.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ENVIRON_MAX = 4 << 20 };

/* --- the mark of an image
 * --------------------------------------------------------------------------------------- */

bool ovm_image_mark_read(pid_t pid, struct ovm_image_mark *out)
{
	char name[64];
	*out = (struct ovm_image_mark){0};
	uint64_t at = ovm_proc_auxv(pid, AT_RANDOM);
	snprintf(name, sizeof(name), "/proc/%d/mem", (int)pid);
	int fd = at && at <= INT64_MAX ? open(name, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return false;
	out->is_known =
	    pread(fd, out->bytes, sizeof(out->bytes), (off_t)at) == (ssize_t)sizeof(out->bytes);
	close(fd);
	return out->is_known;
}

bool ovm_image_mark_same(const struct ovm_image_mark *a, const struct ovm_image_mark *b)
{
	return a->is_known && b->is_known && !memcmp(a->bytes, b->bytes, sizeof(a->bytes));
}

/* --- who descends from whom
 * ------------------------------------------------------------------------------------- */

static bool add(ovm_family *family, pid_t pid)
{
	struct ovm_procstat stat;
	if (!ovm_procstat_read(pid, &stat) || stat.state == 'Z' || stat.state == 'X')
		return false;
	ovm_vec_push(family, ((struct ovm_relative){pid, stat.start,
						    (stat.utime + stat.stime) * 1000 /
							(uint64_t)sysconf(_SC_CLK_TCK)}));
	return true;
}

static bool has(const ovm_family *family, pid_t pid)
{
	for (uint32_t i = 0; i < family->n; i++)
		if (family->v[i].pid == pid)
			return true;
	return false;
}

/* The children of one thread. False: this kernel does not list them. */
static bool add_children(ovm_family *family, pid_t pid, pid_t tid)
{
	char name[80];
	int child;
	snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)pid, (int)tid);
	FILE *f = fopen(name, "re");
	if (!f)
		return false;
	while (fscanf(f, "%d", &child) == 1)
		if (!has(family, child))
			add(family, child);
	fclose(f);
	return true;
}

static void add_by_thread(ovm_family *family)
{
	for (uint32_t i = 0; i < family->n; i++) {
		pid_t pid = family->v[i].pid, *tids;
		uint32_t n = ovm_tracee_tids(pid, &tids);
		for (uint32_t k = 0; k < n; k++)
			add_children(family, pid, tids[k]);
		free(tids);
	}
}

/* Each pass finds at least the next generation of children. */
static void add_by_parent(ovm_family *family)
{
	for (uint32_t before = 0; before < family->n;) {
		before = family->n;
		DIR *dir = opendir("/proc");
		for (struct dirent *e; dir && (e = readdir(dir));) {
			struct ovm_procstat stat;
			pid_t pid = (pid_t)atoi(e->d_name);
			if (pid > 0 && ovm_procstat_read(pid, &stat) && has(family, stat.parent) &&
			    !has(family, pid))
				add(family, pid);
		}
		if (dir)
			closedir(dir);
	}
}

void ovm_family_list(pid_t root, ovm_family *out)
{
	*out = (ovm_family){0};
	if (!add(out, root))
		return;
	if (add_children(out, root, root))
		add_by_thread(out);
	else
		add_by_parent(out);
}

void ovm_family_kin(pid_t root, pid_t pid, ovm_family *out)
{
	struct ovm_image_mark mark, other;
	ovm_family all;
	*out = (ovm_family){0};
	if (!ovm_image_mark_read(pid, &mark) || !add(out, pid))
		return;
	ovm_family_list(root, &all);
	for (uint32_t i = 0; i < all.n; i++)
		if (all.v[i].pid != pid && ovm_image_mark_read(all.v[i].pid, &other) &&
		    ovm_image_mark_same(&mark, &other))
			ovm_vec_push(out, all.v[i]);
	ovm_vec_free(&all);
}

/* --- the rest
 * ------------------------------------------------------------------------------------------------
 */

bool ovm_process_opted_out(pid_t pid)
{
	static const char word[] = "OPTVM=off";
	char name[64];
	snprintf(name, sizeof(name), "/proc/%d/environ", (int)pid);
	FILE *f = fopen(name, "re");
	if (!f)
		return false;
	char *text = ovm_alloc(ENVIRON_MAX);
	size_t n = fread(text, 1, ENVIRON_MAX - 1, f);
	fclose(f);
	bool found = false;
	for (size_t i = 0; i < n && !found; i += strlen(text + i) + 1)
		found = !strcmp(text + i, word);
	free(text);
	return found;
}
