/* Bytes to ovm_insn records.
 *
 * Three sources, each for what it is best at: MC for the length and the operands; opcode.c's table
 * (one row an MC opcode, made when the decoder is opened) for the meaning; encoding.c for where
 * displacement bytes are. Control flow is read from the opcode bytes themselves: there are few such
 * opcodes and a mistake there is the worst one.
 *
 * LOCK and some other prefixes are instructions of their own to MC. They are glued to what follows:
 * one record, so nothing is ever put between prefix and instruction. glibc branches over a LOCK
 * prefix; cfg.c sends such an edge to the original.
 */
#include "analyzer/disasm.h"
#include "analyzer/encoding.h"
#include "analyzer/known.h"
#include "analyzer/opcode.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_INSN = OVM_KNOWN_BYTES, KNOWN_LOG2 = 13 };
enum {
	CALL_DEFS = 1 << OVM_RAX | 1 << OVM_RCX | 1 << OVM_RDX | 1 << OVM_RSI | 1 << OVM_RDI |
		    1 << OVM_R8 | 1 << OVM_R9 | 1 << OVM_R10 | 1 << OVM_R11 | OVM_MASK_FLAGS,
};

struct known_insn {
	struct ovm_known bytes;
	struct ovm_insn insn;
};

struct ovm_decoder {
	struct ovm_mc *mc;
	struct ovm_opcode_info *opcodes; /* by MC opcode */
	struct ovm_reg_info *regs;	 /* by MC register */
	uint32_t n_opcodes, n_regs;
	struct known_insn *known; /* [1 << KNOWN_LOG2], by hash of the bytes */
};

int ovm_decoder_open(struct ovm_ctx *ctx, struct ovm_decoder **out)
{
	struct ovm_mc *mc = ovm_mc_open();
	if (!mc)
		return ovm_fail(ctx, OVM_E_INTERNAL,
				"this LLVM has no X86 target: install LLVM's X86 libraries");
	struct ovm_decoder *dec = ovm_alloc(sizeof(*dec));
	dec->mc = mc;
	dec->n_regs = ovm_mc_n_regs(mc);
	dec->regs = ovm_alloc_array(dec->n_regs, sizeof(*dec->regs));
	for (uint32_t r = 0; r < dec->n_regs; r++)
		dec->regs[r] = ovm_reg_info_of(ovm_mc_reg_name(mc, r));
	dec->n_opcodes = ovm_mc_n_opcodes(mc);
	dec->opcodes = ovm_alloc_array(dec->n_opcodes, sizeof(*dec->opcodes));
	for (uint32_t i = 0; i < dec->n_opcodes; i++)
		ovm_opcode_info_of(mc, dec->regs, i, &dec->opcodes[i]);
	dec->known = ovm_alloc_array(1 << KNOWN_LOG2, sizeof(*dec->known));
	*out = dec;
	return 0;
}

void ovm_decoder_close(struct ovm_decoder *dec)
{
	if (!dec)
		return;
	ovm_mc_close(dec->mc);
	free(dec->opcodes);
	free(dec->regs);
	free(dec->known);
	free(dec);
}

/* --- control flow, from the opcode bytes --- */

static int64_t read_signed(const uint8_t *p, unsigned len)
{
	return len == 1 ? (int8_t)*p : (int32_t)ovm_le32(p);
}

/* A branch relative to the next instruction. A data16 prefix makes it 16-bit on some processors:
 * refused. */
static void set_relative(struct ovm_insn *insn, const uint8_t *bytes, unsigned width, uint8_t kind,
			 const struct ovm_encoding *enc)
{
	bool is_16bit = (enc->prefixes & OVM_PREFIX_DATA16) && !(enc->rex & 8);
	if (is_16bit || insn->len < enc->opcode_off + 1u + width) {
		insn->kind = OVM_INSN_REFUSE;
		return;
	}
	insn->kind = kind;
	insn->disp_len = (uint8_t)width;
	insn->disp_off = (uint8_t)(insn->len - width);
	insn->imm = 0; /* to MC the distance, or the condition */
	insn->target = ovm_va_add(insn->va, insn->len + read_signed(bytes + insn->disp_off, width));
}

