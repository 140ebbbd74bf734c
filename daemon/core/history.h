/* history.h - what becomes of a database's files after they are captured: merged level by level, a snapshot now and
 * then, and deleted from the replicas when they are older than the retention. Loop thread only.
 *
 * A database has a struct history only while there is something to do: it is made when the agenda says so or enough
 * files wait to be merged, reads what it needs from the spool directory and the inventory, and goes away when
 * the database sleeps and nothing is due. All due times come from facts that survive a restart. */
#ifndef WALSUP_HISTORY_H
#define WALSUP_HISTORY_H

#include "daemon/os/agenda.h"
#include "daemon/replica/inventory.h"
#include "daemon/replica/steady.h"
#include "daemon/spool/spool.h"
#include "daemon/spool/spool_level.h"

struct beat;
struct database;
struct history;
struct uploader;

/* What all databases share. */
struct history_shared {
    uv_loop_t *loop;
    struct agenda *agenda;
    struct agenda *looks;  /* at replicas (uploader_look.c) */
    uint64_t look_slot_ms; /* monotonic: the last turn that was given out */
    struct inventory *inventory;
    struct steady steady;
    uint64_t steady_saved_ms; /* monotonic */
    bool leap_told;
    unsigned merging;
    struct history *queue, **queue_end; /* those that wait for their turn to merge */
    void (*closed)(void *arg);
    void *closed_arg;
};

struct history_conf {
    uint64_t level_ms[SPOOL_LEVELS]; /* how often files are merged to levels 1, 2, 3; level_ms[0] 0: never */
    uint64_t snapshot_ms;
    uint64_t retention_ms, l0_retention_ms; /* the latter is at most the former */
    uint64_t delete_delay_ms; /* what is needed no more stays for so much longer */
};

/* A person waits for a snapshot, or for a comparison with the bucket. */
struct history_call {
    /* set by the caller */
    enum history_wish { HISTORY_SNAPSHOT, HISTORY_RECONCILE } what;
    const char *target; /* NULL: all replicas */
    void (*done)(struct history_call *c);
    void *data;
    /* valid in done() */
    struct err err; /* code ERR_OK: one result for each replica that was meant */
    struct history_result {
        char *target;
        struct err err;
        uint64_t txid, size;                               /* of the snapshot */
        uint64_t objects, bytes, unknown, missing, foreign; /* found; of them not in the inventory; in the
                                                               inventory and not found; no names of ours */
        char example[LTX_NAME_SIZE + 8]; /* of what is missing */
    } *result;
    size_t n;
    /* the history's own */
    struct database *db;
    struct history_call *next;
};

/** history_shared_new(loop, state_dir, fire, arg, ret, e): before the loop runs. fire(arg, entry) is called when a
 * database's entry is due: history_due() then. */
int history_shared_new(uv_loop_t *loop, const char *state_dir,
                       void (*fire)(void *arg, struct agenda_entry *x), void *arg,
                       struct history_shared **ret, struct err *e);
/** history_shared_close(s, closed, arg): after every database was closed. */
void history_shared_close(struct history_shared *s, void (*closed)(void *arg), void *arg);
/** history_time(s): the time by which objects grow old (steady.h). */
int64_t history_time(struct history_shared *s);
/** history_trust_clock(s): somebody says that the clock is right. */
void history_trust_clock(struct history_shared *s);

/* From the database. Its `shared` may be NULL: then nothing is merged, and these do nothing. */
/** history_due(db): the agenda says so. */
void history_due(struct database *db);
/** history_at_rest(db): nothing of it is due now or under way, or what is fails. */
bool history_at_rest(const struct database *db);
/** history_captured(db): there are new files in the spool. */
void history_captured(struct database *db);
/** history_stored(db, u, level, min, f): the replica has acknowledged it. */
void history_stored(struct database *db, struct uploader *u, unsigned level, uint64_t min, const struct spool_file *f);
/** history_empty(db, u): the replica was listed, and has nothing. */
void history_empty(struct database *db, struct uploader *u);
/** history_heal(db, u): objects that the replica needs are gone: compare it with the inventory, and store a snapshot.
 * uploader_anchored() or uploader_mended() comes of it. */
void history_heal(struct database *db, struct uploader *u);
/** history_moved(db): a replica, or the state of the database, may allow more now. */
void history_moved(struct database *db);
/** history_take_snapshot(db, f): it is in the spool; whether somebody here wants it. */
bool history_take_snapshot(struct database *db, const struct spool_file *f);
/** history_wants_snapshot(db, u): the same question for one replica. history_streamed(db, u, f): it was uploaded. */
bool history_wants_snapshot(const struct database *db, const struct uploader *u);
void history_streamed(struct database *db, struct uploader *u, const struct spool_file *f);
/** history_needs_snapshot_file(db, txid): it is still needed. */
bool history_needs_snapshot_file(const struct database *db, uint64_t txid);
/** history_trouble(db, i, ret_since_ms): why files above level 0, or deletions, of replica i do not get through; NULL:
 * they do. */
const struct err *history_trouble(const struct database *db, size_t i, int64_t *ret_since_ms);
/** history_ask(db, c): c stays the caller's until done(), which may come at once. history_cancel(c): done() comes
 * now, if it did not come before. history_call_done(c): free the results. */
void history_ask(struct database *db, struct history_call *c);
void history_cancel(struct history_call *c);
void history_call_done(struct history_call *c);
/** history_beat(db): of the job under way; NULL: there is none. */
struct beat *history_beat(const struct database *db);
/** history_close(db): true: nothing is left to wait for; false: database_history_closed(db) comes later. */
bool history_close(struct database *db);

#endif
