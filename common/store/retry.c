#include "common/store/retry.h"

#include "common/base/clk.h"

static bool needs_a_person(enum err_code code)
{
    switch (code) {
    case ERR_AUTH:
    case ERR_NOTFOUND:
    case ERR_PERM:
    case ERR_CONFIG:
    case ERR_CONFLICT:
    case ERR_UNSUPPORTED:
        return true;
    default:
        return false;
    }
}

uint64_t retry_failed(struct retry *r, enum err_code code)
{
    if (!r->failures)
        r->since_ms = clk_real_ms();
    unsigned n = r->failures < 16 ? r->failures : 16;
    r->failures++;
    if (needs_a_person(code) && r->failures > 1)
        return 15000 + util_random_below(15000);
    uint64_t cap = MIN((uint64_t)30000, (uint64_t)200 << n);
    return 50 + util_random_below(cap);
}

void retry_ok(struct retry *r)
{
    r->failures = 0;
    r->since_ms = 0;
}
