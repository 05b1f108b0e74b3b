/* The address space of a live process, from /proc/PID/maps and the program headers of the files it
 * names.
 *
 * maps alone tells where a page of a file lies, not which link-time address it has; that needs the
 * file's PT_LOADs:
 *
 *   maps:  7f55cff9000-7f55d14f000 r-xp 00026000 libc.so.6        PT_LOAD off 0x26000 vaddr 0x26000
 *   bias = 7f55cff9000 - 0x26000
 *
 * The file is opened by the name the kernel gives and believed only if device and inode are those
 * of the mapping: a package upgrade under a running process leaves another file (or "(deleted)")
 * under the same name. The same file may be mapped twice (dlmopen): a new module begins where the
 * file offset returns to 0.
 *
 * Device numbers are compared by inode only where the file system gives maps and stat different
 * devices (overlayfs, btrfs).
 */
#include "runtime/livemap.h"
#include "base/fault.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_PHDRS = 256 };

static bool hex(const char **p, const char *end, uint64_t *out)
{
	const char *s = *p;
	uint64_t x = 0;
	for (; s < end; s++) {
		int c = *s;
		int digit = c >= '0' && c <= '9'   ? c - '0'
			    : c >= 'a' && c <= 'f' ? c - 'a' + 10
						   : -1;
		if (digit < 0)
			break;
		x = x << 4 | (uint64_t)digit;
	}
	bool ok = s > *p && s - *p <= 16;
	*p = s;
	*out = x;
	return ok;
}

static bool skip_char(const char **p, const char *end, char c)
{
	if (*p >= end || **p != c)
		return false;
	++*p;
	return true;
}

/* lo-hi rwxp off major:minor inode path. All but out->path is set; *path is where the path begins.
 */
static bool parse_line(const char *p, const char *end, struct ovm_live_range *out,
		       const char **path)
{
	uint64_t lo, hi, off, major, minor;
	if (!hex(&p, end, &lo) || !skip_char(&p, end, '-') || !hex(&p, end, &hi) ||
	    !skip_char(&p, end, ' '))
		return false;
	if (end - p < 5 || hi <= lo)
		return false;
	const char *prot = p;
	p += 4;
	if (!skip_char(&p, end, ' ') || !hex(&p, end, &off) || !skip_char(&p, end, ' ') ||
	    !hex(&p, end, &major) || !skip_char(&p, end, ':') || !hex(&p, end, &minor) ||
	    !skip_char(&p, end, ' '))
		return false;
	uint64_t inode = 0;
	for (; p < end && *p >= '0' && *p <= '9'; p++)
		inode = inode * 10 + (uint64_t)(*p - '0');
	while (p < end && *p == ' ')
		p++;
	*out = (struct ovm_live_range){
	    .lo = {lo},
	    .hi = {hi},
	    .off = off,
	    .inode = inode,
	    .major = (uint32_t)major,
	    .minor = (uint32_t)minor,
	    .is_private = prot[3] == 'p',
	};
	*path = p;
	out->prot =
	    (uint8_t)((prot[0] == 'r' ? OVM_PROT_R : 0) | (prot[1] == 'w' ? OVM_PROT_W : 0) |
		      (prot[2] == 'x' ? OVM_PROT_X : 0));
	return true;
}

