#include "daemon/database_int.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/log.h"

#define DATABASE_MAGIC 0xda7aba5eu
#define NUMBER_WAIT_MS 3000 /* how long an unreachable replica may hold up the first TXID */
#define SETTLE_MS 1000       /* quiet for so long: copy the WAL into the database */
#define SETTLE_AGAIN_MS 30000
#define LOOK_MS 10 /* between two captures: look after the WAL, keep the guard recent */
#define BUSY_GAP_MS 30 /* writes that come closer than that for BUSY_MS: its own look is cheaper than events */
#define BUSY_MS 500
#define HUSH_END_MS 200
#define PEEK_MAX_MS 64
#define ASSIST_MS 10 /* an application's checkpoint may wait for our guard with the write lock held */
#define FILE_CHECK_MS 100
#define AGED_MS 60   /* a file time so old can be told from any later one (source_attach.c) */
#define SMALL_BYTES (16u << 20) /* cheaper to compare than to checkpoint, when there is no time */
#define LEAVE_MS 500 /* asked to leave: how long it may take to leave with a proof */
#define NEVER UINT64_MAX

static void on_timer(uv_timer_t *t);

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

/* ---- jobs -------------------------------------------------------------------------------------- */

static void learn_acked(struct database_run *run)
{
    const struct database *db = run->db;
    const struct spool_state *st = source_spool(db->source);
    for (size_t i = 0; i < db->n_up; i++)
        if (!st->has_tip || !spool_acked_read(db->dir, db->up[i]->target,
                                              uploader_place(db->up[i], st->tip.node_id), &run->acked[i]))
            run->acked[i] = UINT64_MAX;
    run->fenced = util_zalloc((db->n_up + 1) * sizeof *run->fenced);
    run->lost = util_zalloc((db->n_up + 1) * sizeof *run->lost);
    for (size_t i = 0; i < db->n_up; i++) {
        (void)fence_read(db->dir, db->up[i]->target, &run->fenced[i]);
        fence_lost_read(db->dir, db->up[i]->target, &run->lost[i]);
    }
}

static void work_run(uv_work_t *w)
{
    struct database_run *run = w->data;
    beat_begin(&run->beat);
    source_run(run->db->source, &run->job, &run->result);
    if (run->job.load && run->result.err.code == ERR_OK) {
        learn_acked(run);
        spool_merged_read(run->db->dir, run->merged);
        run->pause = pause_read(run->db->dir);
    }
    beat_end();
}

static void work_done(uv_work_t *w, int status);

static void start_job(struct database *db, const struct source_job *job)
{
    db->run = util_zalloc(sizeof *db->run + (job->load ? db->n_up * sizeof db->run->acked[0] : 0));
    db->run->db = db;
    db->run->work.data = db->run;
    db->run->job = *job;
    db->run->started_ms = clk_mono_ms();
    source_reconf(db->source, &db->source_conf);
    (void)uv_queue_work(db->loop, &db->run->work, work_run, work_done);
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
                                      [SOURCE_ATTACHED] = "is attached",
                                      [SOURCE_ASLEEP] = "is idle"};
    enum source_state was = db->state;
    /* coming and going of the idle is nothing to tell */
    bool routine = state == SOURCE_ASLEEP || (state == SOURCE_ATTACHED && was == SOURCE_ASLEEP) ||
                   (was == SOURCE_ATTACHED && state == SOURCE_LOADED);
    enum log_level level = routine                                                ? LOG_DEBUG
                           : state == SOURCE_ATTACHED || state == SOURCE_WAITING ? LOG_NOTICE
                                                                                 : LOG_WARN;
    static const char *const words[] = {[SOURCE_LOADED] = "failed", [SOURCE_WAITING] = "waiting", [SOURCE_NOT_WAL] = "not-wal",
                                        [SOURCE_BUSY] = "failed", [SOURCE_ATTACHED] = "replicating",
                                        [SOURCE_ASLEEP] = "idle"};
    log_about(state == SOURCE_ATTACHED || state == SOURCE_ASLEEP ? LOG_ATTACHED : LOG_STATE, db->name, NULL, words[state]);
    log_line(level, "%s: %s %s", db->name, db->path, say[state]);
    db->state = state;
    if (!routine || !db->attached_once)
        db->since_ms = clk_real_ms();
}

