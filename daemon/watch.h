/* watch.h - inotify: one watch per directory that holds databases, events by file name.
 * Loop thread only. A directory that does not exist is tried again by watch_rescan(). */
#ifndef WALSUP_WATCH_H
#define WALSUP_WATCH_H

#include <uv.h>

#include "common/base/err.h"
#include "daemon/database.h"

struct watch;

/** watch_new(loop, ret, e). */
int watch_new(uv_loop_t *loop, struct watch **ret, struct err *e);
/** watch_add(w, db): events of db's files go to database_event(). Never fails for good: if no watch can be
 * had (directory missing, limit reached) the slow scan covers it, and the log says so once. */
void watch_add(struct watch *w, struct database *db);
void watch_remove(struct watch *w, struct database *db);
/** watch_rescan(w): try again for the directories that have no watch. */
void watch_rescan(struct watch *w);
/** watch_close(w, closed, arg): free w, then call closed. */
void watch_close(struct watch *w, void (*closed)(void *arg), void *arg);

struct watch_counters {
    uint64_t events, overflows, watches, unwatched;
};
const struct watch_counters *watch_counters(const struct watch *w);

#endif
