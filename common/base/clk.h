/* clk.h - the clocks. Intervals, back-off and timeouts use the monotonic one, stamps on data the real
 * one. Any thread. */
#ifndef WALSUP_CLK_H
#define WALSUP_CLK_H

#include <stdint.h>

/** clk_real_ms(): milliseconds since 1970-01-01 UTC. */
int64_t clk_real_ms(void);
/** clk_mono_ms(), clk_mono_us(): since some fixed moment; never goes back. */
uint64_t clk_mono_ms(void);
uint64_t clk_mono_us(void);
/** clk_boot_ms(): since the machine was started, with the time it was suspended. */
uint64_t clk_boot_ms(void);
/** clk_pause_us(us): sleep so long, less than a second; never on the loop thread. */
void clk_pause_us(long us);
/** clk_shift(real_ms, mono_ms): from now on the clocks show so much more: virtual time, for tests only. */
void clk_shift(int64_t real_ms, uint64_t mono_ms);

#endif
