/* Indirect calls of instrumented copies, executed: functions of this very program call through
 * pointers in every form there is; what their thunks have counted is compared with what happened.
 */
#include "rewriter/value.h"
#include "tests/support/counted.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ucontext.h>
#include <unwind.h>

typedef unsigned (*function)(unsigned);
typedef unsigned (*caller)(function callee, unsigned x);

/* --- who is called
 * ----------------------------------------------------------------------------------------------
 */

#define CALLEE(n)                                                                                  \
	static __attribute__((noipa)) unsigned callee_##n(unsigned x)                              \
	{                                                                                          \
		return x * 10 + (n);                                                               \
	}
CALLEE(0)
CALLEE(1)
CALLEE(2)
CALLEE(3)
CALLEE(4)
CALLEE(5)

enum { N_CALLEES = 6 };

static const function callees[N_CALLEES] = {callee_0, callee_1, callee_2,
					    callee_3, callee_4, callee_5};

/* --- who calls
 * --------------------------------------------------------------------------------------------------
 */

unsigned value_loop(const unsigned char *which, unsigned n);

__attribute__((noipa)) unsigned value_loop(const unsigned char *which, unsigned n)
{
	unsigned sum = 0;
	for (unsigned i = 0; i < n; i++)
		sum = sum * 31 + callees[which[i]](i);
	return sum;
}

function value_slot;
__thread function value_tls;
__attribute__((used)) static const function value_puts = (function)(void *)puts; /* NOLINT */

/* unsigned f(function callee, unsigned x): call callee(x) by @call, after @before, with @room bytes
 * of stack; rbx is kept. */
#define FORM(name, room, before, call)                                                             \
	ASM_FUNCTION(#name, "push %rbx\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset 3, 0\n"          \
			    "sub $" #room ", %rsp\n.cfi_adjust_cfa_offset " #room "\n" before "\n" \
			    "mov %esi, %edi\n" call "\n"                                           \
			    "add $" #room ", %rsp\n.cfi_adjust_cfa_offset -" #room "\n"            \
			    "pop %rbx\n.cfi_adjust_cfa_offset -8\nret");                           \
	unsigned name(function callee, unsigned x)

FORM(form_reg, 16, "mov %rdi, %rax", "call *%rax");
FORM(form_reg_high, 16, "mov %rdi, %r10", "call *%r10");
FORM(form_r11, 16, "mov %rdi, %r11", "call *%r11");
FORM(form_notrack, 16, "mov %rdi, %rdx", "notrack call *%rdx");
FORM(form_mem, 16, "mov %rsp, %rbx; mov %rdi, (%rbx)", "call *(%rbx)");
FORM(form_mem8, 16, "mov %rsp, %rbx; mov %rdi, 8(%rbx)", "call *8(%rbx)");
FORM(form_mem32, 16, "lea -4096(%rsp), %rbx; mov %rdi, 4096(%rbx)", "call *4096(%rbx)");
FORM(form_mem_r11, 16, "mov %rsp, %r11; mov %rdi, 8(%r11)", "call *8(%r11)");
FORM(form_mem_r12, 16, "mov %r12, %rbx; mov %rsp, %r12; mov %rdi, 8(%r12)",
     "call *8(%r12); mov %rbx, %r12");
FORM(form_mem_r13, 16, "mov %r13, %rbx; mov %rsp, %r13; mov %rdi, (%r13)",
     "call *(%r13); mov %rbx, %r13");
FORM(form_index, 16, "mov %rsp, %rax; mov %rdi, 8(%rsp); mov $2, %ecx", "call *-8(%rax,%rcx,8)");
FORM(form_index_high, 16, "mov %rsp, %r8; mov %rdi, 8(%rsp); mov $1, %r9d", "call *(%r8,%r9,8)");
FORM(form_index_only, 16, "mov %rsp, %rcx; mov %rdi, 8(%rsp)", "call *8(,%rcx,1)");
FORM(form_stack, 16, "mov %rdi, (%rsp)", "call *(%rsp)");
FORM(form_stack8, 16, "mov %rdi, 8(%rsp)", "call *8(%rsp)");
FORM(form_stack_near, 144, "mov %rdi, 124(%rsp)", "call *124(%rsp)");
FORM(form_stack_far, 4112, "mov %rdi, 4096(%rsp)", "call *4096(%rsp)");
FORM(form_rbp, 16, "mov %rbp, %rbx; mov %rsp, %rbp; mov %rdi, 8(%rbp)",
     "call *8(%rbp); mov %rbx, %rbp");
