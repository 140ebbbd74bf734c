/* The end of a restore: checks on the database file, and the one moment it appears. */
#include "common/store/restore_publish.h"

#include <errno.h>
#include <libgen.h>
#include <pthread.h>
#include <sys/stat.h>

uint64_t restore_align(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* What quick_check takes for granted or would report in its own strange ways. */
static int check_page1(int fd, const struct ltx_header *h, struct err *e)
{
    uint8_t p[100];
    int r = fsx_pread_all(fd, p, sizeof p, 0, e);
    if (r < 0)
        return err_wrap(e, "read the restored database");
    if (memcmp(p, "SQLite format 3", 16) != 0)
        return err_set(e, ERR_CORRUPT, "the restored file is not a database: page 1 starts with "
                                       "%08x%08x",
                       be32_get(p), be32_get(p + 4));
    uint32_t page_size = be16_get(p + 16) == 1 ? 65536 : be16_get(p + 16);
    if (page_size != h->page_size)
        return err_set(e, ERR_CORRUPT, "page 1 says page size %u, the replica's files %u", page_size,
                       h->page_size);
    /* as SQLite sees it: the size in page 1 counts if the two counters agree, and a file may be
       longer, but not shorter */
    if (be32_get(p + 24) == be32_get(p + 92) && be32_get(p + 28) > h->commit)
        return err_set(e, ERR_CORRUPT, "page 1 says %u pages, the replica's files %u", be32_get(p + 28),
                       h->commit);
    return 0;
}

/* Who owns the result: whoever owned the file it replaces; else, for root, the owner of the
 * directory, who is most likely the application. */
static int set_owner(const struct fsx_tmp *t, struct err *e)
{
    struct stat st;
    cleanup_free char *copy = util_strdup(t->path);
    mode_t mode = 0600;
    bool found = lstat(t->path, &st) == 0;
    if (found)
        mode = st.st_mode & 07777;
    else if (stat(dirname(copy), &st) < 0)
        return err_sys(e, errno, "look at %s", copy);
    if (geteuid() == 0 && fchown(t->fd, st.st_uid, st.st_gid) < 0)
        return err_sys(e, errno, "set the owner of %s", t->tmp);
    if (fchmod(t->fd, mode) < 0)
        return err_sys(e, errno, "set the mode of %s", t->tmp);
    return 0;
}

static int publish(struct restore_job *j, struct fsx_tmp *t, struct err *e)
{
    /* before anything of the old database goes away */
    if (fsync(t->fd) < 0)
        return err_sys(e, errno, "fsync %s", t->tmp);
    j->swap.page_size = j->applied.newest.page_size;
    j->swap.pages = j->applied.newest.commit;
    return swap_publish(&j->swap, t, e);
}

/* Written to the disk while SQLite reads it from memory. */
struct flush {
    pthread_t thread;
    int fd, errnum;
    bool running;
};

static void *flush_work(void *arg)
{
    struct flush *f = arg;
    f->errnum = fsync(f->fd) < 0 ? errno : 0;
    return NULL;
}

static void flush_start(struct flush *f, int fd)
{
    *f = (struct flush){.fd = fd};
    f->running = pthread_create(&f->thread, NULL, flush_work, f) == 0;
}

static int flush_end(struct flush *f, const char *path, struct err *e)
{
    if (f->running)
        (void)pthread_join(f->thread, NULL);
    else
        (void)flush_work(f);
    return f->errnum ? err_sys(e, f->errnum, "fsync %s", path) : 0;
}

static void phase(struct restore_job *j, const char *name, uint64_t total)
{
    atomic_store(&j->total, 0);
    atomic_store(&j->done, 0);
    atomic_store(&j->phase, name);
    atomic_store(&j->total, total);
}

int restore_publish(struct restore_job *j, struct fsx_tmp *t, struct err *e)
{
    int r = check_page1(t->fd, &j->applied.newest, e);
    if (!r && j->check != RESTORE_CHECK_NONE) {
        struct flush f;
        phase(j, "check", 0);
        flush_start(&f, t->fd);
        r = check_sqlite(t->tmp, j->check == RESTORE_CHECK_FULL, j->applied.expected != 0, &j->note, e);
        int k = flush_end(&f, t->tmp, r ? NULL : e);
        r = r ? r : k;
    }
    if (!r)
        r = set_owner(t, e);
    if (!r) {
        phase(j, "publish", 0);
        r = publish(j, t, e);
    }
    return r;
}
