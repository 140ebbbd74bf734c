/* An S3 bucket as a store: a queue of requests in front of the transport. Each request becomes one
 * transfer (PUT, GET, HEAD) or several in a row (pages of a LIST). */
#include "common/store/store_s3_int.h"

#include <assert.h>

#include "common/base/clk.h"
#include "common/store/retry.h"
#include "common/store/s3_class.h"

#define OP_MAGIC 0x53090b1eu
#define PAGE_TRIES 5u /* of one page of a listing, that the rate is too high for */
#define PAGE_WAIT_MAX_MS 5000u

/* ---- the queue ----------------------------------------------------------------------------- */

static void on_poke(void *arg);

void s3_poke(struct store_s3 *s)
{
    if (!s->closed)
        s3_transport_wake(s->transport, on_poke, s);
}

static void on_transport_closed(void *arg)
{
    struct store_s3 *s = arg;
    store_impl_closed(&s->base);
}

static void on_timer_closed(uv_handle_t *h)
{
    struct store_s3 *s = h->data;
    s3_transport_close(s->transport, on_transport_closed, s);
}

static void maybe_close(struct store_s3 *s)
{
    if (!s->base.impl_closing || s->first || s->closed || s->fetch.running || s->reading)
        return;
    s->closed = true;
    uv_close((uv_handle_t *)&s->timer, on_timer_closed);
}

static void op_gone(void *arg)
{
    struct s3_op *op = arg;
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
    if (s->prober == op)
        s->prober = NULL;
    free(op->key);
    free(op->marker);
    free(op->id_marker);
    free(op->create_key);
    buf_free(&op->document);
    s3_page_done(&op->swept);
    free(op->was);
    op->magic = 0;
    free(op);
    s3_poke(s);
    /* the store outlives this: it waits for on_poke, which sees the end of the queue */
    store_finish(req);
}

static void op_end(struct s3_op *op)
{
    struct s3_body *body = TAKE_PTR(op->body);
    if (body)
        s3_body_close(body, op_gone, op);
    else
        op_gone(op);
}

static void op_fail(struct s3_op *op, const struct err *e)
{
    op->req->err = *e;
    op_end(op);
}

static bool sends_object(const struct s3_xfer *x)
{
    return x->verb == S3_PUT || x->verb == S3_PART;
}

static void op_send(struct s3_op *op)
{
    op->sending = true;
    op->keys_turn = op->store->keys_turn;
    op->x.fresh = op->store->fresh;
    op->x.peer = &op->store->peer;
    if (op->store->digests && sends_object(&op->x))
        s3_body_digests(op->body, op->x.md5, op->x.sha256);
    s3_transport_send(op->store->transport, &op->x);
    if (op->canceled)
        s3_transport_cancel(&op->x);
}

/* what a body has been hashed for once it need not be again */
static void op_hash_and_send(struct s3_op *op)
{
    if (!op->body || s3_body_hash(op->body, op->store->digests))
        op_send(op); /* otherwise on_body does */
}

static void op_canceled(struct s3_op *op)
{
    (void)err_set(&op->req->err, ERR_CANCELED, "canceled");
    (void)s3_error_where(&op->store->target, op->x.verb, op->x.key, &op->req->err);
    op_end(op);
}

