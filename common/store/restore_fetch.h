/* restore_fetch.h - restore from a store: requests on the loop thread, decoding on others, so that
 * what arrives is written at once and nothing is kept on a disk in between. Not for use outside
 * restore*.c and tests. */
#ifndef WALSUP_RESTORE_FETCH_H
#define WALSUP_RESTORE_FETCH_H

#include "common/store/restore_pages.h"
#include "common/store/restore_round.h"

struct fetch_job {
    void (*after)(void *arg); /* after each piece, by one thread at a time; NULL: nothing */
    void *arg;
    unsigned threads; /* 0: one for each processor */
};

/** restore_fetch(p, round, job, e): everything, to p->out. round->vanished: as there. Memory: some 32
 * MiB of what was fetched and is not written yet, and the page index of the largest file. */
int restore_fetch(struct pages *p, struct restore_round *round, const struct fetch_job *job,
                  struct err *e);

#endif
