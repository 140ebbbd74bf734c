#include "daemon/retain.h"

struct retain_verdict retain_judge(const struct retain_whole *w, size_t n, int64_t now_ms, uint64_t window_ms)
{
    struct retain_verdict v = {0, 0};
    size_t last = n >= RETAIN_WHOLE ? n - RETAIN_WHOLE : 0; /* the newest one that may be the anchor */
    if (n < RETAIN_WHOLE)
        return v;
    size_t at = 0;
    while (at <= last && w[at].time_ms + (int64_t)window_ms <= now_ms)
        at++;
    /* times may repeat or, in what others wrote, go back: the first one that is too young ends it */
    if (at)
        v.anchor = w[at - 1].txid;
    if (at <= last)
        v.due_ms = w[at].time_ms + (int64_t)window_ms;
    return v;
}
