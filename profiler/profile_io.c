/* Profile files: reading and writing the text of profile_text.c, compressed with zstd when the name
 * ends in ".zst".
 *
 * Reading is a stream and does not ask the name: a chunk is read, decompressed if the file begins
 * like a zstd frame, and fed to the reader, so memory is what the records need; text beyond 4 GiB
 * is refused. Writing goes to a temporary in the same folder, 0600, is fsynced and renamed: a
 * reader sees the old file or the new one, never a part. A pipe or a device is written to directly.
 */
#include "profiler/profile_text.h"
#include "base/fault.h"
#include "base/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

enum { CHUNK = 1 << 20, ZSTD_LEVEL = 6 };
static const uint64_t max_text = UINT64_C(4) << 30;

/* --- reading --- */

/* A source of text: a plain file, or one zstd frame after another. */
struct source {
	int fd;
	ZSTD_DStream *zstd; /* NULL: plain */
	char *packed;	    /* CHUNK bytes */
	ZSTD_inBuffer in;
	size_t pending; /* bytes zstd still wants for its frame; 0 at a frame's end */
};

static ssize_t read_some(int fd, void *to, size_t len)
{
	ssize_t n;
	do
		n = read(fd, to, len);
	while (n < 0 && errno == EINTR);
	return n;
}

/* Up to @len bytes of text, 0 at the end, negative error. */
static ssize_t source_read(struct ovm_profile_reader *reader, struct source *source, char *to,
			   size_t len)
{
	ZSTD_outBuffer out = {to, len, 0};
	while (!out.pos) {
		if (source->in.pos == source->in.size) {
			ssize_t n = read_some(source->fd, source->packed, CHUNK);
			if (n < 0)
				return ovm_fail_errno(reader->ctx, OVM_E_IO, errno,
						      "%s: cannot read", reader->name);
			if (!n && source->pending)
				return ovm_fail(reader->ctx, OVM_E_FORMAT,
						"%s: a profile cut short inside its zstd frame",
						reader->name);
			if (!n)
				return 0;
			source->in = (ZSTD_inBuffer){source->packed, (size_t)n, 0};
		}
		if (!source->zstd) {
			size_t n = source->in.size - source->in.pos;
			n = n < len ? n : len;
			memcpy(to, source->packed + source->in.pos, n);
			source->in.pos += n;
			return (ssize_t)n;
		}
		source->pending = ZSTD_decompressStream(source->zstd, &out, &source->in);
		if (ZSTD_isError(source->pending))
			return ovm_fail(reader->ctx, OVM_E_FORMAT, "%s: damaged zstd data: %s",
					reader->name, ZSTD_getErrorName(source->pending));
	}
	return (ssize_t)out.pos;
}

static int source_open(struct ovm_profile_reader *reader, struct source *source)
{
	static const unsigned char magic[4] = {0x28, 0xb5, 0x2f, 0xfd};
	source->packed = ovm_alloc(CHUNK);
	size_t got = 0;
	for (ssize_t n; got < sizeof(magic); got += (size_t)n) {
		n = read_some(source->fd, source->packed + got, CHUNK - got);
		if (n < 0)
			return ovm_fail_errno(reader->ctx, OVM_E_IO, errno, "%s: cannot read",
					      reader->name);
		if (!n)
			break;
	}
	source->in = (ZSTD_inBuffer){source->packed, got, 0};
	if (got >= sizeof(magic) && !memcmp(source->packed, magic, sizeof(magic))) {
		source->zstd = ZSTD_createDStream();
		if (!source->zstd)
			return ovm_fail(reader->ctx, OVM_E_NOMEM, "out of memory");
	}
	return 0;
}

static int read_source(struct ovm_profile_reader *reader, struct source *source,
		       struct ovm_profile **out)
{
	char *text = ovm_alloc(CHUNK + OVM_PROFILE_MAX_LINE + 1);
	size_t have = 0, used = 0;
	uint64_t total = 0;
	int err = 0;
	for (;;) {
		ssize_t n = source_read(reader, source, text + have, CHUNK);
		if (n <= 0) {
			err = n < 0 ? (int)n : ovm_profile_reader_finish(reader, have, out);
			break;
		}
		total += (uint64_t)n;
		if (total > max_text) {
			err = ovm_fail(reader->ctx, OVM_E_FORMAT, "%s: more than 4 GiB of text",
				       reader->name);
			break;
		}
		err = ovm_profile_reader_feed(reader, text, have + (size_t)n, &used);
		if (err)
			break;
		have = have + (size_t)n - used;
		memmove(text, text + used, have);
	}
	free(text);
	return err;
}

