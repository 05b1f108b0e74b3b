/* What is the same in two builds of one function?
 *
 * Not its bytes: every call, jump and RIP-relative operand holds a distance, and the distances
 * change when anything else in the program does. So these are left out:
 *
 *   48 8d 05 [d1 2e 00 00]   lea  x(%rip),%rax      address
 *   e8 [1c fe ff ff]         call f                 address
 *   bf [40 10 60 00]         mov  $0x601040,%edi    address, in a file that is not relocatable
 *   74 [0a]                  je   L                 in the region's hash: L, counted from its start
 *   48 83 c7 [10]            add  $16,%rdi          not an address: stays
 *
 * A block is cut at direct branches and their targets within the region, no further analysis: the
 * recorder and the reader only have to cut alike, and need not know jump tables or landing pads.
 *
 * Limits: an immediate that happens to lie among a non-relocatable file's addresses is left out.
 * Padding counts in `code`, not in `opcodes`.
 */
#include "analyzer/blockhash.h"
#include "analyzer/encoding.h"

#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL /* eight bytes at a time: a call would cost as much again */
#include <xxhash.h>

enum { MAX_INSN = 15 };
enum { SEED_CODE = 1, SEED_OPCODES, SEED_REGION, SEED_BEFORE, SEED_BEHIND };

struct key { /* what of an instruction is hashed */
	uint8_t bytes[MAX_INSN];
	uint8_t len;
	uint64_t where; /* of a branch inside its region */
};

static uint64_t mix(uint64_t hash, uint64_t x)
{
	return XXH3_64bits_withSeed(&x, sizeof(x), hash);
}

static bool is_branch(const struct ovm_insn *insn)
{
	return insn->kind == OVM_INSN_JMP || insn->kind == OVM_INSN_JCC ||
	       insn->kind == OVM_INSN_JCXZ;
}

static bool ends_block(const struct ovm_insn *insn)
{
	return is_branch(insn) || ovm_insn_is_end(insn);
}

/* --- one instruction --- */

static bool is_address(const struct ovm_image *image, uint64_t x)
{
	return !image->is_dyn && ovm_va_in(ovm_va_of(x), image->lo, image->hi);
}

/* Immediates are an instruction's last bytes. */
static void hide_immediate(const struct ovm_image *image, const struct ovm_insn *insn,
			   struct key *key)
{
	uint64_t imm = (uint64_t)insn->imm;
	if (!imm || !is_address(image, imm))
		return;
	if (key->len >= 10 && ovm_le64(key->bytes + key->len - 8) == imm)
		memset(key->bytes + key->len - 8, 0, 8);
	else if (key->len >= 5 && ovm_le32(key->bytes + key->len - 4) == (uint32_t)imm)
		memset(key->bytes + key->len - 4, 0, 4);
}

static void hide_displacement(const struct ovm_image *image, const struct ovm_insn *insn,
			      struct key *key)
{
	if (insn->disp_len != 4 || insn->disp_off + 4u > key->len)
		return;
	if (insn->kind == OVM_INSN_CALL || (insn->flags & OVM_INSN_RIP_REL) ||
	    is_address(image, (uint64_t)(int64_t)insn->disp))
		memset(key->bytes + insn->disp_off, 0, 4);
}

/* Branches are short or near as their distance wants: only what they ask counts. */
static struct key branch_key(const struct ovm_insn *insn, ovm_va lo, ovm_va hi)
{
	struct key key = {.bytes = {insn->kind, insn->cc}};
	key.where = ovm_va_in(insn->target, lo, hi) ? insn->target.v - lo.v : UINT64_MAX;
	return key;
}

static struct key key_of(const struct ovm_image *image, const struct ovm_insn *insn,
			 const uint8_t *bytes, ovm_va lo, ovm_va hi)
{
	if (is_branch(insn))
		return branch_key(insn, lo, hi);
	struct key key = {.len = insn->len};
	memcpy(key.bytes, bytes, insn->len);
	hide_displacement(image, insn, &key);
	hide_immediate(image, insn, &key);
	return key;
}

