/* restore.h - from a replica to a database file: list, plan, fetch, apply, verify, publish. And what
 * a replica can be restored to. Runs on a uv loop of the caller's; used by walsupctl restore and
 * points. All or nothing: the target appears by one rename after everything was checked, or not at
 * all.
 *
 * Replicas are of Litestream v0.5 (LTX files, as walsup writes them) or of v0.3 (generations of
 * snapshots and WAL segments). Where both are, it is the former, unless a generation is asked for. */
#ifndef WALSUP_RESTORE_H
#define WALSUP_RESTORE_H

#include "common/format/v3seg.h"
#include "common/store/restore_check.h"
#include "common/store/store.h"

enum restore_check { RESTORE_CHECK_QUICK, RESTORE_CHECK_FULL, RESTORE_CHECK_NONE };

struct restore_result;

/* Somebody (walsupd) who has to let go of the output, or of what lies beside its name, while it is replaced. Both
 * on a worker. begin: on failure nothing is held, and nothing is replaced. end: after a begin that succeeded, also
 * if nothing was replaced. */
struct restore_hold {
    int (*begin)(void *arg, struct err *e);
    void (*end)(void *arg);
    void *arg;
};

struct restore_opts {
    const char *replica; /* replica path below the target's path; "" = the target's path itself */
    const char *output;  /* file to create */
    uint64_t txid;       /* restore exactly up to here; 0 = latest */
    bool by_time;        /* restore what was committed until until_ms, that moment included. Of v0.3:
                            what was stored by then, as the objects' modification times say */
    int64_t until_ms;
    const char *generation; /* of v0.3; NULL: the one with the newest object, if it is v0.3 */
    bool force;          /* an existing database that nobody uses is replaced (restore_swap.h). The
                            new file gets its mode and, for root, its owner. Otherwise: mode 0600
                            and, for root, the owner of the directory */
    bool in_use;         /* and it does not matter who uses it */
    const struct restore_hold *hold; /* NULL: nobody needs to let go */
    bool dry_run;        /* plan only */
    bool no_resume;      /* an interrupted restore to the same output is not gone on with, and this one
                            leaves nothing behind to go on with */
    unsigned parallel;   /* requests at once; 0 = store_connections() */
    uint64_t range_bytes; /* objects up to that size are read whole; of larger ones only the pages that are
                             needed (restore_pages.h), about so many bytes at once. 0: what suits the
                             store */
    enum restore_check check;
    /* on a worker, before the file is checked and published: may change it. NULL: nothing */
    int (*prepare)(void *arg, int fd, const struct restore_result *r, struct err *e);
    void *prepare_arg;
};

struct restore_file {
    unsigned level; /* of v0.3: LTX_SNAPSHOT_LEVEL for the snapshot, 0 for a segment */
    uint64_t min, max; /* of v0.3: WAL index and offset */
    uint64_t size;
    int64_t mtime_ms;
};

#define RESTORE_WHY 300

struct restore_result {
    bool v3;
    char generation[V3_GENERATION_SIZE]; /* of v0.3, else "" */
    uint64_t txid;        /* 0: v0.3 has none */
    int64_t timestamp_ms; /* of the newest file applied (LTX header; of v0.3: its modification time);
                             0 in a dry run that was not by time */
    /* by time only: the first point after it, which was too late; 0 = there is none */
    uint64_t next_txid;
    int64_t next_ms;
    /* by time only: the clock was set back, with set_back_txid from set_back_from_ms to set_back_to_ms, and passed the time
     * asked for before as well; the point is the newest whose time is not after it. 0: nothing of the kind */
    uint64_t set_back_txid;
    int64_t set_back_from_ms, set_back_to_ms;
    uint64_t dropped_bytes; /* of v0.3: at the end of the WAL, no whole transaction */
    uint64_t bytes;       /* fetched (planned, in a dry run) */
    uint64_t planned_bytes; /* of all files of the plan */
    uint64_t kept_bytes;  /* of the database, that an interrupted restore had written already */
    char not_resumed[RESTORE_WHY]; /* why what looks like an interrupted restore's was not gone on with; or "" */
    uint64_t database_bytes;
    uint32_t page_size;
    uint64_t lineage;
    uint64_t checksum; /* database checksum of what was restored; 0 in a dry run */
    bool verified;     /* the replica says what the source's was, and it is the same */
    struct restore_note note; /* what SQLite could not check, or found that is no damage */
    struct restore_file *file; /* the plan, in the order of their TXIDs */
    size_t n_files;
};

/** called on the loop thread now and then; total is 0 while it is not known */
typedef void (*restore_progress_fn)(void *arg, const char *phase, uint64_t done, uint64_t total);

/** restore_run(loop, s, opts, progress, arg, ret, e): blocks in uv_run until finished or failed.
 * ERR_NOTFOUND: the replica is empty, or does not reach back to the time asked for (nothing was
 * written). A time after the newest transaction gives the latest state. A time costs about 2 + log2
 * of the number of points in requests of 100 bytes, and three for each time the clock was set back. ERR_EXISTS: output is
 * there, or a -wal or -journal beside it that may hold what the replica does not have. ERR_BUSY: somebody uses it.
 * ERR_CORRUPT: a file or the result is damaged; names it.
 * ret: free with restore_result_done. */
int restore_run(uv_loop_t *loop, struct store *s, const struct restore_opts *opts,
                restore_progress_fn progress, void *arg, struct restore_result *ret,
                struct err *e);
void restore_result_done(struct restore_result *r);

/* A moment that a replica can be restored to. */
struct restore_point {
    uint64_t txid; /* 0: v0.3 */
    unsigned level; /* where the point is, as in struct restore_file */
    uint64_t size;  /* of the object that ends there */
    uint64_t way;   /* of all objects that a restore to there reads, at most; 0: v0.3 */
    int64_t time_ms; /* as in the LTX header; of v0.3, or not `exact`: when the object was stored */
    bool exact;
    bool set_back; /* its time is before that of the point before it */
    char generation[V3_GENERATION_SIZE];
    uint64_t index, off; /* of v0.3 */
};

struct restore_points {
    bool v3;
    struct restore_point *point; /* the newest ones, in order */
    size_t n;
    size_t total;
    struct restore_point oldest; /* of all */
    size_t at_level[LTX_SNAPSHOT_LEVEL + 1];
    uint64_t newest_txid; /* that a file has; beyond the last point there is a gap */
};

/** restore_points(loop, s, opts, limit, ret, e): what the replica can be restored to; of opts only
 * replica, generation and parallel. The newest `limit` (0 = all), and the oldest, are looked up with
 * a request of 100 bytes each; nothing but lists otherwise. ret: free with restore_points_done. */
int restore_points(uv_loop_t *loop, struct store *s, const struct restore_opts *opts, size_t limit,
                   struct restore_points *ret, struct err *e);
void restore_points_done(struct restore_points *p);

#endif