static void set_indirect(struct ovm_insn *insn, const struct ovm_encoding *enc)
{
	unsigned digit = ovm_encoding_reg(enc);
	if (digit < 2 || digit == 6)
		return; /* inc, dec, push */
	bool is_16bit = (enc->prefixes & OVM_PREFIX_DATA16) && !(enc->rex & 8);
	insn->kind = is_16bit || (digit & 1) ? OVM_INSN_REFUSE
		     : digit == 2	     ? OVM_INSN_CALL_IND
					     : OVM_INSN_JMP_IND;
	if (enc->prefixes & OVM_PREFIX_DS)
		insn->flags |= OVM_INSN_NOTRACK;
	insn->form = enc->modrm >= 0xc0 ? OVM_FORM_R : OVM_FORM_M;
	insn->dst_size = insn->src_size = 8;
}

static void set_kind_1byte(struct ovm_insn *insn, const uint8_t *bytes,
			   const struct ovm_encoding *enc)
{
	switch (enc->opcode) {
	case 0xe8:
		set_relative(insn, bytes, 4, OVM_INSN_CALL, enc);
		break;
	case 0xe9:
		set_relative(insn, bytes, 4, OVM_INSN_JMP, enc);
		break;
	case 0xeb:
		set_relative(insn, bytes, 1, OVM_INSN_JMP, enc);
		break;
	case 0xe0:
	case 0xe1:
	case 0xe2:
	case 0xe3:
		set_relative(insn, bytes, 1, OVM_INSN_JCXZ, enc);
		break;
	case 0xc2:
	case 0xc3:
		insn->kind = (enc->prefixes & OVM_PREFIX_DATA16) ? OVM_INSN_REFUSE : OVM_INSN_RET;
		break;
	case 0xcc:
	case 0xf4:
		insn->kind = OVM_INSN_TRAP;
		break;
	case 0xcd:
		insn->kind =
		    bytes[enc->opcode_off + 1] == 0x80 ? OVM_INSN_SYSCALL : OVM_INSN_REFUSE;
		break;
	case 0xca: /* far ret */
	case 0xcb:
	case 0xcf: /* iret */
	case 0xf1: /* int1 */
		insn->kind = OVM_INSN_REFUSE;
		break;
	case 0xc6: /* xabort, xbegin */
	case 0xc7:
		if (enc->modrm == 0xf8)
			insn->kind = OVM_INSN_REFUSE;
		break;
	case 0x90:
		if (!(enc->prefixes & OVM_PREFIX_REP) && !(enc->rex & 1))
			insn->kind = OVM_INSN_NOP;
		break;
	default:
		if ((enc->opcode & 0xf0) == 0x70) {
			set_relative(insn, bytes, 1, OVM_INSN_JCC, enc);
			insn->cc = enc->opcode & 15;
		}
	}
}

static void set_kind_0f(struct ovm_insn *insn, const uint8_t *bytes, const struct ovm_encoding *enc)
{
	switch (enc->opcode) {
	case 0x05:
		insn->kind = OVM_INSN_SYSCALL;
		break;
	case 0x07: /* sysret, sysenter, sysexit, rsm */
	case 0x34:
	case 0x35:
	case 0xaa:
		insn->kind = OVM_INSN_REFUSE;
		break;
	case 0x0b:
	case 0xb9:
	case 0xff:
		insn->kind = OVM_INSN_TRAP;
		break;
	case 0x1f:
		insn->kind = OVM_INSN_NOP;
		break;
	default:
		if ((enc->opcode & 0xf0) == 0x80) {
			set_relative(insn, bytes, 4, OVM_INSN_JCC, enc);
			insn->cc = enc->opcode & 15;
		}
	}
}

static void set_kind(struct ovm_insn *insn, const uint8_t *bytes, const struct ovm_encoding *enc)
{
	if (enc->map == OVM_MAP_1BYTE)
		set_kind_1byte(insn, bytes, enc);
	else if (enc->map == OVM_MAP_0F)
		set_kind_0f(insn, bytes, enc);
	switch (insn->kind) {
	case OVM_INSN_CALL:
	case OVM_INSN_CALL_IND: /* what the callee reads is not known; flags are not passed (psABI)
				 */
		insn->uses |= OVM_MASK_GPRS;
		insn->defs |= CALL_DEFS;
		break;
	case OVM_INSN_RET:
		insn->uses |= OVM_MASK_GPRS;
		break;
	case OVM_INSN_SYSCALL:
		insn->uses = OVM_MASK_ALL;
		insn->defs = 1u << OVM_RAX | 1u << OVM_RCX | 1u << OVM_R11;
		break;
	case OVM_INSN_TRAP:
	case OVM_INSN_REFUSE:
		insn->uses = insn->defs = OVM_MASK_ALL;
		break;
	case OVM_INSN_NOP:
		insn->uses = insn->defs = 0;
		insn->flags &= (uint16_t) ~(OVM_INSN_LOADS | OVM_INSN_STORES);
		break;
	default:
		break;
	}
}

