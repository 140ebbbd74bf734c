#include "common/base/beat.h"

#include <stddef.h>

static _Thread_local struct beat *mine;

void beat_begin(struct beat *b)
{
    mine = b;
    beat_step();
}

void beat_end(void)
{
    beat_step();
    mine = NULL;
}

void beat_step(void)
{
    if (mine)
        (void)atomic_fetch_add_explicit(&mine->count, 1, memory_order_relaxed);
}

void beat_park(bool on)
{
    if (!mine)
        return;
    atomic_store_explicit(&mine->parked, on, memory_order_relaxed);
    beat_step();
}

uint64_t beat_still_ms(struct beat *b, uint64_t now_ms, enum beat_state *ret_state)
{
    uint64_t count = atomic_load_explicit(&b->count, memory_order_relaxed);
    if (!b->seen_ms || count != b->seen) {
        b->seen = count;
        b->seen_ms = now_ms;
    }
    *ret_state = !count ? BEAT_QUEUED
                        : atomic_load_explicit(&b->parked, memory_order_relaxed) ? BEAT_PARKED : BEAT_WORKS;
    return now_ms - b->seen_ms;
}
