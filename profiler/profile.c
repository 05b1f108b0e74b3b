/* Folding and merging profiles.
 *
 * Profiles of many runs, processes and machines are summed in whatever order they arrive, so the
 * sum must not depend on that order. Every field therefore merges by an operation that is
 * commutative and associative and has the empty profile as its neutral element:
 *
 *   counts            saturating +          path, region name   lexically least, NULL is neutral
 *   frequency         max                   event, source       equal, or else the word "mixed"
 *   region hi, hash   max (0 is unknown)    lists               union by key, counts added
 *   block last, hash  max
 *
 * A merge appends and normalizes: sort by key, then add up neighbours with equal keys. Lists that
 * are sorted already (the usual case after loading) are not sorted again.
 */
#include "profiler/profile.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static uint64_t add_sat(uint64_t a, uint64_t b)
{
	uint64_t sum;
	return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static uint64_t max64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static int cmp64(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

/* --- one list kind: its order, and what adding two entries of equal key does --- */

static int sample_cmp(const void *pa, const void *pb)
{
	const struct ovm_prof_sample *a = pa, *b = pb;
	return cmp64(a->va.v, b->va.v);
}

static int branch_cmp(const void *pa, const void *pb)
{
	const struct ovm_prof_branch *a = pa, *b = pb;
	int c = cmp64(a->from.v, b->from.v);
	return c ? c : cmp64(a->to.v, b->to.v);
}

static int range_cmp(const void *pa, const void *pb)
{
	const struct ovm_prof_range *a = pa, *b = pb;
	int c = cmp64(a->from.v, b->from.v);
	return c ? c : cmp64(a->to.v, b->to.v);
}

static int edge_cmp(const void *pa, const void *pb)
{
	const struct ovm_prof_edge *a = pa, *b = pb;
	int c = cmp64(a->from.v, b->from.v);
	return c ? c : cmp64(a->to.v, b->to.v);
}

static int region_cmp(const void *pa, const void *pb)
{
	const struct ovm_prof_region *a = pa, *b = pb;
	return cmp64(a->lo.v, b->lo.v);
}

static int block_cmp(const void *pa, const void *pb)
{
	const struct ovm_prof_block *a = pa, *b = pb;
	return cmp64(a->lo.v, b->lo.v);
}

static int module_cmp(const void *pa, const void *pb)
{
	const struct ovm_prof_module *a = pa, *b = pb;
	return strcmp(a->id, b->id);
}

static void sample_add(void *into, void *from)
{
	struct ovm_prof_sample *a = into, *b = from;
	a->count = add_sat(a->count, b->count);
}

static void branch_add(void *into, void *from)
{
	struct ovm_prof_branch *a = into, *b = from;
	a->count = add_sat(a->count, b->count);
	a->mispreds = add_sat(a->mispreds, b->mispreds);
}

static void range_add(void *into, void *from)
{
	struct ovm_prof_range *a = into, *b = from;
	a->count = add_sat(a->count, b->count);
}

static void edge_add(void *into, void *from)
{
	struct ovm_prof_edge *a = into, *b = from;
	a->count = add_sat(a->count, b->count);
}

/* Keeps the lexically least of two owned strings in *into and frees the other. */
static void least(char **into, char *from)
{
	if (from && (!*into || strcmp(from, *into) < 0)) {
		free(*into);
		*into = from;
	} else {
		free(from);
	}
}

static void region_add(void *into, void *from)
{
	struct ovm_prof_region *a = into, *b = from;
	a->hi.v = max64(a->hi.v, b->hi.v);
	a->hash = max64(a->hash, b->hash);
	least(&a->name, b->name);
}

static void block_add(void *into, void *from)
{
	struct ovm_prof_block *a = into, *b = from;
	a->last = max64(a->last, b->last);
	a->hash = max64(a->hash, b->hash);
}

/* Moves the entries of one list to the end of another; both stay valid. */
#define move_list(into, from)                                                                      \
	do {                                                                                       \
		ovm_vec_reserve((into), (uint64_t)(into)->n + (from)->n);                          \
		if ((from)->n)                                                                     \
			memcpy((into)->v + (into)->n, (from)->v, (from)->n * sizeof(*(from)->v));  \
		(into)->n += (from)->n;                                                            \
		ovm_vec_free(from);                                                                \
	} while (0)

static void module_add(void *into, void *from)
{
	struct ovm_prof_module *a = into, *b = from;
	free(b->id);
	least(&a->path, b->path);
	move_list(&a->samples, &b->samples);
	move_list(&a->branches, &b->branches);
	move_list(&a->ranges, &b->ranges);
	move_list(&a->edges, &b->edges);
	move_list(&a->regions, &b->regions);
	move_list(&a->blocks, &b->blocks);
}

/* Sort @n entries of @size bytes, then add each to its predecessor if the keys are equal. Returns
 * the new number. */
static uint32_t fold(void *list, uint32_t n, size_t size, int (*cmp)(const void *, const void *),
		     void (*add)(void *into, void *from))
{
	char *v = list;
	bool sorted = true, unique = true;
	for (uint32_t i = 1; i < n && sorted; i++) {
		int c = cmp(v + (i - 1) * size, v + i * size);
		sorted = c <= 0;
		unique = unique && c < 0;
	}
	if (sorted && unique)
		return n;
	if (!sorted)
		qsort(v, n, size, cmp);
	uint32_t kept = 0;
	for (uint32_t i = 1; i < n; i++) {
		if (!cmp(v + kept * size, v + i * size))
			add(v + kept * size, v + i * size);
		else if (++kept != i)
			memcpy(v + kept * size, v + i * size, size);
	}
	return kept + 1;
}

#define fold_list(list, cmp, add)                                                                  \
	((list)->n = fold((list)->v, (list)->n, sizeof(*(list)->v), cmp, add))

static void normalize_module(struct ovm_prof_module *module)
{
	fold_list(&module->samples, sample_cmp, sample_add);
	fold_list(&module->branches, branch_cmp, branch_add);
	fold_list(&module->ranges, range_cmp, range_add);
	fold_list(&module->edges, edge_cmp, edge_add);
	fold_list(&module->regions, region_cmp, region_add);
	fold_list(&module->blocks, block_cmp, block_add);
}

static void module_fini(struct ovm_prof_module *module)
{
	free(module->id);
	free(module->path);
	for (uint32_t i = 0; i < module->regions.n; i++)
		free(module->regions.v[i].name);
	ovm_vec_free(&module->samples);
	ovm_vec_free(&module->branches);
	ovm_vec_free(&module->ranges);
	ovm_vec_free(&module->edges);
	ovm_vec_free(&module->regions);
	ovm_vec_free(&module->blocks);
}

#define copy_list(into, from)                                                                      \
	do {                                                                                       \
		ovm_vec_reserve((into), (from)->n);                                                \
		if ((from)->n)                                                                     \
			memcpy((into)->v, (from)->v, (from)->n * sizeof(*(from)->v));              \
		(into)->n = (from)->n;                                                             \
	} while (0)

static struct ovm_prof_module module_copy(const struct ovm_prof_module *from)
{
	struct ovm_prof_module copy = {.id = ovm_strdup(from->id)};
	if (from->path)
		copy.path = ovm_strdup(from->path);
	copy_list(&copy.samples, &from->samples);
	copy_list(&copy.branches, &from->branches);
	copy_list(&copy.ranges, &from->ranges);
	copy_list(&copy.edges, &from->edges);
	copy_list(&copy.regions, &from->regions);
	copy_list(&copy.blocks, &from->blocks);
	for (uint32_t i = 0; i < copy.regions.n; i++)
		if (copy.regions.v[i].name)
			copy.regions.v[i].name = ovm_strdup(copy.regions.v[i].name);
	return copy;
}

static void merge_word(char **into, const char *from)
{
	if (!from || !*from || (*into && !strcmp(*into, from)))
		return;
	const char *word = *into && **into ? "mixed" : from;
	free(*into);
	*into = ovm_strdup(word);
}

/* --- public --- */

struct ovm_profile *ovm_profile_new(void)
{
	return ovm_alloc(sizeof(struct ovm_profile));
}

void ovm_profile_free(struct ovm_profile *prof)
{
	if (!prof)
		return;
	for (uint32_t i = 0; i < prof->modules.n; i++)
		module_fini(&prof->modules.v[i]);
	ovm_vec_free(&prof->modules);
	free(prof->event);
	free(prof->source);
	free(prof);
}

const struct ovm_prof_module *ovm_profile_find(const struct ovm_profile *prof, const char *id)
{
	for (uint32_t i = 0; i < prof->modules.n; i++)
		if (!strcmp(prof->modules.v[i].id, id))
			return &prof->modules.v[i];
	return NULL;
}

struct ovm_prof_module *ovm_profile_module(struct ovm_profile *prof, const char *id,
					   const char *path)
{
	if (!id || !*id)
		id = "anon";
	const struct ovm_prof_module *found = ovm_profile_find(prof, id);
	if (!found) {
		struct ovm_prof_module made = {.id = ovm_strdup(id)};
		if (path && *path)
			made.path = ovm_strdup(path);
		ovm_vec_push(&prof->modules, made);
		return &prof->modules.v[prof->modules.n - 1];
	}
	struct ovm_prof_module *module = &prof->modules.v[found - prof->modules.v];
	if (!module->path && path && *path)
		module->path = ovm_strdup(path);
	return module;
}

uint64_t ovm_prof_module_samples(const struct ovm_prof_module *module)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < module->samples.n; i++)
		sum = add_sat(sum, module->samples.v[i].count);
	return sum;
}

