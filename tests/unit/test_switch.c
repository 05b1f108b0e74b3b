/* Overlays of a process that computes (tests/support/crowd.h) are armed, replaced and disarmed all
 * the time; nobody there may notice.
 *
 * Without arguments the process is a child of this program: because this program links libunwind,
 * which no hook can help, only leaf functions are copied. With one (tests/live/switch.sh) it is the
 * program named. */
#include "base/log.h"
#include "runtime/forks.h"
#include "runtime/stock.h"
#include "tests/support/crowd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { PAUSE_MS = 1000, ROUNDS = 50 };

static const char *program; /* NULL: a child of our own */

/* --- tool side
 * ----------------------------------------------------------------------------------------------------
 */

struct fixture {
	struct ovm_ctx ctx;
	struct ovm_tracee tracee;
	struct ovm_livemap map;
	struct ovm_generations set;
	const struct ovm_live_module *exe;
	uint8_t *text; /* of the exe's code, as it was */
	size_t text_size;
	ovm_rta text_at;
};

static void check(struct fixture *f, int rc)
{
	if (rc)
		print_message("%d: %s\n", rc, f->ctx.msg);
	assert_int_equal(rc, 0);
}

static void read_text(struct fixture *f)
{
	for (uint32_t i = 0; i < f->exe->segments.n; i++) {
		const struct ovm_live_segment *seg = &f->exe->segments.v[i];
		if (!seg->is_exec)
			continue;
		f->text_at = ovm_va_to_rta(seg->va, f->exe->bias);
		f->text_size = seg->filesz;
		f->text = ovm_alloc(seg->filesz);
		assert_true(ovm_mem_read(&f->tracee, f->text_at, f->text, f->text_size));
	}
	assert_non_null(f->text);
}

static void attach(struct fixture *f, pid_t pid)
{
	memset(f, 0, sizeof(*f));
	ovm_ctx_init(&f->ctx);
	ovm_tracee_init(&f->tracee, pid);
	check(f, ovm_tracee_open_mem(&f->ctx, &f->tracee));
	check(f, ovm_livemap_read(&f->ctx, pid, &f->map));
	ovm_livemap_modules(&f->map, pid);
	ovm_generations_init(&f->set, &f->tracee, &f->map);
	for (uint32_t i = 0; i < f->map.modules.n; i++)
		if (f->map.modules.v[i].is_exe)
			f->exe = &f->map.modules.v[i];
	assert_non_null(f->exe);
	read_text(f);
}

static void let_go(struct fixture *f)
{
	ovm_generations_fini(&f->set);
	ovm_livemap_fini(&f->map);
	ovm_tracee_close(&f->tracee);
	free(f->text);
}

/* The text as it is now, but for stubs behind its end. */
static bool text_is_original(const struct fixture *f)
{
	uint8_t *now = ovm_alloc(f->text_size);
	bool same = ovm_mem_read(&f->tracee, f->text_at, now, f->text_size) &&
		    memcmp(now, f->text, f->text_size) == 0;
	free(now);
	return same;
}

/* Samples in the functions of crowd.h, @where bytes behind their starts. */
static struct ovm_profile *make_profile(struct fixture *f, uint64_t where)
{
	static const char *const functions[] = {"mix",	"unwound",  "deep",    "flat",
						"work", "on_alarm", "exiting", "member"};
	struct ovm_image *image = NULL;
	struct ovm_profile *profile = ovm_profile_new();
	check(f, ovm_image_open(&f->ctx, f->exe->path, &image));
	struct ovm_prof_module *module = ovm_profile_module(profile, image->id, f->exe->path);
	for (uint32_t i = 0; i < image->symbols.n; i++)
		for (size_t k = 0; k < sizeof(functions) / sizeof(functions[0]); k++)
			if (strcmp(image->symbols.v[i].name, functions[k]) == 0)
				ovm_vec_push(
				    &module->samples,
				    ((struct ovm_prof_sample){
					ovm_va_add(image->symbols.v[i].va, (int64_t)where), 1000}));
	assert_true(module->samples.n > 0);
	profile->n_samples = 1000 * module->samples.n;
	ovm_profile_normalize(profile);
	ovm_image_close(image);
	return profile;
}

struct way { /* one way to build a generation */
	uint64_t where;
	bool is_counting;
};

