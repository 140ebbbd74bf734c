/* history.c - what is due for a database: merging its files level by level, snapshots, and what its keepers do. */
#include "daemon/core/history_int.h"

#include "common/base/clk.h"
#include "common/base/log.h"

#define FIRST_LOOK_MS 60000    /* after the first capture: what is due otherwise? */
#define REST_MS 1000 /* due so soon: not worth going away */

/* ---- deciding ---------------------------------------------------------------------------------- */

static void want_snapshot(struct history *h)
{
    if (h->db->new_lineage)
        return; /* of what comes, not of what was before the takeover */
    for (size_t i = 0; i < h->n_keepers; i++) {
        const struct keeper *k = &h->keeper[i];
        if (k->wants_snapshot && !k->snapshot.txid && k->u->known && !k->u->fenced && !k->u->needs_base &&
            !k->u->streaming && k->retry_at_ms <= clk_mono_ms()) {
            database_want_snapshot(h->db, false);
            return;
        }
    }
}

static void history_free(struct history *h)
{
    history_queue_leave(h);
    for (unsigned i = 0; i < SPOOL_LEVELS; i++)
        level_list_done(&h->level[i]);
    h->db->history = NULL;
    free(h->keeper);
    free(h);
}

/* True: closed, and freed. */
static bool maybe_closed(struct history *h)
{
    bool closed = !h->job;
    for (size_t i = 0; i < h->n_keepers; i++)
        closed = keeper_close(&h->keeper[i]) && closed;
    if (!closed)
        return false;
    agenda_remove(h->shared->agenda, &h->db->due);
    history_free(h);
    return true;
}

static void save_due(const struct history *h, uint64_t at)
{
    uint64_t now = clk_mono_ms();
    int64_t real = at == HISTORY_NEVER ? 0 : clk_real_ms() + (int64_t)(at > now ? at - now : 0);
    inventory_due_set(h->shared->inventory, h->db->name, real);
}

static bool keeper_rests(const struct history *h, const struct keeper *k)
{
    bool rests = keeper_is_quiet(k) && k->has_facts && !k->stale;
    for (unsigned i = 0; i < SPOOL_LEVELS; i++)
        for (size_t n = 0; rests && n < h->level[i].n; n++)
            rests = !keeper_needs(k, i + 1, &h->level[i].file[n]);
    return rests;
}

/* Nothing to do for a while, and nobody writes: what is needed again is read again. */
static bool rests(const struct history *h, uint64_t at)
{
    bool idle = h->db->state != SOURCE_ATTACHED && !h->db->run && !h->db->stream && !h->call &&
                !h->job && !h->queued && h->loaded && at > clk_mono_ms() + REST_MS;
    for (size_t i = 0; i < h->n_keepers; i++)
        idle = idle && keeper_rests(h, &h->keeper[i]);
    return idle;
}

bool history_at_rest(const struct database *db)
{
    const struct history *h = db->history;
    if (!h || h->retry.failures)
        return true;
    bool idle = h->loaded && !h->job && !h->queued && !db->stream &&
                (!db->due.place || db->due.at_ms > clk_mono_ms() + REST_MS);
    for (size_t i = 0; i < h->n_keepers; i++)
        idle = idle && (keeper_rests(h, &h->keeper[i]) || h->keeper[i].err ||
                        h->keeper[i].delete_err || h->keeper[i].u->fenced);
    return idle;
}

static uint64_t decide(struct history *h)
{
    uint64_t at = HISTORY_NEVER;
    if (h->retry_at_ms > clk_mono_ms())
        at = h->retry_at_ms;
    else if (h->loaded)
        at = history_merge(h);
    else if (!h->job)
        history_load(h);
    if (!h->loaded)
        return at;
    for (size_t i = 0; i < h->n_keepers; i++)
        at = MIN(at, keeper_poke(&h->keeper[i]));
    if (h->retry_at_ms <= clk_mono_ms())
        history_sweep(h);
    history_calls_check(h);
    want_snapshot(h);
    return at;
}

void history_poke(struct history *h)
{
    if (h->poking)
        return; /* a request that ended at once */
    if (h->closing) {
        struct database *db = h->db;
        if (maybe_closed(h))
            database_history_closed(db);
        return;
    }
    h->poking = true;
    uint64_t at = decide(h);
    h->poking = false;
    struct history_shared *s = h->shared;
    if (at == HISTORY_NEVER)
        agenda_remove(s->agenda, &h->db->due);
    else
        agenda_set(s->agenda, &h->db->due, at);
    if (!rests(h, at))
        return;
    save_due(h, at);
    for (size_t i = 0; i < h->n_keepers; i++)
        (void)keeper_close(&h->keeper[i]);
    history_free(h);
}

/* ---- from the database ------------------------------------------------------------------------- */

