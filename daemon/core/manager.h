/* manager.h - owns everything in the daemon: configuration, stores, databases, watcher, control
 * server; start, reload, shutdown. Loop thread only. */
#ifndef WALSUP_MANAGER_H
#define WALSUP_MANAGER_H

#include <uv.h>

#include "common/base/map.h"
#include "common/format/conf.h"
#include "common/store/store.h"
#include "daemon/control/drill.h"
#include "daemon/control/hook.h"
#include "daemon/core/database.h"
#include "daemon/os/loopmeter.h"
#include "daemon/os/notify.h"
#include "daemon/watch/discover.h"
#include "daemon/watch/watch.h"

struct ctlserver;
struct once;
struct metrics_http;

/* A configured target with its store; shared by the databases that replicate there. */
struct manager_target {
    char *name;
    struct secret *identity; /* everything that makes it another store when it changes */
    struct store *store;
};

struct manager_file_id {
    uint64_t dev, ino;
};

/* A database, and what the manager knows of it; the owner of the database. */
struct manager_db {
    struct manager *m;
    struct database *db;
    const struct conf_db *conf; /* its section, of m->conf */
    struct discover_file *file; /* NULL: not found by a pattern, or not there any more */
    size_t at;                  /* in m->db */
    struct manager_file_id id;  /* of the file it was begun with, key of m->by_id; zero: no file then */
    uint64_t lineage;           /* of that file; another one means another file */
    bool begun;      /* watched and running; else it waits for another one to be closed, or is a second
                        name of another one's file */
    bool refused;    /* the latter */
    bool refusal_told;
    uint64_t asked_ms; /* where it is was asked then, and not answered yet; 0: no */
    bool answered;     /* and now it is */
    bool in_order;     /* in m->asked */
    struct manager_db *asked_prev, *asked_next;
    bool asking_id;
    uint64_t sure_ms;  /* it had the file of its id then */
    bool counted;    /* READY waits for it */
    bool leaving;    /* its file, found by a pattern, is gone */
    bool told;       /* that */
    uint64_t gone_ms;
    struct hook_db hook;
    struct manager_db *next; /* of m->leaving, or m->waiting */
};

/* How the databases are, as the status line tells it; zero: none was looked at. */
struct status_tally {
    unsigned failed, degraded;
    uint64_t worst_ms; /* lag */
};

/* Where the look at the active databases is (manager_look.c). */
struct manager_look {
    size_t at;       /* in active.db */
    struct status_tally tally; /* of those before */
    bool stuck;
    uint64_t rounds, visits, checks; /* since the start */
    enum { LOOK_ACTIVE, LOOK_CHECK, LOOK_WALK } how;
};

struct manager {
    uv_loop_t *loop;
    char *conf_path;
    struct conf *conf;
    struct manager_target **target;
    size_t n_targets;
    struct database **db; /* as configured, then as found, until one goes */
    size_t n_dbs, cap_dbs;
    struct map by_name, by_path; /* of db */
    struct map by_id;            /* struct manager_db */
    struct manager_db *leaving, *waiting;
    size_t not_ready; /* of db, what READY waits for */
    bool settled;     /* the patterns have found what there was at start */
    struct map had;      /* sections whose patterns have or had databases (patterns.c) */
    struct map overlaps; /* pairs of sections whose patterns match the same, as said */
    struct active active;        /* of db, what is looked at every second */
    struct manager_look look;
    unsigned ticks;
    bool stuck;
    struct scan *scanner;
    struct watch *watch;
    struct discover *discover;
    struct berths *berths;
    struct history_shared *history;
    struct map due; /* by name of the database: what was due when the last process ended */
    struct ctlserver *ctl;
    struct hook *hook;
    struct metrics_http *http; /* NULL: no metrics-listen */
    struct loopmeter meter;
    struct notify *notify;
    struct drill *drill;
    struct once *once; /* NULL: it runs until it is asked to stop */
    uv_timer_t scan, tick, deadline;
    uv_signal_t sigterm, sigint, sighup;
    int64_t started_ms;
    bool ready;
    bool was_asleep; /* no database was attached at the last tick */
    bool fired;      /* the agenda, since memory was given back */
    bool stopping, closing;
    uint64_t stopping_ms, extended_ms; /* when it was asked to; when it last asked for time */
    int exit_status;
    unsigned open; /* things that closing waits for */
    size_t retired; /* databases on their way out */
    struct manager_db *asked, *asked_last; /* in the order of the configuration, not decided yet */
    struct reload *reload; /* the first one is under way */
    size_t asks;    /* questions to a disk under way (manager_id.c, manager_reload.c) */
    bool asks_awaited;
    struct manager_target **old_target; /* stores to close once those are gone */
    size_t n_old;
};

struct manager_diff {
    struct buf added, removed, changed; /* names, each followed by a NUL byte */
    unsigned unchanged;
    struct conf_change *change; /* as it is written */
    size_t n_changes;
    struct buf restart; /* a line for each thing that needs one */
};