void ovm_profile_normalize(struct ovm_profile *prof)
{
	fold_list(&prof->modules, module_cmp, module_add);
	for (uint32_t i = 0; i < prof->modules.n; i++)
		normalize_module(&prof->modules.v[i]);
}

void ovm_profile_merge(struct ovm_profile *into, const struct ovm_profile *from)
{
	merge_word(&into->event, from->event);
	merge_word(&into->source, from->source);
	into->frequency = max64(into->frequency, from->frequency);
	into->n_samples = add_sat(into->n_samples, from->n_samples);
	into->n_lost = add_sat(into->n_lost, from->n_lost);
	into->n_unmapped = add_sat(into->n_unmapped, from->n_unmapped);
	into->n_processes = add_sat(into->n_processes, from->n_processes);
	for (uint32_t i = 0, n = from->modules.n; i < n; i++)
		ovm_vec_push(&into->modules, module_copy(&from->modules.v[i]));
	ovm_profile_normalize(into);
}

/* --- hash --- */

static void hash_bytes(XXH3_state_t *state, const void *bytes, size_t len)
{
	uint64_t n = len; /* so that the borders of what follows one another count */
	XXH3_64bits_update(state, &n, sizeof(n));
	if (len)
		XXH3_64bits_update(state, bytes, len);
}

