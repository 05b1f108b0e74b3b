/* decode_check FILE...: every instruction of every region of the files, decoded by LLVM MC (as the
 * builder does) and by Zydis' full tables: length, control flow, target and displacement field are
 * equal, or the product refuses the region (ovm_check_decoders). Then everything is copied, proved,
 * and each copied instruction decoded once more next to its original: same mnemonic and operands
 * but for displacements, or a branch of the same or the opposite condition.
 *
 * One line a file; exit status 1 if anything disagrees unnoticed or a copy cannot be proved.
 */
#include "analyzer/disasm.h"
#include "rewriter/check.h"
#include "rewriter/elf_write.h"
#include "rewriter/engine.h"
#include "tests/support/zydis_insn.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct totals {
	uint64_t files, no_code, regions, insns, undecoded, special, disagree, copied, pairs, bad;
};

struct audit {
	struct ovm_ctx ctx;
	struct ovm_decoder *dec;
	ZydisDecoder zydis;
	const char *path;
	struct ovm_image *image;
	struct totals n; /* of this file */
};

static void complain(struct audit *a, ovm_va va, const char *what)
{
	if (a->n.bad++ < 5)
		printf("FAIL %s 0x%llx: %s\n", a->path, (unsigned long long)va.v, what);
}

static bool decode(const struct audit *a, const uint8_t *p, size_t n, ZydisDecodedInstruction *z,
		   ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT])
{
	return p && ZYAN_SUCCESS(ZydisDecoderDecodeFull(&a->zydis, p, n, z, ops));
}

/* What Zydis reads differently in this instruction, NULL if nothing. */
static const char *difference(const struct audit *a, const struct ovm_insn *insn)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZyanU64 target;
	unsigned off, len;
	if (!decode(a, ovm_image_at(a->image, insn->va, insn->len), insn->len, &z, ops) ||
	    z.length != insn->len)
		return "length";
	if (!zydis_same_kind(insn->kind, zydis_kind(&z, ops)))
		return "control flow";
	zydis_disp(&z, &off, &len);
	if (off != insn->disp_off || len != insn->disp_len)
		return "displacement field";
	if (zydis_target(&z, ops, insn->va.v, &target) && target != insn->target.v)
		return "target";
	return NULL;
}

static void compare_regions(struct audit *a, const struct ovm_regions *regions)
{
	ovm_insns insns = {0};
	for (uint32_t r = 0; r < regions->v.n; r++) {
		enum ovm_refusal why;
		insns.n = 0;
		if (ovm_decode_range(a->dec, a->image, regions->v.v[r].lo, regions->v.v[r].hi,
				     &insns, &why)) {
			*(why == OVM_REFUSE_DECODE ? &a->n.undecoded : &a->n.special) += 1;
			continue;
		}
		a->n.insns += insns.n;
		if (ovm_check_decoders(a->image, insns.v, insns.n, NULL)) {
			a->n.disagree++;
			continue;
		}
		for (uint32_t i = 0; i < insns.n; i++) {
			const char *what = difference(a, &insns.v[i]);
			if (what)
				complain(a, insns.v[i].va, what);
		}
	}
	a->n.regions += regions->v.n;
	ovm_vec_free(&insns);
}

/* --- copies
 * ----------------------------------------------------------------------------------------------------
 */

static bool same_operand(const ZydisDecodedOperand *x, const ZydisDecodedOperand *y)
{
	if (x->type != y->type || x->size != y->size || x->actions != y->actions)
		return false;
	switch (x->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		return x->reg.value == y->reg.value;
	case ZYDIS_OPERAND_TYPE_MEMORY: /* the displacement is the checker's matter */
		return x->mem.segment == y->mem.segment && x->mem.base == y->mem.base &&
		       x->mem.index == y->mem.index && x->mem.scale == y->mem.scale;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		return x->imm.value.u == y->imm.value.u;
	default:
		return true;
	}
}

static bool is_same(const ZydisDecodedInstruction *x, const ZydisDecodedOperand *xo,
		    const ZydisDecodedInstruction *y, const ZydisDecodedOperand *yo)
{
	unsigned kind = zydis_kind(x, xo);
	if (kind == OVM_INSN_JCC && zydis_kind(y, yo) == OVM_INSN_JCC)
		return ((x->opcode ^ y->opcode) & 0xe) == 0; /* either sense, either length */
	if ((kind == OVM_INSN_JMP || kind == OVM_INSN_CALL) && zydis_kind(y, yo) == kind)
		return true; /* where to is the checker's matter */
	if (kind == OVM_INSN_CALL && zydis_kind(y, yo) == OVM_INSN_CALL_IND)
		return yo[0].type == ZYDIS_OPERAND_TYPE_MEMORY; /* through the GOT, not the PLT */
	if (x->mnemonic != y->mnemonic || x->operand_count != y->operand_count)
		return false;
	for (unsigned i = 0; i < x->operand_count; i++)
		if (!same_operand(&xo[i], &yo[i]))
			return false;
	return kind != OVM_INSN_OTHER || x->attributes == y->attributes;
}

