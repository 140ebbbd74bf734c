/* session.h - one attached database: the SQLite handles, the guards, the wal-index. The only code
 * in walsup that opens a database, and it never opens the database or its -shm raw: closing such a
 * descriptor would drop all of the process's POSIX locks on the file (DESIGN.md, I1).
 *
 * Thread: every function blocks on SQLite or the disk; worker threads only, one thread at a time
 * per session. No function writes into the database.
 *
 * Words: N = last committed frame in the WAL, B = frames already copied into the database file,
 * guard = an open read transaction of ours that has really read. Under any guard the frames
 * committed after it was begun stay in the WAL; a guard begun while N > B also keeps the WAL from
 * being restarted. */
#ifndef WALSUP_SESSION_H
#define WALSUP_SESSION_H

#include <sys/stat.h>

#include "common/base/err.h"

struct session;

/* positive outcomes of the functions below */
enum session_outcome {
    SESSION_MISSING = 1, /* no such file */
    SESSION_EMPTY,       /* a file without a database header yet */
    SESSION_NOT_WAL,     /* a database, but in rollback-journal mode */
    SESSION_BUSY,        /* somebody holds the lock that is needed: try again later */
    SESSION_FIRST,       /* of session_join(): nobody has it open */
};

/* what the wal-index says, read consistently */
struct session_index {
    uint32_t n, b;
    uint32_t attempted; /* up to which frame a checkpoint copied, or set out to: set before it writes */
    uint32_t salt[2];
    uint32_t pages;    /* database size in pages after frame n */
    uint32_t cksum[2]; /* running checksum after frame n */
    uint32_t page_size;
};

/** session_open(path, ret, e): attach: open the first connection and take the first guard. Creates -wal and
 * -shm if SQLite needs them (owned by the database's owner). MISSING, EMPTY, NOT_WAL and BUSY are
 * outcomes; with BUSY e says who has it, as far as that is known, with EMPTY what is there instead of a database.
 * path is absolute. */
int session_open(const char *path, struct session **ret, struct err *e);
/** session_join(path, ret, e): the same, but only if somebody else has the database open with a wal-index: FIRST is an
 * outcome, and nothing was created or recovered then. */
int session_join(const char *path, struct session **ret, struct err *e);
/** session_close(s): detach, the guard last, changing nothing: no checkpoint, side files stay. NULL is
 * fine. Returns NULL. */
struct session *session_close(struct session *s);

/** session_aside(s): from now on SQLite's shared lock on the database file is held only within session_enter(). Outside,
 * whoever is the last to close the database, or wants it for himself, can have it: he may fold in the WAL and remove it
 * under our guard, which protects frames from others only as long as they share the file. What we have open of the WAL
 * stays readable then. session_stay(s): hold the lock all the time again, if it can be had.
 * session_enter(s, e), session_exit(s): around whatever needs the file as it is: checkpoints, pages read from it, new
 * connections. BUSY: somebody has it for himself (e says who; e may be NULL); it waits for a moment before it says
 * so. Nests. After the first one the side files may be others: session_side(). */
void session_aside(struct session *s);
void session_stay(struct session *s);
int session_enter(struct session *s, struct err *e);
void session_exit(struct session *s);
/** session_shut_out_ms(s): for how long session_enter() has failed; 0: it did not, the last time. */
uint64_t session_shut_out_ms(const struct session *s);
/** session_folded(s, ret_ns): our -wal and -shm have been removed, and nobody has them any more: as the last close of
 * SQLite does it; when, by the file system's clock. */
bool session_folded(const struct session *s, int64_t *ret_ns);

/* How a session may end when everything in the WAL up to `n` was captured. */
enum session_leave {
    SESSION_LEAVE_FOLD,   /* as the last close of SQLite: the WAL into the database, -wal and -shm removed */
    SESSION_LEAVE_DISCARD /* the database file was replaced in place: what the WAL has is of the one before */
};
/** session_leave_begin(s, how, x, e): if nobody else has the database open, keep everybody away from it (SQLite's
 * exclusive lock on the file), and with FOLD copy what is left of the WAL into it. What is recorded about the files
 * now stays true until session_leave_end(). Before that the session can be used for nothing else, but the guard still
 * protects the WAL if the outcome is positive: BUSY: somebody else has it, or something changed since x was read, or
 * the -wal holds commits that the wal-index does not show; nothing was done. */
