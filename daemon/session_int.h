/* session_int.h - what the parts of a session share: session.c (connections, guards, checkpoints, reading),
 * session_index.c (the wal-index), session_look.c (a second opinion: identity, locks, the -wal as it is on disk),
 * session_leave.c (the last one out). Nobody else includes it. */
#ifndef WALSUP_SESSION_INT_H
#define WALSUP_SESSION_INT_H

#include <sqlite3.h>

#include "daemon/session.h"
#include "daemon/session_os.h"

#define SHM_BLOCK 32768

/* One connection and the two statements that take and end its guard. */
struct conn {
    sqlite3 *db;
    sqlite3_stmt *begin, *read, *rollback;
};

/* lock bytes of the wal-index: every writer, every checkpoint */
enum { WAL_WRITE_LOCK = 0, WAL_CKPT_LOCK = 1 };

/* SQLite's methods for one file, with some of them answered here. */
struct shim {
    sqlite3_io_methods methods; /* first: the handle points here */
    const sqlite3_io_methods *real; /* NULL: not installed */
    bool holding; /* we keep the checkpoint lock between our checkpoints */
    unsigned writes; /* of the checkpoint under way */
    struct session *s;
};

struct session {
    uint32_t magic;
    char *path;
    struct os_files files; /* as the first connection opened them */
    uint32_t page_size;
    struct conn guard[2]; /* taking turns */
    int held;             /* index of the guard that is held */
    bool both;            /* the other one is held too: between guard_next and switch */
    struct conn ckpt;     /* runs PASSIVE */
    struct conn writer;   /* takes the write lock for the barrier; opened when first needed */
    struct shim shim;      /* on ckpt's handle */
    const volatile uint32_t *shm; /* the wal-index, through SQLite's own mapping */
    bool faulted;
};

/* session.c */
/** session_sql_err(e, s, db, rc, what): a result code of SQLite as an error; returns its negative code. */
int session_sql_err(struct err *e, const struct session *s, sqlite3 *db, int rc, const char *what);
sqlite3_file *session_db_file(struct conn *c);
sqlite3_file *session_wal_file(struct conn *c);
void session_conn_close(struct conn *c);
/** session_read_end(c): end c's transaction, if it has one. */
void session_read_end(struct conn *c);
/** session_one_conn(s): close all connections but the one that has the guard. */
void session_one_conn(struct session *s);

#endif
