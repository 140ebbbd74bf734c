#include "daemon/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sys/inotify.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/base/map.h"

#define WATCH_MASK                                                                       \
    (IN_MODIFY | IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF | \
     IN_MOVE_SELF | IN_ONLYDIR)

#define PAUSE_MS 8       /* after a batch of events, while they keep coming */
#define PAUSE_FIRST_MS 1 /* after the first ones of a burst: a close may follow, and a copy of the file after it */
#define BURST_GAP_MS 50
#define BURST_FIRST 6    /* batches */
#define PAIRS 256 /* databases in one job of the safety scan */

/* One database in a directory, by the path of its file. */
struct entry {
    struct database *db;
    struct watch_dir *dir;
    char *path; /* key of by_file */
    struct scan_mark mark, wal_mark;
    struct entry *prev, *next;         /* of the directory */
    struct entry *prev_all, *next_all; /* of the watch */
};

struct watch_dir {
    char *path; /* key of by_path */
    int wd;     /* -1: no watch at present; else key of by_wd */
    bool told;
    struct entry *entry;
    struct watch_listener *listener;
    struct entry *hushed; /* asked for no more events of writes; NULL: there are */
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
    struct entry *entry, *cursor; /* all of them; where the safety scan goes on */
    struct watch_counters count;
    uint64_t told_unwatched;
    uint64_t last_batch_ms;
    unsigned burst; /* batches of events in quick succession */
    void (*overflow)(void *arg);
    void *overflow_arg;
    void (*closed)(void *arg);
    void *closed_arg;
};

const struct watch_counters *watch_counters(const struct watch *w)
{
    return &w->count;
}

void watch_on_overflow(struct watch *w, void (*fn)(void *arg), void *arg)
{
    w->overflow = fn;
    w->overflow_arg = arg;
}

static void watch_again(struct watch *w, struct watch_dir *d);

/* ---- the safety scan --------------------------------------------------------------------------- */

static bool on_pairs(struct scan_job *j)
{
    struct watch *w = j->data;
    for (; j->n_used < j->n_pairs && !scan_due(w->scan); j->n_used++) {
        const struct scan_pair *p = &j->pair[j->n_used];
        struct entry *en = map_get_str(&w->by_file, p->path); /* it may be gone meanwhile */
        if (!en)
            continue;
        bool file = !scan_mark_same(&en->mark, &p->db) && (en->mark.ino || p->db.ino);
        bool wal = !scan_mark_same(&en->wal_mark, &p->wal) && (en->wal_mark.ino || p->wal.ino);
        if (en->mark.ino != p->db.ino)
            watch_again(w, en->dir);
        en->mark = p->db;
        en->wal_mark = p->wal;
        if (!wal && !file) {
            en->db->looked_ms = clk_mono_ms();
            active_proven(en->db->active, en->db);
        }
        if (wal)
            database_event(en->db, DATABASE_WAL);
        else if (file)
            database_event(en->db, DATABASE_NAME);
        else if (p->wal.size_bytes || p->db.linked)
            database_event(en->db, DATABASE_AUDIT);
    }
    return j->n_used == j->n_pairs;
}

static struct scan_job *pairs_job(struct watch *w)
{
    struct scan_job *j = util_zalloc(sizeof *j);
    j->kind = SCAN_PAIRS;
    j->done = on_pairs;
    j->data = w;
    j->pair = util_zalloc(PAIRS * sizeof *j->pair);
    return j;
}

/* adds en to the job, which is sent off when it is full */
static void add_pair(struct watch *w, struct scan_job **j, const struct entry *en)
{
    if (!*j)
        *j = pairs_job(w);
    (*j)->pair[(*j)->n_pairs++].path = util_strdup(en->path);
    if ((*j)->n_pairs == PAIRS)
        scan_add(w->scan, TAKE_PTR(*j));
}

