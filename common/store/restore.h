/* restore.h - from a replica to a database file: list, plan, fetch, apply, verify, publish.
 * Runs on a uv loop of the caller's; used by walsupctl restore. All or nothing: the target appears
 * by one rename after everything was checked, or not at all. */
#ifndef WALSUP_RESTORE_H
#define WALSUP_RESTORE_H

#include "common/store/store.h"

enum restore_check { RESTORE_CHECK_QUICK, RESTORE_CHECK_FULL, RESTORE_CHECK_NONE };

struct restore_opts {
    const char *replica; /* replica path below the target's path; "" = the target's path itself */
    const char *output;  /* file to create */
    uint64_t txid;       /* restore exactly up to here; 0 = latest */
    bool force;          /* an existing database is replaced (its side files must be gone or stale:
                            they are removed after the new file is ready, before the rename). The
                            new file gets its mode and, for root, its owner. Otherwise: mode 0600
                            and, for root, the owner of the directory */
    bool dry_run;        /* plan only */
    unsigned parallel;   /* objects fetched at once; 0 = store_connections() */
    enum restore_check check;
};

struct restore_file {
    unsigned level;
    uint64_t min, max, size;
    int64_t mtime_ms;
};

struct restore_result {
    uint64_t txid;
    int64_t timestamp_ms; /* of the newest file applied (LTX header); 0 in a dry run */
    uint64_t bytes;       /* fetched (planned, in a dry run) */
    uint64_t database_bytes;
    uint32_t page_size;
    uint64_t lineage;
    uint64_t checksum; /* database checksum of what was restored; 0 in a dry run */
    bool verified;     /* the replica says what the source's was, and it is the same */
    struct restore_file *file; /* the plan, in the order of their TXIDs */
    size_t n_files;
};

/** called on the loop thread now and then; total is 0 while it is not known */
typedef void (*restore_progress_fn)(void *arg, const char *phase, uint64_t done, uint64_t total);

/** restore_run(loop, s, opts, progress, arg, ret, e): blocks in uv_run until finished or failed.
 * ERR_NOTFOUND: the replica is empty (nothing was written). ERR_EXISTS: output, or a -wal, -shm or
 * -journal beside it, is there. ERR_CORRUPT: a file or the result is damaged; names it.
 * ret: free with restore_result_done. */
int restore_run(uv_loop_t *loop, struct store *s, const struct restore_opts *opts,
                restore_progress_fn progress, void *arg, struct restore_result *ret,
                struct err *e);
void restore_result_done(struct restore_result *r);

#endif
