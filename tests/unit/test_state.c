/* State files: written, found again, locked, removed; a folder that others could write to is not
 * used. The process is this test or a child of its. */
#include "runtime/state.h"
#include "runtime/procstat.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64], folder[80];

static int make_root(void **state)
{
	(void)state;
	snprintf(root, sizeof(root), "/tmp/optvm-test-XXXXXX");
	if (!mkdtemp(root))
		return -1;
	snprintf(folder, sizeof(folder), "%s/optvm", root);
	return setenv("XDG_RUNTIME_DIR", root, 1);
}

static int remove_root(void **state)
{
	char command[128];
	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", root);
	return system(command);
}

static bool exists(const char *suffix, pid_t pid)
{
	char path[160];
	struct stat st;
	snprintf(path, sizeof(path), "%s/%d-%llu%s", folder, (int)pid, ovm_proc_start(pid), suffix);
	if (stat(path, &st))
		return false;
	assert_int_equal(st.st_mode & 0777, 0600);
	return true;
}

/* A built generation of one module without code: enough to be written down. */
struct sample {
	struct ovm_live_module module;
	struct ovm_built built;
	uint8_t bytes[8];
};

static void make(struct sample *s)
{
	*s = (struct sample){
	    .module = {.path = "/no/such/file", .lo = {0x1000}, .hi = {0x3000}},
	};
	struct ovm_built_module m = {.module = &s->module, .at = {0x10000}};
	m.overlay.base = ovm_va_of(0x10000);
	m.overlay.bytes = s->bytes;
	m.overlay.size = sizeof(s->bytes);
	m.overlay.n_regions = 7;
	ovm_vec_push(&s->built.modules, m);
}

static void open_ok(struct ovm_ctx *ctx, pid_t pid, const char *by, struct ovm_state **out)
{
	int rc = ovm_state_open(ctx, pid, by, out);
	if (rc)
		print_message("%s\n", ctx->msg);
	assert_int_equal(rc, 0);
}

static void written_and_found(void **state)
{
	struct ovm_ctx ctx;
	struct ovm_state *s;
	struct ovm_genfile file;
	struct sample sample;
	const bool first[] = {true, false}, none[] = {false, false};
	(void)state;
	ovm_ctx_init(&ctx);
	make(&sample);
	assert_int_equal(ovm_state_open(&ctx, getpid(), NULL, &s), OVM_REFUSED);
	open_ok(&ctx, getpid(), "attach", &s);
	assert_false(exists(".json", getpid())); /* nothing was done yet */
	assert_int_equal(ovm_state_add(&ctx, s, &sample.built, NULL), 0);
	assert_int_equal(ovm_state_add(&ctx, s, &sample.built, NULL), 0);
	assert_true(exists(".json", getpid()) && exists(".1.gen", getpid()));
	ovm_state_plan(s, first);
	ovm_state_close(s);

	open_ok(&ctx, getpid(), NULL, &s); /* "killed" before the switch was done */
	assert_false(s->is_done);
	assert_true(s->v.n == 2 && s->v.v[0].is_wanted && !s->v.v[0].is_armed);
	assert_string_equal(s->by, "attach");
	assert_string_equal(s->v.v[1].modules.v[0].path, "/no/such/file");
	assert_int_equal(s->v.v[1].modules.v[0].n_regions, 7);
	ovm_state_done(s, true, 1.5);
	assert_int_equal(ovm_state_load(&ctx, s, 1, &file), 0);
	assert_int_equal(file.modules.v[0].overlay.n_regions, 7);
	ovm_genfile_fini(&file);
	ovm_state_drop(s, 0);
	assert_false(exists(".0.gen", getpid()));
	ovm_state_plan(s, none);
	ovm_state_done(s, false, 0);
	ovm_state_close(s);

	open_ok(&ctx, getpid(), "run", &s);
	assert_true(s->is_done && s->v.n == 1 && s->pause_ms > 1 && !s->v.v[0].is_armed);
	assert_int_equal(ovm_state_add(&ctx, s, &sample.built, NULL), 0);
	assert_int_equal(s->v.v[1].number, 2); /* numbers are not used twice */
	ovm_state_forget(s);
	ovm_state_close(s);
	assert_false(exists(".json", getpid()) || exists(".2.gen", getpid()) ||
		     exists(".lock", getpid()));
	assert_int_equal(ovm_state_remove(&ctx, getpid()), OVM_REFUSED);
	ovm_vec_free(&sample.built.modules);
}

