#include "daemon/core/database_int.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/log.h"

#define DATABASE_MAGIC 0xda7aba5eu
#define SETTLE_MS 1000  /* how long a write to the file makes us look whether our guard is in the way */
#define BUSY_GAP_MS 30  /* writes that come closer than that for BUSY_MS: its own look is cheaper than events */
#define BUSY_MS 500
#define FILE_CHECK_MS 100
#define LEAVE_MS 500    /* asked to leave: how long it may take to leave with a proof */
#define CLOSED_LOOK_MS 100 /* then what the WAL has goes into the database a moment later: SQLite would have done it at once */
#define OWN_CLOSE_MS 50 /* after a last close that was followed: our own */
#define CLOSE_GAP_MS 1000 /* closed again so soon: a program that opens and closes all the time */

/* ---- what the watch tells -------------------------------------------------------------------- */

static void on_event(struct watched *wd, enum watch_event ev)
{
    database_event(CONTAINER_OF(wd, struct database, watched), ev);
}

static void on_written(struct watched *wd, uint64_t since_ms)
{
    database_written(CONTAINER_OF(wd, struct database, watched), since_ms);
}

static void on_unchanged(struct watched *wd)
{
    struct database *db = CONTAINER_OF(wd, struct database, watched);
    db->looked_ms = clk_mono_ms();
    active_proven(db->active, db);
}

static void on_unhushed(struct watched *wd)
{
    CONTAINER_OF(wd, struct database, watched)->hushed = false;
}

static const struct watched_calls watched = {on_event, on_written, on_unchanged, on_unhushed};

/* ---- berths ---------------------------------------------------------------------------------- */

/* Both come from the midst of another database's decisions, or of its own: act on them later. */
static void on_asked_to_leave(struct berth *x)
{
    struct database *db = CONTAINER_OF(x, struct database, berth);
    db->leave_at_ms = clk_mono_ms() + LEAVE_MS;
    (void)uv_timer_start(&db->timer, database_on_timer, 0, 0);
}

static void on_berth_free(struct berth *x)
{
    struct database *db = CONTAINER_OF(x, struct database, berth);
    (void)uv_timer_start(&db->timer, database_on_timer, 0, 0);
}

static const struct berth_calls berth_calls = {on_asked_to_leave, on_berth_free};

/* ---- its beginning --------------------------------------------------------------------------- */

struct database *database_new(uv_loop_t *loop, const char *name, const struct source_conf *c,
                              const struct database_conf *dc, const struct database_replica *r, size_t n)
{
    struct database *db = util_zalloc(sizeof *db);
    db->magic = DATABASE_MAGIC;
    db->loop = loop;
    db->name = util_strdup(name);
    db->path = util_strdup(c->path);
    db->dir = util_strdup(c->dir);
    db->source = source_new(c);
    db->source_conf = *c;
    db->conf = *dc;
    db->since_ms = clk_real_ms();
    db->watched = (struct watched){.call = &watched, .path = db->path};
    db->berth.call = &berth_calls;
    (void)uv_timer_init(loop, &db->timer);
    db->timer.data = db;
    db->timer_open = true;
    db->up = util_zalloc(n * sizeof(struct uploader *));
    for (size_t i = 0; i < n; i++)
        db->up[db->n_up++] = uploader_new(db, &r[i]);
    db->uploaders_open = n;
    return db;
}

void database_start(struct database *db)
{
    db->started = true;
    database_poke(db);
}

void database_is_quiet(struct database *db, uint64_t now)
{
    db->last_event_ms = db->busy_since_ms = now;
}

/* ---- events ------------------------------------------------------------------------------------ */

/* Not between the requests of a program that opens and closes all the time: the sooner it came back, the longer the
 * wait. */
static void on_close(struct database *db, uint64_t now)
{
    if (db->state != SOURCE_ATTACHED || now < db->last_close_ms + OWN_CLOSE_MS)
        return;
    bool often = now < db->closed_ms + CLOSE_GAP_MS;
    db->alone_wait_ms = often ? MIN(db->alone_wait_ms * 2, db->conf.idle_ms) : 0;
    db->alone_wait_ms = MAX(db->alone_wait_ms, (uint64_t)CLOSE_GAP_MS);
    db->closed_look_ms = often ? now + CLOSED_LOOK_MS : now;
    db->alone_at_ms = now + db->alone_wait_ms;
    db->closed_ms = now;
}

