/* s3_pace.h - how many requests of a target may run, and when the next may start: what all databases
 * that replicate there share. Pure arithmetic over the monotonic clock.
 *
 * The limit of requests at a time is halved when the store asks for less, and grows back by one
 * for each full round of successes; and requests are put apart, twice as far each time, which every
 * success takes back by a sixteenth: so a store that admits two requests a second is soon asked
 * twice a second, and refuses one of ten. A success that was on its way before the last refusal
 * says nothing about it. While the last answer was a failure every request costs a
 * token; tokens come back with time and with successes. So a store in trouble sees fewer requests
 * than a healthy one, however many databases wait for it. */
#ifndef WALSUP_S3_PACE_H
#define WALSUP_S3_PACE_H

#include "common/store/retry.h"

struct s3_pace {
    unsigned max, limit, successes;
    bool trouble;
    double tokens;
    double gap_ms; /* between the starts of two requests */
    uint64_t next_ms;
    uint64_t refilled_ms, hold_until_ms, halved_ms, failed_ms;
};

void s3_pace_init(struct s3_pace *p, unsigned max, uint64_t now_ms);
/** s3_pace_wait(p, running, now_ms): 0: one more may start, which is then taken into account;
 * UINT64_MAX: not before one of those that run has ended; else: milliseconds until the next look. */
uint64_t s3_pace_wait(struct s3_pace *p, unsigned running, uint64_t now_ms);
/** s3_pace_ok(p, started_ms): a request that was sent then has succeeded. */
void s3_pace_ok(struct s3_pace *p, uint64_t started_ms);
/** s3_pace_failed(p, class, after_ms, started_ms, now_ms): after_ms: what Retry-After said, or 0. */
void s3_pace_failed(struct s3_pace *p, enum retry_class class, uint64_t after_ms,
                    uint64_t started_ms, uint64_t now_ms);

#endif
