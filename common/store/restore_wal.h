/* restore_wal.h - a transaction made of whole pages: appended to the -wal of a database that others have open, and
 * made known to them in the wal-index. SQLite's own interface takes rows, not pages (sqlite_dbpage is in few of its
 * builds); what is done here is what sqlite3WalFrames() does: under SQLite's lock for writers, frames first, synced,
 * then the hash tables, then the two copies of the header. So readers see it whole or not at all, a process that is
 * killed leaves frames that nobody counts, and checkpoints and recovery are SQLite's. All files are read and written
 * through the handles of a connection, which keeps its locks. Blocking; one thread at a time. Not for use outside
 * restore*.c and tests. */
#ifndef WALSUP_RESTORE_WAL_H
#define WALSUP_RESTORE_WAL_H

#include "common/base/buf.h"
#include "common/base/err.h"

struct sqlite3;
struct sqlite3_file;

/* the header of a wal-index, in the machine's byte order; salts as in the file */
struct walx_header {
    uint32_t version, unused, change;
    uint8_t init, big_endian;
    uint16_t page_size; /* 65536: 1 */
    uint32_t frames, pages;
    uint32_t cksum[2]; /* after the last frame */
    uint8_t salt[8];
    uint32_t own_cksum[2];
};

struct walx {
    struct sqlite3 *db;
    struct sqlite3_file *file, *wal; /* db's */
    const char *path;                /* for messages */
    struct walx_header h;            /* as others see it */
    uint32_t page_size, pages;
    /* the transaction */
    bool locked;
    struct walx_header next;
    struct buf out, pgno; /* frames not yet written; the page of each frame, 4 bytes */
    uint64_t out_off;
    size_t last; /* in out: the frame that may become the commit */
};

/** walx_begin(x, db, path, page_size, timeout_ms, e): db has the database open in WAL mode and no
 * transaction. Takes the lock of the writer; x->h and x->pages are the state that a reader would
 * see now, and stay that until walx_end. ERR_BUSY: somebody else held the lock that long.
 * ERR_UNSUPPORTED: a wal-index that is not understood. */
int walx_begin(struct walx *x, struct sqlite3 *db, const char *path, uint32_t page_size, unsigned timeout_ms,
               struct err *e);
/** walx_read(x, pgno, p, e): the page, up to x->pages, as that reader sees it. */
int walx_read(const struct walx *x, uint32_t pgno, uint8_t *p, struct err *e);
/** walx_put(x, pgno, p, e): it becomes this. Each page once. */
int walx_put(struct walx *x, uint32_t pgno, const uint8_t *p, struct err *e);
/** walx_commit(x, pages, e): what was put (one page at least) becomes durable, then visible, all at once; the database
 * has so many pages then. On failure nothing of it ever will be. */
int walx_commit(struct walx *x, uint32_t pages, struct err *e);
/** walx_end(x): unlock; a transaction that was not committed is forgotten. */
void walx_end(struct walx *x);
/** walx_checkpoint(db): into the database file what no reader needs in the -wal; cut a long -wal off, if that can be
 * done without waiting. Outside of walx_begin and walx_end. */
void walx_checkpoint(struct sqlite3 *db);

#endif
