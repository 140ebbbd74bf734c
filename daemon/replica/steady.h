/* steady.h - the time by which objects grow old. It is the real time, but it never leaps forward: a clock that is
 * set wrong must not delete anybody's history. Loop thread only.
 *
 * Between two looks it goes on by as much as the clock that counts since the boot, and follows the real time where the
 * two agree within STEADY_DRIFT_MS; a real time that lies before it is believed, since that only keeps
 * more. After a boot the real time is believed if it is at most STEADY_AWAY_MS later than when it was last
 * seen. Else it stays behind, until somebody who knows says that the clock is right: a store, by the Date of its
 * answers, or a person. */
#ifndef WALSUP_STEADY_H
#define WALSUP_STEADY_H

#include "common/base/util.h"

#define STEADY_DRIFT_MS (10 * 60 * 1000)
#define STEADY_AWAY_MS (24 * 3600 * 1000)

/* to be kept over restarts */
struct steady {
    int64_t time_ms;  /* of the last look; 0: there was none */
    uint64_t boot_ms; /* when that was, since the boot */
    uint64_t boot;    /* of which boot (position_boot) */
    int64_t leapt_ms; /* by how much the real time is ahead without being believed; 0: it is not */
};

/** steady_now(s, boot): the time, in milliseconds since 1970. Moves s. */
int64_t steady_now(struct steady *s, uint64_t boot);
/** steady_trust(s, boot): the real time is right. */
void steady_trust(struct steady *s, uint64_t boot);

#endif