static void compare_copies(struct audit *a, const struct ovm_overlay *overlay)
{
	for (uint32_t i = 0; i < overlay->map.v.n; i++) {
		const struct ovm_map_entry *entry = &overlay->map.v.v[i];
		ZydisDecodedInstruction x, y;
		ZydisDecodedOperand xo[ZYDIS_MAX_OPERAND_COUNT], yo[ZYDIS_MAX_OPERAND_COUNT];
		if (entry->flags & (OVM_MAP_SYNTH | OVM_MAP_PAD))
			continue;
		const uint8_t *old = ovm_image_at(a->image, entry->old, entry->old_len);
		if (!decode(a, old, entry->old_len, &x, xo) ||
		    !decode(a, overlay->bytes + entry->off, entry->new_len, &y, yo) ||
		    !is_same(&x, xo, &y, yo))
			complain(a, entry->old, "the copy is another instruction");
		a->n.copied++;
	}
}

static void copy_all(struct audit *a)
{
	struct ovm_engine engine;
	struct ovm_engine_opts opts = {.share = 1, .uniform = true};
	if (ovm_elf_plan(&a->ctx, a->image, &opts.base))
		return; /* nowhere to put copies: nothing is rewritten */
	int rc = ovm_engine_run(&a->ctx, a->dec, a->image, NULL, &opts, &engine);
	if (rc < 0)
		complain(a, a->image->lo, a->ctx.msg);
	else if (engine.stats.n_dropped_by_checker)
		complain(a, a->image->lo, "the checker refused a copy");
	if (rc == 0)
		compare_copies(a, &engine.overlay);
	a->n.pairs += engine.stats.n_pairs;
	ovm_engine_fini(&engine);
}

static void audit_file(struct audit *a)
{
	struct ovm_regions regions;
	struct timespec from, to;
	a->n = (struct totals){.files = 1};
	ovm_ctx_init(&a->ctx);
	clock_gettime(CLOCK_MONOTONIC, &from);
	if (ovm_image_open(&a->ctx, a->path, &a->image)) {
		a->n.no_code = 1;
		return;
	}
	if (ovm_regions_build(&a->ctx, a->image, &regions)) {
		a->n.no_code = 1;
	} else {
		compare_regions(a, &regions);
		ovm_regions_free(&regions);
		copy_all(a);
	}
	ovm_image_close(a->image);
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf(
	    "%s %s: %llu regions, %llu instructions, %llu+%llu regions not decoded, %llu refused "
	    "for disagreement, %llu copied, %llu pairs, %.1f s\n",
	    a->n.bad ? "bad" : "ok", a->path, (unsigned long long)a->n.regions,
	    (unsigned long long)a->n.insns, (unsigned long long)a->n.undecoded,
	    (unsigned long long)a->n.special, (unsigned long long)a->n.disagree,
	    (unsigned long long)a->n.copied, (unsigned long long)a->n.pairs,
	    (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct audit a = {0};
	struct totals sum = {0};
	ovm_ctx_init(&a.ctx);
	if (ovm_decoder_open(&a.ctx, &a.dec))
		return 1;
	ZydisDecoderInit(&a.zydis, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (int i = 1; i < argc; i++) {
		a.path = argv[i];
		audit_file(&a);
		const uint64_t *from = (const uint64_t *)&a.n;
		for (size_t k = 0; k < sizeof(sum) / sizeof(uint64_t); k++)
			((uint64_t *)&sum)[k] += from[k];
	}
	ovm_decoder_close(a.dec);
	printf(
	    "%llu files (%llu without code), %llu regions, %llu instructions; regions not decoded "
	    "%llu, left alone %llu, refused for disagreement %llu; %llu instructions copied, %llu "
	    "pairs proved, %llu bad\n",
	    (unsigned long long)sum.files, (unsigned long long)sum.no_code,
	    (unsigned long long)sum.regions, (unsigned long long)sum.insns,
	    (unsigned long long)sum.undecoded, (unsigned long long)sum.special,
	    (unsigned long long)sum.disagree, (unsigned long long)sum.copied,
	    (unsigned long long)sum.pairs, (unsigned long long)sum.bad);
	return sum.bad != 0;
}
