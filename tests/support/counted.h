#ifndef OVM_TEST_COUNTED_H
#define OVM_TEST_COUNTED_H
/* Functions of this very program as instrumented copies that can be called, with their counters. */
#include "rewriter/engine.h"
#include "tests/support/selfexe.h"

#include <stdlib.h>
#include <sys/mman.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

extern const char __ehdr_start[];

/* The heap begins at random within 1 GiB behind the program (Linux 6.9: arch_randomize_brk(); 32 MiB
 * before). */
enum { COUNTED_ROOM = 1 << 24, COUNTED_AWAY = (1 << 30) + (1 << 28) };

struct counted {
	struct self self;
	ovm_va functions[16]; /* ascending */
	uint32_t n_functions;
	struct ovm_prof_module module;
	struct ovm_engine engine;
	uint64_t bias;
	uint64_t *counters, *counts; /* of overlay.n_counters, of arcs */
};

/* Copies and counters where link-time addresses say, moved by the program's own bias. */
static inline void *counted_map(const struct counted *f, ovm_va va, size_t size)
{
	void *at = (void *)(va.v + f->bias); /* NOLINT */
	void *got = mmap(at, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_equal(got, at);
	return got;
}

static inline int counted_by_va(const void *a, const void *b)
{
	const ovm_va *x = a, *y = b;
	return (x->v > y->v) - (x->v < y->v);
}

static inline void counted_init(struct counted *f, const char *const *names, uint32_t n)
{
	memset(f, 0, sizeof(*f));
	self_open(&f->self);
	const struct ovm_image *image = f->self.image;
	uint64_t end = image->segments.v[image->segments.n - 1].hi.v;
	end = (end + COUNTED_AWAY) & ~UINT64_C(0xffff);
	f->bias = (uint64_t)__ehdr_start - image->segments.v[0].lo.v;
	assert_true(n <= sizeof(f->functions) / sizeof(f->functions[0]));
	for (uint32_t i = 0; i < n; i++)
		f->functions[f->n_functions++] = self_symbol(&f->self, names[i]);
	qsort(f->functions, n, sizeof(f->functions[0]), counted_by_va);
	for (uint32_t i = 0; i < n; i++)
		ovm_vec_push(&f->module.samples, ((struct ovm_prof_sample){f->functions[i], 100}));
	const struct ovm_engine_opts opts = {
	    .share = 1,
	    .is_live = true,
	    .base = {end},
	    .is_counting = true,
	    .counters = {end + COUNTED_ROOM},
	    .counters_room = COUNTED_ROOM,
	};
	assert_int_equal(
	    ovm_engine_run(&f->self.ctx, f->self.dec, f->self.image, &f->module, &opts, &f->engine),
	    0);
	const struct ovm_overlay *overlay = &f->engine.overlay;
	void *code = counted_map(f, overlay->base, overlay->size);
	memcpy(code, overlay->bytes, overlay->size);
	assert_int_equal(mprotect(code, overlay->size, PROT_READ | PROT_EXEC), 0);
	f->counters = counted_map(f, overlay->counters, overlay->n_counters * sizeof(uint64_t));
	f->counts = ovm_alloc_array(f->engine.probes.arcs.n, sizeof(uint64_t));
}

static inline void counted_fini(struct counted *f)
{
	const struct ovm_overlay *overlay = &f->engine.overlay;
	munmap(f->counters, overlay->n_counters * sizeof(uint64_t));
	munmap((void *)(overlay->base.v + f->bias), overlay->size); /* NOLINT */
	free(f->counts);
	ovm_engine_fini(&f->engine);
	ovm_vec_free(&f->module.samples);
	ovm_vec_free(&f->module.edges);
	self_close(&f->self);
}

/* Where the copy of function @name begins. */
static inline uint64_t counted_copy(const struct counted *f, const char *name)
{
	const struct ovm_overlay *overlay = &f->engine.overlay;
	const struct ovm_map_entry *entry = ovm_map_old(&overlay->map, self_symbol(&f->self, name));
	assert_non_null(entry);
	if (entry > overlay->map.v.v && (entry[-1].flags & OVM_MAP_COUNT))
		entry--;
	return overlay->base.v + entry->off + f->bias;
}

#endif
