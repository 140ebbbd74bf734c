/* session_dms.h - SQLite's "dead man's switch" of a -shm: a lock that says that somebody uses the wal-index. Whoever opens
 * the -shm and finds nobody with that lock makes a new wal-index from the -wal. SQLite holds it as long as the file is
 * open; here it is held only while the wal-index is used, so that whoever opens the database when only we still have it
 * believes what is in the -wal now, not what we knew of one that may have been replaced.
 *
 * A lock belongs to the process, and SQLite opens a -shm once in a process: the sessions of one file share the switch.
 * Worker threads. The descriptor is SQLite's; nothing is opened or closed. Bytes and sizes as in SQLite's os_unix.c. */
#ifndef WALSUP_SESSION_DMS_H
#define WALSUP_SESSION_DMS_H

#include "daemon/capture/session_os.h"

struct dms;

/** dms_join(shm): SQLite has just opened the -shm, and holds the switch, which is let go (shm->fd is -1 if another session had
 * it open: then that one holds it, while this one is opened). Owned by the caller until dms_leave(). NULL: whose descriptor
 * it is is not known, the switch stays. */
struct dms *dms_join(const struct os_file *shm);
/** dms_leave(d): after the connections have been closed, and dms_let_go(). NULL is fine. Returns NULL. */
struct dms *dms_leave(struct dms *d);
/** dms_hold(d): nobody makes a new wal-index until dms_let_go(), and all that this process has mapped of the file is there.
 * Counted. False: somebody is at it right now, or the file cannot grow: try again in a moment. */
bool dms_hold(struct dms *d);
void dms_let_go(struct dms *d);

#endif
