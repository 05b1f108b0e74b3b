/* Promoted calls, executed: functions of this very program call through pointers in every form
 * there is, with the target that was expected and with others. And the proof: whatever single bit
 * of a guard, its call and its slow way is changed, the checker notices.
 */
#include "rewriter/check.h"
#include "rewriter/dynostats.h"
#include "rewriter/promote.h"
#include "tests/support/call_forms.h"
#include "tests/support/counted.h"
#include "tests/support/stepping.h"

#include "runtime/osr.h"

enum { HITS = 900, TOTAL = 1000 };

/* --- helpers
 * ----------------------------------------------------------------------------------------------------
 */

/* The first indirect call in function @name. */
static ovm_va call_in(struct counted *f, const char *name)
{
	struct ovm_cfg *cfg = self_cfg(&f->self, name);
	ovm_va found = ovm_va_of(0);
	assert_non_null(cfg);
	for (uint32_t i = cfg->n_insns; i-- > 0;)
		if (cfg->insns[i].kind == OVM_INSN_CALL_IND)
			found = cfg->insns[i].va;
	ovm_cfg_free(cfg);
	assert_true(found.v != 0);
	return found;
}

static void edge(struct counted *f, ovm_va from, ovm_va to, uint64_t count)
{
	ovm_vec_push(&f->module.edges, ((struct ovm_prof_edge){from, to, count}));
}

static int by_edge(const void *a, const void *b)
{
	const struct ovm_prof_edge *x = a, *y = b;
	if (x->from.v != y->from.v)
		return x->from.v < y->from.v ? -1 : 1;
	return (x->to.v > y->to.v) - (x->to.v < y->to.v);
}

/* A profile of @name that calls @likely so often. */
static void profile(struct counted *f, const char *name, function likely, uint64_t hits)
{
	ovm_va caller_va = self_symbol(&f->self, name);
	ovm_va callee_va = ovm_va_of((uint64_t)likely - f->bias); /* NOLINT */
	ovm_vec_push(&f->module.samples, ((struct ovm_prof_sample){caller_va, 100}));
	ovm_vec_push(&f->module.samples, ((struct ovm_prof_sample){callee_va, 100}));
	if (caller_va.v > callee_va.v) {
		f->module.samples.v[0].va = callee_va;
		f->module.samples.v[1].va = caller_va;
	}
	edge(f, ovm_va_of(0), caller_va, TOTAL);
	edge(f, ovm_va_of(0), callee_va, hits);
	edge(f, call_in(f, name), callee_va, hits);
	qsort(f->module.edges.v, f->module.edges.n, sizeof(f->module.edges.v[0]), by_edge);
}

/* Copies of @name and of @likely. */
static void promoted_init(struct counted *f, const char *name, function likely, uint64_t hits)
{
	memset(f, 0, sizeof(*f));
	self_open(&f->self);
	const struct ovm_image *image = f->self.image;
	uint64_t end = image->segments.v[image->segments.n - 1].hi.v;
	end = (end + COUNTED_AWAY) & ~UINT64_C(0xffff);
	f->bias = (uint64_t)__ehdr_start - image->segments.v[0].lo.v;
	profile(f, name, likely, hits);
	const struct ovm_engine_opts opts = {.share = 1,
					     .is_live = true,
					     .base = {end},
					     .layout = {.promote = true, .take_all = true}};
	assert_int_equal(
	    ovm_engine_run(&f->self.ctx, f->self.dec, f->self.image, &f->module, &opts, &f->engine),
	    0);
	assert_int_equal(f->engine.stats.n_dropped_by_checker, 0);
	const struct ovm_overlay *overlay = &f->engine.overlay;
	void *code = counted_map(f, overlay->base, overlay->size);
	memcpy(code, overlay->bytes, overlay->size);
	assert_int_equal(mprotect(code, overlay->size, PROT_READ | PROT_EXEC), 0);
}

/* The guard in the overlay, NULL. */
static struct ovm_map_entry *guard_of(const struct ovm_overlay *overlay)
{
	for (uint32_t i = 0; i < overlay->map.v.n; i++)
		if ((overlay->map.v.v[i].flags & (OVM_MAP_SYNTH | OVM_MAP_GUARD)) ==
		    (OVM_MAP_SYNTH | OVM_MAP_GUARD))
			return &overlay->map.v.v[i];
	return NULL;
}

