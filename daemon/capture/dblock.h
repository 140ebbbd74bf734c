/* dblock.h - one walsupd for each database on this machine, also when two have different state directories. A
 * byte of one lock file stands for each database file, so that ten thousand of them cost one descriptor, and
 * nothing is written into or beside a database.
 *
 * What it cannot see: other machines (a database on a network file system), containers with a /run of their
 * own, and the same file seen as another inode (overlays). There the conditional writes are what is left.
 *
 * Any thread. The locks are the process's and end with it. */
#ifndef WALSUP_DBLOCK_H
#define WALSUP_DBLOCK_H

#include <sys/types.h>

#include "common/base/err.h"

/** dblock_take(dev, ino, path, e): ERR_BUSY, with the other's process id, when another process has
 * it. What this process has already is given once more, and has to be dropped as often. Without a
 * lock file everything is granted. path is for the message. */
int dblock_take(dev_t dev, ino_t ino, const char *path, struct err *e);
void dblock_drop(dev_t dev, ino_t ino);
/** dblock_setup(e): open the lock file; once, before the first thread. Negative: there will be no locks. */
int dblock_setup(struct err *e);

#endif
