#include "daemon/spool/compact.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/base/fsx.h"
#include "common/format/merge.h"
#include "daemon/spool/spool.h"

struct inputs {
    struct merge_input *in;
    size_t n;
};

static void inputs_done(struct inputs *x)
{
    for (size_t i = 0; i < x->n; i++)
        (void)munmap((void *)(uintptr_t)x->in[i].p, x->in[i].n);
    free(x->in);
}

static int map_file(const char *path, struct merge_input *ret, struct err *e)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 && errno == ENOENT)
        return COMPACT_GONE;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(e, errno, "open %s", path);
    if (!st.st_size)
        return err_set(e, ERR_CORRUPT, "%s is empty", path);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return err_sys(e, errno, "map %s", path);
    *ret = (struct merge_input){p, (size_t)st.st_size};
    return 0;
}

static int open_inputs(const struct compact_job *job, struct inputs *x, struct err *e)
{
    x->in = calloc(job->n, sizeof *x->in);
    if (!x->in)
        return err_set(e, ERR_NOMEM, "no memory to merge %zu files", job->n);
    for (; x->n < job->n; x->n++) {
        const struct level_file *f = &job->in[x->n];
        cleanup_free char *path = spool_level_path(job->dir, job->level - 1, f->min, f->max);
        int r = map_file(path, &x->in[x->n], e);
        if (r != 0)
            return r;
    }
    return 0;
}

static int write_out(void *arg, const void *p, size_t n, struct err *e)
{
    const struct fsx_tmp *t = arg;
    int r = fsx_write_all(t->fd, p, n, e);
    return r < 0 ? err_wrap(e, "write %s", t->tmp) : 0;
}

static int merge(const struct compact_job *job, const struct inputs *x, struct level_file *ret, struct err *e)
{
    const struct level_file *last = &job->in[x->n - 1];
    cleanup_free char *dir = util_printf("%s/l%u", job->dir, job->level);
    cleanup_free char *path = spool_level_path(job->dir, job->level, job->in[0].min, last->max);
    cleanup_fsx_tmp struct fsx_tmp t = FSX_TMP_INIT;
    struct merge_output o = {.size = 0};
    int r = fsx_mkdirs(dir, 0700, e);
    if (r == 0)
        r = fsx_tmp_open(path, 0600, &t, e);
    if (r == 0)
        r = merge_ltx(x->in, x->n, job->encoding, write_out, &t, &o, e);
    if (r < 0)
        return r;
    if (last->checksum)
        spool_mark(t.fd, last->checksum);
    r = fsx_tmp_publish(&t, FSX_REPLACE | FSX_NOSYNC, e);
    if (r == 0)
        *ret = (struct level_file){job->in[0].min, last->max, o.size, o.h.timestamp_ms, last->checksum,
                                   last->lineage, o.pages == ltx_pages(&o.h)};
    return r;
}

int compact_run(const struct compact_job *job, struct level_file *ret, struct err *e)
{
    struct inputs x = {.in = NULL};
    int r = open_inputs(job, &x, e);
    if (r == 0)
        r = merge(job, &x, ret, e);
    inputs_done(&x);
    return r < 0 ? err_wrap(e, "merge TXIDs %016llx to %016llx to level %u", (unsigned long long)job->in[0].min,
                            (unsigned long long)job->in[job->n - 1].max, job->level)
                 : r;
}
