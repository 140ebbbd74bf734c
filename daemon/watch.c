#include "daemon/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sys/inotify.h>

#include "common/base/log.h"

#define WATCH_MASK                                                                       \
    (IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF | \
     IN_MOVE_SELF | IN_ONLYDIR)

#define PAUSE_MS 8

struct dir;

/* One database in a directory, by the name of its file. */
struct entry {
    struct database *db;
    struct dir *dir;
    char *base;
    size_t base_len;
    struct entry *next;
};

struct dir {
    char *path;
    int wd; /* -1: no watch at present */
    bool told;
    struct entry *entry;
    struct dir *next;
};

struct watch {
    uv_loop_t *loop;
    int fd;
    uv_poll_t poll;
    uv_timer_t pause;
    unsigned open; /* handles */
    struct dir *dir;
    struct watch_counters count;
    void (*closed)(void *arg);
    void *closed_arg;
};

const struct watch_counters *watch_counters(const struct watch *w)
{
    return &w->count;
}

/* ---- events ------------------------------------------------------------------------------------ */

static void everything(struct watch *w, enum database_event ev)
{
    for (struct dir *d = w->dir; d; d = d->next)
        for (struct entry *en = d->entry; en; en = en->next)
            database_event(en->db, ev);
}

static void on_name(struct dir *d, const char *name, uint32_t mask)
{
    for (struct entry *en = d->entry; en; en = en->next) {
        if (strncmp(name, en->base, en->base_len) != 0)
            continue;
        const char *rest = name + en->base_len;
        bool names = mask & (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB);
        if (!*rest)
            database_event(en->db, names ? DATABASE_NAME : DATABASE_FILE);
        else if (!strcmp(rest, "-wal"))
            database_event(en->db, DATABASE_WAL);
    }
}

static void on_event(struct watch *w, const struct inotify_event *ev)
{
    w->count.events++;
    if (ev->mask & IN_Q_OVERFLOW) {
        w->count.overflows++;
        log_line(LOG_NOTICE, "inotify queue overflow: every database is looked at once");
        everything(w, DATABASE_NAME);
        return;
    }
    for (struct dir *d = w->dir; d; d = d->next) {
        if (d->wd != ev->wd)
            continue;
        if (ev->mask & (IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT)) {
            if (d->wd >= 0 && !(ev->mask & IN_IGNORED))
                (void)inotify_rm_watch(w->fd, d->wd);
            d->wd = -1;
            w->count.watches--;
            for (struct entry *en = d->entry; en; en = en->next)
                database_event(en->db, DATABASE_NAME);
        } else if (ev->len) {
            on_name(d, ev->name, ev->mask);
        }
        return;
    }
}

static void on_readable(uv_poll_t *p, int status, int events);

static void on_pause_over(uv_timer_t *t)
{
    struct watch *w = t->data;
    (void)uv_poll_start(&w->poll, UV_READABLE, on_readable);
}

/* Every write to a WAL would wake this process, and that wake-up is paid by the writer: several
 * microseconds a commit. So after a batch of events the queue is left alone for a moment; meanwhile
 * equal events fold into one in the kernel. */
static void on_readable(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    struct watch *w = p->data;
    (void)uv_poll_stop(&w->poll);
    (void)uv_timer_start(&w->pause, on_pause_over, PAUSE_MS, 0);
    _Alignas(struct inotify_event) char buf[64 * 1024];
    for (;;) {
        ssize_t n = read(w->fd, buf, sizeof buf);
        if (n <= 0)
            return;
        for (char *at = buf; at < buf + n;) {
            struct inotify_event *ev = (struct inotify_event *)(void *)at;
            on_event(w, ev);
            at += sizeof *ev + ev->len;
        }
    }
}

/* ---- directories ------------------------------------------------------------------------------- */

static bool dir_watch(struct watch *w, struct dir *d)
{
    d->wd = inotify_add_watch(w->fd, d->path, WATCH_MASK);
    if (d->wd >= 0) {
        w->count.watches++;
        d->told = false;
        return true;
    }
    if (!d->told) {
        d->told = true;
        if (errno == ENOSPC)
            log_line(LOG_WARN,
                     "no inotify watch left for %s: its databases are only scanned every now and "
                     "then (raise fs.inotify.max_user_watches)",
                     d->path);
        else
            log_line(LOG_WARN, "cannot watch %s: %s (tried again with every scan)", d->path,
                     strerror(errno));
    }
    return false;
}