static void after_load(struct database *db, struct database_run *run)
{
    const struct spool_state *st = source_spool(db->source);
    db->loaded = true;
    db->has_history = st->has_tip;
    if (st->has_tip) {
        db->txid = db->loaded_txid = st->tip.max_txid;
        db->seen.lineage = db->loaded_lineage = st->tip.node_id;
        db->seen.page_size = st->tip.page_size;
        db->numbered = true;
    } else {
        db->number_deadline_ms = clk_mono_ms() + NUMBER_WAIT_MS;
    }
    if (st->damage)
        log_line(LOG_ERROR, "%s: the spool was damaged and is rebuilt: %s", db->name, st->damage);
    for (size_t i = 0; i < st->n; i++)
        database_file_add(db, &st->file[i]);
    memcpy(db->merged, run->merged, sizeof db->merged);
    for (size_t i = 0; i < db->n_up; i++) {
        uint64_t acked = run->acked[i];
        /* a record older than what was dropped is out of date: ask the store */
        uint64_t first = st->n ? st->file[0].txid : db->txid + 1;
        bool known = acked != UINT64_MAX && acked + 1 >= first;
        /* a tip that is older than it (a damaged one, a state directory put back from a copy) is not to
         * be trusted with the numbering either */
        known = known && acked <= db->txid;
        db->up[i]->lost = run->lost[i];
        /* killed after a takeover, before anything was captured */
        db->new_lineage = db->new_lineage || (st->has_tip && fence_has_lost(&run->lost[i], st->tip.node_id));
        uploader_learn(db->up[i], known, acked);
        if (run->fenced[i].code != ERR_OK)
            uploader_fence(db->up[i], &run->fenced[i], true);
    }
    database_pause_load(db, TAKE_PTR(run->pause));
    if (run->result.state == SOURCE_ASLEEP) { /* nothing happened while nobody was looking */
        set_state(db, SOURCE_ASLEEP);
        db->attached_once = true;
        db->seen.page_size = st->tip.page_size;
        db->seen.pages = st->tip.commit;
        return;
    }
    db->force = true;
}

static void take_snapshot(struct database *db, const struct spool_file *f)
{
    bool used = false;
    for (size_t i = 0; i < db->n_up; i++)
        if (db->up[i]->needs_base && !db->up[i]->flight && f->txid >= db->up[i]->acked) {
            db->up[i]->snapshot = *f;
            used = true;
        }
    used = history_take_snapshot(db, f) || used;
    if (!used)
        db->drop_snapshot = f->txid;
}

static void tell_continuity(const struct database *db, const struct source_result *r)
{
    if (r->map_lost[0] || r->compared || r->broken)
        log_about(LOG_CONTINUITY, db->name, NULL, NULL);
    if (r->map_lost[0])
        log_line(LOG_WARN, "%s: %s; a new one is made", db->name, r->map_lost);
    if (r->broken && r->state == SOURCE_WAITING)
        log_line(LOG_NOTICE, "%s: %s; what is in the replicas stays there", db->name, r->why);
    else if (r->compared && r->broken)
        log_line(LOG_WARN, "%s: %s; all pages were compared, %" PRIu32 " of %" PRIu32 " differ", db->name,
                 r->why, r->differ, r->pages);
    else if (r->compared) /* after a short sleep that is routine */
        log_line(db->attached_once ? LOG_DEBUG : LOG_NOTICE,
                 "%s: pages were compared with what was captured before, %" PRIu32 " of %" PRIu32 " differ",
                 db->name, r->differ, r->pages);
    else if (r->broken)
        log_line(LOG_WARN, "%s: %s; the whole database is captured again", db->name, r->why);
}

static void take_seen(struct database *db, const struct source_result *r)
{
    struct database_seen *s = &db->seen;
    if (s->page_size && r->page_size && s->page_size != r->page_size) {
        log_line(LOG_NOTICE, "%s: the page size is %" PRIu32 " now: a new history begins", db->name, r->page_size);
        for (size_t i = 0; i < db->n_up; i++) /* Litestream cannot step over such a change */
            db->up[i]->needs_base = true;
    }
    if (r->page_size) {
        s->page_size = r->page_size;
        s->pages = r->pages;
    }
    s->lineage = r->lineage;
    s->wal_bytes = r->wal_bytes;
    s->pending_bytes = r->pending_bytes;
    s->drained = r->drained;
    s->pinned = r->pinned;
    s->count = r->count;
}

static void take_result(struct database *db, const struct source_job *job, const struct source_result *r)
{
    for (size_t i = 0; i < r->n_files; i++)
        database_file_add(db, &r->file[i]);
    if (r->n_files) {
        db->last_commit_ms = clk_real_ms();
        db->last_capture_ms = clk_mono_ms();
    }
    if (r->txid)
        db->txid = MAX(db->txid, r->txid);
    if (r->snapshot.txid)
        take_snapshot(db, &r->snapshot);
    tell_continuity(db, r);
    db->low_space = r->low_space;
    db->dirty = db->dirty || r->more;
    db->force = db->force || r->more;
    if (r->stream)
        database_take_stream(db, r->stream);
    db->snapshot_wanted = db->snapshot_wanted && !r->snapshot.txid && !r->stream;
    db->distrust = db->distrust && !job->distrust;
    db->base_wanted = db->base_wanted && db->snapshot_wanted;
    if (!job->stay_away)
        take_seen(db, r);
}

