/* session_int.h - what the parts of a session share: session.c (connections, guards, checkpoints, reading),
 * session_ckpt.c (checkpoints, barrier), session_index.c (the wal-index), session_look.c (a second opinion: identity, locks, the -wal as it is on disk),
 * session_aside.c (out of the way), session_leave.c (the last one out). Nobody else includes it. */
#ifndef WALSUP_SESSION_INT_H
#define WALSUP_SESSION_INT_H

#include <sqlite3.h>

#include "daemon/capture/session.h"
#include "daemon/capture/session_dms.h"
#include "daemon/capture/session_os.h"

#define SHM_BLOCK 32768

/* SQLite's methods for the database file of a connection that takes guards: which read mark it has. */
struct slot_shim {
    sqlite3_io_methods methods; /* first: the handle points here */
    const sqlite3_io_methods *real;
    int slot; /* 0 to 4; -1: none */
};

/* One connection and the two statements that take and end its guard. */
struct conn {
    sqlite3 *db;
    struct slot_shim *slot;
    sqlite3_stmt *begin, *read, *rollback;
    int db_fd, wal_fd; /* SQLite's; -1: not known, because it used a descriptor again that it had */
};

/* lock bytes of the wal-index: every writer, every checkpoint, readers of the WAL */
enum { WAL_WRITE_LOCK = 0, WAL_CKPT_LOCK = 1, WAL_READ_LOCK_0 = 3, WAL_READ_LOCK_1 = 4, WAL_READ_LOCKS = 4 };

/* Words of the wal-index: two copies of the header, then what checkpoints share. */
enum { WAL_INDEX_BACKFILL = 24, WAL_INDEX_READ_MARKS = 25, WAL_INDEX_ATTEMPTED = 32 };

/* SQLite's methods for one file, with some of them answered here. */
struct wal_shim {
    sqlite3_io_methods methods; /* first, as below */
    const sqlite3_io_methods *real; /* NULL: not installed */
    struct session *s;
};

struct shim {
    sqlite3_io_methods methods; /* first: the handle points here */
    const sqlite3_io_methods *real; /* NULL: not installed */
    bool holding; /* we keep the checkpoint lock between our checkpoints */
    unsigned slots; /* read marks that we keep everybody from, a bit for each of 1 to 4 */
    unsigned writes; /* of the checkpoint under way */
    bool refused;    /* it did not go on */
    struct stat before; /* the database file when it began */
    struct stat left;   /* and after its last write; st_ino 0: not known */
    struct session *s;
};

struct session {
    uint32_t magic;
    char *path;
    struct os_id claim;    /* zero: none */
    struct os_files files; /* as the first connection opened them */
    struct dms *dms;       /* of the -shm */
    unsigned using;        /* nested session_use() */
    uint32_t page_size;
    struct conn guard[2]; /* taking turns */
    int held;             /* index of the guard that is held */
    bool both;            /* the other one is held too: between guard_next and switch */
    struct conn ckpt;     /* runs PASSIVE */
    struct conn writer;   /* takes the write lock for the barrier; opened when first needed */
    struct shim shim;      /* on ckpt's handle */
    struct wal_shim wal_shim; /* and on that of its -wal */
    const volatile uint32_t *shm; /* the wal-index, through SQLite's own mapping */
    bool faulted;
    bool aside;      /* the shared lock on the file is only held within session_enter() */
    bool stuck;      /* it is not known which descriptor is open: it is held all the time */
    unsigned inside; /* nested session_enter() */
    uint64_t shut_out_at_ms; /* since when that lock cannot be had; 0: it can */
    long writer_pid; /* seen with the write lock; 0: none yet */
    bool several;    /* and another one */
};

/* session.c */
/** session_not_writable(s, e): whether the process may write the database and its directory, which SQLite needs: 0, or
 * a negative code with the path and the reason. */
int session_not_writable(const struct session *s, struct err *e);
/** session_sql_err(e, s, db, rc, what): a result code of SQLite as an error; returns its negative code. What the
 * connection knows about it is used only if no later call has replaced it. */
int session_sql_err(struct err *e, const struct session *s, sqlite3 *db, int rc, const char *what);
sqlite3_file *session_db_file(struct conn *c);
sqlite3_file *session_wal_file(struct conn *c);
void session_conn_close(struct conn *c);
/** session_read_begin(c): begin one that has really read; a result code of SQLite. */
int session_read_begin(struct conn *c);
/** session_read_end(c): end c's transaction, if it has one. */
void session_read_end(struct conn *c);
/** session_first_guard(s, e): begin the guard that is held next, whatever it sees. As session_open(). */
int session_first_guard(struct session *s, struct err *e);
/** session_slot_watch(c): note which read mark c has, from now on. */
void session_slot_watch(struct conn *c);
/** session_one_conn(s): close all connections but the one that has the guard. */
void session_one_conn(struct session *s);

/** session_more_conn(s, c, e): open c, if it is not. BUSY: it has other files than the first one. */
int session_more_conn(struct session *s, struct conn *c, struct err *e);

/** session_guard_back(s, e): begin the guard that was ended again. */
int session_guard_back(struct session *s, struct err *e);

/** session_tell_holder(s, e): somebody has the file for himself: who, and what to do. */
void session_tell_holder(const struct session *s, struct err *e);

/* session_aside.c */
/** session_use(s, e): from now on the wal-index is used by SQLite here, and nobody makes a new one until
 * session_use_end(). Outside, the -shm looks as if nobody had it open: who opens the database then, and is the only one,
 * begins a new wal-index from the -wal. The guard's lock stays, and keeps the WAL as it is. Nests. BUSY: somebody is at it. */
int session_use(struct session *s, struct err *e);
/** session_use_ours(s, e): the same, but not of a wal-index that is somebody else's by now, or soon: BUSY. */
int session_use_ours(struct session *s, struct err *e);
void session_use_end(struct session *s);

/* session_leave.c */
/** session_sweep(s): the database was moved or removed while it was being opened: what SQLite has made beside its name
 * goes, unless somebody else has it by now. */
void session_sweep(struct session *s);

/* session_ckpt.c */
void session_shim_remove(struct session *s);

#endif
