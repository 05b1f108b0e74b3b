/* Restartable sequences: code that the kernel sends back to the start when it interrupts it.
 *
 *   descriptor, in data                       code
 *    +0  version 0, flags
 *    +8  start_ip ───────────────────────┐    lea  descriptor(%rip), %rax
 *   +16  post_commit_offset              │    mov  %rax, rseq_cs of this thread
 *   +24  abort_ip ────────────────┐      └──▶ cmp  %ecx, cpu_id of this thread   ┐ interrupted
 *                                 │           jne  retry                         │ here: rip =
 *                                 │           incq (%rdx,%rcx,8)                 ┘ abort_ip
 *                                 │           ...
 *                                 │    0f b9 3d 53 30 05 53   ud1 signature(%rip), %edi
 *                                 └──▶ jmp retry
 *
 * The kernel compares rip with [start_ip, start_ip + post_commit_offset). A copy has other
 * addresses, would be interrupted between test and store, and go on: data are lost, silently. So
 * these bytes, and the region of the abort handler, whose signature the kernel reads, stay
 * untouched. They are found three ways, each of which may be missing:
 *
 *   sections     __rseq_cs and __rseq_cs_ptr_array (librseq, tcmalloc), if there are section headers
 *   descriptors  in position-independent files each has two relocations 16 bytes apart; in others
 *                all data is searched. Believed if the signature stands before abort_ip
 *   signatures   as operand of a ud1 or nop: the sequence may be described on the stack. The
 *                handler's region, and the one it jumps to, are taken for the sequence's
 *
 * Cost: one pass over code and data, 0.2 ms a MB. Limits: a program that registers with its own
 * signature (before glibc 2.35 it could) and has lost its section headers is not seen; nor are
 * descriptors relocated by name.
 */
#include "analyzer/rseq.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

enum {
	FLAGS = 4, /* offsets in the descriptor */
	START = 8,
	LENGTH = 16,
	ABORT = 24,
	DESCRIPTOR = 32,
	FLAGS_MAX = 7, /* three flags were ever defined */
	SIGNATURE_SIZE = 4,
	CARRIER = 3, /* bytes of ud1 or nop before the signature */
	CHUNK = 64,
};

/* What glibc, librseq and tcmalloc register on x86; the kernel kills a thread whose abort_ip does
 * not follow it. */
#define SIGNATURE UINT32_C(0x53053053)

struct finder {
	const struct ovm_image *image;
	ovm_rseqs found;
	ovm_va code_lo, code_hi; /* all code lies between; not all between is code */
};

static void keep(struct finder *f, ovm_va lo, uint64_t size)
{
	ovm_vec_push(&f->found, (struct ovm_rseq){lo, ovm_va_add(lo, (int64_t)size)});
}

/* The word at @va as the loader leaves it. False if that depends on other files. */
static bool loaded_word(const struct ovm_image *image, ovm_va va, uint64_t *out)
{
	const uint8_t *p = ovm_image_at(image, va, 8);
	const struct ovm_reloc *reloc = ovm_image_reloc(image, va);
	if (!p)
		return false;
	if (!reloc) {
		*out = ovm_le64(p);
		return true;
	}
	*out = (uint64_t)reloc->addend;
	return reloc->type == R_X86_64_RELATIVE || (reloc->type == R_X86_64_64 && !reloc->symbol);
}

static bool has_signature(const struct ovm_image *image, ovm_va abort)
{
	const uint8_t *p =
	    ovm_image_code(image, ovm_va_add(abort, -SIGNATURE_SIZE), SIGNATURE_SIZE);
	return p && ovm_le32(p) == SIGNATURE;
}

/* @is_named: a section says so, any signature will do. */
static void try_descriptor(struct finder *f, ovm_va at, bool is_named)
{
	const struct ovm_image *image = f->image;
	const uint8_t *p = ovm_image_at(image, at, DESCRIPTOR);
	uint64_t start, length, abort;
	if (!p || ovm_le32(p) || ovm_le32(p + FLAGS) > FLAGS_MAX ||
	    !loaded_word(image, ovm_va_add(at, START), &start) ||
	    !loaded_word(image, ovm_va_add(at, LENGTH), &length) ||
	    !loaded_word(image, ovm_va_add(at, ABORT), &abort))
		return;
	if (!length || abort - start < length || !ovm_image_code(image, ovm_va_of(start), length) ||
	    !ovm_image_code(image, ovm_va_of(abort), 1) ||
	    !(is_named || has_signature(image, ovm_va_of(abort))))
		return;
	keep(f, ovm_va_of(start), length);
	keep(f, ovm_va_of(abort - SIGNATURE_SIZE), SIGNATURE_SIZE + 1);
}

/* --- sections --- */

static void read_sections(struct finder *f)
{
	const struct ovm_image *image = f->image;
	uint64_t at, target;
	for (at = 0; image->rseq_cs_size - at >= DESCRIPTOR; at += DESCRIPTOR)
		try_descriptor(f, ovm_va_add(image->rseq_cs, (int64_t)at), true);
	for (at = 0; image->rseq_ptrs_size - at >= 8; at += 8)
		if (loaded_word(image, ovm_va_add(image->rseq_ptrs, (int64_t)at), &target))
			try_descriptor(f, ovm_va_of(target), true);
}

/* --- descriptors --- */

