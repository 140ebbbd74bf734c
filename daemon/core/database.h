/* database.h - one configured database on the loop thread: decides when its source runs, owns the
 * list of spool files and the uploaders. Loop thread only. */
#ifndef WALSUP_DATABASE_H
#define WALSUP_DATABASE_H

#include "common/base/beat.h"
#include "common/store/retry.h"
#include "common/store/work.h"
#include "daemon/capture/source.h"
#include "daemon/core/active.h"
#include "daemon/core/berths.h"
#include "daemon/core/drill_fact.h"
#include "daemon/core/history.h"
#include "daemon/replica/stream.h"
#include "daemon/replica/uploader.h"
#include "daemon/spool/pause.h"
#include "daemon/watch/watched.h"

struct database_sync;
/** called once: e->code ERR_OK when every replica has everything committed before the call */
typedef void (*database_sync_fn)(struct database_sync *w, const struct err *e);
struct database_sync {
    database_sync_fn done;
    void *data;
    bool wait; /* for the replicas; else only for the spool */
    bool copy_map; /* and have a copy of the page map: map_copy, as in struct source_result */
    uint64_t map_copy;
    /* the database's own */
    struct database *db;
    struct database_sync *next;
    bool armed;        /* the capture that covers the call has run */
    uint64_t txid;     /* what the replicas must reach */
    uv_timer_t timer;
    struct err err;    /* the answer, once it is decided */
};

/* Somebody who waits until a database that was paused is let go. */
struct database_pause_wait {
    void (*done)(struct database_pause_wait *w); /* also when the database is closed before */
    void *data;
    struct database_pause_wait *next; /* the database's own */
};

/* What a database needs to know beside its paths and figures of source.h. */
struct database_conf {
    uint64_t scan_ms;           /* an attached database is looked at so often at least */
    uint64_t idle_ms;           /* quiet for so long: detach */
    uint64_t spool_limit_bytes; /* what waits for replicas may take this much */
    struct history_conf history;
};

/* A job under way. */
struct database_run {
    struct database *db;
    struct work work;
    struct source_job job;
    struct source_result result;
    uint64_t started_ms;
    struct beat beat;
    uint64_t merged[SPOOL_LEVELS]; /* with job.load only, as the next one */
    struct err *fenced; /* of each replica, from an earlier process; code ERR_OK: it is not */
    struct fence_lost *lost;
    struct pause *pause; /* with job.load only: on record; NULL */
    uint64_t acked[]; /* of each replica, by the spool directory; with job.load only. UINT64_MAX: unknown */
};

/* What the last run saw. */
struct database_seen {
    uint64_t lineage, wal_bytes, pending_bytes;
    uint32_t page_size, pages;
    bool drained, pinned;
    char reader[80]; /* who pins it */
    struct source_counters count;
};

struct database {
    unsigned magic;
    uv_loop_t *loop;
    char *name, *path, *dir;
    struct source_conf source_conf;
    struct database_conf conf;
    struct source *source;
    struct uploader **up;
    size_t n_up;

    struct spool_file *file; /* what is in the spool, ascending TXIDs */
    size_t n_files, cap_files;
    uint64_t spool_bytes;
    bool overflowed; /* files were dropped that a replica still needed */
    bool low_space;  /* the last run found the spool's file system too full */

    struct database_run *run;     /* NULL: no job is under way */
    struct database_sync *riding; /* waiters whose capture is the running job's */

    struct pause *pause; /* NULL: it is not paused */
    bool pause_told;     /* somebody said so, or the opposite, since the start: the record may be older */
    struct database_pause_wait *pausing;