/* The file's headers and PT_LOADs; false if it is not an ELF64 x86-64 file that can be run. */
static bool read_headers(int fd, struct ovm_live_module *module, bool *has_interp)
{
	Elf64_Ehdr eh;
	if (pread(fd, &eh, sizeof(eh), 0) != (ssize_t)sizeof(eh) ||
	    memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 || eh.e_ident[EI_CLASS] != ELFCLASS64 ||
	    eh.e_ident[EI_DATA] != ELFDATA2LSB || eh.e_machine != EM_X86_64 ||
	    (eh.e_type != ET_DYN && eh.e_type != ET_EXEC) || eh.e_phentsize != sizeof(Elf64_Phdr) ||
	    eh.e_phnum == 0 || eh.e_phnum > MAX_PHDRS)
		return false;
	Elf64_Phdr phdrs[MAX_PHDRS];
	size_t size = eh.e_phnum * sizeof(Elf64_Phdr);
	if (eh.e_phoff > INT64_MAX || pread(fd, phdrs, size, (off_t)eh.e_phoff) != (ssize_t)size)
		return false;
	module->is_dyn = eh.e_type == ET_DYN;
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		const Elf64_Phdr *ph = &phdrs[i];
		if (ph->p_type == PT_INTERP)
			*has_interp = true;
		if (ph->p_type == PT_DYNAMIC) {
			module->dynamic = ovm_va_of(ph->p_vaddr);
			module->dynamic_size = ph->p_memsz;
		}
		if (ph->p_type != PT_LOAD || ph->p_memsz == 0 || ph->p_filesz > ph->p_memsz ||
		    ph->p_vaddr + ph->p_memsz < ph->p_vaddr)
			continue;
		ovm_vec_push(&module->segments, (struct ovm_live_segment){
						    .va = {ph->p_vaddr},
						    .off = ph->p_offset,
						    .filesz = ph->p_filesz,
						    .memsz = ph->p_memsz,
						    .is_exec = ph->p_flags & PF_X,
						    .is_writable = ph->p_flags & PF_W,
						});
	}
	return module->segments.n > 0;
}

static uint64_t page_down(uint64_t x)
{
	return x & ~(uint64_t)(PAGE - 1);
}

static uint64_t page_up(uint64_t x)
{
	return page_down(x + PAGE - 1);
}

/* The bias from an executable segment: the one kind that is never split by relro or mapped over. */
static bool find_bias(const struct ovm_livemap *map, struct ovm_live_module *module)
{
	for (uint32_t s = 0; s < module->segments.n; s++) {
		const struct ovm_live_segment *seg = &module->segments.v[s];
		if (!seg->is_exec)
			continue;
		for (uint32_t r = 0; r < module->n_ranges; r++) {
			const struct ovm_live_range *range =
			    &map->ranges.v[module->first_range + r];
			if (range->inode != module->inode || !(range->prot & OVM_PROT_X) ||
			    range->off != page_down(seg->off))
				continue;
			module->bias = range->lo.v - page_down(seg->va.v);
			return true;
		}
	}
	return false;
}

static void set_span(struct ovm_live_module *module)
{
	uint64_t lo = UINT64_MAX, hi = 0;
	for (uint32_t s = 0; s < module->segments.n; s++) {
		const struct ovm_live_segment *seg = &module->segments.v[s];
		uint64_t seg_lo = page_down(seg->va.v), seg_hi = page_up(seg->va.v + seg->memsz);
		lo = seg_lo < lo ? seg_lo : lo;
		hi = seg_hi > hi ? seg_hi : hi;
	}
	module->lo = ovm_va_to_rta(ovm_va_of(lo), module->bias);
	module->hi = ovm_va_to_rta(ovm_va_of(hi), module->bias);
}

/* Ranges [first, first+n) belong to one mapping of one file; make a module of them if it is a
 * program or library. */
