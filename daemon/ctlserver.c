#include "daemon/ctlserver_int.h"

#include <inttypes.h>
#include <poll.h>
#include <sys/socket.h>

#include <grp.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/format/proto.h"
#include "common/store/work.h"
#include "daemon/doorway.h"
#include "daemon/walls.h"

#define BACKLOG 64
#define MAX_CLIENTS 64
#define MAX_CLIENTS_OTHERS 48    /* so that root and the daemon's user always get in */
#define MAX_CLIENTS_PER_UID 4    /* but for these two: their tools run in numbers */
#define MAX_REFUSALS 64          /* that are told why; the others are just closed */
#define MAX_QUEUED (64u << 20)   /* bytes of answers that nobody has read yet, over all clients */
#define IDLE_MS 60000            /* a client that says nothing for so long is dropped */
#define CALL_MS 5000             /* a call that has begun must be there as a whole by then */
#define READ_MS 5000             /* and of an answer something must have been read */
#define REFUSED_MS 1000          /* refusals are logged so often at most */

enum role { ROLE_NONE, ROLE_READER, ROLE_ADMIN };

struct client {
    struct ctlserver *server;
    uv_pipe_t pipe;
    uv_timer_t timer; /* what it is for: wait */
    enum wait_for { WAIT_CALL, WAIT_REST, WAIT_US, WAIT_READER, WAIT_NEXT } wait;
    struct buf in;
    struct ucred cred;
    enum role role;
    enum { COUNTS_NOT, COUNTS_AS_CLIENT, COUNTS_AS_REFUSED } counts;
    bool closing, busy; /* busy: a call is being answered; the next one waits */
    bool more;          /* it asked for a stream of answers */
    void (*again)(struct client *cl, json_t *p); /* of a stream: makes the next one */
    json_t *again_p;
    uint64_t again_ms;
    size_t unread; /* of the answer, when the timer was started */
    unsigned refs; /* handles open, writes and calls under way */
    void (*abandon)(void *arg); /* of a call that is kept waiting, ctl_hold() */
    void *held;
    char *file; /* made for it, and removed when it goes; or NULL */
    struct client *next;
};

struct ctlserver {
    struct manager *m;
    struct doorway door;
    struct ctl_socket socket;
    gid_t readers; /* the group that may ask for the status; (gid_t)-1: there is none */
    struct client *client;
    unsigned n_clients, n_refused; /* that are not on their way out */
    size_t queued;
    uint64_t refused_ms; /* when a refusal was logged; since then refused more */
    unsigned refused;
    bool closing, door_closed;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* ---- clients: life and death ------------------------------------------------------------------- */

static void maybe_closed(struct ctlserver *c)
{
    if (!c->closing || !c->door_closed || c->client)
        return;
    void (*closed)(void *) = c->closed;
    void *arg = c->closed_arg;
    ctl_socket_done(&c->socket);
    free(c);
    if (closed)
        closed(arg);
}

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
    maybe_closed(c);
}

static void on_client_handle_closed(uv_handle_t *h)
{
    client_unref(h->data);
}

static void client_close(struct client *cl)
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

static void wait_for(struct client *cl, enum wait_for what, uint64_t ms)
{
    cl->wait = what;
    cl->unread = unread(cl);
    if (what == WAIT_US)
        (void)uv_timer_stop(&cl->timer);
    else
        (void)uv_timer_start(&cl->timer, on_deadline, ms, 0);
}

/* A call that drips in gets no new time for each drop. */
static void wait_for_call(struct client *cl)
{
    if (!cl->in.len)
        wait_for(cl, WAIT_CALL, IDLE_MS);
    else if (cl->wait != WAIT_REST)
        wait_for(cl, WAIT_REST, CALL_MS);
}

static void on_deadline(uv_timer_t *t)
{
    struct client *cl = t->data;
    if (cl->wait == WAIT_NEXT) {
        wait_for(cl, WAIT_US, 0);
        cl->again(cl, cl->again_p);
    } else if (cl->wait == WAIT_READER && unread(cl) < cl->unread) {
        wait_for(cl, WAIT_READER, READ_MS); /* slow, but it reads */
    } else {
        client_close(cl);
    }
}

/* ---- replies ----------------------------------------------------------------------------------- */

enum reply_kind {
    REPLY,
    REPLY_CONTINUES, /* of a stream */
    REPLY_PIECE,     /* of a message; ctl_stream_next() sends the next one */
    REPLY_LAST,      /* close after it: the client broke the protocol, or has no business here */
};

struct reply {
    uv_write_t req;
    struct client *client;
    struct buf b;
    enum reply_kind kind;
    struct ctl_stream *stream; /* of a piece */
};

