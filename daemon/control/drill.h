/* drill.h - whether the replicas can be restored is found out before they are needed: every verify-interval what
 * `walsupctl verify` does is done for each database, one at a time over all of them. Loop thread only.
 *
 * It is walsupctl that does it, as a process of its own at the lowest priority: what it reads may be damaged
 * in any way, and neither its memory nor its time is the daemon's. When the next one is due follows from a file
 * beside the spool, `verified`, which says when the last one was and what came of it. */
#ifndef WALSUP_DRILL_H
#define WALSUP_DRILL_H

#include <jansson.h>

#include "common/base/util.h"

struct drill;
struct database;
struct manager;

enum drill_result {
    DRILL_PROVEN,  /* the values of walsupctl's exit status */
    DRILL_DAMAGED, /* something is wrong, the latest state restores */
    DRILL_UNSAFE,  /* it does not */
    DRILL_FAILED,  /* nothing can be said: a store is away, say */
};

/* what came of the last one, kept with the database; all zero: nothing is known yet */
struct drill_fact {
    bool looked;     /* the file was read */
    int64_t time_ms; /* of the last one that could say something; 0: there was none */
    enum drill_result result;
    char *text;      /* the objects that are wrong, or the error */
    int64_t retry_ms; /* real time; after DRILL_FAILED */
};

/** drill_new(m): m->conf is looked at from now on. drill_close(d, closed, arg): one that is under
 * way is ended. */
struct drill *drill_new(struct manager *m);
void drill_close(struct drill *d, void (*closed)(void *arg), void *arg);
/** drill_know(d, db): it is new. drill_forget(d, db): it goes away. drill_reconf(d): m->conf is another one. */
void drill_know(struct drill *d, struct database *db);
void drill_forget(struct drill *d, struct database *db);
void drill_reconf(struct drill *d);
/** drill_json(db): for status; null if there never was one. drill_is_bad(db): the last one found something. */
json_t *drill_json(const struct database *db);
bool drill_is_bad(const struct database *db);
void drill_fact_done(struct drill_fact *f);

#endif
