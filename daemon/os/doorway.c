#include "daemon/os/doorway.h"

#include "common/base/util.h"

#define AT_ONCE 16u

static void on_next_round(uv_timer_t *t);

/* While somebody who was announced is not accepted, libuv accepts nobody else. */
static void knock(struct doorway *d)
{
    if (!d->n)
        (void)uv_timer_start(&d->round, on_next_round, 0, 0);
    if (d->n == AT_ONCE) {
        d->waiting = true;
        return;
    }
    d->n++;
    d->come_in(d);
}

static void on_next_round(uv_timer_t *t)
{
    struct doorway *d = CONTAINER_OF(t, struct doorway, round);
    d->n = 0;
    if (!d->waiting)
        return;
    d->waiting = false;
    knock(d);
}

static void on_connection(uv_stream_t *listener, int status)
{
    if (status == 0)
        knock(CONTAINER_OF(listener, struct doorway, pipe));
}

int doorway_open(struct doorway *d, uv_loop_t *loop, int fd, int backlog, void (*come_in)(struct doorway *d))
{
    *d = (struct doorway){.come_in = come_in};
    (void)uv_timer_init(loop, &d->round);
    (void)uv_pipe_init(loop, &d->pipe, 0);
    int r = uv_pipe_open(&d->pipe, fd);
    return r < 0 ? r : uv_listen((uv_stream_t *)&d->pipe, backlog, on_connection);
}

static void handle_closed(struct doorway *d)
{
    if (--d->open == 0)
        d->closed(d);
}

static void on_pipe_closed(uv_handle_t *h)
{
    handle_closed(CONTAINER_OF(h, struct doorway, pipe));
}

static void on_round_closed(uv_handle_t *h)
{
    handle_closed(CONTAINER_OF(h, struct doorway, round));
}

void doorway_close(struct doorway *d, void (*closed)(struct doorway *d))
{
    d->closed = closed;
    d->open = 2;
    uv_close((uv_handle_t *)&d->pipe, on_pipe_closed);
    uv_close((uv_handle_t *)&d->round, on_round_closed);
}
