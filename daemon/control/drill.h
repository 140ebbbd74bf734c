/* drill.h - whether the replicas can be restored is found out before they are needed: every verify-interval what
 * `walsupctl verify` does is done for each database, one at a time over all of them. Loop thread only.
 *
 * It is walsupctl that does it, as a process of its own at the lowest priority: what it reads may be damaged
 * in any way, and neither its memory nor its time is the daemon's. When the next one is due follows from a file
 * beside the spool, `verified`, which says when the last one was and what came of it. */
#ifndef WALSUP_DRILL_H
#define WALSUP_DRILL_H

#include <jansson.h>

#include "daemon/core/drill_fact.h"

struct drill;
struct database;
struct manager;

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

#endif
