/* Which code runs where, on hostile input: a stream of perf records, or the text of /proc/PID/maps.
 *
 *   +0  'm': the rest is text   else: the rest are records (IP, TID, TIME and sample_id_all)
 *
 * Processes get pids that cannot exist and files are among a few names, so that nothing depends on
 * the machine. */
#include "base/err.h"
#include "profiler/procmap.h"

#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

enum { NO_PID = 1 << 30 };

static const char *known_path(const char *path)
{
	static const char *const paths[] = {
	    "/usr/bin/env", "/nothere", "/nothere (deleted)", "//anon", "[vdso]", "/memfd:x", ""};
	size_t n = strlen(path);
	return paths[(n + (uint8_t)(n ? path[n - 1] : 0)) % (sizeof(paths) / sizeof(paths[0]))];
}

static void look_up(struct ovm_procmap *map, uint32_t pid, uint64_t rta)
{
	ovm_va va;
	uint32_t module = ovm_procmap_resolve(map, (pid_t)(pid | NO_PID), ovm_rta_of(rta), &va);
	if (module != OVM_NONE) {
		OVM_ASSERT(module < ovm_procmap_n_modules(map));
		OVM_ASSERT(ovm_procmap_module_id(map, module) &&
			   ovm_procmap_module_path(map, module));
	}
}

static void apply(struct ovm_procmap *map, const uint8_t *bytes, size_t len)
{
	static const struct ovm_record_format format = {
	    .sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME,
	    .sample_id_all = true};
	for (size_t at = 0; at < len;) {
		struct ovm_sample record;
		size_t size = ovm_record_decode(&format, bytes + at, len - at, &record);
		if (!size)
			return;
		at += size;
		record.pid |= NO_PID;
		record.ppid |= NO_PID;
		if (record.kind == OVM_RECORD_MMAP)
			record.path = known_path(record.path);
		ovm_procmap_apply(map, &record);
		look_up(map, record.pid, record.kind == OVM_RECORD_MMAP ? record.addr : record.ip);
		look_up(map, record.pid, record.addr + record.len - 1);
	}
}

/* Paths other than that of a small program lose their slashes. */
static void read_text(struct ovm_procmap *map, const uint8_t *bytes, size_t len)
{
	static const char known[] = "/usr/bin/env";
	char *text = strndup((const char *)bytes, len);
	OVM_ASSERT(text);
	for (char *p = strchr(text, '/'); p; p = strchr(p + 1, '/')) {
		if (!strncmp(p, known, sizeof(known) - 1))
			p += sizeof(known) - 2;
		else
			*p = '_';
	}
	FILE *file = fmemopen(text, strlen(text) + 1, "r");
	OVM_ASSERT(file);
	ovm_procmap_read(map, NO_PID, file);
	fclose(file);
	free(text);
	for (unsigned i = 0; i < 8; i++)
		look_up(map, 0, UINT64_C(0x1000) << (i * 6));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct ovm_procmap *map = ovm_procmap_new();
	if (len && bytes[0] == 'm')
		read_text(map, bytes + 1, len - 1);
	else if (len)
		apply(map, bytes + 1, len - 1);
	ovm_procmap_free(map);
	return 0;
}