static bool is_proved(struct counted *f)
{
	struct ovm_check_result result;
	return ovm_check(&f->self.ctx, f->self.image, &f->engine.regions, &f->engine.overlay,
			 &result) == 0;
}

/* --- execution
 * --------------------------------------------------------------------------------------------------
 */

static bool has_r11(const char *name)
{
	return !strcmp(name, "form_r11") || !strcmp(name, "form_mem_r11");
}

static void all_forms(void **state)
{
	(void)state;
	for (unsigned i = 0; i < N_FORMS; i++) {
		const char *name = forms[i].name;
		struct counted f;
		promoted_init(&f, name, callee_2, HITS);
		bool expected = forms[i].is_counted && !(has_r11(name) && f.self.image->is_dyn);
		if (!!guard_of(&f.engine.overlay) != expected)
			fail_msg("%s", name);
		caller copy = (caller)counted_copy(&f, name); /* NOLINT */
		for (unsigned k = 0; k < 3 * N_CALLEES; k++)
			assert_int_equal(copy(callees[k % N_CALLEES], k),
					 forms[i].call(callees[k % N_CALLEES], k));
		counted_fini(&f);
	}
}

/* The direct call is the one that is executed, and only for the expected target. */
static void calls_directly(void **state)
{
	struct counted f;
	(void)state;
	promoted_init(&f, "form_mem8", callee_2, HITS);
	const struct ovm_map_entry *guard = guard_of(&f.engine.overlay);
	assert_non_null(guard);
	caller copy = (caller)counted_copy(&f, "form_mem8"); /* NOLINT */
	stepping_begin(&f, OVM_MAP_GUARD);
	assert_int_equal(stepped(copy, callee_2, 7), 72);
	unsigned direct = stepping.n_inside;
	assert_int_equal(stepped(copy, callee_3, 7), 73);
	unsigned slow = stepping.n_inside - direct;
	stepping_end();
	assert_int_equal(direct, f.self.image->is_dyn ? 6 : 3); /* the last is the call */
	assert_int_equal(slow, direct - 1);
	assert_int_equal(stepping.n_lost, 0);
	counted_fini(&f);
}

static void registers_are_kept(void **state)
{
	struct counted f;
	(void)state;
	promoted_init(&f, "keeps_r11", r11_callee, HITS);
	assert_non_null(guard_of(&f.engine.overlay));
	caller copy = (caller)counted_copy(&f, "keeps_r11"); /* NOLINT */
	assert_int_equal(copy(r11_callee, 0), 0x1234);
	counted_fini(&f);
	promoted_init(&f, "keeps_r11", callee_2, HITS);
	assert_non_null(guard_of(&f.engine.overlay));
	copy = (caller)counted_copy(&f, "keeps_r11"); /* NOLINT */
	assert_int_equal(copy(r11_callee, 0), 0x1234);
	counted_fini(&f);
}

/* --- which calls
 * ----------------------------------------------------------------------------------------------------
 */

static void only_likely_ones(void **state)
{
	struct counted f;
	(void)state;
	promoted_init(&f, "form_reg", callee_2, TOTAL / 3);
	assert_null(guard_of(&f.engine.overlay));
	counted_fini(&f);
	promoted_init(&f, "form_reg", callee_2, TOTAL);
	const struct ovm_map_entry *guard = guard_of(&f.engine.overlay);
	assert_non_null(guard);
	assert_int_equal(f.engine.layout.promotions.n, 1);
	assert_int_equal(f.engine.layout.promotions.v[0].hits, TOTAL);
	assert_int_equal(f.engine.layout.promotions.v[0].total, TOTAL);
	assert_true(ovm_map_old(&f.engine.overlay.map, guard->old)->off >=
		    f.engine.overlay.sections[OVM_SECTION_COLD].off);
	counted_fini(&f);
	promoted_init(&f, "form_reg", callee_2, HITS); /* its slow way is not cold */
	guard = guard_of(&f.engine.overlay);
	assert_true(ovm_map_old(&f.engine.overlay.map, guard->old)->off <
		    f.engine.overlay.sections[OVM_SECTION_HOT].size);
	counted_fini(&f);
}

