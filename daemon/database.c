#include "daemon/database.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/log.h"

#define DATABASE_MAGIC 0xda7aba5eu
#define NUMBER_WAIT_MS 3000 /* how long an unreachable replica may hold up the first TXID */
#define SETTLE_MS 1000       /* quiet for so long: copy the WAL into the database */
#define SETTLE_AGAIN_MS 30000
#define LOOK_MS 10 /* between two captures: look after the WAL, keep the guard recent */
#define PEEK_MAX_MS 64
#define ASSIST_MS 10 /* an application's checkpoint may wait for our guard with the write lock held */

static void poke(struct database *db);
static void on_timer(uv_timer_t *t);

struct database *database_new(uv_loop_t *loop, const char *name, const struct source_conf *c,
                              const struct database_replica *r, size_t n, uint64_t scan_ms)
{
    struct database *db = util_zalloc(sizeof *db);
    db->magic = DATABASE_MAGIC;
    db->loop = loop;
    db->name = util_strdup(name);
    db->path = util_strdup(c->path);
    db->dir = util_strdup(c->dir);
    db->source = source_new(c);
    db->source_conf = *c;
    db->scan_ms = scan_ms;
    db->since_ms = clk_real_ms();
    (void)uv_timer_init(loop, &db->timer);
    db->timer.data = db;
    db->timer_open = true;
    db->work.data = db;
    db->up = util_zalloc(n * sizeof(struct uploader *));
    for (size_t i = 0; i < n; i++)
        db->up[db->n_up++] =
            uploader_new(db, r[i].store, r[i].target, r[i].path, r[i].interval_ms);
    db->uploaders_open = n;
    return db;
}

void database_start(struct database *db)
{
    db->started = true;
    poke(db);
}

/* ---- the list of spool files ------------------------------------------------------------------- */

static void file_add(struct database *db, const struct spool_file *f)
{
    if (db->n_files == db->cap_files) {
        db->cap_files = db->cap_files ? db->cap_files * 2 : 16;
        db->file = util_realloc(db->file, db->cap_files * sizeof *db->file);
    }
    db->file[db->n_files++] = *f;
}

/* TXID that every replica has, and is on record to have: files up to there may go. */
static uint64_t acked_by_all(const struct database *db)
{
    uint64_t min = UINT64_MAX;
    for (size_t i = 0; i < db->n_up; i++)
        min = MIN(min, db->up[i]->known ? db->up[i]->noted : 0);
    return db->n_up ? min : 0;
}

static size_t droppable(const struct database *db)
{
    uint64_t acked = acked_by_all(db);
    size_t n = 0;
    while (n < db->n_files && db->file[n].txid <= acked)
        n++;
    return n;
}

/* ---- waiters ----------------------------------------------------------------------------------- */

static bool sync_unlink(struct database_sync **list, struct database_sync *w)
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
static void sync_finish(struct database_sync *w, const struct err *e)
{
    if (e)
        w->err = *e;
    else
        err_clear(&w->err);
    uv_close((uv_handle_t *)&w->timer, sync_timer_closed);
}

static void sync_check(struct database *db)
{
    struct database_sync **p = &db->waiting;
    while (*p) {
        struct database_sync *w = *p;
        bool there = w->armed;
        for (size_t i = 0; w->wait && i < db->n_up; i++)
            there = there && uploader_has(db->up[i], w->txid);
        if (!there) {
            p = &w->next;
            continue;
        }
        *p = w->next;
        sync_finish(w, NULL);
    }
}

