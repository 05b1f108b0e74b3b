/* Yesterday's profile, today's build.
 *
 * A program is built again, and every address is another one, though most functions are what they
 * were. The recorder has left hashes without addresses (blockhash.h); by these regions are paired
 * (stale_pairs.c), and in pairs of changed code blocks (stale_blocks.h). Then the counts move:
 *
 *   recorded                          now
 *   [401000 401180) equal code        [40a200 40a380)     every address, at its offset
 *   [402000 402090) changed
 *      402010..402020 equal code         40b013..40b023   every address, at its offset
 *      402020..40202b changed            40b023..40b031   samples; edges from its last instruction
 *                                                         and to its first one
 *      anything else                     -                left out
 *
 * An edge needs both its ends; flow inference (infer.c) mends what is missing in between.
 *
 * A wrong pair costs speed only (rule R11): counts say what is hot, never what is true. A hostile
 * profile can do no more than that either: each list is searched by bisection and every walk over
 * candidates is bounded.
 */
#define OVM_LOG_DOMAIN "stale"
#include "analyzer/stale.h"
#include "analyzer/stale_private.h"
#include "analyzer/tunables.h"
#include "base/log.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static uint64_t add_sat(uint64_t a, uint64_t b)
{
	return a + b < a ? UINT64_MAX : a + b;
}

/* --- which module --- */

static uint64_t module_counts(const struct ovm_prof_module *m, bool *has_samples)
{
	uint64_t sum = 0;
	*has_samples = m->samples.n > 0;
	if (*has_samples)
		return ovm_prof_module_samples(m);
	for (uint32_t i = 0; i < m->edges.n; i++)
		sum = add_sat(sum, m->edges.v[i].count);
	for (uint32_t i = 0; i < m->branches.n; i++)
		sum = add_sat(sum, m->branches.v[i].count);
	for (uint32_t i = 0; i < m->ranges.n; i++)
		sum = add_sat(sum, m->ranges.v[i].count);
	return sum;
}

static const char *file_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

/* Length of "libfoo" in "libfoo-1.2.so.3", of "prog" in "prog-15". */
static size_t stem_len(const char *file)
{
	const char *so = strstr(file, ".so");
	size_t len = so ? (size_t)(so - file) : strlen(file);
	size_t stem = len;
	while (stem && strchr("0123456789.-_", file[stem - 1]))
		stem--;
	return stem ? stem : len;
}

static bool same_stem(const char *a, const char *b)
{
	size_t len = stem_len(a);
	return len == stem_len(b) && !memcmp(a, b, len);
}

static const struct ovm_prof_module *find_module(const struct ovm_profile *prof,
						 const struct ovm_image *image)
{
	const struct ovm_prof_module *best = NULL;
	const char *file = file_of(image->path);
	uint64_t most = 0;
	bool best_exact = false;
	for (uint32_t i = 0; i < prof->modules.n; i++) {
		const struct ovm_prof_module *m = &prof->modules.v[i];
		const char *other = m->path ? file_of(m->path) : "";
		bool has_samples, exact = !strcmp(other, file);
		uint64_t counts = module_counts(m, &has_samples);
		if (!counts || !m->regions.n || (!exact && !same_stem(other, file)))
			continue;
		if (!best || exact > best_exact || (exact == best_exact && counts > most)) {
			best = m;
			best_exact = exact;
			most = counts;
		}
	}
	return best;
}

/* --- counts --- */

enum role { /* of an address in a record: where in a changed block it must be to be found */
	    ANYWHERE,
	    START, /* first instruction */
	    LAST,  /* last instruction */
};

static const struct ovm_stale_region *old_region_of(const struct ovm_stale_match *m, ovm_va va)
{
	uint32_t i;
	OVM_LOWER_BOUND(&m->old, lo.v, va.v, i);
	if (i == m->old.n || m->old.v[i].lo.v > va.v) {
		if (!i--)
			return NULL;
	}
	return ovm_va_in(va, m->old.v[i].lo, m->old.v[i].hi) ? &m->old.v[i] : NULL;
}

