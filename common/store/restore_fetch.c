/* The order of requests: files from the newest to the oldest, small ones whole, of large ones first
 * header and page index. Files are asked for ahead of their turn, but opened in their turn, because
 * only then it is known which of their pages are needed. Pieces of the file whose turn it is go before
 * files that are ahead, and only they may use the second half of the memory: so what is ahead can
 * never keep what it waits for from coming. */
#include "common/store/restore_fetch.h"

#include <pthread.h>

#define FETCH_MAGIC 0x5701e0a5u
#define HELD_MAX ((size_t)32 << 20)
#define AHEAD_MAX 512u
#define PAGE_BYTES (1u << 20)
#define THREADS_MAX 32u

enum step { WHOLE, HEADER, TAIL, PIECE };

/* one thing to get */
struct item {
    enum step step;
    struct pages_file *file; /* WHOLE, HEADER, TAIL: to be opened */
    struct pages_piece *piece;
    uint8_t header[LTX_HEADER_SIZE];
    uint8_t *buf; /* of what is being fetched */
    size_t off, size;
    struct item *next; /* ready */
};

struct fetch {
    unsigned magic;
    struct pages *pages;
    struct restore_round *round;
    const struct fetch_job *job;
    size_t n_files;
    size_t asked;            /* files below it are not asked for yet */
    struct pages_file **here; /* for each file: arrived before its turn */
    struct pages_file *file; /* being walked; the loop thread's */
    atomic_size_t held;      /* bytes fetched or on their way, and not written */
    uv_async_t wake;
    bool waking;

    pthread_mutex_t lock; /* of pages and what follows */
    pthread_cond_t more;
    struct item *ready, **ready_end;
    size_t in_work; /* ready or being decoded */
    bool last, failed;
    struct err err;
};

static void item_free(struct item *i)
{
    if (i) {
        free(i->buf);
        free(i);
    }
}

static int allocate(struct item *i, size_t off, size_t size, const char *name, struct err *e)
{
    free(i->buf);
    i->off = off;
    i->size = size;
    i->buf = malloc(MAX(size, (size_t)1));
    return i->buf ? 0 : err_set(e, ERR_NOMEM, "%s: no memory for %zu bytes of it", name, size);
}

/* ---- decoding ------------------------------------------------------------------------------- */

static void fail(struct fetch *f, const struct err *e)
{
    if (!f->failed)
        f->err = *e;
    f->failed = true;
}

static int decode(struct fetch *f, const struct item *i, uint8_t *page, struct err *e)
{
    const struct pages_piece *x = i->piece;
    const uint8_t *bytes = i->buf ? i->buf : x->file->buf + (x->off - x->file->base);
    return pages_decode(f->pages, i->piece, bytes, page, PAGE_BYTES, e);
}