/* start_ip and abort_ip are relocated, what stands between them is not. */
static void search_relocs(struct finder *f)
{
	const struct ovm_reloc *v = f->image->relocs.v;
	for (uint32_t i = 0; i + 1 < f->image->relocs.n; i++)
		if (v[i + 1].at.v - v[i].at.v == ABORT - START && v[i].type == R_X86_64_RELATIVE)
			try_descriptor(f, ovm_va_add(v[i].at, -START), false);
}

static void search_data(struct finder *f, const struct ovm_segment *seg)
{
	const uint8_t *p = f->image->bytes + seg->off.v;
	for (uint64_t at = -seg->lo.v & 7; at < seg->filesz && seg->filesz - at >= DESCRIPTOR;
	     at += 8)
		if (ovm_va_in(ovm_va_of(ovm_le64(p + at + START)), f->code_lo, f->code_hi) &&
		    ovm_va_in(ovm_va_of(ovm_le64(p + at + ABORT)), f->code_lo, f->code_hi))
			try_descriptor(f, ovm_va_add(seg->lo, (int64_t)at), false);
}

/* --- signatures --- */

/* Where a handler goes that begins with a jump; itself if it does not. */
static ovm_va behind_jump(const struct ovm_image *image, ovm_va abort)
{
	const uint8_t *p = ovm_image_code(image, abort, 5);
	if (p && p[0] == 0xe9) /* jmp rel32 */
		return ovm_va_add(abort, 5 + (int64_t)(int32_t)ovm_le32(p + 1));
	p = ovm_image_code(image, abort, 2);
	if (p && p[0] == 0xeb) /* jmp rel8 */
		return ovm_va_add(abort, 2 + (int8_t)p[1]);
	return abort;
}

/* A signature of @n code bytes at @p may begin at @at. */
static void try_signature(struct finder *f, const struct ovm_segment *seg, const uint8_t *p,
			  uint64_t at)
{
	bool is_ud1, is_nop;
	if (at < CARRIER || seg->filesz - at < SIGNATURE_SIZE || ovm_le32(p + at) != SIGNATURE)
		return;
	is_ud1 =
	    p[at - 3] == 0x0f && p[at - 2] == 0xb9 && p[at - 1] == 0x3d; /* ud1 d32(%rip), %edi */
	is_nop = p[at - 3] == 0x0f && p[at - 2] == 0x1f && p[at - 1] == 0x05; /* nopl d32(%rip) */
	if (!is_ud1 && !is_nop) /* else it is the constant handed to the system call */
		return;
	ovm_va abort = ovm_va_add(seg->lo, (int64_t)(at + SIGNATURE_SIZE));
	keep(f, ovm_va_add(abort, -SIGNATURE_SIZE), SIGNATURE_SIZE + 1);
	keep(f, behind_jump(f->image, abort), 1);
}

/* False if no signature begins in the next CHUNK bytes: its first byte is its last too. Written so
 * that compilers make vector code of it. */
static bool may_begin(const uint8_t *p)
{
	uint8_t any = 0;
	for (unsigned i = 0; i < CHUNK; i++)
		any |= (uint8_t)((p[i] == (SIGNATURE & 0xff)) & (p[i + 3] == (SIGNATURE >> 24)));
	return any;
}

static void search_code(struct finder *f, const struct ovm_segment *seg)
{
	const uint8_t *p = f->image->bytes + seg->off.v;
	uint64_t at = 0;
	for (; seg->filesz - at >= CHUNK + SIGNATURE_SIZE; at += CHUNK) {
		if (!may_begin(p + at))
			continue;
		for (uint64_t i = 0; i < CHUNK; i++)
			try_signature(f, seg, p, at + i);
	}
	for (; at < seg->filesz; at++)
		try_signature(f, seg, p, at);
}

/* --- all --- */

static int by_lo(const void *a, const void *b)
{
	const struct ovm_rseq *x = a, *y = b;
	return (x->lo.v > y->lo.v) - (x->lo.v < y->lo.v);
}

/* Sorted and merged: a file may describe the same bytes many times. */
static void merge(ovm_rseqs *found)
{
	struct ovm_rseq *v = found->v;
	uint32_t n = 0;
	if (!found->n)
		return;
	qsort(v, found->n, sizeof(*v), by_lo);
	for (uint32_t i = 1; i < found->n; i++) {
		if (v[i].lo.v > v[n].hi.v)
			v[++n] = v[i];
		else if (v[i].hi.v > v[n].hi.v)
			v[n].hi = v[i].hi;
	}
	found->n = n + 1;
}

static void find_code(struct finder *f)
{
	f->code_lo = ovm_va_of(UINT64_MAX);
	for (uint32_t i = 0; i < f->image->segments.n; i++) { /* ascending */
		const struct ovm_segment *seg = &f->image->segments.v[i];
		if (!(seg->flags & PF_X))
			continue;
		if (seg->lo.v < f->code_lo.v)
			f->code_lo = seg->lo;
		f->code_hi = seg->hi;
	}
}

void ovm_rseq_find(const struct ovm_image *image, ovm_rseqs *out)
{
	struct finder f = {.image = image};
	find_code(&f);
	read_sections(&f);
	if (image->is_dyn)
		search_relocs(&f);
	for (uint32_t i = 0; i < image->segments.n; i++) {
		const struct ovm_segment *seg = &image->segments.v[i];
		if (seg->flags & PF_X)
			search_code(&f, seg);
		else if (!image->is_dyn)
			search_data(&f, seg);
	}
	merge(&f.found);
	*out = f.found;
}