static void take_calls(struct client *cl);

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
        wait_for(cl, WAIT_NEXT, cl->again_ms);
    } else if (!cl->closing) {
        cl->busy = false;
        json_decref(TAKE_PTR(cl->again_p));
        take_calls(cl);
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
        wait_for(cl, WAIT_READER, READ_MS);
        return;
    }
    struct ctl_stream *stream = r->stream;
    reply_free(r);
    client_close(cl);
    if (stream)
        ctl_stream_next(stream, false);
    client_unref(cl);
}

static void reply(struct client *cl, json_t *msg, enum reply_kind kind)
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
    reply(cl, msg, REPLY);
}

void ctl_reply_ok(struct client *cl, json_t *parameters)
{
    reply(cl, proto_make_reply(parameters, false), REPLY);
}

void ctl_reply_err(struct client *cl, const struct err *e)
{
    reply(cl, proto_make_error(e), REPLY);
}

void ctl_reply_varlink(struct client *cl, const char *error, const char *key, const char *value, const struct err *e)
{
    json_t *msg = proto_make_error(e);
    json_object_set_new(msg, "error", json_string(error));
    json_object_set_new(json_object_get(msg, "parameters"), key, proto_text(value));
    reply(cl, msg, REPLY);
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

/* Said once a second at most, whoever tries how often. */
static void log_refused(struct client *cl, const char *method)
{
    struct ctlserver *c = cl->server;
    uint64_t now = clk_mono_ms();
    if (c->refused_ms && now < c->refused_ms + REFUSED_MS) {
        c->refused++;
        return;
    }
    char more[40] = "";
    if (c->refused)
        (void)snprintf(more, sizeof more, " (and %u before it)", c->refused);
    log_about(LOG_CONTROL_REFUSED, NULL, NULL, NULL);
    log_line(LOG_WARN, "control: %.100s refused to uid %u gid %u%s", method, (unsigned)cl->cred.uid,
             (unsigned)cl->cred.gid, more);
    c->refused_ms = now;
    c->refused = 0;
}

static bool may(struct client *cl, const char *method, bool admin)
{
    struct err e;
    if (cl->role == ROLE_ADMIN || (cl->role == ROLE_READER && !admin))
        return true;
    log_refused(cl, method);
    err_set(&e, ERR_PERM, cl->role == ROLE_READER ? "%.100s is for root and the daemon's user"
                                                  : "%.100s is for root, the daemon's user and the group walsup", method);
    reply(cl, proto_make_error(&e), cl->role == ROLE_READER ? REPLY : REPLY_LAST);
    return false;
}

static void dispatch(struct client *cl, const struct proto_call *call)
{
    const struct ctl_method *method = ctl_method_find(call->method);
    cl->more = call->more;
    if (!may(cl, call->method, method && method->admin))
        return;
    if (!method) {
        ctl_method_unknown(cl, call->method);
        return;
    }
    if (method->admin) {
        log_about(LOG_CONTROL, NULL, NULL, NULL);
        log_line(LOG_INFO, "control: %s by uid %u gid %u", call->method, (unsigned)cl->cred.uid, (unsigned)cl->cred.gid);
    }
    method->call(cl, call->parameters);
}

/* ---- reading ----------------------------------------------------------------------------------- */

static void protocol_error(struct client *cl, const struct err *e)
{
    (void)uv_read_stop((uv_stream_t *)&cl->pipe);
    cl->busy = true;
    reply(cl, proto_make_error(e), REPLY_LAST);
}

static void take_calls(struct client *cl)
{
    struct err e;
    while (!cl->busy && !cl->closing) {
        json_t *msg = NULL;
        int r = proto_next(&cl->in, PROTO_MAX_CALL, &msg, &e);
        if (r > 0) {
            wait_for_call(cl);
            return;
        }
        struct proto_call call;
        if (r == 0)
            r = proto_call_parse(msg, &call, &e);
        if (msg)
            json_decref(msg);
        if (r < 0) {
            protocol_error(cl, &e);
            return;
        }
        cl->busy = true;
        wait_for(cl, WAIT_US, 0);
        dispatch(cl, &call);
        proto_call_done(&call);
    }
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *ret)
{
    (void)hint;
    struct client *cl = h->data;
    uint8_t *p = buf_reserve(&cl->in, 4096);
    *ret = uv_buf_init((char *)p, p ? 4096 : 0);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    (void)b;
    struct client *cl = s->data;
    if (n < 0) {
        client_close(cl);
        return;
    }
    cl->in.len += (size_t)n;
    if (cl->busy && cl->in.len > PROTO_MAX_CALL) {
        client_close(cl);
        return;
    }
    take_calls(cl);
}

/* ---- who comes --------------------------------------------------------------------------------- */

static bool in_group(int fd, gid_t primary, gid_t group)
{
    if (group == (gid_t)-1)
        return false;
    if (primary == group)
        return true;
    socklen_t len = 0;
    (void)getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &len); /* says how many there are */
    cleanup_free gid_t *list = util_zalloc(MAX((size_t)len, sizeof *list));
    if (!len || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, list, &len) < 0)
        return false;
    for (size_t i = 0; i < len / sizeof *list; i++)
        if (list[i] == group)
            return true;
    return false;
}

