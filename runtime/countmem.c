/* The memory file of counters.
 *
 * Sealed against shrinking, because a page that vanished under the target's `incq` would kill it;
 * and against growing and further seals, because it is open to every process of the user. It is not
 * reserved: pages come into being when a counter in them is first incremented, so a million
 * counters of cold code cost address space only.
 */
#include "runtime/countmem.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { PAGE = 4096 };

static bool make(struct ovm_countmem *mem)
{
	struct stat st;
	if (ftruncate(mem->fd, (off_t)mem->size) < 0 ||
	    fcntl(mem->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ||
	    fstat(mem->fd, &st) < 0)
		return false;
	mem->inode = st.st_ino;
	mem->major = major(st.st_dev);
	mem->minor = minor(st.st_dev);
	void *v = mmap(NULL, mem->size, PROT_READ | PROT_WRITE, MAP_SHARED, mem->fd, 0);
	mem->v = v == MAP_FAILED ? NULL : v;
	return mem->v != NULL;
}

int ovm_countmem_open(struct ovm_ctx *ctx, uint64_t size, struct ovm_countmem *out)
{
	if (size > UINT64_C(1) << 40)
		return ovm_fail(ctx, OVM_E_UNAVAILABLE, "%llu bytes of counters are too many",
				(unsigned long long)size);
	struct ovm_countmem mem = {.size = (size + PAGE - 1) & ~(uint64_t)(PAGE - 1)};
	mem.size = mem.size ? mem.size : PAGE;
	mem.fd = memfd_create("optvm-counters", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (mem.fd < 0)
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, errno, "memfd_create");
	if (!make(&mem)) {
		int err = errno;
		ovm_countmem_close(&mem);
		return ovm_fail_errno(ctx, OVM_E_UNAVAILABLE, err,
				      "cannot make a memory file of %llu bytes",
				      (unsigned long long)size);
	}
	*out = mem;
	return 0;
}

void ovm_countmem_close(struct ovm_countmem *mem)
{
	if (mem->v)
		munmap(mem->v, mem->size);
	if (mem->v || mem->inode || mem->fd > 0)
		close(mem->fd);
	*mem = (struct ovm_countmem){.fd = -1};
}