/** manager_new(loop, conf_path, conf, ret, e): takes conf over on success. */
int manager_new(uv_loop_t *loop, const char *conf_path, struct conf *conf, struct manager **ret,
                struct err *e);
/** manager_reload(m, done, arg): read the configuration again, on a worker, one call after the other; then done(), in which
 * d, errors and e are good. Wrong (r < 0): nothing changed, `errors` holds every problem. Right: databases are added,
 * dropped and changed without touching the others. */
typedef void (*manager_reload_fn)(void *arg, int r, struct manager_diff *d, struct buf *errors, const struct err *e);
void manager_reload(struct manager *m, manager_reload_fn done, void *arg);
/** manager_stop(m): flush what can be flushed within shutdown-timeout, then end the loop. A second call
 * skips the flushing. */
void manager_stop(struct manager *m);
/** manager_stop_now(m): end the loop without waiting for uploads; says what is left. */
void manager_stop_now(struct manager *m);
/** manager_find(m, name_or_path): NULL if there is none. */
struct database *manager_find(const struct manager *m, const char *name_or_path);
/** manager_targets_open(m, conf, ret, e): the stores of a configuration; those that stay are shared with
 * m->target. */
int manager_targets_open(struct manager *m, const struct conf *conf, struct manager_target ***ret,
                         struct err *e);
void manager_target_free(struct manager_target *t);
/** manager_close_old(m): the stores that nobody uses any more. */
void manager_close_old(struct manager *m);

/* manager_db.c */
/** manager_add(m, c, path, file): a database of section c, at path; begun unless another one with its
 * name or path is still being closed. NULL: the name is taken, which was said. */
struct manager_db *manager_add(struct manager *m, const struct conf_db *c, const char *path,
                               struct discover_file *file);
/** manager_retire(m, e): close its database and forget it. */
void manager_retire(struct manager *m, struct manager_db *e);
/** manager_same_shape(e, conf, c, target): it can go on under section c of conf with new figures only.
 * manager_refigure(e, conf, c, target): and does; false: nothing was new. */
bool manager_same_shape(const struct manager_db *e, const struct conf *conf, const struct conf_db *c,
                        struct manager_target *const *target);
bool manager_refigure(struct manager_db *e, const struct conf *conf, const struct conf_db *c,
                      struct manager_target *const *target);
/** manager_maybe_ready(m): tell systemd once everything is there or its trouble known. */
void manager_maybe_ready(struct manager *m);
/** manager_db_tick(m): files that are gone. Every second or so. */
void manager_db_tick(struct manager *m);
/** manager_uncount(e): READY does not wait for it. manager_look_late(e): nor if its file system does not answer. */
void manager_uncount(struct manager_db *e);
void manager_look_late(struct manager_db *e);
/* manager_id.c */
/** manager_begin(e): watch it, and when it is known not to be a second name of another one's file, let it run.
 * manager_identify(e): the file is not the one it was begun with: it came later, or was replaced. */
void manager_begin(struct manager_db *e);
/** manager_decide(m): those whose turn it is. Called every second as well. manager_decide_not(e): it goes away. */
void manager_decide(struct manager *m);
void manager_decide_not(struct manager_db *e);
void manager_identify(struct manager_db *e);
/** manager_same_file(m, id, self, ret_sure): the other database that has the file, as far as is known; not sure: it is
 * asked, and then self is begun or identified again, or what patterns have found is offered again. self may be NULL.
 * manager_is_second_name(m, f): the same for what a pattern found; says so. */
const struct manager_db *manager_same_file(struct manager *m, const struct manager_file_id *id,
                                           const struct manager_db *self, bool *ret_sure);
bool manager_is_second_name(struct manager *m, struct discover_file *f);
/** manager_asked(m): one of its questions was answered (manager.c). */
void manager_asked(struct manager *m);
/** manager_begin_refused(e): e has a second name of another one's file: is that still so? */
void manager_begin_refused(struct manager_db *e);
/* manager_look.c */
/** manager_look(m): every second: at some of the databases that are not at rest; when it has seen all of them it knows
 * whether the jobs make progress, and what systemd is told. manager_look_line(m, buf, n): that line, now.
 * manager_look_init(m): WALSUP_TEST_LOOK is how the tests want it. */
void manager_look(struct manager *m);
void manager_look_line(struct manager *m, char *buf, size_t n);
void manager_look_init(struct manager *m);
/** manager_begin_waiting(m): begin what waited for others to be closed. */
void manager_begin_waiting(struct manager *m);
/** manager_learn_due(m), manager_forget_due(m): m->due. */
void manager_learn_due(struct manager *m);
void manager_forget_due(struct manager *m);
/** manager_retired(m): a database was closed (manager.c). */
void manager_retired(struct manager *m);
extern const struct discover_calls manager_discover_calls;

/** manager_free(m): after the loop has ended; returns the exit status. */
int manager_free(struct manager *m);

#endif
