/* A driver does nothing itself, its children do (a compiler under make), and most of them are gone
 * before a round is over. Whoever samples and builds for each of those makes everything slower.
 *
 * So nothing is done to a process until it has used some time: what has run for T will probably
 * run for T again (Lindy's law; life times of compiler runs and requests have long tails). And if
 * it is gone too soon all the same, the next one that runs the same file has to use twice as much:
 *
 *   cc1  0.4 s   never looked at
 *   cc1  2.0 s   looked at after 0.5 s; ended too soon
 *   cc1  2.0 s   looked at after 1.0 s; ended too soon
 *   cc1  2.0 s   2.0 s were needed: left alone, as all that follow
 *   cc1 30.0 s   looked at after 2.0 s, optimized
 *
 * Limits: one at a time. While a round is on its way, which takes a few seconds, others wait.
 */
#define OVM_LOG_DOMAIN "follow"
#include "runtime/follow.h"
#include "base/log.h"
#include "runtime/tracee.h"
#include "runtime/tunables.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void ovm_follow_init(struct ovm_follow *f, pid_t root, unsigned after_ms)
{
	*f = (struct ovm_follow){.root = root,
				 .after_ms = after_ms ? after_ms : OVM_RT_FOLLOW_AFTER_MS};
}

void ovm_follow_fini(struct ovm_follow *f)
{
	for (uint32_t i = 0; i < f->files.n; i++)
		free(f->files.v[i].path);
	ovm_vec_free(&f->files);
	ovm_vec_free(&f->seen);
	free(f->current);
	f->current = NULL;
}

static bool is_seen(const struct ovm_follow *f, const struct ovm_image_mark *mark)
{
	for (uint32_t i = f->seen.n; i-- > 0;) /* the newest are the likely ones */
		if (ovm_image_mark_same(&f->seen.v[i], mark))
			return true;
	return false;
}

static void see(struct ovm_follow *f, pid_t pid)
{
	struct ovm_image_mark mark;
	if (ovm_image_mark_read(pid, &mark) && !is_seen(f, &mark))
		ovm_vec_push(&f->seen, mark);
}

static char *file_of(pid_t pid)
{
	char name[32], path[PATH_MAX];
	snprintf(name, sizeof(name), "/proc/%d/exe", (int)pid);
	ssize_t n = readlink(name, path, sizeof(path));
	return ovm_strndup(path, n > 0 ? (size_t)n : 0);
}

static unsigned after_ms(const struct ovm_follow *f, const char *path)
{
	for (uint32_t i = 0; i < f->files.n; i++)
		if (!strcmp(f->files.v[i].path, path))
			return f->files.v[i].after_ms;
	return f->after_ms;
}

static bool is_due(const struct ovm_follow *f, const struct ovm_relative *r)
{
	struct ovm_image_mark mark;
	if (r->cpu_ms < f->after_ms || !ovm_image_mark_read(r->pid, &mark) || is_seen(f, &mark))
		return false;
	char *path = file_of(r->pid);
	bool is_due = r->cpu_ms >= after_ms(f, path);
	free(path);
	return is_due;
}

pid_t ovm_follow_next(struct ovm_follow *f)
{
	ovm_family family;
	const struct ovm_relative *best = NULL;
	if (ovm_now_ms() < f->next_look)
		return 0;
	f->next_look = ovm_now_ms() + OVM_RT_FOLLOW_LOOK_MS;
	ovm_family_list(f->root, &family);
	for (uint32_t i = 0; i < family.n; i++) {
		const struct ovm_relative *r = &family.v[i];
		if ((best && r->cpu_ms <= best->cpu_ms) || !is_due(f, r))
			continue;
		if (ovm_process_opted_out(r->pid))
			see(f, r->pid);
		else
			best = r;
	}
	pid_t pid = best ? best->pid : 0;
	ovm_vec_free(&family);
	if (pid) {
		see(f, pid);
		free(f->current);
		f->current = file_of(pid);
		ovm_log(OVM_LOG_INFO, "process %d: %s", (int)pid, f->current);
	}
	return pid;
}

static void double_after(struct ovm_follow *f, const char *path)
{
	for (uint32_t i = 0; i < f->files.n; i++)
		if (!strcmp(f->files.v[i].path, path)) {
			f->files.v[i].after_ms *= f->files.v[i].after_ms < UINT_MAX / 2 ? 2 : 1;
			return;
		}
	ovm_vec_push(&f->files, ((struct ovm_follow_file){ovm_strdup(path), 2 * f->after_ms}));
}

void ovm_follow_done(struct ovm_follow *f, pid_t pid, bool too_soon)
{
	if (too_soon && f->current)
		double_after(f, f->current);
	else if (pid)
		see(f, pid);
}
