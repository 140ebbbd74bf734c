/* Files in a directory of this machine: read in place, each thread for itself. One at a time, under
 * the lock, opens the next file and walks its page index; that keeps the files in order and is cheap.
 * Reading pages, decoding and writing happen outside. Read and not mapped: a file that is cut off
 * meanwhile is an error then, and not a signal. */
#include "common/store/restore_local.h"

#include <pthread.h>

#define PAGE_BYTES (1u << 20)
#define THREADS_MAX 32u

struct local {
    const struct local_job *job;
    struct pages *pages;
    pthread_mutex_t lock; /* of everything in pages, and what follows */
    struct pages_file *file; /* being walked */
    bool failed;
    struct err err;
};

/* header, and the end of the file as far back as the page index goes */
static int read_ends(const struct pages *p, struct pages_file *f, struct err *e)
{
    uint8_t header[LTX_HEADER_SIZE];
    size_t size = (size_t)f->in->size;
    int r = pages_read(f->fd, header, sizeof header, 0, f->in->name, e);
    for (size_t from = size - pages_tail(p, size);;) {
        free(f->buf);
        f->buf = r < 0 ? NULL : malloc(size - from);
        if (r < 0)
            return r;
        if (!f->buf)
            return err_set(e, ERR_NOMEM, "%s: no memory for its page index", f->in->name);
        f->base = from;
        r = pages_read(f->fd, f->buf, size - from, from, f->in->name, e);
        if (!r)
            r = ltx_decoder_open_tail(&f->d, header, f->buf, from, size, &from, e);
        if (r < 0)
            return err_wrap(e, "%s", f->in->name);
        if (!r)
            return 0;
        r = 0;
    }
}

static int read_all(struct pages_file *f, struct err *e)
{
    size_t size = (size_t)f->in->size;
    f->buf = malloc(MAX(size, (size_t)1));
    if (!f->buf)
        return err_set(e, ERR_NOMEM, "%s: no memory to read it", f->in->name);
    int r = pages_read(f->fd, f->buf, size, 0, f->in->name, e);
    if (!r && ltx_decoder_open(&f->d, f->buf, size, e) < 0)
        r = err_wrap(e, "%s", f->in->name);
    return r;
}

static int open_next(struct local *l, struct err *e)
{
    struct restore_input *in = &l->pages->in[l->pages->left - 1];
    struct pages_file *f = pages_file_new(in);
    int r = l->job->open(l->job->arg, in, &f->fd, e);
    if (!r)
        r = in->size <= l->pages->whole_bytes ? read_all(f, e) : read_ends(l->pages, f, e);
    if (r < 0) {
        pages_file_free(f);
        return r;
    }
    if (!f->base) { /* very many small files: descriptors are not for keeping */
        (void)close(f->fd);
        f->fd = -1;
    }
    r = pages_open(l->pages, f, e);
    l->file = r < 0 ? NULL : f;
    return r;
}

/* The next piece: 0, 1 when there is none left. Under the lock. */
static int take(struct local *l, struct pages_piece **ret, struct err *e)
{
    for (;;) {
        if (!l->file) {
            if (!l->pages->left)
                return 1;
            int r = open_next(l, e);
            if (r < 0)
                return r;
        }
        int r = pages_next(l->pages, l->file, ret, e);
        if (r <= 0)
            return r;
        l->file = NULL;
    }
}

struct buffers {
    uint8_t *page, *bytes;
    size_t cap;
};

static int decode(struct local *l, struct pages_piece *x, struct buffers *b, struct err *e)
{
    struct pages_file *f = x->file;
    if (x->off >= f->base)
        return pages_decode(l->pages, x, f->buf + (x->off - f->base), b->page, PAGE_BYTES, e);
    if (x->bytes > b->cap) {
        free(b->bytes);
        b->cap = MAX((size_t)x->bytes, (size_t)l->pages->piece_bytes);
        b->bytes = malloc(b->cap);
        if (!b->bytes)
            return err_set(e, ERR_NOMEM, "%s: no memory to read it", f->in->name);
    }
    int r = pages_read(f->fd, b->bytes, (size_t)x->bytes, x->off, f->in->name, e);
    if (!r)
        r = pages_decode(l->pages, x, b->bytes, b->page, PAGE_BYTES, e);
    if (!r)
        atomic_fetch_add(l->pages->done, x->bytes);
    return r;
}

static void fail(struct local *l, const struct err *e)
{
    if (!l->failed)
        l->err = *e;
    l->failed = true;
}

static void *work(void *arg)
{
    struct local *l = arg;
    struct err e = {0};
    struct buffers b = {.page = malloc(PAGE_BYTES)};
    (void)pthread_mutex_lock(&l->lock);
    if (!b.page) {
        (void)err_set(&e, ERR_NOMEM, "no memory for a buffer of pages");
        fail(l, &e);
    }
    while (!l->failed) {
        struct pages_piece *x = NULL;
        int r = take(l, &x, &e);
        if (r > 0)
            break;
        if (!r) {
            (void)pthread_mutex_unlock(&l->lock);
            r = decode(l, x, &b, &e);
            (void)pthread_mutex_lock(&l->lock);
            int k = pages_end(l->pages, x, !r && !l->failed, &e);
            r = r ? r : k;
            if (!r && l->job->after)
                l->job->after(l->job->arg);
        }
        if (r < 0)
            fail(l, &e);
    }
    (void)pthread_mutex_unlock(&l->lock);
    free(b.page);
    free(b.bytes);
    return NULL;
}

int restore_local(struct pages *p, const struct local_job *job, unsigned threads, struct err *e)
{
    struct local l = {.job = job, .pages = p};
    pthread_t t[THREADS_MAX];
    unsigned n = 0;
    if (!threads)
        threads = (unsigned)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1l);
    (void)pthread_mutex_init(&l.lock, NULL);
    /* this thread works as well, so that it goes on when no other can be had */
    while (n + 1 < MIN(threads, THREADS_MAX) && pthread_create(&t[n], NULL, work, &l) == 0)
        n++;
    (void)work(&l);
    while (n)
        (void)pthread_join(t[--n], NULL);
    (void)pthread_mutex_destroy(&l.lock);
    if (!l.failed)
        return pages_finish(p, e);
    pages_file_free(l.file); /* left only when the failure came while it was walked */
    if (e)
        *e = l.err;
    return -(int)l.err.code;
}