static void forget_error(struct database *db)
{
    if (db->retry.failures) {
        log_about(LOG_CAPTURED_AGAIN, db->name, NULL, "replicating");
        log_line(LOG_NOTICE, "%s: works again", db->name);
    }
    retry_ok(&db->retry);
    free(db->err);
    db->err = NULL;
    db->retry_at_ms = 0;
}

static void take_state(struct database *db, enum source_state state)
{
    if (db->state != state || !db->attached_once) {
        set_state(db, state);
        db->last_event_ms = clk_mono_ms(); /* quiet is counted from here, not from the boot */
    }
    if (state != SOURCE_ATTACHED && state != SOURCE_ASLEEP) /* events wake it; this is the net below them */
        db->retry_at_ms = clk_mono_ms() + (state == SOURCE_BUSY     ? 1000
                                           : state == SOURCE_LOADED ? 0
                                                                    : MIN(db->conf.scan_ms, (uint64_t)5000));
    db->attached_once = true;
}

static void take_error(struct database *db, const struct err *e)
{
    bool news = !db->retry.failures || !db->err || db->err->code != e->code;
    uint64_t wait = MAX(retry_failed(&db->retry, e->code == ERR_BUSY ? ERR_BUSY : ERR_IO), (uint64_t)200);
    if (!db->err)
        db->err = util_alloc(sizeof *db->err);
    *db->err = *e;
    db->retry_at_ms = clk_mono_ms() + wait;
    db->attached_once = true;
    if (news) {
        char dur[32];
        db->since_ms = clk_real_ms();
        log_about(LOG_NOT_CAPTURED, db->name, NULL, "failed");
        log_err(LOG_ERROR, e, "%s: not captured, next try in %s", db->name,
                util_duration(dur, wait));
    }
}

static void settle_later(struct database *db)
{
    db->settle_wait_ms = MIN(db->settle_wait_ms * 2 + SETTLE_MS, (uint64_t)SETTLE_AGAIN_MS);
    db->settle_after_ms = db->last_run_ms + db->settle_wait_ms;
}


static void set_hush(struct database *db, bool on)
{
    if (db->hush && on != db->hushed)
        db->hushed = db->hush(db, on);
}

static void take_run(struct database *db, struct database_run *run)
{
    const struct source_result *r = &run->result;
    bool ok = r->err.code == ERR_OK;
    if (run->job.load && ok) {
        after_load(db, run);
    } else {
        if (run->job.drop_last && ok) /* only now: files that could not be removed are tried again */
            database_files_gone(db, run->job.drop_last);
        take_result(db, &run->job, r);
    }
    if (!ok) {
        take_error(db, &r->err);
    } else if (!run->job.load) {
        forget_error(db);
        if (!run->job.stay_away)
            take_state(db, r->state);
    }
    if (run->job.settle)
        db->settled_ms = db->last_run_ms;
    if (r->pinned || (run->job.settle && !r->drained))
        settle_later(db);
    if (run->job.detach || r->state != SOURCE_ATTACHED) {
        set_hush(db, false);
        db->leave_at_ms = 0;
        berths_leave(db->berths, db);
    }
}