static void add_module(struct ovm_livemap *map, pid_t pid, uint32_t first, uint32_t n)
{
	const struct ovm_live_range *range = &map->ranges.v[first];
	char *name = ovm_asprintf("/proc/%d/root%s", (int)pid, range->path);
	int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	free(name);
	if (fd < 0)
		fd = open(range->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return;
	struct stat st;
	struct ovm_live_module module = {
	    .path = range->path,
	    .first_range = first,
	    .n_ranges = n,
	    .inode = range->inode,
	    .major = range->major,
	    .minor = range->minor,
	};
	bool has_interp = false;
	bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_ino == range->inode &&
		  read_headers(fd, &module, &has_interp) && find_bias(map, &module);
	close(fd);
	if (!ok) {
		ovm_vec_free(&module.segments);
		return;
	}
	set_span(&module);
	ovm_vec_push(&map->modules, module);
}

static void mark_exe(struct ovm_livemap *map, pid_t pid)
{
	char *name = ovm_asprintf("/proc/%d/exe", (int)pid);
	struct stat st;
	bool ok = stat(name, &st) == 0;
	free(name);
	for (uint32_t m = 0; ok && m < map->modules.n; m++)
		if (map->modules.v[m].inode == st.st_ino) {
			map->modules.v[m].is_exe = true;
			return;
		}
}

void ovm_livemap_parse(const char *text, size_t len, struct ovm_livemap *out)
{
	*out = (struct ovm_livemap){0};
	const char *end = text + len;
	while (text < end) {
		const char *eol = memchr(text, '\n', (size_t)(end - text));
		if (!eol)
			eol = end;
		struct ovm_live_range range;
		const char *path;
		if (parse_line(text, eol, &range, &path)) {
			range.path = ovm_strndup(path, (size_t)(eol - path));
			ovm_vec_push(&out->ranges, range);
		}
		text = eol + 1;
	}
}

int ovm_livemap_read(struct ovm_ctx *ctx, pid_t pid, struct ovm_livemap *out)
{
	char name[64];
	snprintf(name, sizeof(name), "/proc/%d/maps", (int)pid);
	int fd = OVM_FAULT_FAILS(LIVEMAP_READ) ? -1 : open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		if (errno == ENOENT || errno == ESRCH)
			return ovm_fail(ctx, OVM_E_GONE, "process %d has ended", (int)pid);
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "%s", name);
	}
	struct ovm_buf buf = {0};
	char chunk[16384];
	ssize_t n;
	while ((n = read(fd, chunk, sizeof(chunk))) > 0)
		ovm_buf_put(&buf, chunk, (size_t)n);
	int err = n < 0 ? errno : 0;
	close(fd);
	int rc = 0;
	if (err == ESRCH || (!err && buf.n == 0))
		rc = ovm_fail(ctx, OVM_E_GONE, "process %d has ended", (int)pid);
	else if (err)
		rc = ovm_fail_errno(ctx, OVM_E_IO, err, "%s", name);
	else
		ovm_livemap_parse((const char *)buf.v, buf.n, out);
	ovm_buf_free(&buf);
	return rc;
}

void ovm_livemap_modules(struct ovm_livemap *map, pid_t pid)
{
	OVM_ASSERT(map->modules.n == 0);
	for (uint32_t i = 0; i < map->ranges.n;) {
		const struct ovm_live_range *first = &map->ranges.v[i];
		if (!first->inode || first->path[0] != '/') {
			i++;
			continue;
		}
		uint32_t last = i; /* of the same file; anonymous ranges (bss) may lie between */
		for (uint32_t k = i + 1; k < map->ranges.n; k++) {
			const struct ovm_live_range *range = &map->ranges.v[k];
			if (range->inode == 0 && range->path[0] == '\0')
				continue;
			if (range->inode != first->inode || range->major != first->major ||
			    range->minor != first->minor ||
			    (range->off == 0 && map->ranges.v[last].off > 0))
				break;
			last = k;
		}
		add_module(map, pid, i, last - i + 1);
		i = last + 1;
	}
	mark_exe(map, pid);
}

const struct ovm_live_module *ovm_livemap_only(const struct ovm_livemap *map, const char *path)
{
	const struct ovm_live_module *found = NULL;
	for (uint32_t m = 0; path && m < map->modules.n; m++) {
		if (strcmp(map->modules.v[m].path, path) != 0)
			continue;
		if (found)
			return NULL;
		found = &map->modules.v[m];
	}
	return found;
}

const struct ovm_live_module *ovm_livemap_same_file(const struct ovm_livemap *map,
						    const struct ovm_live_module *module)
{
	const struct ovm_live_module *is = ovm_livemap_only(map, module->path);
	bool same = is && is->inode == module->inode && is->major == module->major &&
		    is->minor == module->minor;
	return same ? is : NULL;
}

void ovm_livemap_fini(struct ovm_livemap *map)
{
	for (uint32_t i = 0; i < map->ranges.n; i++)
		free(map->ranges.v[i].path);
	for (uint32_t i = 0; i < map->modules.n; i++)
		ovm_vec_free(&map->modules.v[i].segments);
	ovm_vec_free(&map->ranges);
	ovm_vec_free(&map->modules);
}

const struct ovm_live_range *ovm_livemap_range(const struct ovm_livemap *map, ovm_rta at)
{
	for (uint32_t i = 0; i < map->ranges.n; i++)
		if (at.v >= map->ranges.v[i].lo.v && at.v < map->ranges.v[i].hi.v)
			return &map->ranges.v[i];
	return NULL;
}

