/* Two profiles of one and the same behaviour differ too, because samples are random. In how many
 * cells they are compared decides how much:
 *
 *   total variation   1/2 sum of |p - q| over all cells
 *   by chance         about sqrt(cells / (pi n)) for n samples each: 600 samples, 50 cells: 0.16
 *
 * By instruction there are thousands of cells, and everything looks new. So a cell is a page of
 * 4 KiB that holds a hundredth of the samples, or as many pages that hold less, one behind the
 * other in one file, as hold a 25th together:
 *
 *   | hot | . : . . : . . | hot | : . . . : . |      seldom more than 60 cells
 *
 * What is moved by a change of phase is much more than chance, also where no page is hot: of clang's
 * thousands none is, and with all of them in one cell its optimizer looked as its parser does
 * (0.15).
 *
 * Limit: what changes within a page, or among neighbours that are not hot, is not seen.
 */
#include "analyzer/drift.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
	PAGE = 4096,
	HOT = 100,     /* a page with at least 1/HOT of the samples is a cell */
	TOGETHER = 25, /* so are others with 1/TOGETHER */
};

struct cell {
	const char *id; /* of the module */
	uint64_t page;
	double share[2];
};
typedef OVM_VEC(struct cell) cells;

static double n_mapped(const struct ovm_profile *profile)
{
	double n = 0;
	for (uint32_t m = 0; m < profile->modules.n; m++)
		n += (double)ovm_prof_module_samples(&profile->modules.v[m]);
	return n;
}

static void add(const struct ovm_profile *profile, unsigned which, cells *out)
{
	double n = n_mapped(profile);
	for (uint32_t m = 0; m < profile->modules.n; m++) {
		const struct ovm_prof_module *module = &profile->modules.v[m];
		for (uint32_t i = 0; i < module->samples.n; i++) {
			struct cell cell = {module->id, module->samples.v[i].va.v / PAGE, {0, 0}};
			cell.share[which] = (double)module->samples.v[i].count / n;
			ovm_vec_push(out, cell);
		}
	}
}

static int by_page(const void *a, const void *b)
{
	const struct cell *x = a, *y = b;
	int order = strcmp(x->id, y->id);
	return order ? order : (x->page > y->page) - (x->page < y->page);
}

/* Cells of one page become one. */
static void join(cells *list)
{
	uint32_t n = 0;
	qsort(list->v, list->n, sizeof(list->v[0]), by_page);
	for (uint32_t i = 0; i < list->n; i++) {
		if (n && by_page(&list->v[n - 1], &list->v[i]) == 0) {
			list->v[n - 1].share[0] += list->v[i].share[0];
			list->v[n - 1].share[1] += list->v[i].share[1];
		} else {
			list->v[n++] = list->v[i];
		}
	}
	list->n = n;
}

static double flush(double *share)
{
	double moved = fabs(share[0] - share[1]);
	share[0] = share[1] = 0;
	return moved;
}

/* What is elsewhere in the one than in the other, counted in both. */
static double moved(const cells *list)
{
	double sum = 0, rest[2] = {0, 0};
	for (uint32_t i = 0; i < list->n; i++) {
		const struct cell *c = &list->v[i];
		if (i && strcmp(c[-1].id, c->id) != 0)
			sum += flush(rest);
		if (fmax(c->share[0], c->share[1]) * HOT >= 1) {
			sum += fabs(c->share[0] - c->share[1]);
			continue;
		}
		rest[0] += c->share[0];
		rest[1] += c->share[1];
		if (fmax(rest[0], rest[1]) * TOGETHER >= 1)
			sum += flush(rest);
	}
	return sum + flush(rest);
}

double ovm_drift(const struct ovm_profile *a, const struct ovm_profile *b)
{
	cells list = {0};
	add(a, 0, &list);
	add(b, 1, &list);
	if (!(n_mapped(a) > 0) || !(n_mapped(b) > 0)) {
		ovm_vec_free(&list);
		return 1;
	}
	join(&list);
	double sum = moved(&list);
	ovm_vec_free(&list);
	return sum / 2;
}
