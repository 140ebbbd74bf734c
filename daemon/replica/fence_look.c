#include "daemon/replica/fence_look.h"

struct part {
    uint8_t *p;
    size_t *n, size;
};

static int take(struct part to, const void *p, size_t n)
{
    n = MIN(n, to.size - *to.n);
    memcpy(to.p + *to.n, p, n);
    *to.n += n;
    return 0;
}

static int on_head(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    struct fence_seen *s = arg;
    return take((struct part){s->head, &s->head_n, sizeof s->head}, p, n);
}

static int on_tail(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    struct fence_seen *s = arg;
    return take((struct part){s->tail, &s->tail_n, sizeof s->tail}, p, n);
}

static void finish(struct fence_look *l, const struct err *e)
{
    l->err = *e;
    if (e->code == ERR_CORRUPT) /* shorter than a header */
        l->err = (struct err){.code = ERR_OK};
    l->done(l);
}

static void on_tail_read(struct store_req *req)
{
    finish(req->data, &req->err);
}

static void on_head_read(struct store_req *req)
{
    struct fence_look *l = req->data;
    if (req->err.code != ERR_OK || l->seen.info.size < LTX_HEADER_SIZE + LTX_TRAILER_SIZE) {
        finish(l, &req->err);
        return;
    }
    l->req = (struct store_req){.done = on_tail_read, .data = l};
    store_get(l->store, &l->req, l->key, l->seen.info.size - LTX_TRAILER_SIZE, LTX_TRAILER_SIZE, on_tail, &l->seen,
              NULL);
}

void fence_look(struct fence_look *l, struct store *store, const char *key)
{
    l->seen = (struct fence_seen){.head_n = 0};
    l->store = store;
    l->key = key;
    l->req = (struct store_req){.done = on_head_read, .data = l};
    store_get(store, &l->req, key, 0, sizeof l->seen.head, on_head, &l->seen, &l->seen.info);
}

void fence_look_cancel(struct fence_look *l)
{
    store_cancel(&l->req);
}
