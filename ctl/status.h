/* status.h - status in words, shared by `status` and `status --watch`. */
#ifndef WALSUP_CTL_STATUS_H
#define WALSUP_CTL_STATUS_H

#include <jansson.h>

#include "common/base/buf.h"

#define STATUS_TIMEOUT_MS 10000

/* the exit status of the verb */
enum status_exit { STATUS_HEALTHY, STATUS_DEGRADED, STATUS_FAILED };

struct status_ask {
    const char *socket;
    const char *db; /* NULL: all of them */
    bool all;       /* also if there are very many */
    uint64_t interval_ms;
};

/** status_parameters(ask, json): of the call. New reference. */
json_t *status_parameters(const struct status_ask *ask, bool json);
enum status_exit status_exit_of(const json_t *reply);
/** status_row_state(db, replica): a database is "behind" because one of its replicas is; the others are not to be
 * blamed for it. replica may be NULL. */
const char *status_row_state(const json_t *db, const json_t *replica);
/** status_note(b, db, replica, now_ms): what is wrong, since when, what happens next; nothing if
 * all is well. Either may be NULL. */
void status_note(struct buf *b, const json_t *db, const json_t *replica, uint64_t now_ms);
/** status_print(reply, one): the page; one: of one database. */
void status_print(const json_t *reply, bool one);

/** status_watch(ask, json): on a terminal the page again and again; else a line for each change. Until SIGINT or
 * SIGTERM; returns the exit status of what was last seen. */
int status_watch(const struct status_ask *ask, bool json);

/** status_states(json, man): what the words mean; exit status. */
int status_states(bool json, bool man);

#endif
