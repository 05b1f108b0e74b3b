/* Names to meanings. MC opcode names are regular and stable where numbers are not:
 *
 *   ADD 64 ri8        MOVSX 64 rm32         SHL 32 rCL
 *   op  |  form       op    |  form, source size
 *       size                size
 *
 * MC describes registers and flags well for compiler-made code, but has holes that would make
 * liveness wrong. They are closed here: string and loop instructions, shifts by CL, partial flag
 * writers, conditional writers, and "side effects" it does not specify. An opcode with unmodelled
 * side effects that is not on the list below uses and defines everything.
 */
#include "analyzer/opcode.h"

#include <stdlib.h>
#include <string.h>

static bool starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool starts_any(const char *s, const char *const *prefixes)
{
	for (; *prefixes; prefixes++)
		if (starts(s, *prefixes))
			return true;
	return false;
}

static bool is_any(const char *s, const char *const *names)
{
	for (; *names; names++)
		if (strcmp(s, *names) == 0)
			return true;
	return false;
}

/* --- registers --- */

static const struct {
	const char *names[5]; /* 64, 32, 16, 8 bits, high byte */
} legacy_regs[] = {
    {{"RAX", "EAX", "AX", "AL", "AH"}},	 {{"RCX", "ECX", "CX", "CL", "CH"}},
    {{"RDX", "EDX", "DX", "DL", "DH"}},	 {{"RBX", "EBX", "BX", "BL", "BH"}},
    {{"RSP", "ESP", "SP", "SPL", NULL}}, {{"RBP", "EBP", "BP", "BPL", NULL}},
    {{"RSI", "ESI", "SI", "SIL", NULL}}, {{"RDI", "EDI", "DI", "DIL", NULL}},
};
static const uint8_t sizes[5] = {8, 4, 2, 1, 1};

static struct ovm_reg_info gpr_info(unsigned reg, uint8_t size, bool is_high)
{
	return (struct ovm_reg_info){
	    .reg = (uint8_t)reg, .size = size, .is_high = is_high, .mask = 1u << reg};
}

struct ovm_reg_info ovm_reg_info_of(const char *name)
{
	struct ovm_reg_info none = {.reg = OVM_REG_NONE};
	for (unsigned r = 0; r < 8; r++)
		for (unsigned i = 0; i < 5 && legacy_regs[r].names[i]; i++)
			if (strcmp(name, legacy_regs[r].names[i]) == 0)
				return gpr_info(r, sizes[i], i == 4);
	if (name[0] == 'R' && name[1] >= '0' && name[1] <= '9') {
		char *end;
		unsigned long r = strtoul(name + 1, &end, 10);
		static const char suffixes[][2] = {"", "D", "W", "B"};
		for (unsigned i = 0; i < 4 && r >= 8 && r < 16; i++)
			if (strcmp(end, suffixes[i]) == 0)
				return gpr_info((unsigned)r, sizes[i], false);
		return none;
	}
	if (strcmp(name, "RIP") == 0 || strcmp(name, "EIP") == 0)
		return (struct ovm_reg_info){.reg = OVM_RIP, .size = name[0] == 'R' ? 8 : 4};
	if (strcmp(name, "EFLAGS") == 0)
		none.mask = OVM_MASK_FLAGS;
	return none;
}

/* --- operation and form from the name --- */

static const struct {
	const char *name;
	uint8_t op;
} mnemonics[] = {
    {"MOV", OVM_OP_MOV}, {"MOVSX", OVM_OP_MOVSX}, {"MOVZX", OVM_OP_MOVZX}, {"LEA", OVM_OP_LEA},
    {"ADD", OVM_OP_ADD}, {"SUB", OVM_OP_SUB},	  {"AND", OVM_OP_AND},	   {"OR", OVM_OP_OR},
    {"XOR", OVM_OP_XOR}, {"CMP", OVM_OP_CMP},	  {"TEST", OVM_OP_TEST},   {"SHL", OVM_OP_SHL},
    {"SHR", OVM_OP_SHR}, {"SAR", OVM_OP_SAR},	  {"PUSH", OVM_OP_PUSH},   {"POP", OVM_OP_POP},
};

