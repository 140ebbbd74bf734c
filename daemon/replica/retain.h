/* retain.h - which objects of a replica are needed no more. Pure.
 *
 * A restore to a moment begins with a whole database that is older than it. So the newest one that is older than
 * the window stays (the anchor), with everything after it; what lies before can go. A replica never goes below
 * RETAIN_WHOLE of them, whatever the clock says.
 *
 * Objects carry the time of a clock that may have been wrong: ahead, so that they are of the future or of a time that
 * later ones are before; or of the past. How old they are is told by their neighbours then: TXIDs grow with the time,
 * so an object is at least as young as the next one whose time can be right (struct retain_age). That never makes an
 * object older than it is, as long as `now` is not (steady.h). */
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

/* Objects one after the other, ascending by TXID. */
struct retain_age {
    int64_t now_ms, until_ms; /* what is of until_ms or before is old */
    int64_t newest_ms;        /* the newest time that can be right, so far */
    uint64_t old_txid;        /* objects up to there are old */
    bool found_young;
    int64_t young_ms;         /* the time of the first that is not old */
};

/** retain_age_init(a, now_ms, window_ms). retain_age_next(a, txid, time_ms): false: all that follow are young. */
void retain_age_init(struct retain_age *a, int64_t now_ms, uint64_t window_ms);
bool retain_age_next(struct retain_age *a, uint64_t txid, int64_t time_ms);

#endif