    /* what is wanted */
    bool started; /* before that nothing runs, whoever asks */
    bool loaded, numbered;
    uint64_t number_deadline_ms;
    bool has_history; /* local state was there: TXIDs are known without asking a replica */
    /* newest of the local state as it was found: what a replica holds beyond it before we uploaded
     * anything, or of another lineage, is not ours */
    uint64_t loaded_txid, loaded_lineage;
    bool new_lineage;  /* with the next capture a new history begins */
    uint64_t renumber; /* lowest TXID that is free in every replica that was listed */
    bool dirty, look, force;
    bool snapshot_wanted, base_wanted; /* base: also the level 0 file of its TXID */
    uint64_t busy_since_ms; /* writes have been coming in without a pause since */
    bool hushed;            /* so that it looks for them itself, and gets no events of them */
    bool (*hush)(struct database *db, bool on); /* the watcher's; NULL: never */
    void (*hear)(struct database *db); /* the watcher's: events that have not been told yet are now; NULL: there are none */
    uint64_t peek_ms; /* how long to wait before looking for the commit again */
    uint64_t last_event_ms, last_run_ms, last_capture_ms, last_assist_ms;
    uint64_t settle_wait_ms, settle_after_ms; /* the next settling job; rarer while it fails */
    uint64_t settled_ms;                      /* when the last one was done */
    uint64_t file_check_ms; /* the file was written: see whether that was a checkpoint; 0 = no need */
    uint64_t assist_until_ms, assist_peek_ms; /* somebody checkpoints: see that our guard makes room */
    struct active *active; /* NULL: nobody looks every second */
    struct active_entry at_work;
    struct berths *berths; /* NULL: no limit */
    struct berth berth;
    uint64_t leave_at_ms; /* asked to leave: at this time at the latest; 0 = not asked */
    struct retry retry;
    uint64_t retry_at_ms;
    uv_timer_t timer;
    struct database_sync *waiting;

    /* what is known, for status */
    enum source_state state;
    bool attached_once; /* the first attempt to attach is over, whatever came of it */
    struct err *err;    /* of the last run; NULL: fine */
    struct database_seen seen;
    uint64_t txid;
    uint64_t seen_merges;
    struct drill_fact drill; /* drill.c's, as the next one */
    struct agenda_entry drill_turn;
    int64_t since_ms;       /* real time of the last change of state */
    int64_t last_commit_ms; /* real time of the last capture that found something */
    uint64_t drop_snapshot;

    struct history_shared *shared; /* NULL: nothing is merged or deleted */
    struct history *history;       /* NULL: nothing to do, or not looked at */
    struct agenda_entry due;       /* when it has */
    struct stream *stream;         /* a snapshot that is read and uploaded; NULL: none */
    uint64_t closed_ms, closed_look_ms; /* closed by somebody; when to see whether anybody else has it, 0: no need */
    uint64_t alone_at_ms, alone_wait_ms; /* when to let go if nobody else has it, 0: not; how long after a close */
    uint64_t last_close_ms; /* when an application was seen to have been the last to close it */
    uint64_t let_go_ms; /* when it let go of a database that somebody wanted for himself */
    int64_t ahead_ms;   /* real time since when it is locked, and not as it was captured; 0: it is not */
    uint64_t stay_until_ms;              /* the file system's clock is slow: no proof before that */
    bool audit;                          /* a second opinion is wanted */
    uint64_t audit_at_ms, last_audit_ms; /* the next one of a commit under way not before; the last one */
    uint64_t audited_ms; /* when the files were last found to be what was captured, attached; 0: never */
    uint64_t looked_ms;  /* by the safety scan, asleep: unchanged then */
    char *gone;          /* what became of the file, with SOURCE_WAITING: "was moved away ... at TIME"; NULL */
    struct {
        char *why; /* NULL: none */
        int64_t since_ms;
        uint64_t since_mono_ms;
    } doubt; /* what is seen may not be all there is */
    char *away; /* why it is not attached, with SOURCE_BUSY and SOURCE_ARRIVING; NULL */
    /* By the events, in their order: all that the WAL had is in the file. Who writes into it before the WAL is written again
     * is no SQLite. */
    bool wal_is_empty;
    bool file_was_last;            /* the file was written, and the -wal not since */
    bool unexplained;              /* somebody did, */
    uint64_t unexplained_since_ms; /* not before that (monotonic) */
    bool distrust;                 /* pages of the file are not those that were captured: compare them */
    uint64_t merged[SPOOL_LEVELS]; /* TXID up to which level n is in level n + 1 */

