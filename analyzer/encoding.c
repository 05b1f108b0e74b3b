/* Finding the displacement of an instruction whose length is known.
 *
 *   f0 48 0f b1 8c 24 80 00 00 00     lock cmpxchg %rcx,0x80(%rsp)
 *   |  |  ----- |  |  +--------- displacement: modrm says mod 2
 *   |  rex op   |  sib
 *   prefix      modrm
 *
 * Copied code changes displacements in place (rule R3), so their offsets must be known exactly.
 * Only the presence of ModRM depends on the opcode, which two bitmaps hold; everything else follows
 * from prefix and ModRM bytes. Immediates are what is left of the length. REX2 (APX) is not
 * understood and refused.
 *
 * Reference: Intel SDM volume 2, chapter 2 and appendix A.
 */
#include "analyzer/encoding.h"

/* Bit b of word w: opcode 32 * w + b has a ModRM byte. */
static const uint32_t modrm_1byte[8] = {
    0x0f0f0f0f, 0x0f0f0f0f, 0x00000000, 0x00000a08, /* 00 20 40 60 */
    0x0000ffff, 0x00000000, 0xff0f00c3, 0xc0c00000, /* 80 a0 c0 e0 */
};
static const uint32_t modrm_0f[8] = {
    0xffffa00f, 0xff00ffff, 0xffffffff, 0xff7fffff, /* 00 20 40 60 */
    0xffff0000, 0xfffff8f8, 0xffff00ff, 0xffffffff, /* 80 a0 c0 e0 */
};

static bool has_bit(const uint32_t map[8], uint8_t opcode)
{
	return map[opcode >> 5] >> (opcode & 31) & 1;
}

static uint16_t prefix_bit(uint8_t byte)
{
	switch (byte) {
	case 0xf0:
		return OVM_PREFIX_LOCK;
	case 0xf2:
		return OVM_PREFIX_REPNE;
	case 0xf3:
		return OVM_PREFIX_REP;
	case 0x66:
		return OVM_PREFIX_DATA16;
	case 0x67:
		return OVM_PREFIX_ADDR32;
	case 0x2e:
		return OVM_PREFIX_CS;
	case 0x3e:
		return OVM_PREFIX_DS;
	case 0x64:
		return OVM_PREFIX_FS;
	case 0x65:
		return OVM_PREFIX_GS;
	case 0x26:
	case 0x36:
		return OVM_PREFIX_DS; /* es, ss: no effect in 64-bit mode */
	default:
		return 0;
	}
}

/* Legacy prefixes and REX; a REX byte followed by another prefix has no effect. */
static size_t parse_prefixes(const uint8_t *p, size_t len, struct ovm_encoding *out)
{
	size_t i = 0;
	for (; i < len; i++) {
		uint16_t bit = prefix_bit(p[i]);
		if (bit) {
			out->prefixes |= bit;
			out->rex = 0;
		} else if ((p[i] & 0xf0) == 0x40) {
			out->rex = p[i];
		} else {
			break;
		}
	}
	return i;
}

static bool is_xop(const uint8_t *p, size_t left)
{
	return p[0] == 0x8f && left > 1 && (p[1] & 0x1f) >= 8;
}

/* Escape bytes up to the opcode. Returns the opcode's offset, @len if there is none. */
static size_t parse_escape(const uint8_t *p, size_t i, size_t len, struct ovm_encoding *out)
{
	size_t left = len - i;
	if (p[i] == 0xc5 || p[i] == 0xc4 || p[i] == 0x62 || is_xop(p + i, left)) {
		out->map = OVM_MAP_VECTOR;
		return i + (p[i] == 0xc5 ? 2 : p[i] == 0x62 ? 4 : 3);
	}
	if (p[i] != 0x0f || left < 2)
		return i;
	out->map = OVM_MAP_0F;
	if (p[i + 1] == 0x38 || p[i + 1] == 0x3a) {
		out->map = p[i + 1] == 0x38 ? OVM_MAP_0F38 : OVM_MAP_0F3A;
		return i + 2;
	}
	return i + 1;
}

