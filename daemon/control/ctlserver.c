#include "daemon/control/ctlserver_client.h"

#include <grp.h>
#include <poll.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/format/proto.h"

#define BACKLOG 64
#define MAX_CLIENTS 64
#define MAX_CLIENTS_OTHERS 48    /* so that root and the daemon's user always get in */
#define MAX_CLIENTS_PER_UID 4    /* but for these two: their tools run in numbers */
#define MAX_REFUSALS 64          /* that are told why; the others are just closed */
#define IDLE_MS 60000            /* a client that says nothing for so long is dropped */
#define CALL_MS 5000             /* a call that has begun must be there as a whole by then */
#define REFUSED_MS 1000          /* refusals are logged so often at most */

/* ---- methods ----------------------------------------------------------------------------------- */

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
    err_set(&e, ERR_PERM,
            cl->role == ROLE_READER ? "%.100s is for root and the daemon's user"
                                    : "%.100s is for root, the daemon's user and the group walsup",
            method);
    client_reply(cl, proto_make_error(&e), cl->role == ROLE_READER ? REPLY : REPLY_LAST);
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
        log_line(LOG_INFO, "control: %s by uid %u gid %u", call->method, (unsigned)cl->cred.uid,
                 (unsigned)cl->cred.gid);
    }
    method->call(cl, call->parameters);
}

/* ---- reading ----------------------------------------------------------------------------------- */

/* A call that drips in gets no new time for each drop. */
static void wait_for_call(struct client *cl)
{
    if (!cl->in.len)
        client_wait(cl, WAIT_CALL, IDLE_MS);
    else if (cl->wait != WAIT_REST)
        client_wait(cl, WAIT_REST, CALL_MS);
}

static void protocol_error(struct client *cl, const struct err *e)
{
    (void)uv_read_stop((uv_stream_t *)&cl->pipe);
    cl->busy = true;
    client_reply(cl, proto_make_error(e), REPLY_LAST);
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
        client_wait(cl, WAIT_US, 0);
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
    client_reply(cl, proto_make_error(&e), REPLY_LAST);
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

int ctlserver_new(struct manager *m, const char *path, struct ctlserver **ret, struct err *e)
{
    struct ctl_socket socket;
    int r = ctl_socket_open(path, &socket, e);
    if (r < 0)
        return r;
    struct ctlserver *c = util_zalloc(sizeof *c);
    c->m = m;
    c->socket = socket;
    c->next_call = take_calls;
    c->client_gone = maybe_closed;
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
