#include "daemon/control/ctlserver_client.h"

#include <inttypes.h>

#include "common/format/proto.h"
#include "common/store/work.h"
#include "daemon/os/walls.h"

#define MAX_QUEUED (64u << 20) /* bytes of answers that nobody has read yet, over all clients */
#define READ_MS 5000           /* of an answer something must have been read by then */

/* ---- clients: life and death ------------------------------------------------------------------- */

void ctl_file(struct client *cl, char *path)
{
    if (cl->file)
        work_unlink(cl->server->m->loop, WALL_OWN, cl->file);
    cl->file = path;
}

static void client_unref(struct client *cl)
{
    if (--cl->refs)
        return;
    struct ctlserver *c = cl->server;
    for (struct client **p = &c->client; *p; p = &(*p)->next)
        if (*p == cl) {
            *p = cl->next;
            break;
        }
    ctl_file(cl, NULL);
    buf_free(&cl->in);
    json_decref(cl->again_p);
    free(cl);
    c->client_gone(c);
}

static void on_client_handle_closed(uv_handle_t *h)
{
    client_unref(h->data);
}

void client_close(struct client *cl)
{
    if (cl->closing)
        return;
    cl->closing = true;
    cl->server->n_clients -= cl->counts == COUNTS_AS_CLIENT;
    cl->server->n_refused -= cl->counts == COUNTS_AS_REFUSED;
    if (cl->held)
        cl->abandon(cl->held);
    uv_close((uv_handle_t *)&cl->pipe, on_client_handle_closed);
    uv_close((uv_handle_t *)&cl->timer, on_client_handle_closed);
}

/* ---- deadlines --------------------------------------------------------------------------------- */

static void on_deadline(uv_timer_t *t);

static size_t unread(const struct client *cl)
{
    return uv_stream_get_write_queue_size((const uv_stream_t *)&cl->pipe);
}

void client_wait(struct client *cl, enum wait_for what, uint64_t ms)
{
    cl->wait = what;
    cl->unread = unread(cl);
    if (what == WAIT_US)
        (void)uv_timer_stop(&cl->timer);
    else
        (void)uv_timer_start(&cl->timer, on_deadline, ms, 0);
}

static void on_deadline(uv_timer_t *t)
{
    struct client *cl = t->data;
    if (cl->wait == WAIT_NEXT) {
        client_wait(cl, WAIT_US, 0);
        cl->again(cl, cl->again_p);
    } else if (cl->wait == WAIT_READER && unread(cl) < cl->unread) {
        client_wait(cl, WAIT_READER, READ_MS); /* slow, but it reads */
    } else {
        client_close(cl);
    }
}

/* ---- replies ----------------------------------------------------------------------------------- */

struct reply {
    uv_write_t req;
    struct client *client;
    struct buf b;
    enum reply_kind kind;
    struct ctl_stream *stream; /* of a piece */
};

static void reply_free(struct reply *r)
{
    r->client->server->queued -= r->b.len;
    buf_free(&r->b);
    free(r);
}

static void on_written(uv_write_t *req, int status)
{
    struct reply *r = req->data;
    struct client *cl = r->client;
    enum reply_kind kind = r->kind;
    struct ctl_stream *stream = r->stream;
    if (status < 0 || kind == REPLY_LAST)
        client_close(cl);
    reply_free(r);
    if (kind == REPLY_PIECE) {
        ctl_stream_next(stream, !cl->closing);
    } else if (!cl->closing && kind == REPLY_CONTINUES) {
        client_wait(cl, WAIT_NEXT, cl->again_ms);
    } else if (!cl->closing) {
        cl->busy = false;
        json_decref(TAKE_PTR(cl->again_p));
        cl->server->next_call(cl);
    }
    client_unref(cl);
}

/* More than all clients together may leave unread: this one hears that instead. */
static void too_much(struct buf *b)
{
    struct err e;
    buf_free(b);
    *b = (struct buf)BUF_INIT;
    err_set(&e, ERR_BUSY, "too many answers of walsupd wait to be read");
    err_hint(&e, "ask for less at a time, or later");
    proto_add(b, proto_make_error(&e));
}

