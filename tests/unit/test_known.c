/* What is remembered of instructions must be what decoding again would say: for every byte position
 * of this program's own file, code and data, and for bytes that were made to differ in a field
 * only, both decoders with memory are compared with themselves without it. (Without it is also what
 * stands less than 15 bytes before the end.)
 */
#include "analyzer/disasm.h"
#include "analyzer/known.h"
#include "rewriter/check_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 1 << 18 }; /* byte positions */

static struct ovm_decoder *dec;
static ZydisDecoder zydis;
static struct ovm_check_known *known;

static void first_decoder(const uint8_t *p, uint64_t va)
{
	struct ovm_insn with, without;
	unsigned len = ovm_decode_one(dec, p, OVM_KNOWN_BYTES, ovm_va_of(va), &with);
	unsigned due = ovm_decode_one(dec, p, OVM_KNOWN_BYTES - 1, ovm_va_of(va), &without);
	if (len == OVM_KNOWN_BYTES) /* does not fit into one byte less */
		return;
	assert_int_equal(len, due);
	if (len)
		assert_memory_equal(&with, &without,
				    offsetof(struct ovm_insn, flags) + sizeof(with.flags));
}

static void second_decoder(const uint8_t *p, uint64_t va)
{
	struct ovm_check_insn with, without;
	bool ok = ovm_check_decode_known(known, &zydis, p, OVM_KNOWN_BYTES, va, &with);
	assert_int_equal(ok, ovm_check_decode(&zydis, p, OVM_KNOWN_BYTES, va, &without));
	if (ok)
		assert_memory_equal(&with, &without, offsetof(struct ovm_check_insn, disp_len) + 1);
}

static void both(const uint8_t *p, uint64_t va)
{
	first_decoder(p, va);
	second_decoder(p, va);
}

static size_t read_self(uint8_t **out)
{
	FILE *file = fopen("/proc/self/exe", "rb");
	assert_non_null(file);
	*out = malloc(MOST + OVM_KNOWN_BYTES);
	assert_non_null(*out);
	assert_int_equal(fseek(file, 0x1000, SEEK_SET), 0);
	size_t n = fread(*out, 1, MOST + OVM_KNOWN_BYTES, file);
	fclose(file);
	assert_true(n > 10000);
	return n - OVM_KNOWN_BYTES;
}

static void test_own_code(void **state)
{
	uint8_t *bytes;
	size_t n = read_self(&bytes);
	(void)state;
	for (size_t i = 0; i < n; i++)
		both(bytes + i, 0x400000 + i);
	free(bytes);
}

/* Every instruction of some kinds, with all bytes from @field on drawn anew. */
static void test_fields(void **state)
{
	static const struct {
		uint8_t bytes[6], field;
	} kinds[] = {
	    {{0xe8}, 1},
	    {{0xe9}, 1},
	    {{0xeb}, 1},
	    {{0xe3}, 1},
	    {{0x74}, 1},
	    {{0x0f, 0x84}, 2},
	    {{0x66, 0xe8}, 2},
	    {{0x66, 0x48, 0xe8}, 3},
	    {{0xff, 0x15}, 2},
	    {{0x48, 0x8b, 0x05}, 3},
	    {{0x48, 0x8b, 0x45}, 3},
	    {{0x48, 0x8b, 0x84, 0x24}, 4},
	    {{0x81, 0x3d}, 2},
	    {{0x67, 0x8b, 0x05}, 3},
	    {{0xf0, 0x48, 0x0f, 0xb1, 0x0d}, 5},
	    {{0xc5, 0xf9, 0x6f, 0x05}, 4},
	    {{0x62, 0xf1, 0xfd, 0x48, 0x6f, 0x05}, 6},
	    {{0xc7, 0xf8}, 2},
	    {{0xcd}, 1},
	    {{0xb8}, 1},
	    {{0x48, 0xb8}, 2},
	};
	uint32_t random = 1;
	(void)state;
	for (unsigned round = 0; round < 200; round++) {
		for (unsigned k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
			uint8_t bytes[OVM_KNOWN_BYTES];
			memcpy(bytes, kinds[k].bytes, kinds[k].field);
			for (unsigned i = kinds[k].field; i < sizeof(bytes); i++) {
				random = random * 1664525u + 1013904223u;
				bytes[i] = (uint8_t)(random >> 24);
			}
			both(bytes, round % 2 ? UINT64_MAX - round : 0x1000u * round);
		}
	}
}

static void test_compares(void **state)
{
	const uint8_t a[OVM_KNOWN_BYTES] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
	struct ovm_known it = {0};
	(void)state;
	assert_false(ovm_known_is(&it, a)); /* nothing is known yet */
	for (unsigned len = 1; len <= sizeof(a); len++) {
		for (unsigned off = 1; off < len; off++) {
			for (unsigned n = 0; n <= 4 && off + n <= len; n++) {
				ovm_known_set(&it, a, len, off, n);
				for (unsigned i = 0; i < sizeof(a); i++) {
					uint8_t b[OVM_KNOWN_BYTES];
					memcpy(b, a, sizeof(a));
					b[i] ^= 0x80;
					bool is_free = i >= len || (i >= off && i < off + n);
					assert_int_equal(ovm_known_is(&it, b), is_free);
				}
			}
		}
	}
}

static int open_decoders(void **state)
{
	struct ovm_ctx ctx;
	(void)state;
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_decoder_open(&ctx, &dec), 0);
	ovm_check_decoder_init(&zydis);
	known = ovm_check_known_new();
	return 0;
}

static int close_decoders(void **state)
{
	(void)state;
	ovm_decoder_close(dec);
	free(known);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_compares),
	    cmocka_unit_test(test_own_code),
	    cmocka_unit_test(test_fields),
	};
	return cmocka_run_group_tests(tests, open_decoders, close_decoders);
}
