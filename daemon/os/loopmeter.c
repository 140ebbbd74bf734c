#include "daemon/os/loopmeter.h"

#define MINUTE_NS 60000000000ull

static void turn(struct loopmeter *l, uint64_t now_ns)
{
    uint64_t minute = now_ns / MINUTE_NS;
    if (minute == l->minute)
        return;
    l->max_ns[1] = minute == l->minute + 1 ? l->max_ns[0] : 0;
    l->max_ns[0] = 0;
    l->minute = minute;
}

/* A round is what lies between two waits; what it waited is known to libuv. */
static void on_check(uv_check_t *c)
{
    struct loopmeter *l = c->data;
    uint64_t now = uv_hrtime(), idle = uv_metrics_idle_time(c->loop);
    uint64_t waited = idle - l->idle_ns, all = now - l->last_ns;
    uint64_t busy = all > waited ? all - waited : 0;
    l->last_ns = now;
    l->idle_ns = idle;
    l->busy_ns += busy;
    turn(l, now);
    l->max_ns[0] = MAX(l->max_ns[0], busy);
}

void loopmeter_start(struct loopmeter *l, uv_loop_t *loop)
{
    (void)uv_loop_configure(loop, UV_METRICS_IDLE_TIME);
    (void)uv_check_init(loop, &l->check);
    l->check.data = l;
    l->last_ns = uv_hrtime();
    (void)uv_check_start(&l->check, on_check);
    uv_unref((uv_handle_t *)&l->check);
}

uint64_t loopmeter_max_ns(struct loopmeter *l)
{
    turn(l, uv_hrtime());
    return MAX(l->max_ns[0], l->max_ns[1]);
}

static void on_closed(uv_handle_t *h)
{
    struct loopmeter *l = h->data;
    l->closed(l->closed_arg);
}

void loopmeter_close(struct loopmeter *l, void (*closed)(void *arg), void *arg)
{
    l->closed = closed;
    l->closed_arg = arg;
    uv_close((uv_handle_t *)&l->check, on_closed);
}
