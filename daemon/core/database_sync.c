#include "daemon/core/database_int.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "daemon/os/walls.h"

#define DOUBT_MS 1000 /* doubt that lasts so long is no coincidence */

bool database_sync_unlink(struct database_sync **list, struct database_sync *w)
{
    for (; *list; list = &(*list)->next)
        if (*list == w) {
            *list = w->next;
            return true;
        }
    return false;
}

static void sync_timer_closed(uv_handle_t *h)
{
    struct database_sync *w = h->data;
    if (w->done)
        w->done(w, &w->err);
}

/* The answer is given when the timer is closed, because w belongs to the caller again from then. */
void database_sync_finish(struct database_sync *w, const struct err *e)
{
    if (e)
        w->err = *e;
    else
        err_clear(&w->err);
    uv_close((uv_handle_t *)&w->timer, sync_timer_closed);
}

void database_sync_check(struct database *db)
{
    struct database_sync **p = &db->waiting;
    while (*p) {
        struct database_sync *w = *p;
        bool there = w->armed;
        const struct uploader *fenced = NULL;
        for (size_t i = 0; w->wait && i < db->n_up; i++)
            if (db->up[i]->fenced && there)
                fenced = db->up[i];
        if (fenced) { /* waiting would not help */
            struct err e = *fenced->err;
            err_wrap(&e, "%s: target %s", db->name, fenced->target);
            *p = w->next;
            database_sync_finish(w, &e);
            continue;
        }
        for (size_t i = 0; w->wait && i < db->n_up; i++)
            there = there && uploader_has(db->up[i], w->txid);
        if (!there) {
            p = &w->next;
            continue;
        }
        *p = w->next;
        database_sync_finish(w, NULL);
    }
}

/* Nothing to wait for: there is no database that could be captured. */
static bool sync_hopeless(const struct database *db, struct err *e)
{
    if (db->pause) {
        database_paused_error(db, e);
        return true;
    }
    if (!db->attached_once || db->retry.failures)
        return false;
    if (db->doubt.why && clk_mono_ms() >= db->doubt.since_mono_ms + DOUBT_MS) {
        err_set(e, ERR_IO, "%s: commits may be missed: %s", db->name, db->doubt.why);
        return true;
    }
    switch (db->state) {
    case SOURCE_WAITING:
        if (db->away) {
            err_set(e, ERR_NOTFOUND, "%s: %s", db->name, db->away);
        } else if (db->has_history || db->txid) { /* as status_state() tells DB_MISSING */
            err_set(e, ERR_NOTFOUND, "%s: %s %s", db->name, db->path, db->gone ? db->gone : "is gone");
            err_hint(e, "walsupctl restore %s brings it back; a new one is picked up when it appears", db->name);
        } else {
            err_set(e, ERR_NOTFOUND, "%s: there is no database at %s yet", db->name, db->path);
        }
        return true;
    case SOURCE_NOT_WAL:
        err_set(e, ERR_UNSUPPORTED, "%s: %s is not in WAL mode and not replicated", db->name,
                db->path);
        err_hint(e, "run PRAGMA journal_mode=WAL once in the application");
        return true;
    default:
        return false;
    }
}

static void sync_timeout(uv_timer_t *t)
{
    struct database_sync *w = t->data;
    struct database *db = w->db;
    struct err e;
    if (!w->armed) {
        if (db->retry.failures)
            err_set(&e, ERR_TIMEOUT, "%s: not captured in time: %s", db->name, db->err ? db->err->msg : "");
        else
            err_set(&e, ERR_TIMEOUT, "%s: not captured in time%s%s", db->name, db->away ? ": " : "",
                    db->away ? db->away : "");
    } else {
        const struct uploader *late = NULL;
        for (size_t i = 0; i < db->n_up && !late; i++)
            if (!uploader_has(db->up[i], w->txid))
                late = db->up[i];
        err_set(&e, ERR_TIMEOUT, "%s: target %s has TXID %016" PRIx64 ", not yet %016" PRIx64 "%s%s",
                db->name, late ? late->target : "?", late ? late->acked : 0, w->txid,
                late && late->err ? ": " : "",
                late && late->err ? late->err->msg : "");
        if (late && late->err && late->err->hint[0])
            err_hint(&e, "%s", late->err->hint);
    }
    (void)database_sync_unlink(&db->waiting, w);
    (void)database_sync_unlink(&db->riding, w);
    database_sync_finish(w, &e);
}