/* Nothing to wait for: there is no database that could be captured. */
static bool sync_hopeless(const struct database *db, struct err *e)
{
    if (!db->attached_once || db->retry.failures)
        return false;
    switch (db->state) {
    case SOURCE_WAITING:
        err_set(e, ERR_NOTFOUND, "%s: there is no database at %s yet", db->name, db->path);
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
            err_set(&e, ERR_TIMEOUT, "%s: not captured in time: %s", db->name, db->err.msg);
        else
            err_set(&e, ERR_TIMEOUT, "%s: not captured in time", db->name);
    } else {
        const struct uploader *late = NULL;
        for (size_t i = 0; i < db->n_up && !late; i++)
            if (!uploader_has(db->up[i], w->txid))
                late = db->up[i];
        err_set(&e, ERR_TIMEOUT, "%s: target %s has TXID %016" PRIx64 ", not yet %016" PRIx64 "%s%s",
                db->name, late ? late->target : "?", late ? late->acked : 0, w->txid,
                late && late->retry.failures ? ": " : "",
                late && late->retry.failures ? late->err.msg : "");
        if (late && late->err.hint[0])
            err_hint(&e, "%s", late->err.hint);
    }
    (void)sync_unlink(&db->waiting, w);
    (void)sync_unlink(&db->riding, w);
    sync_finish(w, &e);
}

void database_sync(struct database *db, struct database_sync *w, uint64_t timeout_ms)
{
    w->db = db;
    w->armed = false;
    w->txid = 0;
    (void)uv_timer_init(db->loop, &w->timer);
    w->timer.data = w;
    struct err e;
    if (sync_hopeless(db, &e)) {
        sync_finish(w, &e);
        return;
    }
    w->next = db->waiting;
    db->waiting = w;
    (void)uv_timer_start(&w->timer, sync_timeout, timeout_ms, 0);
    db->force = true;
    poke(db);
}

void database_sync_cancel(struct database_sync *w)
{
    struct err e;
    if (!sync_unlink(&w->db->waiting, w) && !sync_unlink(&w->db->riding, w))
        return; /* the answer is on its way already */
    err_set(&e, ERR_CANCELED, "%s: nobody waits any more", w->db->name);
    sync_finish(w, &e);
}

/* Somebody waits for a capture. Unlike `force` this does not cut the pause after a failure short. */
static bool sync_wants_capture(const struct database *db)
{
    for (const struct database_sync *w = db->waiting; w; w = w->next)
        if (!w->armed)
            return true;
    return false;
}

/* The run that just ended began after these calls were made, and left nothing behind. */
static void sync_arm(struct database *db)
{
    const struct source_result *r = &db->result;
    bool whole = r->err.code == ERR_OK && r->state == SOURCE_ATTACHED && !r->more;
    struct err e;
    bool hopeless = !whole && sync_hopeless(db, &e);
    struct database_sync *w = db->riding;
    db->riding = NULL;
    while (w) {
        struct database_sync *next = w->next;
        if (hopeless) {
            sync_finish(w, &e);
        } else {
            w->armed = whole;
            w->txid = db->txid;
            w->next = db->waiting;
            db->waiting = w;
        }
        w = next;
    }
    for (w = db->waiting; w; w = w->next)
        for (size_t i = 0; w->armed && w->wait && i < db->n_up; i++)
            db->up[i]->flush = true;
}

/* ---- jobs -------------------------------------------------------------------------------------- */

static void work_run(uv_work_t *w)
{
    struct database *db = w->data;
    source_run(db->source, &db->job, &db->result);
}

static void work_done(uv_work_t *w, int status);

static void start_job(struct database *db, const struct source_job *job)
{
    db->job = *job;
    source_reconf(db->source, &db->source_conf);
    db->running = true;
    db->job_started_ms = clk_mono_ms();
    (void)uv_queue_work(db->loop, &db->work, work_run, work_done);
}

static void set_state(struct database *db, enum source_state state)
{
    if (db->state == state && db->attached_once)
        return;
    static const char *const say[] = {[SOURCE_LOADED] = "could not be attached",
                                      [SOURCE_WAITING] = "waits for the file to appear",
                                      [SOURCE_NOT_WAL] = "is not in WAL mode: not replicated "
                                                         "(PRAGMA journal_mode=WAL changes that)",
                                      [SOURCE_BUSY] = "is locked by an application",
                                      [SOURCE_ATTACHED] = "is attached"};
    log_line(state == SOURCE_ATTACHED || state == SOURCE_WAITING ? LOG_NOTICE : LOG_WARN, "%s: %s %s",
             db->name, db->path, say[state]);
    db->state = state;
    db->since_ms = clk_real_ms();
}