FORM(form_rip, 16, "mov %rdi, value_slot(%rip)", "call *value_slot(%rip)");
FORM(form_fs, 16, "mov %rdi, %fs:value_tls@tpoff", "call *%fs:value_tls@tpoff");
/* not counted */
FORM(plain_rbp, 16, "mov %rbp, %rbx; lea 16(%rsp), %rbp; mov %rdi, -8(%rbp)",
     "call *-8(%rbp); mov %rbx, %rbp");
FORM(plain_below, 16, "mov %rdi, -16(%rsp)", "call *-16(%rsp)");
FORM(plain_index, 16, "mov %rdi, 8(%rsp); mov $1, %ecx", "call *(%rsp,%rcx,8)");
FORM(plain_addr32, 16, "mov %rdi, value_slot(%rip); lea value_slot(%rip), %rax",
     "cmp %rax, %rax; jne 1f; call *(%rax); jmp 2f; 1: call *(%eax); 2:");
/* r11 is the callee's argument and result */
FORM(keeps_r11, 16, "mov %rdi, %rax; mov $0x1234, %r11d", "call *%rax");
ASM_FUNCTION("r11_callee", "mov %r11, %rax\nret");
unsigned r11_callee(unsigned x);

struct form {
	const char *name;
	caller call;
	bool is_counted;
};

#define COUNTED(name)                                                                              \
	{                                                                                          \
#name, name, true                                                                  \
	}
#define PLAIN(name)                                                                                \
	{                                                                                          \
#name, name, false                                                                 \
	}

static const struct form forms[] = {
    COUNTED(form_reg),	      COUNTED(form_reg_high),  COUNTED(form_r11),
    COUNTED(form_notrack),    COUNTED(form_mem),       COUNTED(form_mem8),
    COUNTED(form_mem32),      COUNTED(form_mem_r11),   COUNTED(form_mem_r12),
    COUNTED(form_mem_r13),    COUNTED(form_index),     COUNTED(form_index_high),
    COUNTED(form_index_only), COUNTED(form_stack),     COUNTED(form_stack8),
    COUNTED(form_stack_near), COUNTED(form_stack_far), COUNTED(form_rbp),
    COUNTED(form_rip),	      COUNTED(form_fs),	       PLAIN(plain_rbp),
    PLAIN(plain_below),	      PLAIN(plain_index),
};

enum { N_FORMS = sizeof(forms) / sizeof(forms[0]) };

/* --- helpers
 * ----------------------------------------------------------------------------------------------------
 */

/* The counters of the only site in function @name, NULL if there is none. */
static const uint64_t *site_of(const struct counted *f, const char *name)
{
	const struct ovm_region *region =
	    &f->engine.regions.v
		 .v[ovm_region_find(&f->engine.regions, self_symbol(&f->self, name))];
	const uint64_t *found = NULL;
	for (uint32_t i = 0; i < f->engine.overlay.sites.n; i++) {
		const struct ovm_site *site = &f->engine.overlay.sites.v[i];
		if (!ovm_va_in(site->at, region->lo, region->hi))
			continue;
		assert_null(found);
		assert_true(site->counter >= ovm_overlay_n_probes(&f->engine.overlay));
		assert_true(site->counter + OVM_SITE_COUNTERS <= f->engine.overlay.n_counters);
		found = f->counters + site->counter;
	}
	return found;
}

static uint64_t count_of(const uint64_t *site, function callee)
{
	uint64_t sum = 0;
	for (unsigned k = 0; k < OVM_SITE_TARGETS; k++)
		sum += site[2 * k] == (uint64_t)callee ? site[2 * k + 1] : 0; /* NOLINT */
	return sum;
}

static uint64_t rest_of(const uint64_t *site)
{
	return site[2 * (size_t)OVM_SITE_TARGETS];
}

