/* retry.h - when to try again: capped exponential back-off with full jitter, for ever, visibly.
 * Pure arithmetic; the caller owns the timer. */
#ifndef WALSUP_RETRY_H
#define WALSUP_RETRY_H

#include "common/base/err.h"

/* What a failure means for the next try; a store says it in err.retry. */
enum retry_class {
    RETRY_UNKNOWN,  /* not said: by the code of the error */
    RETRY_BACKOFF,  /* it passes */
    RETRY_SLOW,     /* it passes, and the store asks for fewer requests */
    RETRY_RESIGN,   /* clock, region or keys: the store has learned what it could, and tried again */
    RETRY_PARK,     /* only a person can change it: slow probes */
    RETRY_CONFLICT, /* another writer */
    RETRY_BUG,      /* the request itself is refused: it is ours, or the server does not know it */
};

struct retry {
    unsigned failures; /* in a row; 0 = healthy */
    int64_t since_ms;  /* real time of the first failure of this row */
};

/** retry_class(e): never RETRY_UNKNOWN. */
enum retry_class retry_class(const struct err *e);
/** retry_after(r, e): count a failure and return how many milliseconds to wait. What passes:
 * rand(0, min(30 s, 200 ms * 2^n)), at least 50 ms and what the server asked for. The rest: 15 to
 * 30 s, from the second failure on, or until somebody else has asked (e->after_ms). */
uint64_t retry_after(struct retry *r, const struct err *e);
/** retry_failed(r, code): the same for an error of which only the code is known. */
uint64_t retry_failed(struct retry *r, enum err_code code);
/** retry_park_ms(): how long, at least, nobody asks about what only a person can change: 15 s. The same is
 * added by chance. Tests shorten it with WALSUP_TEST_PARK_MS. Any thread. */
uint64_t retry_park_ms(void);
/** retry_ok(r): it worked. */
void retry_ok(struct retry *r);

#endif