static const struct {
	const char *suffix;
	uint8_t form;
	bool is_accumulator;
} forms[] = {
    {"rr", OVM_FORM_RR, false},	      {"rr_REV", OVM_FORM_RR, false},
    {"rr_NOREX", OVM_FORM_RR, false}, {"rm", OVM_FORM_RM, false},
    {"rm_NOREX", OVM_FORM_RM, false}, {"mr", OVM_FORM_MR, false},
    {"mr_NOREX", OVM_FORM_MR, false}, {"ri", OVM_FORM_RI, false},
    {"ri_alt", OVM_FORM_RI, false},   {"ri8", OVM_FORM_RI, false},
    {"ri32", OVM_FORM_RI, false},     {"mi", OVM_FORM_MI, false},
    {"mi8", OVM_FORM_MI, false},      {"mi32", OVM_FORM_MI, false},
    {"i8", OVM_FORM_RI, true},	      {"i16", OVM_FORM_RI, true},
    {"i32", OVM_FORM_RI, true},	      {"r1", OVM_FORM_RI, false},
    {"m1", OVM_FORM_MI, false},
};

static unsigned take_size(const char **s)
{
	char *end;
	unsigned long bits = strtoul(*s, &end, 10);
	*s = end;
	return bits == 8 || bits == 16 || bits == 32 || bits == 64 ? (unsigned)bits / 8 : 0;
}

/* "MOVSX64rm32" after the mnemonic: sizes and form, source size last. */
static bool parse_extend(const char *rest, struct ovm_opcode_info *out)
{
	unsigned dst = take_size(&rest);
	if (!dst || rest[0] != 'r' || (rest[1] != 'r' && rest[1] != 'm'))
		return false;
	out->form = rest[1] == 'r' ? OVM_FORM_RR : OVM_FORM_RM;
	rest += 2;
	unsigned src = take_size(&rest);
	if (!src || (*rest && strcmp(rest, "_NOREX") != 0))
		return false;
	out->dst_size = (uint8_t)dst;
	out->src_size = (uint8_t)src;
	return true;
}

static bool parse_lea(const char *rest, struct ovm_opcode_info *out)
{
	bool is_64_32 = strcmp(rest, "64_32r") == 0;
	unsigned size = is_64_32 ? 4 : take_size(&rest);
	if (!is_64_32 && strcmp(rest, "r") != 0)
		return false;
	out->form = OVM_FORM_RM;
	out->dst_size = out->src_size = (uint8_t)size;
	return true;
}

/* Push and pop: of a register, an immediate, memory. */
static bool parse_stack(const char *rest, struct ovm_opcode_info *out)
{
	static const char *const regs[] = {"r", "rmr", NULL},
				 *const imms[] = {"i", "i8", "i16", "i32", NULL},
				 *const mems[] = {"rmm", NULL};
	unsigned size = take_size(&rest);
	if (is_any(rest, regs))
		out->form = OVM_FORM_R;
	else if (is_any(rest, mems))
		out->form = OVM_FORM_M;
	else if (!is_any(rest, imms))
		return false;
	out->dst_size = out->src_size = (uint8_t)size;
	return size != 0;
}

static bool parse_form(const char *rest, uint8_t op, struct ovm_opcode_info *out)
{
	unsigned size = take_size(&rest);
	bool is_shift = op == OVM_OP_SHL || op == OVM_OP_SHR || op == OVM_OP_SAR;
	for (size_t i = 0; size && i < sizeof(forms) / sizeof(forms[0]); i++) {
		if (strcmp(rest, forms[i].suffix) != 0)
			continue;
		if (forms[i].is_accumulator && (op == OVM_OP_MOV || is_shift))
			return false;
		out->form = forms[i].form;
		out->dst_size = out->src_size = (uint8_t)size;
		if (forms[i].is_accumulator)
			out->traits |= OVM_TRAIT_IMPLICIT_DST;
		return true;
	}
	return false;
}

static bool parse_rest(uint8_t op, const char *rest, struct ovm_opcode_info *out)
{
	if (op == OVM_OP_MOVSX || op == OVM_OP_MOVZX)
		return parse_extend(rest, out);
	if (op == OVM_OP_LEA)
		return parse_lea(rest, out);
	if (op == OVM_OP_PUSH || op == OVM_OP_POP)
		return parse_stack(rest, out);
	return parse_form(rest, op, out);
}

