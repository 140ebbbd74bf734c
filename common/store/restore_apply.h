/* restore_apply.h - the blocking half of a restore: LTX files on the local disk to a checked
 * database file. Needs no store and no loop; any thread. Not for use outside restore*.c and tests. */
#ifndef WALSUP_RESTORE_APPLY_H
#define WALSUP_RESTORE_APPLY_H

#include <stdatomic.h>

#include "common/base/fsx.h"
#include "common/format/ltx.h"
#include "common/store/restore.h"

/* one LTX file; all of them lie in one spool file, so that their number costs no descriptors */
struct restore_input {
    char *name;       /* for messages; the caller's */
    uint64_t off;     /* in the spool, a multiple of restore_align() */
    uint64_t size;
    uint64_t min, max; /* what its name promises */
    uint64_t checksum, lineage; /* from the object's metadata; 0 = it has none */
};

/* what came of applying the files */
struct restore_applied {
    struct ltx_header newest;
    uint64_t lineage;
    uint64_t checksum; /* of the database that was written */
    uint64_t expected; /* what the source's was; 0 = the replica does not say */
    uint64_t dropped_bytes; /* as in struct restore_result */
};

struct restore_job {
    /* how `in` becomes the database in the empty file `out`; NULL: restore_apply. Sets applied */
    int (*apply)(struct restore_job *j, int out, struct err *e);
    const struct v3_file *v3; /* of v0.3: what the names of `in` say */
    const struct restore_input *in; /* in the order of their TXIDs */
    size_t n_in;
    int spool;
    const char *output;
    bool force;
    enum restore_check check;
    unsigned threads; /* 0 = one for each processor */
    /* progress, to be read by any thread */
    _Atomic(const char *) phase;
    atomic_uint_fast64_t done, total;
    /* set on success */
    struct restore_applied applied;
};

/** restore_align(): what offsets in the spool are a multiple of. */
uint64_t restore_align(void);
/** restore_target_check(output, force, e): ERR_EXISTS when the output or a side file is there. */
int restore_target_check(const char *output, bool force, struct err *e);
/** restore_apply(in, n, spool, out, threads, done, ret, e): write the newest version of each page to
 * the empty file `out`, and verify every byte of every file that contributes, and what they make
 * against the source's checksum. A file that holds a whole database is the oldest that does: those
 * before it are not read. Files of two lineages are ERR_CORRUPT otherwise. `done` counts bytes of
 * LTX. */
int restore_apply(const struct restore_input *in, size_t n, int spool, int out, unsigned threads,
                  atomic_uint_fast64_t *done, struct restore_applied *ret, struct err *e);
/** restore_publish(j, e): apply, check, rename; on failure nothing is left behind. */
int restore_publish(struct restore_job *j, struct err *e);

#endif
