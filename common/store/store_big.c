/* A put that goes up in parts: some at a time, each tried again on its own, so that one lost
 * connection does not cost an object of many gigabytes. It is a user of store_upload_ like others;
 * what the caller of store_put sees is one request. */
#include "common/store/store_impl.h"

#include <assert.h>

#include "common/base/clk.h"
#include "common/store/retry.h"

#define BIG_MAGIC 0xb165704eu
#define PARALLEL_MAX 8
#define TRIES 10 /* in a row, without any success; some two minutes */

struct part {
    struct store_big *big;
    struct store_req req;
    struct store_body body;
    unsigned n;
    bool busy;
};

enum phase { BEGIN, PARTS, FINISH, ABORT };

struct store_big {
    unsigned magic;
    struct store *store;
    struct store_big *next, *prev;
    struct store_req *outer;
    struct store_body body;
    struct store_upload *upload;
    enum phase phase, sent; /* where it is; what req is about */
    struct store_req req; /* of the phases with one request */
    bool busy, closing;
    struct part part[PARALLEL_MAX];
    unsigned n_parts, next_part, busy_parts;
    unsigned again[PARALLEL_MAX]; /* parts that failed and are to be sent again */
    unsigned n_again;
    struct retry retry;
    uv_timer_t timer;
    uint64_t retry_at_ms;
    struct err err; /* why it is given up */
};

static void go_on(struct store_big *b);
static void on_done(struct store_req *req);

/* ---- the end -------------------------------------------------------------------------------- */

static void on_timer_closed(uv_handle_t *h)
{
    struct store_big *b = h->data;
    struct store_req *outer = b->outer;
    if (b->prev)
        b->prev->next = b->next;
    else
        b->store->bigs = b->next;
    if (b->next)
        b->next->prev = b->prev;
    outer->err = b->err;
    store_upload_free(b->upload);
    b->magic = 0;
    free(b);
    store_finish(outer);
}

static void end(struct store_big *b)
{
    if (b->closing)
        return;
    b->closing = true;
    uv_close((uv_handle_t *)&b->timer, on_timer_closed);
}

static void give_up(struct store_big *b, const struct err *e)
{
    if (!b->err.code)
        b->err = *e;
    b->phase = ABORT;
    for (size_t i = 0; i < ARRAY_LEN(b->part); i++) {
        if (b->part[i].busy)
            store_cancel(&b->part[i].req);
    }
    if (b->busy)
        store_cancel(&b->req);
}

static void cancel(struct store_req *outer)
{
    struct store_big *b = outer->impl;
    assert(b->magic == BIG_MAGIC);
    struct err e;
    (void)err_set(&e, ERR_CANCELED, "upload of \"%s\" was canceled", b->upload->key);
    give_up(b, &e);
    go_on(b);
}

void store_big_close(struct store *s)
{
    for (struct store_big *b = s->bigs, *next; b; b = next) {
        next = b->next;
        cancel(b->outer);
    }
}

/* ---- one step after the other ------------------------------------------------------------------ */

static void on_timer(uv_timer_t *t)
{
    struct store_big *b = t->data;
    assert(b->magic == BIG_MAGIC);
    b->retry_at_ms = 0;
    go_on(b);
}

static bool may_pass(const struct err *e)
{
    enum retry_class class = retry_class(e);
    return e->code != ERR_CANCELED && e->code != ERR_CORRUPT &&
           (class == RETRY_BACKOFF || class == RETRY_SLOW);
}

/* true: it is worth another try, for which the timer is set */
static bool try_again(struct store_big *b, const struct err *e)
{
    if (b->phase == ABORT || !may_pass(e) || b->retry.failures >= TRIES)
        return false;
    uint64_t wait = retry_after(&b->retry, e);
    b->retry_at_ms = clk_mono_ms() + wait;
    (void)uv_timer_start(&b->timer, on_timer, wait, 0);
    return true;
}

