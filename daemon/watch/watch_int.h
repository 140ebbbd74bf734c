/* watch_int.h - what watch.c (events, the safety scan) and watch_ask.c (what has to look at a disk) share. */
#ifndef WALSUP_WATCH_INT_H
#define WALSUP_WATCH_INT_H

#include "common/base/map.h"
#include "common/store/work.h"
#include "daemon/watch/watch.h"

/* One database in a directory, by the path of its file. */
struct watch_entry {
    struct watched *who;
    struct watch_ask *ask; /* where it is; NULL: that is known */
    watch_added_fn added;
    struct watch_dir *dir; /* NULL: not known yet, as path */
    char *path; /* key of by_file */
    struct scan_mark mark, wal_mark;
    struct watch_entry *prev, *next;         /* of the directory */
    struct watch_entry *prev_all, *next_all; /* of the watch */
};

struct watch_dir {
    char *path; /* key of by_path */
    int wd;     /* -1: no watch at present; else key of by_wd */
    struct watch_ask *ask; /* for one, or for another mask */
    bool again;   /* something changed since that was asked */
    bool waited;  /* a listener waits for the answer, whatever it is */
    bool deaf;    /* the watch is one without events of writes */
    bool full;    /* there was no watch left */
    bool told;
    struct watch_entry *entry;
    struct watch_listener *listener;
    struct watch_entry *hushed; /* asked for no more events of writes; NULL: there are */
    struct watch_dir *same; /* another path to the same directory */
    struct watch_dir *prev, *next;
};

struct watch {
    uv_loop_t *loop;
    struct scan *scan;
    int fd;
    uv_poll_t poll;
    uv_timer_t pause;
    unsigned open; /* handles */
    struct watch_dir *dir;
    struct map by_path, by_wd, by_file;
    struct watch_entry *entry, *cursor; /* all of them; where the safety scan goes on */
    struct watch_counters count;
    unsigned asks;  /* that were not answered yet */
    uint64_t epoch; /* grows when a watch goes away: its number may be that of another one then */
    bool full;      /* the last one that was asked for was not to be had */
    uint64_t told_unwatched;
    uint64_t last_batch_ms;
    uint64_t heard_ms; /* what happened before was told before */
    unsigned burst; /* batches of events in quick succession */
    void (*overflow)(void *arg);
    void *overflow_arg;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* A question to the file system, and its answer: where a database lies, and a watch on its directory. It may never be
 * answered. */
struct watch_ask {
    struct work work;
    int fd; /* of inotify */
    uint32_t mask;
    char *db_path; /* NULL: it is about a directory only */
    bool with_marks;
    void (*done)(struct watch_ask *a); /* frees it by watch_ask_free() */
    struct watch *w;
    struct watch_entry *entry; /* whose it is; NULL: not a database's, or nobody's any more */
    struct watch_dir *of;      /* the same of a directory */
    uint64_t epoch;            /* the watch's, when it was asked */
    /* the answer */
    char *dir, *path; /* the real ones */
    struct scan_mark mark[2];
    struct watch_found found;
    int wd, errnum; /* wd -1: errnum says why */
};

/** watch_ask_db(loop, a, db_path), watch_ask_dir(loop, a, dir): a is filled up to `epoch`, but for
 * db_path and dir; it is taken over. */
void watch_ask_db(uv_loop_t *loop, struct watch_ask *a, const char *db_path);
void watch_ask_dir(uv_loop_t *loop, struct watch_ask *a, const char *dir);
void watch_ask_free(struct watch_ask *a);


/* watch_dir.c */
/** watch_dir_get(w, path): made if there is none; watch_dir_put(w, d): freed if nobody is interested any more.
 * watch_dir_free(d): at the end. */
struct watch_dir *watch_dir_get(struct watch *w, const char *path);
void watch_dir_put(struct watch *w, struct watch_dir *d);
void watch_dir_free(struct watch_dir *d);
/** watch_whole_dir(d): everything there is to be looked at. */
void watch_whole_dir(struct watch_dir *d);
/** watch_clear_wd(w, d): it has no watch any more; false: other paths lead to that directory, and its watch stays. */
bool watch_clear_wd(struct watch *w, struct watch_dir *d);
/** watch_ask_for(w, d): a watch for it, or the one that it has as it should be: a watch stays with the directory it was
 * put on, and the path may lead to another one. */
void watch_ask_for(struct watch *w, struct watch_dir *d);
/** watch_new_ask(w, d, done): for d, or with all events. watch_ask_over(a): after done(). */
struct watch_ask *watch_new_ask(struct watch *w, struct watch_dir *d, void (*done)(struct watch_ask *a));
void watch_ask_over(struct watch_ask *a);
/** watch_is_stale(a): its watch may have been removed between its answer and now.
 * watch_drop_answer(a): nobody wants it. watch_take_wd(w, d, a): the path of d leads to this watch,
 * or to none. */
bool watch_is_stale(const struct watch_ask *a);
void watch_drop_answer(const struct watch_ask *a);
void watch_take_wd(struct watch *w, struct watch_dir *d, const struct watch_ask *a);
/** watch_unhush(w, d): somebody else wants to hear what happens there, or the one who did not has gone. */
void watch_unhush(struct watch *w, struct watch_dir *d);
/* watch.c */
/** watch_maybe_closed(w): when nothing is left to wait for. */
void watch_maybe_closed(struct watch *w);

#endif