/* Instrumented copies count what this needs to know. */
static void not_when_counting(void **state)
{
	static const char *const names[] = {"form_reg"};
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	assert_null(guard_of(&f.engine.overlay));
	counted_fini(&f);
}

/* What is said of the copies: as many calls, fewer of them indirect. */
static void is_counted_in_stats(void **state)
{
	struct ovm_dynostats stats;
	struct counted f;
	(void)state;
	promoted_init(&f, "form_mem8", callee_2, HITS);
	ovm_dynostats(f.self.dec, &f.engine.program, &f.engine.program, &f.engine.layout,
		      &f.engine.overlay, &stats);
	assert_int_equal(stats.before[OVM_DYNO_INDIRECT_CALLS], TOTAL);
	assert_int_equal(stats.before[OVM_DYNO_CALLS], TOTAL);
	assert_int_equal(stats.after[OVM_DYNO_INDIRECT_CALLS], TOTAL - HITS);
	assert_int_equal(stats.after[OVM_DYNO_CALLS], TOTAL);
	assert_int_equal(stats.after[OVM_DYNO_COND], TOTAL);
	assert_int_equal(stats.after[OVM_DYNO_COND_TAKEN], TOTAL - HITS);
	assert_int_equal(stats.after[OVM_DYNO_UNCOND] - stats.entries, TOTAL - HITS);
	counted_fini(&f);
}

/* --- threads that are moved
 * -----------------------------------------------------------------------------------------
 */

static void moves_threads(void **state)
{
	struct counted f;
	ovm_rta to;
	(void)state;
	promoted_init(&f, "form_mem8", callee_2, HITS);
	const struct ovm_overlay *overlay = &f.engine.overlay;
	const struct ovm_map_entry *guard = guard_of(overlay), *call = guard + 1;
	const struct ovm_map_entry *slow = ovm_map_old(&overlay->map, guard->old);
	uint64_t base = overlay->base.v + f.bias;
	struct ovm_osr_module module = {.overlay = overlay,
					.bias = f.bias,
					.lo = ovm_va_to_rta(f.self.image->lo, f.bias),
					.hi = ovm_va_to_rta(f.self.image->hi, f.bias),
					.is_armed = true};
	ovm_rta old = ovm_va_to_rta(guard->old, f.bias);
	/* in: to the call that assumes nothing */
	assert_true(ovm_osr_map(&module, 1, old, false, &to));
	assert_int_equal(to.v, base + slow->off);
	assert_ptr_not_equal(slow, call);
	/* out: from either end of the guard, but not from inside */
	module.is_armed = false;
	assert_true(ovm_osr_map(&module, 1, ovm_rta_of(base + guard->off), false, &to));
	assert_int_equal(to.v, old.v);
	assert_true(ovm_osr_map(&module, 1, ovm_rta_of(base + call->off), false, &to));
	assert_int_equal(to.v, old.v);
	for (uint32_t at = guard->off + 1; at < call->off; at++)
		assert_false(ovm_osr_map(&module, 1, ovm_rta_of(base + at), false, &to));
	counted_fini(&f);
}

/* --- the proof
 * ------------------------------------------------------------------------------------------------------
 */

/* With nothing before it that runs into it: then another address would do as well. */
__asm__(".text\n.rept 16\nint3\n.endr\n.p2align 4, 0xcc\n");
ASM_FUNCTION("alone", "lea 5(%rdi), %eax\nret");
unsigned alone(unsigned x);

/* Each bit of these bytes matters. */
static void flip(struct counted *f, uint32_t off, uint32_t len)
{
	uint8_t *bytes = f->engine.overlay.bytes;
	for (uint32_t i = 8 * off; i < 8 * (off + len); i++) {
		bytes[i / 8] ^= (uint8_t)(1u << i % 8);
		if (is_proved(f))
			fail_msg("bit %u of +0x%x", i % 8, i / 8);
		bytes[i / 8] ^= (uint8_t)(1u << i % 8);
	}
	assert_true(is_proved(f));
}

static void bits(void **state)
{
	static const char *const names[] = {"form_reg",	  "form_reg_high", "form_mem8",
					    "form_index", "form_stack",	   "form_rip",
					    "form_fs",	  "form_mem_r13"};
	(void)state;
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct counted f;
		promoted_init(&f, names[i], alone, HITS);
		const struct ovm_map_entry *guard = guard_of(&f.engine.overlay);
		const struct ovm_map_entry *slow = ovm_map_old(&f.engine.overlay.map, guard->old);
		flip(&f, guard->off, guard->new_len + guard[1].new_len);
		flip(&f, slow->off, slow->new_len + slow[1].new_len);
		counted_fini(&f);
	}
}

