#include "daemon/watch/watch_int.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/inotify.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/base/map.h"

#define PAUSE_MS 8       /* after a batch of events, while they keep coming */
#define PAUSE_FIRST_MS 1 /* after the first ones of a burst: a close may follow, and a copy of the file after it */
#define BURST_GAP_MS 50
#define BURST_FIRST 6    /* batches */
#define PAIRS 256 /* databases in one job of the safety scan */

const struct watch_counters *watch_counters(const struct watch *w)
{
    return &w->count;
}

void watch_on_overflow(struct watch *w, void (*fn)(void *arg), void *arg)
{
    w->overflow = fn;
    w->overflow_arg = arg;
}

static void tell(const struct watch_entry *en, enum watch_event ev)
{
    en->who->call->event(en->who, ev);
}

/* ---- the safety scan --------------------------------------------------------------------------- */

static bool on_pairs(struct scan_job *j)
{
    struct watch *w = j->data;
    for (; j->n_used < j->n_pairs && !scan_due(w->scan); j->n_used++) {
        const struct scan_pair *p = &j->pair[j->n_used];
        struct watch_entry *en = map_get_str(&w->by_file, p->path); /* it may be gone meanwhile */
        if (!en)
            continue;
        bool file = !scan_mark_same(&en->mark, &p->db) && (en->mark.ino || p->db.ino);
        bool wal = !scan_mark_same(&en->wal_mark, &p->wal) && (en->wal_mark.ino || p->wal.ino);
        if (en->mark.ino != p->db.ino)
            watch_ask_for(w, en->dir); /* the path may lead to another directory now */
        en->mark = p->db;
        en->wal_mark = p->wal;
        if (!wal && !file) {
            en->who->call->unchanged(en->who);
        }
        if (wal)
            tell(en, WATCH_WAL_MADE);
        else if (file)
            tell(en, WATCH_NAME);
        else if (p->wal.size_bytes || p->db.linked)
            tell(en, WATCH_AUDIT);
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
static void add_pair(struct watch *w, struct scan_job **j, const struct watch_entry *en)
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

static struct watch_entry *find_entry(struct watch *w, const char *dir, const char *name, size_t n)
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

static enum watch_event event_of_file(uint32_t mask)
{
    return mask & (NAMES | IN_ATTRIB) ? WATCH_NAME : mask & IN_CLOSE_WRITE ? WATCH_CLOSED : WATCH_FILE;
}

/* SQLite gives a -wal that it opens to the database's owner, so a changed attribute of one tells only that somebody
 * opened it: ourselves, mostly. */
static void on_side_file(struct watch_entry *en, const char *suffix, uint32_t mask)
{
    if (!strcmp(suffix, "-shm") && mask & NAMES)
        tell(en, WATCH_INDEX);
    else if (!strcmp(suffix, "-wal") && mask & (IN_DELETE | IN_MOVED_FROM))
        tell(en, WATCH_WAL_GONE);
    else if (!strcmp(suffix, "-wal") && mask & IN_MOVED_TO)
        tell(en, WATCH_NAME);
    else if (!strcmp(suffix, "-wal") && mask & (IN_MODIFY | IN_CREATE))
        tell(en, mask & IN_MODIFY ? WATCH_WAL : WATCH_WAL_MADE);
}

static void on_name(struct watch *w, struct watch_dir *d, const char *name, uint32_t mask)
{
    size_t n = strlen(name);
    struct watch_entry *en = d->entry ? find_entry(w, d->path, name, n) : NULL;
    enum watch_event ev = event_of_file(mask);
    if (en && ev == WATCH_FILE)
        en->who->call->written(en->who, w->heard_ms);
    else if (en)
        tell(en, ev);
    else if (d->entry && n > 4 && name[n - 4] == '-' && (en = find_entry(w, d->path, name, n - 4)))
        on_side_file(en, name + n - 4, mask);
    for (struct watch_listener *l = d->listener; l; l = l->next)
        l->event(l, name, mask);
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
            w->epoch++;
            if (watch_clear_wd(w, d) && !(ev->mask & IN_IGNORED))
                (void)inotify_rm_watch(w->fd, ev->wd);
            watch_whole_dir(d);
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
    watch_hear(w);
}

void watch_hear(struct watch *w)
{
    _Alignas(struct inotify_event) char buf[64 * 1024];
    for (;;) {
        uint64_t now = clk_mono_ms();
        ssize_t n = read(w->fd, buf, sizeof buf);
        if (n <= 0) {
            w->heard_ms = now;
            return;
        }
        for (char *at = buf; at < buf + n;) {
            struct inotify_event *ev = (struct inotify_event *)(void *)at;
            on_event(w, ev);
            at += sizeof *ev + ev->len;
        }
    }
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
            if (!d->ask && !full)
                watch_ask_for(w, d);
            full = w->full;
            scanned += d->full || full;
            for (const struct watch_entry *en = d->entry; en; en = en->next)
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

/* ---- databases --------------------------------------------------------------------------------- */

static void on_db_answer(struct watch_ask *a);

static void ask_db(struct watch *w, struct watch_entry *en, bool with_marks)
{
    en->ask = watch_new_ask(w, NULL, on_db_answer);
    en->ask->entry = en;
    en->ask->with_marks = with_marks;
    watch_ask_db(w->loop, en->ask, en->who->path);
}

/* It is known where it is. */
static void put_in_dir(struct watch *w, struct watch_entry *en, struct watch_ask *a)
{
    struct watch_dir *d = watch_dir_get(w, a->dir);
    en->path = TAKE_PTR(a->path);
    if (a->with_marks) {
        en->mark = a->mark[0];
        en->wal_mark = a->mark[1];
    }
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
    watch_unhush(w, d);
    watch_take_wd(w, d, a);
}

static void on_db_answer(struct watch_ask *a)
{
    struct watch *w = a->w;
    struct watch_entry *en = a->entry;
    if (!en || w->closed) {
        watch_drop_answer(a);
        watch_ask_over(a);
        return;
    }
    if (watch_is_stale(a)) {
        ask_db(w, en, a->with_marks);
        watch_ask_over(a);
        return;
    }
    const struct watch_found found = a->found;
    en->ask = NULL;
    put_in_dir(w, en, a);
    watch_ask_over(a);
    if (en->added)
        en->added(en->who, &found); /* en may be gone */
}

void watch_add(struct watch *w, struct watched *wd, const struct scan_mark mark[2],
               watch_added_fn added)
{
    struct watch_entry *en = util_zalloc(sizeof *en);
    en->who = wd;
    en->added = added;
    if (mark) {
        en->mark = mark[0];
        en->wal_mark = mark[1];
    }
    wd->entry = en;
    ask_db(w, en, !mark);
}

void watch_remove(struct watch *w, struct watched *wd)
{
    struct watch_entry *en = wd->entry;
    if (!en)
        return;
    wd->entry = NULL;
    struct watch_dir *d = en->dir;
    if (en->ask)
        en->ask->entry = NULL;
    if (!d) {
        free(en);
        return;
    }
    if (d->hushed == en) {
        d->hushed = NULL;
        watch_ask_for(w, d);
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
    watch_dir_put(w, d);
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

void watch_maybe_closed(struct watch *w)
{
    if (w->open || w->asks)
        return;
    (void)close(w->fd);
    for (struct watch_entry *en = w->entry, *next; en; en = next) {
        next = en->next_all;
        en->who->entry = NULL;
        free(en->path);
        free(en);
    }
    for (struct watch_dir *d = w->dir, *next; d; d = next) {
        next = d->next;
        watch_dir_free(d);
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

static void on_handle_closed(uv_handle_t *h)
{
    struct watch *w = h->data;
    w->open--;
    watch_maybe_closed(w);
}

void watch_close(struct watch *w, void (*closed)(void *arg), void *arg)
{
    w->closed = closed;
    w->closed_arg = arg;
    (void)uv_poll_stop(&w->poll);
    uv_close((uv_handle_t *)&w->poll, on_handle_closed);
    uv_close((uv_handle_t *)&w->pause, on_handle_closed);
}
