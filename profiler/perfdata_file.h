#ifndef OVM_PERFDATA_FILE_H
#define OVM_PERFDATA_FILE_H
/* The container: where the records of a perf.data file are and how to decode them. Internal to
 * perfdata*.c. */
#include "base/addr.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/vec.h"
#include "profiler/record.h"

#include <zstd.h>

struct ovm_perfdata_attr { /* one event that was recorded */
	struct ovm_record_format format;
	uint32_t type; /* PERF_TYPE_* */
	uint64_t config;
	uint64_t frequency; /* 0: a fixed period */
	bool has_stacks;    /* samples hold every kind of taken branch */
};

struct ovm_perfdata_id { /* what records call the event */
	uint64_t id;
	uint32_t attr;
};

struct ovm_perfdata_item { /* one record of the kernel's */
	uint64_t time;	   /* 0 until somebody decodes it */
	uint64_t at;	   /* offset in the file; behind its end: in what was unpacked */
};

struct ovm_perfdata_build_id {
	char *path;
	uint8_t bytes[20];
	uint32_t len; /* 0: two files of that name were seen */
	UT_hash_handle hh;
};

struct ovm_perfdata_file {
	struct ovm_ctx *ctx;
	const char *name;
	const uint8_t *bytes; /* the whole file; borrowed */
	size_t len;
	struct ovm_buf unpacked; /* records that were compressed, one after the other */
	ZSTD_DStream *zstd;
	uint8_t *chunk;
	OVM_VEC(struct ovm_perfdata_attr) attrs;
	OVM_VEC(struct ovm_perfdata_id) ids;	 /* sorted by id when open */
	OVM_VEC(struct ovm_perfdata_item) items; /* in the order of the file */
	struct ovm_perfdata_build_id *build_ids; /* by path */
	bool is_pipe;				 /* made by `perf record -o -` */
	bool is_cut;
	uint64_t cut_at; /* where it ends too early */
	uint64_t n_aux;	 /* AUXTRACE records skipped */
};

/* Find everything in @bytes. Fails with OVM_E_FORMAT or OVM_E_NOMEM; ended by _close either way.
 * @file is zeroed by the caller. */
int ovm_perfdata_open(struct ovm_ctx *ctx, const uint8_t *bytes, size_t len, const char *name,
		      struct ovm_perfdata_file *file);
void ovm_perfdata_close(struct ovm_perfdata_file *file); /* accepts zeroed */

/* The record at @at, of *size bytes. */
const uint8_t *ovm_perfdata_record(const struct ovm_perfdata_file *file, uint64_t at, size_t *size);

/* The event that @record belongs to, or OVM_NONE if the file does not say. */
uint32_t ovm_perfdata_attr_of(const struct ovm_perfdata_file *file, const uint8_t *record,
			      size_t size);

/* Build-id of the file mapped as @path, or NULL. */
const struct ovm_perfdata_build_id *ovm_perfdata_find_build_id(const struct ovm_perfdata_file *file,
							       const char *path);

/* The failure "damaged at offset @at: @what". */
int ovm_perfdata_damaged(const struct ovm_perfdata_file *file, uint64_t at, const char *what);

#endif
