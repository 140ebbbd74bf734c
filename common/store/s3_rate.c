#include "common/store/s3_rate.h"

#include "common/base/util.h"

void s3_rate_set(struct s3_rate *r, uint64_t bytes_per_s, uint64_t now_ms)
{
    *r = (struct s3_rate){.bytes_per_s = bytes_per_s, .at_ms = now_ms};
}

static void earn(struct s3_rate *r, uint64_t now_ms)
{
    /* the most that is kept bounds the time that counts, so that the product cannot overflow */
    uint64_t ms = now_ms > r->at_ms ? MIN(now_ms - r->at_ms, (uint64_t)2 * S3_RATE_STEP_MS) : 0;
    r->credit = MIN(r->credit + ms * r->bytes_per_s, r->bytes_per_s * 2 * S3_RATE_STEP_MS);
    r->at_ms = MAX(r->at_ms, now_ms);
}

size_t s3_rate_take(struct s3_rate *r, size_t want, unsigned n, uint64_t now_ms)
{
    if (!r->bytes_per_s)
        return want;
    earn(r, now_ms);
    uint64_t share = MAX((uint64_t)1, r->bytes_per_s * S3_RATE_STEP_MS / 1000 / MAX(1u, n));
    size_t some = (size_t)MIN((uint64_t)want, share);
    if (r->credit < (uint64_t)some * 1000)
        return 0;
    r->credit -= (uint64_t)some * 1000;
    return some;
}

void s3_rate_return(struct s3_rate *r, size_t n)
{
    if (r->bytes_per_s)
        r->credit += (uint64_t)n * 1000;
}
