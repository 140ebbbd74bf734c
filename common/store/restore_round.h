/* restore_round.h - many requests to one store, some at a time, each tried more than once. Loop
 * thread. Not for use outside restore*.c and tests.
 *
 * A slot takes the next job, tries it a few times with growing pauses, and goes on. The first
 * failure cancels what is in flight; a round is over when no slot is busy, so nothing outlives the
 * call. */
#ifndef WALSUP_RESTORE_ROUND_H
#define WALSUP_RESTORE_ROUND_H

#include "common/store/retry.h"
#include "common/store/store.h"

struct restore_round;

struct restore_slot {
    unsigned magic;
    struct restore_round *round;
    struct store_req req;
    size_t job;
    void *item; /* the job, when they are fed */
    char *key; /* key or prefix of the job, the slot's */
    struct store_info info;
    uint64_t got; /* for the job: 0 when it is first tried, then as it was left */
    /* the round's own */
    uv_timer_t pause;
    struct retry retry;
    bool busy, in_flight;
};

struct restore_round {
    uv_loop_t *loop;
    struct store *store;
    void *data; /* the caller's */
    bool vanished; /* the failure: an object that was listed is gone */
    /* the round's own */
    void (*submit)(struct restore_slot *s);
    int (*take)(struct restore_slot *s, struct err *e);
    bool ended; /* take said so */
    struct restore_slot *slot;
    unsigned n_slots;
    unsigned n_handles; /* not closed yet */
    size_t n_jobs, next_job;
    unsigned n_busy;
    bool failed;
    struct err err;
};

/** restore_round_init(r, loop, s, parallel, data): parallel 0 = store_connections(). */
void restore_round_init(struct restore_round *r, uv_loop_t *loop, struct store *s,
                        unsigned parallel, void *data);
/** restore_round_run(r, n, submit, e): jobs 0 to n-1. submit(slot), called again for each try, sets
 * the key, calls restore_slot_begin and makes one request of the store with slot->req. */
int restore_round_run(struct restore_round *r, size_t n_jobs,
                      void (*submit)(struct restore_slot *s), struct err *e);
/** restore_round_feed(r, take, submit, e): jobs as they come. take(slot, e), called whenever a slot is
 * free or by restore_round_kick: 0 and slot->item set, 1: nothing now, 2: nothing ever, or negative. */
int restore_round_feed(struct restore_round *r, int (*take)(struct restore_slot *s, struct err *e),
                       void (*submit)(struct restore_slot *s), struct err *e);
/** restore_round_kick(r): what take said may be different now. restore_round_fail(r, e): end it. */
void restore_round_kick(struct restore_round *r);
void restore_round_fail(struct restore_round *r, const struct err *e);
void restore_round_done(struct restore_round *r);
/** restore_slot_begin(s, key, done): takes key. done: NULL, or a function that ends with
 * restore_slot_end. */
void restore_slot_begin(struct restore_slot *s, char *key, store_done_fn done);
void restore_slot_end(struct store_req *req);

#endif
