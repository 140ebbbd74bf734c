/* retain.h - which objects of a replica are needed no more. Pure.
 *
 * A restore to a moment begins with a whole database that is older than it. So the newest one that is older than
 * the window stays (the anchor), with everything after it; what lies before can go. A replica never goes below
 * RETAIN_WHOLE of them, whatever the clock says. */
#ifndef WALSUP_RETAIN_H
#define WALSUP_RETAIN_H

#include "common/base/util.h"

#define RETAIN_WHOLE 2u /* generations that always stay */

struct retain_whole {
    uint64_t txid; /* a file at the level of snapshots ends there */
    int64_t time_ms;
};

struct retain_verdict {
    uint64_t anchor;  /* TXID: older snapshots, and files that end at or before it, may go; 0: none may */
    int64_t due_ms; /* real time when the next one can become the anchor; 0: not before there is another
                       snapshot */
};

/** retain_judge(w, n, now_ms, window_ms): w ascending by TXID. */
struct retain_verdict retain_judge(const struct retain_whole *w, size_t n, int64_t now_ms, uint64_t window_ms);

#endif