static void parse_name(const char *name, struct ovm_opcode_info *out)
{
	for (size_t i = 0; i < sizeof(mnemonics) / sizeof(mnemonics[0]); i++) {
		size_t n = strlen(mnemonics[i].name);
		if (strncmp(name, mnemonics[i].name, n) != 0 || name[n] < '0' || name[n] > '9')
			continue;
		if (parse_rest(mnemonics[i].op, name + n, out)) {
			out->op = mnemonics[i].op;
		} else {
			out->form = OVM_FORM_NONE;
			out->dst_size = out->src_size = 0;
		}
		return;
	}
	if (strcmp(name, "ENDBR64") == 0)
		out->op = OVM_OP_ENDBR;
	if (strcmp(name, "CDQE") == 0) { /* movslq %eax, %rax */
		out->op = OVM_OP_MOVSX;
		out->form = OVM_FORM_RR;
		out->dst_size = 8;
		out->src_size = 4;
		out->traits |= OVM_TRAIT_IMPLICIT_DST;
	}
}

/* --- effects MC leaves out --- */

/* Side effects that touch neither a general register nor the arithmetic flags beyond what MC lists.
 */
static const char *const harmless[] = {
    "ABS_F",	"ADD_F",      "CHS_F",	   "CMOV",	 "COM_F",    "COMP_F",	 "DIV",
    "F2XM1",	"FBLD",	      "FBSTP",	   "FCO",	 "FDECSTP",  "FFREE",	 "FICOM",
    "FINCSTP",	"FLD",	      "FNCLEX",	   "FNINIT",	 "FNOP",     "FNST",	 "FPATAN",
    "FPREM",	"FPTAN",      "FRNDINT",   "FSCALE",	 "FSIN",     "FSTENV",	 "FXTRACT",
    "FYL2X",	"IDIV",	      "ILD_F",	   "IST_F",	 "ISTT_FP",  "LD_F",	 "MUL_F",
    "SQRT_F",	"ST_F",	      "SUB_F",	   "SUBR_F",	 "TST_F",    "UCOM_F",	 "XAM_F",
    "XCH_F",	"WAIT",	      "ENDBR",	   "CLDEMOTE",	 "CLFLUSH",  "CLWB",	 "CPUID",
    "RDTSC",	"LFENCE",     "MFENCE",	   "SFENCE",	 "PAUSE",    "LDMXCSR",	 "STMXCSR",
    "VLDMXCSR", "VSTMXCSR",   "MOVSB",	   "MOVSW",	 "MOVSL",    "MOVSQ",	 "STOS",
    "LODS",	"SCAS",	      "CMPSB",	   "CMPSW",	 "CMPSL",    "CMPSQ",	 "LOOP",
    "MASKMOV",	"VMASKMOV",   "MMX_",	   "RDFSBASE",	 "RDGSBASE", "RDSSP",	 "RDPID",
    "RDRAND",	"RDSEED",     "XGETBV",	   "XSAVE",	 "XRSTOR",   "FXSAVE",	 "FXRSTOR",
    "VZERO",	"VPCOMPRESS", "VPEXPAND",  "VCOMPRESS",	 "VEXPAND",  "VMOVSH2W", "CLD",
    "STD",	"CLC",	      "STC",	   "CMC",	 "MULX",     "FEMMS",	 "RET",
    "SYSCALL",	"INCSSP",     "VGATHERPF", "VSCATTERPF", "XTEST",    NULL};

/* These leave some of the arithmetic flags as they were. */
static const char *const partial_flags[] = {
    "INC",  "DEC",  "ROL",  "ROR",   "RCL",	  "RCR",	"BT",	 "SAHF", "CLC",
    "STC",  "CMC",  "ADCX", "ADOX",  "CMPXCHG8B", "CMPXCHG16B", "LAR",	 "LSL",	 "ARPL",
    "VERR", "VERW", "SCAS", "CMPSB", "CMPSW",	  "CMPSL",	"CMPSQ", NULL};

static bool ends(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);
	return n >= m && strcmp(s + n - m, suffix) == 0;
}

static void fix_shift(const char *name, struct ovm_opcode_info *out)
{
	static const char *const shifts[] = {"SHL", "SHR", "SAR", "SAL", "ROL",
					     "ROR", "RCL", "RCR", NULL};
	if (!starts_any(name, shifts))
		return;
	if (ends(name, "CL"))
		out->uses |= OVM_MASK_FLAGS; /* a count of zero leaves them */
	else if (ends(name, "ri") || ends(name, "mi") || ends(name, "ri8") || ends(name, "mi8") ||
		 ends(name, "rri8") || ends(name, "mri8"))
		out->traits |= OVM_TRAIT_SHIFT_IMM;
}

