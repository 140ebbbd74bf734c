/* inventory_db.h - the SQL behind inventory.h. One thread at a time. Not for use outside inventory*.c and
 * tests. */
#ifndef WALSUP_INVENTORY_DB_H
#define WALSUP_INVENTORY_DB_H

#include "daemon/replica/inventory.h"

struct inventory_db;

/** inventory_db_open(path, ret, e): create or read it; one that is damaged, or of another version,
 * is begun anew (which is said in the log). If the last process did not close it, no replica is
 * `known` any more: what was stored at its end may be missing here. */
int inventory_db_open(const char *path, struct inventory_db **ret, struct err *e);
/** inventory_db_close(d, clean): clean: everything that was acknowledged is in it. Returns NULL. */
struct inventory_db *inventory_db_close(struct inventory_db *d, bool clean);

int inventory_db_begin(struct inventory_db *d, struct err *e);
/** inventory_db_commit(d, e): on failure nothing since the begin took place. */
int inventory_db_commit(struct inventory_db *d, struct err *e);
void inventory_db_rollback(struct inventory_db *d);

int inventory_db_add(struct inventory_db *d, const struct inventory_place *at, const struct inventory_object *o,
                     struct err *e);
int inventory_db_start(struct inventory_db *d, const struct inventory_place *at, struct err *e);
/** inventory_db_do(d, req): fills req. */
int inventory_db_do(struct inventory_db *d, struct inventory_req *req, struct err *e);
/** inventory_db_doubt(d, e): additions were lost: no replica is known any more. */
int inventory_db_doubt(struct inventory_db *d, struct err *e);

int inventory_db_due_set(struct inventory_db *d, const char *db, int64_t real_ms, struct err *e);
int inventory_db_due_each(struct inventory_db *d, void (*fn)(void *arg, const char *db, int64_t real_ms), void *arg,
                          struct err *e);
int64_t inventory_db_fact_get(struct inventory_db *d, const char *key);
int inventory_db_fact_set(struct inventory_db *d, const char *key, int64_t value, struct err *e);

#endif