/* --- operands --- */

static void set_memory(const struct ovm_decoder *dec, const struct ovm_mc_insn *mc, unsigned mem,
		       struct ovm_insn *insn)
{
	const struct ovm_reg_info *base = &dec->regs[mc->value[mem]],
				  *index = &dec->regs[mc->value[mem + 2]];
	insn->base = base->reg;
	insn->index = index->reg;
	insn->scale = (uint8_t)mc->value[mem + 1];
	insn->disp = (int32_t)mc->value[mem + 3];
	insn->uses |= base->mask | index->mask;
	if ((base->size == 4 || index->size == 4) && (base->size || index->size))
		insn->flags |= OVM_INSN_ADDR32;
	if (insn->base == OVM_RIP)
		insn->flags |= OVM_INSN_RIP_REL;
	if (insn->form == OVM_FORM_NONE)
		insn->form = OVM_FORM_M;
}

static bool is_memory_operand(const struct ovm_opcode_info *info, unsigned i)
{
	return (info->traits & OVM_TRAIT_MEM) && i - info->mem < 5u;
}

/* Collects the effect of the register operands. dst is the first one, src the first that is not
 * tied to a written one. */
static void set_registers(const struct ovm_decoder *dec, const struct ovm_mc_insn *mc,
			  const struct ovm_opcode_info *info, struct ovm_insn *insn)
{
	bool has_op = info->op != OVM_OP_OTHER || insn->form == OVM_FORM_R ||
		      (info->traits & OVM_TRAIT_SELF_ZERO);
	unsigned n_gpr_defs = 0;
	uint32_t reads = insn->uses, merges = 0;
	for (unsigned i = 0; i < mc->n_operands; i++) {
		if (mc->kind[i] != OVM_MC_REG || is_memory_operand(info, i))
			continue;
		const struct ovm_reg_info *reg = &dec->regs[mc->value[i]];
		bool is_def = i < info->n_defs, is_tied = info->tied >> i & 1;
		if (is_def)
			insn->defs |= reg->mask;
		if (!is_def || (info->traits & OVM_TRAIT_DEFS_USED))
			reads |= reg->mask;
		if (reg->reg == OVM_REG_NONE)
			continue;
		if (reg->is_high)
			insn->flags |= OVM_INSN_HIGH_BYTE;
		if (is_def && reg->size < 4)
			merges |= reg->mask;
		n_gpr_defs += is_def;
		if ((has_op || is_def) && insn->dst == OVM_REG_NONE && insn->form != OVM_FORM_MR) {
			insn->dst = reg->reg;
			if (!insn->dst_size)
				insn->dst_size = reg->size;
		} else if (has_op && !is_tied && insn->src == OVM_REG_NONE) {
			insn->src = reg->reg;
		}
	}
	insn->uses = reads | merges;
	if (merges && !(merges & reads) && n_gpr_defs == 1)
		insn->flags |= OVM_INSN_MERGE;
	if (n_gpr_defs > 1 && info->op == OVM_OP_OTHER)
		insn->dst = OVM_REG_NONE;
}

/* The immediate, sign-extended from the operation's size. */
static void set_immediate(const struct ovm_mc_insn *mc, const struct ovm_opcode_info *info,
			  struct ovm_insn *insn)
{
	bool has_imm = false;
	for (unsigned i = 0; i < mc->n_operands; i++) {
		if (mc->kind[i] != OVM_MC_IMM || is_memory_operand(info, i))
			continue;
		insn->imm = mc->value[i];
		has_imm = true;
	}
	if (!has_imm &&
	    (info->op == OVM_OP_SHL || info->op == OVM_OP_SHR || info->op == OVM_OP_SAR))
		insn->imm = 1;
	switch (info->dst_size) {
	case 1:
		insn->imm = (int8_t)insn->imm;
		break;
	case 2:
		insn->imm = (int16_t)insn->imm;
		break;
	case 4:
		insn->imm = (int32_t)insn->imm;
		break;
	default:
		break;
	}
}

