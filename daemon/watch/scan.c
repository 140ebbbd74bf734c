#include "daemon/watch/scan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "common/base/clk.h"
#include "common/base/whose.h"

#define SLICE_MS 4            /* of the loop thread, for what the jobs found */
#define RACY_MS 50            /* file times have the grain of the kernel's clock */
#define HEADER_BYTES 100

struct scan {
    uv_loop_t *loop;
    uv_thread_t thread;
    uv_mutex_t lock;
    uv_cond_t more;
    uv_poll_t poll;
    int bell; /* eventfd; uv_async has descriptors that the thread would lose */
    struct scan_job *todo, **todo_end, *done, **done_end; /* under the lock */
    bool stop, started;
    int errnum;             /* why the thread could not begin */
    struct scan_job *taken; /* by the loop, from done */
    uint64_t slice_end_ms;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* ---- marks ------------------------------------------------------------------------------------- */

static struct scan_mark mark_of(const struct stat *st)
{
    int64_t ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
    bool racy = ns / 1000000 + RACY_MS > clk_real_ms();
    return (struct scan_mark){st->st_ino, st->st_size, racy ? 0 : ns, st->st_nlink > 1};
}

bool scan_mark_of(const char *path, struct scan_mark *ret)
{
    struct stat st;
    bool there = stat(path, &st) == 0;
    *ret = there ? mark_of(&st) : (struct scan_mark){0};
    return there;
}

bool scan_mark_same(const struct scan_mark *a, const struct scan_mark *b)
{
    return a->ino == b->ino && a->size_bytes == b->size_bytes && a->mtime_ns == b->mtime_ns &&
           (a->mtime_ns || !a->ino);
}

/* ---- on the thread: directories ---------------------------------------------------------------- */

static bool has_header(int dir, const char *name)
{
    uint8_t h[HEADER_BYTES];
    /* safe on a database in use: see the top of scan.h */
    cleanup_close int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || pread(fd, h, sizeof h, 0) != (ssize_t)sizeof h ||
        memcmp(h, "SQLite format 3", 16) != 0)
        return false;
    uint32_t page = be16_get(h + 16);
    return page == 1 || (page >= 512 && (page & (page - 1)) == 0);
}

static bool is_aside(const struct scan_job *j, const struct stat *st)
{
    for (size_t i = 0; i < j->tree->n_aside; i++) {
        struct stat a;
        if (stat(j->tree->aside[i], &a) == 0 && a.st_dev == st->st_dev && a.st_ino == st->st_ino)
            return true;
    }
    return false;
}

static void look_at_file(int dir, struct scan_item *it, const struct stat *st)
{
    struct stat wal;
    it->what = SCAN_FILE;
    /* the marks first: whatever is written from now on will differ from them */
    it->db = mark_of(st);
    cleanup_free char *name = util_printf("%s-wal", it->name);
    if (fstatat(dir, name, &wal, 0) == 0)
        it->wal = mark_of(&wal);
    it->database = st->st_size >= 512 && has_header(dir, it->name);
}