/* A child that holds the lock until it is killed. */
static void locked(void **state)
{
	struct ovm_ctx ctx;
	struct ovm_state *s;
	struct sample sample;
	int ready[2];
	char byte;
	(void)state;
	ovm_ctx_init(&ctx);
	make(&sample);
	assert_int_equal(pipe(ready), 0);
	pid_t target = getpid(), child = fork();
	if (!child) {
		if (ovm_state_open(&ctx, target, "attach", &s) == 0 &&
		    ovm_state_add(&ctx, s, &sample.built, NULL) == 0 &&
		    write(ready[1], "x", 1) == 1)
			for (;;)
				pause();
		_exit(1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(ovm_state_open(&ctx, target, "attach", &s), OVM_E_TARGET);
	assert_non_null(strstr(ctx.msg, "another optvm"));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	open_ok(&ctx, target, "attach", &s); /* what it wrote is there */
	assert_int_equal(s->v.n, 1);
	ovm_state_forget(s);
	ovm_state_close(s);
	close(ready[0]);
	close(ready[1]);
	ovm_vec_free(&sample.built.modules);
}

static void listed(void **state)
{
	struct ovm_ctx ctx;
	struct ovm_state *s;
	struct sample sample;
	ovm_states states = {0};
	char stale[160];
	(void)state;
	ovm_ctx_init(&ctx);
	make(&sample);
	open_ok(&ctx, getpid(), "attach", &s);
	assert_int_equal(ovm_state_add(&ctx, s, &sample.built, NULL), 0);
	snprintf(stale, sizeof(stale), "%s/%d-1.json", folder, (int)getpid());
	FILE *f = fopen(stale, "w"); /* an earlier process of this pid */
	assert_non_null(f);
	fclose(f);
	ovm_states_list(getpid(), &states);
	assert_int_not_equal(access(stale, F_OK), 0);
	ovm_states_fini(&states);
	ovm_state_close(s);
	ovm_states_list(getpid(),
			&states); /* the overlay is not in this process: it is stale too */
	assert_int_equal(states.n, 0);
	assert_false(exists(".json", getpid()));
	ovm_states_fini(&states);
	ovm_vec_free(&sample.built.modules);
}

static void damaged(void **state)
{
	static const char *const texts[] = {"",
					    "{",
					    "[]",
					    "{}",
					    "null",
					    "{\"schema\": \"optvm.state/1\"}",
					    "{\"schema\": \"optvm.state/2\", \"pid\": 1}"};
	struct ovm_ctx ctx;
	struct ovm_state *s;
	struct sample sample;
	char path[160];
	(void)state;
	ovm_ctx_init(&ctx);
	make(&sample);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		snprintf(path, sizeof(path), "%s/%d-%llu.json", folder, (int)getpid(),
			 ovm_proc_start(getpid()));
		FILE *f = fopen(path, "w");
		assert_non_null(f);
		fputs(texts[i], f);
		fclose(f);
		chmod(path, 0600);
		assert_int_equal(ovm_state_open(&ctx, getpid(), NULL, &s), OVM_E_FORMAT);
		assert_int_equal(ovm_state_remove(&ctx, getpid()), 0); /* the way out */
	}
	open_ok(&ctx, getpid(), "run", &s);
	ovm_state_close(s);
	ovm_vec_free(&sample.built.modules);
}

/* Wrong members of an otherwise right document. */
static void wrong_members(void **state)
{
	struct ovm_ctx ctx;
	struct ovm_state *s;
	struct sample sample;
	(void)state;
	ovm_ctx_init(&ctx);
	make(&sample);
	open_ok(&ctx, getpid(), "attach", &s);
	assert_int_equal(ovm_state_add(&ctx, s, &sample.built, NULL), 0);
	json_t *json = ovm_state_to_json(s);
	const char *key;
	json_t *value;
	void *next;
	json_object_foreach_safe(json, next, key, value)
	{
		struct ovm_state *again = ovm_alloc(sizeof(*again));
		*again = (struct ovm_state){
		    .pid = s->pid, .start = s->start, .dir = {.fd = -1}, .lock_fd = -1};
		json_t *copy = json_deep_copy(json);
		json_object_set_new(copy, key, json_null());
		assert_false(ovm_state_from_json(copy, again));
		ovm_state_close(again);
		json_decref(copy);
	}
	json_decref(json);
	ovm_state_forget(s);
	ovm_state_close(s);
	ovm_vec_free(&sample.built.modules);
}

static void folder_of_others(void **state)
{
	struct ovm_ctx ctx;
	struct ovm_state *s;
	struct sample sample;
	(void)state;
	ovm_ctx_init(&ctx);
	make(&sample);
	chmod(folder, 0777);
	open_ok(&ctx, getpid(), "attach", &s); /* in another place */
	assert_int_equal(ovm_state_add(&ctx, s, &sample.built, NULL), 0);
	assert_false(exists(".json", getpid()));
	ovm_state_forget(s);
	ovm_state_close(s);
	chmod(folder, 0700);
	char real[96];
	snprintf(real, sizeof(real), "%s/real", root);
	assert_int_equal(rename(folder, real), 0);
	assert_int_equal(symlink(real, folder), 0);
	open_ok(&ctx, getpid(), "attach", &s);
	assert_int_equal(ovm_state_add(&ctx, s, &sample.built, NULL), 0);
	assert_false(exists(".json", getpid()));
	ovm_state_forget(s);
	ovm_state_close(s);
	ovm_vec_free(&sample.built.modules);
}

static void no_process(void **state)
{
	struct ovm_ctx ctx;
	struct ovm_state *s;
	(void)state;
	ovm_ctx_init(&ctx);
	assert_int_equal(ovm_state_open(&ctx, 999999999, "run", &s), OVM_E_GONE);
	assert_int_equal(ovm_state_remove(&ctx, 999999999), OVM_E_GONE);
	ovm_state_close(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(written_and_found),
	    cmocka_unit_test(locked),
	    cmocka_unit_test(listed),
	    cmocka_unit_test(damaged),
	    cmocka_unit_test(wrong_members),
	    cmocka_unit_test(no_process),
	    cmocka_unit_test(folder_of_others),
	};
	return cmocka_run_group_tests(tests, make_root, remove_root);
}
