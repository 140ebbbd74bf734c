#include "daemon/core/once.h"

#include <errno.h>
#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "daemon/core/manager.h"

#define TICK_MS 20
#define SOON_MS 70000 /* what was overdue at the start is spread over so much (manager_db.c) */

/* One database on its way. It is found by its name: a file that goes away takes its struct database along. */
struct one {
    struct database_sync w;
    struct once *o;
    char *name;
    enum { ONE_NEW, ONE_LOOKED, ONE_WAITS, ONE_DONE } at;
    bool failed, tended;
    uint64_t alive_ms, acked;
};

struct once {
    struct manager *m;
    uv_timer_t timer;
    uv_poll_t stop;
    int ready_fd, stop_fd; /* -1: none */
    bool begun, over, timer_open, stop_open;
    uint64_t deadline_ms; /* of all; 0: none */
    struct one *one;
    size_t n, left, waiting;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* ---- one database ------------------------------------------------------------------------------ */

static void failed(struct one *x, const struct err *e)
{
    struct manager *m = x->o->m;
    log_err(LOG_ERROR, e, "%s: not everything is in its replicas", x->name);
    x->failed = true;
    if (!m->exit_status)
        m->exit_status = err_exit_status(e->code);
}

static void done(struct one *x)
{
    x->at = ONE_DONE;
    x->o->left--;
}

static void maybe_free(struct once *o);

static void on_synced(struct database_sync *w, const struct err *e)
{
    struct one *x = w->data;
    struct once *o = x->o;
    if (e->code == ERR_NOTFOUND && once_is_held(o)) /* the program made none */
        log_line(LOG_INFO, "%s", e->msg);
    else if (e->code != ERR_OK && !x->failed)
        failed(x, e);
    done(x);
    o->waiting--;
    maybe_free(o);
}

static uint64_t acked(const struct database *db)
{
    uint64_t sum = db->txid;
    for (size_t i = 0; i < db->n_up; i++)
        sum += db->up[i]->acked;
    return sum;
}

/* A job or a request is under way, and the last one did not fail. */
static bool alive(struct one *x, const struct database *db)
{
    bool busy = (db->run && !db->retry.failures) || db->stream || acked(db) != x->acked;
    for (size_t i = 0; i < db->n_up; i++)
        busy = busy || (db->up[i]->flight && !db->up[i]->retry.failures);
    x->acked = acked(db);
    return busy;
}

/* Why it takes so long. */
static int explain(const struct database *db, struct err *e)
{
    char limit[32];
    const struct manager *m = ((const struct manager_db *)db->owner)->m;
    (void)util_duration(limit, m->conf->shutdown_timeout_ms);
    for (size_t i = 0; i < db->n_up; i++)
        if (db->up[i]->err && db->up[i]->retry.failures) {
            *e = *db->up[i]->err;
            return err_wrap(e, "target %s, given up after shutdown-timeout (%s)", db->up[i]->target, limit);
        }
    if (db->err && db->retry.failures) {
        *e = *db->err;
        return err_wrap(e, "not captured, given up after shutdown-timeout (%s)", limit);
    }
    return err_set(e, ERR_TIMEOUT, "%s, given up after shutdown-timeout (%s)",
                   db->away ? db->away : "it takes too long", limit);
}

static void watch(struct one *x, struct database *db, uint64_t now)
{
    struct once *o = x->o;
    struct err e;
    if (alive(x, db))
        x->alive_ms = now;
    bool late = o->deadline_ms ? now >= o->deadline_ms : now >= x->alive_ms + o->m->conf->shutdown_timeout_ms;
    if (x->failed || !late)
        return;
    (void)explain(db, &e);
    failed(x, &e);
    database_sync_cancel(&x->w);
}

static void wait_for(struct one *x, struct database *db, uint64_t now)
{
    x->at = ONE_WAITS;
    x->alive_ms = now;
    x->o->waiting++;
    x->w = (struct database_sync){.done = on_synced, .data = x, .wait = true};
    database_sync(db, &x->w, UINT64_MAX / 2);
}

static void step(struct one *x, uint64_t now)
{
    struct database *db = manager_find(x->o->m, x->name);
    const struct manager_db *e = db ? db->owner : NULL;
    bool there = db && (db->state == SOURCE_ATTACHED || db->state == SOURCE_ASLEEP);
    if (x->at == ONE_WAITS && db)
        watch(x, db, now);
    if (x->at == ONE_WAITS || x->at == ONE_DONE)
        return;
    if (!db) { /* its file is gone, and what it left is uploaded or reported */
        done(x);
    } else if (e->refused) {
        failed(x, db->err);
        done(x);
    } else if (x->at == ONE_NEW && !there && !db->pause) { /* the file may just have come, or have become a database */
        x->at = ONE_LOOKED;
        database_event(db, WATCH_NAME);
    } else if (!db->run) {
        wait_for(x, db, now);
    } else if (there) {
        wait_for(x, db, now);
    }
}

/* ---- all of them ------------------------------------------------------------------------------- */

static bool tended(struct once *o, uint64_t now)
{
    bool all = true;
    for (size_t i = 0; i < o->n; i++) {
        struct one *x = &o->one[i];
        struct database *db = x->failed ? NULL : manager_find(o->m, x->name);
        if (!db || db->pause)
            continue;
        if (!x->tended && db->due.place && db->due.at_ms < now + SOON_MS)
            history_due(db);
        x->tended = true;
        all = all && history_at_rest(db);
    }
    return all;
}

static void finish(struct once *o)
{
    size_t bad = 0;
    for (size_t i = 0; i < o->n; i++)
        bad += o->one[i].failed;
    o->over = true;
    if (bad)
        log_line(LOG_ERROR, "%zu of %zu database%s: not everything is in every replica", bad, o->n, PLURAL(o->n));
    else
        log_line(LOG_NOTICE, "%zu database%s: everything is in every replica", o->n, PLURAL(o->n));
    manager_stop(o->m);
    if (bad)
        manager_stop_now(o->m); /* what can be uploaded is */
}

static void begin(struct once *o)
{
    struct manager *m = o->m;
    uint64_t now = clk_mono_ms();
    o->begun = true;
    if (once_is_held(o))
        o->deadline_ms = now + m->conf->shutdown_timeout_ms;
    o->n = o->left = m->n_dbs;
    o->one = util_zalloc(MAX(o->n, (size_t)1) * sizeof *o->one);
    for (size_t i = 0; i < o->n; i++)
        o->one[i] = (struct one){.o = o, .name = util_strdup(m->db[i]->name), .alive_ms = now};
}

static void on_tick(uv_timer_t *t)
{
    struct once *o = t->data;
    uint64_t now = clk_mono_ms();
    if (o->over || o->m->stopping)
        return;
    if (!o->begun) {
        if (!discover_listing(o->m->discover))
            begin(o);
        return;
    }
    for (size_t i = 0; i < o->n; i++)
        step(&o->one[i], now);
    if (!o->left && (once_is_held(o) || tended(o, now)))
        finish(o);
}

static void start(struct once *o)
{
    (void)uv_timer_start(&o->timer, on_tick, TICK_MS, TICK_MS);
}

static void on_stop(uv_poll_t *p, int status, int events)
{
    struct once *o = p->data;
    (void)status;
    (void)events;
    (void)uv_poll_stop(p);
    start(o);
}

void once_new(struct manager *m, int ready_fd, int stop_fd)
{
    struct once *o = util_zalloc(sizeof *o);
    *o = (struct once){.m = m, .ready_fd = ready_fd, .stop_fd = stop_fd, .timer_open = true};
    (void)uv_timer_init(m->loop, &o->timer);
    o->timer.data = o;
    o->stop.data = o;
    if (stop_fd >= 0 && uv_poll_init(m->loop, &o->stop, stop_fd) == 0) {
        o->stop_open = true;
        (void)uv_poll_start(&o->stop, UV_READABLE, on_stop);
    }
    m->once = o;
}

bool once_is_held(const struct once *o)
{
    return o && o->stop_fd >= 0;
}

void once_ready(struct once *o)
{
    if (!once_is_held(o))
        start(o);
    else if (o->ready_fd >= 0) {
        (void)!write(o->ready_fd, "", 1);
        (void)close(o->ready_fd);
        o->ready_fd = -1;
    }
}

static void maybe_free(struct once *o)
{
    if (!o->closed || o->timer_open || o->stop_open || o->waiting)
        return;
    void (*closed)(void *) = o->closed;
    void *arg = o->closed_arg;
    for (size_t i = 0; i < o->n; i++)
        free(o->one[i].name);
    free(o->one);
    if (o->stop_fd >= 0)
        (void)close(o->stop_fd);
    if (o->ready_fd >= 0)
        (void)close(o->ready_fd);
    free(o);
    closed(arg);
}

static void on_timer_closed(uv_handle_t *h)
{
    struct once *o = h->data;
    o->timer_open = false;
    maybe_free(o);
}

static void on_poll_closed(uv_handle_t *h)
{
    struct once *o = h->data;
    o->stop_open = false;
    maybe_free(o);
}

void once_close(struct once *o, void (*closed)(void *arg), void *arg)
{
    if (!o->over && !o->m->exit_status) /* asked to stop before it was done */
        o->m->exit_status = err_exit_status(ERR_CANCELED);
    o->closed = closed;
    o->closed_arg = arg;
    uv_close((uv_handle_t *)&o->timer, on_timer_closed);
    if (o->stop_open)
        uv_close((uv_handle_t *)&o->stop, on_poll_closed);
}
