/* An S3 bucket as a store: a queue of requests in front of the transport. Each request becomes one
 * transfer (PUT, GET, HEAD) or several in a row (pages of a LIST, keys of a DELETE). */
#include "common/store/store_impl.h"

#include <assert.h>

#include "common/store/s3_transport.h"

#define OP_MAGIC 0x53090b1eu
#define DEFAULT_CONNECTIONS 8
#define DEFAULT_CONNECT_MS 5000
#define DEFAULT_IDLE_MS 15000
#define PUT_MAX_BYTES ((uint64_t)5 << 30) /* S3's limit for one PUT */

struct op {
    unsigned magic;
    struct store_s3 *store;
    struct store_req *req;
    struct op *next, *prev;
    bool started, sending, canceled;
    struct s3_xfer x;
    char *key; /* whole key or prefix */
    char *marker;
    struct s3_body *body;

    store_item_fn item; /* LIST */
    void *item_arg;
    const char *const *keys; /* DELETE */
    size_t n_keys, at_key;
};

struct store_s3 {
    struct store base;
    struct s3_target target;
    struct s3_transport *transport;
    char *path; /* "" or "prefix/" */
    struct op *first, *last;
    unsigned started;
    bool canceled; /* one that has not started: look for it */
    bool closed;
};

/* ---- the queue ----------------------------------------------------------------------------- */

static void on_poke(void *arg);

static void poke_soon(struct store_s3 *s)
{
    if (!s->closed)
        s3_transport_wake(s->transport, on_poke, s);
}

static void on_transport_closed(void *arg)
{
    struct store_s3 *s = arg;
    store_impl_closed(&s->base);
}

static void maybe_close(struct store_s3 *s)
{
    if (!s->base.impl_closing || s->first || s->closed)
        return;
    s->closed = true;
    s3_transport_close(s->transport, on_transport_closed, s);
}

static void op_gone(void *arg)
{
    struct op *op = arg;
    struct store_s3 *s = op->store;
    struct store_req *req = op->req;
    if (op->prev)
        op->prev->next = op->next;
    else
        s->first = op->next;
    if (op->next)
        op->next->prev = op->prev;
    else
        s->last = op->prev;
    if (op->started)
        s->started--;
    free(op->key);
    free(op->marker);
    op->magic = 0;
    free(op);
    poke_soon(s);
    /* the store outlives this: it waits for on_poke, which sees the end of the queue */
    store_finish(req);
}

static void op_end(struct op *op)
{
    struct s3_body *body = TAKE_PTR(op->body);
    if (body)
        s3_body_close(body, op_gone, op);
    else
        op_gone(op);
}

static void op_fail(struct op *op, const struct err *e)
{
    op->req->err = *e;
    op_end(op);
}

static void op_send(struct op *op)
{
    op->sending = true;
    s3_transport_send(op->store->transport, &op->x);
    if (op->canceled)
        s3_transport_cancel(&op->x);
}

static void op_canceled(struct op *op)
{
    (void)err_set(&op->req->err, ERR_CANCELED, "canceled");
    (void)s3_error_where(&op->store->target, op->x.verb, op->x.key, &op->req->err);
    op_end(op);
}

static void on_body(void *arg)
{
    struct op *op = arg;
    assert(op->magic == OP_MAGIC);
    if (op->sending) {
        s3_transport_body_event(&op->x);
        return;
    }
    const struct err *e = s3_body_error(op->body);
    if (op->canceled) {
        op_canceled(op);
    } else if (e) {
        struct err copy = *e;
        (void)s3_error_where(&op->store->target, op->x.verb, op->x.key, &copy);
        op_fail(op, &copy);
    } else {
        op_send(op);
    }
}

static void op_start(struct op *op)
{
    op->started = true;
    op->store->started++;
    if (op->canceled)
        op_canceled(op);
    else if (!op->body || s3_body_hash(op->body))
        op_send(op);
}

/* the first that may start: canceled ones do not wait for their turn */
static struct op *startable(const struct store_s3 *s)
{
    if (!s->canceled && s->started >= s->base.connections)
        return NULL;
    for (struct op *op = s->first; op; op = op->next) {
        if (!op->started && (op->canceled || s->started < s->base.connections))
            return op;
    }
    return NULL;
}

static void on_poke(void *arg)
{
    struct store_s3 *s = arg;
    for (struct op *op; (op = startable(s));)
        op_start(op); /* its done() may come from inside and change the queue */
    s->canceled = false;
    maybe_close(s);
}

/* ---- answers ------------------------------------------------------------------------------- */

static void next_marker(struct op *op, const char *marker)
{
    char *copy = util_strdup(marker);
    free(op->marker);
    op->marker = copy;
    op->x.marker = copy;
}

