/* doorway.h - a listening socket that lets in a few connections per round of the loop. libuv
 * (before 1.45) accepts until nobody is waiting: whoever connects without end would hold the loop
 * for seconds. Loop thread only. */
#ifndef WALSUP_DOORWAY_H
#define WALSUP_DOORWAY_H

#include <stdbool.h>
#include <uv.h>

/* Embedded in its owner. */
struct doorway {
    uv_pipe_t pipe;
    uv_timer_t round; /* the next one has begun */
    void (*come_in)(struct doorway *d);
    void (*closed)(struct doorway *d);
    unsigned n;    /* let in during this round */
    bool waiting;  /* one was announced that has to wait for the next round */
    unsigned open; /* handles */
};

/** doorway_open(d, loop, fd, backlog, come_in): listens on fd, which becomes its own. come_in(d)
 * has to uv_accept() from d->pipe once. Negative: an error of libuv's; the loop may not run then,
 * because handles are left in it. */
int doorway_open(struct doorway *d, uv_loop_t *loop, int fd, int backlog, void (*come_in)(struct doorway *d));
/** doorway_close(d, closed): nobody comes in any more; closed(d) when d may be freed. */
void doorway_close(struct doorway *d, void (*closed)(struct doorway *d));

#endif
