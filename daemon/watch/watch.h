/* watch.h - inotify: one watch per directory, events by file name; and below it the safety scan, which
 * looks at every watched database now and then, in case nothing announced a change. Loop thread only.
 *
 * What the safety scan promises: within two times `interval` of watch_look() a database whose file or
 * -wal is not what it was when it was looked at before (inode, size or time of the last write) has got
 * an event, whatever inotify said; the first comparison is with how things were at
 * watch_add(). It is a stat of two files on the scan thread, nothing else. walsup's own writes (its
 * checkpoints) are seen as well. */
#ifndef WALSUP_WATCH_H
#define WALSUP_WATCH_H

#include <uv.h>

#include "common/base/err.h"
#include "daemon/watch/scan.h"
#include "daemon/watch/watched.h"

struct watch;
struct watch_dir;

/* Somebody who wants all events of a directory. */
struct watch_listener {
    /* name NULL: the directory itself went away, or its watch began or ended: look at all of it.
     * Must not add or remove listeners or databases. */
    void (*event)(struct watch_listener *l, const char *name, uint32_t mask);
    struct watch_dir *dir; /* the watch's, as the next ones */
    struct watch_listener *prev, *next;
};

/** watch_new(loop, scan, ret, e). */
int watch_new(uv_loop_t *loop, struct scan *s, struct watch **ret, struct err *e);
/* The file that a database's path leads to; ino 0: there is none. */
struct watch_found {
    uint64_t dev, ino;
};
typedef void (*watch_added_fn)(struct watched *wd, const struct watch_found *found);
/** watch_add(w, wd, mark, added): events of the files at wd->path go to wd->call. Never fails for
 * good: if no watch can be had (directory missing, limit reached) scans cover it, and the log says
 * so once. mark: db and -wal as they were before anybody looked at the content; NULL: as they are
 * now. added() is called later, when what happens to it is noticed, which is never if its file
 * system does not answer; unless watch_remove() came before. It may be NULL, and may call
 * watch_remove(). */
void watch_add(struct watch *w, struct watched *wd, const struct scan_mark mark[2],
               watch_added_fn added);
void watch_remove(struct watch *w, struct watched *wd);
/** watch_hear(w): what the kernel knows is told now, rather than when the loop comes to it. */
void watch_hear(struct watch *w);
/** watch_hush(w, wd, on): its commits are looked for without events: no more events of writes in its
 * directory, each of which its writers pay for, if it is the only one there; off: as before. Whether
 * that is so now. */
bool watch_hush(struct watch *w, struct watched *wd, bool on);
/** watch_listen(w, path, l): all events of a directory, from now on; false: from when it is known
 * whether there can be a watch, and l->event(l, NULL, 0) comes then. watch_deaf(w, l): no more.
 * watch_listening(l): whether there is a watch. */
bool watch_listen(struct watch *w, const char *path, struct watch_listener *l);
void watch_deaf(struct watch *w, struct watch_listener *l);
bool watch_listening(const struct watch_listener *l);
/** watch_asking(l): that is not known yet. */
bool watch_asking(const struct watch_listener *l);
/** watch_look(w, ms, interval_ms): to be called every `ms`: try again for the directories that have no
 * watch, look at their databases, and at as many of the others as it takes to look at each once in
 * `interval_ms`. */
void watch_look(struct watch *w, uint64_t ms, uint64_t interval_ms);
/** watch_on_overflow(w, fn, arg): fn is called when events were lost. */
void watch_on_overflow(struct watch *w, void (*fn)(void *arg), void *arg);
/** watch_close(w, closed, arg): free w, then call closed: never, if a file system does not answer. */
void watch_close(struct watch *w, void (*closed)(void *arg), void *arg);

struct watch_counters {
    uint64_t events, overflows;
    uint64_t directories, unwatched; /* unwatched: those without a watch, for whatever reason */
    uint64_t scanned;                /* those without a watch because there are no more to be had */
    uint64_t looked;                 /* databases at which the safety scan has looked */
};
const struct watch_counters *watch_counters(const struct watch *w);

#endif