/* Build and load one; @counters is opened if it counts. */
static uint32_t load(struct fixture *f, struct way way, struct ovm_countmem *counters)
{
	struct ovm_target_opts opts = {.min_samples = 1, .is_counting = way.is_counting};
	struct ovm_profile *profile = make_profile(f, way.where);
	struct ovm_builder builder;
	struct ovm_built built;
	uint32_t idx = OVM_NONE;
	check(f, ovm_builder_start(&f->ctx, &f->set, profile, &opts, &builder));
	check(f, ovm_builder_result(&f->ctx, &builder, f->set.map, &built, NULL));
	ovm_profile_free(profile);
	if (!built.modules.n)
		print_message("nothing built: %s\n", built.why_not);
	assert_int_equal(built.modules.n, 1);
	if (way.is_counting)
		check(f, ovm_countmem_open(&f->ctx, ovm_built_counter_bytes(&built), getpid(),
					   counters));
	check(f, ovm_generation_load(&f->ctx, &f->set, &built, way.is_counting ? counters : NULL,
				     &idx));
	assert_int_equal(built.modules.n, 0);
	return idx;
}

static uint64_t counted(const struct ovm_countmem *counters)
{
	uint64_t sum = 0;
	for (uint64_t i = 0; i < counters->size / 8; i++)
		sum += __atomic_load_n(&counters->v[i], __ATOMIC_RELAXED);
	return sum;
}

static struct ovm_switch_result switch_to(struct fixture *f, const bool *want)
{
	struct ovm_switch_result result;
	check(f, ovm_switch(&f->ctx, &f->set, want, PAUSE_MS, &result));
	for (uint32_t i = 0; i < f->set.v.n; i++)
		assert_int_equal(f->set.v.v[i].is_armed, want[i]);
	while (ovm_tracee_service(&f->tracee))
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	return result;
}

struct scene {
	struct fixture f;
	struct live_shared *shared; /* the head of: */
	struct crowd_shared *more;
	struct ovm_countmem counters;
	pid_t pid;
};

static int shared_fd;

static void run_program(struct live_shared *shared)
{
	char fd[16];
	snprintf(fd, sizeof(fd), "%d", shared_fd);
	execl(program, program, fd, (char *)NULL);
	shared->ready = 1;
	_exit(127);
}