#define refused(f, entry, field, value)                                                            \
	do {                                                                                       \
		struct ovm_map_entry kept = *(entry);                                              \
		(entry)->field = (value);                                                          \
		assert_false(is_proved(f));                                                        \
		*(entry) = kept;                                                                   \
		assert_true(is_proved(f));                                                         \
	} while (0)

static void maps(void **state)
{
	struct counted f;
	(void)state;
	promoted_init(&f, "form_mem8", callee_2, HITS);
	struct ovm_map_entry *guard = guard_of(&f.engine.overlay), *call = guard + 1;
	refused(&f, guard, flags, OVM_MAP_SYNTH);
	refused(&f, guard, flags, OVM_MAP_SYNTH | OVM_MAP_PAD);
	refused(&f, guard, flags, OVM_MAP_GUARD);
	refused(&f, guard, flags, OVM_MAP_SYNTH | OVM_MAP_GUARD | OVM_MAP_COUNT);
	refused(&f, guard, old, ovm_va_add(guard->old, -1));
	refused(&f, guard, new_len, guard->new_len - 1);
	refused(&f, guard, old_len, 3);
	refused(&f, call, flags, OVM_MAP_CALL); /* then anybody may go there */
	refused(&f, call, flags, OVM_MAP_GUARD);
	refused(&f, call, flags, OVM_MAP_CALL | OVM_MAP_GUARD | OVM_MAP_SYNTH);
	refused(&f, call, old, ovm_va_add(call->old, 1));
	refused(&f, call, old_len, call->old_len + 1); /* return addresses would be others */
	refused(&f, call, new_len, 4);
	counted_fini(&f);
}

static void set_patch(struct counted *f, struct ovm_patch *patch, uint32_t target)
{
	patch->target = target;
	ovm_put32(patch->new_bytes + 1,
		  (uint32_t)(f->engine.overlay.base.v + target - (patch->at.v + patch->len)));
}

ASM_FUNCTION("form_first", "call *%rax\nret");
unsigned form_first(function callee, unsigned x);

/* Nobody may arrive at the direct call: the comparison is before it. */
static void no_way_around(void **state)
{
	struct counted f;
	(void)state;
	promoted_init(&f, "form_first", callee_2, HITS);
	struct ovm_overlay *overlay = &f.engine.overlay;
	const struct ovm_map_entry *guard = guard_of(overlay);
	assert_non_null(guard);
	struct ovm_patch patch = {.at = guard->old, .len = 5, .new_bytes = {0xe9}};
	patch.region = ovm_region_find(&f.engine.regions, patch.at);
	f.engine.regions.v.v[patch.region].hi = ovm_va_add(patch.at, 16);
	memcpy(patch.old_bytes, ovm_image_code(f.self.image, patch.at, 5), 5);
	assert_true(is_proved(&f));
	overlay->patches.n = 0;
	ovm_vec_push(&overlay->patches, patch);
	struct ovm_check_result result;
	set_patch(&f, &overlay->patches.v[0], guard->off + guard->new_len);
	assert_int_equal(ovm_check(&f.self.ctx, f.self.image, &f.engine.regions, overlay, &result),
			 OVM_REFUSED);
	assert_string_equal(result.reason, "a patch goes elsewhere");
	set_patch(&f, &overlay->patches.v[0], guard->off); /* the only way in */
	assert_int_equal(ovm_check(&f.self.ctx, f.self.image, &f.engine.regions, overlay, &result),
			 OVM_REFUSED);
	assert_string_equal(result.reason, "a patch over a return address");
	counted_fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(all_forms),
	    cmocka_unit_test(calls_directly),
	    cmocka_unit_test(registers_are_kept),
	    cmocka_unit_test(only_likely_ones),
	    cmocka_unit_test(not_when_counting),
	    cmocka_unit_test(is_counted_in_stats),
	    cmocka_unit_test(moves_threads),
	    cmocka_unit_test(bits),
	    cmocka_unit_test(maps),
	    cmocka_unit_test(no_way_around),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