void database_event(struct database *db, enum watch_event ev)
{
    uint64_t now = clk_mono_ms();
    if (db->state == SOURCE_ARRIVING && (ev == WATCH_WAL || ev == WATCH_WAL_MADE || ev == WATCH_FILE))
        return; /* written while it is copied in: it is looked at soon enough */
    berths_touch(db->berths, &db->berth);
    if (now > db->last_event_ms + BUSY_GAP_MS)
        db->busy_since_ms = now;
    if (!db->berth.asked)
        db->leave_at_ms = 0;
    switch (ev) {
    case WATCH_WAL:
        db->wal_is_empty = db->file_was_last = false;
        /* fall through */
    case WATCH_WAL_MADE:
        if (now <= db->last_event_ms + BUSY_GAP_MS && db->state == SOURCE_ATTACHED &&
            now >= db->busy_since_ms + BUSY_MS)
            database_set_hush(db, true);
        db->last_event_ms = now;
        db->peek_ms = 0;
        db->settle_wait_ms = db->settle_after_ms = 0;
        db->dirty = true;
        break;
    case WATCH_FILE:
        db->file_was_last = true;
        if (db->wal_is_empty)
            db->unexplained = db->look = db->dirty = true;
        db->assist_until_ms = now + SETTLE_MS;
        db->file_check_ms = now + FILE_CHECK_MS;
        db->assist_peek_ms = 0;
        db->dirty = db->dirty || db->state == SOURCE_ASLEEP; /* who checkpoints may have committed as well */
        break;
    case WATCH_CLOSED:
        if (db->hushed) /* perhaps by cp, whose writes were not told */
            db->file_check_ms = now + FILE_CHECK_MS;
        on_close(db, now);
        break;
    case WATCH_INDEX:
        db->look = db->look || db->state == SOURCE_ATTACHED;
        break;
    case WATCH_AUDIT:
        db->audit = db->audit || db->state == SOURCE_ASLEEP;
        break;
    case WATCH_WAL_GONE:
        db->wal_is_empty = true; /* a last close has copied all of it before */
        /* fall through */
    case WATCH_NAME:
        db->last_event_ms = now;
        db->dirty = true;
        db->look = true;
    }
    if (db->state != SOURCE_ATTACHED && !db->retry.failures)
        db->retry_at_ms = 0;
    database_poke(db);
}

void database_written(struct database *db, uint64_t since_ms)
{
    if (db->wal_is_empty)
        db->unexplained_since_ms = db->unexplained ? MIN(db->unexplained_since_ms, since_ms) : since_ms;
    database_event(db, WATCH_FILE);
}

void database_want_snapshot(struct database *db, bool base)
{
    if (db->snapshot_wanted && (db->base_wanted || !base))
        return;
    db->snapshot_wanted = true;
    db->base_wanted = db->base_wanted || base;
    database_poke(db);
}

void database_uploader_changed(struct database *db, struct uploader *u)
{
    (void)u;
    active_add(db->active, db);
    database_sync_check(db);
    database_poke(db);
    history_moved(db);
    if (db->changed)
        db->changed(db, db->owner);
}

void database_uploader_listed(struct database *db, struct uploader *u, uint64_t max_txid, bool ours)
{
    /* TXIDs of another history, while ours has already begun: whatever the numbers say, our next file
     * does not belong on top of that. A base does. */
    bool foreign = max_txid && !ours;
    u->needs_base = foreign && db->numbered;
    /* A replica that was asked late, or was written by somebody else meanwhile, may hold TXIDs that
     * were given out again here: go on behind them, and leave the others' files alone. A base with the very
     * TXID of their last file would stand for what it is not. */
    bool same = foreign && max_txid == db->txid;
    if (max_txid > db->txid || same || !db->numbered) {
        db->renumber = MAX(db->renumber, max_txid + (same ? 2 : 1)); /* with a number between: a whole database */
        if (db->numbered && max_txid)
            log_line(LOG_WARN,
                     "%s: target %s already holds TXID %016" PRIx64 ": numbering goes on behind it",
                     db->name, u->target, max_txid);
        if (db->numbered)
            db->force = true;
    }
}

