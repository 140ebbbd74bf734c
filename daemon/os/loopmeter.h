/* loopmeter.h - for how long the loop is busy in one go, which is how long everybody else waits. Costs two
 * readings of the clock a round, and no wake-up. Loop thread only. */
#ifndef WALSUP_LOOPMETER_H
#define WALSUP_LOOPMETER_H

#include <uv.h>

#include "common/base/util.h"

struct loopmeter {
    uv_check_t check;
    uint64_t last_ns, idle_ns; /* at the end of the last round */
    uint64_t busy_ns;          /* since the start */
    uint64_t max_ns[2];        /* of this minute and the one before */
    uint64_t minute;
    void (*closed)(void *arg);
    void *closed_arg;
};

/** loopmeter_start(l, loop): before the loop runs. loopmeter_close(l, closed, arg). */
void loopmeter_start(struct loopmeter *l, uv_loop_t *loop);
void loopmeter_close(struct loopmeter *l, void (*closed)(void *arg), void *arg);
/** loopmeter_max_ns(l): longest round of this minute and the one before. */
uint64_t loopmeter_max_ns(struct loopmeter *l);

#endif
