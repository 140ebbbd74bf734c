/* watch_dir.c - directories and their watches: one is asked for on a worker, and what the answer means may have changed
 * meanwhile. */
#include "daemon/watch/watch_int.h"

#include <errno.h>
#include <sys/inotify.h>

#include "common/base/log.h"

#define WATCH_MASK                                                                       \
    (IN_MODIFY | IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF | \
     IN_MOVE_SELF | IN_ONLYDIR)

void watch_whole_dir(struct watch_dir *d)
{
    for (struct watch_entry *en = d->entry; en; en = en->next)
        en->who->call->event(en->who, WATCH_NAME);
    for (struct watch_listener *l = d->listener; l; l = l->next)
        l->event(l, NULL, 0);
}

static void set_wd(struct watch *w, struct watch_dir *d, int wd)
{
    struct watch_dir *other = map_get(&w->by_wd, &wd, sizeof wd);
    d->wd = wd;
    d->same = other;
    map_put(&w->by_wd, &d->wd, sizeof d->wd, d);
    w->count.unwatched--;
}

/* false: other paths lead to that directory, and its watch stays */
bool watch_clear_wd(struct watch *w, struct watch_dir *d)
{
    int wd = d->wd;
    struct watch_dir *first = map_remove(&w->by_wd, &wd, sizeof wd);
    if (first == d) {
        first = d->same;
    } else {
        struct watch_dir *p = first;
        while (p->same != d)
            p = p->same;
        p->same = d->same;
    }
    if (first)
        map_put(&w->by_wd, &first->wd, sizeof first->wd, first);
    d->same = NULL;
    d->wd = -1;
    w->count.unwatched++;
    return !first;
}

/* ---- asking ------------------------------------------------------------------------------------ */

static void remove_wd(struct watch *w, int wd)
{
    (void)inotify_rm_watch(w->fd, wd);
    w->epoch++;
}

static uint32_t mask_of(const struct watch_dir *d)
{
    return d->hushed ? WATCH_MASK & ~(uint32_t)IN_MODIFY : WATCH_MASK;
}

struct watch_ask *watch_new_ask(struct watch *w, struct watch_dir *d, void (*done)(struct watch_ask *a))
{
    struct watch_ask *a = util_zalloc(sizeof *a);
    a->fd = w->fd;
    a->mask = d ? mask_of(d) : WATCH_MASK;
    a->of = d;
    a->done = done;
    a->w = w;
    a->epoch = w->epoch;
    w->asks++;
    return a;
}

void watch_ask_over(struct watch_ask *a)
{
    struct watch *w = a->w;
    watch_ask_free(a);
    w->asks--;
    watch_maybe_closed(w);
}

/* Its watch may have been removed between its answer and now. */
bool watch_is_stale(const struct watch_ask *a)
{
    return a->wd >= 0 && a->epoch != a->w->epoch && !map_get(&a->w->by_wd, &a->wd, sizeof a->wd);
}

/* The watch of an answer that nobody wants any more. */
void watch_drop_answer(const struct watch_ask *a)
{
    if (a->wd >= 0 && !a->w->closed && !map_get(&a->w->by_wd, &a->wd, sizeof a->wd))
        remove_wd(a->w, a->wd);
}

static void not_watched(struct watch *w, struct watch_dir *d, int errnum)
{
    d->full = w->full = errnum == ENOSPC;
    if (errnum == ENOSPC && !w->told_unwatched) {
        w->told_unwatched = 1;
        log_line(LOG_WARN,
                 "no inotify watch left for %s: databases there are found, and their changes seen, "
                 "by scans every few seconds only (raise fs.inotify.max_user_watches)",
                 d->path);
    } else if (errnum != ENOSPC && !d->told && !d->listener) { /* else it was just removed */
        d->told = true;
        log_line(LOG_WARN, "cannot watch %s: %s (tried again with every scan)", d->path,
                 strerror(errnum));
    }
}

/* The path leads to this watch, or to none. */
void watch_take_wd(struct watch *w, struct watch_dir *d, const struct watch_ask *a)
{
    bool was_deaf = d->deaf, moved = d->wd >= 0 && a->wd != d->wd;
    if (moved) {
        int old = d->wd;
        if (watch_clear_wd(w, d))
            remove_wd(w, old);
    }
    d->deaf = a->wd >= 0 && !(a->mask & IN_MODIFY);
    if (a->wd < 0) {
        not_watched(w, d, a->errnum);
    } else if (d->wd < 0) {
        set_wd(w, d, a->wd);
        d->told = d->full = w->full = false;
    }
    if (moved)
        watch_whole_dir(d);
    else if (was_deaf && !d->deaf) /* what was written without an event */
        for (struct watch_entry *en = d->entry; en; en = en->next)
            en->who->call->event(en->who, WATCH_WAL);
}

