/* history_int.h - what history.c (what is due), history_merge.c (its jobs), history_shared.c (what all have in
 * common), history_call.c (what people ask for), keeper.c (a replica: uploads, deletions) and keeper_list.c (a replica
 * against the inventory) share. */
#ifndef WALSUP_HISTORY_INT_H
#define WALSUP_HISTORY_INT_H

#include "common/store/retry.h"
#include "common/store/store.h"
#include "common/store/work.h"
#include "daemon/core/database_int.h"
#include "daemon/core/history.h"
#include "daemon/replica/fence_look.h"
#include "daemon/spool/compact.h"

#define HISTORY_NEVER UINT64_MAX

/* One replica's share of a database's history. */
struct keeper {
    unsigned magic;
    struct history *h;
    struct uploader *u;

    struct inventory_facts facts;
    bool has_facts, stale; /* stale: something changed that they depend on */
    uint64_t has[SPOOL_LEVELS]; /* newest TXID of each level that the replica holds */

    bool wants_snapshot; /* due, or asked for */
    struct spool_file snapshot; /* at hand, to be uploaded; txid 0: none */
    bool wants_list;
    uint64_t no_delete_until_ms; /* it failed, or these keys may not */
    bool may_not_delete;         /* which was said */

    enum { KEEPER_RESTS, KEEPER_ASKS, KEEPER_SENDS, KEEPER_LOOKS, KEEPER_DELETES, KEEPER_LISTS } doing;
    struct store_req req;
    struct store_body body;
    struct store_meta meta;
    char *key, *path;
    struct fence_look look;   /* at what is in its way */
    unsigned level;           /* of what is sent */
    struct level_file sending;
    struct inventory_req ask;
    const char **doomed_key;  /* of ask.object */
    struct keeper_list *list;
    struct keeper_found { /* by the last comparison with the bucket */
        uint64_t objects, bytes, unknown, missing, foreign;
        char example[LTX_NAME_SIZE + 8];
    } found;

    struct retry retry;
    uint64_t retry_at_ms;
    struct err *err; /* of the last failed attempt; NULL: it worked */
    /* deletions have trouble of their own: neither do they hold up what goes up, nor is it over because that works */
    struct retry delete_retry;
    struct err *delete_err;
    bool closing;
};

struct history_job {
    enum history_task { HISTORY_LOAD, HISTORY_MERGE, HISTORY_SWEEP } what;
    struct history *h;
    struct work work;
    struct beat beat;
    struct compact_job compact; /* MERGE */
    struct level_file made;
    struct level_file *drop[SPOOL_LEVELS]; /* SWEEP */
    size_t n_drop[SPOOL_LEVELS];
    uint64_t merged[SPOOL_LEVELS]; /* to be remembered */
    struct level_list loaded[SPOOL_LEVELS];
    struct err err;
    int r;
};

struct history {
    struct database *db;
    struct history_shared *shared;
    struct level_list level[SPOOL_LEVELS]; /* in the spool: levels 1 to 3 */
    bool loaded;
    struct history_job *job; /* under way */
    bool queued;             /* for a turn to merge */
    struct history *next;
    struct keeper *keeper; /* one for each uploader, in their order */
    size_t n_keepers;
    struct history_call *call; /* under way */
    struct retry retry;        /* of jobs */
    uint64_t retry_at_ms;
    bool overflow_told;
    bool closing, poking;
};

/* history.c */
/** history_wake(db): its struct history, made if need be; NULL: not now. */
struct history *history_wake(struct database *db);
void history_poke(struct history *h);

/* history_merge.c */
/** history_load(h): read which merged files there are; h->job until then. */
void history_load(struct history *h);
/** history_merge(h): start the merge that is due, if none is under way; else the monotonic time when one is. */
uint64_t history_merge(struct history *h);
/** history_merge_waiting(db): how many files of level 0 wait to be merged; 0: too few. Needs no struct history. */
size_t history_merge_waiting(struct database *db);
/** history_sweep(h): start taking out of the spool what no replica needs any more, or what there is no room for. */
void history_sweep(struct history *h);
/** history_queue_leave(h): it does not wait for a turn to merge any more. */
void history_queue_leave(struct history *h);

/* history_shared.c */
/** history_due_at(real_ms, most_ms): a real time as a monotonic one; now, if it is further away than most_ms. */
uint64_t history_due_at(int64_t real_ms, uint64_t most_ms);
/** history_boundary(db, after_ms, interval_ms): the first moment after `after_ms` at which something happens every
 * interval; another one for each database. */
int64_t history_boundary(const struct database *db, int64_t after_ms, uint64_t interval_ms);

/* history_call.c */
void history_calls_check(struct history *h);
void history_calls_fail(struct history *h, const struct err *e);

/* keeper.c */
void keeper_init(struct keeper *k, struct history *h, struct uploader *u);
/** keeper_poke(k): start what can be started. Monotonic time of the next thing to do, if it waits for nothing but
 * time. */
uint64_t keeper_poke(struct keeper *k);
/** keeper_needs(k, level, f): this file of the spool is still to be uploaded. */
bool keeper_needs(const struct keeper *k, unsigned level, const struct level_file *f);
/** keeper_stored(k, level, f): the replica has it. */
void keeper_stored(struct keeper *k, unsigned level, const struct level_file *f);
bool keeper_is_quiet(const struct keeper *k);
/** keeper_listed(k): the comparison is over. */
void keeper_listed(struct keeper *k);
/** keeper_close(k): true: closed; else history_poke() when it is. */
bool keeper_close(struct keeper *k);
void keeper_failed(struct keeper *k, const struct err *e, const char *what);
void keeper_worked(struct keeper *k);
struct inventory_place keeper_place(const struct keeper *k);

/* keeper_list.c */
void keeper_list_start(struct keeper *k);
void keeper_list_cancel(struct keeper *k);

#endif
