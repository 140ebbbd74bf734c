/* restore_side.h - what lies beside a database file, and whether anybody's commits are in it. Reads the files
 * themselves. Blocking; any thread. Not for use outside restore*.c and tests. */
#ifndef WALSUP_RESTORE_SIDE_H
#define WALSUP_RESTORE_SIDE_H

#include "common/base/err.h"

/* the transactions in a -wal, as SQLite would find them when it opens the database */
struct side_wal {
    uint32_t page_size, pages; /* of the database after the last of them */
    uint32_t salt[2], cksum[2]; /* which -wal, and the running checksum after the last of them */
    uint64_t frames;           /* up to the last commit; 0: there is none */
};

/** side_wal_read(path, ret, e): of the database at path. No -wal, or one that SQLite would pass over: no frames.
 * ERR_UNSUPPORTED: one that SQLite of another kind wrote. */
int side_wal_read(const char *path, struct side_wal *ret, struct err *e);
/** side_wal_adds(path, w, fd, page_size, pages, ret, e): *ret: pages of the database in the file fd that would
 * change if this -wal were played into it; 0: it holds nothing that the file does not. */
int side_wal_adds(const char *path, const struct side_wal *w, int fd, uint32_t page_size, uint32_t pages,
                  uint64_t *ret, struct err *e);
/** side_wal_same(a, b): the same transactions. */
bool side_wal_same(const struct side_wal *a, const struct side_wal *b);
/** side_journal_hot(path): the -journal of the database at path may have to be played back. */
bool side_journal_hot(const char *path);
/** side_foreign(path): the suffix of a file beside path that SQLite has not written, although its name is one of
 * SQLite's; NULL: there is none. Empty ones, and those that were wiped with zeros, are SQLite's. */
const char *side_foreign(const char *path);
/** side_fold(path, e): have SQLite bring what is in -wal and -journal into the database at path, which nobody else
 * has open; then neither is needed any more. */
int side_fold(const char *path, struct err *e);

#endif