int ovm_profile_load(struct ovm_ctx *ctx, const char *path, struct ovm_profile **out)
{
	struct source source = {.fd = open(path, O_RDONLY | O_CLOEXEC)};
	if (source.fd < 0)
		return ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot open", path);
	struct ovm_profile_reader reader;
	ovm_profile_reader_init(&reader, ctx, path);
	int err = source_open(&reader, &source);
	if (!err)
		err = read_source(&reader, &source, out);
	ovm_profile_reader_fini(&reader);
	ZSTD_freeDStream(source.zstd);
	free(source.packed);
	close(source.fd);
	return err;
}

/* --- writing --- */

/* A stdio stream that compresses into a descriptor. */
struct packer {
	int fd;
	ZSTD_CStream *zstd;
	char out[64 << 10];
};

static int write_all(int fd, const char *bytes, size_t len)
{
	while (len) {
		ssize_t n = write(fd, bytes, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		bytes += n;
		len -= (size_t)n;
	}
	return 0;
}

static int pack(struct packer *packer, const char *bytes, size_t len, ZSTD_EndDirective end)
{
	ZSTD_inBuffer in = {bytes, len, 0};
	for (;;) {
		ZSTD_outBuffer out = {packer->out, sizeof(packer->out), 0};
		size_t left = ZSTD_compressStream2(packer->zstd, &out, &in, end);
		if (ZSTD_isError(left)) {
			errno = EIO;
			return -1;
		}
		if (write_all(packer->fd, packer->out, out.pos))
			return -1;
		if (end == ZSTD_e_continue ? in.pos == in.size : !left)
			return 0;
	}
}

static ssize_t packer_write(void *cookie, const char *bytes, size_t len)
{
	return pack(cookie, bytes, len, ZSTD_e_continue) ? 0 : (ssize_t)len;
}

static int print_packed(const struct ovm_profile *prof, int fd)
{
	struct packer *packer = ovm_alloc(sizeof(*packer));
	packer->fd = fd;
	packer->zstd = ZSTD_createCStream();
	int bad = !packer->zstd;
	if (!bad) {
		ZSTD_CCtx_setParameter(packer->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL);
		ZSTD_CCtx_setParameter(packer->zstd, ZSTD_c_checksumFlag, 1);
		FILE *to = fopencookie(packer, "w", (cookie_io_functions_t){.write = packer_write});
		bad = !to;
		if (to) {
			setvbuf(to, NULL, _IOFBF, 64 << 10);
			ovm_profile_print(prof, to);
			bad = ferror(to);
			bad |= fclose(to);
			bad = bad || pack(packer, "", 0, ZSTD_e_end);
		}
		ZSTD_freeCStream(packer->zstd);
	}
	free(packer);
	return bad ? -1 : 0;
}

static int print_plain(const struct ovm_profile *prof, int fd)
{
	int copy = dup(fd);
	FILE *to = copy < 0 ? NULL : fdopen(copy, "w");
	if (!to) {
		if (copy >= 0)
			close(copy);
		return -1;
	}
	setvbuf(to, NULL, _IOFBF, 64 << 10);
	ovm_profile_print(prof, to);
	int bad = ferror(to);
	bad |= fclose(to);
	return bad ? -1 : 0;
}

static int print_to(const struct ovm_profile *prof, const char *path, int fd)
{
	size_t len = strlen(path);
	if (len > 4 && !strcmp(path + len - 4, ".zst"))
		return print_packed(prof, fd);
	return print_plain(prof, fd);
}

static int save(struct ovm_ctx *ctx, const struct ovm_profile *prof, const char *path)
{
	struct stat st;
	bool is_special = !stat(path, &st) && !S_ISREG(st.st_mode); /* a folder fails in open() */
	char *temp = is_special ? ovm_strdup(path) : ovm_asprintf("%s.XXXXXX", path);
	int fd = OVM_FAULT_FAILS(SAVE_OPEN) ? -1
		 : is_special		    ? open(path, O_WRONLY | O_CLOEXEC)
					    : mkostemp(temp, O_CLOEXEC);
	int err = 0;
	if (fd < 0) {
		err = ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot write", path);
		free(temp);
		return err;
	}
	bool bad = OVM_FAULT_FAILS(SAVE_WRITE) || print_to(prof, path, fd) ||
		   OVM_FAULT_FAILS(SAVE_FSYNC) || (!is_special && fsync(fd));
	if (bad)
		err = ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot write", path);
	if (close(fd) && !err)
		err = ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot write", path);
	if (!is_special && !err && (OVM_FAULT_FAILS(SAVE_RENAME) || rename(temp, path)))
		err = ovm_fail_errno(ctx, OVM_E_IO, errno, "%s: cannot rename %s", path, temp);
	if (!is_special && err)
		unlink(temp);
	OVM_FAULT(SAVED);
	free(temp);
	return err;
}

int ovm_profile_save(struct ovm_ctx *ctx, const struct ovm_profile *prof, const char *path)
{
	sigset_t saved;
	ovm_signals_hold(&saved);
	int err = save(ctx, prof, path);
	ovm_signals_release(&saved);
	return err;
}