void watch_rescan(struct watch *w)
{
    for (struct dir *d = w->dir; d; d = d->next)
        if (d->wd < 0 && dir_watch(w, d))
            for (struct entry *en = d->entry; en; en = en->next)
                database_event(en->db, DATABASE_NAME);
    w->count.unwatched = 0;
    for (struct dir *d = w->dir; d; d = d->next)
        w->count.unwatched += d->wd < 0;
}

/* The WAL lies beside the file that a symbolic link leads to. */
static void split(const char *path, char **ret_dir, char **ret_base)
{
    char real[PATH_MAX];
    cleanup_free char *a = util_strdup(realpath(path, real) ? real : path);
    cleanup_free char *b = util_strdup(a);
    *ret_base = util_strdup(basename(a));
    const char *d = dirname(b);
    *ret_dir = util_strdup(realpath(d, real) ? real : d);
}

void watch_add(struct watch *w, struct database *db)
{
    struct entry *en = util_zalloc(sizeof *en);
    cleanup_free char *path = NULL;
    split(db->path, &path, &en->base);
    en->base_len = strlen(en->base);
    en->db = db;
    struct dir *d = w->dir;
    while (d && strcmp(d->path, path) != 0)
        d = d->next;
    if (!d) {
        d = util_zalloc(sizeof *d);
        d->path = TAKE_PTR(path);
        d->next = w->dir;
        w->dir = d;
        (void)dir_watch(w, d);
    }
    en->dir = d;
    en->next = d->entry;
    d->entry = en;
    db->watch = en;
}

static void dir_free(struct dir *d)
{
    free(d->path);
    free(d);
}

void watch_remove(struct watch *w, struct database *db)
{
    struct entry *en = db->watch;
    if (!en)
        return;
    db->watch = NULL;
    struct dir *d = en->dir;
    for (struct entry **p = &d->entry; *p; p = &(*p)->next)
        if (*p == en) {
            *p = en->next;
            break;
        }
    free(en->base);
    free(en);
    if (d->entry)
        return;
    for (struct dir **p = &w->dir; *p; p = &(*p)->next)
        if (*p == d) {
            *p = d->next;
            break;
        }
    if (d->wd >= 0) {
        (void)inotify_rm_watch(w->fd, d->wd);
        w->count.watches--;
    }
    dir_free(d);
}

/* ---- start and end ----------------------------------------------------------------------------- */

int watch_new(uv_loop_t *loop, struct watch **ret, struct err *e)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0) {
        err_sys(e, errno, "inotify_init");
        return err_hint(e, "raise fs.inotify.max_user_instances");
    }
    struct watch *w = util_zalloc(sizeof *w);
    w->loop = loop;
    w->fd = fd;
    (void)uv_poll_init(loop, &w->poll, fd);
    (void)uv_timer_init(loop, &w->pause);
    w->poll.data = w->pause.data = w;
    w->open = 2;
    (void)uv_poll_start(&w->poll, UV_READABLE, on_readable);
    *ret = w;
    return 0;
}

static void on_handle_closed(uv_handle_t *h)
{
    struct watch *w = h->data;
    if (--w->open)
        return;
    (void)close(w->fd);
    for (struct dir *d = w->dir; d;) {
        struct dir *next = d->next;
        for (struct entry *en = d->entry; en;) {
            struct entry *en_next = en->next;
            en->db->watch = NULL;
            free(en->base);
            free(en);
            en = en_next;
        }
        dir_free(d);
        d = next;
    }
    void (*closed)(void *) = w->closed;
    void *arg = w->closed_arg;
    free(w);
    if (closed)
        closed(arg);
}

void watch_close(struct watch *w, void (*closed)(void *arg), void *arg)
{
    w->closed = closed;
    w->closed_arg = arg;
    (void)uv_poll_stop(&w->poll);
    uv_close((uv_handle_t *)&w->poll, on_handle_closed);
    uv_close((uv_handle_t *)&w->pause, on_handle_closed);
}