static void on_dir_answer(struct watch_ask *a)
{
    struct watch *w = a->w;
    struct watch_dir *d = a->of;
    if (d)
        d->ask = NULL;
    if (!d || w->closed) {
        watch_drop_answer(a);
    } else if (watch_is_stale(a)) {
        watch_ask_for(w, d);
    } else {
        bool news = d->waited || (d->wd < 0 && a->wd >= 0);
        d->waited = false;
        watch_take_wd(w, d, a);
        if (d->again || (d->wd >= 0 && mask_of(d) != a->mask))
            watch_ask_for(w, d);
        if (news)
            watch_whole_dir(d);
    }
    watch_ask_over(a);
}

/* A watch for it, or the one that it has as it should be: a watch stays with the directory it was put on, and the path
 * may lead to another one. */
void watch_ask_for(struct watch *w, struct watch_dir *d)
{
    d->again = d->ask != NULL;
    if (d->ask)
        return;
    d->ask = watch_new_ask(w, d, on_dir_answer);
    watch_ask_dir(w->loop, d->ask, d->path);
}

bool watch_hush(struct watch *w, struct watched *wd, bool on)
{
    struct watch_entry *en = wd->entry;
    struct watch_dir *d = en ? en->dir : NULL;
    if (!d || d->wd < 0 || (on && (d->listener || d->same || d->entry != en || en->next)))
        return false;
    d->hushed = on ? en : NULL;
    watch_ask_for(w, d);
    return on;
}

/* Somebody else wants to hear what happens there, or the one who did not has gone. */
void watch_unhush(struct watch *w, struct watch_dir *d)
{
    if (!d->hushed)
        return;
    struct watched *wd = d->hushed->who;
    d->hushed = NULL;
    wd->call->unhushed(wd);
    watch_ask_for(w, d);
    wd->call->event(wd, WATCH_WAL); /* what was written without an event */
}

struct watch_dir *watch_dir_get(struct watch *w, const char *path)
{
    struct watch_dir *d = map_get_str(&w->by_path, path);
    if (d)
        return d;
    d = util_zalloc(sizeof *d);
    d->path = util_strdup(path);
    d->wd = -1;
    d->next = w->dir;
    if (d->next)
        d->next->prev = d;
    w->dir = d;
    map_put_str(&w->by_path, d->path, d);
    w->count.directories++;
    w->count.unwatched++;
    return d;
}

void watch_dir_free(struct watch_dir *d)
{
    if (d->ask)
        d->ask->of = NULL;
    free(d->path);
    free(d);
}

void watch_dir_put(struct watch *w, struct watch_dir *d)
{
    if (d->entry || d->listener)
        return;
    int wd = d->wd;
    if (wd >= 0 && watch_clear_wd(w, d))
        remove_wd(w, wd);
    w->count.directories--;
    w->count.unwatched--;
    (void)map_remove_str(&w->by_path, d->path);
    if (d->prev)
        d->prev->next = d->next;
    else
        w->dir = d->next;
    if (d->next)
        d->next->prev = d->prev;
    watch_dir_free(d);
}

bool watch_listen(struct watch *w, const char *path, struct watch_listener *l)
{
    struct watch_dir *d = watch_dir_get(w, path);
    l->dir = d;
    l->prev = NULL;
    l->next = d->listener;
    if (l->next)
        l->next->prev = l;
    d->listener = l;
    watch_unhush(w, d);
    if (d->wd >= 0)
        return true;
    d->waited = true;
    watch_ask_for(w, d);
    return false;
}

void watch_deaf(struct watch *w, struct watch_listener *l)
{
    struct watch_dir *d = l->dir;
    if (!d)
        return;
    if (l->prev)
        l->prev->next = l->next;
    else
        d->listener = l->next;
    if (l->next)
        l->next->prev = l->prev;
    l->dir = NULL;
    if (d->entry)
        watch_ask_for(w, d);
    watch_dir_put(w, d);
}

bool watch_listening(const struct watch_listener *l)
{
    return l->dir && l->dir->wd >= 0;
}

bool watch_asking(const struct watch_listener *l)
{
    return l->dir && l->dir->ask;
}