static void after_load(struct database *db)
{
    const struct spool_state *st = source_spool(db->source);
    db->loaded = true;
    db->has_history = st->has_tip;
    if (st->has_tip) {
        db->txid = db->loaded_txid = st->tip.max_txid;
        db->seen.lineage = db->loaded_lineage = st->tip.node_id;
        db->numbered = true;
    } else {
        db->number_deadline_ms = clk_mono_ms() + NUMBER_WAIT_MS;
    }
    if (st->damaged)
        log_line(LOG_ERROR, "%s: the spool was damaged and is rebuilt: %s", db->name, st->damage);
    for (size_t i = 0; i < st->n; i++)
        file_add(db, &st->file[i]);
    for (size_t i = 0; i < db->n_up; i++) {
        uint64_t acked = 0;
        bool known = st->has_tip && spool_acked_read(db->dir, db->up[i]->target,
                                                     uploader_place(db->up[i]), &acked);
        /* a record older than what was dropped is out of date: ask the store */
        uint64_t first = st->n ? st->file[0].txid : db->txid + 1;
        known = known && acked + 1 >= first;
        /* a tip that is older than it (a damaged one, a state directory put back from a copy) is not to
         * be trusted with the numbering either */
        known = known && acked <= db->txid;
        uploader_learn(db->up[i], known, acked);
    }
    db->force = true; /* what happened while nobody was looking */
}

/* Only now: files that could not be removed are tried again. */
static void dropped(struct database *db, uint64_t last)
{
    size_t n = 0;
    while (n < db->n_files && db->file[n].txid <= last)
        n++;
    if (n) /* else there may be no array */
        memmove(db->file, db->file + n, (db->n_files - n) * sizeof *db->file);
    db->n_files -= n;
    db->dropped = last;
}

static void take_result(struct database *db)
{
    struct source_result *r = &db->result;
    for (size_t i = 0; i < r->n_files; i++)
        file_add(db, &r->file[i]);
    if (r->n_files) {
        db->last_commit_ms = clk_real_ms();
        db->last_capture_ms = clk_mono_ms();
    }
    if (r->txid)
        db->txid = MAX(db->txid, r->txid);
    if (r->snapshot.txid) {
        bool used = false;
        for (size_t i = 0; i < db->n_up; i++)
            if (db->up[i]->needs_base && !db->up[i]->busy && r->snapshot.txid >= db->up[i]->acked) {
                db->up[i]->snapshot = r->snapshot;
                used = true;
            }
        if (!used)
            db->drop_snapshot = r->snapshot.txid;
    }
    if (r->broken)
        log_line(LOG_WARN, "%s: continuity was lost, the whole database is captured again: %s",
                 db->name, r->why);
    db->dirty = db->dirty || r->more;
    db->force = db->force || r->more;
    db->snapshot_wanted = db->snapshot_wanted && !r->snapshot.txid;
    db->seen = *r;
}

static void take_error(struct database *db)
{
    const struct err *e = &db->result.err;
    if (e->code == ERR_OK) {
        if (db->retry.failures)
            log_line(LOG_NOTICE, "%s: works again", db->name);
        retry_ok(&db->retry);
        db->retry_at_ms = 0;
        if (db->state != db->result.state || !db->attached_once) {
            set_state(db, db->result.state);
            db->last_event_ms = clk_mono_ms(); /* quiet is counted from here, not from the boot */
        }
        if (db->result.state != SOURCE_ATTACHED) /* events wake it; this is the net below them */
            db->retry_at_ms = clk_mono_ms() + (db->result.state == SOURCE_BUSY
                                                   ? 1000
                                                   : MIN(db->scan_ms, (uint64_t)5000));
        db->attached_once = true;
        return;
    }
    bool news = !db->retry.failures || db->err.code != e->code;
    uint64_t wait = retry_failed(&db->retry, e->code == ERR_BUSY ? ERR_BUSY : ERR_IO);
    db->err = *e;
    db->retry_at_ms = clk_mono_ms() + MAX(wait, (uint64_t)200);
    db->attached_once = true;
    if (news) {
        char dur[32];
        db->since_ms = clk_real_ms();
        log_err(LOG_ERROR, e, "%s: not captured, next try in %s", db->name,
                util_duration(dur, wait));
    }
}