static bool is_admin(const struct client *cl)
{
    return cl->cred.uid == 0 || cl->cred.uid == geteuid();
}

/* Their identity is that of the moment they connected. */
static bool identify(struct client *cl)
{
    uv_os_fd_t fd;
    socklen_t len = sizeof cl->cred;
    if (uv_fileno((uv_handle_t *)&cl->pipe, &fd) < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cl->cred, &len) < 0)
        return false;
    cl->role = is_admin(cl)                                          ? ROLE_ADMIN
               : in_group(fd, cl->cred.gid, cl->server->readers)     ? ROLE_READER
                                                                     : ROLE_NONE;
    return true;
}

static bool too_many(const struct client *cl)
{
    const struct ctlserver *c = cl->server;
    unsigned same = 0;
    if (is_admin(cl))
        return c->n_clients >= MAX_CLIENTS;
    for (const struct client *o = c->client; o; o = o->next)
        same += o->counts == COUNTS_AS_CLIENT && !o->closing && o->cred.uid == cl->cred.uid;
    return c->n_clients >= MAX_CLIENTS_OTHERS || same >= MAX_CLIENTS_PER_UID;
}

/* Who has gone makes room, although that was not read yet: many may come and go between two looks. */
static void forget_gone(struct ctlserver *c)
{
    for (struct client *cl = c->client, *next; cl; cl = next) {
        uv_os_fd_t fd;
        next = cl->next;
        struct pollfd p = {-1, 0, 0};
        if (!cl->closing && uv_fileno((uv_handle_t *)&cl->pipe, &fd) == 0)
            p.fd = fd;
        if (poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)))
            client_close(cl);
    }
}

static void turn_away(struct client *cl)
{
    struct err e;
    if (cl->server->n_refused >= MAX_REFUSALS) {
        client_close(cl);
        return;
    }
    cl->counts = COUNTS_AS_REFUSED;
    cl->server->n_refused++;
    err_set(&e, ERR_BUSY, "too many connections to walsupd");
    err_hint(&e, "try again in a moment");
    cl->busy = true;
    reply(cl, proto_make_error(&e), REPLY_LAST);
}

static void come_in(struct doorway *d)
{
    struct ctlserver *c = CONTAINER_OF(d, struct ctlserver, door);
    uv_loop_t *loop = c->m->loop;
    struct client *cl = util_zalloc(sizeof *cl);
    cl->server = c;
    (void)uv_pipe_init(loop, &cl->pipe, 0);
    (void)uv_timer_init(loop, &cl->timer);
    cl->pipe.data = cl->timer.data = cl;
    cl->refs = 2;
    cl->next = c->client;
    c->client = cl;
    if (uv_accept((uv_stream_t *)&d->pipe, (uv_stream_t *)&cl->pipe) < 0 || !identify(cl)) {
        client_close(cl);
        return;
    }
    if (too_many(cl))
        forget_gone(c);
    if (cl->closing) /* it was one of those */
        return;
    if (too_many(cl)) {
        turn_away(cl);
    } else {
        cl->counts = COUNTS_AS_CLIENT;
        c->n_clients++;
        wait_for_call(cl);
        (void)uv_read_start((uv_stream_t *)&cl->pipe, on_alloc, on_read);
    }
}

/* ---- life -------------------------------------------------------------------------------------- */

int ctlserver_new(struct manager *m, const char *path, struct ctlserver **ret, struct err *e)
{
    struct ctl_socket socket;
    int r = ctl_socket_open(path, &socket, e);
    if (r < 0)
        return r;
    struct ctlserver *c = util_zalloc(sizeof *c);
    c->m = m;
    c->socket = socket;
    const struct group *g = getgrnam("walsup");
    c->readers = g ? g->gr_gid : (gid_t)-1;
    r = doorway_open(&c->door, m->loop, socket.fd, BACKLOG, come_in);
    if (r < 0) {
        ctl_socket_done(&c->socket);
        free(c);
        return err_set(e, ERR_IO, "listen on %s: %s", path, uv_strerror(r));
    }
    *ret = c;
    return 0;
}

static void on_door_closed(struct doorway *d)
{
    struct ctlserver *c = CONTAINER_OF(d, struct ctlserver, door);
    c->door_closed = true;
    maybe_closed(c);
}

void ctlserver_close(struct ctlserver *c, void (*closed)(void *arg), void *arg)
{
    c->closing = true;
    c->closed = closed;
    c->closed_arg = arg;
    for (struct client *cl = c->client; cl;) {
        struct client *next = cl->next;
        client_close(cl);
        cl = next;
    }
    doorway_close(&c->door, on_door_closed);
}