    bool closing, flushing, history_closed;
    void (*closed)(struct database *db, void *arg);
    void *closed_arg;
    size_t uploaders_open;
    bool timer_open, detached;
    void *owner; /* the manager */
    void (*changed)(struct database *db, void *owner); /* after every job and acknowledgement */
    struct watched watched; /* by the watch, which tells it through database_event() and the like */
};

struct database_replica {
    const char *target, *path;
    struct store *store;
    uint64_t interval_ms;
    bool may_delete;
};

/** database_new(loop, name, c, dc, replicas, n): a database that starts as soon as database_start is
 * called. Strings are copied, stores are not owned. */
struct database *database_new(uv_loop_t *loop, const char *name, const struct source_conf *c,
                              const struct database_conf *dc, const struct database_replica *r, size_t n);
void database_start(struct database *db);
/** database_event(db, ev): something happened to its files. Cheap enough for every inotify event. */
void database_event(struct database *db, enum watch_event ev);
/** database_written(db, since_ms): WATCH_FILE, which happened after that moment (monotonic). */
void database_written(struct database *db, uint64_t since_ms);
/** database_sync(db, w, timeout_ms): capture now; with w->wait also upload now, whatever the
 * intervals say, and wait for every replica. A database that is not there or not in WAL mode fails at
 * once. w stays the caller's and must live until done(). */
void database_sync(struct database *db, struct database_sync *w, uint64_t timeout_ms);
/** database_sync_cancel(w): done() comes soon. Any time before it. */
void database_sync_cancel(struct database_sync *w);
/** database_reconf(db, c, dc, replicas, n): new settings for the same path and the same
 * replicas, in the same order. */
void database_reconf(struct database *db, const struct source_conf *c, const struct database_conf *dc,
                     const struct database_replica *r, size_t n);
/** database_pause(db, p, w): let go of it as a clean stop does, and stay away until database_resume(db). Takes p over,
 * which is on record already; w->done(w) once it is let go, maybe at once. What is in the spool is still uploaded. A
 * second call changes the reason. */
void database_pause(struct database *db, struct pause *p, struct database_pause_wait *w);
void database_resume(struct database *db);
/** database_paused_error(db, e): what those hear who want a capture of a paused one. */
int database_paused_error(const struct database *db, struct err *e);
/** database_flush(db): capture and upload everything now; database_flushed() tells when it is done.
 * After that nothing new is captured. */
void database_flush(struct database *db);
bool database_flushed(const struct database *db);
/** database_close(db, closed, arg): stop, detach; then closed(db, arg), after which db is freed. */
void database_close(struct database *db, void (*closed)(struct database *db, void *arg),
                    void *arg);

/* from the uploaders */
void database_uploader_changed(struct database *db, struct uploader *u);
void database_uploader_listed(struct database *db, struct uploader *u, uint64_t max_txid, bool ours);
void database_uploader_takes_over(struct database *db, uint64_t max_txid);
void database_uploader_closed(struct database *db, struct uploader *u);
/** database_want_snapshot(db, base): a file with the whole database. base: for a replica that has nothing yet. */
void database_want_snapshot(struct database *db, bool base);
/** database_snapshot_used(db, txid): somebody has uploaded it; if nobody else needs it, it goes. */
void database_snapshot_used(struct database *db, uint64_t txid);
void database_history_closed(struct database *db);

/** database_beats(db, ret): the pulses of the jobs under way: of the source, of merging, of a
 * snapshot that is read. They are good until the loop goes on. */
#define DATABASE_BEATS 3
size_t database_beats(const struct database *db, struct beat *ret[static DATABASE_BEATS]);

#endif
