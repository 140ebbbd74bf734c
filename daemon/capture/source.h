/* source.h - one database as a source of LTX files: attach, capture, checkpoint, publish into the
 * spool. Everything about a database that touches SQLite or the disk happens in source_run().
 *
 * Thread: a source belongs to the loop thread while idle and to one worker while source_run() is
 * under way; nothing is shared. */
#ifndef WALSUP_SOURCE_H
#define WALSUP_SOURCE_H

#include "daemon/capture/capture.h"
#include "daemon/capture/snapshot.h"
#include "daemon/spool/spool.h"

struct source;

struct source_conf {
    const char *path;           /* the database, absolute */
    const char *dir;            /* its spool directory */
    enum ltx_encoding encoding;
    uint64_t checkpoint_pages;  /* WAL length in frames that starts a checkpoint cycle */
    uint64_t wal_limit_bytes;   /* WAL size that justifies the barrier */
    uint64_t min_free_bytes;    /* of the spool's file system: nothing is written below that */
    bool found;                 /* by a pattern: path is followed as its owners may (whose.h), from the pattern's base on, */
    size_t base_len;            /* which has so many bytes */
    uint64_t copy_wait_ms;      /* what nobody has open must have been still for so long before we open it first; 0: no */
    uint64_t stream_bytes;      /* snapshots of so large a database are not staged; 0: all are */
};

enum source_state {
    SOURCE_LOADED,  /* the spool was read; not attached */
    SOURCE_WAITING, /* no file, or no database in it yet */
    SOURCE_NOT_WAL,
    SOURCE_BUSY,     /* could not get a read lock; try again */
    SOURCE_ARRIVING, /* nobody has it open, and it may still be being copied in; try again */
    SOURCE_ATTACHED,
    SOURCE_ASLEEP, /* detached with everything captured, or found unchanged since */
};

/* Why what the wal-index shows may not be all there is. */
enum source_doubt {
    SOURCE_DOUBT_NONE,
    SOURCE_DOUBT_UNSEEN,    /* commits are on disk that it does not show */
    SOURCE_DOUBT_ELSEWHERE, /* somebody has the database open, but not our -shm */
    SOURCE_DOUBT_SIDES,     /* a side file was removed or replaced while somebody has it open */
    SOURCE_DOUBTS
};

/* Checks to leave out, for tests that show that others notice. */
enum source_without {
    SOURCE_WRITER = 1,
    SOURCE_SIDES = 2,
    SOURCE_TIMES = 4,
    SOURCE_ASIDE = 8 /* standing aside: for applications of the same process, who share -shm and locks with us as others cannot */
};

/* What one run is to do. Zero: look only. */
struct source_job {
    bool load;            /* read the spool; nothing else */
    bool capture;         /* committed frames into the spool now */
    bool settle;          /* it has been quiet: copy the WAL into the database, let it restart */
    bool assist;          /* somebody else checkpoints: make sure that our guard is not in the way */
    bool snapshot;        /* also make a file with the whole database (TXID 1..now) */
    bool base;            /* with snapshot: for a replica that has nothing: the level 0 file of its TXID is needed
                             as well */
    bool reading;         /* a snapshot is being read, whose guard keeps the WAL: nothing makes room there */
    bool distrust;        /* compare every page with the page map */
    uint64_t unexplained_since_ms; /* not before this (monotonic) */
    bool file_was_last;   /* the file was written, and the -wal not since */
    bool unexplained;     /* the file was written while the WAL had nothing that was not in it: if it changed since the last
                             job, compare, whatever came after */
    bool detach;          /* close the database, leaving a proof of where it stood; nothing else */
    bool hurry;           /* with detach: no checkpoint first; at worst the pages are compared next time */
    bool if_alone;        /* with detach: only if nobody else has it open */
    bool let_go;          /* with if_alone: also if somebody wants it for himself (locking_mode=EXCLUSIVE) */
    bool may_stay;        /* with detach: rather not than without a proof */
    bool closed;          /* somebody has closed it: if nobody else has it open, settle */
    bool audit;           /* a second opinion: ret->doubt */
    bool doze;            /* do not attach if nothing happened since the last proof */
    bool stay_away;       /* do not attach at all: only drops and numbering */
    uint64_t next_txid;   /* with local state missing: the first TXID to use (0 = as it stands) */
    bool new_lineage;     /* start a new history at the next capture */
    uint64_t drop_first, drop_last; /* these spool files are in every replica (0 = none) */
    uint64_t drop_snapshot;
    bool copy_map;        /* also leave a copy of the page map behind, for verify */
};