static void on_body(void *arg)
{
    struct s3_op *op = arg;
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

/* One request finds out whether the trouble is over; the others need not ask the server for what it
 * has just said. */
static bool is_parked(struct s3_op *op)
{
    struct store_s3 *s = op->store;
    if (!s->parked)
        return false;
    if ((s->prober && s->prober != op) || op->started_ms < s->parked_until_ms)
        return true;
    s->prober = op;
    return false;
}

static void op_fail_parked(struct s3_op *op)
{
    const struct store_s3 *s = op->store;
    struct err e = *s->parked;
    e.after_ms = 1000 + (uint32_t)(s->parked_until_ms - MIN(op->started_ms, s->parked_until_ms));
    op_fail(op, &e);
}

static void op_start(struct s3_op *op)
{
    op->started = true;
    op->started_ms = clk_mono_ms();
    op->store->started++;
    const struct err *no_keys = s3_keys_error(op->store);
    if (op->canceled)
        op_canceled(op);
    else if (no_keys)
        op_fail(op, no_keys);
    else if (is_parked(op))
        op_fail_parked(op);
    else
        op_hash_and_send(op);
}

static void on_timer(uv_timer_t *t)
{
    on_poke(t->data);
}

void s3_poke_in(struct store_s3 *s, uint64_t ms)
{
    (void)uv_timer_start(&s->timer, on_timer, ms, 0);
}

static bool may_start(struct store_s3 *s)
{
    if (!s3_trust_ready(s) || !s3_keys_ready(s))
        return false;
    if (s->parked) /* it fails at once, or is the one that asks */
        return s->started < s->base.connections;
    uint64_t wait = s3_pace_wait(&s->pace, s->started, clk_mono_ms());
    if (wait && wait != UINT64_MAX && !s->base.impl_closing)
        s3_poke_in(s, wait);
    return !wait;
}

/* the first that may start: canceled ones do not wait for their turn */
static struct s3_op *startable(struct store_s3 *s)
{
    struct s3_op *next = NULL;
    for (struct s3_op *op = s->first; op; op = op->next) {
        if (!op->started && op->canceled)
            return op;
        if (!op->started && !next)
            next = op;
        if (next && !s->canceled)
            break;
    }
    return next && may_start(s) ? next : NULL;
}

static void on_poke(void *arg)
{
    struct store_s3 *s = arg;
    for (struct s3_op *op; (op = startable(s));)
        op_start(op); /* its done() may come from inside and change the queue */
    s->canceled = false;
    maybe_close(s);
}

/* ---- answers ------------------------------------------------------------------------------- */

static void next_marker(struct s3_op *op, const char *marker)
{
    char *copy = util_strdup(marker);
    free(op->marker);
    op->marker = copy;
    op->x.marker = copy;
}

/* Deliver one page; 1: another one is needed. */
static int deliver(struct s3_op *op, struct err *e)
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

/* A listing of many pages would begin at its first page again, and again, where the store admits
 * few requests: so a page that is refused for that is asked for again. Not for long. */
static bool is_slowed(struct s3_op *op, const struct err *e)
{
    return e->retry == RETRY_SLOW && e->after_ms < PAGE_WAIT_MAX_MS && op->refused++ < PAGE_TRIES;
}

static int on_page(struct s3_op *op, struct err *e)
{
    if (e->code && is_slowed(op, e)) {
        err_clear(e);
        return 1;
    }
    if (e->code)
        return -(int)e->code;
    op->refused = 0;
    int more = deliver(op, e);
    return more < 0 ? s3_error_where(&op->store->target, op->x.verb, op->x.key, e) : more;
}

static void park(struct store_s3 *s, const struct err *e)
{
    if (!s->parked)
        s->parked = util_alloc(sizeof *s->parked);
    *s->parked = *e;
    (void)err_wrap(s->parked, "not tried again yet, since another request was refused");
    s->parked_until_ms = clk_mono_ms() + retry_park_ms() + util_random_below(retry_park_ms());
}

static void note_peer(struct store_s3 *s, const struct s3_answer *a)
{
    s->peer.status = a->status;
    (void)snprintf(s->peer.code, sizeof s->peer.code, "%s", a->code);
    s->peer.region = s->target.region;
    s->peer.key_id = s->target.cred.key_id;
    s->peer.key_source = s->target.cred.source;
}

/* Whether these keys were refused, and others may be in their files. */
static bool keys_refused(const struct s3_op *op)
{
    return op->store->target.cred.kind == CRED_STATIC && s3_refuses_keys(&op->x.answer);
}

/* What this answer means for those to come. */
static enum outcome {
    OUTCOME_FINAL,
    OUTCOME_AGAIN /* signed again it may succeed */,
    OUTCOME_DIGEST /* with a digest */,
    OUTCOME_HELD
} note_outcome(struct s3_op *op)
{
    struct store_s3 *s = op->store;
    const struct s3_answer *a = &op->x.answer;
    const struct err *e = &op->x.err;
    enum retry_class class = e->code ? (enum retry_class)e->retry : RETRY_UNKNOWN;
    if (!e->code || (class == RETRY_PARK && e->code == ERR_NOTFOUND && !s3_of_account(a->code)) ||
        class == RETRY_CONFLICT) {
        s->fresh = false; /* it works: also if it is only to say that there is no such object */
        s->fetch.refused = false;
        s3_pace_ok(&s->pace, op->started_ms);
        free(TAKE_PTR(s->parked));
        return OUTCOME_FINAL;
    }
    if (e->code == ERR_CANCELED)
        return OUTCOME_FINAL;
    s->fresh = a->status == 0;
    if (s3_is_of_trust(a))
        s3_trust_doubt(s);
    if (!op->canceled && !op->signed_again && keys_refused(op)) {
        op->signed_again = true;
        return OUTCOME_HELD;
    }
    if (!op->canceled && !op->signed_again && s3_learn(&s->target, a)) {
        op->signed_again = true;
        return OUTCOME_AGAIN;
    }
    if (!op->canceled && !op->digested && sends_object(&op->x) && s3_wants_digest(a)) {
        s->digests = s->peer.digests = op->digested = true;
        return OUTCOME_DIGEST;
    }
    s3_pace_failed(&s->pace, class, a->retry_after_ms, op->started_ms, clk_mono_ms());
    /* fetched keys: others will be there in a moment; only if those are refused as well is it worth a pause */
    bool once = s->target.cred.kind != CRED_STATIC && !s->fetch.refused;
    s->fetch.refused = true;
    if (s->base.shared && s3_of_account(a->code) && !once)
        park(s, e);
    return OUTCOME_FINAL;
}

static void op_again(struct s3_op *op)
{
    if (op->body)
        s3_body_rewind(op->body);
    op_send(op);
}

static void on_body_closed(void *arg)
{
    struct s3_op *op = arg;
    s3_op_body(op, &op->what);
    op_hash_and_send(op);
}

static void op_with_digest(struct s3_op *op)
{
    op->what = *s3_body_what(op->body);
    s3_body_close(TAKE_PTR(op->body), on_body_closed, op);
}

/* The next request of the same operation waits for its turn like every other. It stands before
 * those that came later. */
static void op_continue(struct s3_op *op)
{
    op->started = false;
    op->store->started--;
    s3_poke(op->store);
}

static void op_answered(struct s3_op *op)
{
    struct s3_xfer *x = &op->x;
    struct err e = x->err;
    int more = op->answer ? op->answer(op, &e) : -(int)e.code;
    s3_page_done(&x->page);
    if (more < 0)
        op_fail(op, &e);
    else if (more > 0)
        op_continue(op);
    else
        op_end(op);
}

static void op_noted(struct s3_op *op, enum outcome how)
{
    note_peer(op->store, &op->x.answer);
    op->held = how == OUTCOME_HELD;
    if (op->held)
        s3_keys_reread(op->store);
    else if (how == OUTCOME_AGAIN)
        op_again(op);
    else if (how == OUTCOME_DIGEST)
        op_with_digest(op);
    else
        op_answered(op);
}

static void on_xfer(struct s3_xfer *x)
{
    struct s3_op *op = x->data;
    assert(op->magic == OP_MAGIC);
    enum outcome how = note_outcome(op);
    op->sending = false;
    op_noted(op, how);
}

static struct s3_op *first_held(const struct store_s3 *s)
{
    struct s3_op *op = s->first;
    while (op && !op->held)
        op = op->next;
    return op;
}

void s3_ops_resume(struct store_s3 *s)
{
    for (struct s3_op *op; (op = first_held(s));) { /* its done() may change the queue */
        op->held = false;
        if (op->canceled)
            op_canceled(op);
        else if (op->keys_turn != s->keys_turn)
            op_again(op);
        else
            op_noted(op, note_outcome(op)); /* as it was answered: it is not held twice */
    }
}

/* ---- the interface ------------------------------------------------------------------------- */

struct s3_op *s3_op_new(struct store *base, struct store_req *req, enum s3_verb verb,
                        const char *key, int (*answer)(struct s3_op *op, struct err *e))
{
    struct store_s3 *s = CONTAINER_OF(base, struct store_s3, base);
    struct s3_op *op = util_zalloc(sizeof *op);
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
    op->answer = answer;
    op->prev = s->last;
    if (op->prev)
        op->prev->next = op;
    else
        s->first = op;
    s->last = op;
    req->impl = op;
    s3_poke(s);
    return op;
}

void s3_op_body(struct s3_op *op, const struct store_body *body)
{
    op->body = s3_body_new(op->store->base.loop, body, on_body, op);
    op->x.body = op->body;
}

bool s3_asks_condition(const struct store *s, unsigned flags)
{
    return (flags & STORE_IF_ABSENT) && s->fencing != STORE_FENCING_OFF;
}

static void s3_put(struct store *s, struct store_req *req, const char *key,
                   const struct store_body *body, const struct store_meta *meta, unsigned flags)
{
    struct s3_op *op = s3_op_new(s, req, S3_PUT, key, NULL);
    s3_op_body(op, body);
    op->x.if_absent = s3_asks_condition(s, flags);
    if (meta)
        op->x.meta = *meta;
}

static void s3_get(struct store *s, struct store_req *req, const char *key, uint64_t off,
                   uint64_t len, store_sink_fn sink, void *arg, struct store_info *ret_info)
{
    struct s3_op *op = s3_op_new(s, req, S3_GET, key, NULL);
    op->x.off = off;
    op->x.len = len;
    op->x.sink = sink;
    op->x.sink_arg = arg;
    op->x.ret_info = ret_info;
}

static void s3_list(struct store *s, struct store_req *req, const char *prefix, const char *after,
                    store_item_fn item, void *arg)
{
    struct s3_op *op = s3_op_new(s, req, S3_LIST, prefix, on_page);
    op->item = item;
    op->item_arg = arg;
    if (after[0]) {
        op->marker = util_printf("%s%s", op->store->path, after);
        op->x.marker = op->marker;
    }
}

static void s3_head(struct store *s, struct store_req *req, const char *key,
                    struct store_info *ret_info)
{
    struct s3_op *op = s3_op_new(s, req, S3_HEAD, key, NULL);
    op->x.ret_info = ret_info;
}

static void op_cancel(struct s3_op *op)
{
    op->canceled = true;
    if (op->sending) {
        s3_transport_cancel(&op->x);
    } else if (!op->started) {
        op->store->canceled = true;
        s3_poke(op->store);
    }
    /* else: it is being hashed, or held: on_body, s3_ops_resume look */
}

static void s3_cancel(struct store_req *req)
{
    op_cancel(req->impl);
}

static void s3_close(struct store *base)
{
    struct store_s3 *s = CONTAINER_OF(base, struct store_s3, base);
    base->impl_closing = true;
    for (struct s3_op *op = s->first; op; op = op->next)
        op_cancel(op);
    s3_poke(s);
}

static void s3_free(struct store *base)
{
    struct store_s3 *s = CONTAINER_OF(base, struct store_s3, base);
    s3_target_done(&s->target);
    free(s->parked);
    free(s->path);
    free(s);
}

static const struct store_ops ops = {
    s3_put, s3_get, s3_list, s3_delete, s3_head, s3_cancel, s3_close, s3_free,
    s3_upload_begin, s3_upload_add, s3_upload_finish, s3_upload_abort, s3_upload_free, s3_sweep,
    NULL};

int store_s3_new(uv_loop_t *loop, const struct conf_target *c, struct store **ret, struct err *e)
{
    struct store_s3 *s = util_zalloc(sizeof *s);
    int r = s3_target_fill(c, &s->target, e);
    if (r == 0)
        r = s3_transport_new(loop, &s->target, &s->transport, e);
    if (r < 0) {
        s3_target_done(&s->target);
        free(s);
        return c->by_url ? s3_hint_for_url(c->name, e) : r;
    }
    bool path = c->path && *c->path;
    s->path = path ? util_printf("%s/", c->path) : util_strdup("");
    s->base.ops = &ops;
    s->base.connections = s->target.max_connections;
    s->base.peer = &s->peer;
    s->peer.skip_verify = s->target.skip_verify;
    s->peer.provider = s->target.provider->title;
    (void)uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    s3_pace_init(&s->pace, s->base.connections, clk_mono_ms());
    s->base.put_bytes = s->target.put_bytes;
    s->base.part_bytes = s->target.part_bytes;
    s->base.max_parts = s->target.max_parts;
    s->deletes_singly = s->target.provider->deletes_singly;
    s->base.parallel_parts = s->target.parallel_parts;
    const struct cred *keys = &s->target.cred; /* fetched ones change */
    s->base.describe = util_printf("%s/%s%s%s %s %s", s->target.endpoint, s->target.bucket,
                                   path ? "/" : "", path ? c->path : "",
                                   keys->kind == CRED_STATIC ? "as key id" : "with the keys of",
                                   keys->kind == CRED_STATIC ? keys->key_id : keys->source);
    *ret = &s->base;
    return 0;
}