int session_leave_begin(struct session *s, enum session_leave how, const struct session_index *x, struct err *e);
/** session_disown(s): before session_close(), if the database has been removed or moved and another -wal, or none, has
 * the name of ours, but our -shm is still there: as long as we have it open, whoever opens a new database under that name
 * takes it for his own, and believes what it says of the old one. Marks the wal-index as not valid, under the write lock,
 * so that he recovers it; harmless to whoever still uses the old one. */
void session_disown(struct session *s);
/** session_leave_end(s): remove the side files and close. Returns NULL. */
struct session *session_leave_end(struct session *s, enum session_leave how);

/** session_index(s, ret, e): consistent copy of the wal-index header and B. No system call,
 * but for the file size when the WAL is empty. */
int session_index(struct session *s, struct session_index *ret, struct err *e);

/** session_peek(s, ret): the same for the loop thread: never waits, fails instead. */
int session_peek(struct session *s, struct session_index *ret);

/** session_guard_next(s, e): begin the second guard beside the one held. BUSY: the old one is still
 * held, nothing else happened. */
int session_guard_next(struct session *s, struct err *e);
/** session_guard_again(s, ret, e): right after session_open, while nothing relies on the guard yet: end it,
 * begin it again; it sees at least *ret. BUSY as there. */
int session_guard_again(struct session *s, struct session_index *ret, struct err *e);
/** session_guard_switch(s): end the older guard; the newer one stays. Only after session_guard_next. */
void session_guard_switch(struct session *s);
/** session_alone_guard(s): session_guard_next() would have to open its connection first, in session_enter(). */
bool session_alone_guard(const struct session *s);
/** session_guard_lets_restart(s): whether the newest guard has the read mark of whoever needs nothing of the WAL, so that
 * the next writer may restart it. One that is begun while somebody's checkpoint copies has another. */
bool session_guard_lets_restart(const struct session *s);
/** session_guard_behind(s, n): whether the newest guard has the read mark of an earlier frame than n, as it is given one when
 * somebody else is at work on all of them. Shared memory only. */
bool session_guard_behind(const struct session *s, uint32_t n);
/** session_guard_elsewhere(s): the next guard will have another read mark than the one that is held, if there is a free one
 * above it. SQLite's checkpoint waits for a mark by what it read there first: for ever, if guards take turns on it. */
void session_guard_elsewhere(struct session *s);
/** session_guard_undo(s): end the newer guard again instead. */
void session_guard_undo(struct session *s);

/** session_passive(s, ret_all, e): PASSIVE checkpoint on a connection of its own, under the guard
 * held. *ret_all: every frame in the WAL at that time was copied. BUSY: another checkpointer is at
 * work. */
int session_passive(struct session *s, bool *ret_all, struct err *e);
/** session_left(s, ret): how the database file looked after the last write of the last session_passive(), before what that
 * waited for on the disk; false: it did not copy all, or had nothing to copy. */
bool session_left(const struct session *s, struct stat *ret);
/** session_hold_checkpoints(s, on): keep SQLite's checkpoint lock between our own checkpoints. While the
 * WAL is longer than an application's autocheckpoint threshold, each of its commits tries a checkpoint
 * that cannot finish under the guard; with the lock taken that attempt ends at once instead of costing
 * half a dozen system calls. Nobody waits for this lock: an application's own checkpoint reports busy.
 * If the lock cannot be had now, nothing happens. */
void session_hold_checkpoints(struct session *s, bool on);
bool session_holds_checkpoints(const struct session *s);
/** session_several_writers(s): while session_hold_all() waited it met more than one process with the write lock. */
bool session_several_writers(const struct session *s);
/** session_sync(s, ret_us, e): the -wal and the database file to disk, and how long that took. */
int session_sync(struct session *s, uint64_t *ret_us, struct err *e);
/** session_hold_all(s, timeout_ms, e): nobody begins a transaction from now on. Whoever tries waits in SQLite (for up to
 * ten seconds), also without a busy timeout: all of the read marks are taken, as a RESTART checkpoint takes them. The
 * guard is given up for it: the checkpoint lock, which is ours, and frames that are not copied yet protect the WAL.
 * BUSY: somebody reads all the time; the guard is held as before. Negative: there is no guard any more, close.
 * session_release_all(s, e): the guard first, then the others; if all was copied it is in slot 0. */
