/* Developer's tool: decode every region of the files given and compare with Zydis: lengths, control
 * flow, displacement fields, registers and flags read and written. Prints one example of each kind
 * of difference, and the speed.
 *
 *   decode_audit [-q] FILE...        -q: no comparison, only the speed
 */
#include "analyzer/disasm.h"
#include "analyzer/region.h"
#include "tests/support/zydis_insn.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t n_bad[16];
static const char *const names[] = {
    "length",	 "kind",      "disp field",	   "target",	      "missing use", "missing def",
    "extra def", "flags use", "flags missing def", "flags extra def", "modrm"};

static void bad(unsigned what, const char *path, const struct ovm_insn *insn,
		struct ovm_decoder *dec, const uint8_t *p, uint32_t ours, uint32_t theirs)
{
	char text[128];
	if (n_bad[what]++ < 12) {
		printf("%s: %s %#lx %s: ours %x zydis %x  kind %u\n", names[what], path,
		       (unsigned long)insn->va.v,
		       ovm_decoder_text(dec, p, 15, insn->va, text, sizeof(text)), ours, theirs,
		       insn->kind);
	}
}

static uint32_t gpr_mask(ZydisRegister reg)
{
	ZydisRegister full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
	if (full >= ZYDIS_REGISTER_RAX && full <= ZYDIS_REGISTER_R15)
		return 1u << (full - ZYDIS_REGISTER_RAX);
	return 0;
}

static void registers(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops,
		      uint32_t *uses, uint32_t *must, uint32_t *may)
{
	*uses = *must = *may = 0;
	for (unsigned i = 0; i < z->operand_count; i++) {
		const ZydisDecodedOperand *op = &ops[i];
		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			*uses |= gpr_mask(op->mem.base) | gpr_mask(op->mem.index);
			continue;
		}
		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		uint32_t m = gpr_mask(op->reg.value);
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
			*uses |= m;
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			*may |= m;
		if ((op->actions & ZYDIS_OPERAND_ACTION_WRITE) && op->size >= 32)
			*must |= m;
		else if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			*uses |= m;
	}
}