static bool move_in_block(const struct ovm_prof_block *old, const struct ovm_stale_block *now,
			  ovm_va va, enum role role, ovm_va *out)
{
	uint64_t off = va.v - old->lo.v;
	if (off > old->last || !now->is_found)
		return false;
	if (off == 0 && role != LAST)
		*out = now->lo;
	else if (off == old->last && role != START)
		*out = ovm_va_add(now->lo, now->last);
	else if (now->is_same && off <= now->last)
		*out = ovm_va_add(now->lo, (int64_t)off);
	else if (role == ANYWHERE)
		*out = ovm_va_add(now->lo, off < now->last ? (int64_t)off : now->last);
	else
		return false;
	return true;
}

/* Where the code at @va is now. */
static bool move(const struct ovm_stale_match *m, ovm_va va, enum role role, ovm_va *out)
{
	const struct ovm_stale_region *old = old_region_of(m, va);
	uint32_t i;
	if (!old || old->now == OVM_NONE)
		return false;
	if (old->is_same) {
		const struct ovm_region *now = &m->regions->v.v[old->now];
		*out = ovm_va_add(now->lo, (int64_t)(va.v - old->lo.v));
		return ovm_va_in(*out, now->lo, now->hi);
	}
	OVM_LOWER_BOUND(&m->module->blocks, lo.v, va.v, i);
	if (i == m->module->blocks.n || m->module->blocks.v[i].lo.v > va.v)
		i--; /* wraps at 0 */
	if (i < old->first || i - old->first >= old->n)
		return false;
	return move_in_block(&m->module->blocks.v[i], &m->blocks[i], va, role, out);
}

static bool move_pair(const struct ovm_stale_match *m, ovm_va from, enum role from_role, ovm_va to,
		      enum role to_role, ovm_va out[2])
{
	return move(m, from, from_role, &out[0]) && move(m, to, to_role, &out[1]);
}

static void move_samples(const struct ovm_stale_match *m, struct ovm_prof_module *out)
{
	for (uint32_t i = 0; i < m->module->samples.n; i++) {
		struct ovm_prof_sample s = m->module->samples.v[i];
		if (move(m, s.va, ANYWHERE, &s.va))
			ovm_vec_push(&out->samples, s);
	}
}

static void move_branches(const struct ovm_stale_match *m, struct ovm_prof_module *out)
{
	for (uint32_t i = 0; i < m->module->branches.n; i++) {
		struct ovm_prof_branch b = m->module->branches.v[i];
		ovm_va now[2];
		if (!move_pair(m, b.from, LAST, b.to, START, now))
			continue;
		b.from = now[0];
		b.to = now[1];
		ovm_vec_push(&out->branches, b);
	}
}

static void move_ranges(const struct ovm_stale_match *m, struct ovm_prof_module *out)
{
	for (uint32_t i = 0; i < m->module->ranges.n; i++) {
		const struct ovm_prof_range *r = &m->module->ranges.v[i];
		ovm_va now[2];
		if (move_pair(m, r->from, START, r->to, LAST, now) && now[0].v <= now[1].v)
			ovm_vec_push(&out->ranges,
				     (struct ovm_prof_range){now[0], now[1], r->count});
	}
}

static void move_edges(const struct ovm_stale_match *m, struct ovm_prof_module *out)
{
	for (uint32_t i = 0; i < m->module->edges.n; i++) {
		const struct ovm_prof_edge *e = &m->module->edges.v[i];
		ovm_va now[2] = {{0}, {0}};
		bool is_found = e->from.v ? move_pair(m, e->from, LAST, e->to, START, now)
					  : move(m, e->to, START, &now[1]);
		if (is_found)
			ovm_vec_push(&out->edges, (struct ovm_prof_edge){now[0], now[1], e->count});
	}
}

