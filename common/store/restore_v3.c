/* Litestream v0.3: a snapshot, then the WAL of one index after the other, as SQLite's own checkpoint
 * would put it into the file.
 *
 * The WAL of an index is read twice: first to check every frame and to see where its last
 * transaction ends, then to write the pages up to there. So a transaction is never written in part,
 * and none has to be kept in memory. */
#include <errno.h>
#include <sys/mman.h>

#include "common/store/restore_int.h"

struct replay {
    struct restore_job *j;
    int out;
    struct v3_unpack *unpack;
    struct v3_wal wal;
    uint32_t page_size;
    uint64_t bytes;       /* of the snapshot */
    uint64_t commit;      /* pages of the database so far */
    uint64_t upto;        /* frames of this index to write */
    struct buf salts;     /* of the indexes so far */
};

static int write_at(int fd, const uint8_t *p, size_t n, uint64_t off, struct err *e)
{
    while (n) {
        ssize_t put = pwrite(fd, p, n, (off_t)off);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_sys(e, errno, "write of %zu bytes at %llu", n, (unsigned long long)off);
        p += put;
        n -= (size_t)put;
        off += (uint64_t)put;
    }
    return 0;
}

/* One object through sink. */
static int unpack(struct replay *x, const struct restore_input *in, v3_sink_fn sink, void *arg,
                  struct err *e)
{
    size_t size = (size_t)in->size;
    if (size != in->size) /* of a 32-bit process */
        return err_set(e, ERR_UNSUPPORTED, "%s has %llu bytes, more than this process can map", in->name,
                       (unsigned long long)in->size);
    void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, x->j->spool, (off_t)in->off);
    if (p == MAP_FAILED)
        return err_sys(e, errno, "%s: mmap of %llu bytes", in->name, (unsigned long long)in->size);
    (void)madvise(p, size, MADV_SEQUENTIAL);
    int r = v3_unpack(x->unpack, p, size, sink, arg, e);
    (void)munmap(p, size);
    return r < 0 ? err_wrap(e, "%s", in->name) : 0;
}

/* ---- snapshot ------------------------------------------------------------------------------- */

static int on_snapshot(void *arg, const uint8_t *p, size_t n, struct err *e)
{
    struct replay *x = arg;
    int r = write_at(x->out, p, n, x->bytes, e);
    x->bytes += n;
    return r;
}

static int snapshot(struct replay *x, const struct restore_input *in, struct err *e)
{
    uint8_t p[100];
    int r = unpack(x, in, on_snapshot, x, e);
    if (r < 0)
        return r;
    if (x->bytes < sizeof p || fsx_pread_all(x->out, p, sizeof p, 0, e) < 0 ||
        memcmp(p, "SQLite format 3", 16) != 0)
        return err_set(e, ERR_CORRUPT, "%s: %llu bytes that are no database", in->name,
                       (unsigned long long)x->bytes);
    x->page_size = be16_get(p + 16) == 1 ? 65536 : be16_get(p + 16);
    if (!page_size_valid(x->page_size) || x->bytes % x->page_size)
        return err_set(e, ERR_CORRUPT, "%s: %llu bytes in pages of %u", in->name,
                       (unsigned long long)x->bytes, x->page_size);
    x->commit = x->bytes / x->page_size;
    return 0;
}

/* ---- WAL ------------------------------------------------------------------------------------ */

static int on_frame(void *arg, uint64_t k, const struct wal_frame *f, const uint8_t *page,
                    struct err *e)
{
    struct replay *x = arg;
    if (k > x->upto)
        return 0;
    return write_at(x->out, page, x->page_size, (uint64_t)(f->pgno - 1) * x->page_size, e);
}

