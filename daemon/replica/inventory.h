/* inventory.h - what each replica holds, kept in <state-dir>/state.db, so that nobody has to LIST for it; and
 * the few facts that due times are made of. A store is asked only when this is missing or contradicted.
 *
 * The file is worth nothing beyond that: if it cannot be read it is begun anew, and every replica is listed when
 * something is to be deleted from it.
 *
 * Thread: loop thread. One worker at a time does what was asked in the order of the calls, all that waits in one
 * transaction. Requests are caller-owned: from the call until done() they must stay where they are; done()
 * is called once, later, on the loop thread, and may free or reuse the request. */
#ifndef WALSUP_INVENTORY_H
#define WALSUP_INVENTORY_H

#include <uv.h>

#include "common/base/err.h"
#include "common/format/ltx.h"

struct inventory;

/* A replica: one database at one place (uploader_place) under the name of a target. The strings are
 * copied. */
struct inventory_place {
    const char *db, *target;
    uint64_t place;
};

struct inventory_object {
    unsigned level;
    uint64_t min, max, size;
    int64_t time_ms; /* of its newest transaction */
};

#define INVENTORY_LEVELS (LTX_SNAPSHOT_LEVEL + 1)

/* What is known of a replica, in figures. */
struct inventory_facts {
    bool known; /* every object of the replica is in the inventory; else only those written since */
    uint64_t count[INVENTORY_LEVELS], bytes[INVENTORY_LEVELS], newest[INVENTORY_LEVELS]; /* TXID */
    int64_t snapshot_ms; /* time of the newest whole database, at any level; 0: none is known */
    int64_t snapshot_stored_ms; /* and when it was uploaded, or found */
    uint64_t snapshot_txid;
    int64_t oldest_ms; /* of the oldest one: as far as a restore can go back; 0: none */
    int64_t retain_due_ms; /* real time when something can be deleted; 0: nothing now */
};

/* What a restore of the newest state needs of a replica, as far as the inventory knows. */
struct inventory_anchor {
    uint64_t whole;  /* TXID of the newest file with the whole database; 0: none is known */
    unsigned level;  /* and its level */
    uint64_t merged; /* the newest TXID at the levels 1 to 3 */
};

/* How long what is kept; see retain.h */
struct inventory_rules {
    int64_t now_ms;
    uint64_t window_ms, l0_window_ms;
};

enum inventory_do {
    INVENTORY_FACTS, /* -> facts */
    INVENTORY_DOOMED, /* -> object, n: what may be deleted, at most INVENTORY_BATCH; and facts */
    INVENTORY_ALL,    /* -> object, n: everything, ascending by level and TXID */
    INVENTORY_SET,    /* these n objects are all there is (added before `since_ms`); known from now on */
    INVENTORY_REMOVE, /* these n objects are gone */
    INVENTORY_ANCHOR, /* -> anchor; cheap, whatever the replica holds */
};

#define INVENTORY_BATCH 1000u

struct inventory_req {
    /* set by the caller */
    enum inventory_do what;
    struct inventory_place at;
    struct inventory_rules rules; /* FACTS, DOOMED */
    struct inventory_object *object; /* SET, REMOVE: the caller's. FACTS, DOOMED, ALL: NULL; the result is malloc'ed and
                                        the caller's */
    size_t n;
    int64_t since_ms; /* SET: what was added later is not contradicted */
    void (*done)(struct inventory_req *req);
    void *data;
    /* valid in done() */
    struct err err;
    struct inventory_facts facts;
    struct inventory_anchor anchor;
    struct inventory_req *next; /* the inventory's own */
};

/** inventory_open(loop, state_dir, ret, e): blocks for a moment; before the loop runs. */
int inventory_open(uv_loop_t *loop, const char *state_dir, struct inventory **ret, struct err *e);
/** inventory_close(v, closed, arg): finish what was asked, note a clean end, close, then closed(arg). */
void inventory_close(struct inventory *v, void (*closed)(void *arg), void *arg);
void inventory_ask(struct inventory *v, struct inventory_req *req);
/** inventory_added(v, at, o): the store has acknowledged this object. */
void inventory_added(struct inventory *v, const struct inventory_place *at, const struct inventory_object *o);
/** inventory_begin(v, at): a replica that is empty: all that will be in it is known. */
void inventory_begin(struct inventory *v, const struct inventory_place *at);

/** inventory_due_set(v, db, real_ms): when this database has something to do next, to be known after a
 * restart; 0: nothing. */
void inventory_due_set(struct inventory *v, const char *db, int64_t real_ms);
/** inventory_due_each(v, fn, arg): all of them as they were at start. Before the loop runs. */
void inventory_due_each(struct inventory *v, void (*fn)(void *arg, const char *db, int64_t real_ms), void *arg);

/** inventory_fact_get(v, key): a number that was kept; 0 if there is none. Before the loop runs.
 * inventory_fact_set(v, key, value). */
int64_t inventory_fact_get(struct inventory *v, const char *key);
void inventory_fact_set(struct inventory *v, const char *key, int64_t value);

#endif
