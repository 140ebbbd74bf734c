/* plan.h - which files of a replica restore a TXID. Pure. */
#ifndef WALSUP_PLAN_H
#define WALSUP_PLAN_H

#include "common/base/err.h"

struct plan_file {
    unsigned level; /* 0..9 */
    uint64_t min, max;
    uint64_t size;
    int64_t mtime_ms;
    uint64_t way; /* of points only: bytes of all files on the way there */
};

/** plan_restore(file, n, txid, ret, ret_n, e): choose and order files so that applying them in turn
 * gives the state after `txid` (0 = latest). Starts from the newest usable file with min 1 (snapshot),
 * then repeatedly takes the contiguous file (min <= have + 1) that reaches furthest without passing
 * txid; ties: smaller min, then higher level. ERR_NOTFOUND: no files at all. ERR_CORRUPT: no
 * snapshot, a gap that hides newer files (latest only), or no boundary exactly at txid; the message
 * names the TXIDs and what is reachable. ret is malloc'ed copies. */
int plan_restore(const struct plan_file *file, size_t n, uint64_t txid, struct plan_file **ret,
                 size_t *ret_n, struct err *e);
/** plan_from(file, n, have, ret, ret_n, e): which files lead from TXID `have` as far as it goes, chosen
 * in the same way. *ret_n 0: nothing is newer. 1, and *ret_n 0: something is, but no file goes on from
 * `have`. ret is malloc'ed copies. */
int plan_from(const struct plan_file *file, size_t n, uint64_t have, struct plan_file **ret,
              size_t *ret_n, struct err *e);
/** plan_points(file, n, ret, ret_n, ret_newest, e): every TXID that a plan can end at, ascending:
 * for each the file of the lowest level that ends there, whose header has the time closest to the
 * commit. Its `way` is what the shortest way to it weighs, where the levels nest as compaction
 * makes them exactly what plan_restore chooses. ret is malloc'ed; ret_newest (may be NULL): highest
 * TXID of all files, beyond the last point if there is a gap. Errors as for plan_restore, but a gap
 * is none. */
int plan_points(const struct plan_file *file, size_t n, struct plan_file **ret, size_t *ret_n,
                uint64_t *ret_newest, struct err *e);

#endif
