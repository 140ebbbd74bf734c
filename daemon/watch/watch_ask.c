/* watch_ask.c - what the watch has to ask of a disk, on a worker: a file system that is away answers never. */
#include "daemon/watch/watch_int.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "daemon/os/walls.h"

/* The WAL lies beside the file that a symbolic link leads to. */
static void split(struct watch_ask *a)
{
    char real[PATH_MAX];
    cleanup_free char *p = util_strdup(realpath(a->db_path, real) ? real : a->db_path);
    cleanup_free char *q = util_strdup(p);
    const char *base = basename(p), *d = dirname(q);
    a->dir = util_strdup(realpath(d, real) ? real : d);
    a->path = util_printf("%s/%s", a->dir[1] ? a->dir : "", base);
}

static void ask_work(uv_work_t *w)
{
    struct watch_ask *a = w->data;
    struct stat st;
    if (a->db_path) {
        split(a);
        if (stat(a->path, &st) == 0)
            a->found = (struct watch_found){st.st_dev, st.st_ino};
    }
    /* the watch first: what happens from now on is an event, or differs from the marks */
    a->wd = inotify_add_watch(a->fd, a->dir, a->mask);
    a->errnum = a->wd < 0 ? errno : 0;
    if (a->with_marks) {
        cleanup_free char *wal = util_printf("%s-wal", a->path);
        (void)scan_mark_of(a->path, &a->mark[0]);
        (void)scan_mark_of(wal, &a->mark[1]);
    }
}

static void ask_done(uv_work_t *w, int status)
{
    struct watch_ask *a = w->data;
    (void)status;
    a->done(a);
}

static void queue(uv_loop_t *loop, struct watch_ask *a, const char *where)
{
    a->work.uv.data = a;
    work_queue(loop, &a->work, wall_of_mount(where), ask_work, ask_done);
}

void watch_ask_db(uv_loop_t *loop, struct watch_ask *a, const char *db_path)
{
    a->db_path = util_strdup(db_path);
    queue(loop, a, db_path);
}

void watch_ask_dir(uv_loop_t *loop, struct watch_ask *a, const char *dir)
{
    a->dir = util_strdup(dir);
    queue(loop, a, dir);
}

void watch_ask_free(struct watch_ask *a)
{
    free(a->db_path);
    free(a->dir);
    free(a->path);
    free(a);
}