const struct ovm_live_module *ovm_livemap_module(const struct ovm_livemap *map, ovm_rta at)
{
	for (uint32_t i = 0; i < map->modules.n; i++)
		if (at.v >= map->modules.v[i].lo.v && at.v < map->modules.v[i].hi.v)
			return &map->modules.v[i];
	return NULL;
}

bool ovm_livemap_covers(const struct ovm_livemap *map, ovm_rta lo, ovm_rta hi, uint8_t prot,
			uint64_t inode)
{
	while (lo.v < hi.v) {
		const struct ovm_live_range *range = ovm_livemap_range(map, lo);
		if (!range || range->prot != prot || !range->is_private || range->inode != inode)
			return false;
		lo = range->hi;
	}
	return true;
}

bool ovm_livemap_shares(const struct ovm_livemap *map, ovm_rta lo, ovm_rta hi, uint64_t inode)
{
	while (lo.v < hi.v) {
		const struct ovm_live_range *range = ovm_livemap_range(map, lo);
		if (!range || range->prot != (OVM_PROT_R | OVM_PROT_W) || range->is_private ||
		    range->inode != inode)
			return false;
		lo = range->hi;
	}
	return true;
}

/* Lines come in ascending order, so each need is used up from its start. */
void ovm_livemap_meet(const struct ovm_live_range *range, struct ovm_live_need *needs, uint32_t n)
{
	bool is_code = range->prot == (OVM_PROT_R | OVM_PROT_X) && range->is_private;
	bool is_counter = range->prot == (OVM_PROT_R | OVM_PROT_W) && !range->is_private;
	if (!is_code && !is_counter)
		return;
	for (uint32_t i = 0; i < n; i++)
		if (needs[i].lo.v >= range->lo.v && needs[i].lo.v < range->hi.v &&
		    needs[i].inode == range->inode && needs[i].is_counter == is_counter)
			needs[i].lo = range->hi;
}

bool ovm_livemap_met(const struct ovm_live_need *needs, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (needs[i].lo.v < needs[i].hi.v)
			return false;
	return true;
}

bool ovm_livemap_walk(pid_t pid, void (*visit)(const struct ovm_live_range *range, void *arg),
		      void *arg)
{
	enum { SIZE = 16384 }; /* longer than any line */
	char name[64], buf[SIZE];
	snprintf(name, sizeof(name), "/proc/%d/maps", (int)pid);
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	size_t have = 0;
	ssize_t got;
	while (have < SIZE && (got = read(fd, buf + have, SIZE - have)) > 0) {
		have += (size_t)got;
		char *p = buf;
		for (char *eol; (eol = memchr(p, '\n', have - (size_t)(p - buf))); p = eol + 1) {
			struct ovm_live_range range;
			const char *path;
			if (parse_line(p, eol, &range, &path))
				visit(&range, arg);
		}
		have -= (size_t)(p - buf);
		memmove(buf, p, have);
	}
	close(fd);
	return true;
}

struct need_list {
	struct ovm_live_need *v;
	uint32_t n;
};

static void visit_needs(const struct ovm_live_range *range, void *arg)
{
	struct need_list *needs = arg;
	ovm_livemap_meet(range, needs->v, needs->n);
}

bool ovm_livemap_still(pid_t pid, struct ovm_live_need *needs, uint32_t n)
{
	struct need_list list = {needs, n};
	return ovm_livemap_walk(pid, visit_needs, &list) && ovm_livemap_met(needs, n);
}

void ovm_livemap_reserve(struct ovm_livemap *map, ovm_rta lo, ovm_rta hi)
{
	uint32_t i = 0;
	while (i < map->ranges.n && map->ranges.v[i].lo.v < lo.v)
		i++;
	ovm_vec_reserve(&map->ranges, map->ranges.n + 1);
	memmove(&map->ranges.v[i + 1], &map->ranges.v[i],
		(map->ranges.n - i) * sizeof(map->ranges.v[0]));
	map->ranges.v[i] =
	    (struct ovm_live_range){.lo = lo, .hi = hi, .path = ovm_strdup("[reserved]")};
	map->ranges.n++;
	for (uint32_t m = 0; m < map->modules.n; m++)
		if (map->modules.v[m].first_range >= i)
			map->modules.v[m].first_range++;
}
