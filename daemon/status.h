/* status.h - the daemon's state in words and JSON, from memory only. Loop thread only. */
#ifndef WALSUP_STATUS_H
#define WALSUP_STATUS_H

#include <jansson.h>

#include "daemon/manager.h"

enum status_health { STATUS_HEALTHY, STATUS_DEGRADED, STATUS_FAILED };

/** status_state(db): one of the words of the manual: waiting, not-wal, starting, replicating, behind,
 * failed. */
const char *status_state(const struct database *db);
enum status_health status_health(const struct database *db);
/** status_lag_ms(u): age of the oldest commit that this replica lacks; 0 if it has everything. */
uint64_t status_lag_ms(const struct uploader *u);
/** status_json(m, db, limit): the reply of io.walsup.Status; db NULL: all of them, or if there are more
 * than `limit`, the worst of those that are not fine. New reference. */
json_t *status_json(const struct manager *m, const struct database *db, size_t limit);
/** status_line(m, buf, n): one line for systemd. */
void status_line(const struct manager *m, char *buf, size_t n);

#endif
