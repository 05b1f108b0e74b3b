/* Records of single instructions: control flow, fields, registers, flags, and the traps of MC. */
#include "analyzer/disasm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { VA = 0x1000, FLAGS = OVM_MASK_FLAGS };

#define BIT(r) (1u << OVM_##r)
#define DECODE(...) decode((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static struct ovm_decoder *dec;

static int setup(void **state)
{
	struct ovm_ctx ctx;
	(void)state;
	ovm_ctx_init(&ctx);
	return ovm_decoder_open(&ctx, &dec);
}

static int teardown(void **state)
{
	(void)state;
	ovm_decoder_close(dec);
	ovm_decoder_close(NULL);
	return 0;
}

static struct ovm_insn decode(const uint8_t *bytes, size_t n)
{
	struct ovm_insn insn;
	assert_int_equal(ovm_decode_one(dec, bytes, n, ovm_va_of(VA), &insn), n);
	assert_int_equal(insn.len, n);
	return insn;
}

static void test_branches(void **state)
{
	(void)state;
	struct ovm_insn insn = DECODE(0xe9, 0x10, 0, 0, 0);
	assert_int_equal(insn.kind, OVM_INSN_JMP);
	assert_int_equal(insn.target.v, VA + 5 + 0x10);
	assert_int_equal(insn.disp_off, 1);
	assert_int_equal(insn.disp_len, 4);
	insn = DECODE(0x77, 0xfe);
	assert_int_equal(insn.kind, OVM_INSN_JCC);
	assert_int_equal(insn.cc, 7);
	assert_int_equal(insn.target.v, VA);
	insn = DECODE(0x0f, 0x84, 0xff, 0xff, 0xff, 0xff);
	assert_int_equal(insn.cc, 4);
	assert_int_equal(insn.disp_off, 2);
	assert_int_equal(insn.target.v, VA + 5);
	assert_int_equal(insn.uses, FLAGS);
	insn = DECODE(0xe2, 0x05); /* loop */
	assert_int_equal(insn.kind, OVM_INSN_JCXZ);
	assert_int_equal(insn.uses & BIT(RCX), BIT(RCX));
	assert_int_equal(insn.defs & BIT(RCX), BIT(RCX));
	insn = DECODE(0x3e, 0xff, 0xe0); /* notrack jmp *%rax */
	assert_int_equal(insn.kind, OVM_INSN_JMP_IND);
	assert_int_equal(insn.form, OVM_FORM_R);
	assert_int_equal(insn.dst, OVM_RAX);
	assert_true(insn.flags & OVM_INSN_NOTRACK);
	insn = DECODE(0xff, 0x24, 0xc5, 0, 0x10, 0x40, 0); /* jmp *0x401000(,%rax,8) */
	assert_int_equal(insn.form, OVM_FORM_M);
	assert_int_equal(insn.base, OVM_REG_NONE);
	assert_int_equal(insn.index, OVM_RAX);
	assert_int_equal(insn.scale, 8);
	assert_int_equal(insn.disp, 0x401000);
	assert_int_equal(insn.disp_off, 3);
	insn = DECODE(0xf3, 0xc3); /* rep ret */
	assert_int_equal(insn.kind, OVM_INSN_RET);
	assert_int_equal(DECODE(0x0f, 0x0b).kind, OVM_INSN_TRAP);
	assert_int_equal(DECODE(0x0f, 0x1f, 0x44, 0, 0).kind, OVM_INSN_NOP);
	insn = DECODE(0xf3, 0x0f, 0x1e, 0xfa);
	assert_int_equal(insn.kind, OVM_INSN_OTHER);
	assert_int_equal(insn.op, OVM_OP_ENDBR);
}

static void test_refused(void **state)
{
	(void)state;
	assert_int_equal(DECODE(0xc7, 0xf8, 0, 0, 0, 0).kind, OVM_INSN_REFUSE); /* xbegin */
	assert_int_equal(DECODE(0xcb).kind, OVM_INSN_REFUSE);			/* far ret */
	assert_int_equal(DECODE(0x48, 0xcf).kind, OVM_INSN_REFUSE);		/* iretq */
	assert_int_equal(DECODE(0xff, 0x28).kind, OVM_INSN_REFUSE);		/* far jmp */
	assert_int_equal(DECODE(0xcd, 0x03).kind, OVM_INSN_REFUSE);
	assert_int_equal(DECODE(0xcd, 0x80).kind, OVM_INSN_SYSCALL);
	/* call __tls_get_addr with padding prefixes is fine */
	assert_int_equal(DECODE(0x66, 0x66, 0x48, 0xe8, 0, 0, 0, 0).kind, OVM_INSN_CALL);
}

