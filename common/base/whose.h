/* whose.h - whether a path that somebody else may have made may be followed: files that lie in a directory of one owner and
 * belong to another are read by who may read everything, and end in the replica of the first.
 *
 * Symbolic links on the way must belong to root, to us, or to the owner of the file at its end; and a file with several
 * names must not lie in the directory of a third. Nothing is opened (O_PATH), so no lock is dropped. Blocks on disks; any
 * thread. */
#ifndef WALSUP_WHOSE_H
#define WALSUP_WHOSE_H

#include <sys/stat.h>

#include "common/base/err.h"

/** whose_follow(dir, path, ret, e): from the directory with this descriptor (any, also of O_PATH) along a relative path, to
 * what is at its end: *ret. 0; -ERR_PERM: it must not be followed, with a sentence that does not name the path's
 * beginning; -ERR_NOTFOUND; another negative code. */
int whose_follow(int dir, const char *path, struct stat *ret, struct err *e);
/** whose_below(root_len, path, ret, e): the same for an absolute path whose first bytes, up to a slash, were named by
 * the administrator and are followed anyhow. */
int whose_below(size_t root_len, const char *path, struct stat *ret, struct err *e);

#endif