typedef unsigned (*loop)(const unsigned char *which, unsigned n);

static loop copied_loop(const struct counted *f)
{
	return (loop)counted_copy(f, "value_loop"); /* NOLINT */
}

/* --- tests
 * ------------------------------------------------------------------------------------------------------
 */

/* The first four are counted each, the others together. */
static void counts_targets(void **state)
{
	static const char *const names[] = {"value_loop"};
	static const unsigned times[N_CALLEES] = {1, 200, 30, 7, 500, 41};
	unsigned char which[1024];
	unsigned n = 0;
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	const uint64_t *site = site_of(&f, "value_loop");
	assert_non_null(site);
	for (unsigned k = 0; k < N_CALLEES; k++)
		which[n++] = (unsigned char)k; /* in this order they find their places */
	for (unsigned round = 1; round < 500; round++)
		for (unsigned k = 0; k < N_CALLEES; k++)
			if (round < times[k])
				which[n++] = (unsigned char)k;
	assert_int_equal(copied_loop(&f)(which, n), value_loop(which, n));
	for (unsigned k = 0; k < OVM_SITE_TARGETS; k++) {
		assert_int_equal(site[2 * k], (uint64_t)callees[k]); /* NOLINT */
		assert_int_equal(site[2 * k + 1], times[k]);
	}
	assert_int_equal(rest_of(site), times[4] + times[5]);
	counted_fini(&f);
}

static void counts_nothing_twice(void **state)
{
	static const char *const names[] = {"value_loop"};
	static const unsigned char which[] = {3, 3, 3};
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	const uint64_t *site = site_of(&f, "value_loop");
	assert_int_equal(copied_loop(&f)(which, 0), 0);
	for (unsigned i = 0; i < OVM_SITE_COUNTERS; i++)
		assert_int_equal(site[i], 0);
	copied_loop (&f)(which, 3);
	assert_int_equal(site[0], (uint64_t)callee_3); /* NOLINT */
	assert_int_equal(site[1], 3);
	for (unsigned i = 2; i < OVM_SITE_COUNTERS; i++)
		assert_int_equal(site[i], 0);
	counted_fini(&f);
}

static void all_forms(void **state)
{
	(void)state;
	for (unsigned i = 0; i < N_FORMS; i++) {
		const char *name = forms[i].name;
		struct counted f;
		counted_init(&f, &name, 1);
		assert_int_equal(f.engine.stats.n_dropped_by_checker, 0);
		const uint64_t *site = site_of(&f, name);
		caller copy = (caller)counted_copy(&f, name); /* NOLINT */
		if (!!site != forms[i].is_counted)
			fail_msg("%s", name);
		for (unsigned k = 0; k < 3 * N_CALLEES; k++)
			assert_int_equal(copy(callees[k % N_CALLEES], k),
					 forms[i].call(callees[k % N_CALLEES], k));
		for (unsigned k = 0; site && k < OVM_SITE_TARGETS; k++)
			assert_int_equal(count_of(site, callees[k]), 3);
		assert_true(!site || rest_of(site) == 6);
		counted_fini(&f);
	}
}

static void registers_are_kept(void **state)
{
	static const char *const names[] = {"keeps_r11"};
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	caller copy = (caller)counted_copy(&f, "keeps_r11"); /* NOLINT */
	for (unsigned k = 0; k < N_CALLEES; k++) {
		assert_int_equal(copy(r11_callee, 0), 0x1234);
		copy(callees[k], 0);
	}
	assert_int_equal(count_of(site_of(&f, "keeps_r11"), r11_callee), N_CALLEES);
	counted_fini(&f);
}

/* Addresses of 32 bits, and what the loader fills in under a name, are no sites. */
static void others_are_left_alone(void **state)
{
	static const char *const names[] = {"plain_addr32"};
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	caller copy = (caller)counted_copy(&f, "plain_addr32"); /* NOLINT */
	const uint64_t *site = site_of(&f, "plain_addr32");	/* only call *(%rax) */
	assert_non_null(site);
	assert_int_equal(copy(callee_2, 5), 52);
	assert_int_equal(count_of(site, callee_2), 1);
	counted_fini(&f);
}

