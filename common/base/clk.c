#include "common/base/clk.h"

#include <stdatomic.h>
#include <time.h>

static atomic_int_fast64_t real_shift_ms;
static atomic_uint_fast64_t mono_shift_ms;

static uint64_t us_of(clockid_t id)
{
    struct timespec t;
    (void)clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

int64_t clk_real_ms(void)
{
    return (int64_t)(us_of(CLOCK_REALTIME) / 1000) + real_shift_ms;
}

uint64_t clk_mono_us(void)
{
    return us_of(CLOCK_MONOTONIC) + mono_shift_ms * 1000;
}

uint64_t clk_mono_ms(void)
{
    return clk_mono_us() / 1000;
}

uint64_t clk_boot_ms(void)
{
    return us_of(CLOCK_BOOTTIME) / 1000 + mono_shift_ms;
}

void clk_shift(int64_t real_ms, uint64_t mono_ms)
{
    real_shift_ms += real_ms;
    mono_shift_ms += mono_ms;
}

void clk_pause_us(long us)
{
    const struct timespec t = {.tv_nsec = us * 1000};
    (void)nanosleep(&t, NULL);
}