static int feed_index(struct replay *x, const struct restore_input *in, const struct v3_file *f,
                      size_t n, v3_frame_fn fn, struct err *e)
{
    v3_wal_start(&x->wal, fn, x);
    for (size_t i = 0; i < n; i++) {
        if (x->wal.off != f[i].off) {
            err_set(e, ERR_CORRUPT, "%s: what comes before it ends at offset %llx: a segment is missing "
                    "or damaged", in[i].name, (unsigned long long)x->wal.off);
            return i ? err_hint(e, "--timestamp %s restores the state before the gap",
                                util_rfc3339((char[40]){0}, f[i - 1].mtime_ms))
                     : -(int)e->code;
        }
        int r = unpack(x, &in[i], v3_wal_feed, &x->wal, e);
        if (!r && x->wal.scan.h.page_size && x->wal.scan.h.page_size != x->page_size)
            r = err_set(e, ERR_CORRUPT, "%s: page size %u, the snapshot has %u", in[i].name,
                        x->wal.scan.h.page_size, x->page_size);
        if (r < 0)
            return r;
        if (!fn)
            atomic_fetch_add(&x->j->done, in[i].size);
    }
    return 0;
}

/* No two rounds of a WAL have the same salts: where they do, an object is a copy of another. */
static int new_salts(struct replay *x, const char *name, struct err *e)
{
    const uint32_t *salt = x->wal.scan.h.salt;
    size_t size = sizeof x->wal.scan.h.salt;
    for (size_t at = 0; at < x->salts.len; at += size)
        if (!memcmp(x->salts.p + at, salt, size))
            return err_set(e, ERR_CORRUPT, "%s has the salts of an earlier index: it is a copy of "
                           "another segment", name);
    buf_add(&x->salts, salt, size);
    return x->salts.failed ? err_set(e, ERR_NOMEM, "no memory for the salts of all indexes") : 0;
}

/* The segments of one index; the last of all may end anywhere, because more may have been to come. */
static int replay_index(struct replay *x, const struct restore_input *in, const struct v3_file *f,
                        size_t n, bool last, struct err *e)
{
    int r = feed_index(x, in, f, n, NULL, e);
    if (r < 0)
        return r;
    const struct wal_scan *s = &x->wal.scan;
    if (s->h.page_size && (r = new_salts(x, in[0].name, e)) < 0)
        return r;
    if (!last && !v3_wal_whole(&x->wal))
        return err_set(e, ERR_CORRUPT, "%s ends within a transaction, but the WAL goes on with %s",
                       in[n - 1].name, in[n].name);
    uint64_t committed = s->committed, pages = s->commit_pages;
    if (last && s->h.page_size)
        x->j->applied.dropped_bytes = x->wal.off - wal_frame_off(x->page_size, committed + 1);
    else if (last)
        x->j->applied.dropped_bytes = x->wal.off;
    if (!committed)
        return 0;
    x->upto = committed;
    r = feed_index(x, in, f, n, on_frame, e);
    if (r < 0)
        return r;
    x->commit = pages;
    if (ftruncate(x->out, (off_t)(pages * x->page_size)) < 0)
        return err_sys(e, errno, "set the size of the database");
    return 0;
}

static int replay(struct replay *x, const struct v3_file *f, struct err *e)
{
    const struct restore_input *in = x->j->in;
    size_t n = x->j->n_in;
    int r = snapshot(x, &in[0], e);
    atomic_fetch_add(&x->j->done, in[0].size);
    for (size_t i = 1, next; !r && i < n; i = next) {
        for (next = i + 1; next < n && f[next].index == f[i].index;)
            next++;
        r = replay_index(x, in + i, f + i, next - i, next == n, e);
    }
    return r;
}

int restore_v3_apply(struct restore_job *j, int out, struct err *e)
{
    struct replay x = {.j = j, .out = out};
    x.unpack = v3_unpack_new(e);
    if (!x.unpack)
        return -(int)ERR_NOMEM;
    int r = replay(&x, j->v3, e);
    v3_wal_done(&x.wal);
    buf_free(&x.salts);
    v3_unpack_free(x.unpack);
    if (!r && x.commit > UINT32_MAX)
        r = err_set(e, ERR_CORRUPT, "a database of %llu pages", (unsigned long long)x.commit);
    if (!r) {
        j->applied.newest.page_size = x.page_size;
        j->applied.newest.commit = (uint32_t)x.commit;
    }
    return r;
}