static void on_part(struct store_req *req)
{
    struct part *p = CONTAINER_OF(req, struct part, req);
    struct store_big *b = p->big;
    assert(b->magic == BIG_MAGIC);
    p->busy = false;
    b->busy_parts--;
    if (!req->err.code) {
        b->outer->bytes += p->body.size;
        retry_ok(&b->retry);
    } else if (try_again(b, &req->err)) {
        b->again[b->n_again++] = p->n;
    } else {
        give_up(b, &req->err);
    }
    go_on(b);
}

static void send_part(struct store_big *b, unsigned n)
{
    struct part *p = b->part;
    while (p->busy)
        p++;
    uint64_t at = n * b->upload->part_bytes;
    p->big = b;
    p->n = n;
    p->busy = true;
    b->busy_parts++;
    p->body = b->body;
    p->body.off = b->body.off + at;
    p->body.size = MIN(b->upload->part_bytes, b->body.size - at);
    if (b->body.p) {
        p->body.p = (const uint8_t *)b->body.p + at;
        p->body.off = 0;
    } else if (!p->body.file_bytes) {
        p->body.file_bytes = b->body.off + b->body.size;
    }
    p->req = (struct store_req){.done = on_part, .data = b};
    store_upload_add(b->upload, &p->req, n, &p->body);
}

static void parts(struct store_big *b)
{
    unsigned at_once = MIN(store_upload_parallel(b->upload), (unsigned)PARALLEL_MAX);
    while (b->busy_parts < at_once && (b->n_again || b->next_part < b->n_parts))
        send_part(b, b->n_again ? b->again[--b->n_again] : b->next_part++);
    if (!b->busy_parts) {
        b->phase = FINISH;
        go_on(b);
    }
}

static void go_on(struct store_big *b)
{
    if (b->busy || b->closing || (b->phase != ABORT && b->retry_at_ms))
        return;
    if (b->phase == PARTS) {
        parts(b);
        return;
    }
    if (b->busy_parts)
        return;
    b->busy = true;
    b->sent = b->phase;
    b->req = (struct store_req){.done = on_done, .data = b};
    if (b->phase == BEGIN)
        store_upload_begin(b->upload, &b->req);
    else if (b->phase == FINISH)
        store_upload_finish(b->upload, &b->req, b->body.size);
    else
        store_upload_abort(b->upload, &b->req);
}

static void on_done(struct store_req *req)
{
    struct store_big *b = req->data;
    assert(b->magic == BIG_MAGIC);
    b->busy = false;
    if (b->sent == ABORT) { /* whatever came of it: the sweep finds what it left */
        end(b);
        return;
    }
    if (b->sent == FINISH && !req->err.code) { /* also if it was canceled meanwhile: it is there */
        err_clear(&b->err);
        end(b);
        return;
    }
    if (req->err.code && !try_again(b, &req->err))
        give_up(b, &req->err);
    else if (!req->err.code && b->phase == BEGIN)
        b->phase = PARTS;
    go_on(b);
}

/* ---- the beginning ------------------------------------------------------------------------------ */

static void on_start(uv_timer_t *t)
{
    struct store_big *b = t->data;
    assert(b->magic == BIG_MAGIC);
    go_on(b);
}

void store_big_put(struct store *s, struct store_req *req, const char *key,
                   const struct store_body *body, const struct store_meta *meta, unsigned flags)
{
    struct store_upload *u = store_upload_new(s, key, meta, flags, body->size);
    if (!u) {
        (void)err_set(&req->err, ERR_UNSUPPORTED, "\"%s\" has %llu bytes, and S3 takes at most "
                      "5 TiB", key, (unsigned long long)body->size);
        store_finish_later(req);
        return;
    }
    struct store_big *b = util_zalloc(sizeof *b);
    b->magic = BIG_MAGIC;
    b->store = s;
    b->outer = req;
    b->body = *body;
    b->upload = u;
    b->n_parts = (unsigned)((body->size - 1) / u->part_bytes) + 1;
    b->next = s->bigs;
    if (b->next)
        b->next->prev = b;
    s->bigs = b;
    req->in_parts = true;
    req->impl = b;
    req->cancel = cancel;
    (void)uv_timer_init(s->loop, &b->timer);
    b->timer.data = b;
    (void)uv_timer_start(&b->timer, on_start, 0, 0);
}