static void apply_traits(const struct ovm_opcode_info *info, const struct ovm_encoding *enc,
			 struct ovm_insn *insn)
{
	if (info->traits & OVM_TRAIT_LOADS)
		insn->flags |= OVM_INSN_LOADS;
	if (info->traits & OVM_TRAIT_STORES)
		insn->flags |= OVM_INSN_STORES;
	if ((info->traits & OVM_TRAIT_STRING) &&
	    (enc->prefixes & (OVM_PREFIX_REP | OVM_PREFIX_REPNE))) {
		insn->uses |= 1u << OVM_RCX | insn->defs;
		insn->defs |= 1u << OVM_RCX;
	}
	unsigned count_mask = insn->dst_size == 8 || (enc->rex & 8) ? 63 : 31;
	if ((info->traits & OVM_TRAIT_SHIFT_IMM) && (insn->imm & count_mask) == 0)
		insn->uses |= OVM_MASK_FLAGS;
	if ((info->traits & OVM_TRAIT_SELF_ZERO) && insn->dst != OVM_REG_NONE &&
	    insn->dst == insn->src && insn->dst_size >= 4)
		insn->uses &= ~(1u << insn->dst);
	if (insn->form == OVM_FORM_RI && insn->dst_size >= 4 &&
	    ((insn->op == OVM_OP_OR && insn->imm == -1) ||
	     (insn->op == OVM_OP_AND && insn->imm == 0)))
		insn->uses &= ~(1u << insn->dst); /* a constant */
	if (info->traits & OVM_TRAIT_OPAQUE) {
		insn->flags |= OVM_INSN_OPAQUE;
		insn->uses = insn->defs = OVM_MASK_ALL;
	}
}

static void fill(const struct ovm_decoder *dec, const struct ovm_mc_insn *mc,
		 const struct ovm_encoding *enc, const uint8_t *bytes, struct ovm_insn *insn)
{
	const struct ovm_opcode_info *info = &dec->opcodes[mc->opcode];
	insn->op = info->op;
	insn->form = info->form;
	insn->dst_size = info->dst_size;
	insn->src_size = info->src_size;
	insn->uses = info->uses;
	insn->defs = info->defs;
	insn->modrm_off = enc->modrm_off;
	insn->disp_off = enc->disp_off;
	insn->disp_len = enc->disp_len;
	if (enc->map == OVM_MAP_1BYTE && enc->opcode == 0xff)
		set_indirect(insn, enc);
	if ((info->traits & OVM_TRAIT_MEM) && info->mem + 5u <= mc->n_operands)
		set_memory(dec, mc, info->mem, insn);
	if (info->traits & OVM_TRAIT_IMPLICIT_DST)
		insn->dst = OVM_RAX;
	if (info->op == OVM_OP_MOVSX && insn->dst == OVM_RAX)
		insn->src = OVM_RAX; /* cltq */
	set_registers(dec, mc, info, insn);
	set_immediate(mc, info, insn);
	apply_traits(info, enc, insn);
	if (insn->base != OVM_REG_NONE || insn->index != OVM_REG_NONE || enc->disp_len)
		insn->segment = enc->prefixes & OVM_PREFIX_FS	? 'f'
				: enc->prefixes & OVM_PREFIX_GS ? 'g'
								: 0;
	set_kind(insn, bytes, enc);
	if (insn->flags & OVM_INSN_RIP_REL)
		insn->target = ovm_va_add(insn->va, insn->len + (int64_t)insn->disp);
}

/* LOCK before anything but these, or before a register, is an invalid instruction, which MC does
 * not say. */
static bool takes_lock(const struct ovm_encoding *enc)
{
	unsigned op = enc->opcode, reg = ovm_encoding_reg(enc);
	if (!enc->modrm_off || enc->modrm >> 6 == 3)
		return false;
	if (enc->map == OVM_MAP_1BYTE)
		return (op < 0x38 && (op & 7) < 2) || op == 0x86 || op == 0x87 || /* add.. xchg */
		       ((op == 0x80 || op == 0x81 || op == 0x83) && reg != 7) ||
		       ((op == 0xf6 || op == 0xf7) && (reg == 2 || reg == 3)) || /* not neg */
		       (op >= 0xfe && reg < 2);					 /* inc dec */
	return enc->map == OVM_MAP_0F &&
	       (op == 0xab || op == 0xb3 || op == 0xbb || (op == 0xba && reg > 4) || /* bts.. */
		op == 0xb0 || op == 0xb1 || op == 0xc0 || op == 0xc1 || /* cmpxchg xadd */
		(op == 0xc7 && reg == 1));				/* cmpxchg8b */
}