static void work_done(uv_work_t *w, int status)
{
    (void)status;
    cleanup_free struct database_run *run = w->data;
    cleanup_free struct err *fenced = run->fenced; /* goes with it */
    cleanup_free struct fence_lost *lost = run->lost;
    struct database *db = run->db;
    db->run = NULL;
    db->last_run_ms = clk_mono_ms();
    if (run->job.load)
        berths_loaded(db->berths);
    if (db->closing) {
        if (run->result.stream) /* begun for nobody: it ends at once */
            database_take_stream(db, run->result.stream);
        db->detached = db->detached || run->job.detach;
        free(run->pause);
        database_maybe_closed(db);
        return;
    }
    take_run(db, run);
    database_sync_arm(db, &run->result);
    database_poke(db);
    for (size_t i = 0; i < db->n_up; i++)
        uploader_poke(db->up[i]);
    database_sync_check(db);
    if (db->stream)
        stream_moved(db->stream);
    if (run->result.n_files)
        history_captured(db);
    else
        history_moved(db);
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

static bool leaves_in_a_hurry(const struct database *db)
{
    return db->leave_at_ms && (uint64_t)db->seen.pages * db->seen.page_size <= SMALL_BYTES;
}

/* Every write that makes an event is paid for by the writer: a busy one is looked after by the clock. */
static void look_for_writes(struct database *db, uint64_t now, uint64_t *ret_at)
{
    if (source_news(db->source)) {
        db->dirty = true;
        db->last_event_ms = now;
    } else if (now >= db->last_event_ms + HUSH_END_MS) {
        set_hush(db, false);
        db->dirty = true; /* what was written before the events are back */
        db->last_event_ms = now;
        return;
    }
    db->assist_until_ms = now + SETTLE_MS;
    db->assist_peek_ms = 0;
    *ret_at = MIN(*ret_at, now + LOOK_MS);
}

/* What an attached database needs; the flags of job, or the time of the next look. */
static void decide_attached(struct database *db, uint64_t now, struct source_job *job, uint64_t *ret_at)
{
    uint64_t due;
    bool asked = db->force || database_sync_wants_capture(db);
    if (db->hushed)
        look_for_writes(db, now, ret_at);
    if (db->dirty && !asked && !news(db, now, ret_at)) {
        /* not visible yet */
    } else if (asked || (db->dirty && capture_due(db, now, &due))) {
        job->capture = true;
    } else if (db->dirty) {
        *ret_at = MIN(*ret_at, due);
        if (source_wants_look(db->source)) /* the WAL must not grow unseen meanwhile */
            db->look = db->last_run_ms + LOOK_MS <= now;
        *ret_at = MIN(*ret_at, now + LOOK_MS);
    }
    assist(db, now, job, ret_at);
    if (db->file_check_ms && db->seen.drained && !db->dirty) {
        if (db->file_check_ms <= now)
            db->look = true;
        else
            *ret_at = MIN(*ret_at, db->file_check_ms);
    }
    if (!db->seen.drained && (!db->dirty || db->leave_at_ms) && !leaves_in_a_hurry(db)) {
        uint64_t settle = MAX(db->last_event_ms + (db->leave_at_ms ? 0 : SETTLE_MS), db->settle_after_ms);
        if (settle <= now)
            job->settle = job->capture = true;
        else
            *ret_at = MIN(*ret_at, settle);
    }
    if (now >= db->last_run_ms + db->conf.scan_ms)
        job->capture = true;
    else
        *ret_at = MIN(*ret_at, db->last_run_ms + db->conf.scan_ms);
}

/* Quiet for long enough, or asked to leave: detach. With a proof if that can be had, so that nothing needs
 * to be compared at the next attach. */
static bool leaves(struct database *db, uint64_t now, uint64_t *ret_at)
{
    bool busy = db->dirty || db->force || db->snapshot_wanted || db->waiting || db->retry.failures ||
                db->file_check_ms;
    uint64_t aged = db->settled_ms + AGED_MS;
    if (db->leave_at_ms) {
        bool hurry = leaves_in_a_hurry(db), ready = !busy && (db->seen.drained || hurry);
        uint64_t at = !ready ? db->leave_at_ms : hurry ? now : MIN(aged, db->leave_at_ms);
        *ret_at = MIN(*ret_at, at);
        return at <= now;
    }
    if (busy || !db->seen.drained)
        return false;
    uint64_t at = MAX(db->last_event_ms + db->conf.idle_ms, aged);
    *ret_at = MIN(*ret_at, at);
    return at <= now;
}

/* Fill job with what should be done now; false and *ret_at when nothing is due before that time. */
static bool decide(struct database *db, uint64_t now, struct source_job *job, uint64_t *ret_at)
{
    bool attached = db->state == SOURCE_ATTACHED, asleep = db->state == SOURCE_ASLEEP;
    *ret_at = NEVER;
    if (db->pause)
        return database_paused_job(db, job);
    if (db->retry_at_ms > now && !db->force) {
        bool leave = attached && db->leave_at_ms && db->leave_at_ms <= now; /* others want to work */
        *ret_at = attached && db->leave_at_ms ? MIN(db->retry_at_ms, db->leave_at_ms) : db->retry_at_ms;
        *job = (struct source_job){.detach = leave};
        return leave;
    }
    *job = (struct source_job){.next_txid = db->renumber, .new_lineage = db->new_lineage, .drop_snapshot = db->drop_snapshot,
                               .snapshot = db->snapshot_wanted && !db->stream, .base = db->base_wanted,
                               .reading = db->stream != NULL, .distrust = db->distrust};
    bool quiet = asleep && !db->dirty && !db->force && !db->waiting;
    database_files_to_drop(db, db->low_space || quiet, job);
    if (db->flushing && !db->force)
        /* nothing new any more */;
    else if (attached)
        decide_attached(db, now, job, ret_at);
    else if (!quiet) {
        job->doze = asleep && !job->snapshot;
        job->capture = true;
    }
    bool needed = job->capture || job->assist || job->settle || job->snapshot || db->look ||
                  (!attached && !asleep && !db->flushing);
    if (attached && !db->flushing && (!needed || db->leave_at_ms) && leaves(db, now, ret_at)) {
        *job = (struct source_job){.detach = true, .hurry = leaves_in_a_hurry(db),
                                   .drop_snapshot = db->drop_snapshot};
        database_files_to_drop(db, !db->leave_at_ms, job);
        return true;
    }
    job->stay_away = !needed && !attached;
    if (!needed) {
        if (!attached)
            berths_leave(db->berths, db); /* it may have stood in line for what is not wanted any more */
        return job->drop_last || job->drop_snapshot;
    }
    return berths_enter(db->berths, db); /* else it is poked when there is room */
}

void database_poke(struct database *db)
{
    if (!db->started || db->run || db->closing)
        return;
    uint64_t now = clk_mono_ms();
    struct source_job job;
    uint64_t at;
    database_pause_check(db);
    if (!db->loaded) {
        if (db->retry_at_ms > now) {
            (void)uv_timer_start(&db->timer, on_timer, db->retry_at_ms - now, 0);
            return;
        }
        job = (struct source_job){.load = true, .doze = true};
        if (berths_load(db->berths, db))
            start_job(db, &job);
        return;
    }
    if (!number(db)) {
        (void)uv_timer_start(&db->timer, on_timer,
                             db->number_deadline_ms > now ? db->number_deadline_ms - now : 0, 0);
        return;
    }
    if (!decide(db, now, &job, &at)) {
        if (at == NEVER)
            (void)uv_timer_stop(&db->timer);
        else
            (void)uv_timer_start(&db->timer, on_timer, at > now ? at - now : 0, 0);
        return;
    }
    db->drop_snapshot = 0;
    if (job.capture && !job.detach) {
        database_sync_ride(db);
        job.copy_map = database_sync_wants_map(db);
        db->dirty = db->force = false;
    }
    if (job.assist) {
        db->last_assist_ms = now;
        db->assist_peek_ms = 0;
    }
    db->look = false;
    db->file_check_ms = 0;
    if (!job.detach)
        db->renumber = 0, db->new_lineage = false;
    start_job(db, &job);
}

static void on_timer(uv_timer_t *t)
{
    database_poke(t->data);
}

/* Both come from the midst of another database's decisions, or of its own: act on them later. */
void database_asked_to_leave(struct database *db)
{
    db->leave_at_ms = clk_mono_ms() + LEAVE_MS;
    (void)uv_timer_start(&db->timer, on_timer, 0, 0);
}

void database_berth_free(struct database *db)
{
    (void)uv_timer_start(&db->timer, on_timer, 0, 0);
}

/* ---- events ------------------------------------------------------------------------------------ */

void database_event(struct database *db, enum database_event ev)
{
    uint64_t now = clk_mono_ms();
    berths_touch(db->berths, db);
    if (!db->berth.asked)
        db->leave_at_ms = 0;
    switch (ev) {
    case DATABASE_WAL:
        if (now > db->last_event_ms + BUSY_GAP_MS)
            db->busy_since_ms = now;
        else if (db->state == SOURCE_ATTACHED && now >= db->busy_since_ms + BUSY_MS)
            set_hush(db, true);
        db->last_event_ms = now;
        db->peek_ms = 0;
        db->settle_wait_ms = db->settle_after_ms = 0;
        db->dirty = true;
        break;
    case DATABASE_FILE:
        db->assist_until_ms = now + SETTLE_MS;
        db->file_check_ms = now + FILE_CHECK_MS;
        db->assist_peek_ms = 0;
        db->dirty = db->dirty || db->state == SOURCE_ASLEEP; /* who checkpoints may have committed as well */
        break;
    default:
        db->last_event_ms = now;
        db->dirty = true;
        db->look = true;
    }
    if (db->state != SOURCE_ATTACHED && !db->retry.failures)
        db->retry_at_ms = 0;
    database_poke(db);
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
        start_job(db, &(struct source_job){.detach = true});
        return;
    }
    berths_leave(db->berths, db);
    db->closed(db, db->closed_arg);
    (void)source_free(db->source);
    free(db->name);
    free(db->path);
    free(db->dir);
    free(db->up);
    free(db->file);
    free(db->err);
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
