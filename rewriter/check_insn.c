/* The second decoder (rule R8) and what "the same instruction" means.
 *
 * Zydis decodes; from its raw fields comes the little the proof needs: where control goes, which
 * bytes hold an address that depends on the place. Two instructions are the same if all other bytes
 * are equal and the addresses are equal:
 *
 *   48 8d 05 [a1 0f 00 00]  lea 0xfa1(%rip), %rax     at 0x1000: 0x1fa8
 *   48 8d 05 [a1 cf ff ff]  lea -0x305f(%rip), %rax   at 0x5000: 0x1fa8      same
 *
 * Classes of instructions are told from opcode bytes, as disasm.c does from its own; what is not on
 * the list is plain. Which flags an instruction reads and writes is in Zydis' full tables only,
 * which cost three times as much: a second decoder, asked for counters alone.
 */
#include "rewriter/check_private.h"

#include <string.h>

void ovm_check_flags_decoder_init(ZydisDecoder *dec)
{
	ZyanStatus status = ZydisDecoderInit(dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	OVM_ASSERT(ZYAN_SUCCESS(status));
	ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_MPX,
			       ZYAN_FALSE); /* decode bnd as nops of old */
	ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_CET, ZYAN_TRUE);
}

void ovm_check_decoder_init(ZydisDecoder *dec)
{
	ovm_check_flags_decoder_init(dec);
	ZyanStatus status = ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_MINIMAL, ZYAN_TRUE);
	OVM_ASSERT(ZYAN_SUCCESS(status));
}

static bool has_prefix(const ZydisDecodedInstruction *insn, uint8_t value)
{
	for (unsigned i = 0; i < insn->raw.prefix_count; i++)
		if (insn->raw.prefixes[i].value == value)
			return true;
	return false;
}

static bool is_16bit(const ZydisDecodedInstruction *insn)
{
	return has_prefix(insn, 0x66) && !insn->raw.rex.W;
}

/* A displacement from the next instruction. Some processors truncate it with a data16 prefix:
 * refused. */
static uint8_t relative(const ZydisDecodedInstruction *insn, uint64_t va, uint8_t kind,
			struct ovm_check_insn *out)
{
	if (is_16bit(insn))
		return OVM_INSN_REFUSE;
	OVM_ASSERT(insn->raw.imm[0].is_relative &&
		   (insn->raw.imm[0].size == 8 || insn->raw.imm[0].size == 32));
	out->field_off = insn->raw.imm[0].offset;
	out->field_len = insn->raw.imm[0].size / 8;
	out->target = va + insn->length + (uint64_t)insn->raw.imm[0].value.s;
	return kind;
}

static uint8_t indirect(const ZydisDecodedInstruction *insn)
{
	switch (insn->raw.modrm.reg) {
	case 0: /* inc, dec, push */
	case 1:
	case 6:
		return OVM_INSN_OTHER;
	case 2:
		return is_16bit(insn) ? OVM_INSN_REFUSE : OVM_INSN_CALL_IND;
	case 4:
		return is_16bit(insn) ? OVM_INSN_REFUSE : OVM_INSN_JMP_IND;
	default:
		return OVM_INSN_REFUSE;
	}
}

static uint8_t kind_1byte(const ZydisDecodedInstruction *insn, uint64_t va,
			  struct ovm_check_insn *out)
{
	uint8_t op = insn->opcode;
	switch (op) {
	case 0xe8:
		return relative(insn, va, OVM_INSN_CALL, out);
	case 0xe9:
	case 0xeb:
		return relative(insn, va, OVM_INSN_JMP, out);
	case 0xe0:
	case 0xe1:
	case 0xe2:
	case 0xe3:
		return relative(insn, va, OVM_INSN_JCXZ, out);
	case 0xc2:
	case 0xc3:
		return has_prefix(insn, 0x66) ? OVM_INSN_REFUSE : OVM_INSN_RET;
	case 0xcc:
	case 0xf4:
		return OVM_INSN_TRAP;
	case 0xcd:
		return insn->raw.imm[0].value.u == 0x80 ? OVM_INSN_SYSCALL : OVM_INSN_REFUSE;
	case 0xca: /* far ret, iret, int1 */
	case 0xcb:
	case 0xcf:
	case 0xf1:
		return OVM_INSN_REFUSE;
	case 0xc6: /* xabort, xbegin */
	case 0xc7:
		return insn->raw.modrm.mod == 3 && insn->raw.modrm.reg == 7 ? OVM_INSN_REFUSE
									    : OVM_INSN_OTHER;
	case 0x90:
		return has_prefix(insn, 0xf3) || insn->raw.rex.B ? OVM_INSN_OTHER : OVM_INSN_NOP;
	case 0xff:
		return indirect(insn);
	default:
		out->cc = op & 15;
		return (op & 0xf0) == 0x70 ? relative(insn, va, OVM_INSN_JCC, out) : OVM_INSN_OTHER;
	}
}

