/* manager.h - owns everything in the daemon: configuration, stores, databases, watcher, control
 * server; start, reload, shutdown. Loop thread only. */
#ifndef WALSUP_MANAGER_H
#define WALSUP_MANAGER_H

#include <uv.h>

#include "common/format/conf.h"
#include "common/store/store.h"
#include "daemon/database.h"
#include "daemon/notify.h"
#include "daemon/watch.h"

struct ctlserver;

/* A configured target with its store; shared by the databases that replicate there. */
struct manager_target {
    char *name;
    char *identity; /* everything that makes it another store when it changes */
    struct store *store;
};

struct manager {
    uv_loop_t *loop;
    char *conf_path;
    struct conf *conf;
    struct manager_target **target;
    size_t n_targets;
    struct database **db;
    size_t n_dbs;
    struct watch *watch;
    struct berths *berths;
    struct ctlserver *ctl;
    struct notify *notify;
    uv_timer_t scan, tick, deadline;
    uv_signal_t sigterm, sigint, sighup;
    int64_t started_ms;
    bool ready;
    bool stopping, closing;
    uint64_t stopping_ms;
    int exit_status;
    unsigned open; /* things that closing waits for */
    size_t retired; /* databases on their way out after a reload */
    struct manager_target **old_target; /* stores to close once those are gone */
    size_t n_old;
};

struct manager_diff {
    struct buf added, removed, changed; /* names, each followed by a NUL byte */
    unsigned unchanged;
};
void manager_diff_done(struct manager_diff *d);

/** manager_new(loop, conf_path, conf, ret, e): takes conf over on success. */
int manager_new(uv_loop_t *loop, const char *conf_path, struct conf *conf, struct manager **ret,
                struct err *e);
/** manager_reload(m, ret, errors, e): read the configuration again. Wrong: nothing changes, `errors` holds
 * every problem. Right: databases are added, dropped and changed without touching the others. */
int manager_reload(struct manager *m, struct manager_diff *ret, struct buf *errors,
                   struct err *e);
/** manager_stop(m): flush what can be flushed within shutdown-timeout, then end the loop. A second call
 * skips the flushing. */
void manager_stop(struct manager *m);
/** manager_find(m, name_or_path): NULL if there is none. */
struct database *manager_find(const struct manager *m, const char *name_or_path);
/** manager_free(m): after the loop has ended; returns the exit status. */
int manager_free(struct manager *m);

#endif
