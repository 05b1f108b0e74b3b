/* decode -> emit -> decode -> check: any bytes as one or two functions of a file go through the
 * whole engine. What the emitter made of them the checker must prove, and the second decoder aside
 * LLVM must find every copied instruction where the map says. Then bytes of the copy are changed,
 * and the checker must survive that.
 *
 *   +0  flags: 1 counters, 2 position-independent, 4 hostile profile, 8 stack rows, 16 drop cold
 *   +1  bytes of code / 8, at most 30 (the checker follows 256 nops)
 *   +2  where it is cut in two functions / 4, 0: one function
 *   +3  code, then read-only data (jump tables), of whose last 16 bytes the changes are made
 */
#include "analyzer/image_private.h"
#include "base/log.h"
#include "rewriter/check.h"
#include "rewriter/engine.h"
#include "tests/support/mini_elf.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

enum { COUNTING = 1, DYN = 2, PROFILE = 4, ROWS = 8, DROP_COLD = 16 };
enum { HEAD = 3, HDR = 0x400, EH = 0x500, TEXT = 0x1000, MAX = 0x1000, MAX_CODE = 31 };
#define BASE (MINI_VA + 0x100000)
#define COUNTERS (BASE + 0x100000)

struct input {
	unsigned flags;
	const uint8_t *v; /* code and data */
	size_t len, code, cut;
};

static void put_functions(struct mini *mini, const struct input *in)
{
	static const uint8_t prog[] = {0x41, 0x0e, 16, 0x44, 0x0e, 8};
	struct ovm_buf frame = {0};
	size_t n = in->flags & ROWS && in->code > 8 ? sizeof(prog) : 0;
	mini_put(mini, TEXT, in->v, in->len);
	mini_cie(&frame);
	mini_fde(&frame, EH, 0, TEXT, (uint32_t)(in->cut ? in->cut : in->code), prog,
		 in->cut > 8 || !in->cut ? n : 0);
	if (in->cut)
		mini_fde(&frame, EH, 0, TEXT + in->cut, (uint32_t)(in->code - in->cut), NULL, 0);
	mini_eh_frame(mini, &frame, HDR, EH);
}

/* Edges and samples between any two places of the code, with any count. */
static struct ovm_profile *hostile(const struct ovm_image *image, const struct input *in)
{
	static const uint64_t counts[] = {0, 1, 1000, UINT32_MAX, INT64_MAX, UINT64_MAX};
	struct ovm_profile *prof = ovm_profile_new();
	struct ovm_prof_module *module = ovm_profile_module(prof, image->id, "fuzz");
	for (size_t i = 0; i + 3 <= in->len; i += 3) {
		ovm_va from = ovm_va_of(MINI_VA + TEXT + in->v[i]);
		ovm_va to = ovm_va_of(MINI_VA + TEXT + in->v[i + 1]);
		uint64_t count = counts[in->v[i + 2] % 6];
		ovm_vec_push(&module->samples, (struct ovm_prof_sample){to, count});
		ovm_vec_push(&module->edges, (struct ovm_prof_edge){from, to, count});
		ovm_vec_push(&module->branches, (struct ovm_prof_branch){to, from, count, count});
		ovm_vec_push(&module->ranges, (struct ovm_prof_range){from, to, count});
	}
	ovm_profile_normalize(prof);
	return prof;
}

/* Copies are decoded once more, and the map says how long they are. */
static void decode_copies(struct ovm_decoder *dec, const struct ovm_overlay *overlay)
{
	for (uint32_t i = 0; i < overlay->map.v.n; i++) {
		const struct ovm_map_entry *entry = &overlay->map.v.v[i];
		struct ovm_insn insn;
		if (entry->flags & OVM_MAP_PAD)
			continue;
		unsigned n = ovm_decode_one(dec, overlay->bytes + entry->off, entry->new_len,
					    ovm_va_add(overlay->base, entry->off), &insn);
		OVM_ASSERT(n && (n == entry->new_len || insn.kind == OVM_INSN_JCXZ));
	}
}

/* Any change of the copy may be found or be harmless, but it must be survived. */
static void change(struct ovm_ctx *ctx, struct ovm_engine *engine, const struct input *in)
{
	struct ovm_overlay *overlay = &engine->overlay;
	struct ovm_check_result result;
	for (size_t i = in->len < 16 ? 0 : in->len - 16; i + 3 < in->len; i += 4) {
		uint32_t at = ovm_le32(in->v + i) >> 8;
		if (at & 1)
			overlay->bytes[at / 2 % overlay->size] ^= (uint8_t)(in->v[i] | 1);
		else
			overlay->map.v.v[at / 2 % overlay->map.v.n].old.v ^= in->v[i];
		ovm_check(ctx, engine->image, &engine->regions, overlay, &result);
	}
}

static void run(struct ovm_ctx *ctx, struct ovm_decoder *dec, struct ovm_image *image,
		const struct input *in)
{
	struct ovm_engine engine;
	struct ovm_profile *prof = in->flags & PROFILE ? hostile(image, in) : NULL;
	const struct ovm_prof_module *module = prof ? ovm_profile_find(prof, image->id) : NULL;
	struct ovm_engine_opts opts = {.share = 1,
				       .uniform = !prof,
				       .base = ovm_va_of(BASE),
				       .layout.drop_cold = in->flags & DROP_COLD,
				       .is_counting = in->flags & COUNTING,
				       .counters = ovm_va_of(COUNTERS),
				       .counters_room = MINI_SIZE};
	int rc = ovm_engine_run(ctx, dec, image, module, &opts, &engine);
	OVM_ASSERT(rc == OVM_OK || rc == OVM_REFUSED);
	OVM_ASSERT(!ctx->n_refused[OVM_REFUSE_CHECKER]);
	if (rc == OVM_OK) {
		decode_copies(dec, &engine.overlay);
		change(ctx, &engine, in);
	}
	ovm_engine_fini(&engine);
	ovm_profile_free(prof);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	static struct ovm_decoder *dec;
	struct ovm_ctx ctx;
	struct ovm_image *image;
	struct mini mini;
	ovm_ctx_init(&ctx);
	if (!dec) {
		ovm_log_setup(getenv("OVM_LOG")); /* OVM_LOG=info: why the checker refused */
		OVM_ASSERT(!ovm_decoder_open(&ctx, &dec));
	}
	if (len <= HEAD || len > MAX)
		return 0;
	struct input in = {.flags = bytes[0], .v = bytes + HEAD, .len = len - HEAD};
	in.code = bytes[1] % MAX_CODE * (size_t)8;
	if (!in.code || in.code > in.len)
		in.code = in.len < MAX_CODE * 8 ? in.len : MAX_CODE * 8;
	in.cut = bytes[2] * (size_t)4 < in.code ? bytes[2] * (size_t)4 : 0;
	mini_init(&mini, in.flags & DYN);
	put_functions(&mini, &in);
	OVM_ASSERT(!ovm_image_open_bytes(&ctx, mini.v, MINI_SIZE, "fuzz", &image));
	run(&ctx, dec, image, &in);
	ovm_image_close(image);
	return 0;
}