static void look_at_some(struct watch *w, size_t n)
{
    struct scan_job *j = NULL;
    for (size_t i = 0; i < MIN(n, w->by_file.n); i++) {
        w->cursor = w->cursor ? w->cursor : w->entry;
        if (!w->cursor)
            break;
        w->count.looked++;
        add_pair(w, &j, w->cursor);
        w->cursor = w->cursor->next_all;
    }
    if (j)
        scan_add(w->scan, j);
}

/* ---- events ------------------------------------------------------------------------------------ */

static void whole_dir(struct watch_dir *d)
{
    for (struct entry *en = d->entry; en; en = en->next)
        database_event(en->db, DATABASE_NAME);
    for (struct watch_listener *l = d->listener; l; l = l->next)
        l->event(l, NULL, 0);
}

static struct entry *find_entry(struct watch *w, const char *dir, const char *name, size_t n)
{
    char path[PATH_MAX + NAME_MAX + 2];
    size_t dir_len = strlen(dir);
    if (dir_len + n + 2 > sizeof path)
        return NULL;
    memcpy(path, dir, dir_len);
    dir_len -= dir_len == 1; /* of "/" itself */
    path[dir_len] = '/';
    memcpy(path + dir_len + 1, name, n);
    return map_get(&w->by_file, path, dir_len + 1 + n);
}

#define NAMES (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO)

static enum database_event event_of_file(uint32_t mask)
{
    return mask & (NAMES | IN_ATTRIB) ? DATABASE_NAME : mask & IN_CLOSE_WRITE ? DATABASE_CLOSED : DATABASE_FILE;
}

/* SQLite gives a -wal that it opens to the database's owner, so a changed attribute of one tells only that somebody
 * opened it: ourselves, mostly. */
static void on_side_file(struct database *db, const char *suffix, uint32_t mask)
{
    if (!strcmp(suffix, "-shm") && mask & NAMES)
        database_event(db, DATABASE_INDEX);
    else if (!strcmp(suffix, "-wal") && mask & (IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO))
        database_event(db, DATABASE_NAME);
    else if (!strcmp(suffix, "-wal") && mask & (IN_MODIFY | IN_CREATE))
        database_event(db, DATABASE_WAL);
}