void database_sync(struct database *db, struct database_sync *w, uint64_t timeout_ms)
{
    w->db = db;
    w->armed = false;
    w->txid = 0;
    (void)uv_timer_init(db->loop, &w->timer);
    w->timer.data = w;
    struct err e;
    if (db->pause) { /* anything else may have changed since the last look: there will be another one first */
        database_paused_error(db, &e);
        database_sync_finish(w, &e);
        return;
    }
    w->next = db->waiting;
    db->waiting = w;
    (void)uv_timer_start(&w->timer, sync_timeout, timeout_ms, 0);
    db->force = true;
    database_poke(db);
}

void database_sync_cancel(struct database_sync *w)
{
    struct err e;
    if (!database_sync_unlink(&w->db->waiting, w) && !database_sync_unlink(&w->db->riding, w))
        return; /* the answer is on its way already */
    err_set(&e, ERR_CANCELED, "%s: nobody waits any more", w->db->name);
    database_sync_finish(w, &e);
}

/* Somebody waits for a capture. Unlike `force` this does not cut the pause after a failure short. */
bool database_sync_wants_capture(const struct database *db)
{
    for (const struct database_sync *w = db->waiting; w; w = w->next)
        if (!w->armed)
            return true;
    return false;
}

void database_sync_ride(struct database *db)
{
    db->riding = db->waiting;
    db->waiting = NULL;
    /* those already armed only wait for their replicas */
    struct database_sync **p = &db->riding;
    while (*p) {
        struct database_sync *w = *p;
        if (!w->armed) {
            p = &w->next;
            continue;
        }
        *p = w->next;
        w->next = db->waiting;
        db->waiting = w;
    }
}

bool database_sync_wants_map(const struct database *db)
{
    for (const struct database_sync *w = db->riding; w; w = w->next)
        if (w->copy_map)
            return true;
    return false;
}

/* The run that just ended began after these calls were made, and left nothing behind. */
void database_sync_arm(struct database *db, const struct source_result *r)
{
    bool there = r->state == SOURCE_ATTACHED || r->state == SOURCE_ASLEEP;
    bool whole = r->err.code == ERR_OK && there && !r->more && r->doubt == SOURCE_DOUBT_NONE &&
                 !db->unexplained;
    struct err e;
    bool hopeless = !whole && sync_hopeless(db, &e);
    bool copy_given = false; /* one copy, one owner: the next one gets a job of its own */
    struct database_sync *w = db->riding;
    db->riding = NULL;
    while (w) {
        struct database_sync *next = w->next;
        if (hopeless) {
            database_sync_finish(w, &e);
        } else {
            w->armed = whole && !(w->copy_map && copy_given);
            w->txid = db->txid;
            if (w->copy_map && w->armed) {
                w->map_copy = r->map_copy;
                copy_given = r->map_copy != 0;
            }
            w->next = db->waiting;
            db->waiting = w;
        }
        w = next;
    }
    if (r->map_copy && !copy_given) /* nobody is left who asked for it */
        work_unlink(db->loop, WALL_OWN, source_copy_path(db->dir, r->map_copy));
    for (w = db->waiting; w; w = w->next)
        for (size_t i = 0; w->armed && w->wait && i < db->n_up; i++) {
            db->up[i]->flush = true;
            uploader_want_look(db->up[i]);
        }
}

