/* watched.h - who is told what happens to a database's files: embedded in whoever wants to hear it.
 * Loop thread only. */
#ifndef WALSUP_WATCHED_H
#define WALSUP_WATCHED_H

#include "common/base/util.h"

enum watch_event {
    WATCH_WAL, /* the -wal was written: most likely a commit */
    /* there is one now; or it is another than at the last look of the clock, whose own event came before */
    WATCH_WAL_MADE,
    WATCH_WAL_GONE, /* it was removed or renamed */
    WATCH_FILE,     /* the database file itself was written: somebody checkpoints */
    WATCH_NAME,     /* created, removed or renamed */
    WATCH_INDEX,    /* the -shm was created, removed or renamed */
    WATCH_CLOSED,   /* somebody who could write into it has closed it */
    WATCH_AUDIT,    /* the safety scan came by, and there is a -wal, or another name */
};

struct watched;
struct watch_entry;

struct watched_calls {
    /** event(wd, ev): cheap enough for every inotify event; may call watch_hush(), not watch_remove(). */
    void (*event)(struct watched *wd, enum watch_event ev);
    /** written(wd, since_ms): WATCH_FILE, which happened after that moment (monotonic). */
    void (*written)(struct watched *wd, uint64_t since_ms);
    /** unchanged(wd): the safety scan found its files as they were. */
    void (*unchanged)(struct watched *wd);
    /** unhushed(wd): events of writes come again; event(wd, WATCH_WAL) follows. */
    void (*unhushed)(struct watched *wd);
};

struct watched {
    const struct watched_calls *call;
    const char *path;          /* of the database file; good as long as it is watched */
    struct watch_entry *entry; /* the watch's; NULL: it is not watched */
};

#endif