/* Deliver one page; 1: another one is needed. */
static int deliver(struct op *op, struct err *e)
{
    struct s3_page *page = &op->x.page;
    size_t skip = strlen(op->store->path);
    for (size_t i = 0; i < page->n; i++) {
        if (op->canceled)
            return err_set(e, ERR_CANCELED, "canceled");
        struct store_object o = {page->item[i].key + skip, page->item[i].size,
                                 page->item[i].mtime_ms};
        int r = op->item(op->item_arg, &o, e);
        if (r < 0)
            return e->code ? r : err_set(e, (enum err_code)-r, "refused by the receiver");
    }
    if (!page->truncated)
        return 0;
    next_marker(op, page->next_marker);
    return 1;
}

static void next_key(struct op *op)
{
    free(op->key);
    op->key = util_printf("%s%s", op->store->path, op->keys[op->at_key]);
    op->x.key = op->key;
}

static void on_xfer(struct s3_xfer *x)
{
    struct op *op = x->data;
    assert(op->magic == OP_MAGIC);
    int more = 0;
    op->sending = false;
    struct err e = x->err;
    if (!e.code && x->verb == S3_LIST) {
        more = deliver(op, &e);
        if (more < 0)
            (void)s3_error_where(&op->store->target, x->verb, x->key, &e);
    }
    s3_page_done(&x->page);
    if (!e.code && x->verb == S3_DELETE && ++op->at_key < op->n_keys) {
        next_key(op);
        more = 1;
    }
    if (e.code)
        op_fail(op, &e);
    else if (more > 0)
        op_send(op);
    else
        op_end(op);
}

/* ---- the interface ------------------------------------------------------------------------- */

static struct op *op_new(struct store *base, struct store_req *req, enum s3_verb verb,
                         const char *key)
{
    struct store_s3 *s = CONTAINER_OF(base, struct store_s3, base);
    struct op *op = util_zalloc(sizeof *op);
    op->magic = OP_MAGIC;
    op->store = s;
    op->req = req;
    op->key = util_printf("%s%s", s->path, key);
    op->x.verb = verb;
    op->x.key = op->key;
    op->x.len = UINT64_MAX;
    op->x.marker = "";
    op->x.progress = &req->bytes;
    op->x.done = on_xfer;
    op->x.data = op;
    op->prev = s->last;
    if (op->prev)
        op->prev->next = op;
    else
        s->first = op;
    s->last = op;
    req->impl = op;
    poke_soon(s);
    return op;
}

static void s3_put(struct store *s, struct store_req *req, const char *key,
                   const struct store_body *body, const struct store_meta *meta, unsigned flags)
{
    if (body->size > PUT_MAX_BYTES) {
        (void)err_set(&req->err, ERR_UNSUPPORTED, "\"%s\" has %llu bytes, and S3 takes at most "
                      "5 GiB in one piece", key, (unsigned long long)body->size);
        store_finish_later(req);
        return;
    }
    struct op *op = op_new(s, req, S3_PUT, key);
    op->body = s3_body_new(s->loop, body, on_body, op);
    op->x.body = op->body;
    op->x.if_absent = flags & STORE_IF_ABSENT;
    if (meta)
        op->x.meta = *meta;
}

static void s3_get(struct store *s, struct store_req *req, const char *key, uint64_t off,
                   uint64_t len, store_sink_fn sink, void *arg, struct store_info *ret_info)
{
    struct op *op = op_new(s, req, S3_GET, key);
    op->x.off = off;
    op->x.len = len;
    op->x.sink = sink;
    op->x.sink_arg = arg;
    op->x.ret_info = ret_info;
}

static void s3_list(struct store *s, struct store_req *req, const char *prefix, const char *after,
                    store_item_fn item, void *arg)
{
    struct op *op = op_new(s, req, S3_LIST, prefix);
    op->item = item;
    op->item_arg = arg;
    if (after[0]) {
        op->marker = util_printf("%s%s", op->store->path, after);
        op->x.marker = op->marker;
    }
}

static void s3_delete(struct store *s, struct store_req *req, const char *const *keys, size_t n)
{
    struct op *op = op_new(s, req, S3_DELETE, keys[0]);
    op->keys = keys;
    op->n_keys = n;
}

static void s3_head(struct store *s, struct store_req *req, const char *key,
                    struct store_info *ret_info)
{
    struct op *op = op_new(s, req, S3_HEAD, key);
    op->x.ret_info = ret_info;
}

static void op_cancel(struct op *op)
{
    op->canceled = true;
    if (op->sending) {
        s3_transport_cancel(&op->x);
    } else if (!op->started) {
        op->store->canceled = true;
        poke_soon(op->store);
    }
    /* else: it is being hashed, and on_body looks */
}

static void s3_cancel(struct store_req *req)
{
    op_cancel(req->impl);
}

