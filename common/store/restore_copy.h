/* restore_copy.h - a database file that readers have open through SQLite while it is brought from one
 * TXID to the next. Blocking; one thread at a time. Not for use outside restore*.c and tests.
 *
 * A step is a transaction of SQLite's own kind: under its EXCLUSIVE lock, with a rollback journal in its
 * format, which any SQLite plays back when this process is killed in between. So readers see a step whole
 * or not at all. The copy is in rollback mode (header bytes 18 and 19 are 1, whatever the source says):
 * then a reader needs no -wal and -shm, and the change counter tells it what it has to forget.
 *
 * "<path>.follow" holds the TXID before the step and the one after it, durable before the step begins. The
 * change counter in the database says which of the two it is, so the two cannot get out of step. */
#ifndef WALSUP_RESTORE_COPY_H
#define WALSUP_RESTORE_COPY_H

#include "common/store/restore_pages.h"

struct sqlite3;
struct sqlite3_file;

#define COPY_HEADER_SIZE 100u

struct copy_state {
    uint64_t txid, lineage, checksum;
    int64_t time_ms;
    uint32_t page_size, commit;
    uint32_t counter;                 /* the copy's change counter */
    uint8_t header[COPY_HEADER_SIZE]; /* of page 1, as the source has it */
};

struct copy {
    char *path, *record;
    struct sqlite3 *db;
    struct sqlite3_file *file; /* db's */
    struct copy_state state;
};

/* what is to become of the copy */
struct copy_step {
    int fd;              /* pages at their places */
    const uint8_t *have; /* bit n: page n is in fd; NULL: all are */
    struct copy_state to; /* counter is set by copy_step; checksum: 0 = set by copy_step, else it is
                             what must come out */
    uint64_t pages; /* set by copy_step: that changed */
};

/** copy_record(path): "<path>.follow", malloc'ed. */
char *copy_record(const char *path);
/** copy_prepare(path, fd, state, e): fd holds a database that will be published as path: make it one
 * that can be followed, and write the record. state: header and counter are set. */
int copy_prepare(const char *path, int fd, struct copy_state *state, struct err *e);
/** copy_open(c, path, e): an existing copy; what a killed process left half done is undone. 1: it is not
 * what its record says, somebody else wrote it; c is open, and its state only says what it is. 2: there
 * is no record, or no database; c is not open. */
int copy_open(struct copy *c, const char *path, struct err *e);
/** copy_apply(c, s, e): all or nothing, and durable. ERR_CORRUPT, before anything was written: the
 * result would not have the checksum it should. ERR_BUSY: readers kept it for 10 seconds. */
int copy_apply(struct copy *c, struct copy_step *s, struct err *e);
void copy_close(struct copy *c);

#endif