static uint8_t kind_0f(const ZydisDecodedInstruction *insn, uint64_t va, struct ovm_check_insn *out)
{
	uint8_t op = insn->opcode;
	switch (op) {
	case 0x05:
		return OVM_INSN_SYSCALL;
	case 0x07: /* sysret, sysenter, sysexit, rsm */
	case 0x34:
	case 0x35:
	case 0xaa:
		return OVM_INSN_REFUSE;
	case 0x0b:
	case 0xb9:
	case 0xff:
		return OVM_INSN_TRAP;
	case 0x1f:
		return OVM_INSN_NOP;
	default:
		out->cc = op & 15;
		return (op & 0xf0) == 0x80 ? relative(insn, va, OVM_INSN_JCC, out) : OVM_INSN_OTHER;
	}
}

static void memory_operand(const ZydisDecodedInstruction *insn, uint64_t va,
			   struct ovm_check_insn *out)
{
	out->modrm_off = insn->raw.modrm.offset;
	out->sib_off = insn->raw.sib.offset;
	if (!insn->raw.disp.size)
		return;
	out->disp_off = insn->raw.disp.offset;
	out->disp_len = insn->raw.disp.size / 8;
	out->disp = insn->raw.disp.value;
	if (!insn->raw.modrm.offset || insn->raw.modrm.mod || insn->raw.modrm.rm != 5)
		return;
	if (has_prefix(insn, 0x67)) {
		out->kind = OVM_INSN_REFUSE; /* eip-relative */
		return;
	}
	out->is_rip = true;
	out->field_off = out->disp_off;
	out->field_len = 4;
	out->target = va + insn->length + (uint64_t)out->disp;
}

static void describe(const ZydisDecodedInstruction *insn, uint64_t va, struct ovm_check_insn *out)
{
	*out = (struct ovm_check_insn){.len = insn->length, .kind = OVM_INSN_OTHER};
	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
		if (insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
			out->kind = kind_1byte(insn, va, out);
		else if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F)
			out->kind = kind_0f(insn, va, out);
	}
	memory_operand(insn, va, out);
}

bool ovm_check_decode(const ZydisDecoder *dec, const uint8_t *p, size_t avail, uint64_t va,
		      struct ovm_check_insn *out)
{
	ZydisDecodedInstruction insn;
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(dec, NULL, p, avail, &insn)))
		return false;
	describe(&insn, va, out);
	return true;
}

/* A shift by a count that may be 0, a string comparison of what may be no bytes: then all flags
 * stay. Rotates are in the same opcodes. */
static bool may_keep_flags(const ZydisDecodedInstruction *insn)
{
	uint8_t op = insn->opcode;
	bool by_constant, by_cl;
	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return false;
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT) {
		if (op == 0xa6 || op == 0xa7 || op == 0xae || op == 0xaf) /* cmps, scas */
			return has_prefix(insn, 0xf2) || has_prefix(insn, 0xf3);
		by_constant = op == 0xc0 || op == 0xc1;
		by_cl = op == 0xd2 || op == 0xd3;
	} else { /* shld, shrd */
		bool is_0f = insn->opcode_map == ZYDIS_OPCODE_MAP_0F;
		by_constant = is_0f && (op == 0xa4 || op == 0xac);
		by_cl = is_0f && (op == 0xa5 || op == 0xad);
	}
	unsigned mask = insn->raw.rex.W ? 63 : 31;
	return by_cl || (by_constant && !(insn->raw.imm[0].value.u & mask));
}

bool ovm_check_decode_flags(const ZydisDecoder *dec, const uint8_t *p, size_t avail, uint64_t va,
			    struct ovm_check_insn *out, struct ovm_check_flags *flags)
{
	ZydisDecodedInstruction insn;
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(dec, NULL, p, avail, &insn)))
		return false;
	describe(&insn, va, out);
	const ZydisAccessedFlags *all = insn.cpu_flags;
	OVM_ASSERT(all);
	*flags = (struct ovm_check_flags){.read = all->tested};
	if (!may_keep_flags(&insn))
		flags->written = all->modified | all->set_0 | all->set_1 | all->undefined;
	return true;
}