static void *work(void *arg)
{
    struct fetch *f = arg;
    cleanup_free uint8_t *page = malloc(PAGE_BYTES);
    struct err e = {0};
    (void)pthread_mutex_lock(&f->lock);
    if (!page) {
        (void)err_set(&e, ERR_NOMEM, "no memory for a buffer of pages");
        fail(f, &e);
    }
    for (;;) {
        while (!f->ready && !f->last)
            (void)pthread_cond_wait(&f->more, &f->lock);
        struct item *i = f->ready;
        if (!i)
            break;
        f->ready = i->next;
        if (!f->ready)
            f->ready_end = &f->ready;
        bool skip = f->failed;
        (void)pthread_mutex_unlock(&f->lock);
        int r = skip ? -(int)ERR_CANCELED : decode(f, i, page, &e);
        (void)pthread_mutex_lock(&f->lock);
        int k = pages_end(f->pages, i->piece, !r && !f->failed, &e);
        if (!skip && (r < 0 || k < 0))
            fail(f, &e);
        else if (!skip && f->job->after)
            f->job->after(f->job->arg);
        if (i->buf)
            atomic_fetch_sub(&f->held, i->size);
        item_free(i);
        f->in_work--;
        (void)uv_async_send(&f->wake);
    }
    (void)pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* under the lock */
static void hand_over(struct fetch *f, struct item *i)
{
    i->next = NULL;
    *f->ready_end = i;
    f->ready_end = &i->next;
    f->in_work++;
    (void)pthread_cond_signal(&f->more);
}

/* ---- what to ask for next, on the loop thread, under the lock -------------------------------- */

/* Open the next file if it has arrived: 0, 1 when not. */
static int open_next(struct fetch *f, struct err *e)
{
    size_t left = f->pages->left;
    if (!left || !f->here[left - 1])
        return 1;
    struct pages_file *file = f->here[left - 1];
    f->here[left - 1] = NULL;
    if (file->bad) {
        *e = *file->bad;
        pages_file_free(file);
        return -(int)e->code;
    }
    int r = pages_open(f->pages, file, e);
    f->file = r < 0 ? NULL : file;
    return r;
}

/* A piece of the file whose turn it is: 0 and *ret (to be fetched), 1: none now. */
static int take_piece(struct fetch *f, struct item **ret, struct err *e)
{
    for (;;) {
        int r = f->file ? 0 : open_next(f, e);
        if (r)
            return r;
        /* what is in hand already is not held up, and takes no memory */
        if (f->file->base && atomic_load(&f->held) > HELD_MAX && (f->in_work || f->round->n_busy))
            return 1;
        struct pages_piece *x;
        r = pages_next(f->pages, f->file, &x, e);
        if (r < 0)
            return r;
        if (r > 0) {
            f->file = NULL;
            continue;
        }
        struct item *i = util_zalloc(sizeof *i);
        i->step = PIECE;
        i->piece = x;
        if (x->off >= f->file->base) {
            hand_over(f, i);
            continue;
        }
        r = allocate(i, (size_t)x->off, (size_t)x->bytes, f->file->in->name, e);
        if (r < 0) {
            (void)pages_end(f->pages, x, false, NULL);
            item_free(i);
            return r;
        }
        atomic_fetch_add(&f->held, i->size);
        *ret = i;
        return 0;
    }
}

static int take_file(struct fetch *f, struct item **ret, struct err *e)
{
    if (!f->asked || f->asked + AHEAD_MAX < f->pages->left || !f->pages->left)
        return 1;
    struct restore_input *in = &f->pages->in[f->asked - 1];
    size_t size = (size_t)in->size;
    bool whole = size <= f->pages->whole_bytes;
    size_t held = atomic_load(&f->held);
    if (held && held + (whole ? size : pages_tail(f->pages, size)) > HELD_MAX / 2)
        return 1;
    struct item *i = util_zalloc(sizeof *i);
    i->file = pages_file_new(in);
    i->step = whole ? WHOLE : HEADER;
    int r = allocate(i, 0, whole ? size : LTX_HEADER_SIZE, in->name, e);
    if (r < 0) {
        pages_file_free(i->file);
        item_free(i);
        return r;
    }
    i->file->held_bytes = &f->held;
    i->file->held_size = whole ? size : pages_tail(f->pages, size);
    atomic_fetch_add(&f->held, i->file->held_size);
    f->asked--;
    *ret = i;
    return 0;
}

static int take(struct restore_slot *s, struct err *e)
{
    struct fetch *f = s->round->data;
    struct item *i = NULL;
    (void)pthread_mutex_lock(&f->lock);
    int r = take_piece(f, &i, e);
    if (r == 1)
        r = take_file(f, &i, e);
    /* the newest file says how everything else is to be read */
    if (r == 1 && !f->pages->left && !f->file)
        r = 2;
    (void)pthread_mutex_unlock(&f->lock);
    s->item = i;
    return r;
}

/* ---- one request ---------------------------------------------------------------------------- */

static int on_bytes(void *arg, const void *p, size_t n, struct err *e)
{
    struct restore_slot *s = arg;
    const struct fetch *f = s->round->data;
    const struct item *i = s->item;
    if (n > i->size - s->got)
        return err_set(e, ERR_CORRUPT, "%s: more than the %zu bytes that were asked for", s->key,
                       i->size);
    memcpy(i->buf + s->got, p, n);
    s->got += n;
    if (i->step == PIECE)
        atomic_fetch_add(f->pages->done, n);
    return 0;
}

static void on_fetched(struct store_req *req);

static void submit(struct restore_slot *s)
{
    const struct fetch *f = s->round->data;
    const struct item *i = s->item;
    const struct restore_input *in = i->step == PIECE ? i->piece->file->in : i->file->in;
    restore_slot_begin(s, util_strdup(in->name), on_fetched);
    store_get(f->round->store, &s->req, s->key, i->off + s->got, i->size - s->got, on_bytes, s,
              &s->info);
}

/* Header, then tail, then perhaps more of the tail: 0 when the file can be opened, 1: go on. */
static int next_step(const struct fetch *f, struct item *i, struct err *e)
{
    struct pages_file *file = i->file;
    size_t size = (size_t)file->in->size, from = size - pages_tail(f->pages, size);
    int r = 1;
    if (i->step == HEADER)
        memcpy(i->header, i->buf, sizeof i->header);
    else if (i->step == TAIL)
        r = ltx_decoder_open_tail(&file->d, i->header, i->buf, i->off, size, &from, e);
    else
        r = ltx_decoder_open(&file->d, i->buf, size, e);
    if (r < 0)
        return err_wrap(e, "%s", file->in->name);
    if (!r) {
        file->base = i->off;
        file->buf = TAKE_PTR(i->buf);
        return 0;
    }
    i->step = TAIL;
    r = allocate(i, from, size - from, file->in->name, e);
    if (r < 0)
        return r;
    if (file->held_size < i->size) {
        atomic_fetch_add(file->held_bytes, i->size - file->held_size);
        file->held_size = i->size;
    }
    return 1;
}

static void file_arrived(struct fetch *f, struct item *i)
{
    struct restore_input *in = i->file->in;
    size_t at = (size_t)(in - f->pages->in);
    if (at < f->pages->left)
        f->here[at] = TAKE_PTR(i->file);
    else
        pages_file_free(TAKE_PTR(i->file)); /* a newer file turned out to have everything */
}

static void on_fetched(struct store_req *req)
{
    struct restore_slot *s = req->data;
    struct fetch *f = s->round->data;
    if (f->magic != FETCH_MAGIC)
        abort();
    struct item *i = s->item;
    int r = 1;
    if (req->err.code == ERR_OK && s->got != i->size)
        (void)err_set(&req->err, ERR_CORRUPT, "%s: %llu bytes of %zu", s->key,
                      (unsigned long long)s->got, i->size);
    if (i->file && (size_t)(i->file->in - f->pages->in) >= f->pages->left)
        r = 0; /* not needed any more, whatever came of it */
    if (!r)
        err_clear(&req->err);
    if (req->err.code == ERR_OK && i->file && r) {
        i->file->in->checksum = s->info.meta.checksum;
        i->file->in->lineage = s->info.meta.lineage;
        r = next_step(f, i, &req->err);
        if (r > 0) {
            s->got = 0;
            submit(s);
            return;
        }
        if (r < 0) { /* it came as it is in the store: asked again, it would come again */
            i->file->bad = util_alloc(sizeof(struct err));
            *i->file->bad = req->err;
            err_clear(&req->err);
        }
    }
    if (req->err.code == ERR_OK) {
        s->item = NULL;
        if (i->step == PIECE) {
            (void)pthread_mutex_lock(&f->lock);
            hand_over(f, i); /* and it is gone */
            (void)pthread_mutex_unlock(&f->lock);
        } else {
            file_arrived(f, i);
            item_free(i);
        }
    }
    bool ok = req->err.code == ERR_OK;
    restore_slot_end(req);
    if (ok) /* a file may have been what others waited for */
        restore_round_kick(f->round);
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void on_wake(uv_async_t *a)
{
    struct fetch *f = a->data;
    if (f->magic != FETCH_MAGIC)
        abort();
    (void)pthread_mutex_lock(&f->lock);
    bool failed = f->failed;
    (void)pthread_mutex_unlock(&f->lock);
    if (failed) /* set once, and not changed after that */
        restore_round_fail(f->round, &f->err);
    else
        restore_round_kick(f->round);
}

static void on_wake_closed(uv_handle_t *h)
{
    struct fetch *f = h->data;
    f->waking = false;
}

/* What a failure left in the slots, and what arrived and is not needed. */
static void sweep(struct fetch *f)
{
    for (unsigned i = 0; i < f->round->n_slots; i++) {
        struct item *x = f->round->slot[i].item;
        f->round->slot[i].item = NULL;
        if (x && x->piece)
            (void)pages_end(f->pages, x->piece, false, NULL);
        if (x)
            pages_file_free(x->file);
        item_free(x);
    }
    for (size_t i = 0; i < f->n_files; i++)
        pages_file_free(f->here[i]);
    pages_file_free(f->file);
    free(f->here);
}

static int run(struct fetch *f, struct err *e)
{
    pthread_t t[THREADS_MAX];
    unsigned n = 0, want = f->job->threads;
    if (!want)
        want = (unsigned)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1l);
    while (n < MIN(want, THREADS_MAX) && pthread_create(&t[n], NULL, work, f) == 0)
        n++;
    int r = n ? restore_round_feed(f->round, take, submit, e)
              : err_set(e, ERR_NOMEM, "no thread can be started");
    (void)pthread_mutex_lock(&f->lock);
    f->last = true; /* what has arrived is written, also for a restore that goes on with it */
    (void)pthread_cond_broadcast(&f->more);
    (void)pthread_mutex_unlock(&f->lock);
    while (n)
        (void)pthread_join(t[--n], NULL);
    if (r == 0 && f->failed) {
        if (e)
            *e = f->err;
        r = -(int)f->err.code;
    }
    return r;
}

int restore_fetch(struct pages *p, struct restore_round *round, const struct fetch_job *job,
                  struct err *e)
{
    struct fetch f = {.magic = FETCH_MAGIC, .pages = p, .round = round, .job = job,
                      .n_files = p->left, .asked = p->left};
    void *data = round->data;
    f.here = calloc(p->left + 1, sizeof(struct pages_file *));
    if (!f.here)
        return err_set(e, ERR_NOMEM, "no memory for %zu files", p->left);
    f.ready_end = &f.ready;
    round->data = &f;
    (void)pthread_mutex_init(&f.lock, NULL);
    (void)pthread_cond_init(&f.more, NULL);
    (void)uv_async_init(round->loop, &f.wake, on_wake);
    f.wake.data = &f;
    f.waking = true;
    int r = run(&f, e);
    uv_close((uv_handle_t *)&f.wake, on_wake_closed);
    while (f.waking)
        (void)uv_run(round->loop, UV_RUN_ONCE);
    sweep(&f);
    (void)pthread_cond_destroy(&f.more);
    (void)pthread_mutex_destroy(&f.lock);
    round->data = data;
    return r < 0 ? r : pages_finish(p, e);
}