static void settle_later(struct database *db)
{
    db->settle_wait_ms = MIN(db->settle_wait_ms * 2 + SETTLE_MS, (uint64_t)SETTLE_AGAIN_MS);
    db->settle_after_ms = db->last_run_ms + db->settle_wait_ms;
}

static void maybe_closed(struct database *db);

static void work_done(uv_work_t *w, int status)
{
    (void)status;
    struct database *db = w->data;
    struct source_job job = db->job;
    db->running = false;
    db->last_run_ms = clk_mono_ms();
    if (db->closing) {
        db->detached = db->detached || job.detach;
        maybe_closed(db);
        return;
    }
    if (job.load && db->result.err.code == ERR_OK) {
        after_load(db);
    } else {
        if (job.drop_last && db->result.err.code == ERR_OK)
            dropped(db, job.drop_last);
        take_result(db);
    }
    if (!job.load || db->result.err.code != ERR_OK)
        take_error(db);
    if (db->result.pinned || (job.settle && !db->result.drained))
        settle_later(db);
    sync_arm(db);
    poke(db);
    for (size_t i = 0; i < db->n_up; i++)
        uploader_poke(db->up[i]);
    sync_check(db);
    if (db->changed)
        db->changed(db, db->owner);
}

/* ---- deciding ---------------------------------------------------------------------------------- */

/* The first TXID must follow everything any replica holds. With local state that is known; without,
 * every replica is asked, and one that does not answer holds things up for a while only. */
static bool number(struct database *db)
{
    if (db->numbered)
        return true;
    bool all = true;
    for (size_t i = 0; i < db->n_up; i++)
        all = all && db->up[i]->known;
    if (!all && clk_mono_ms() < db->number_deadline_ms) {
        for (size_t i = 0; i < db->n_up; i++)
            uploader_poke(db->up[i]);
        return false;
    }
    db->numbered = true;
    return true;
}

static bool capture_due(const struct database *db, uint64_t now, uint64_t *ret_at)
{
    uint64_t at = UINT64_MAX;
    for (size_t i = 0; i < db->n_up; i++) /* a replica that is away must not make a file a commit */
        at = MIN(at, MAX(uploader_due_ms(db->up[i]), db->last_capture_ms + db->up[i]->interval_ms));
    *ret_at = at;
    return at <= now;
}

/* A write to the WAL is seen before its commit: SQLite writes the frames, then may wait for the disk, and
 * only then shows the commit in the wal-index, which makes no event. So look again, less and less
 * often, until the quiet after the last event is long enough for the settling job. */
static bool news(struct database *db, uint64_t now, uint64_t *ret_at)
{
    if (source_news(db->source)) {
        db->peek_ms = 0;
        return true;
    }
    if (now >= db->last_event_ms + SETTLE_MS) {
        db->dirty = false; /* rolled back, or not committed yet: then its commit makes an event */
        return false;
    }
    db->peek_ms = MIN(db->peek_ms * 2 + 1, (uint64_t)PEEK_MAX_MS);
    *ret_at = MIN(*ret_at, now + db->peek_ms);
    return false;
}

/* Somebody wrote into the database file, so a checkpoint is at work, perhaps waiting for our guard with
 * the write lock held. Like a commit it shows its progress in the wal-index only after an fsync, and
 * makes no event then. */
static void assist(struct database *db, uint64_t now, struct source_job *job, uint64_t *ret_at)
{
    if (now >= db->assist_until_ms)
        return;
    uint64_t at = db->last_assist_ms + ASSIST_MS;
    if (!source_in_the_way(db->source)) {
        db->assist_peek_ms = MIN(db->assist_peek_ms * 2 + 1, (uint64_t)PEEK_MAX_MS);
        at = now + db->assist_peek_ms;
    } else if (at <= now) {
        job->assist = true;
        return;
    }
    *ret_at = MIN(*ret_at, at);
}