struct history *history_wake(struct database *db)
{
    if (db->history || !db->shared || db->closing || !db->loaded)
        return db->history;
    struct history *h = util_zalloc(sizeof *h);
    h->db = db;
    h->shared = db->shared;
    h->n_keepers = db->n_up;
    h->keeper = util_alloc(MAX(db->n_up, (size_t)1) * sizeof *h->keeper);
    for (size_t i = 0; i < db->n_up; i++)
        keeper_init(&h->keeper[i], h, db->up[i]);
    db->history = h;
    active_add(db->active, db);
    inventory_due_set(h->shared->inventory, db->name, clk_real_ms()); /* should this process be killed */
    return h;
}

void history_due(struct database *db)
{
    struct history *h = history_wake(db);
    if (h)
        history_poke(h);
    else if (db->shared && !db->closing) /* its spool directory is not read yet */
        agenda_set(db->shared->agenda, &db->due, clk_mono_ms() + REST_MS);
}

/* Without a struct history: wake it when there may be something to merge. */
void history_captured(struct database *db)
{
    if (!db->shared || db->closing)
        return;
    if (db->history) {
        history_poke(db->history);
        return;
    }
    struct agenda *a = db->shared->agenda;
    uint64_t interval = db->conf.history.level_ms[0];
    size_t waiting = history_merge_waiting(db);
    if (interval && waiting)
        agenda_sooner(
            a, &db->due,
            history_due_at(
                history_boundary(db, db->file[db->n_files - waiting].timestamp_ms, interval),
                interval));
    else if (!db->due.place)
        agenda_set(a, &db->due, clk_mono_ms() + FIRST_LOOK_MS);
}

static struct keeper *keeper_of(const struct database *db, const struct uploader *u)
{
    for (size_t i = 0; db->history && i < db->history->n_keepers; i++)
        if (db->history->keeper[i].u == u)
            return &db->history->keeper[i];
    return NULL;
}

void history_stored(struct database *db, struct uploader *u, unsigned level, uint64_t min, const struct spool_file *f)
{
    if (!db->shared)
        return;
    inventory_added(db->shared->inventory,
                    &(struct inventory_place){db->name, u->target, uploader_place(u, 0)},
                    &(struct inventory_object){level, min, f->txid, f->size, f->timestamp_ms});
    u->level_bytes[level] += f->size;
    struct keeper *k = keeper_of(db, u);
    if (min > 1)
        return;
    u->snapshot_txid = f->txid;
    u->snapshot_ms = f->timestamp_ms;
    if (k)
        k->stale = true;
}

void history_empty(struct database *db, struct uploader *u)
{
    if (db->shared)
        inventory_begin(db->shared->inventory,
                        &(struct inventory_place){db->name, u->target, uploader_place(u, 0)});
}

void history_heal(struct database *db, struct uploader *u)
{
    struct history *h = history_wake(db);
    struct keeper *k = keeper_of(db, u);
    if (!k)
        return;
    k->wants_list = true;
    history_poke(h);
}

void history_moved(struct database *db)
{
    if (db->history)
        history_poke(db->history);
}

bool history_take_snapshot(struct database *db, const struct spool_file *f)
{
    bool used = false;
    for (size_t i = 0; db->history && i < db->history->n_keepers; i++) {
        struct keeper *k = &db->history->keeper[i];
        if (!k->wants_snapshot || (k->doing == KEEPER_SENDS && k->level == LTX_SNAPSHOT_LEVEL))
            continue;
        k->snapshot = *f;
        used = true;
    }
    return used;
}

bool history_wants_snapshot(const struct database *db, const struct uploader *u)
{
    const struct keeper *k = keeper_of(db, u);
    return k && k->wants_snapshot && !k->snapshot.txid;
}

void history_streamed(struct database *db, struct uploader *u, const struct spool_file *f)
{
    struct keeper *k = keeper_of(db, u);
    if (!k) { /* it went to sleep meanwhile */
        history_stored(db, u, LTX_SNAPSHOT_LEVEL, 1, f);
        uploader_anchored(u, f->txid);
    } else
        keeper_stored(k, LTX_SNAPSHOT_LEVEL,
                      &(struct level_file){1, f->txid, f->size, f->timestamp_ms, f->checksum, f->lineage, true});
}

bool history_needs_snapshot_file(const struct database *db, uint64_t txid)
{
    for (size_t i = 0; db->history && i < db->history->n_keepers; i++)
        if (db->history->keeper[i].snapshot.txid == txid)
            return true;
    return false;
}

const struct err *history_trouble(const struct database *db, size_t i, int64_t *ret_since_ms)
{
    const struct keeper *k = db->history && i < db->history->n_keepers ? &db->history->keeper[i] : NULL;
    if (!k || (!k->err && !k->delete_err))
        return NULL;
    *ret_since_ms = k->err ? k->retry.since_ms : k->delete_retry.since_ms;
    return k->err ? k->err : k->delete_err;
}

bool history_close(struct database *db)
{
    struct history *h = db->history;
    if (!db->shared)
        return true;
    agenda_remove(db->shared->agenda, &db->due);
    if (!h)
        return true;
    struct err e;
    err_set(&e, ERR_CANCELED, "%s: walsupd stops replicating it", db->name);
    history_calls_fail(h, &e);
    h->closing = true;
    return maybe_closed(h);
}