static bool has_modrm(const uint8_t *p, size_t start, const struct ovm_encoding *enc)
{
	switch (enc->map) {
	case OVM_MAP_1BYTE:
		return has_bit(modrm_1byte, enc->opcode);
	case OVM_MAP_0F:
		return has_bit(modrm_0f, enc->opcode);
	case OVM_MAP_VECTOR:
		return !(enc->opcode == 0x77 &&
			 (p[start] == 0xc5 || p[start] == 0xc4)); /* vzeroupper */
	default:
		return true;
	}
}

/* Displacement that @modrm (and the SIB byte behind it) asks for. */
static bool parse_modrm(const uint8_t *p, size_t i, size_t len, struct ovm_encoding *out)
{
	uint8_t mod = p[i] >> 6, rm = p[i] & 7;
	out->modrm = p[i];
	out->modrm_off = (uint8_t)i++;
	if (mod == 3 || (out->map == OVM_MAP_0F &&
			 (out->opcode & 0xfc) == 0x20)) /* 20..23: control registers */
		return true;
	uint8_t base = rm;
	if (rm == 4) {
		if (i >= len)
			return false;
		base = p[i++] & 7;
	}
	out->disp_len = mod == 1 ? 1 : mod == 2 || base == 5 ? 4 : 0;
	if (!out->disp_len)
		return true;
	out->disp_off = (uint8_t)i;
	return i + out->disp_len <= len;
}

bool ovm_encoding_parse(const uint8_t *bytes, size_t len, struct ovm_encoding *out)
{
	*out = (struct ovm_encoding){0};
	size_t start = parse_prefixes(bytes, len, out);
	if (start >= len || bytes[start] == 0xd5)
		return false;
	size_t i = parse_escape(bytes, start, len, out);
	if (i >= len)
		return false;
	out->opcode = bytes[i];
	out->opcode_off = (uint8_t)i;
	if (has_modrm(bytes, start, out))
		return i + 1 < len && parse_modrm(bytes, i + 1, len, out);
	if (out->map == OVM_MAP_1BYTE && (out->opcode & 0xfc) == 0xa0) { /* movabs %al, moffs */
		out->disp_off = (uint8_t)(i + 1);
		out->disp_len = out->prefixes & OVM_PREFIX_ADDR32 ? 4 : 8;
		return i + 1 + out->disp_len <= len;
	}
	return true;
}

/* Bit as above: the opcode has an immediate that is no branch's distance. */
static const uint32_t imm_1byte[8] = {
    0x30303030, 0x30303030, 0x00000000, 0x00000f00, /* 00 20 40 60 */
    0x0000000b, 0xffff0300, 0x000000c3, 0x00000000, /* 80 a0 c0 e0 */
};

/* Bytes of legacy prefixes, at most one, and REX. */
static unsigned guess_prefixes(const uint8_t *p)
{
	unsigned i = p[0] == 0x66 || (p[0] & 0xfe) == 0xf2;
	return i + ((p[i] & 0xf0) == 0x40);
}

unsigned ovm_encoding_guess_len(const uint8_t *bytes)
{
	const uint8_t *p = bytes + guess_prefixes(bytes);
	bool is_modrm = true, is_imm = false;
	if (p[0] == 0x0f) {
		is_modrm = has_bit(modrm_0f, p[1]);
		p += p[1] == 0x38 || p[1] == 0x3a ? 3 : 2;
	} else if (p[0] == 0xc5 || p[0] == 0xc4 || p[0] == 0x62) { /* VEX, EVEX */
		p += p[0] == 0xc5 ? 3 : p[0] == 0xc4 ? 4 : 5;
	} else {
		is_modrm = has_bit(modrm_1byte, p[0]);
		is_imm = has_bit(imm_1byte, p[0]);
		p++;
	}
	if (is_modrm) {
		unsigned mod = p[0] >> 6, rm = p[0] & 7;
		p += 1 + (mod != 3 && rm == 4);
		p += mod == 1 ? 1 : mod == 2 ? 4 : 0;
	}
	return (unsigned)(p - bytes) + is_imm; /* 2 + 5 + 6 + 1 at most */
}