/* Fill job with what should be done now; false and *ret_at when nothing is due before that time. */
static bool decide(struct database *db, uint64_t now, struct source_job *job, uint64_t *ret_at)
{
    *ret_at = db->last_run_ms + db->scan_ms;
    if (db->retry_at_ms > now && !db->force) {
        *ret_at = db->retry_at_ms;
        return false;
    }
    *job = (struct source_job){.next_txid = db->renumber ? db->renumber : 0};
    size_t n = droppable(db);
    if (n) {
        job->drop_first = db->file[0].txid;
        job->drop_last = db->file[n - 1].txid;
    }
    job->drop_snapshot = db->drop_snapshot;
    job->snapshot = db->snapshot_wanted;
    if (db->flushing && !db->force)
        return job->snapshot || job->drop_last || job->drop_snapshot;
    uint64_t due;
    if (db->dirty && !db->force && !sync_wants_capture(db) && !news(db, now, ret_at)) {
        /* not visible yet */
    } else if (db->force || sync_wants_capture(db) || (db->dirty && capture_due(db, now, &due))) {
        job->capture = true;
    } else if (db->dirty) {
        *ret_at = MIN(*ret_at, due);
        uint64_t look = db->last_run_ms + LOOK_MS; /* the WAL must not grow unseen meanwhile */
        if (look <= now)
            db->look = true;
        else
            *ret_at = MIN(*ret_at, look);
    }
    assist(db, now, job, ret_at);
    if (db->state == SOURCE_ATTACHED && !db->seen.drained && !db->dirty) {
        uint64_t settle = MAX(db->last_event_ms + SETTLE_MS, db->settle_after_ms);
        if (settle <= now)
            job->settle = job->capture = true;
        else
            *ret_at = MIN(*ret_at, settle);
    }
    bool attach = db->state != SOURCE_ATTACHED && db->retry_at_ms <= now;
    bool scan = now >= db->last_run_ms + db->scan_ms;
    if (scan)
        job->capture = true;
    return job->capture || job->assist || job->settle || job->snapshot || job->drop_last ||
           job->drop_snapshot || db->look || attach;
}

static void poke(struct database *db)
{
    if (!db->started || db->running || db->closing)
        return;
    uint64_t now = clk_mono_ms();
    struct source_job job;
    uint64_t at;
    if (!db->loaded) {
        if (db->retry_at_ms > now) {
            (void)uv_timer_start(&db->timer, on_timer, db->retry_at_ms - now, 0);
            return;
        }
        job = (struct source_job){.load = true};
        start_job(db, &job);
        return;
    }
    if (!number(db)) {
        (void)uv_timer_start(&db->timer, on_timer,
                             db->number_deadline_ms > now ? db->number_deadline_ms - now : 0, 0);
        return;
    }
    if (!decide(db, now, &job, &at)) {
        (void)uv_timer_start(&db->timer, on_timer, at > now ? at - now : 0, 0);
        return;
    }
    db->drop_snapshot = 0;
    if (job.capture) {
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
        db->dirty = db->force = false;
    }
    if (job.assist) {
        db->last_assist_ms = now;
        db->assist_peek_ms = 0;
    }
    db->look = false;
    db->renumber = 0;
    start_job(db, &job);
}

static void on_timer(uv_timer_t *t)
{
    poke(t->data);
}

/* ---- events ------------------------------------------------------------------------------------ */

void database_event(struct database *db, enum database_event ev)
{
    uint64_t now = clk_mono_ms();
    switch (ev) {
    case DATABASE_WAL:
        db->last_event_ms = now;
        db->peek_ms = 0;
        db->settle_wait_ms = db->settle_after_ms = 0;
        db->dirty = true;
        break;
    case DATABASE_FILE:
        db->assist_until_ms = now + SETTLE_MS;
        db->assist_peek_ms = 0;
        break;
    default:
        db->last_event_ms = now;
        db->dirty = true;
        db->look = true;
    }
    if (db->state != SOURCE_ATTACHED && !db->retry.failures)
        db->retry_at_ms = 0;
    poke(db);
}