static void compare(const char *path, struct ovm_decoder *dec, const struct ovm_insn *insn,
		    const uint8_t *p, size_t avail, ZydisDecoder *zd)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(zd, p, avail, &z, ops))) {
		bad(0, path, insn, dec, p, insn->len, 0);
		return;
	}
	if (z.length != insn->len) {
		bad(0, path, insn, dec, p, insn->len, z.length);
		return;
	}
	unsigned kind = zydis_kind(&z, ops), off, len;
	if (!zydis_same_kind(insn->kind, kind))
		bad(1, path, insn, dec, p, insn->kind, kind);
	zydis_disp(&z, &off, &len);
	if (off != insn->disp_off || len != insn->disp_len)
		bad(2, path, insn, dec, p, insn->disp_off, off);
	unsigned modrm = (z.attributes & ZYDIS_ATTRIB_HAS_MODRM) ? z.raw.modrm.offset : 0;
	if (modrm != insn->modrm_off)
		bad(10, path, insn, dec, p, insn->modrm_off, modrm);
	ZyanU64 target;
	if (zydis_target(&z, ops, insn->va.v, &target) && target != insn->target.v)
		bad(3, path, insn, dec, p, (uint32_t)insn->target.v, (uint32_t)target);
	if (insn->kind == OVM_INSN_CALL || insn->kind == OVM_INSN_CALL_IND ||
	    insn->kind == OVM_INSN_RET || insn->kind == OVM_INSN_SYSCALL ||
	    insn->kind == OVM_INSN_TRAP || insn->kind == OVM_INSN_NOP ||
	    (insn->flags & OVM_INSN_OPAQUE))
		return;
	uint32_t uses, must, may;
	registers(&z, ops, &uses, &must, &may);
	bool is_zero = (z.mnemonic == ZYDIS_MNEMONIC_XOR || z.mnemonic == ZYDIS_MNEMONIC_SUB ||
			z.mnemonic == ZYDIS_MNEMONIC_SBB) &&
		       ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		       ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		       ops[0].reg.value == ops[1].reg.value;
	bool is_constant = (insn->op == OVM_OP_OR && insn->imm == -1) ||
			   (insn->op == OVM_OP_AND && insn->imm == 0);
	uint32_t gprs = OVM_MASK_GPRS & ~(1u << OVM_RSP);
	if ((uses & ~insn->uses & gprs) && !is_zero && !is_constant)
		bad(4, path, insn, dec, p, insn->uses, uses);
	if (may & ~insn->defs & gprs)
		bad(5, path, insn, dec, p, insn->defs, may);
	if (insn->defs & ~insn->uses & ~must & gprs)
		bad(6, path, insn, dec, p, insn->defs, must);
	const uint32_t arith = ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF |
			       ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_SF | ZYDIS_CPUFLAG_OF;
	uint32_t tested = 0, changed = 0;
	if (z.cpu_flags) {
		tested = z.cpu_flags->tested & arith;
		changed = (z.cpu_flags->modified | z.cpu_flags->set_0 | z.cpu_flags->set_1 |
			   z.cpu_flags->undefined) &
			  arith;
	}
	if (tested && !(insn->uses & OVM_MASK_FLAGS))
		bad(7, path, insn, dec, p, insn->uses, tested);
	if (changed && !(insn->defs & OVM_MASK_FLAGS))
		bad(8, path, insn, dec, p, insn->defs, changed);
	if ((insn->defs & OVM_MASK_FLAGS) && !(insn->uses & OVM_MASK_FLAGS) && changed != arith)
		bad(9, path, insn, dec, p, insn->defs, changed);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
	struct ovm_ctx ctx;
	struct ovm_decoder *dec;
	ovm_ctx_init(&ctx);
	double t0 = now();
	if (ovm_decoder_open(&ctx, &dec) != 0)
		return 1;
	printf("open %.1f ms\n", (now() - t0) * 1e3);
	bool is_quiet = argc > 1 && strcmp(argv[1], "-q") == 0;
	ZydisDecoder zd;
	ZydisDecoderInit(&zd, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (int a = 1 + is_quiet; a < argc; a++) {
		struct ovm_image *image;
		struct ovm_regions regions = {0};
		if (ovm_image_open(&ctx, argv[a], &image) != 0 ||
		    ovm_regions_build(&ctx, image, &regions) != 0) {
			printf("%s: %s\n", argv[a], ctx.msg);
			continue;
		}
		uint64_t n = 0, n_decode = 0, n_special = 0, n_opaque = 0;
		double t = 0;
		ovm_insns insns = {0};
		for (uint32_t r = 0; r < regions.v.n; r++) {
			enum ovm_refusal why;
			insns.n = 0;
			t0 = now();
			int err = ovm_decode_range(dec, image, regions.v.v[r].lo, regions.v.v[r].hi,
						   &insns, &why);
			t += now() - t0;
			n += insns.n;
			if (err) {
				*(why == OVM_REFUSE_DECODE ? &n_decode : &n_special) += 1;
				if (why != OVM_REFUSE_DECODE || n_decode < 5) {
					char text[100];
					ovm_va at = insns.n
							? ovm_va_add(insns.v[insns.n - 1].va,
								     why == OVM_REFUSE_DECODE
									 ? insns.v[insns.n - 1].len
									 : 0)
							: regions.v.v[r].lo;
					const uint8_t *p = ovm_image_at(image, at, 15);
					printf("refused %s at %#lx %s\n", ovm_refusal_id(why),
					       (unsigned long)at.v,
					       p ? ovm_decoder_text(dec, p, 15, at, text, 100)
						 : "?");
				}
				continue;
			}
			for (uint32_t i = 0; i < insns.n && !is_quiet; i++) {
				const uint8_t *p =
				    ovm_image_at(image, insns.v[i].va, insns.v[i].len);
				if ((insns.v[i].flags & OVM_INSN_OPAQUE) &&
				    insns.v[i].kind != OVM_INSN_TRAP &&
				    insns.v[i].kind != OVM_INSN_RET && n_opaque++ < 10) {
					char text[100];
					puts(ovm_decoder_text(dec, p, insns.v[i].len, insns.v[i].va,
							      text, 100));
				}
				compare(argv[a], dec, &insns.v[i], p, insns.v[i].len, &zd);
			}
		}
		printf("%s: %u regions, %lu insns, %lu undecodable, %lu special, %lu opaque, %.3f "
		       "s, %.1f M/s\n",
		       argv[a], regions.v.n, (unsigned long)n, (unsigned long)n_decode,
		       (unsigned long)n_special, (unsigned long)n_opaque, t, (double)n / t * 1e-6);
		ovm_vec_free(&insns);
		ovm_regions_free(&regions);
		ovm_image_close(image);
	}
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		printf("%s: %lu\n", names[i], (unsigned long)n_bad[i]);
	ovm_decoder_close(dec);
	return 0;
}
