/* restore_local.h - restore from files that this machine can open. Blocking; any thread. Not for use
 * outside restore*.c and tests. */
#ifndef WALSUP_RESTORE_LOCAL_H
#define WALSUP_RESTORE_LOCAL_H

#include "common/store/restore_pages.h"

struct local_job {
    /* opens the file for reading, sees to it that it has the size it was listed with, and sets what
     * its metadata says; called by one thread at a time */
    int (*open)(void *arg, struct restore_input *in, int *ret_fd, struct err *e);
    void (*after)(void *arg); /* after each piece, by one thread at a time; NULL: nothing */
    void *arg;
};

/** restore_local(p, job, threads, e): everything, to p->out. threads 0: one for each processor. */
int restore_local(struct pages *p, const struct local_job *job, unsigned threads, struct err *e);

#endif
