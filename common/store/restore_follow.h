/* restore_follow.h - a copy of a database that is kept up to date from a replica, for readers that have it
 * open. The copy is restored once; after that each step gets the files that are newer than its TXID and
 * applies what they change as one transaction (restore_copy.h). LTX only. Blocks in uv_run. */
#ifndef WALSUP_RESTORE_FOLLOW_H
#define WALSUP_RESTORE_FOLLOW_H

#include "common/store/restore.h"

struct follow;

/* what a step did */
struct follow_step {
    uint64_t from, to; /* TXID; from 0: there was no copy */
    int64_t time_ms;   /* of the last commit in it */
    uint64_t files, bytes, pages;
    bool verified;     /* the replica says what the checksum is, and it is the copy's */
    const char *anew;  /* why it was restored anew, by its differences; NULL: it was not */
};

/** follow_new(loop, s, opts, progress, arg): of opts not txid, by_time, generation, force, dry_run. What
 * opts points to stays the caller's, until follow_free. */
struct follow *follow_new(uv_loop_t *loop, struct store *s, const struct restore_opts *opts,
                          restore_progress_fn progress, void *arg);
/** follow_step(f, ret, e): look, and apply what is there: 0 and *ret, 1: nothing is new. After an error
 * it can be called again; the copy is then what it was. ERR_EXISTS: the output is there, and is no copy
 * that was made this way. ERR_BUSY: readers are in the way. */
int follow_step(struct follow *f, struct follow_step *ret, struct err *e);
struct follow *follow_free(struct follow *f);

#endif