int session_hold_all(struct session *s, unsigned timeout_ms, struct err *e);
int session_release_all(struct session *s, struct err *e);
/** session_write_lock(s, timeout_ms, e): BEGIN IMMEDIATE, retried for at most timeout_ms; BUSY if a
 * writer never let go. While it is held the application's writers wait. */
int session_write_lock(struct session *s, unsigned timeout_ms, struct err *e);
void session_write_unlock(struct session *s);

/** session_wal_read(s, off, p, n, e): n bytes of the -wal file; fewer is ERR_CORRUPT. */
int session_wal_read(struct session *s, uint64_t off, void *p, size_t n, struct err *e);
/** session_db_read(s, pgno, n_pages, p, e): n_pages pages of the database file; what lies beyond its
 * end reads as zeros. */
int session_db_read(struct session *s, uint32_t pgno, uint32_t n_pages, uint8_t *p,
                    struct err *e);

/* ---- a second opinion: what can be seen without believing the wal-index that is mapped here */

/** session_side(s): whether -wal and -shm are still the files that are open. INDEX: the -shm was removed or replaced:
 * the mapping shows nothing that happens from then on, and a checkpoint by it would ruin the database. WAL: only the
 * -wal was. Three calls of stat. */
enum session_side { SESSION_SIDE_SAME, SESSION_SIDE_WAL, SESSION_SIDE_INDEX };
enum session_side session_side(const struct session *s);
/** session_other_wal(s): another file has the name of the -wal, not none. */
bool session_other_wal(const struct session *s);
/** session_writer(s, ret_pid): whether a writer has the write lock, so that a commit may be on its way that the
 * wal-index does not show yet. Its process, or 0. Takes no lock. */
bool session_writer(struct session *s, long *ret_pid);
/** session_owned(s): whether somebody has the database file for himself, as the last close has. Takes no lock. */
bool session_owned(const struct session *s);
/** session_checkpointer(s): whether somebody else checkpoints at this moment. Takes no lock. */
bool session_checkpointer(struct session *s);
/** session_company(s, ret_pid): who else has the database open: nobody that can be seen, somebody who shares our
 * -shm, or somebody who has the file but not our -shm: under another name, or with locks of his own. */
enum session_company { SESSION_ALONE, SESSION_SHARED, SESSION_ELSEWHERE };
enum session_company session_company(const struct session *s, long *ret_pid);
/** session_reader(s): the process of a reader that keeps frames of the WAL; 0: not known which; -1: none. */
long session_reader(const struct session *s);
/** session_unseen(s, x): committed frames that are on disk behind what x, just read, shows. Without a writer under
 * way they are of a process that died in its commit, or of one whose wal-index is not ours. */
uint64_t session_unseen(struct session *s, const struct session_index *x);

const char *session_path(const struct session *s);
uint32_t session_page_size(const struct session *s);
/** session_stat(s, ret): stat of the database file by its path; -1 and errno on failure, ESTALE when
 * another file is there: what is noted about a file must be about the one that is open. */
int session_stat(const struct session *s, struct stat *ret);
/** session_is(s, st): whether that is the file which is open. */
bool session_is(const struct session *s, const struct stat *st);
/** session_moved(s): the path no longer leads to the file that is open (replaced or removed). */
bool session_moved(const struct session *s);
/** session_removed(s): no name leads to it any more. */
bool session_removed(const struct session *s);

/** session_faulted(s): the -shm has become shorter than it is mapped, so that zeros were read from it: nothing that was
 * seen since the last job is true, and the session is to be closed. For the thread that did the reading. */
bool session_faulted(struct session *s);

/** session_setup(e): once, before the first session: SQLite settings of the whole process. */
int session_setup(struct err *e);

#endif
