/* status.h - the daemon's state in words and JSON, from memory only. Loop thread only. */
#ifndef WALSUP_STATUS_H
#define WALSUP_STATUS_H

#include <jansson.h>

#include "common/format/db_state.h"
#include "daemon/core/manager.h"

enum status_health { STATUS_HEALTHY, STATUS_DEGRADED, STATUS_FAILED };

/** status_state(db): a row of common/format/db_state.def. */
enum db_state status_state(const struct database *db);
enum status_health status_health(const struct database *db);
/** status_at_rest(db): asleep and healthy, every replica has everything, nothing is under way: nobody has to look at it
 * before something happens to it, or its proof is old (active.h). */
bool status_at_rest(const struct database *db);
/** status_lag_ms(u): age of the oldest commit that this replica lacks; 0 if it has everything. */
uint64_t status_lag_ms(const struct uploader *u);
#define STATUS_DETAIL 512u
/** status_detail(db, buf): why it has its state, where that is no failure: "" or a sentence, which may be in buf. */
const char *status_detail(const struct database *db, char buf[static STATUS_DETAIL]);
/** status_spool_files(db): files that some replica lacks; what waits to be merged only is no concern of
 * anybody's. */
size_t status_spool_files(const struct database *db);
/** status_database_json(db), status_watch_json(m): parts of the reply of io.walsup.Status. New references. */
json_t *status_database_json(const struct database *db);
json_t *status_watch_json(const struct manager *m);

/* status_walk.c: that reply, a piece at a time. Its fields are in walsupctl(1); whoever takes one away or gives it
 * another meaning raises the number. */
#define STATUS_SCHEMA 1
#define STATUS_LIMIT 1000
struct status_walk;
/** status_walk_new(m, db, limit): db NULL: all of them, or if there are more than `limit`, the worst of those that
 * are not fine, of which there are at most STATUS_LIMIT.
 * status_walk_piece(w, out, bytes): append about so many bytes, at least one; false: that was all. Databases may come
 * and go between the pieces. status_walk_free(w): NULL is fine. */
struct status_walk *status_walk_new(struct manager *m, const struct database *db, size_t limit);
bool status_walk_piece(struct status_walk *w, struct buf *out, size_t bytes);
void status_walk_free(struct status_walk *w);
/** status_line(m, t, buf, n): one line for systemd, by what status_tally_add(t, db) found in all databases that are not
 * at rest; t is zero first. */
void status_tally_add(struct status_tally *t, const struct database *db);
void status_line(const struct manager *m, const struct status_tally *t, char *buf, size_t n);

#endif
