/* beat.h - the pulse of a job on a worker: the worker beats while it gets on, the loop sees for how long
 * it has not. What may take its time in one call (an fsync, a checkpoint) is announced: parked. */
#ifndef WALSUP_BEAT_H
#define WALSUP_BEAT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Zero before the job is queued; must live until it is done. */
struct beat {
    _Atomic uint64_t count; /* 0: no worker has taken it yet */
    _Atomic bool parked;
    uint64_t seen, seen_ms; /* the loop's */
};

/** beat_begin(b), beat_end(): this thread works on the job of b. */
void beat_begin(struct beat *b);
void beat_end(void);
/** beat_step(): this thread gets on. Cheap; does nothing where no job has a pulse. */
void beat_step(void);
/** beat_park(on): what follows is one call that may take long. */
void beat_park(bool on);

enum beat_state { BEAT_QUEUED, BEAT_WORKS, BEAT_PARKED };
/** beat_still_ms(b, now_ms, ret_state): how long nothing has been heard of it, as far as these calls could
 * tell. From one thread. */
uint64_t beat_still_ms(struct beat *b, uint64_t now_ms, enum beat_state *ret_state);

#endif