static void fix_string(const char *name, struct ovm_opcode_info *out)
{
	static const char *const strings[] = {"MOVS", "STOS", "LODS", "SCAS",
					      "CMPS", "INS",  "OUTS", NULL};
	size_t n = strlen(name);
	if (!starts_any(name, strings) || (n != 5 && n != 4) || !strchr("BWLQ", name[n - 1]))
		return;
	out->traits |= OVM_TRAIT_STRING | OVM_TRAIT_LOADS | OVM_TRAIT_STORES;
}

static void fix_effects(const char *name, const struct ovm_mc_desc *desc,
			struct ovm_opcode_info *out)
{
	if (ends(name, "_PREFIX"))
		out->traits |= OVM_TRAIT_PREFIX;
	if ((desc->flags & OVM_MC_SIDE_EFFECTS) && !starts_any(name, harmless))
		out->traits |= OVM_TRAIT_OPAQUE;
	if ((out->defs & OVM_MASK_FLAGS) && starts_any(name, partial_flags))
		out->uses |= OVM_MASK_FLAGS;
	if (starts(name, "CMOV")) /* MC has it, but for x87's */
		out->uses |= OVM_MASK_FLAGS;
	if (starts(name, "CLC") || starts(name, "STC") || starts(name, "CMC")) {
		out->defs |= OVM_MASK_FLAGS;
		out->uses |= OVM_MASK_FLAGS;
	}
	if (starts(name, "LOOP")) {
		out->uses |= 1u << OVM_RCX;
		out->defs |= 1u << OVM_RCX;
		if (name[4])
			out->uses |= OVM_MASK_FLAGS;
	}
	static const char *const keeps[] = {"BSF", "BSR", "CMPXCHG", "XADD",
					    "LAR", "LSL", "CMOV",    NULL};
	if (starts_any(name, keeps))
		out->traits |= OVM_TRAIT_DEFS_USED;
	if (starts(name, "XSAVE") || starts(name, "XRSTOR"))
		out->uses |= 1u << OVM_RAX | 1u << OVM_RDX;
	if (ends(name, "rr") || ends(name, "rr_REV"))
		if (starts(name, "XOR") || starts(name, "SUB") || starts(name, "SBB"))
			out->traits |= OVM_TRAIT_SELF_ZERO;
	fix_shift(name, out);
	fix_string(name, out);
}

/* Implicit registers as masks. A partial write is a use too. String registers are named EDI, ESI:
 * addresses are 64-bit. */
static void implicit_masks(const struct ovm_mc *mc, const struct ovm_reg_info *regs,
			   uint32_t opcode, struct ovm_opcode_info *out)
{
	uint16_t list[64];
	uint32_t n = ovm_mc_implicit(mc, opcode, 0, list, 64);
	for (uint32_t i = 0; i < n; i++)
		out->uses |= regs[list[i]].mask;
	n = ovm_mc_implicit(mc, opcode, 1, list, 64);
	for (uint32_t i = 0; i < n; i++) {
		const struct ovm_reg_info *reg = &regs[list[i]];
		out->defs |= reg->mask;
		if (reg->reg < OVM_RIP && reg->size < 4)
			out->uses |= reg->mask;
	}
}

void ovm_opcode_info_of(const struct ovm_mc *mc, const struct ovm_reg_info *regs, uint32_t opcode,
			struct ovm_opcode_info *out)
{
	struct ovm_mc_desc desc;
	ovm_mc_describe(mc, opcode, &desc);
	*out = (struct ovm_opcode_info){.tied = desc.tied,
					.n_operands = desc.n_operands,
					.n_defs = desc.n_defs,
					.form = OVM_FORM_NONE};
	if (strncmp(desc.name, "LEA", 3) == 0 && desc.n_operands == 6)
		desc.mem =
		    1; /* MC does not call an address that is not accessed a memory operand */
	if (desc.mem >= 0 && desc.mem + 5 <= desc.n_operands) {
		out->traits |= OVM_TRAIT_MEM;
		out->mem = (uint8_t)desc.mem;
	}
	if (desc.flags & OVM_MC_MAY_LOAD)
		out->traits |= OVM_TRAIT_LOADS;
	if (desc.flags & OVM_MC_MAY_STORE)
		out->traits |= OVM_TRAIT_STORES;
	implicit_masks(mc, regs, opcode, out);
	parse_name(desc.name, out);
	fix_effects(desc.name, &desc, out);
}
