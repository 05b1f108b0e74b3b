/* The memory file of counters.
 *
 * Sealed against shrinking, because a page that vanished under the target's `incq` would kill it;
 * and against growing and further seals, because it is open to every process of the user. It is not
 * reserved: pages come into being when a counter in them is first incremented, so a million
 * counters of cold code cost address space only.
 *
 * Limit: a file for another user's process has no seals. That user could cut it while the target
 * has it open, for some microseconds; it is his own process.
 */
#include "runtime/countmem.h"
#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096 };

/* Is @pid of another user, who may not open our descriptors? */
static bool is_foreign(pid_t pid, struct stat *of)
{
	char name[64];
	snprintf(name, sizeof(name), "/proc/%d", (int)pid);
	return stat(name, of) == 0 && of->st_uid != geteuid();
}

static bool open_memfd(struct ovm_countmem *mem)
{
	mem->fd = OVM_FAULT_FAILS(COUNTERS_FILE)
		      ? -1
		      : memfd_create("optvm-counters", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	snprintf(mem->path, sizeof(mem->path), "/proc/%d/fd/%d", (int)getpid(), mem->fd);
	return mem->fd >= 0 && ftruncate(mem->fd, (off_t)mem->size) == 0 &&
	       fcntl(mem->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
}

/* In the memory file system of the target's own mount namespace. */
static bool open_shm(struct ovm_countmem *mem, pid_t pid, const struct stat *owner)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(mem->path, sizeof(mem->path), "/dev/shm/optvm-%d-%lx%lx", (int)getpid(),
		 (unsigned long)now.tv_sec, (unsigned long)now.tv_nsec);
	snprintf(mem->name, sizeof(mem->name), "/proc/%d/root%.60s", (int)pid, mem->path);
	mem->fd = open(mem->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (mem->fd < 0)
		mem->name[0] = '\0';
	return mem->fd >= 0 && ftruncate(mem->fd, (off_t)mem->size) == 0 &&
	       fchown(mem->fd, owner->st_uid, owner->st_gid) == 0;
}

static bool make(struct ovm_countmem *mem, pid_t pid)
{
	struct stat st;
	if (is_foreign(pid, &st) ? !open_shm(mem, pid, &st) : !open_memfd(mem))
		return false;
	if (fstat(mem->fd, &st) < 0)
		return false;
	mem->inode = st.st_ino;
	mem->major = major(st.st_dev);
	mem->minor = minor(st.st_dev);
	if (OVM_FAULT_FAILS(COUNTERS_MAP))
		return false;
	void *v = mmap(NULL, mem->size, PROT_READ | PROT_WRITE, MAP_SHARED, mem->fd, 0);
	mem->v = v == MAP_FAILED ? NULL : v;
	return mem->v != NULL;
}

int ovm_countmem_open(struct ovm_ctx *ctx, uint64_t size, pid_t pid, struct ovm_countmem *out)
{
	if (size > UINT64_C(1) << 40)
		return ovm_fail(ctx, OVM_E_UNAVAILABLE, "%llu bytes of counters are too many",
				(unsigned long long)size);
	struct ovm_countmem mem = {.size = (size + PAGE - 1) & ~(uint64_t)(PAGE - 1)};
	mem.size = mem.size ? mem.size : PAGE;
	mem.fd = -1;
	if (!make(&mem, pid)) {
		int err = errno;
		ovm_countmem_close(&mem);
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, err,
				      "cannot make a memory file of %llu bytes",
				      (unsigned long long)size);
	}
	*out = mem;
	return 0;
}

void ovm_countmem_hide(struct ovm_countmem *mem)
{
	if (mem->name[0])
		unlink(mem->name);
	mem->name[0] = '\0';
}

void ovm_countmem_close(struct ovm_countmem *mem)
{
	ovm_countmem_hide(mem);
	if (mem->v)
		munmap(mem->v, mem->size);
	if (mem->v || mem->inode || mem->fd > 0)
		close(mem->fd);
	*mem = (struct ovm_countmem){.fd = -1};
}
