#include "daemon/replica/steady.h"

#include "common/base/clk.h"

void steady_trust(struct steady *s, uint64_t boot)
{
    *s = (struct steady){clk_real_ms(), clk_boot_ms(), boot, 0};
}

int64_t steady_now(struct steady *s, uint64_t boot)
{
    int64_t real = clk_real_ms(), expected = s->time_ms;
    uint64_t boot_ms = clk_boot_ms();
    bool same = s->boot == boot && boot_ms >= s->boot_ms;
    if (same)
        expected += (int64_t)(boot_ms - s->boot_ms);
    /* what was not believed once is not believed after a boot either */
    int64_t slack = same || s->leapt_ms ? STEADY_DRIFT_MS : STEADY_AWAY_MS;
    if (!s->time_ms || real <= expected + slack)
        *s = (struct steady){real, boot_ms, boot, 0};
    else
        *s = (struct steady){expected, boot_ms, boot, real - expected};
    return s->time_ms;
}
