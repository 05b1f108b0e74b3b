#ifndef OVM_TEST_STEPPING_H
#define OVM_TEST_STEPPING_H
/* Calls a copy one instruction at a time, and unwinds the stack at each: the caller must be found.
 */
#include "tests/support/call_forms.h"
#include "tests/support/counted.h"

#include <dlfcn.h>
#include <signal.h>
#include <sys/ucontext.h>
#include <unwind.h>

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
	uint64_t lo, hi; /* of stepped() */
	uint16_t flags;	 /* of the map entries that are of interest */
	struct sigaction old;
	void *frames;
	unsigned n_inside; /* instructions of such entries */
	unsigned n_lost;   /* from where stepped() was not found */
} stepping;

/* copy(callee, x), one instruction at a time. */
static __attribute__((noipa)) unsigned stepped(caller copy, function callee, unsigned x)
{
	unsigned y;
	__asm__ volatile("pushf; orl $0x100, (%%rsp); popf" ::: "cc", "memory");
	y = copy(callee, x);
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
	stepping.n_inside += !!(entry->flags & stepping.flags);
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

static inline void stepping_begin(const struct counted *f, uint16_t flags)
{
	struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
	const struct ovm_overlay *overlay = &f->engine.overlay;
	const struct ovm_region *region = &f->self.regions.v.v[ovm_region_find(
	    &f->self.regions, ovm_va_of((uint64_t)stepped - f->bias))]; /* NOLINT */
	memset(&stepping, 0, sizeof(stepping));
	stepping.f = f;
	stepping.flags = flags;
	stepping.lo = region->lo.v + f->bias;
	stepping.hi = region->hi.v + f->bias;
	stepping.frames = (void *)(overlay->base.v + f->bias + /* NOLINT */
				   overlay->sections[OVM_SECTION_EH_FRAME].off);
	find_unwinder(&stepping.unwinder);
	stepping.unwinder.add(stepping.frames);
	assert_int_equal(sigaction(SIGTRAP, &action, &stepping.old), 0);
}

static inline void stepping_end(void)
{
	sigaction(SIGTRAP, &stepping.old, NULL);
	stepping.unwinder.drop(stepping.frames);
}

#endif