static void send_off(struct client *cl, struct reply *r)
{
    r->client = cl;
    r->req.data = r;
    cl->server->queued += r->b.len;
    uv_buf_t b = uv_buf_init((char *)r->b.p, (unsigned)r->b.len);
    cl->refs++;
    if (uv_write(&r->req, (uv_stream_t *)&cl->pipe, &b, 1, on_written) == 0) {
        client_wait(cl, WAIT_READER, READ_MS);
        return;
    }
    struct ctl_stream *stream = r->stream;
    reply_free(r);
    client_close(cl);
    if (stream)
        ctl_stream_next(stream, false);
    client_unref(cl);
}

void client_reply(struct client *cl, json_t *msg, enum reply_kind kind)
{
    struct ctlserver *c = cl->server;
    if (cl->closing) {
        json_decref(msg);
        return;
    }
    struct reply *r = util_zalloc(sizeof *r);
    r->kind = kind;
    proto_add(&r->b, msg);
    if (c->queued && c->queued + r->b.len > MAX_QUEUED) {
        too_much(&r->b);
        r->kind = kind == REPLY_CONTINUES ? REPLY : kind;
    }
    send_off(cl, r);
}

void ctl_piece(struct client *cl, struct buf *b, struct ctl_stream *next)
{
    struct reply *r = util_zalloc(sizeof *r);
    r->kind = next ? REPLY_PIECE : cl->again_p ? REPLY_CONTINUES : REPLY;
    r->stream = next;
    r->b = *b;
    *b = (struct buf)BUF_INIT;
    send_off(cl, r);
}

void ctl_reply(struct client *cl, json_t *msg)
{
    client_reply(cl, msg, REPLY);
}

void ctl_reply_ok(struct client *cl, json_t *parameters)
{
    client_reply(cl, proto_make_reply(parameters, false), REPLY);
}

void ctl_reply_err(struct client *cl, const struct err *e)
{
    client_reply(cl, proto_make_error(e), REPLY);
}

void ctl_reply_varlink(struct client *cl, const char *error, const char *key, const char *value, const struct err *e)
{
    json_t *msg = proto_make_error(e);
    json_object_set_new(msg, "error", json_string(error));
    json_object_set_new(json_object_get(msg, "parameters"), key, proto_text(value));
    client_reply(cl, msg, REPLY);
}

bool ctl_wants_more(const struct client *cl)
{
    return cl->more;
}

void ctl_again(struct client *cl, uint64_t next_ms, void (*again)(struct client *cl, json_t *p), json_t *p)
{
    json_t *old = cl->again_p; /* maybe p itself */
    cl->again = again;
    cl->again_ms = next_ms;
    cl->again_p = json_incref(p);
    json_decref(old);
}

/* ---- methods ----------------------------------------------------------------------------------- */

json_t *ctl_hex(uint64_t v)
{
    char hex[17];
    (void)snprintf(hex, sizeof hex, "%016" PRIx64, v);
    return json_string(hex);
}

void ctl_hold(struct client *cl, void (*abandon)(void *arg), void *arg)
{
    cl->refs++;
    cl->abandon = abandon;
    cl->held = arg;
}

void ctl_release(struct client *cl)
{
    cl->held = NULL;
    client_unref(cl);
}

struct manager *ctl_manager(const struct client *cl)
{
    return cl->server->m;
}

unsigned ctl_uid(const struct client *cl)
{
    return (unsigned)cl->cred.uid;
}

int ctl_unpack(json_t *p, struct err *e, const char *fmt, ...)
{
    json_error_t je;
    va_list ap;
    va_start(ap, fmt);
    int r = json_vunpack_ex(p, &je, JSON_STRICT, fmt, ap);
    va_end(ap);
    return r < 0 ? err_set(e, ERR_USAGE, "bad parameters: %s", je.text) : 0;
}

int ctl_find_db(const struct manager *m, const char *name, struct database **ret, struct err *e)
{
    *ret = name ? manager_find(m, name) : NULL;
    if (!name || *ret)
        return 0;
    err_set(e, ERR_NOTFOUND, "no database is called %s, and none is configured with that path", name);
    return err_hint(e, "walsupctl list shows their names");
}
