/* GET /metrics, through libmicrohttpd, without a thread: its epoll descriptor is one more that the loop waits for,
 * and the text is made in pieces while it is sent. Whoever asks is a stranger: few connections at once, each of
 * them closed after a while whatever it does, nothing that it sends is kept. */
#include "daemon/control/metrics.h"

#include <assert.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "common/base/clk.h"

#define HTTP_MAGIC 0x4e771c50u
#define CONNECTIONS 16u
#define CONNECTIONS_EACH 8u     /* of one address */
#define QUIET_S 10u             /* a connection that is silent for so long is closed */
#define WHOLE_MS 30000u         /* and any that is open for so long */
#define MEMORY_BYTES (32u << 10) /* of a connection: what it sends, headers and all */
#define PIECE_BYTES (32u << 10)

struct guest {
    int fd; /* -1: free */
    uint64_t since_ms;
};

struct metrics_http {
    unsigned magic;
    struct manager *m;
    struct MHD_Daemon *mhd;
    uv_poll_t poll;
    uv_timer_t timer;
    struct guest guest[CONNECTIONS];
    unsigned open; /* handles */
    void (*closed)(void *arg);
    void *closed_arg;
};

/* ---- turning it ---------------------------------------------------------------------------------- */

static void turn(struct metrics_http *h);

static void on_timer(uv_timer_t *t)
{
    turn(t->data);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    turn(p->data);
}

/* The time that is left to the one who has been here longest; those who have none left are cut off. */
static uint64_t expire(struct metrics_http *h)
{
    uint64_t now = clk_mono_ms(), next = UINT64_MAX;
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct guest *g = &h->guest[i];
        uint64_t end = g->since_ms + WHOLE_MS;
        if (g->fd >= 0 && now >= end)
            (void)shutdown(g->fd, SHUT_RDWR); /* MHD sees the end, and closes it */
        else if (g->fd >= 0)
            next = MIN(next, end - now);
    }
    return next;
}

static void turn(struct metrics_http *h)
{
    assert(h->magic == HTTP_MAGIC);
    MHD_UNSIGNED_LONG_LONG ms;
    uint64_t next = expire(h);
    (void)MHD_run(h->mhd);
    if (MHD_get_timeout(h->mhd, &ms) == MHD_YES)
        next = MIN(next, (uint64_t)ms);
    if (next == UINT64_MAX)
        (void)uv_timer_stop(&h->timer);
    else
        (void)uv_timer_start(&h->timer, on_timer, next, 0);
}

static void on_connection(void *arg, struct MHD_Connection *c, void **socket_context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct metrics_http *h = arg;
    struct guest *g = *socket_context;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (what == MHD_CONNECTION_NOTIFY_CLOSED && g)
        g->fd = -1;
    for (size_t i = 0; what == MHD_CONNECTION_NOTIFY_STARTED && info && i < CONNECTIONS; i++)
        if (h->guest[i].fd < 0) {
            h->guest[i] = (struct guest){info->connect_fd, clk_mono_ms()};
            *socket_context = &h->guest[i];
            return;
        }
}

/* ---- answering ----------------------------------------------------------------------------------- */

struct answer {
    struct metrics_http *h;
    struct metrics_at at;
    struct buf ready;
    bool last;
};