static bool has_opcode_digit(const struct ovm_encoding *enc)
{
	uint8_t op = enc->opcode;
	return enc->map == OVM_MAP_1BYTE &&
	       ((op & 0xfc) == 0x80 || (op & 0xfe) == 0xc0 || (op & 0xfc) == 0xd0 ||
		(op & 0xfe) == 0xf6 || (op & 0xfe) == 0xfe);
}

/* The operation without registers, sizes of immediates and addressing. */
static uint64_t operation(const struct ovm_insn *insn, const uint8_t *bytes)
{
	struct ovm_encoding enc;
	if (is_branch(insn))
		return insn->kind;
	if (!ovm_encoding_parse(bytes, insn->len, &enc))
		return 0;
	uint8_t op = enc.opcode;
	if (enc.map == OVM_MAP_1BYTE &&
	    ((op & 0xf0) == 0x50 || (op & 0xf0) == 0xb0 || (op & 0xf8) == 0x90))
		op &= 0xf8; /* the register is part of the opcode */
	if (enc.map == OVM_MAP_1BYTE && (op == 0x81 || op == 0x6b))
		op = op == 0x81 ? 0x83 : 0x69; /* imm32, imm8 */
	unsigned digit = has_opcode_digit(&enc) ? 8u + ovm_encoding_reg(&enc) : 0;
	unsigned prefixes = enc.prefixes & (OVM_PREFIX_LOCK | OVM_PREFIX_REP | OVM_PREFIX_REPNE);
	return 0x100u | op | (uint64_t)enc.map << 16 | (uint64_t)digit << 24 |
	       (uint64_t)prefixes << 32;
}

/* --- blocks --- */

/* Receives for each byte of the region 1 + the index of the instruction that starts there, or 0. */
static uint32_t *index_insns(const ovm_insns *insns, ovm_va lo, ovm_va hi)
{
	uint32_t *at = ovm_alloc_array(hi.v - lo.v, sizeof(*at));
	for (uint32_t i = 0; i < insns->n; i++)
		at[insns->v[i].va.v - lo.v] = i + 1;
	return at;
}

struct blocks {
	const ovm_insns *insns;
	ovm_va lo, hi;
	const uint32_t *at; /* as above */
	uint32_t *of;	    /* [insns->n]: the block that begins there, or OVM_NONE */
	uint32_t n;
};

/* The instruction that @insn branches to, OVM_NONE: outside, or between instructions. */
static uint32_t target_of(const struct blocks *blocks, const struct ovm_insn *insn)
{
	if (!is_branch(insn) || !ovm_va_in(insn->target, blocks->lo, blocks->hi))
		return OVM_NONE;
	return blocks->at[insn->target.v - blocks->lo.v] - 1; /* 0 becomes OVM_NONE */
}

static void number_blocks(struct blocks *blocks)
{
	const ovm_insns *insns = blocks->insns;
	blocks->of = ovm_alloc_array(insns->n, sizeof(*blocks->of));
	blocks->of[0] = 1;
	for (uint32_t i = 0; i < insns->n; i++) {
		uint32_t target = target_of(blocks, &insns->v[i]);
		if (target != OVM_NONE)
			blocks->of[target] = 1;
		if (ends_block(&insns->v[i]) && i + 1 < insns->n)
			blocks->of[i + 1] = 1;
	}
	for (uint32_t i = 0; i < insns->n; i++)
		blocks->of[i] = blocks->of[i] ? blocks->n++ : OVM_NONE;
}

struct parts { /* of one block's hash, before they are packed */
	uint64_t opcodes, code, before, behind;
	uint32_t last; /* instruction */
};

