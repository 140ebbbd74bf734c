/* restore_swap.h - the moment a restored file takes its name, and what becomes of the file that had it and of
 * the files beside it. Blocking; any thread. Not for use outside restore*.c and tests. */
#ifndef WALSUP_RESTORE_SWAP_H
#define WALSUP_RESTORE_SWAP_H

#include "common/base/fsx.h"
#include "common/store/restore.h"
#include "common/store/restore_side.h"

struct swap {
    const char *output;
    bool force, in_use;             /* as in struct restore_opts */
    const struct restore_hold *hold; /* may be NULL */
    uint32_t page_size, pages;      /* of the new file */
    struct side_wal proven;         /* a leftover -wal all of whose commits are in the replica; frames 0: none */
};

/** swap_check(w, e): before any work: ERR_EXISTS when there is a file that must not be replaced, ERR_BUSY when
 * somebody other than walsupd uses it. What a leftover -wal holds is only looked at in swap_publish. */
int swap_check(const struct swap *w, struct err *e);
/** swap_publish(w, t, e): t takes its name. It is complete and checked.
 *
 * A crash at any moment leaves the old database with all of its commits, or the new one without anything beside
 * it that SQLite would play into it:
 *  - what -wal and -journal of an old database hold goes into that database first, through SQLite, and the
 *    database is then held under SQLite's exclusive lock until it has lost its name;
 *  - a -wal without a database goes only if playing it into the new file would change nothing, or if it was
 *    proven that the replica has its commits (it is out of the way then before the new file appears), or by force;
 *  - the new file is locked until what lay beside the name is gone.
 * On failure t is gone and everything else is as it was. */
int swap_publish(const struct swap *w, struct fsx_tmp *t, struct err *e);

#endif