static void test_moves(void **state)
{
	(void)state;
	struct ovm_insn insn = DECODE(0x48, 0x63, 0x04, 0x82); /* movslq (%rdx,%rax,4),%rax */
	assert_int_equal(insn.op, OVM_OP_MOVSX);
	assert_int_equal(insn.form, OVM_FORM_RM);
	assert_int_equal(insn.dst, OVM_RAX);
	assert_int_equal(insn.dst_size, 8);
	assert_int_equal(insn.src_size, 4);
	assert_int_equal(insn.base, OVM_RDX);
	assert_int_equal(insn.scale, 4);
	assert_int_equal(insn.disp_len, 0);
	assert_int_equal(insn.modrm_off, 2);
	assert_int_equal(insn.uses, BIT(RDX) | BIT(RAX));
	assert_int_equal(insn.defs, BIT(RAX));
	insn = DECODE(0x48, 0x8d, 0x15, 0, 1, 0, 0); /* lea 0x100(%rip),%rdx */
	assert_int_equal(insn.op, OVM_OP_LEA);
	assert_true(insn.flags & OVM_INSN_RIP_REL);
	assert_int_equal(insn.target.v, VA + 7 + 0x100);
	assert_int_equal(insn.disp_off, 3);
	insn = DECODE(0x48, 0x98); /* cltq */
	assert_int_equal(insn.op, OVM_OP_MOVSX);
	assert_int_equal(insn.src, OVM_RAX);
	assert_int_equal(insn.dst, OVM_RAX);
	insn = DECODE(0x83, 0xf8, 0xfb); /* cmp $-5,%eax */
	assert_int_equal(insn.op, OVM_OP_CMP);
	assert_int_equal(insn.imm, -5);
	assert_int_equal(insn.defs, FLAGS);
	insn = DECODE(0xa9, 0xff, 0, 0, 0); /* test $0xff,%eax */
	assert_int_equal(insn.op, OVM_OP_TEST);
	assert_int_equal(insn.dst, OVM_RAX);
	insn = DECODE(0x89, 0x44, 0x24, 0x08); /* mov %eax,8(%rsp) */
	assert_int_equal(insn.form, OVM_FORM_MR);
	assert_int_equal(insn.src, OVM_RAX);
	assert_int_equal(insn.disp, 8);
	assert_int_equal(insn.defs, 0);
	assert_true(insn.flags & OVM_INSN_STORES);
	insn = DECODE(0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0); /* mov %fs:0x28,%rax */
	assert_int_equal(insn.segment, 'f');
	insn = DECODE(0x67, 0x8b, 0x00); /* mov (%eax),%eax */
	assert_true(insn.flags & OVM_INSN_ADDR32);
	insn = DECODE(0x8a, 0xc4); /* mov %ah,%al */
	assert_true(insn.flags & OVM_INSN_HIGH_BYTE);
	insn = DECODE(0x0f, 0x94, 0xc0); /* sete %al: keeps the rest of rax */
	assert_true(insn.flags & OVM_INSN_MERGE);
	assert_int_equal(insn.uses, FLAGS | BIT(RAX));
}

static void test_effects(void **state)
{
	(void)state;
	struct ovm_insn insn = DECODE(0x0f, 0x05);
	assert_int_equal(insn.kind, OVM_INSN_SYSCALL);
	assert_int_equal(insn.defs, BIT(RAX) | BIT(RCX) | BIT(R11));
	insn = DECODE(0xf3, 0x48, 0xa5); /* rep movsq */
	assert_int_equal(insn.uses & (BIT(RCX) | BIT(RSI) | BIT(RDI)),
			 BIT(RCX) | BIT(RSI) | BIT(RDI));
	assert_true(insn.defs & BIT(RCX));
	assert_int_equal(insn.flags & (OVM_INSN_LOADS | OVM_INSN_STORES),
			 OVM_INSN_LOADS | OVM_INSN_STORES);
	assert_int_equal(DECODE(0xd7).uses & BIT(RBX), BIT(RBX)); /* xlat */
	assert_true(DECODE(0xd3, 0xe0).uses & FLAGS);		  /* shl %cl,%eax */
	assert_false(DECODE(0xc1, 0xe0, 0x02).uses & FLAGS);	  /* shl $2,%eax */
	assert_true(DECODE(0xff, 0xc0).uses & FLAGS);		  /* inc keeps CF */
	assert_true(DECODE(0xdb, 0xdb).uses & FLAGS);		  /* fcmovnu */
	assert_true(DECODE(0xda, 0xc1).uses & FLAGS);		  /* fcmovb */
	assert_true(DECODE(0x0f, 0xbc, 0xc1).uses & BIT(RAX));	  /* bsf */
	assert_false(DECODE(0x31, 0xc0).uses & BIT(RAX));	  /* xor %eax,%eax */
	assert_int_equal(DECODE(0x48, 0x19, 0xc0).uses, FLAGS);	  /* sbb %rax,%rax */
	assert_int_equal(DECODE(0x83, 0xc8, 0xff).uses, 0);	  /* or $-1,%eax */
	assert_int_equal(DECODE(0xb0, 0x01).uses, BIT(RAX));	  /* mov $1,%al */
	assert_int_equal(DECODE(0xb8, 1, 0, 0, 0).uses, 0);
	assert_true(DECODE(0x0f, 0x01, 0xf8).flags & OVM_INSN_OPAQUE); /* swapgs */
	assert_int_equal(DECODE(0x0f, 0x01, 0xf8).uses, OVM_MASK_ALL);
	insn = DECODE(0xff, 0xd0); /* call *%rax */
	assert_int_equal(insn.kind, OVM_INSN_CALL_IND);
	assert_int_equal(insn.defs & BIT(RBX), 0);
	assert_true(insn.defs & FLAGS);
}

