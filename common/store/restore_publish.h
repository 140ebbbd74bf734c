/* restore_publish.h - the end of a restore: a file with the pages becomes a checked database under its
 * name. Needs no store and no loop; blocking, any thread. Not for use outside restore*.c and tests. */
#ifndef WALSUP_RESTORE_PUBLISH_H
#define WALSUP_RESTORE_PUBLISH_H

#include <stdatomic.h>

#include "common/base/fsx.h"
#include "common/store/restore.h"
#include "common/store/restore_pages.h"
#include "common/store/restore_swap.h"

struct restore_job {
    /* of v0.3: what lies in the spool, in order, and what its names say */
    const struct v3_file *v3;
    const struct restore_input *in;
    size_t n_in;
    int spool;
    struct swap swap; /* page_size and pages are set by restore_publish */
    enum restore_check check;
    /* progress, to be read by any thread */
    _Atomic(const char *) phase;
    atomic_uint_fast64_t done, total;
    /* what was written, and what SQLite says about it */
    struct restore_applied applied;
    struct restore_note note;
};

/** restore_align(): what offsets in the spool are a multiple of. */
uint64_t restore_align(void);
/** restore_publish(j, t, e): t holds what j->applied says: check, swap_publish. On failure t may be gone. */
int restore_publish(struct restore_job *j, struct fsx_tmp *t, struct err *e);

#endif