/* What was counted is known to whoever puts callers and callees close together. */
static void calls_are_listed(void **state)
{
	static const char *const names[] = {"value_loop"};
	const struct ovm_program_opts opts = {.share = 1};
	struct ovm_program program;
	ovm_calls calls = {0};
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	ovm_va at = f.engine.overlay.sites.v[0].at;
	for (unsigned k = 0; k < 2; k++) {
		ovm_va to = ovm_va_of((uint64_t)callees[k] - f.bias); /* NOLINT */
		ovm_vec_push(&f.module.samples, ((struct ovm_prof_sample){to, 10}));
		ovm_vec_push(&f.module.edges, ((struct ovm_prof_edge){at, to, 5 + k}));
	}
	/* neither a call nor to a function */
	ovm_vec_push(&f.module.edges,
		     ((struct ovm_prof_edge){f.functions[0], f.module.edges.v[0].to, 9}));
	ovm_vec_push(&f.module.edges,
		     ((struct ovm_prof_edge){at, ovm_va_add(f.module.edges.v[0].to, 1), 9}));
	assert_int_equal(ovm_program_build(&f.self.ctx, f.self.dec, f.self.image, &f.self.regions,
					   &f.module, &opts, &program),
			 0);
	ovm_program_calls(&program, &calls);
	assert_int_equal(calls.n, 2);
	for (uint32_t k = 0; k < 2; k++) {
		const struct ovm_call *call = &calls.v[k];
		const struct ovm_cfg *cfg = program.cfgs.v[call->cfg];
		assert_int_equal(cfg->blocks[call->block].lo.v + call->offset, at.v);
		assert_true(k == 0 || call->callee != calls.v[0].callee);
	}
	ovm_program_drop(&f.self.ctx, &program, program.cfg_of_region[calls.v[1].callee],
			 OVM_REFUSE_CHECKER);
	calls.n = 0;
	ovm_program_calls(&program, &calls);
	assert_int_equal(calls.n, 1);
	ovm_vec_free(&calls);
	ovm_program_fini(&program);
	counted_fini(&f);
}

/* Threads lose counts and places to each other, but no call goes wrong. */
enum { N_THREADS = 4, N_CALLS = 30000 };

struct work {
	loop copy;
	unsigned char which[N_CALLS];
	unsigned result;
};

static void *run(void *arg)
{
	struct work *work = arg;
	work->result = work->copy(work->which, N_CALLS);
	return NULL;
}

static void threads(void **state)
{
	static const char *const names[] = {"value_loop"};
	static struct work work[N_THREADS];
	pthread_t ids[N_THREADS];
	struct counted f;
	uint64_t sum;
	(void)state;
	counted_init(&f, names, 1);
	const uint64_t *site = site_of(&f, "value_loop");
	for (unsigned t = 0; t < N_THREADS; t++) {
		work[t].copy = copied_loop(&f);
		for (unsigned i = 0; i < N_CALLS; i++)
			work[t].which[i] = (unsigned char)((i * (t + 1) + t) % N_CALLEES);
		assert_int_equal(pthread_create(&ids[t], NULL, run, &work[t]), 0);
	}
	for (unsigned t = 0; t < N_THREADS; t++) {
		pthread_join(ids[t], NULL);
		assert_int_equal(work[t].result, value_loop(work[t].which, N_CALLS));
	}
	sum = rest_of(site);
	for (unsigned k = 0; k < OVM_SITE_TARGETS; k++) {
		unsigned c = 0;
		while (c < N_CALLEES && site[2 * k] != (uint64_t)callees[c]) /* NOLINT */
			c++;
		assert_true(c < N_CALLEES);
		sum += site[2 * k + 1];
	}
	assert_true(sum >= N_CALLS / 2 && sum <= N_THREADS * N_CALLS);
	counted_fini(&f);
}

/* --- unwinding from every instruction of a thunk
 * ---------------------------------------------------------------- */

/* libgcc's: libunwind, which is linked too, has functions of these names that know no registered
 * frames. */