#define SOURCE_MAX_FILES 8
#define SOURCE_REDO_MAX 4096 /* spool files that a page map may be behind */

/* Since the source was made; for status, tests and benchmarks. */
struct source_counters {
    uint64_t captures, fulls, resyncs, resync_pages, resumed, frames, pages, bytes, handovers, checkpoints, restarts, barriers,
        barrier_us, barrier_max_us, broken, barriers_forced, barriers_skipped,
        last_closes;
};

struct source_result {
    enum source_state state;
    struct err err; /* code ERR_OK: fine */
    struct spool_file file[SOURCE_MAX_FILES]; /* new in the spool, in TXID order */
    size_t n_files;
    struct spool_file snapshot; /* txid 0: none */
    struct snapshot *stream;    /* instead of it, for a large database: has begun, and is to be read; the caller's */
    bool more;       /* not everything was captured: run again soon */
    bool broken;     /* continuity was lost; all pages were looked at */
    bool compared;   /* with the page map: only what differs was captured */
    uint32_t differ; /* pages */
    char why[200];   /* why continuity was lost */
    char gone[64];   /* what became of the file, for WAITING */
    char away[400];  /* BUSY, ARRIVING: why it is not attached */
    char map_lost[200]; /* why the page map could not be used; empty: nothing happened */
    uint64_t txid;   /* newest in the spool */
    uint64_t lineage;
    uint32_t page_size, pages;
    uint64_t wal_bytes;     /* committed WAL length */
    uint64_t pending_bytes; /* of it not captured */
    bool old_guard;         /* `assist` would have something to do, but there is no hurry */
    bool drained;           /* everything captured and copied into the database */
    bool low_space;         /* the spool's file system has less room than it must keep */
    bool stays;             /* job.detach: it is still attached */
    uint64_t again_ms;      /* ARRIVING, or with stays: when to try again; 0: as usual */
    bool audited, alone;    /* alone: nobody else has it open; after an audit, or job.closed */
    bool last_close;        /* an application was the last to close it: nobody may have it open now */
    bool elsewhere;         /* somebody has the file, but not our -shm: perhaps he waits for us to go */
    bool ahead;             /* BUSY: the files are not those of the last capture */
    bool writer;            /* audited: a commit is under way that is on disk but not to be seen yet */
    enum source_doubt doubt;
    char doubt_why[320];    /* a sentence */
    struct source_counters count;
    char reader[80];        /* with pinned: which process, as far as that is known: " (pid 12, name)" */
    bool pinned;            /* a reader of the application keeps the WAL from being copied */
    uint64_t map_copy;      /* source_copy_path() of it is the map at `txid`; 0: none was made */
};

struct source *source_new(const struct source_conf *c);
struct source *source_free(struct source *s);
/** source_run(s, job, ret): one job, on a worker. Never fails as such: ret->err says what was wrong.
 * What was captured before an error is in the spool and reported. */
void source_run(struct source *s, const struct source_job *job, struct source_result *ret);
/** source_news(s): whether a commit after the position is visible; true as well when that cannot be told
 * without a job (not attached). Reads shared memory only: for the loop thread, between jobs. */
bool source_news(struct source *s);
/** source_in_the_way(s): whether an application's checkpoint may be waiting for our guard: a job with
 * `assist` moves it. Shared memory only, like source_news. */
bool source_in_the_way(struct source *s);
/** source_foreign_write(s): after an event of a write to the file: no checkpoint is under way nor was one since the last
 * job, so that it was something else than SQLite. Shared memory only, like source_news. */
bool source_foreign_write(struct source *s);
/** source_wants_look(s): a job that only looks would have something to do: much is not captured, the WAL is long
 * enough for a checkpoint, or the guard is old. Shared memory only, like source_news. */
bool source_wants_look(struct source *s);
/** source_copy_path(dir, id): where a copy of the page map lies; malloc'ed. Whoever asked for it removes it;
 * what a process left behind goes with its other temporary files when the spool is read. */
char *source_copy_path(const char *dir, uint64_t id);
/** source_spool(s): what `load` found; valid until the next run. */
const struct spool_state *source_spool(const struct source *s);
/** source_set_without(s, mask): enum source_without; only while idle. */
void source_set_without(struct source *s, unsigned mask);
/** source_reconf(s, c): new settings; only while idle; path and dir must be the same. */
void source_reconf(struct source *s, const struct source_conf *c);

#endif