static struct ovm_profile *move_counts(const struct ovm_stale_match *m,
				       const struct ovm_profile *prof,
				       struct ovm_stale_stats *stats)
{
	struct ovm_profile *out = ovm_profile_new();
	struct ovm_prof_module *module = ovm_profile_module(out, m->image->id, m->image->path);
	bool has_samples;
	move_samples(m, module);
	move_branches(m, module);
	move_ranges(m, module);
	move_edges(m, module);
	out->event = prof->event ? ovm_strdup(prof->event) : NULL;
	out->source = prof->source ? ovm_strdup(prof->source) : NULL;
	out->frequency = prof->frequency;
	out->n_samples = ovm_prof_module_samples(module);
	stats->counts = module_counts(m->module, &stats->has_samples);
	stats->kept = stats->has_samples ? out->n_samples : module_counts(module, &has_samples);
	ovm_profile_normalize(out);
	return out;
}

static void log_pair(const struct ovm_stale_match *m, const struct ovm_stale_region *old)
{
	if (old->now == OVM_NONE)
		ovm_log(OVM_LOG_DEBUG, "0x%llx not found", (unsigned long long)old->lo.v);
	else
		ovm_log(OVM_LOG_DEBUG, "0x%llx is 0x%llx%s", (unsigned long long)old->lo.v,
			(unsigned long long)m->regions->v.v[old->now].lo.v,
			old->is_same ? "" : ", changed");
}

static void count_regions(const struct ovm_stale_match *m, struct ovm_stale_stats *stats)
{
	snprintf(stats->id, sizeof(stats->id), "%s", m->module->id);
	for (char *p = stats->id; *p; p++) /* it comes from a file and goes to a terminal */
		*p = isalnum((unsigned char)*p) || *p == '-' ? *p : '?';
	for (uint32_t i = 0; i < m->old.n; i++) {
		bool is_found = m->old.v[i].now != OVM_NONE;
		log_pair(m, &m->old.v[i]);
		stats->n_regions += is_found || m->old.v[i].hash;
		stats->n_same += is_found && m->old.v[i].is_same;
		stats->n_changed += is_found && !m->old.v[i].is_same;
	}
}

static void match_init(struct ovm_stale_match *m)
{
	m->hash = ovm_alloc_array(m->regions->v.n, sizeof(*m->hash));
	m->is_taken = ovm_alloc_array(m->regions->v.n, sizeof(*m->is_taken));
	m->blocks = ovm_alloc_array(m->module->blocks.n, sizeof(*m->blocks));
}

static void match_fini(struct ovm_stale_match *m)
{
	ovm_vec_free(&m->old);
	ovm_vec_free(&m->by_hash);
	ovm_vec_free(&m->twins);
	ovm_vec_free(&m->votes);
	free(m->hash);
	free(m->is_taken);
	free(m->blocks);
}

int ovm_stale_match(struct ovm_ctx *ctx, struct ovm_decoder *dec, const struct ovm_image *image,
		    const struct ovm_regions *regions, const struct ovm_profile *prof,
		    struct ovm_profile **out, struct ovm_stale_stats *stats)
{
	struct ovm_stale_match m = {
	    .image = image, .regions = regions, .module = find_module(prof, image)};
	struct ovm_stale_stats counted = {0};
	if (!m.module)
		return OVM_REFUSED;
	match_init(&m);
	ovm_stale_pair(&m, dec);
	count_regions(&m, &counted);
	struct ovm_profile *moved = move_counts(&m, prof, &counted);
	match_fini(&m);
	double kept = 100 * (double)counted.kept / (double)counted.counts;
	if (kept < (double)OVM_TUNE(STALE_MIN_KEPT)) {
		ovm_profile_free(moved);
		return ovm_fail(ctx, OVM_E_MISMATCH,
				"%s: the profile is of another build (build-id %.40s) and only "
				"%.1f %% of its samples are in code that this one has too",
				image->path, counted.id, kept);
	}
	*out = moved;
	*stats = counted;
	return 0;
}