static void s3_close(struct store *base)
{
    struct store_s3 *s = CONTAINER_OF(base, struct store_s3, base);
    base->impl_closing = true;
    for (struct op *op = s->first; op; op = op->next)
        op_cancel(op);
    poke_soon(s);
}

static void target_done(struct s3_target *t)
{
    free(t->name);
    free(t->endpoint);
    free(t->host);
    free(t->bucket);
    free(t->region);
    free(t->ca_file);
    free(t->storage_class);
    cred_done(&t->cred);
}

static void s3_free(struct store *base)
{
    struct store_s3 *s = CONTAINER_OF(base, struct store_s3, base);
    target_done(&s->target);
    free(s->path);
    free(s);
}

static const struct store_ops ops = {s3_put,  s3_get,    s3_list,  s3_delete,
                                     s3_head, s3_cancel, s3_close, s3_free, NULL};

/* ---- opening ------------------------------------------------------------------------------- */

static char *copy_if_given(const char *s)
{
    return s && *s ? util_strdup(s) : NULL;
}

static uint64_t ms_from_env(const char *name, uint64_t otherwise)
{
    const char *v = getenv(name);
    uint64_t ms = v ? strtoull(v, NULL, 10) : 0;
    return ms ? ms : otherwise;
}

static int fill_target(const struct conf_target *c, struct s3_target *t, struct err *e)
{
    const char *sep = c->endpoint ? strstr(c->endpoint, "://") : NULL;
    t->name = util_strdup(c->name ? c->name : "");
    t->https = sep && !strncmp(c->endpoint, "https://", 8);
    if (!sep || (!t->https && strncmp(c->endpoint, "http://", 7)) || !sep[3] ||
        strpbrk(sep + 3, "/?#@ \t")) {
        (void)err_set(e, ERR_CONFIG, "target %s: endpoint \"%s\" is not scheme://host[:port]",
                      t->name, c->endpoint ? c->endpoint : "");
        return err_hint(e, "write endpoint = https://host in [target %s]; bucket and path have "
                           "keys of their own", t->name);
    }
    if (!c->bucket || !*c->bucket || strpbrk(c->bucket, "/?#@% \t")) {
        (void)err_set(e, ERR_CONFIG, "target %s: \"%s\" is no name of a bucket", t->name,
                      c->bucket ? c->bucket : "");
        return err_hint(e, "write bucket = NAME in [target %s]", t->name);
    }
    const char *host = sep + 3;
    t->aws = strstr(host, ".amazonaws.com") != NULL;
    t->virtual_host = c->addressing == CONF_ADDR_VIRTUAL ||
                      (c->addressing == CONF_ADDR_AUTO && t->aws);
    /* a dot in the bucket's name is one too many for the wildcard of Amazon's certificate */
    if (c->addressing == CONF_ADDR_AUTO && t->https && strchr(c->bucket, '.'))
        t->virtual_host = false;
    t->host = t->virtual_host ? util_printf("%s.%s", c->bucket, host) : util_strdup(host);
    size_t n = strlen(t->host), port = t->https ? 4 : 3;
    if (n > port && !strcmp(t->host + n - port, t->https ? ":443" : ":80"))
        t->host[n - port] = '\0'; /* as curl and every server writes it */
    t->endpoint = util_strdup(c->endpoint);
    t->bucket = util_strdup(c->bucket);
    t->region = util_strdup(c->region && *c->region ? c->region : "us-east-1");
    t->ca_file = copy_if_given(c->ca_file);
    t->storage_class = copy_if_given(c->storage_class);
    t->skip_verify = c->skip_verify;
    t->max_connections = c->max_connections ? c->max_connections : DEFAULT_CONNECTIONS;
    t->bandwidth_limit_bytes = c->bandwidth_limit_bytes;
    t->connect_ms = ms_from_env("WALSUP_TEST_S3_CONNECT_MS", DEFAULT_CONNECT_MS);
    t->idle_ms = ms_from_env("WALSUP_TEST_S3_IDLE_MS", DEFAULT_IDLE_MS);
    return cred_load(c, &t->cred, e);
}

int store_s3_new(uv_loop_t *loop, const struct conf_target *c, struct store **ret, struct err *e)
{
    struct store_s3 *s = util_zalloc(sizeof *s);
    int r = fill_target(c, &s->target, e);
    if (r == 0)
        r = s3_transport_new(loop, &s->target, &s->transport, e);
    if (r < 0) {
        target_done(&s->target);
        free(s);
        return r;
    }
    bool path = c->path && *c->path;
    s->path = path ? util_printf("%s/", c->path) : util_strdup("");
    s->base.ops = &ops;
    s->base.connections = s->target.max_connections;
    s->base.describe = util_printf("%s/%s%s%s as key id %s", s->target.endpoint, s->target.bucket,
                                   path ? "/" : "", path ? c->path : "", s->target.cred.key_id);
    *ret = &s->base;
    return 0;
}