bool ovm_check_same(const uint8_t *a, const struct ovm_check_insn *old, const uint8_t *b,
		    const struct ovm_check_insn *new)
{
	unsigned end = old->field_off + old->field_len;
	if (old->len != new->len || old->kind != new->kind || old->field_off != new->field_off ||
	    old->field_len != new->field_len || old->target != new->target)
		return false;
	return !memcmp(a, b, old->field_off) && !memcmp(a + end, b + end, old->len - end);
}

/* movslq m, r64 / mov m, r32 (a cltq follows) / mov m, r64 / jmp *m, with no prefix but REX and
 * notrack. */
static bool loads_entry(const uint8_t *p, const struct ovm_check_insn *insn, unsigned entry_size)
{
	unsigned op = insn->modrm_off - 1u, prefixes = op;
	bool rex_w = false;
	if (!insn->modrm_off)
		return false;
	if (prefixes && (p[op - 1] & 0xf0) == 0x40) {
		rex_w = p[op - 1] & 8;
		prefixes--;
	}
	if (insn->kind == OVM_INSN_JMP_IND)
		return entry_size == 8 && (!prefixes || (prefixes == 1 && p[0] == 0x3e));
	if (prefixes)
		return false;
	return entry_size == 4 ? p[op] == (rex_w ? 0x63 : 0x8b)
			       : entry_size == 8 && rex_w && p[op] == 0x8b;
}

bool ovm_check_same_load(const uint8_t *a, const struct ovm_check_insn *old, const uint8_t *b,
			 const struct ovm_check_insn *new, int64_t delta, unsigned entry_size)
{
	unsigned m = old->modrm_off;
	if (old->kind != new->kind || old->is_rip || new->is_rip || m != new->modrm_off ||
	    old->sib_off != new->sib_off || !loads_entry(a, old, entry_size) || memcmp(a, b, m) ||
	    (a[m] & 0x3f) != (b[m] & 0x3f) || a[m] >> 6 == 3 || b[m] >> 6 == 3)
		return false;
	if (old->sib_off && a[old->sib_off] != b[new->sib_off])
		return false;
	/* no base register (mod 0, SIB base 5) and "base rbp or r13" are told apart by mod only */
	bool old_bare = a[m] >> 6 == 0 && old->sib_off && (a[old->sib_off] & 7) == 5;
	bool new_bare = b[m] >> 6 == 0 && new->sib_off && (b[new->sib_off] & 7) == 5;
	if (old_bare != new_bare)
		return false;
	unsigned old_end = m + 1u + !!old->sib_off + old->disp_len,
		 new_end = m + 1u + !!new->sib_off + new->disp_len;
	if (old_end != old->len || new_end != new->len)
		return false;
	return (new_bare ? new->disp >= 0 && old->disp >= 0 : true) &&
	       new->disp - old->disp == delta;
}

static bool agree(const struct ovm_insn *a, const struct ovm_check_insn *b)
{
	bool relative = a->kind == OVM_INSN_JMP || a->kind == OVM_INSN_JCC ||
			a->kind == OVM_INSN_JCXZ || a->kind == OVM_INSN_CALL;
	if (a->len != b->len || a->kind != b->kind || !!(a->flags & OVM_INSN_RIP_REL) != b->is_rip)
		return false;
	if (a->kind == OVM_INSN_JCC && a->cc != b->cc)
		return false;
	if (!relative && !b->is_rip)
		return true;
	return a->target.v == b->target && a->disp_off == b->field_off &&
	       a->disp_len == b->field_len;
}

int ovm_check_decoders(const struct ovm_image *image, const struct ovm_insn *insns, uint32_t n,
		       struct ovm_check_known *known)
{
	ZydisDecoder dec;
	ovm_check_decoder_init(&dec);
	const struct ovm_segment *segment = NULL;
	for (uint32_t i = 0; i < n; i++) {
		const struct ovm_insn *insn = &insns[i];
		struct ovm_check_insn second;
		if (!segment || insn->va.v - segment->lo.v >= segment->filesz)
			segment = ovm_image_segment(image, insn->va);
		if (!segment || insn->va.v - segment->lo.v >= segment->filesz)
			return OVM_REFUSED;
		uint64_t avail = segment->filesz - (insn->va.v - segment->lo.v);
		const uint8_t *p = ovm_image_code(image, insn->va, avail < 15 ? avail : 15);
		if (!p ||
		    !ovm_check_decode_known(known, &dec, p, avail < 15 ? avail : 15, insn->va.v,
					    &second) ||
		    !agree(insn, &second))
			return OVM_REFUSED;
	}
	return 0;
}
