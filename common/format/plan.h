/* plan.h - which files of a replica restore a TXID. Pure. */
#ifndef WALSUP_PLAN_H
#define WALSUP_PLAN_H

#include "common/base/err.h"

struct plan_file {
    unsigned level; /* 0..9 */
    uint64_t min, max;
    uint64_t size;
    int64_t mtime_ms;
};

/** plan_restore(file, n, txid, ret, ret_n, e): choose and order files so that applying them in turn
 * gives the state after `txid` (0 = latest). Starts from the newest usable file with min 1 (snapshot),
 * then repeatedly takes the contiguous file (min <= have + 1) that reaches furthest without passing
 * txid; ties: smaller min, then higher level. ERR_NOTFOUND: no files at all. ERR_CORRUPT: no
 * snapshot, a gap that hides newer files (latest only), or no boundary exactly at txid; the message
 * names the TXIDs and what is reachable. ret is malloc'ed copies. */
int plan_restore(const struct plan_file *file, size_t n, uint64_t txid, struct plan_file **ret,
                 size_t *ret_n, struct err *e);

#endif