static void begin(struct scene *s)
{
	memset(s, 0, sizeof(*s));
	s->counters.fd = -1;
	shared_fd = memfd_create("crowd", 0);
	assert_true(shared_fd >= 0 && ftruncate(shared_fd, sizeof(*s->more)) == 0);
	s->more = mmap(NULL, sizeof(*s->more), PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
	s->shared = &s->more->live;
	s->pid = live_fork(s->shared, program ? run_program : crowd_run);
	close(shared_fd);
	assert_true(s->pid > 0);
	attach(&s->f, s->pid);
}

static void end(struct scene *s)
{
	assert_true(live_progress(s->shared, 10));
	assert_int_equal(s->shared->n_wrong, 0);
	let_go(&s->f);
	assert_int_equal(live_end(s->shared, s->pid), 0);
	ovm_countmem_close(&s->counters);
}

/* Nobody counts any more once every frame has had time to return. */
static void assert_quiet(const struct scene *s)
{
	assert_true(live_progress(s->shared, 2 * N_THREADS + 2));
	uint64_t before = counted(&s->counters);
	assert_true(live_progress(s->shared, 2 * N_THREADS));
	assert_int_equal(counted(&s->counters), before);
}

static void test_rounds(void **state)
{
	(void)state;
	static const bool wants[][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {0, 0, 0}, {1, 1, 0},
					{0, 0, 1}, {1, 0, 1}, {1, 1, 1}, {0, 1, 0}, {0, 0, 0}};
	struct scene s;
	begin(&s);
	assert_int_equal(load(&s.f, (struct way){.is_counting = true}, &s.counters), 0);
	assert_int_equal(load(&s.f, (struct way){.where = 4}, NULL), 1);
	assert_int_equal(load(&s.f, (struct way){.where = 24}, NULL), 2);
	assert_true(text_is_original(&s.f));
	assert_int_equal(counted(&s.counters), 0);
	for (int i = 0; i < ROUNDS; i++) {
		const bool *want = wants[i % (sizeof(wants) / sizeof(wants[0]))];
		struct ovm_switch_result result = switch_to(&s.f, want);
		uint64_t before = counted(&s.counters);
		assert_int_equal(result.n_stuck, 0);
		assert_int_equal(result.n_threads >= N_THREADS + 1, 1);
		assert_int_equal(result.n_patches > 0, want[0] | want[1] | want[2]);
		assert_int_equal(text_is_original(&s.f), result.n_patches == 0);
		assert_true(live_progress(s.shared, 2));
		assert_int_equal(s.shared->n_wrong, 0);
		if (want[0] && !want[1] && !want[2])
			assert_true(counted(&s.counters) > before);
	}
	assert_quiet(&s);
	end(&s);
}

/* The same generation on and off all the time: exits are written and taken back. */
static void test_exits(void **state)
{
	(void)state;
	struct scene s;
	struct ovm_switch_result result;
	uint32_t n_exits = 0;
	begin(&s);
	assert_int_equal(load(&s.f, (struct way){.is_counting = true}, &s.counters), 0);
	if (!program)
		assert_int_equal(s.f.set.v.v[0].exits.n, 0); /* leaves */
	else
		assert_true(s.f.set.v.v[0].exits.n > 0);
	for (int i = 0; i < ROUNDS; i++) {
		check(&s.f, ovm_switch_to(&s.f.ctx, &s.f.set, 0, PAUSE_MS, &result));
		assert_true(live_progress(s.shared, 1));
		check(&s.f, ovm_switch_to(&s.f.ctx, &s.f.set, OVM_NONE, PAUSE_MS, &result));
		n_exits += result.n_exits;
		if (i % 16 == 0)
			assert_quiet(&s);
		assert_int_equal(s.shared->n_wrong, 0);
	}
	assert_int_equal(n_exits > 0, program != NULL);
	end(&s);
}

/* A child forked while counting goes on counting until it is told. */
static void test_forks(void **state)
{
	(void)state;
	struct scene s;
	struct ovm_switch_result result;
	struct ovm_forks_result forks;
	begin(&s);
	assert_int_equal(load(&s.f, (struct way){.is_counting = true}, &s.counters), 0);
	assert_int_equal(load(&s.f, (struct way){.where = 4}, NULL), 1);
	ovm_forks_follow(&s.f.ctx, &s.f.set, PAUSE_MS, 2000, &forks);
	assert_int_equal(forks.n_switched, 0);
	check(&s.f, ovm_switch_to(&s.f.ctx, &s.f.set, 0, PAUSE_MS, &result));
	for (uint64_t i = 1; i <= 3; i++) {
		s.more->fork_wanted = 1;
		for (int k = 0; k < 5000 && s.more->forked < i; k++)
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		assert_int_equal(s.more->forked, i);
	}
	uint64_t rounds = s.more->child_rounds;
	check(&s.f, ovm_switch_to(&s.f.ctx, &s.f.set, 1, PAUSE_MS, &result));
	ovm_forks_follow(&s.f.ctx, &s.f.set, PAUSE_MS, 5000, &forks);
	assert_int_equal(forks.n_switched, 3);
	assert_int_equal(forks.n_failed, 0);
	for (int k = 0; k < 5000 && s.more->child_rounds < rounds + 40; k++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_true(s.more->child_rounds >= rounds + 40);
	assert_quiet(&s);
	ovm_forks_follow(&s.f.ctx, &s.f.set, PAUSE_MS, 2000, &forks);
	assert_int_equal(forks.n_switched, 0);
	assert_int_equal(s.more->child_wrong, 0);
	end(&s);
}

/* What a builder reads while jumps are in place, with a breakpoint over one of them: the original.
 */
static void test_unpatch(void **state)
{
	(void)state;
	struct scene s;
	struct ovm_switch_result result;
	uint8_t int3 = 0xcc, ours = 0;
	begin(&s);
	assert_int_equal(load(&s.f, (struct way){.where = 4}, NULL), 0);
	check(&s.f, ovm_switch_to(&s.f.ctx, &s.f.set, 0, PAUSE_MS, &result));
	uint32_t n = result.n_patches;
	assert_true(n > 0);
	ovm_rta at = s.f.set.applied.v.v[0].at;
	assert_int_equal(ovm_tracee_stop_all(&s.f.ctx, &s.f.tracee, PAUSE_MS), 0);
	assert_true(ovm_mem_read(&s.f.tracee, at, &ours, 1)); /* nobody runs meanwhile */
	assert_true(ovm_mem_write(&s.f.tracee, at, &int3, 1));
	bool want[1] = {false};
	struct ovm_generations *set = &s.f.set;
	uint8_t seen[5];
	assert_true(ovm_mem_read(&s.f.tracee, at, seen, 5));
	ovm_generations_unpatch(set, at, seen, 5);
	assert_memory_equal(seen, s.f.text + (at.v - s.f.text_at.v), 5);
	assert_true(ovm_mem_write(&s.f.tracee, at, &ours, 1));
	ovm_tracee_resume(&s.f.tracee);
	result = switch_to(&s.f, want);
	assert_int_equal(result.n_restored, n);
	assert_int_equal(result.n_patches, 0);
	assert_true(text_is_original(&s.f));
	end(&s);
}

/* Counters the target may not open: refused at once, and it goes on. */
static void test_no_counters(void **state)
{
	(void)state;
	struct scene s;
	struct ovm_target_opts opts = {.min_samples = 1, .is_counting = true};
	struct ovm_builder builder;
	struct ovm_built built;
	uint32_t idx;
	begin(&s);
	struct ovm_profile *profile = make_profile(&s.f, 0);
	check(&s.f, ovm_builder_start(&s.f.ctx, &s.f.set, profile, &opts, &builder));
	check(&s.f, ovm_builder_result(&s.f.ctx, &builder, s.f.set.map, &built, NULL));
	assert_int_equal(ovm_generation_load(&s.f.ctx, &s.f.set, &built, NULL, &idx),
			 OVM_E_INTERNAL);
	check(&s.f,
	      ovm_countmem_open(&s.f.ctx, ovm_built_counter_bytes(&built), getpid(), &s.counters));
	struct ovm_countmem closed = s.counters;
	snprintf(closed.path, sizeof(closed.path), "/proc/%d/fd/9999", (int)getpid()); /* none */
	/* told by the message: not because nobody came to run the call in time */
	assert_int_equal(ovm_generation_load(&s.f.ctx, &s.f.set, &built, &closed, &idx),
			 OVM_E_TARGET);
	assert_non_null(strstr(s.f.ctx.msg, "memory file"));
	assert_int_equal(s.f.set.v.n, 0);
	ovm_built_fini(&built);
	ovm_profile_free(profile);
	assert_true(text_is_original(&s.f));
	end(&s);
}

/* --- a builder that stays
 * --------------------------------------------------------------------------------------------------
 */

/* Samples in mix, which is a leaf, alone. */
static struct ovm_profile *mix_only(struct fixture *f, ovm_va *entry)
{
	struct ovm_image *image = NULL;
	struct ovm_profile *profile = make_profile(f, 0);
	check(f, ovm_image_open(&f->ctx, f->exe->path, &image));
	for (uint32_t i = 0; i < image->symbols.n; i++)
		if (strcmp(image->symbols.v[i].name, "mix") == 0)
			*entry = image->symbols.v[i].va;
	profile->modules.v[0].samples.v[0] = (struct ovm_prof_sample){*entry, 1000};
	profile->modules.v[0].samples.n = 1;
	profile->n_samples = 1000;
	ovm_image_close(image);
	return profile;
}

static void assert_same_code(const struct ovm_built *a, const struct ovm_built *b)
{
	assert_int_equal(a->modules.n, 1);
	assert_int_equal(b->modules.n, 1);
	const struct ovm_overlay *x = &a->modules.v[0].overlay, *y = &b->modules.v[0].overlay;
	assert_int_equal(x->n_regions, y->n_regions);
	assert_int_equal(x->n_blocks, y->n_blocks);
	assert_int_equal(x->patches.n, y->patches.n);
	for (uint32_t i = 0; i < x->patches.n; i++)
		assert_int_equal(x->patches.v[i].at.v, y->patches.v[i].at.v);
	for (uint32_t why = 0; why < OVM_MAX_REFUSALS; why++)
		if (a->n_refused[why] != b->n_refused[why])
			fail_msg("%s: %llu, %llu", ovm_refusal_id((enum ovm_refusal)why),
				 (unsigned long long)a->n_refused[why],
				 (unsigned long long)b->n_refused[why]);
}

/* It is given a function to count in, then more is known: what it optimizes is what another one
 * does that knows all from the beginning. */
static void test_order(void **state)
{
	(void)state;
	struct scene s;
	struct ovm_builder builder, other;
	struct ovm_built counting, built, reference, expected, expected_reference;
	struct ovm_countmem plain = {.fd = -1}, gauged = {.fd = -1};
	struct ovm_gauges gauges = {0};
	struct ovm_target_opts opts = {
	    .min_samples = 1, .is_counting = true, .no_callees = true, .stays = true};
	uint32_t idx[3];
	ovm_va entry = {0};
	begin(&s);
	struct fixture *f = &s.f;
	struct ovm_profile *few = mix_only(f, &entry), *all = make_profile(f, 4);
	ovm_vec_push(&gauges.v, ((struct ovm_gauge){f->exe, entry}));

	check(f, ovm_builder_start(&f->ctx, &f->set, few, &opts, &builder));
	check(f, ovm_builder_result(&f->ctx, &builder, f->set.map, &counting, &reference));
	assert_int_equal(counting.modules.n, 1);
	assert_int_equal(counting.modules.v[0].overlay.n_regions, 1);
	assert_true(counting.is_passing);
	assert_int_equal(reference.modules.n, 0);
	assert_true(builder.pid != 0);
	check(f, ovm_countmem_open(&f->ctx, ovm_built_counter_bytes(&counting), getpid(),
				   &s.counters));
	check(f, ovm_generation_load(&f->ctx, &f->set, &counting, &s.counters, &idx[0]));
	switch_to(f, (const bool[]){true});
	assert_true(live_progress(s.shared, 2));
	assert_true(counted(&s.counters) > 0);
	switch_to(f, (const bool[]){false});

	check(f, ovm_builder_order(&f->ctx, &builder, all, &gauges));
	check(f, ovm_builder_result(&f->ctx, &builder, f->set.map, &built, &reference));
	assert_int_equal(builder.pid, 0);
	opts = (struct ovm_target_opts){.min_samples = 1, .gauges = &gauges};
	check(f, ovm_builder_start(&f->ctx, &f->set, all, &opts, &other));
	check(f, ovm_builder_result(&f->ctx, &other, f->set.map, &expected, &expected_reference));
	assert_same_code(&built, &expected);
	assert_same_code(&reference, &expected_reference);
	assert_false(built.is_passing);
	assert_true(reference.is_passing);

	check(f, ovm_countmem_open(&f->ctx, ovm_built_counter_bytes(&built), getpid(), &gauged));
	check(f, ovm_countmem_open(&f->ctx, ovm_built_counter_bytes(&reference), getpid(), &plain));
	check(f, ovm_generation_load(&f->ctx, &f->set, &built, &gauged, &idx[1]));
	check(f, ovm_generation_load(&f->ctx, &f->set, &reference, &plain, &idx[2]));
	switch_to(f, (const bool[]){false, true, false});
	assert_true(live_progress(s.shared, 2));
	assert_true(counted(&gauged) > 0);
	assert_int_equal(counted(&plain), 0);
	switch_to(f, (const bool[]){false, false, true});
	assert_true(live_progress(s.shared, 2));
	assert_true(counted(&plain) > 0);
	switch_to(f, (const bool[]){false, false, false});
	assert_true(text_is_original(f));
	ovm_built_fini(&expected);
	ovm_built_fini(&expected_reference);
	ovm_profile_free(few);
	ovm_profile_free(all);
	ovm_vec_free(&gauges.v);
	end(&s);
	ovm_countmem_close(&plain);
	ovm_countmem_close(&gauged);
}

/* One that has ended takes no orders; its end is not waited for twice. */
static void test_no_order(void **state)
{
	(void)state;
	struct scene s;
	struct ovm_builder builder;
	struct ovm_built built;
	struct ovm_gauges gauges = {0};
	const struct ovm_target_opts opts = {.min_samples = 1, .is_counting = true, .stays = true};
	begin(&s);
	struct ovm_profile *profile = make_profile(&s.f, 0);
	check(&s.f, ovm_builder_start(&s.f.ctx, &s.f.set, profile, &opts, &builder));
	check(&s.f, ovm_builder_result(&s.f.ctx, &builder, s.f.set.map, &built, NULL));
	ovm_built_fini(&built);
	kill(builder.pid, SIGKILL);
	siginfo_t info;
	assert_int_equal(waitid(P_PID, (id_t)builder.pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(ovm_builder_order(&s.f.ctx, &builder, profile, &gauges),
			 OVM_E_UNAVAILABLE);
	assert_int_equal(builder.pid, 0);
	ovm_profile_free(profile);
	end(&s);
}

/* --- what was built for another process
 * --------------------------------------------------------------------------------------------------
 */

static void build(struct fixture *f, const struct ovm_built *like, struct ovm_built *out)
{
	const struct ovm_target_opts opts = {.min_samples = 1, .is_counting = true, .like = like};
	struct ovm_profile *profile = make_profile(f, 0);
	struct ovm_builder builder;
	check(f, ovm_builder_start(&f->ctx, &f->set, profile, &opts, &builder));
	check(f, ovm_builder_result(&f->ctx, &builder, f->set.map, out, NULL));
	ovm_profile_free(profile);
}

/* Copies of a process that has ended count in another one, unless its code is not the file's. */
static void test_stock(void **state)
{
	(void)state;
	struct scene first, s;
	struct ovm_stock stock;
	struct ovm_built built;
	uint32_t idx;
	uint8_t byte, other;
	ovm_stock_init(&stock);
	begin(&first);
	build(&first.f, NULL, &built);
	assert_int_equal(built.modules.n, 1);
	assert_false(built.modules.v[0].is_unseen);
	ovm_stock_put(&stock, &built, true);
	assert_int_equal(built.modules.n, 0);
	end(&first);

	begin(&s);
	const struct ovm_built *like = &stock.v.v[0]->built;
	struct ovm_livemap none = {0};
	assert_int_equal(ovm_stock_next(&stock, 0, &s.f.map), 0);
	assert_int_equal(ovm_stock_next(&stock, 1, &s.f.map), OVM_NONE);
	assert_int_equal(ovm_stock_next(&stock, 0, &none), OVM_NONE);
	ovm_rta last = ovm_rta_of(s.f.text_at.v + s.f.text_size - 1); /* behind all functions */
	assert_true(ovm_mem_read(&s.f.tracee, last, &byte, 1));
	other = byte ^ 1;
	assert_true(ovm_mem_write(&s.f.tracee, last, &other, 1));
	build(&s.f, like, &built);
	assert_int_equal(built.modules.n, 0);
	assert_non_null(strstr(built.why_not, ovm_refusal_text(OVM_REFUSE_CHANGED)));
	ovm_built_fini(&built);
	assert_true(ovm_mem_write(&s.f.tracee, last, &byte, 1));

	build(&s.f, like, &built);
	assert_int_equal(built.modules.n, 1);
	const struct ovm_built_module *m = &built.modules.v[0];
	assert_ptr_equal(m->overlay.bytes, like->modules.v[0].overlay.bytes);
	assert_int_equal(m->at.v - m->module->bias,
			 like->modules.v[0].at.v - like->modules.v[0].module->bias);
	check(&s.f,
	      ovm_countmem_open(&s.f.ctx, ovm_built_counter_bytes(&built), getpid(), &s.counters));
	built.modules.v[0].is_unseen = true;
	assert_int_equal(ovm_generation_load(&s.f.ctx, &s.f.set, &built, &s.counters, &idx),
			 OVM_E_TARGET);
	built.modules.v[0].is_unseen = false;
	check(&s.f, ovm_generation_load(&s.f.ctx, &s.f.set, &built, &s.counters, &idx));
	switch_to(&s.f, (const bool[]){true});
	assert_true(live_progress(s.shared, 2));
	assert_true(counted(&s.counters) > 0);
	switch_to(&s.f, (const bool[]){false});
	assert_true(text_is_original(&s.f));
	end(&s);
	ovm_stock_fini(&stock);
}

static void test_countmem(void **state)
{
	(void)state;
	struct ovm_ctx ctx;
	struct ovm_countmem mem;
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_countmem_open(&ctx, 0, getpid(), &mem), 0);
	assert_int_equal(mem.size, 4096);
	assert_int_equal(ftruncate(mem.fd, 0), -1); /* sealed */
	assert_int_equal(ftruncate(mem.fd, 8192), -1);
	mem.v[511] = 1;
	ovm_countmem_close(&mem);
	ovm_countmem_close(&mem);
	assert_int_equal(ovm_countmem_open(&ctx, 4097, getpid(), &mem), 0);
	assert_int_equal(mem.size, 8192);
	ovm_countmem_close(&mem);
	assert_int_equal(ovm_countmem_open(&ctx, UINT64_MAX, getpid(), &mem), OVM_E_UNAVAILABLE);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_countmem), cmocka_unit_test(test_rounds),
	    cmocka_unit_test(test_exits),    cmocka_unit_test(test_forks),
	    cmocka_unit_test(test_unpatch),  cmocka_unit_test(test_no_counters),
	    cmocka_unit_test(test_order),    cmocka_unit_test(test_no_order),
	    cmocka_unit_test(test_stock),
	};
	ovm_log_setup(getenv("OVM_LOG"));
	program = argc > 1 ? argv[1] : NULL;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
