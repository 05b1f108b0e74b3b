#ifndef OVM_RECORD_H
#define OVM_RECORD_H
/* Decodes raw perf records (linux/perf_event.h): bytes in, struct ovm_sample out. Pure; every
 * length is checked. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ovm_record_kind {
	OVM_RECORD_OTHER, /* well-formed, of no interest here */
	OVM_RECORD_SAMPLE,
	OVM_RECORD_MMAP, /* MMAP or MMAP2 */
	OVM_RECORD_LOST, /* LOST or LOST_SAMPLES */
	OVM_RECORD_FORK,
	OVM_RECORD_EXIT,
	OVM_RECORD_COMM,
};

/* How the records were asked for: fields of perf_event_attr. */
struct ovm_record_format {
	uint64_t sample_type;	     /* PERF_SAMPLE_* */
	uint64_t branch_sample_type; /* PERF_SAMPLE_BRANCH_*, for the optional hw_index word */
	uint64_t read_format;	     /* PERF_FORMAT_*, if sample_type has PERF_SAMPLE_READ */
	bool sample_id_all;	     /* records other than samples end with their tid, time, ... */
};

struct ovm_branch_record { /* one taken branch, run-time addresses */
	uint64_t from, to;
	bool mispredicted;
};

struct ovm_sample {
	enum ovm_record_kind kind;
	uint64_t time;		 /* 0 if the format carries none */
	uint32_t pid, tid;	 /* FORK: of the child */
	uint32_t ppid, ptid;	 /* FORK: of the parent */
	bool is_user;		 /* SAMPLE: taken in user mode */
	uint64_t ip;		 /* SAMPLE */
	uint64_t period;	 /* SAMPLE; 1 if the format carries none */
	const uint8_t *branches; /* SAMPLE: n_branches entries, see ovm_record_branch; borrowed from
				    the record */
	uint32_t n_branches;
	uint64_t n_lost;    /* LOST */
	bool is_exec;	    /* COMM: the name changed by execve; MMAP: mapped executable; FORK: not
			       a fork seen but a process found running, with its own program */
	uint64_t addr, len; /* MMAP: bytes of address space */
	uint64_t file_offset;	 /* MMAP */
	uint64_t dev, inode;	 /* MMAP: 0 if not known; dev as of stat(2) */
	const uint8_t *build_id; /* MMAP: borrowed from the record, or NULL */
	uint32_t build_id_len;	 /* bytes, 1..20 */
	const char *path; /* MMAP: file name, COMM: command; ends in NUL, borrowed from the record;
			     else NULL */
};

/* Decode the record at @bytes, of which @n are readable. Returns its size (a positive multiple of
 * 8, at most @n) and fills
 * @out, or 0 if it is malformed or cut off: then @out is untouched and nothing behind it can be
 * read either. */
size_t ovm_record_decode(const struct ovm_record_format *format, const uint8_t *bytes, size_t n,
			 struct ovm_sample *out);

/* Entry @idx (< n_branches) of a sample's branch stack, newest branch first. */
struct ovm_branch_record ovm_record_branch(const struct ovm_sample *sample, uint32_t idx);

#endif
