/* The one C++ file: LLVM MC (disassembler, instruction and register tables, printer) behind
 * mc_shim.h.
 *
 * MC's C++ interface drifts from release to release; the differences between 14 and 22 are here and
 * nowhere else. Objects are created once; decoding allocates nothing.
 */
#include "analyzer/mc_shim.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/MC/MCAsmInfo.h"
#include "llvm/MC/MCContext.h"
#include "llvm/MC/MCDisassembler/MCDisassembler.h"
#include "llvm/MC/MCInst.h"
#include "llvm/MC/MCInstPrinter.h"
#include "llvm/MC/MCInstrDesc.h"
#include "llvm/MC/MCInstrInfo.h"
#include "llvm/MC/MCRegisterInfo.h"
#include "llvm/MC/MCSubtargetInfo.h"
#include "llvm/MC/MCTargetOptions.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/raw_ostream.h"
#if LLVM_VERSION_MAJOR >= 16
#include "llvm/TargetParser/Triple.h"
#else
#include "llvm/ADT/Triple.h"
#endif
#if LLVM_VERSION_MAJOR >= 14
#include "llvm/MC/TargetRegistry.h"
#else
#error "LLVM 14 or newer is needed"
#endif

#include <cstring>
#include <memory>
#include <string>

extern "C" void LLVMInitializeX86TargetInfo(void);
extern "C" void LLVMInitializeX86TargetMC(void);
extern "C" void LLVMInitializeX86Disassembler(void);
extern "C" void ovm_out_of_memory(size_t n, size_t size); /* base/vec.h, which is C */

using namespace llvm;

/* Members are destroyed last to first: users before what they use. */
struct ovm_mc {
	Triple triple{"x86_64-unknown-linux-gnu"};
	MCTargetOptions options;
	std::unique_ptr<const MCRegisterInfo> regs;
	std::unique_ptr<const MCAsmInfo> asm_info;
	std::unique_ptr<const MCSubtargetInfo> subtarget;
	std::unique_ptr<const MCInstrInfo> insns;
	std::unique_ptr<MCContext> context;
	std::unique_ptr<MCDisassembler> disassembler;
	std::unique_ptr<MCInstPrinter> printer;
	MCInst inst;
};

static bool create(struct ovm_mc *mc)
{
	std::string error;
#if LLVM_VERSION_MAJOR >= 22
	const Triple &name = mc->triple;
#else
	const std::string &name = mc->triple.str();
#endif
	const Target *target = TargetRegistry::lookupTarget(name, error);
	if (!target)
		return false;
	mc->regs.reset(target->createMCRegInfo(name));
	if (!mc->regs)
		return false;
	mc->asm_info.reset(target->createMCAsmInfo(*mc->regs, name, mc->options));
	mc->subtarget.reset(target->createMCSubtargetInfo(name, "", ""));
	mc->insns.reset(target->createMCInstrInfo());
	if (!mc->asm_info || !mc->subtarget || !mc->insns)
		return false;
#if LLVM_VERSION_MAJOR >= 22
	mc->context.reset(new MCContext(mc->triple, *mc->asm_info, *mc->regs, *mc->subtarget));
#else
	mc->context.reset(
	    new MCContext(mc->triple, mc->asm_info.get(), mc->regs.get(), mc->subtarget.get()));
#endif
	mc->disassembler.reset(target->createMCDisassembler(*mc->subtarget, *mc->context));
	mc->printer.reset(
	    target->createMCInstPrinter(mc->triple, 0, *mc->asm_info, *mc->insns, *mc->regs));
	if (!mc->disassembler || !mc->printer)
		return false;
	mc->printer->setPrintImmHex(true);
	return true;
}

static void on_bad_alloc(void *, const char *, bool)
{
	ovm_out_of_memory(1, 0);
}

struct ovm_mc *ovm_mc_open(void)
{
	static const bool once = [] { /* its own answer is abort() */
		install_bad_alloc_error_handler(on_bad_alloc);
		install_out_of_memory_new_handler();
		LLVMInitializeX86TargetInfo(); /* registers in a list that is not locked */
		LLVMInitializeX86TargetMC();
		LLVMInitializeX86Disassembler();
		return true;
	}();
	(void)once;
	struct ovm_mc *mc = new ovm_mc;
	if (!create(mc)) {
		delete mc;
		return nullptr;
	}
	return mc;
}

void ovm_mc_close(struct ovm_mc *mc)
{
	delete mc;
}

uint32_t ovm_mc_n_opcodes(const struct ovm_mc *mc)
{
	return mc->insns->getNumOpcodes();
}