static unsigned decode(struct ovm_decoder *dec, const uint8_t *bytes, size_t avail, ovm_va va,
		       struct ovm_insn *out)
{
	struct ovm_mc_insn mc;
	struct ovm_encoding enc;
	unsigned len = 0;
	bool is_glued = false;
	for (;;) {
		unsigned n = ovm_mc_decode(dec->mc, bytes + len, avail - len, va.v + len, &mc);
		if (!n)
			return 0;
		len += n;
		if (!(dec->opcodes[mc.opcode].traits & OVM_TRAIT_PREFIX))
			break;
		is_glued = true;
	}
	if (!ovm_encoding_parse(bytes, len, &enc))
		return 0;
	if ((enc.prefixes & OVM_PREFIX_LOCK) && !takes_lock(&enc))
		return 0;
	*out = (struct ovm_insn){.va = va,
				 .len = (uint8_t)len,
				 .dst = OVM_REG_NONE,
				 .src = OVM_REG_NONE,
				 .base = OVM_REG_NONE,
				 .index = OVM_REG_NONE,
				 .flags = is_glued ? OVM_INSN_GLUED : 0};
	fill(dec, &mc, &enc, bytes, out);
	return len;
}

/* --- known instructions --- */

static bool is_relative(const struct ovm_insn *insn)
{
	return insn->kind == OVM_INSN_JMP || insn->kind == OVM_INSN_JCC ||
	       insn->kind == OVM_INSN_JCXZ || insn->kind == OVM_INSN_CALL;
}

static void remember(struct known_insn *known, const uint8_t *bytes, const struct ovm_insn *insn)
{
	bool has_field = is_relative(insn) || (insn->flags & OVM_INSN_RIP_REL);
	ovm_known_set(&known->bytes, bytes, insn->len, insn->disp_off,
		      has_field ? insn->disp_len : 0);
	known->insn = *insn;
}

/* The known instruction at another place, with the field that stands there. */
static void recall(const struct known_insn *known, const uint8_t *bytes, ovm_va va,
		   struct ovm_insn *out)
{
	*out = known->insn;
	out->va = va;
	bool relative = is_relative(out);
	if (!relative && !(out->flags & OVM_INSN_RIP_REL))
		return;
	int64_t field = read_signed(bytes + out->disp_off, out->disp_len);
	if (!relative)
		out->disp = (int32_t)field;
	out->target = ovm_va_add(va, out->len + field);
}

unsigned ovm_decode_one(struct ovm_decoder *dec, const uint8_t *bytes, size_t avail, ovm_va va,
			struct ovm_insn *out)
{
	if (avail < MAX_INSN)
		return decode(dec, bytes, avail, va, out);
	struct known_insn *known = &dec->known[ovm_known_hash(bytes) & ((1u << KNOWN_LOG2) - 1)];
	if (ovm_known_is(&known->bytes, bytes)) {
		recall(known, bytes, va, out);
		return out->len;
	}
	unsigned len = decode(dec, bytes, MAX_INSN, va, out);
	if (len)
		remember(known, bytes, out);
	return len;
}

int ovm_decode_range(struct ovm_decoder *dec, const struct ovm_image *image, ovm_va lo, ovm_va hi,
		     ovm_insns *out, enum ovm_refusal *why)
{
	*why = OVM_REFUSE_DECODE;
	if (hi.v <= lo.v)
		return OVM_REFUSED;
	const uint8_t *bytes = ovm_image_code(image, lo, hi.v - lo.v);
	if (!bytes)
		return OVM_REFUSED;
	uint64_t size = hi.v - lo.v;
	for (uint64_t at = 0; at < size;) {
		ovm_vec_reserve(out, out->n + 1);
		struct ovm_insn *insn = &out->v[out->n];
		unsigned len =
		    ovm_decode_one(dec, bytes + at, size - at, ovm_va_add(lo, (int64_t)at), insn);
		if (!len)
			return OVM_REFUSED;
		out->n++;
		if (insn->kind == OVM_INSN_REFUSE) {
			*why = OVM_REFUSE_SPECIAL_INSN;
			return OVM_REFUSED;
		}
		at += len;
	}
	*why = OVM_REFUSE_NONE;
	return 0;
}

const char *ovm_decoder_text(struct ovm_decoder *dec, const uint8_t *bytes, size_t avail, ovm_va va,
			     char *buf, size_t size)
{
	struct ovm_insn insn;
	size_t used = 0;
	unsigned len = ovm_decode_one(dec, bytes, avail, va, &insn);
	if (!len && size)
		snprintf(buf, size, "(bad)");
	for (unsigned at = 0; at < len && used + 1 < size;) {
		if (used)
			buf[used++] = ' ';
		unsigned n =
		    ovm_mc_print(dec->mc, bytes + at, len - at, va.v + at, buf + used, size - used);
		if (!n)
			break;
		at += n;
		used += strlen(buf + used);
	}
	return buf;
}
