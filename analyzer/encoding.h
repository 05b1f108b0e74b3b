#ifndef OVM_ENCODING_H
#define OVM_ENCODING_H
/* Where the fields of one instruction's bytes are: prefixes, opcode, ModRM, displacement. MC does
 * not tell. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { /* ovm_encoding.prefixes */
       OVM_PREFIX_LOCK = 1 << 0,
       OVM_PREFIX_REPNE = 1 << 1, /* f2 */
       OVM_PREFIX_REP = 1 << 2,	  /* f3 */
       OVM_PREFIX_DATA16 = 1 << 3,
       OVM_PREFIX_ADDR32 = 1 << 4,
       OVM_PREFIX_CS = 1 << 5, /* 2e */
       OVM_PREFIX_DS = 1 << 6, /* 3e: notrack on indirect branches */
       OVM_PREFIX_FS = 1 << 7,
       OVM_PREFIX_GS = 1 << 8,
};

enum ovm_opcode_map { OVM_MAP_1BYTE, OVM_MAP_0F, OVM_MAP_0F38, OVM_MAP_0F3A, OVM_MAP_VECTOR };

struct ovm_encoding {
	uint16_t prefixes;
	uint8_t rex;	/* 0x40..0x4f, 0 none */
	uint8_t map;	/* enum ovm_opcode_map; VECTOR: any VEX, EVEX or XOP encoding */
	uint8_t opcode; /* the opcode byte */
	uint8_t opcode_off;
	uint8_t modrm;	   /* valid if modrm_off */
	uint8_t modrm_off; /* 0 none */
	uint8_t disp_off;  /* of the memory displacement, 0 none */
	uint8_t disp_len;  /* 1, 4; 8 for the absolute address of a movabs; 0 none */
};

/* Parse the instruction of @len bytes at @bytes. False if the fields do not fit, or for an encoding
 * newer than this file. */
bool ovm_encoding_parse(const uint8_t *bytes, size_t len, struct ovm_encoding *out);

/* How many of the 15 bytes at @bytes tell one instruction from most others: up to its displacement
 * (without, if that is RIP-relative) and the first byte of an immediate. A guess, 1..15. */
unsigned ovm_encoding_guess_len(const uint8_t *bytes);

static inline uint8_t
ovm_encoding_reg(const struct ovm_encoding *enc) /* the /r or /digit field, without REX */
{
	return (enc->modrm >> 3) & 7;
}

#endif