void ovm_mc_describe(const struct ovm_mc *mc, uint32_t opcode, struct ovm_mc_desc *out)
{
	const MCInstrDesc &desc = mc->insns->get(opcode);
	memset(out, 0, sizeof(*out));
	out->name = mc->insns->getName(opcode).data();
	out->n_operands = (uint8_t)desc.getNumOperands();
	out->n_defs = (uint8_t)desc.getNumDefs();
	out->mem = -1;
	const MCOperandInfo *info = desc.operands().begin();
	for (unsigned i = 0; i < desc.getNumOperands(); i++) {
		if (out->mem < 0 && info[i].OperandType == MCOI::OPERAND_MEMORY)
			out->mem = (int8_t)i;
		if (desc.getOperandConstraint(i, MCOI::TIED_TO) >= 0)
			out->tied |= (uint16_t)(1u << i);
	}
	out->flags = (uint8_t)((desc.mayLoad() ? OVM_MC_MAY_LOAD : 0) |
			       (desc.mayStore() ? OVM_MC_MAY_STORE : 0) |
			       (desc.hasUnmodeledSideEffects() ? OVM_MC_SIDE_EFFECTS : 0));
}

uint32_t ovm_mc_implicit(const struct ovm_mc *mc, uint32_t opcode, int defs, uint16_t *out,
			 uint32_t max)
{
	const MCInstrDesc &desc = mc->insns->get(opcode);
	uint32_t n = 0;
#if LLVM_VERSION_MAJOR >= 17
	for (auto reg : defs ? desc.implicit_defs() : desc.implicit_uses())
		if (n < max)
			out[n++] = (uint16_t)reg;
#else
	const MCPhysReg *reg = defs ? desc.getImplicitDefs() : desc.getImplicitUses();
	for (; reg && *reg; reg++)
		if (n < max)
			out[n++] = (uint16_t)*reg;
#endif
	return n;
}

uint32_t ovm_mc_n_regs(const struct ovm_mc *mc)
{
	return mc->regs->getNumRegs();
}

const char *ovm_mc_reg_name(const struct ovm_mc *mc, uint32_t reg)
{
	return reg ? mc->regs->getName(reg) : "none";
}

unsigned ovm_mc_decode(struct ovm_mc *mc, const uint8_t *bytes, size_t avail, uint64_t va,
		       struct ovm_mc_insn *out)
{
	MCInst &inst = mc->inst;
	inst.clear();
	inst.setFlags(0);
	uint64_t size = 0;
	if (avail > 15)
		avail = 15;
	if (mc->disassembler->getInstruction(inst, size, ArrayRef<uint8_t>(bytes, avail), va,
					     nulls()) != MCDisassembler::Success ||
	    size == 0 || size > avail)
		return 0;
	unsigned n = inst.getNumOperands();
	if (n > OVM_MC_MAX_OPERANDS)
		n = OVM_MC_MAX_OPERANDS;
	out->opcode = inst.getOpcode();
	out->len = (uint8_t)size;
	out->n_operands = (uint8_t)n;
	for (unsigned i = 0; i < n; i++) {
		const MCOperand &operand = inst.getOperand(i);
		out->kind[i] = (uint8_t)OVM_MC_OTHER;
		out->value[i] = 0;
		if (operand.isReg()) {
			out->kind[i] = (uint8_t)OVM_MC_REG;
			out->value[i] = (int64_t)(unsigned)operand.getReg();
		} else if (operand.isImm()) {
			out->kind[i] = (uint8_t)OVM_MC_IMM;
			out->value[i] = operand.getImm();
		}
	}
	return (unsigned)size;
}

/* MC separates words by tabs; one blank reads better and is stable. */
static void copy_text(StringRef text, char *buf, size_t size)
{
	size_t n = 0;
	bool blank = true;
	for (char c : text) {
		bool is_blank = c == ' ' || c == '\t' || c == '\n';
		if (is_blank && blank)
			continue;
		blank = is_blank;
		if (n + 1 < size)
			buf[n++] = is_blank ? ' ' : c;
	}
	while (n && buf[n - 1] == ' ')
		n--;
	if (size)
		buf[n] = 0;
}

unsigned ovm_mc_print(struct ovm_mc *mc, const uint8_t *bytes, size_t avail, uint64_t va, char *buf,
		      size_t size)
{
	MCInst inst;
	uint64_t len = 0;
	if (size)
		buf[0] = 0;
	if (avail > 15)
		avail = 15;
	if (mc->disassembler->getInstruction(inst, len, ArrayRef<uint8_t>(bytes, avail), va,
					     nulls()) != MCDisassembler::Success ||
	    len == 0 || len > avail)
		return 0;
	SmallString<128> text;
	raw_svector_ostream stream(text);
	mc->printer->printInst(&inst, va, "", *mc->subtarget, stream);
	copy_text(stream.str(), buf, size);
	return (unsigned)len;
}