struct unwinder {
	_Unwind_Reason_Code (*backtrace)(_Unwind_Trace_Fn visit, void *arg);
	_Unwind_Ptr (*ip)(struct _Unwind_Context *context);
	void (*add)(void *eh_frame);
	void (*drop)(void *eh_frame);
};

static struct {
	struct unwinder unwinder;
	const struct counted *f;
	uint64_t lo, hi;     /* of stepped() */
	unsigned n_in_thunk; /* instructions */
	unsigned n_lost;     /* from where stepped() was not found */
} stepping;

static __attribute__((noipa)) unsigned stepped(caller copy)
{
	unsigned y;
	__asm__ volatile("pushf; orl $0x100, (%%rsp); popf" ::: "cc", "memory");
	y = copy(callee_1, 7);
	__asm__ volatile("pushf; andl $~0x100, (%%rsp); popf" ::: "cc", "memory");
	return y;
}

static _Unwind_Reason_Code visit(struct _Unwind_Context *context, void *arg)
{
	uint64_t pc = stepping.unwinder.ip(context);
	bool *found = arg;
	*found |= pc > stepping.lo && pc <= stepping.hi;
	return *found ? _URC_NORMAL_STOP : _URC_NO_REASON;
}

static void on_step(int sig, siginfo_t *info, void *context)
{
	const struct ovm_overlay *overlay = &stepping.f->engine.overlay;
	const ucontext_t *uc = context;
	uint64_t pc = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
	uint64_t off = pc - (overlay->base.v + stepping.f->bias);
	bool found = false;
	(void)sig;
	(void)info;
	const struct ovm_map_entry *entry =
	    off < overlay->size ? ovm_map_new(&overlay->map, (uint32_t)off) : NULL;
	if (!entry)
		return;
	stepping.n_in_thunk += !!(entry->flags & OVM_MAP_THUNK);
	stepping.unwinder.backtrace(visit, &found);
	stepping.n_lost += !found;
}

static void find_unwinder(struct unwinder *out)
{
	void *lib = dlopen("libgcc_s.so.1", RTLD_NOW);
	assert_non_null(lib);
	*(void **)&out->backtrace = dlsym(lib, "_Unwind_Backtrace");
	*(void **)&out->ip = dlsym(lib, "_Unwind_GetIP");
	*(void **)&out->add = dlsym(lib, "__register_frame");
	*(void **)&out->drop = dlsym(lib, "__deregister_frame");
	assert_true(out->backtrace && out->ip && out->add && out->drop);
}

static void unwinds(void **state)
{
	static const char *const names[] = {"form_stack_far"};
	struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO}, old;
	struct counted f;
	(void)state;
	counted_init(&f, names, 1);
	const struct ovm_overlay *overlay = &f.engine.overlay;
	const struct ovm_region *region = &f.self.regions.v.v[ovm_region_find(
	    &f.self.regions, ovm_va_of((uint64_t)stepped - f.bias))]; /* NOLINT */
	stepping.f = &f;
	stepping.lo = region->lo.v + f.bias;
	stepping.hi = region->hi.v + f.bias;
	void *frames = (void *)(overlay->base.v + f.bias + /* NOLINT */
				overlay->sections[OVM_SECTION_EH_FRAME].off);
	find_unwinder(&stepping.unwinder);
	stepping.unwinder.add(frames);
	assert_int_equal(sigaction(SIGTRAP, &action, &old), 0);
	for (unsigned k = 0; k < 5; k++)
		assert_int_equal(stepped((caller)counted_copy(&f, "form_stack_far")), /* NOLINT */
				 71);
	sigaction(SIGTRAP, &old, NULL);
	stepping.unwinder.drop(frames);
	assert_int_equal(count_of(site_of(&f, "form_stack_far"), callee_1), 5);
	assert_true(stepping.n_in_thunk >= 5 * 7);
	assert_int_equal(stepping.n_lost, 0);
	counted_fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(counts_targets),
	    cmocka_unit_test(counts_nothing_twice),
	    cmocka_unit_test(all_forms),
	    cmocka_unit_test(registers_are_kept),
	    cmocka_unit_test(others_are_left_alone),
	    cmocka_unit_test(calls_are_listed),
	    cmocka_unit_test(threads),
	    cmocka_unit_test(unwinds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