void database_want_snapshot(struct database *db)
{
    if (db->snapshot_wanted)
        return;
    db->snapshot_wanted = true;
    poke(db);
}

void database_uploader_changed(struct database *db, struct uploader *u)
{
    (void)u;
    sync_check(db);
    poke(db);
    if (db->changed)
        db->changed(db, db->owner);
}

void database_uploader_listed(struct database *db, struct uploader *u, uint64_t max_txid, bool ours)
{
    /* TXIDs of another history, while ours has already begun: whatever the numbers say, our next file
     * does not belong on top of that. A base does. */
    u->needs_base = max_txid && !ours && db->numbered;
    /* A replica that was asked late, or was written by somebody else meanwhile, may hold TXIDs that
     * were given out again here: go on behind them, and leave the others' files alone. */
    if (max_txid > db->txid || !db->numbered) {
        db->renumber = MAX(db->renumber, max_txid + 1);
        if (db->numbered && max_txid)
            log_line(LOG_WARN,
                     "%s: target %s already holds TXID %016" PRIx64 ": numbering goes on behind it",
                     db->name, u->target, max_txid);
        if (db->numbered)
            db->force = true;
    }
}

/* ---- settings, shutdown ------------------------------------------------------------------------ */

void database_reconf(struct database *db, const struct source_conf *c,
                     const struct database_replica *r, size_t n, uint64_t scan_ms)
{
    db->source_conf = *c;
    db->scan_ms = scan_ms;
    for (size_t i = 0; i < n && i < db->n_up; i++) {
        db->up[i]->interval_ms = r[i].interval_ms;
        db->up[i]->next_due_ms = 0;
        uploader_poke(db->up[i]);
    }
    poke(db);
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
    poke(db);
}

bool database_flushed(const struct database *db)
{
    if (db->running || db->force)
        return false;
    for (size_t i = 0; i < db->n_up; i++) {
        uint64_t n;
        (void)uploader_pending(db->up[i], &n);
        if (n || db->up[i]->busy || db->up[i]->needs_base)
            return false;
    }
    return true;
}

static void maybe_closed(struct database *db)
{
    if (!db->closing || db->running || db->timer_open || db->uploaders_open)
        return;
    if (!db->detached) {
        start_job(db, &(struct source_job){.detach = true});
        return;
    }
    db->closed(db, db->closed_arg);
    (void)source_free(db->source);
    free(db->name);
    free(db->path);
    free(db->dir);
    free(db->up);
    free(db->file);
    db->magic = 0;
    free(db);
}

static void on_timer_closed(uv_handle_t *h)
{
    struct database *db = h->data;
    db->timer_open = false;
    maybe_closed(db);
}

void database_uploader_closed(struct database *db, struct uploader *u)
{
    (void)u;
    db->uploaders_open--;
    maybe_closed(db);
}

void database_close(struct database *db, void (*closed)(struct database *db, void *arg), void *arg)
{
    db->closing = true;
    db->closed = closed;
    db->closed_arg = arg;
    struct err e;
    err_set(&e, ERR_CANCELED, "%s: walsupd stops replicating it", db->name);
    while (db->waiting || db->riding) {
        struct database_sync *w = db->waiting ? db->waiting : db->riding;
        (void)sync_unlink(&db->waiting, w);
        (void)sync_unlink(&db->riding, w);
        sync_finish(w, &e);
    }
    uv_close((uv_handle_t *)&db->timer, on_timer_closed);
    for (size_t i = 0; i < db->n_up; i++)
        uploader_close(db->up[i]);
}

uint64_t database_stuck_ms(const struct database *db)
{
    return db->running ? clk_mono_ms() - db->job_started_ms : 0;
}