static void hash_word(XXH3_state_t *state, const char *word)
{
	hash_bytes(state, word, word ? strlen(word) + 1 : 0);
}

/* Lists whose elements are nothing but 64-bit numbers. */
#define HASH_LIST(state, list)                                                                     \
	do {                                                                                       \
		static_assert(sizeof(*(list)->v) % sizeof(uint64_t) == 0, "no padding");           \
		hash_bytes(state, (list)->v, (list)->n * sizeof(*(list)->v));                      \
	} while (0)

static void hash_module(XXH3_state_t *state, const struct ovm_prof_module *m)
{
	hash_word(state, m->id);
	hash_word(state, m->path);
	HASH_LIST(state, &m->samples);
	HASH_LIST(state, &m->branches);
	HASH_LIST(state, &m->ranges);
	HASH_LIST(state, &m->edges);
	HASH_LIST(state, &m->blocks);
	for (uint32_t i = 0; i < m->regions.n; i++) {
		const struct ovm_prof_region *r = &m->regions.v[i];
		const uint64_t numbers[] = {r->lo.v, r->hi.v, r->hash};
		hash_bytes(state, numbers, sizeof(numbers));
		hash_word(state, r->name);
	}
}

uint64_t ovm_profile_hash(const struct ovm_profile *prof)
{
	const uint64_t numbers[] = {prof->frequency, prof->n_samples, prof->n_lost,
				    prof->n_unmapped, prof->n_processes};
	XXH3_state_t *state = XXH3_createState();
	if (!state || XXH3_64bits_reset(state) == XXH_ERROR)
		ovm_out_of_memory(1, sizeof(numbers));
	hash_word(state, prof->event);
	hash_word(state, prof->source);
	hash_bytes(state, numbers, sizeof(numbers));
	for (uint32_t i = 0; i < prof->modules.n; i++)
		hash_module(state, &prof->modules.v[i]);
	uint64_t hash = XXH3_64bits_digest(state);
	XXH3_freeState(state);
	return hash;
}