static void on_name(struct watch *w, struct watch_dir *d, const char *name, uint32_t mask)
{
    size_t n = strlen(name);
    struct entry *en = d->entry ? find_entry(w, d->path, name, n) : NULL;
    if (en)
        database_event(en->db, event_of_file(mask));
    else if (d->entry && n > 4 && name[n - 4] == '-' && (en = find_entry(w, d->path, name, n - 4)))
        on_side_file(en->db, name + n - 4, mask);
    for (struct watch_listener *l = d->listener; l; l = l->next)
        l->event(l, name, mask);
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
static bool clear_wd(struct watch *w, struct watch_dir *d)
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

static void on_event(struct watch *w, const struct inotify_event *ev)
{
    w->count.events++;
    if (ev->mask & IN_Q_OVERFLOW) {
        w->count.overflows++;
        log_line(LOG_NOTICE, "inotify queue overflow: every database is looked at once");
        look_at_some(w, SIZE_MAX);
        if (w->overflow)
            w->overflow(w->overflow_arg);
        return;
    }
    bool lost = ev->mask & (IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT);
    struct watch_dir *d = map_get(&w->by_wd, &ev->wd, sizeof ev->wd);
    while (d) {
        struct watch_dir *next = d->same;
        if (lost) {
            if (clear_wd(w, d) && !(ev->mask & IN_IGNORED))
                (void)inotify_rm_watch(w->fd, ev->wd);
            whole_dir(d);
        } else if (ev->len) {
            on_name(w, d, ev->name, ev->mask);
        }
        d = next;
    }
}

static void on_readable(uv_poll_t *p, int status, int events);

static void on_pause_over(uv_timer_t *t)
{
    struct watch *w = t->data;
    (void)uv_poll_start(&w->poll, UV_READABLE, on_readable);
}

static uint64_t pause_ms(struct watch *w)
{
    uint64_t now = clk_mono_ms();
    w->burst = now < w->last_batch_ms + BURST_GAP_MS ? w->burst + 1 : 0;
    w->last_batch_ms = now;
    return w->burst < BURST_FIRST ? PAUSE_FIRST_MS : PAUSE_MS;
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
    (void)uv_timer_start(&w->pause, on_pause_over, pause_ms(w), 0);
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

/* false with errno */
static bool dir_watch(struct watch *w, struct watch_dir *d)
{
    int wd = inotify_add_watch(w->fd, d->path, WATCH_MASK);
    if (wd >= 0) {
        set_wd(w, d, wd);
        d->told = false;
        return true;
    }
    int errnum = errno;
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
    errno = errnum;
    return false;
}

bool watch_hush(struct watch *w, struct database *db, bool on)
{
    struct entry *en = db->watch;
    struct watch_dir *d = en ? en->dir : NULL;
    if (!d || d->wd < 0 || (on && (d->listener || d->same || d->entry != en || en->next)))
        return false;
    d->hushed = on ? en : NULL;
    if (inotify_add_watch(w->fd, d->path, on ? WATCH_MASK & ~(uint32_t)IN_MODIFY : WATCH_MASK) != d->wd)
        watch_again(w, d);
    return on;
}

/* Somebody else wants to hear what happens there, or the one who did not has gone. */
static void unhush(struct watch *w, struct watch_dir *d)
{
    if (!d->hushed)
        return;
    struct database *db = d->hushed->db;
    d->hushed = NULL;
    db->hushed = false;
    if (inotify_add_watch(w->fd, d->path, WATCH_MASK) != d->wd)
        watch_again(w, d);
    database_event(db, DATABASE_WAL); /* what was written without an event */
}

/* The path may lead to another directory now: a watch stays with the one it was put on. */
static void watch_again(struct watch *w, struct watch_dir *d)
{
    int old = d->wd, wd = inotify_add_watch(w->fd, d->path, WATCH_MASK);
    if (old < 0 || wd == old)
        return;
    if (clear_wd(w, d))
        (void)inotify_rm_watch(w->fd, old);
    if (wd >= 0)
        set_wd(w, d, wd);
    whole_dir(d);
}

void watch_look(struct watch *w, uint64_t ms, uint64_t interval_ms)
{
    struct scan_job *j = NULL;
    bool full = false; /* the limit is reached: no need to try for the rest */
    size_t scanned = 0;
    if (w->count.unwatched)
        for (struct watch_dir *d = w->dir; d; d = d->next) {
            if (d->wd >= 0)
                continue;
            if (!full && dir_watch(w, d)) {
                whole_dir(d);
                continue;
            }
            full = full || errno == ENOSPC;
            scanned += full;
            for (const struct entry *en = d->entry; en; en = en->next)
                add_pair(w, &j, en);
        }
    if (j)
        scan_add(w->scan, j);
    if (scanned != w->told_unwatched && (scanned || w->told_unwatched))
        log_line(scanned ? LOG_WARN : LOG_NOTICE,
                 scanned ? "%zu directories have no inotify watch and are only scanned "
                           "(fs.inotify.max_user_watches)"
                         : "every directory has its inotify watch again (%zu without)",
                 scanned);
    w->told_unwatched = w->count.scanned = scanned;
    size_t n = w->by_file.n;
    look_at_some(w, ms >= interval_ms ? n : (size_t)(n * ms / interval_ms) + 1);
}

static struct watch_dir *dir_get(struct watch *w, const char *path)
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

static void dir_free(struct watch_dir *d)
{
    free(d->path);
    free(d);
}

static void dir_put(struct watch *w, struct watch_dir *d)
{
    if (d->entry || d->listener)
        return;
    int wd = d->wd;
    if (wd >= 0 && clear_wd(w, d))
        (void)inotify_rm_watch(w->fd, wd);
    w->count.directories--;
    w->count.unwatched--;
    (void)map_remove_str(&w->by_path, d->path);
    if (d->prev)
        d->prev->next = d->next;
    else
        w->dir = d->next;
    if (d->next)
        d->next->prev = d->prev;
    dir_free(d);
}

void watch_listen(struct watch *w, const char *path, struct watch_listener *l)
{
    struct watch_dir *d = dir_get(w, path);
    l->dir = d;
    l->prev = NULL;
    l->next = d->listener;
    if (l->next)
        l->next->prev = l;
    d->listener = l;
    unhush(w, d);
    if (d->wd < 0)
        (void)dir_watch(w, d);
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
        watch_again(w, d);
    dir_put(w, d);
}

bool watch_listening(const struct watch_listener *l)
{
    return l->dir && l->dir->wd >= 0;
}

/* ---- databases --------------------------------------------------------------------------------- */

/* The WAL lies beside the file that a symbolic link leads to. */
static void split(const char *path, char **ret_dir, char **ret_path)
{
    char real[PATH_MAX];
    cleanup_free char *a = util_strdup(realpath(path, real) ? real : path);
    cleanup_free char *b = util_strdup(a);
    const char *base = basename(a), *d = dirname(b);
    *ret_dir = util_strdup(realpath(d, real) ? real : d);
    *ret_path = util_printf("%s/%s", (*ret_dir)[1] ? *ret_dir : "", base);
}

void watch_add(struct watch *w, struct database *db, const struct scan_mark mark[2])
{
    struct entry *en = util_zalloc(sizeof *en);
    cleanup_free char *path = NULL;
    split(db->path, &path, &en->path);
    en->db = db;
    if (mark) {
        en->mark = mark[0];
        en->wal_mark = mark[1];
    } else {
        cleanup_free char *wal = util_printf("%s-wal", en->path);
        (void)scan_mark_of(en->path, &en->mark);
        (void)scan_mark_of(wal, &en->wal_mark);
    }
    struct watch_dir *d = dir_get(w, path);
    en->dir = d;
    en->next = d->entry;
    if (en->next)
        en->next->prev = en;
    d->entry = en;
    en->next_all = w->entry;
    if (en->next_all)
        en->next_all->prev_all = en;
    w->entry = en;
    map_put_str(&w->by_file, en->path, en);
    db->watch = en;
    unhush(w, d);
    if (d->wd < 0)
        (void)dir_watch(w, d);
}

void watch_remove(struct watch *w, struct database *db)
{
    struct entry *en = db->watch;
    if (!en)
        return;
    db->watch = NULL;
    struct watch_dir *d = en->dir;
    if (d->hushed == en) {
        d->hushed = NULL;
        if (d->wd >= 0)
            (void)inotify_add_watch(w->fd, d->path, WATCH_MASK);
    }
    if (en->prev)
        en->prev->next = en->next;
    else
        d->entry = en->next;
    if (en->next)
        en->next->prev = en->prev;
    if (en->prev_all)
        en->prev_all->next_all = en->next_all;
    else
        w->entry = en->next_all;
    if (en->next_all)
        en->next_all->prev_all = en->prev_all;
    if (w->cursor == en)
        w->cursor = en->next_all;
    if (map_get_str(&w->by_file, en->path) == en)
        (void)map_remove_str(&w->by_file, en->path);
    free(en->path);
    free(en);
    dir_put(w, d);
}

/* ---- start and end ----------------------------------------------------------------------------- */

int watch_new(uv_loop_t *loop, struct scan *s, struct watch **ret, struct err *e)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0) {
        err_sys(e, errno, "inotify_init");
        return err_hint(e, "raise fs.inotify.max_user_instances");
    }
    struct watch *w = util_zalloc(sizeof *w);
    w->loop = loop;
    w->scan = s;
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
    for (struct entry *en = w->entry, *next; en; en = next) {
        next = en->next_all;
        en->db->watch = NULL;
        free(en->path);
        free(en);
    }
    for (struct watch_dir *d = w->dir, *next; d; d = next) {
        next = d->next;
        dir_free(d);
    }
    map_free(&w->by_path);
    map_free(&w->by_wd);
    map_free(&w->by_file);
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
