/* restore_users.h - who has a database open. Opens and closes the files themselves, which drops every POSIX
 * lock this process has on them: only for a process that has no connection to the database at that moment.
 * Blocking; any thread. Not for use outside restore*.c and tests. */
#ifndef WALSUP_RESTORE_USERS_H
#define WALSUP_RESTORE_USERS_H

#include "common/base/err.h"

#define USERS_TEXT 96u

enum users_except {
    USERS_ANY,
    USERS_BUT_WALSUPD, /* the daemon is asked to let go later */
};

/** users_find(path, except, ret): whether another process holds one of SQLite's locks on the database at `path`
 * or on its -shm, or has one of its files open for writing (a connection in rollback mode holds no lock between
 * its transactions). true: *ret names one of them, as in "python3 (pid 17)". What the kernel does not show to
 * this user is not seen, but for locks, which always are. */
bool users_find(const char *path, enum users_except except, char ret[static USERS_TEXT]);
/** users_lock(fd): take SQLite's exclusive lock on the database that fd has open for writing, for as long as this
 * open file lives: nobody can begin to use it. false: somebody has it. A file system without locks has no users
 * either. */
bool users_lock(int fd);

#endif
