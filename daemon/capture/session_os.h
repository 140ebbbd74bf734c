/* session_os.h - what SQLite asks of the kernel on behalf of a session, seen from the side: which files it opened,
 * and who holds which of SQLite's locks on them. Worker threads, but for os_lock_holder() and os_same(), which any
 * thread may call.
 *
 * SQLite's own table of system calls (sqlite3_vfs.xSetSystemCall) is the seam. Nothing here takes a lock that
 * outlives the call, and no descriptor is opened or closed: see daemon/DESIGN.md, I1.
 *
 * The lock bytes are those of os_unix.c and wal.c in SQLite's source: PENDING, RESERVED and SHARED in the database
 * file, eight bytes and the "dead man's switch" in the -shm. */
#ifndef WALSUP_SESSION_OS_H
#define WALSUP_SESSION_OS_H

#include <sys/stat.h>

#include "common/base/err.h"

#define OS_SHM_DMS 128 /* "dead man's switch": held by whoever uses the wal-index */

/* One file as SQLite opened it. fd is SQLite's: good for questions, as long as the connection lives. */
struct os_file {
    int fd; /* -1: not opened */
    dev_t dev;
    ino_t ino;
    char *path; /* malloc'ed */
};

/* What one connection opened. */
struct os_files {
    struct os_file db, wal, shm;
};
#define OS_FILES_INIT {{.fd = -1}, {.fd = -1}, {.fd = -1}}

/** os_setup(e): once, before SQLite opens anything. */
int os_setup(struct err *e);
/** os_record(f): from now on what SQLite opens on this thread is noted in f; NULL: no more. A file that is opened
 * twice keeps its first descriptor. Returns what was in force before. */
struct os_files *os_record(struct os_files *f);
/** os_refused(): why since the last os_record(f) a file was not opened on this thread: EWOULDBLOCK: another process has a
 * lease (F_SETLEASE) on it that it does not give up; ELOOP: the -wal or -shm is a symbolic link. Tells it once; 0: neither. */
int os_refused(void);
/** os_fill(f, path, st): SQLite shares the -shm among the connections of a process, and uses descriptors of the database
 * again: a second session may open neither. Then the database is what was at the path before (st), the -shm what is
 * there now, and their descriptors stay unknown. */
void os_fill(struct os_files *f, const char *path, const struct stat *st);
void os_files_done(struct os_files *f);

/** os_ask(on), os_answer(ret_pid): between these calls a lock that SQLite wants on this thread is not taken: the
 * request fails as if it were busy, and is remembered. os_answer: whether another process holds a lock in its way
 * (its pid, 0 if the kernel does not say, as for another pid namespace); -1: it would have been granted; -2: SQLite
 * never came to ask, because a connection of this very process has it. */
void os_ask(bool on);
long os_answer(void);

/** os_join(on): from os_join(true) to os_join(false) SQLite is not the first on this thread to open a database: it can
 * neither create a -wal or -shm, nor make a new wal-index in one that nobody else uses; it gets an error instead.
 * Returns whether that happened since os_join(true). */
bool os_join(bool on);

enum os_lock {
    OS_LOCK_DB_SHARED, /* somebody has the database open and has read it */
    OS_LOCK_DB_ANY,    /* or holds any lock on the file, as locking_mode=EXCLUSIVE and rollback journals do */
    OS_LOCK_DB_OWN,    /* somebody has it for himself, as the last close has */
    OS_LOCK_SHM_OPEN,  /* somebody has this -shm open */
    OS_LOCK_SHM_READ,  /* somebody reads (any of the read marks 1 to 4) */
};
/** os_lock_holder(fd, which): the process whose lock would keep us from a lock of our own there: its pid, 0 if it is
 * not known, -1: nobody. Locks of this process are never seen. fd: of the database or of the -shm. */
long os_lock_holder(int fd, enum os_lock which);

/** os_others_have(f): whether anybody else, with or without locks, has the file open: 1 yes, 0 no, -1 the kernel
 * does not tell (no right to ask, a network file system). Only when this process has it open exactly once. */
int os_others_have(const struct os_file *f);
/** os_claim(id), os_unclaim(id): a session has the file open, or is about to. Such a file is never opened and closed here:
 * that would drop its locks. Counted. */
struct os_id {
    dev_t dev;
    ino_t ino;
};
void os_claim(struct os_id id);
void os_unclaim(struct os_id id);
/** os_being_written(path): whether anybody has the file open for writing: 1 yes, 0 no, -1 it cannot be told. Of a file
 * that is claimed: -1. */
int os_being_written(const char *path);
/** os_holder_of(path): as os_lock_holder, for a database that nobody has claimed: its file and its -shm. 0 if it is
 * claimed. */
long os_holder_of(const char *path);

/** os_elsewhere(path): somebody has read a database that nobody has claimed, but nobody has its -shm open: by another
 * name, or with a wal-index of its own. Whoever is just opening it looks the same for a moment. */
bool os_elsewhere(const char *path);

/** os_same(f): the path of f still leads to the file that is open. */
bool os_same(const struct os_file *f);
/** os_command(pid, buf, n): " (pid 12, name)", " (pid 12)", or "" when nothing is known. Returns buf. */
const char *os_command(long pid, char *buf, size_t n);

#endif
