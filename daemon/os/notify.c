#include "daemon/os/notify.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "common/base/clk.h"

#define RETRY_MS 50u
#define RETRY_MAX_MS 1600u

/* What systemd has not been told yet. It is sent in this order: READY ends RELOADING, and what is said
 * while stopping is of no use before STOPPING. */
enum what { RELOADING, READY, STOPPING, EXTEND, STATUS, WATCHDOG, N_WHAT };

struct notify {
    int fd; /* -1: nobody wants to know */
    struct sockaddr_un to;
    socklen_t to_size;
    uint64_t watchdog_ms, alive_ms;
    bool due[N_WHAT];
    char status[256];
    unsigned long long reloading_us, extend_until_ms;
    uint64_t retry_ms;
    uv_timer_t retry;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* libsystemd's sd_notify() waits for room, and with it would the loop: so the datagrams are our own. */
static void open_socket(struct notify *n)
{
    const char *path = getenv("NOTIFY_SOCKET");
    n->to.sun_family = AF_UNIX;
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof n->to.sun_path)
        return;
    memcpy(n->to.sun_path, path, strlen(path));
    n->to_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + (path[0] == '/'));
    if (path[0] == '@')
        n->to.sun_path[0] = '\0';
    n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

struct notify *notify_new(uv_loop_t *loop)
{
    struct notify *n = util_zalloc(sizeof *n);
    uint64_t us = 0;
    n->fd = -1;
    open_socket(n);
    if (sd_watchdog_enabled(0, &us) > 0)
        n->watchdog_ms = MAX(us / 2000, (uint64_t)1);
    (void)uv_timer_init(loop, &n->retry);
    n->retry.data = n;
    uv_unref((uv_handle_t *)&n->retry);
    return n;
}

static void text_of(const struct notify *n, enum what w, char *buf, size_t size)
{
    uint64_t now = clk_mono_ms();
    switch (w) {
    case RELOADING:
        (void)snprintf(buf, size, "RELOADING=1\nMONOTONIC_USEC=%llu", n->reloading_us);
        break;
    case READY:
        (void)snprintf(buf, size, "READY=1");
        break;
    case STOPPING:
        (void)snprintf(buf, size, "STOPPING=1");
        break;
    case EXTEND: /* it counts from when it is read */
        (void)snprintf(buf, size, "EXTEND_TIMEOUT_USEC=%llu",
                       n->extend_until_ms > now ? (n->extend_until_ms - now) * 1000 : 1);
        break;
    case STATUS:
        (void)snprintf(buf, size, "STATUS=%s", n->status);
        break;
    default:
        (void)snprintf(buf, size, "WATCHDOG=1");
        break;
    }
}

static bool pending(const struct notify *n)
{
    for (int w = 0; w < N_WHAT; w++)
        if (n->due[w])
            return true;
    return false;
}

static void on_retry(uv_timer_t *t);

/* Sends what there is room for. Any failure may pass: systemd may just be starting over. */
static void flush(struct notify *n)
{
    char text[sizeof n->status + 32];
    for (int w = 0; w < N_WHAT; w++) {
        if (!n->due[w] || n->fd < 0)
            continue;
        text_of(n, (enum what)w, text, sizeof text);
        if (sendto(n->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&n->to,
                   n->to_size) < 0)
            break;
        n->due[w] = false;
    }
    if (n->fd < 0 || n->closed)
        return;
    if (!pending(n)) {
        n->retry_ms = 0;
        (void)uv_timer_stop(&n->retry);
    } else if (!uv_is_active((uv_handle_t *)&n->retry)) {
        n->retry_ms = n->retry_ms ? MIN(2 * n->retry_ms, (uint64_t)RETRY_MAX_MS) : RETRY_MS;
        (void)uv_timer_start(&n->retry, on_retry, n->retry_ms, 0);
    }
}

static void on_retry(uv_timer_t *t)
{
    flush(t->data);
}

static void tell(struct notify *n, enum what w)
{
    n->due[w] = true;
    flush(n);
}

static void on_closed(uv_handle_t *h)
{
    struct notify *n = h->data;
    void (*closed)(void *arg) = n->closed;
    void *arg = n->closed_arg;
    if (n->fd >= 0)
        (void)close(n->fd);
    free(n);
    closed(arg);
}

void notify_close(struct notify *n, void (*closed)(void *arg), void *arg)
{
    n->closed = closed;
    n->closed_arg = arg;
    flush(n);
    uv_close((uv_handle_t *)&n->retry, on_closed);
}

void notify_ready(struct notify *n)
{
    tell(n, READY);
}

void notify_status(struct notify *n, const char *fmt, ...)
{
    char text[sizeof n->status];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!strcmp(text, n->status))
        return;
    memcpy(n->status, text, sizeof text);
    tell(n, STATUS);
}

void notify_reloading(struct notify *n)
{
    n->reloading_us = (unsigned long long)clk_mono_us();
    tell(n, RELOADING);
}

void notify_stopping(struct notify *n)
{
    tell(n, STOPPING);
}

void notify_extend(struct notify *n, uint64_t ms)
{
    n->extend_until_ms = (unsigned long long)(clk_mono_ms() + ms);
    tell(n, EXTEND);
}

uint64_t notify_watchdog_ms(const struct notify *n)
{
    return n->watchdog_ms;
}

void notify_alive(struct notify *n)
{
    uint64_t now = clk_mono_ms();
    if (!n->watchdog_ms || (n->alive_ms && now - n->alive_ms < n->watchdog_ms / 4))
        return;
    n->alive_ms = now;
    tell(n, WATCHDOG);
}
