#include "daemon/ctlserver_int.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "common/base/log.h"
#include "common/format/proto.h"
#include "daemon/status.h"

#define MAX_CLIENTS 64
#define MAX_CLIENTS_PER_UID 16
#define IDLE_MS 60000 /* a client that says nothing for so long is dropped */
#define SYNC_TIMEOUT_MS 30000
#define SYNC_TIMEOUT_MAX_MS 3600000

struct client {
    struct ctlserver *server;
    uv_pipe_t pipe;
    uv_timer_t timer;
    struct buf in;
    struct ucred cred;
    bool closing, busy; /* busy: a call is being answered; the next one waits */
    unsigned refs;      /* handles open, writes and syncs under way */
    struct sync_call *sync; /* the one under way */
    void (*abandon)(void *arg); /* of a call that is kept waiting, ctl_hold() */
    void *held;
    char *file; /* made for it, and removed when it goes; or NULL */
    struct client *next;
};

struct ctlserver {
    struct manager *m;
    uv_pipe_t pipe;
    char *path; /* to remove at the end; NULL when systemd owns it */
    struct client *client;
    unsigned n_clients;
    bool closing, pipe_closed;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* ---- clients: life and death ------------------------------------------------------------------- */

static void maybe_closed(struct ctlserver *c)
{
    if (!c->closing || !c->pipe_closed || c->client)
        return;
    void (*closed)(void *) = c->closed;
    void *arg = c->closed_arg;
    if (c->path)
        (void)unlink(c->path);
    free(c->path);
    free(c);
    if (closed)
        closed(arg);
}

void ctl_file(struct client *cl, char *path)
{
    if (cl->file)
        (void)unlink(cl->file);
    free(cl->file);
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
    c->n_clients--;
    ctl_file(cl, NULL);
    buf_free(&cl->in);
    free(cl);
    maybe_closed(c);
}

static void on_client_handle_closed(uv_handle_t *h)
{
    client_unref(h->data);
}

static void sync_abandon(struct sync_call *s);

static void client_close(struct client *cl)
{
    if (cl->closing)
        return;
    cl->closing = true;
    if (cl->sync)
        sync_abandon(cl->sync);
    if (cl->held)
        cl->abandon(cl->held);
    uv_close((uv_handle_t *)&cl->pipe, on_client_handle_closed);
    uv_close((uv_handle_t *)&cl->timer, on_client_handle_closed);
}

/* ---- replies ----------------------------------------------------------------------------------- */

struct reply {
    uv_write_t req;
    struct client *client;
    struct buf b;
    bool last; /* close after it: the client broke the protocol */
};

static void take_calls(struct client *cl);

static void on_written(uv_write_t *req, int status)
{
    struct reply *r = req->data;
    struct client *cl = r->client;
    if (status < 0 || r->last)
        client_close(cl);
    buf_free(&r->b);
    free(r);
    cl->busy = false;
    if (!cl->closing)
        take_calls(cl);
    client_unref(cl);
}

static void reply(struct client *cl, json_t *msg, bool last)
{
    if (cl->closing) {
        json_decref(msg);
        return;
    }
    struct reply *r = util_zalloc(sizeof *r);
    r->client = cl;
    r->last = last;
    r->req.data = r;
    proto_add(&r->b, msg);
    uv_buf_t b = uv_buf_init((char *)r->b.p, (unsigned)r->b.len);
    cl->refs++;
    if (uv_write(&r->req, (uv_stream_t *)&cl->pipe, &b, 1, on_written) < 0) {
        buf_free(&r->b);
        free(r);
        client_close(cl);
        client_unref(cl);
    }
}

void ctl_reply_ok(struct client *cl, json_t *parameters)
{
    reply(cl, proto_make_reply(parameters, false), false);
}

void ctl_reply_err(struct client *cl, const struct err *e)
{
    reply(cl, proto_make_error(e), false);
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

static void call_status(struct client *cl, json_t *p)
{
    const char *name = NULL;
    struct database *db;
    struct err e;
    json_int_t limit = -1;
    if (ctl_unpack(p, &e, "{s?:s, s?:I}", "db", &name, "limit", &limit) < 0 ||
        ctl_find_db(cl->server->m, name, &db, &e) < 0)
        ctl_reply_err(cl, &e);
    else
        ctl_reply_ok(cl, status_json(cl->server->m, db, limit < 0 ? SIZE_MAX : (size_t)limit));
}

static void call_list(struct client *cl, json_t *p)
{
    struct err e;
    if (ctl_unpack(p, &e, "{}") < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    const struct manager *m = cl->server->m;
    json_t *list = json_array();
    for (size_t i = 0; i < m->n_dbs; i++) {
        json_t *targets = json_array();
        for (size_t k = 0; k < m->db[i]->n_up; k++)
            json_array_append_new(targets, json_string(m->db[i]->up[k]->target));
        const struct manager_db *of = m->db[i]->owner;
        json_array_append_new(list, json_pack("{s:s, s:o, s:s, s:o}", "name", m->db[i]->name, "path",
                                              proto_text(m->db[i]->path), "section", of->conf->name,
                                              "targets", targets));
    }
    ctl_reply_ok(cl, json_pack("{s:o}", "databases", list));
}

static json_t *names_json(const struct buf *b)
{
    json_t *a = json_array();
    for (size_t i = 0; i < b->len; i += strlen((const char *)b->p + i) + 1)
        json_array_append_new(a, json_string((const char *)b->p + i));
    return a;
}

static json_t *changes_json(const struct manager_diff *d)
{
    json_t *a = json_array();
    for (size_t i = 0; i < d->n_changes; i++) {
        const struct conf_change *c = &d->change[i];
        json_array_append_new(a, json_pack("{s:s, s:s, s:s?, s:s?, s:s?, s:b}", "section", c->section, "change",
                                           c->key ? "changed" : c->to ? "added" : "removed", "key", c->key, "from",
                                           c->key ? c->from : NULL, "to", c->key ? c->to : NULL, "restart",
                                           (int)c->restart));
    }
    return a;
}

static void call_reload(struct client *cl, json_t *p)
{
    struct err e;
    if (ctl_unpack(p, &e, "{}") < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    struct manager_diff d;
    cleanup_buf struct buf errors = BUF_INIT;
    if (manager_reload(cl->server->m, &d, &errors, &e) == 0) {
        ctl_reply_ok(cl, json_pack("{s:o, s:o, s:o, s:o, s:i}", "changes", changes_json(&d), "added", names_json(&d.added), "removed",
                               names_json(&d.removed), "changed", names_json(&d.changed),
                               "unchanged", (int)d.unchanged));
    } else {
        /* every problem, not only what fits an error */
        json_t *msg = proto_make_error(&e);
        if (errors.len)
            json_object_set_new(json_object_get(msg, "parameters"), "message",
                                json_sprintf("the new configuration is wrong, the old one stays:\n%s",
                                             buf_str(&errors)));
        reply(cl, msg, false);
    }
    manager_diff_done(&d);
}

/* One Sync call: a waiter per database, answered when the last one is. */
struct sync_call {
    struct client *client;
    size_t n, left;
    bool all; /* of every database: those that cannot be replicated now are left out */
    struct err err;
    struct sync_one {
        struct database_sync w;
        json_t *result;
        bool asked; /* and not answered yet */
    } one[];
};

static json_t *sync_result(const struct database *db, const struct database_sync *w)
{
    json_t *replicas = json_array();
    for (size_t i = 0; i < db->n_up; i++)
        json_array_append_new(replicas, json_pack("{s:s, s:o}", "target", db->up[i]->target,
                                                  "txid", ctl_hex(db->up[i]->acked)));
    return json_pack("{s:s, s:o, s:o}", "name", db->name, "txid", ctl_hex(w->txid), "replicas",
                     replicas);
}

static void on_sync(struct database_sync *w, const struct err *e)
{
    struct sync_call *s = w->data;
    struct sync_one *one = CONTAINER_OF(w, struct sync_one, w);
    one->asked = false;
    if (e->code == ERR_OK)
        one->result = sync_result(w->db, w);
    bool left_out = s->all && (e->code == ERR_NOTFOUND || e->code == ERR_UNSUPPORTED || w->db->pause);
    if (e->code != ERR_OK && !left_out && s->err.code == ERR_OK)
        s->err = *e;
    if (--s->left)
        return;
    json_t *list = json_array();
    for (size_t i = 0; i < s->n; i++)
        if (s->one[i].result)
            json_array_append_new(list, s->one[i].result);
    if (s->err.code != ERR_OK) {
        json_decref(list);
        ctl_reply_err(s->client, &s->err);
    } else {
        ctl_reply_ok(s->client, json_pack("{s:o}", "databases", list));
    }
    s->client->sync = NULL;
    client_unref(s->client);
    free(s);
}

/* The client went away: it must not count as one for as long as its call would have waited. */
static void sync_abandon(struct sync_call *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->one[i].asked)
            database_sync_cancel(&s->one[i].w);
}

static void call_sync(struct client *cl, json_t *p)
{
    const char *name = NULL;
    int wait = 0;
    json_int_t timeout = SYNC_TIMEOUT_MS;
    struct database *db;
    struct err e;
    struct manager *m = cl->server->m;
    if (ctl_unpack(p, &e, "{s?:s, s?:b, s?:I}", "db", &name, "wait", &wait, "timeout_ms", &timeout) < 0 ||
        ctl_find_db(m, name, &db, &e) < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    timeout = MAX((json_int_t)1, MIN(timeout, (json_int_t)SYNC_TIMEOUT_MAX_MS));
    size_t n = db ? 1 : m->n_dbs;
    if (!n || m->stopping) {
        err_set(&e, n ? ERR_BUSY : ERR_NOTFOUND,
                n ? "walsupd is stopping" : "no database is configured");
        ctl_reply_err(cl, &e);
        return;
    }
    struct sync_call *s = util_zalloc(sizeof *s + n * sizeof s->one[0]);
    s->client = cl;
    s->n = s->left = n;
    s->all = !db;
    cl->refs++;
    cl->sync = s;
    for (size_t i = 0; i < n; i++) {
        s->one[i].asked = true;
        s->one[i].w = (struct database_sync){.done = on_sync, .data = s, .wait = wait};
        database_sync(db ? db : m->db[i], &s->one[i].w, (uint64_t)timeout);
    }
}

static const char interface_text[] =
    "# walsup's control interface; version 1\n"
    "interface io.walsup\n\n"
    "# state of one database or all of them; of more than limit, the worst that are not fine\n"
    "method Status(db: ?string, limit: ?int) -> (version: string, state: string, total: int, counts: "
    "object, databases: []object)\n"
    "method List() -> (databases: []object)\n"
    "# capture now; with wait also upload now and answer when every replica has it\n"
    "method Sync(db: ?string, wait: ?bool, timeout_ms: ?int) -> (databases: []object)\n"
    "# a file with the whole database to every replica, or one; answers when it is there; needs root or the daemon's "
    "user\n"
    "method Snapshot(db: string, target: ?string) -> (name: string, replicas: []object)\n"
    "# compare what is known of the replicas with the buckets; trust_clock: the clock is right; needs root or the "
    "daemon's user\n"
    "method Reconcile(db: ?string, target: ?string, trust_clock: ?bool) -> (databases: []object)\n"
    "# capture now, and leave a copy of the page map at path until the connection is closed: what the replicas must "
    "come to at txid; needs root or the daemon's user\n"
    "method PageMap(db: string) -> (name: string, txid: string, lineage: string, path: string, page_size: int, "
    "pages: int)\n"
    "# go on where another writer was found, with a history of its own behind the other's; needs root or the "
    "daemon's user\n"
    "method Takeover(db: string, target: ?string) -> (name: string, targets: []string)\n"
    "# let go of a database, or all, as a stop does, and stay away, also after a restart; what is captured is still "
    "uploaded; needs root or the daemon's user\n"
    "method Pause(db: ?string, all: ?bool, reason: ?string) -> (databases: []object)\n"
    "# go on with it; needs root or the daemon's user\n"
    "method Resume(db: ?string, all: ?bool) -> (databases: []object)\n"
    "# read the configuration again; needs root or the daemon's user\n"
    "method Reload() -> (changes: []object, added: []string, removed: []string, changed: "
    "[]string, unchanged: int)\n\n"
    "error Error(code: string, message: string, hint: string)\n";

static void call_info(struct client *cl, json_t *p)
{
    (void)p;
    ctl_reply_ok(cl, json_pack("{s:s, s:s, s:s, s:s, s:[s, s]}", "vendor", "walsup", "product",
                           "walsupd", "version", WALSUP_VERSION, "url", "man:walsupd(8)",
                           "interfaces", "org.varlink.service", PROTO_INTERFACE));
}

static void call_description(struct client *cl, json_t *p)
{
    const char *name = NULL;
    struct err e;
    if (ctl_unpack(p, &e, "{s:s}", "interface", &name) < 0) {
        ctl_reply_err(cl, &e);
    } else if (strcmp(name, PROTO_INTERFACE) != 0) {
        err_set(&e, ERR_NOTFOUND, "no interface %s", name);
        ctl_reply_err(cl, &e);
    } else {
        ctl_reply_ok(cl, json_pack("{s:s}", "description", interface_text));
    }
}

static const struct {
    const char *method;
    bool admin; /* root and the daemon's own user only */
    void (*call)(struct client *cl, json_t *parameters);
} methods[] = {
    {PROTO_INTERFACE ".Status", false, call_status},
    {PROTO_INTERFACE ".List", false, call_list},
    {PROTO_INTERFACE ".Sync", false, call_sync},
    {PROTO_INTERFACE ".Snapshot", true, ctl_call_snapshot},
    {PROTO_INTERFACE ".Reconcile", true, ctl_call_reconcile},
    {PROTO_INTERFACE ".PageMap", true, ctl_call_page_map},
    {PROTO_INTERFACE ".Takeover", true, ctl_call_takeover},
    {PROTO_INTERFACE ".Pause", true, ctl_call_pause},
    {PROTO_INTERFACE ".Resume", true, ctl_call_resume},
    {PROTO_INTERFACE ".Reload", true, call_reload},
    {"org.varlink.service.GetInfo", false, call_info},
    {"org.varlink.service.GetInterfaceDescription", false, call_description},
};

static void dispatch(struct client *cl, const struct proto_call *call)
{
    struct err e;
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        if (strcmp(call->method, methods[i].method) != 0)
            continue;
        bool admin = cl->cred.uid == 0 || cl->cred.uid == geteuid();
        if (methods[i].admin) {
            log_line(LOG_INFO, "control: %s by uid %u gid %u", call->method,
                     (unsigned)cl->cred.uid, (unsigned)cl->cred.gid);
            if (!admin) {
                err_set(&e, ERR_PERM, "%s is for root and the daemon's user", call->method);
                ctl_reply_err(cl, &e);
                return;
            }
        }
        methods[i].call(cl, call->parameters);
        return;
    }
    err_set(&e, ERR_UNSUPPORTED, "walsupd %s has no method %.100s", WALSUP_VERSION, call->method);
    ctl_reply_err(cl, &e);
}

/* ---- reading ----------------------------------------------------------------------------------- */

static void protocol_error(struct client *cl, const struct err *e)
{
    (void)uv_read_stop((uv_stream_t *)&cl->pipe);
    cl->busy = true;
    reply(cl, proto_make_error(e), true);
}

static void take_calls(struct client *cl)
{
    struct err e;
    while (!cl->busy && !cl->closing) {
        json_t *msg = NULL;
        int r = proto_next(&cl->in, PROTO_MAX_CALL, &msg, &e);
        if (r > 0)
            return;
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

static void on_idle(uv_timer_t *t)
{
    struct client *cl = t->data;
    if (cl->busy) /* it waits for us, not the other way round */
        (void)uv_timer_start(t, on_idle, IDLE_MS, 0);
    else
        client_close(cl);
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
    (void)uv_timer_start(&cl->timer, on_idle, IDLE_MS, 0);
    if (cl->busy && cl->in.len > PROTO_MAX_CALL) {
        client_close(cl);
        return;
    }
    take_calls(cl);
}

static void on_connection(uv_stream_t *listener, int status)
{
    if (status < 0)
        return;
    struct ctlserver *c = listener->data;
    struct client *cl = util_zalloc(sizeof *cl);
    cl->server = c;
    (void)uv_pipe_init(listener->loop, &cl->pipe, 0);
    (void)uv_timer_init(listener->loop, &cl->timer);
    cl->pipe.data = cl->timer.data = cl;
    cl->refs = 2;
    cl->next = c->client;
    c->client = cl;
    c->n_clients++;
    uv_os_fd_t fd;
    socklen_t len = sizeof cl->cred;
    unsigned same = 0;
    if (uv_accept(listener, (uv_stream_t *)&cl->pipe) < 0 ||
        uv_fileno((uv_handle_t *)&cl->pipe, &fd) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cl->cred, &len) < 0) {
        client_close(cl);
        return;
    }
    for (const struct client *o = c->client; o; o = o->next)
        same += o->cred.uid == cl->cred.uid;
    if (c->n_clients > MAX_CLIENTS ||
        (same > MAX_CLIENTS_PER_UID && cl->cred.uid != 0 && cl->cred.uid != geteuid())) {
        client_close(cl);
        return;
    }
    (void)uv_timer_start(&cl->timer, on_idle, IDLE_MS, 0);
    (void)uv_read_start((uv_stream_t *)&cl->pipe, on_alloc, on_read);
}

/* ---- the socket -------------------------------------------------------------------------------- */

static int remove_stale(const char *path, const struct sockaddr_un *a, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : err_sys(e, errno, "look at %s", path);
    if (!S_ISSOCK(st.st_mode))
        return err_set(e, ERR_EXISTS, "%s exists and is not a socket", path);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof *a) == 0) {
        err_set(e, ERR_BUSY, "another walsupd answers at %s", path);
        return err_hint(e, "stop it first, or give this one its own socket and state-dir");
    }
    if (errno != ECONNREFUSED)
        return err_sys(e, errno, "connect to %s", path);
    return fsx_unlink(path, e);
}

static int bind_socket(const char *path, int *ret, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path)
        return err_set(e, ERR_CONFIG, "socket path %s is longer than the %zu bytes a socket may have",
                       path, sizeof a.sun_path - 1);
    memcpy(a.sun_path, path, strlen(path) + 1);
    cleanup_free char *dir = util_strdup(path);
    char *slash = strrchr(dir, '/');
    if (slash && slash != dir) {
        *slash = '\0';
        int r = fsx_mkdirs(dir, 0755, e);
        if (r < 0)
            return err_wrap(e, "control socket");
    }
    int r = remove_stale(path, &a, e);
    if (r < 0)
        return r;
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(e, errno, "create the control socket");
    mode_t old = umask(0117); /* 0660 from the first moment */
    int bound = bind(fd, (const struct sockaddr *)&a, sizeof a);
    int saved = errno;
    (void)umask(old);
    if (bound < 0)
        return err_sys(e, saved, "bind the control socket %s", path);
    const struct group *g = getgrnam("walsup");
    if (g && g->gr_gid != getegid() && lchown(path, (uid_t)-1, g->gr_gid) < 0) /* it has the group of the unit */
        log_line(LOG_WARN, "cannot give %s to group walsup: %s", path, strerror(errno));
    *ret = TAKE_FD(fd);
    return 0;
}

int ctlserver_new(struct manager *m, const char *path, struct ctlserver **ret, struct err *e)
{
    int fd = -1;
    bool inherited = sd_listen_fds(1) > 0;
    if (inherited) {
        fd = SD_LISTEN_FDS_START;
    } else {
        int r = bind_socket(path, &fd, e);
        if (r < 0)
            return r;
    }
    struct ctlserver *c = util_zalloc(sizeof *c);
    c->m = m;
    c->path = inherited ? NULL : util_strdup(path);
    (void)uv_pipe_init(m->loop, &c->pipe, 0);
    c->pipe.data = c;
    int r = uv_pipe_open(&c->pipe, fd);
    if (r == 0)
        r = uv_listen((uv_stream_t *)&c->pipe, 64, on_connection);
    if (r < 0) {
        free(c->path);
        free(c);
        return err_set(e, ERR_IO, "listen on %s: %s", path, uv_strerror(r));
    }
    *ret = c;
    return 0;
}

static void on_pipe_closed(uv_handle_t *h)
{
    struct ctlserver *c = h->data;
    c->pipe_closed = true;
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
    uv_close((uv_handle_t *)&c->pipe, on_pipe_closed);
}