static void hash_insns(const struct ovm_image *image, const uint8_t *bytes, ovm_va lo, ovm_va hi,
		       const uint32_t *block_of, struct ovm_blockhash *out, struct parts *parts)
{
	struct parts *part = NULL;
	out->hash = SEED_REGION;
	for (uint32_t i = 0; i < out->insns.n; i++) {
		const struct ovm_insn *insn = &out->insns.v[i];
		const uint8_t *p = bytes + (insn->va.v - lo.v);
		if (block_of[i] != OVM_NONE) {
			part = &parts[block_of[i]];
			part->code = SEED_CODE;
			part->opcodes = SEED_OPCODES;
		}
		struct key key = key_of(image, insn, p, lo, hi);
		uint64_t hash = XXH3_64bits(key.bytes, sizeof(key.bytes)) ^ key.len;
		part->code = mix(part->code, hash);
		out->hash = mix(mix(out->hash, hash), key.where ^ (uint64_t)insn->len << 56);
		if (insn->kind != OVM_INSN_NOP && insn->kind != OVM_INSN_JMP)
			part->opcodes = mix(part->opcodes, operation(insn, p));
		part->last = i;
	}
	out->hash += !out->hash;
}

static void join(struct parts *parts, uint32_t src, uint32_t dst)
{
	parts[src].behind += mix(SEED_BEHIND, parts[dst].opcodes);
	parts[dst].before += mix(SEED_BEFORE, parts[src].opcodes);
}

static void hash_neighbours(const struct blocks *blocks, struct parts *parts)
{
	for (uint32_t bb = 0; bb < blocks->n; bb++) {
		const struct ovm_insn *last = &blocks->insns->v[parts[bb].last];
		uint32_t target = target_of(blocks, last);
		if (target != OVM_NONE)
			join(parts, bb, blocks->of[target]);
		if (!ovm_insn_is_end(last) && bb + 1 < blocks->n)
			join(parts, bb, bb + 1);
	}
}

static void pack(const struct parts *parts, uint32_t n_blocks, ovm_va lo, ovm_va hi,
		 struct ovm_blockhash *out)
{
	ovm_vec_reserve(&out->blocks, n_blocks);
	for (uint32_t bb = 0, first = 0; bb < n_blocks; bb++) {
		const struct parts *part = &parts[bb];
		const struct ovm_insn *insns = out->insns.v;
		uint64_t from = insns[first].va.v, last = insns[part->last].va.v;
		uint64_t end = part->last + 1 < out->insns.n ? insns[part->last + 1].va.v : hi.v;
		uint64_t hash = (part->opcodes >> 40) << 40 | (part->code >> 40) << 16 |
				(part->before >> 56) << 8 | part->behind >> 56;
		out->blocks.v[out->blocks.n++] = (struct ovm_hashed_block){
		    (uint32_t)(from - lo.v), (uint32_t)(end - from), (uint32_t)(last - from), hash};
		first = part->last + 1;
	}
}

int ovm_blockhash_build(struct ovm_decoder *dec, const struct ovm_image *image, ovm_va lo,
			ovm_va hi, struct ovm_blockhash *out)
{
	enum ovm_refusal why;
	out->blocks.n = out->insns.n = 0;
	out->hash = 0;
	if (hi.v - lo.v > UINT32_MAX || ovm_decode_range(dec, image, lo, hi, &out->insns, &why) ||
	    !out->insns.n)
		return OVM_REFUSED;
	const uint8_t *bytes = ovm_image_code(image, lo, hi.v - lo.v);
	uint32_t *at = index_insns(&out->insns, lo, hi);
	struct blocks blocks = {.insns = &out->insns, .lo = lo, .hi = hi, .at = at};
	number_blocks(&blocks);
	struct parts *parts = ovm_alloc_array(blocks.n, sizeof(*parts));
	hash_insns(image, bytes, lo, hi, blocks.of, out, parts);
	hash_neighbours(&blocks, parts);
	pack(parts, blocks.n, lo, hi, out);
	free(parts);
	free(blocks.of);
	free(at);
	return 0;
}

void ovm_blockhash_fini(struct ovm_blockhash *out)
{
	ovm_vec_free(&out->blocks);
	ovm_vec_free(&out->insns);
	out->hash = 0;
}
