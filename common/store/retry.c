#include "common/store/retry.h"

#include "common/base/clk.h"

#define PARK_MS 15000
#define AFTER_MAX_MS 300000 /* of what a server may ask for */

static enum retry_class by_code(enum err_code code)
{
    switch (code) {
    case ERR_AUTH:
    case ERR_NOTFOUND:
    case ERR_PERM:
    case ERR_CONFIG:
    case ERR_UNSUPPORTED:
        return RETRY_PARK;
    case ERR_CONFLICT:
        return RETRY_CONFLICT;
    default:
        return RETRY_BACKOFF;
    }
}

enum retry_class retry_class(const struct err *e)
{
    return e->retry == RETRY_UNKNOWN ? by_code(e->code) : (enum retry_class)e->retry;
}

uint64_t retry_park_ms(void)
{
    static _Atomic uint64_t ms;
    if (!ms) {
        const char *own = getenv("WALSUP_TEST_PARK_MS");
        uint64_t n = own ? strtoull(own, NULL, 10) : 0;
        ms = n ? n : PARK_MS;
    }
    return ms;
}

static uint64_t wait_of(struct retry *r, enum retry_class class, uint64_t after_ms)
{
    if (!r->failures)
        r->since_ms = clk_real_ms();
    unsigned n = r->failures < 16 ? r->failures : 16;
    r->failures++;
    if (class != RETRY_BACKOFF && class != RETRY_SLOW && after_ms) /* somebody asks meanwhile */
        return MIN(after_ms, (uint64_t)AFTER_MAX_MS) + util_random_below(2000);
    if (class != RETRY_BACKOFF && class != RETRY_SLOW && r->failures > 1)
        return retry_park_ms() + util_random_below(retry_park_ms());
    uint64_t cap = MIN((uint64_t)30000, (uint64_t)200 << n);
    /* the jitter on top, so that not everybody comes back in the same moment */
    return MIN(after_ms, (uint64_t)AFTER_MAX_MS) + 50 + util_random_below(cap);
}

uint64_t retry_after(struct retry *r, const struct err *e)
{
    return wait_of(r, retry_class(e), e->after_ms);
}

uint64_t retry_failed(struct retry *r, enum err_code code)
{
    return wait_of(r, by_code(code), 0);
}

void retry_ok(struct retry *r)
{
    r->failures = 0;
    r->since_ms = 0;
}