static ssize_t on_piece(void *arg, uint64_t pos, char *out, size_t max)
{
    struct answer *a = arg;
    (void)pos;
    if (!a->ready.len && !a->last)
        a->last = !metrics_piece(a->h->m, &a->at, &a->ready, PIECE_BYTES);
    if (a->ready.failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (!a->ready.len)
        return MHD_CONTENT_READER_END_OF_STREAM;
    size_t n = MIN(max, a->ready.len);
    memcpy(out, a->ready.p, n);
    buf_consume(&a->ready, n);
    return (ssize_t)n;
}

static void on_answered(void *arg)
{
    struct answer *a = arg;
    buf_free(&a->ready);
    free(a);
}

static enum MHD_Result send_text(struct MHD_Connection *c, unsigned status, const char *text)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
                                                             MHD_RESPMEM_PERSISTENT);
    if (!r)
        return MHD_NO;
    (void)MHD_add_response_header(r, "Content-Type", "text/plain; charset=utf-8");
    (void)MHD_add_response_header(r, "Connection", "close");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        (void)MHD_add_response_header(r, "Allow", "GET, HEAD");
    enum MHD_Result ok = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result send_metrics(struct metrics_http *h, struct MHD_Connection *c)
{
    struct answer *a = util_zalloc(sizeof *a);
    a->h = h;
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, PIECE_BYTES, on_piece, a, on_answered);
    if (!r) {
        on_answered(a);
        return MHD_NO;
    }
    (void)MHD_add_response_header(r, "Content-Type", METRICS_CONTENT_TYPE);
    (void)MHD_add_response_header(r, "Connection", "close");
    enum MHD_Result ok = MHD_queue_response(c, MHD_HTTP_OK, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *data, size_t *data_bytes, void **context)
{
    (void)version;
    (void)data;
    (void)context;
    if (*data_bytes) /* nobody has to send us anything */
        return MHD_NO;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return send_text(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n");
    if (!strcmp(url, "/metrics"))
        return send_metrics(arg, c);
    if (!strcmp(url, "/"))
        return send_text(c, MHD_HTTP_OK, "walsupd: /metrics\n");
    return send_text(c, MHD_HTTP_NOT_FOUND, "there is only /metrics\n");
}

/* ---- begin and end ------------------------------------------------------------------------------- */

/* An address in digits: no name is asked for, which could block or mean several. */
static int listen_at(const char *text, int *ret, struct err *e)
{
    const char *colon = strrchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    bool six = n >= 2 && text[0] == '[' && text[n - 1] == ']';
    cleanup_free char *host = util_printf("%.*s", (int)(six ? n - 2 : n), text + six);
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                   .ai_socktype = SOCK_STREAM};
    struct addrinfo *a;
    int on = 1, rc = colon ? getaddrinfo(*host ? host : NULL, colon + 1, &hints, &a) : EAI_NONAME;
    if (rc != 0)
        return err_set(e, ERR_CONFIG, "metrics-listen = %s: %s", text, gai_strerror(rc));
    cleanup_close int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bool ok = fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, CONNECTIONS) == 0;
    int saved = errno;
    freeaddrinfo(a);
    if (!ok) {
        err_sys(e, saved, "listen for metrics at %s", text);
        return err_hint(e, "another program may have the port; change metrics-listen and restart walsupd");
    }
    *ret = TAKE_FD(fd);
    return 0;
}

static void on_log(void *arg, const char *fmt, va_list ap)
{
    (void)arg; /* what strangers send is no news */
    (void)fmt;
    (void)ap;
}

int metrics_http_new(struct manager *m, const char *address, struct metrics_http **ret, struct err *e)
{
    int fd = -1;
    int r = listen_at(address, &fd, e);
    if (r < 0)
        return r;
    struct metrics_http *h = util_zalloc(sizeof *h);
    h->magic = HTTP_MAGIC;
    h->m = m;
    for (size_t i = 0; i < CONNECTIONS; i++)
        h->guest[i].fd = -1;
    h->mhd = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        CONNECTIONS_EACH, MHD_OPTION_CONNECTION_TIMEOUT, QUIET_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)MEMORY_BYTES, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_END);
    const union MHD_DaemonInfo *info = h->mhd ? MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info) {
        if (h->mhd)
            MHD_stop_daemon(h->mhd);
        else
            (void)close(fd);
        free(h);
        return err_set(e, ERR_INTERNAL, "libmicrohttpd could not be started for metrics-listen = %s", address);
    }
    (void)uv_poll_init(m->loop, &h->poll, info->epoll_fd);
    (void)uv_timer_init(m->loop, &h->timer);
    h->poll.data = h->timer.data = h;
    (void)uv_poll_start(&h->poll, UV_READABLE, on_poll);
    *ret = h;
    return 0;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct metrics_http *h = handle->data;
    if (--h->open)
        return;
    void (*closed)(void *arg) = h->closed;
    void *arg = h->closed_arg;
    h->magic = 0;
    free(h);
    closed(arg);
}

void metrics_http_close(struct metrics_http *h, void (*closed)(void *arg), void *arg)
{
    if (!h) {
        closed(arg);
        return;
    }
    h->closed = closed;
    h->closed_arg = arg;
    h->open = 2;
    uv_close((uv_handle_t *)&h->poll, on_handle_closed);
    uv_close((uv_handle_t *)&h->timer, on_handle_closed);
    MHD_stop_daemon(h->mhd); /* closes what is open, its descriptor of epoll too: not before the poll is stopped */
}
