/* retry.h - when to try again: capped exponential back-off with full jitter, for ever, visibly.
 * Pure arithmetic; the caller owns the timer. */
#ifndef WALSUP_RETRY_H
#define WALSUP_RETRY_H

#include "common/base/err.h"

struct retry {
    unsigned failures; /* in a row; 0 = healthy */
    int64_t since_ms;  /* real time of the first failure of this row */
};

/** retry_failed(r, code): count a failure and return how many milliseconds to wait. Network, time-out and
 * 5xx: rand(0, min(30 s, 200 ms * 2^n)), at least 50 ms. Authentication, missing bucket, permission,
 * configuration: 15 to 30 s, because only a person can change the outcome. */
uint64_t retry_failed(struct retry *r, enum err_code code);
/** retry_ok(r): it worked. */
void retry_ok(struct retry *r);

#endif