static void test_glued(void **state)
{
	(void)state;
	struct ovm_insn insn =
	    DECODE(0xf0, 0x48, 0x0f, 0xb1, 0x0d, 1, 0, 0, 0); /* lock cmpxchg %rcx,1(%rip) */
	assert_true(insn.flags & OVM_INSN_GLUED);
	assert_int_equal(insn.disp_off, 5);
	assert_int_equal(insn.target.v, VA + 9 + 1);
	assert_int_equal(insn.uses & (BIT(RAX) | BIT(RCX)), BIT(RAX) | BIT(RCX));
	static const uint8_t bad[][6] = {{0xf0, 0x01, 0xc0},	    /* lock add: of a register, */
					 {0xf0, 0x05, 1, 2, 3, 4},  /* also without ModRM */
					 {0xf0, 0x39, 0x07},	    /* cmp, */
					 {0xf0, 0x83, 0x3f, 0x01},  /* in both forms */
					 {0xf0, 0x89, 0x07},	    /* mov */
					 {0xf0, 0x0f, 0xba, 0x27}}; /* bt */
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(ovm_decode_one(dec, bad[i], sizeof(bad[i]), ovm_va_of(VA), &insn),
				 0);
	DECODE(0xf0, 0x01, 0x07);	      /* add */
	DECODE(0xf0, 0x83, 0x07, 0x01);	      /* its short form */
	DECODE(0xf0, 0xf7, 0x17);	      /* not */
	DECODE(0xf0, 0xff, 0x0f);	      /* dec */
	DECODE(0xf0, 0x0f, 0xba, 0x2f, 0x01); /* bts */
	DECODE(0xf0, 0x48, 0x0f, 0xc7, 0x0f); /* cmpxchg16b */
	DECODE(0xf2, 0xf0, 0x87, 0x07);	      /* xacquire xchg */
}

static void test_limits(void **state)
{
	(void)state;
	struct ovm_insn insn;
	const uint8_t prefixes[16] = {0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0,
				      0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0};
	const uint8_t jmp[5] = {0xe9, 0, 0, 0, 0};
	assert_int_equal(ovm_decode_one(dec, jmp, 0, ovm_va_of(VA), &insn), 0);
	assert_int_equal(ovm_decode_one(dec, jmp, 4, ovm_va_of(VA), &insn), 0);
	assert_int_equal(ovm_decode_one(dec, prefixes, sizeof(prefixes), ovm_va_of(VA), &insn), 0);
	assert_int_equal(ovm_decode_one(dec, (const uint8_t[]){0x06}, 1, ovm_va_of(VA), &insn), 0);
}

static void test_text(void **state)
{
	char text[64], tiny[4];
	(void)state;
	const uint8_t bytes[] = {0xf0, 0x48, 0x0f, 0xb1, 0x0a};
	assert_string_equal(
	    ovm_decoder_text(dec, bytes, sizeof(bytes), ovm_va_of(VA), text, sizeof(text)),
	    "lock cmpxchgq %rcx, (%rdx)");
	assert_string_equal(ovm_decoder_text(dec, bytes, 1, ovm_va_of(VA), text, sizeof(text)),
			    "(bad)");
	assert_true(strlen(ovm_decoder_text(dec, bytes, sizeof(bytes), ovm_va_of(VA), tiny,
					    sizeof(tiny))) < sizeof(tiny));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_branches), cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_moves),    cmocka_unit_test(test_effects),
	    cmocka_unit_test(test_glued),    cmocka_unit_test(test_limits),
	    cmocka_unit_test(test_text),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