/* what the name stands for, if it matters for the pattern; else SCAN_GONE */
static void look_at(const struct scan_job *j, int dir, struct scan_item *it)
{
    struct stat st;
    size_t n = strlen(it->name);
    if (glob_aside(it->name, n))
        return;
    it->at = glob_step(j->tree->glob, j->at, it->name, n);
    if (!it->at || fstatat(dir, it->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return;
    struct err e;
    it->link = S_ISLNK(st.st_mode);
    if (it->link || (S_ISREG(st.st_mode) && st.st_nlink > 1)) {
        int r = whose_follow(dir, it->name, &st, &e);
        if (r == -(int)ERR_PERM)
            it->refused = util_printf("%s (%s)", e.msg, e.hint);
        if (r < 0)
            return;
    }
    it->dev = st.st_dev;
    it->ino = st.st_ino;
    if (S_ISDIR(st.st_mode) && glob_below(j->tree->glob, it->at) && !is_aside(j, &st))
        it->what = SCAN_DIR;
    else if (S_ISREG(st.st_mode) && glob_file(j->tree->glob, it->at))
        look_at_file(dir, it, &st);
}

static struct scan_item *new_item(struct scan_job *j, const char *name)
{
    if ((j->n_items & (j->n_items - 1)) == 0)
        j->item = util_realloc(j->item, (j->n_items ? 2 * j->n_items : 1) * sizeof *j->item);
    struct scan_item *it = &j->item[j->n_items++];
    *it = (struct scan_item){.name = util_strdup(name)};
    return it;
}

/* worth a stat? The type in the directory entry spares that for most files of no interest. */
static bool may_matter(const struct scan_job *j, const struct dirent *d)
{
    glob_at at = glob_step(j->tree->glob, j->at, d->d_name, strlen(d->d_name));
    if (!at || !strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
        return false;
    bool file = glob_file(j->tree->glob, at), dir = glob_below(j->tree->glob, at);
    return d->d_type == DT_REG ? file : d->d_type == DT_DIR ? dir : file || dir;
}

/* what is gone first, because it may be there under another name; links last, so that a file is known by
 * its own; then by name, for the same order every time */
static int by_link_and_name(const void *pa, const void *pb)
{
    const struct scan_item *a = pa, *b = pb;
    if ((a->what == SCAN_GONE) != (b->what == SCAN_GONE))
        return a->what == SCAN_GONE ? -1 : 1;
    return a->link != b->link ? (int)a->link - (int)b->link : strcmp(a->name, b->name);
}

static int list_all(struct scan_job *j, int fd)
{
    DIR *d = fdopendir(fd);
    if (!d) {
        int failed = errno;
        (void)close(fd);
        return failed;
    }
    const struct dirent *e;
    for (errno = 0; (e = readdir(d)); errno = 0) {
        if (!may_matter(j, e))
            continue;
        struct scan_item *it = new_item(j, e->d_name);
        look_at(j, dirfd(d), it);
        if (it->what == SCAN_GONE && !it->refused) {
            free(it->name);
            j->n_items--;
        }
    }
    int errnum = errno;
    (void)closedir(d);
    return errnum;
}

static void run_directory(struct scan_job *j)
{
    struct stat st;
    cleanup_close int fd = open(j->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0) {
        j->errnum = errno;
        return;
    }
    j->dev = st.st_dev;
    j->mark = mark_of(&st);
    if (j->kind == SCAN_LIST) {
        j->same = scan_mark_same(&j->known, &j->mark);
        if (!j->same)
            j->errnum = list_all(j, TAKE_FD(fd));
    } else {
        for (size_t i = 0; i < j->n_names; i++)
            look_at(j, fd, new_item(j, j->name[i]));
    }
    if (j->n_items)
        qsort(j->item, j->n_items, sizeof *j->item, by_link_and_name);
}

static void run_pairs(struct scan_job *j)
{
    for (size_t i = 0; i < j->n_pairs; i++) {
        struct scan_pair *p = &j->pair[i];
        cleanup_free char *wal = util_printf("%s-wal", p->path);
        (void)scan_mark_of(p->path, &p->db);
        (void)scan_mark_of(wal, &p->wal);
    }
}

/* ---- the thread -------------------------------------------------------------------------------- */

static void thread_main(void *arg)
{
    struct scan *s = arg;
    int errnum = unshare(CLONE_FILES) < 0 ? errno : 0;
    if (!errnum) { /* the copies; the originals stay with the others */
        unsigned bell = (unsigned)s->bell;
        if (bell > STDERR_FILENO + 1)
            (void)close_range(STDERR_FILENO + 1, bell - 1, 0);
        (void)close_range(bell + 1, ~0u, 0);
    }
    uv_mutex_lock(&s->lock);
    s->errnum = errnum;
    s->started = true;
    uv_cond_broadcast(&s->more);
    while (!s->stop && !errnum) {
        struct scan_job *j = s->todo;
        if (!j) {
            uv_cond_wait(&s->more, &s->lock);
            continue;
        }
        s->todo = j->next;
        if (!s->todo)
            s->todo_end = &s->todo;
        uv_mutex_unlock(&s->lock);
        if (j->kind == SCAN_PAIRS)
            run_pairs(j);
        else
            run_directory(j);
        uv_mutex_lock(&s->lock);
        j->next = NULL;
        *s->done_end = j;
        s->done_end = &j->next;
        (void)eventfd_write(s->bell, 1);
    }
    uv_mutex_unlock(&s->lock);
}

/* ---- the loop's side --------------------------------------------------------------------------- */

void scan_tree_unref(struct scan_tree *t)
{
    if (!t || --t->refs)
        return;
    for (size_t i = 0; i < t->n_aside; i++)
        free(t->aside[i]);
    free(t->aside);
    (void)glob_free(t->glob);
    free(t);
}

static void job_free(struct scan_job *j)
{
    for (size_t i = 0; i < j->n_items; i++) {
        free(j->item[i].name);
        free(j->item[i].refused);
    }
    for (size_t i = 0; i < j->n_names; i++)
        free(j->name[i]);
    for (size_t i = 0; i < j->n_pairs; i++)
        free(j->pair[i].path);
    free(j->item);
    free(j->name);
    free(j->pair);
    free(j->path);
    scan_tree_unref(j->tree);
    free(j);
}

static void jobs_free(struct scan_job *j)
{
    while (j) {
        struct scan_job *next = j->next;
        job_free(j);
        j = next;
    }
}

bool scan_due(const struct scan *s)
{
    return clk_mono_ms() >= s->slice_end_ms;
}

static void on_bell(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    struct scan *s = p->data;
    eventfd_t rung;
    (void)eventfd_read(s->bell, &rung);
    s->slice_end_ms = clk_mono_ms() + SLICE_MS;
    if (!s->taken) {
        uv_mutex_lock(&s->lock);
        s->taken = s->done;
        s->done = NULL;
        s->done_end = &s->done;
        uv_mutex_unlock(&s->lock);
    }
    while (s->taken && !s->closed) {
        struct scan_job *j = s->taken;
        if (!j->done(j))
            break;
        s->taken = j->next;
        job_free(j);
        if (scan_due(s))
            break;
    }
    uv_mutex_lock(&s->lock);
    bool more = s->taken || s->done;
    uv_mutex_unlock(&s->lock);
    if (more && !s->closed)
        (void)eventfd_write(s->bell, 1);
}

void scan_add(struct scan *s, struct scan_job *j)
{
    j->next = NULL;
    uv_mutex_lock(&s->lock);
    *s->todo_end = j;
    s->todo_end = &j->next;
    uv_cond_signal(&s->more);
    uv_mutex_unlock(&s->lock);
}

static void scan_free(struct scan *s)
{
    uv_mutex_destroy(&s->lock);
    uv_cond_destroy(&s->more);
    (void)close(s->bell);
    jobs_free(s->todo);
    jobs_free(s->done);
    jobs_free(s->taken);
    free(s);
}

int scan_new(uv_loop_t *loop, struct scan **ret, struct err *e)
{
    struct scan *s = util_zalloc(sizeof *s);
    s->loop = loop;
    s->todo_end = &s->todo;
    s->done_end = &s->done;
    s->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->bell < 0) {
        free(s);
        return err_sys(e, errno, "eventfd");
    }
    (void)uv_mutex_init(&s->lock);
    (void)uv_cond_init(&s->more);
    int r = uv_thread_create(&s->thread, thread_main, s);
    if (r < 0) {
        scan_free(s);
        return err_set(e, ERR_INTERNAL, "cannot start the thread that scans: %s", uv_strerror(r));
    }
    uv_mutex_lock(&s->lock);
    while (!s->started)
        uv_cond_wait(&s->more, &s->lock);
    uv_mutex_unlock(&s->lock);
    if (s->errnum) {
        (void)uv_thread_join(&s->thread);
        r = err_sys(e, s->errnum, "the thread that scans cannot have descriptors of its own");
        scan_free(s);
        (void)err_hint(e, "is unshare(2) filtered?");
        return r;
    }
    (void)uv_poll_init(loop, &s->poll, s->bell);
    s->poll.data = s;
    (void)uv_poll_start(&s->poll, UV_READABLE, on_bell);
    *ret = s;
    return 0;
}

static void on_poll_closed(uv_handle_t *h)
{
    struct scan *s = h->data;
    void (*closed)(void *) = s->closed;
    void *arg = s->closed_arg;
    scan_free(s);
    closed(arg);
}

void scan_close(struct scan *s, void (*closed)(void *arg), void *arg)
{
    s->closed = closed;
    s->closed_arg = arg;
    uv_mutex_lock(&s->lock);
    s->stop = true;
    uv_cond_signal(&s->more);
    uv_mutex_unlock(&s->lock);
    /* it finishes the directory it is at; a hung file system is the supervisor's business */
    (void)uv_thread_join(&s->thread);
    (void)uv_poll_stop(&s->poll);
    uv_close((uv_handle_t *)&s->poll, on_poll_closed);
}
