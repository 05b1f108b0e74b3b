#ifndef OVM_STATEDIR_H
#define OVM_STATEDIR_H
/* The folder of state files: which one, whose, and files that are there as a whole or not at all.
 */
#include "base/err.h"
#include "base/vec.h"

#include <dirent.h>
#include <sys/types.h>

struct ovm_statedir {
	int fd; /* -1: none */
	uid_t owner;
};
typedef OVM_VEC(char *) ovm_statedir_paths;

enum { OVM_STATE_NAME = 64 }; /* longest name of a file, with its NUL */

/* Where state of processes of user @owner can be, most wanted first. */
void ovm_statedir_paths_for(uid_t owner, ovm_statedir_paths *list);
/* Where user @uid keeps it if nothing else is set. */
void ovm_statedir_paths_of(uid_t uid, ovm_statedir_paths *list);
void ovm_statedir_paths_fini(ovm_statedir_paths *list);

/* Open it if nobody else may look or write there, and it is ours (we are root: or @owner's). */
bool ovm_statedir_open(const char *path, uid_t owner, struct ovm_statedir *out);
/* Open or make the first of the list that can be ours. Fails: OVM_E_IO. */
int ovm_statedir_make(struct ovm_ctx *ctx, const ovm_statedir_paths *list,
		      struct ovm_statedir *out);
void ovm_statedir_close(struct ovm_statedir *dir);

DIR *ovm_statedir_list(const struct ovm_statedir *dir); /* closedir it; NULL: cannot be read */
bool ovm_statedir_has(const struct ovm_statedir *dir, const char *name);

/* Replace file @name by @n bytes, 0600. One writer at a time. Fails: OVM_E_IO, OVM_E_PERM. */
int ovm_statedir_write(struct ovm_ctx *ctx, const struct ovm_statedir *dir, const char *name,
		       const void *bytes, size_t n);
/* Append file @name to @out. Fails: OVM_E_IO, OVM_E_PERM, OVM_E_FORMAT (no file of the owner's). */
int ovm_statedir_read(struct ovm_ctx *ctx, const struct ovm_statedir *dir, const char *name,
		      struct ovm_buf *out);

/* Lock file @name, made if missing, until *fd is closed or we end. OVM_REFUSED: somebody has it. */
int ovm_statedir_lock(struct ovm_ctx *ctx, const struct ovm_statedir *dir, const char *name,
		      int *fd);
pid_t ovm_statedir_holder(const struct ovm_statedir *dir, const char *name); /* 0: nobody */

#endif
