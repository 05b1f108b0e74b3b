/* Checked allocation and the byte buffer. Out of memory is a message and exit 70, see vec.h. */
#include "base/vec.h"
#include "base/err.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ovm_out_of_memory(size_t n, size_t size)
{
	fprintf(stderr, "optvm: out of memory: %zu x %zu bytes\n", n, size);
	ovm_last_resort();
	_Exit(70);
}

void *ovm_alloc_array(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size ? size : 1);
	if (!p)
		ovm_out_of_memory(n, size);
	return p;
}

void *ovm_alloc(size_t size)
{
	return ovm_alloc_array(1, size);
}

void *ovm_realloc_array(void *p, size_t n, size_t size)
{
	size_t total;
	if (__builtin_mul_overflow(n, size, &total))
		ovm_out_of_memory(n, size);
	p = realloc(p, total ? total : 1);
	if (!p)
		ovm_out_of_memory(n, size);
	return p;
}

char *ovm_strndup(const char *s, size_t len)
{
	char *p = ovm_alloc(len + 1);
	memcpy(p, s, len);
	return p;
}

char *ovm_strdup(const char *s)
{
	return ovm_strndup(s, strlen(s));
}

char *ovm_asprintf(const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	char *p = ovm_alloc((size_t)(n < 0 ? 0 : n) + 1);
	if (n > 0)
		vsnprintf(p, (size_t)n + 1, fmt, again);
	va_end(again);
	return p;
}

uint32_t ovm_vec_grow(uint32_t cap, uint32_t need)
{
	uint64_t next = cap ? (uint64_t)cap + cap / 2 : 8;
	if (next < need)
		next = need;
	if (next > UINT32_MAX - 1)
		ovm_out_of_memory(need, 1);
	return (uint32_t)next;
}

void ovm_buf_put(struct ovm_buf *buf, const void *bytes, size_t n)
{
	if (n > buf->cap - buf->n) {
		size_t cap = buf->cap ? buf->cap + buf->cap / 2 : 256;
		if (cap < buf->n + n)
			cap = buf->n + n;
		buf->v = ovm_realloc_array(buf->v, cap, 1);
		buf->cap = cap;
	}
	if (n)
		memcpy(buf->v + buf->n, bytes, n);
	buf->n += n;
}

void ovm_buf_u8(struct ovm_buf *buf, uint8_t x)
{
	ovm_buf_put(buf, &x, 1);
}

void ovm_buf_u16(struct ovm_buf *buf, uint16_t x)
{
	ovm_buf_put(buf, &x, 2);
}

void ovm_buf_u32(struct ovm_buf *buf, uint32_t x)
{
	ovm_buf_put(buf, &x, 4);
}

void ovm_buf_u64(struct ovm_buf *buf, uint64_t x)
{
	ovm_buf_put(buf, &x, 8);
}

void ovm_buf_uleb(struct ovm_buf *buf, uint64_t x)
{
	do {
		uint8_t byte = x & 0x7f;
		x >>= 7;
		ovm_buf_u8(buf, x ? byte | 0x80 : byte);
	} while (x);
}

void ovm_buf_sleb(struct ovm_buf *buf, int64_t x)
{
	for (bool more = true; more;) {
		uint8_t byte = (uint8_t)(x & 0x7f);
		x >>= 7;
		more = !((x == 0 && !(byte & 0x40)) || (x == -1 && (byte & 0x40)));
		ovm_buf_u8(buf, more ? byte | 0x80 : byte);
	}
}

void ovm_buf_fill(struct ovm_buf *buf, uint8_t byte, size_t n)
{
	while (n--)
		ovm_buf_u8(buf, byte);
}

void ovm_buf_align(struct ovm_buf *buf, size_t align, uint8_t byte)
{
	ovm_buf_fill(buf, byte, -buf->n & (align - 1));
}

void ovm_buf_free(struct ovm_buf *buf)
{
	free(buf->v);
	*buf = (struct ovm_buf){0};
}

uint16_t ovm_le16(const uint8_t *p)
{
	uint16_t x;
	memcpy(&x, p, sizeof(x));
	return x;
}

uint32_t ovm_le32(const uint8_t *p)
{
	uint32_t x;
	memcpy(&x, p, sizeof(x));
	return x;
}

uint64_t ovm_le64(const uint8_t *p)
{
	uint64_t x;
	memcpy(&x, p, sizeof(x));
	return x;
}

void ovm_put32(uint8_t *p, uint32_t x)
{
	memcpy(p, &x, sizeof(x));
}

void ovm_put64(uint8_t *p, uint64_t x)
{
	memcpy(p, &x, sizeof(x));
}
