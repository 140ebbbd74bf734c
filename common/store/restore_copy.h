/* restore_copy.h - a database file that readers have open through SQLite while it is brought from one
 * TXID to the next. Blocking; one thread at a time. Not for use outside restore*.c and tests.
 *
 * The copy is a database in WAL mode, and a step is a transaction in its -wal (restore_wal.h): readers see it whole or
 * not at all, whatever mode they ask for, and nobody waits for anybody. Page 1 is the source's, but for the two bytes
 * that say WAL mode, should the source have others: at its end the copy can be replicated like any database.
 *
 * "<path>.follow" holds the state before the step and the one after it, durable before the step begins. Which of
 * the two the copy is in, or whether somebody else wrote to it, the checksum of all its pages says; after an orderly
 * end size and time of the file do. While it is open, the wal-index counts the commits. */
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
    uint32_t counter;                 /* of copies that walsup 0.1 kept, in rollback mode: their change counter */
    uint8_t header[COPY_HEADER_SIZE]; /* of page 1, as the source has it */
};

struct copy {
    char *path, *record;
    struct sqlite3 *db;
    struct copy_state state;
    uint32_t change; /* commits, as the wal-index counts them, up to the last one that is known */
    bool foreign;    /* somebody else has written to it */
};

/* what is to become of the copy */
struct copy_step {
    int fd;              /* pages at their places */
    const uint8_t *have; /* bit n: page n is in fd; NULL: all are */
    struct copy_state to; /* header is set by copy_apply; checksum: 0 = set by copy_apply, else it is
                             what must come out */
    uint64_t pages; /* set by copy_step: that changed */
};

/** copy_record(path): "<path>.follow", malloc'ed. */
char *copy_record(const char *path);
/** copy_prepare(path, fd, state, e): fd holds a database that will be published as path: make it one
 * that can be followed, and write the record. state: header is set. */
int copy_prepare(const char *path, int fd, struct copy_state *state, struct err *e);
/** copy_open(c, path, e): an existing copy; what a killed process left half done is undone. One that walsup 0.1 kept
 * in rollback mode becomes one in WAL mode. 1: it is not what its record says, somebody else wrote it; c is open, and
 * its state only says what it is. 2: there is no record, or no database; c is not open. ERR_BUSY: it cannot be brought
 * into WAL mode because of its readers. */
int copy_open(struct copy *c, const char *path, struct err *e);
/** copy_apply(c, s, e): all or nothing, and durable. 1: somebody else has written to it since (not if all pages are
 * there). ERR_CORRUPT, before anything was written: the result would not have the checksum it should. ERR_BUSY:
 * somebody writes to it, or keeps others from it, for 10 seconds. */
int copy_apply(struct copy *c, struct copy_step *s, struct err *e);
/** copy_close(c): the last one out takes -wal and -shm along, as with any database. */
void copy_close(struct copy *c);

#endif
