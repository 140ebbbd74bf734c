#include "daemon/replica/retain.h"

void retain_age_init(struct retain_age *a, int64_t now_ms, uint64_t window_ms)
{
    *a = (struct retain_age){.now_ms = now_ms, .until_ms = now_ms - (int64_t)window_ms, .newest_ms = INT64_MIN};
}

bool retain_age_next(struct retain_age *a, uint64_t txid, int64_t time_ms)
{
    if (time_ms > a->now_ms || time_ms < a->newest_ms)
        return true; /* it cannot be right: the next one tells */
    a->newest_ms = time_ms;
    if (time_ms > a->until_ms) {
        a->young_ms = time_ms;
        a->found_young = true;
        return false;
    }
    a->old_txid = txid;
    return true;
}

struct retain_verdict retain_judge(const struct retain_whole *w, size_t n, int64_t now_ms, uint64_t window_ms)
{
    struct retain_verdict v = {0, 0};
    size_t last = n >= RETAIN_WHOLE ? n - RETAIN_WHOLE : 0; /* the newest one that may be the anchor */
    struct retain_age a;
    if (n < RETAIN_WHOLE)
        return v;
    retain_age_init(&a, now_ms, window_ms);
    for (size_t i = 0; i < n && retain_age_next(&a, w[i].txid, w[i].time_ms); i++)
        ;
    v.anchor = MIN(a.old_txid, w[last].txid);
    if (v.anchor < w[last].txid) /* without a time that can be right: as young as can be */
        v.due_ms = (a.found_young ? a.young_ms : now_ms) + (int64_t)window_ms;
    return v;
}
