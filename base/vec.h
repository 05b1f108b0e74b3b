#ifndef OVM_VEC_H
#define OVM_VEC_H
/* Growable arrays and checked allocation. Running out of memory ends the tool (exit 70) with a message:
 * nothing allocates while a target is stopped, so this never strands one.
 */
#include <stddef.h>
#include <stdint.h>

_Noreturn void ovm_out_of_memory(size_t n, size_t size);
void *ovm_alloc(size_t size);                     /* zeroed; caller frees with free() */
void *ovm_alloc_array(size_t n, size_t size);     /* zeroed, overflow checked */
void *ovm_realloc_array(void *p, size_t n, size_t size);
char *ovm_strdup(const char *s);
char *ovm_strndup(const char *s, size_t len);
char *ovm_asprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2), nonnull(1)));
uint32_t ovm_vec_grow(uint32_t cap, uint32_t need); /* next capacity >= need */

/* struct { T *v; uint32_t n, cap; }; zero-initialised is empty. Index with vec.v[i], i < vec.n. */
#define OVM_VEC(T)                                                                                 \
	struct {                                                                                   \
		T *v;                                                                              \
		uint32_t n, cap;                                                                   \
	}
#define ovm_vec_reserve(vec, need)                                                                 \
	do {                                                                                       \
		if ((need) > (vec)->cap) {                                                         \
			(vec)->cap = ovm_vec_grow((vec)->cap, (uint32_t)(need));                   \
			(vec)->v = ovm_realloc_array((vec)->v, (vec)->cap, sizeof(*(vec)->v));     \
		}                                                                                  \
	} while (0)
#define ovm_vec_push(vec, ...)                                                                     \
	do {                                                                                       \
		ovm_vec_reserve((vec), (vec)->n + 1);                                              \
		(vec)->v[(vec)->n++] = (__VA_ARGS__);                                              \
	} while (0)
#define ovm_vec_free(vec)                                                                          \
	do {                                                                                       \
		free((vec)->v);                                                                    \
		(vec)->v = NULL;                                                                   \
		(vec)->n = (vec)->cap = 0;                                                         \
	} while (0)

/* Growing byte buffer for emission. */
struct ovm_buf {
	uint8_t *v;
	size_t n, cap;
};
void ovm_buf_put(struct ovm_buf *buf, const void *bytes, size_t n);
void ovm_buf_u8(struct ovm_buf *buf, uint8_t x);
void ovm_buf_u16(struct ovm_buf *buf, uint16_t x);
void ovm_buf_u32(struct ovm_buf *buf, uint32_t x);
void ovm_buf_u64(struct ovm_buf *buf, uint64_t x);
void ovm_buf_uleb(struct ovm_buf *buf, uint64_t x);
void ovm_buf_sleb(struct ovm_buf *buf, int64_t x);
void ovm_buf_fill(struct ovm_buf *buf, uint8_t byte, size_t n);
void ovm_buf_align(struct ovm_buf *buf, size_t align, uint8_t byte); /* align is a power of two */
void ovm_buf_free(struct ovm_buf *buf);

/* Unaligned little-endian access to bytes the caller has bounds-checked. */
uint16_t ovm_le16(const uint8_t *p);
uint32_t ovm_le32(const uint8_t *p);
uint64_t ovm_le64(const uint8_t *p);
void ovm_put32(uint8_t *p, uint32_t x);
void ovm_put64(uint8_t *p, uint64_t x);

#endif