/* Behind everything that is there and everything given out here, and with a number between: so that the
 * next capture is a whole database. */
void database_uploader_takes_over(struct database *db, uint64_t max_txid)
{
    db->renumber = MAX(db->renumber, MAX(db->txid, max_txid) + 2);
    db->new_lineage = db->force = true;
}

/* ---- settings, shutdown ------------------------------------------------------------------------ */

void database_reconf(struct database *db, const struct source_conf *c, const struct database_conf *dc,
                     const struct database_replica *r, size_t n)
{
    db->source_conf = *c;
    db->conf = *dc;
    for (size_t i = 0; i < n && i < db->n_up; i++) {
        db->up[i]->interval_ms = r[i].interval_ms;
        db->up[i]->may_delete = r[i].may_delete;
        db->up[i]->next_due_ms = 0;
        uploader_poke(db->up[i]);
    }
    history_due(db);
    database_poke(db);
}

void database_flush(struct database *db)
{
    db->flushing = true;
    db->force = db->loaded && db->state == SOURCE_ATTACHED;
    for (size_t i = 0; i < db->n_up; i++) {
        db->up[i]->retry_at_ms = 0;
        db->up[i]->flush = true;
        uploader_poke(db->up[i]);
    }
    database_poke(db);
}

bool database_flushed(const struct database *db)
{
    if (db->run || db->force)
        return false;
    for (size_t i = 0; i < db->n_up; i++) {
        uint64_t n;
        if (db->up[i]->fenced)
            continue;
        (void)uploader_pending(db->up[i], &n);
        if (n || db->up[i]->flight || (db->up[i]->needs_base && !db->pause))
            return false;
    }
    return true;
}

void database_maybe_closed(struct database *db)
{
    if (!db->closing || db->run || db->stream || db->timer_open || db->uploaders_open || !db->history_closed)
        return;
    if (!db->detached) {
        database_start_job(db, &(struct source_job){.detach = true});
        return;
    }
    berths_leave(db->berths, &db->berth);
    db->closed(db, db->closed_arg);
    (void)source_free(db->source);
    free(db->name);
    free(db->path);
    free(db->dir);
    for (size_t i = 0; i < db->n_up; i++)
        uploader_free(db->up[i]);
    free(db->up);
    free(db->file);
    free(db->err);
    free(db->away);
    free(db->doubt.why);
    free(db->gone);
    free(db->pause);
    drill_fact_done(&db->drill);
    db->magic = 0;
    free(db);
}

static void on_timer_closed(uv_handle_t *h)
{
    struct database *db = h->data;
    db->timer_open = false;
    database_maybe_closed(db);
}

void database_uploader_closed(struct database *db, struct uploader *u)
{
    (void)u;
    db->uploaders_open--;
    database_maybe_closed(db);
}

void database_close(struct database *db, void (*closed)(struct database *db, void *arg), void *arg)
{
    db->closing = true;
    db->closed = closed;
    db->closed_arg = arg;
    struct err e;
    database_pause_abandon(db);
    err_set(&e, ERR_CANCELED, "%s: walsupd stops replicating it", db->name);
    while (db->waiting || db->riding) {
        struct database_sync *w = db->waiting ? db->waiting : db->riding;
        (void)database_sync_unlink(&db->waiting, w);
        (void)database_sync_unlink(&db->riding, w);
        database_sync_finish(w, &e);
    }
    uv_close((uv_handle_t *)&db->timer, on_timer_closed);
    db->history_closed = history_close(db);
    if (db->stream)
        stream_close(db->stream);
    for (size_t i = 0; i < db->n_up; i++)
        uploader_close(db->up[i]);
}

void database_history_closed(struct database *db)
{
    db->history_closed = true;
    database_maybe_closed(db);
}

size_t database_beats(const struct database *db, struct beat *ret[static DATABASE_BEATS])
{
    struct beat *const all[DATABASE_BEATS] = {db->run ? &db->run->beat : NULL, history_beat(db),
                                              db->stream ? stream_beat(db->stream) : NULL};
    size_t n = 0;
    for (size_t i = 0; i < DATABASE_BEATS; i++)
        if (all[i])
            ret[n++] = all[i];
    return n;
}
