/* restore_keep.h - the unfinished output of a restore, and what of it the next one goes on with.
 *
 * "<output>.resume" says which temporary file beside the output it is about, of which replica and TXID,
 * and which pages are in it, under a checksum. Nothing of that is durable, and nothing of it is
 * believed: what is there after a power cut may be anything, and the checksum of the whole database
 * decides at the end, as for what comes from the store. So only a replica that says what it is can be
 * gone on with. The lock on the temporary file says whether somebody still writes it.
 *
 * Blocking; any thread, one at a time. Not for use outside restore*.c and tests. */
#ifndef WALSUP_RESTORE_KEEP_H
#define WALSUP_RESTORE_KEEP_H

#include "common/base/fsx.h"
#include "common/store/restore.h"
#include "common/store/restore_pages.h"

struct keep {
    const char *output, *location; /* set by the caller: location names the replica */
    char *path;                    /* of the journal */
    uint64_t next_ms;              /* when it is written again */
    bool off;                      /* nothing is ever kept */
    char why[RESTORE_WHY];         /* keep_open: what is there was made by somebody else; or "" */
};

/** keep_open(k, t, ret): look for an earlier attempt at k->output. 1: t is its file, locked, and ret what
 * is in it; 0: there is none, or it is not to be trusted, and what says so is removed. */
int keep_open(struct keep *k, struct fsx_tmp *t, struct pages_kept *ret);
/** keep_save(k, t, p): write down what is there now, if it is time (or `now`). Failures do not matter.
 * With the lock that p needs. */
void keep_save(struct keep *k, const struct fsx_tmp *t, const struct pages *p, bool now);
/** keep_leave(k, t): t stays where it is, unlocked. keep_remove(k): no journal any more. */
void keep_leave(struct fsx_tmp *t);
void keep_remove(struct keep *k);
void keep_done(struct keep *k);

#endif
