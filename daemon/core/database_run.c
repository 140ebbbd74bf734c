/* database_run.c - one job of a database's source: started, and what came of it. */
#include "daemon/core/database_int.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "daemon/os/walls.h"

#define NUMBER_WAIT_MS 3000 /* how long an unreachable replica may hold up the first TXID */
#define SETTLE_MS 1000
#define SETTLE_AGAIN_MS 30000
#define LET_GO_LOOK_MS 2000
#define ARRIVING_MS 1000 /* an application may open what is being copied in: then it is complete */

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

void database_start_job(struct database *db, const struct source_job *job)
{
    active_add(db->active, db);
    db->run = util_zalloc(sizeof *db->run + (job->load ? db->n_up * sizeof db->run->acked[0] : 0));
    db->run->db = db;
    db->run->work.uv.data = db->run;
    db->run->job = *job;
    if (!job->load && !job->stay_away) { /* the source remembers until it has looked */
        db->run->job.unexplained = db->unexplained;
        db->run->job.file_was_last = db->file_was_last && !db->hushed;
        db->run->job.unexplained_since_ms = db->unexplained_since_ms;
        db->unexplained = db->file_was_last = false;
    }
    db->run->started_ms = clk_mono_ms();
    source_reconf(db->source, &db->source_conf);
    work_queue(db->loop, &db->run->work, wall_of_mount(db->path), work_run, work_done);
}

static void set_state(struct database *db, enum source_state state)
{
    if (db->state == state && db->attached_once)
        return;
    static const char *const say[] = {
        [SOURCE_LOADED] = "could not be attached",
        [SOURCE_WAITING] = "waits for a database to appear there (walsupctl check says whether the "
                           "service sees it)",
        [SOURCE_NOT_WAL] = ("is not in WAL mode: not replicated "
                            "(PRAGMA journal_mode=WAL changes that)"),
        [SOURCE_BUSY] = "is locked by an application",
        [SOURCE_ARRIVING] = "waits until the file has been still for a moment",
        [SOURCE_ATTACHED] = "is attached",
        [SOURCE_ASLEEP] = "is idle"};
    enum source_state was = db->state;
    /* coming and going of the idle is nothing to tell */
    bool routine = state == SOURCE_ASLEEP || state == SOURCE_ARRIVING ||
                   (state == SOURCE_ATTACHED && was == SOURCE_ASLEEP) ||
                   (was == SOURCE_ATTACHED && state == SOURCE_LOADED);
    enum log_level level = routine                                                ? LOG_DEBUG
                           : state == SOURCE_ATTACHED || state == SOURCE_WAITING ? LOG_NOTICE
                                                                                 : LOG_WARN;
    static const char *const words[] = {
        [SOURCE_LOADED] = "failed",     [SOURCE_WAITING] = "waiting",
        [SOURCE_NOT_WAL] = "not-wal",   [SOURCE_BUSY] = "locked",
        [SOURCE_ARRIVING] = "starting", [SOURCE_ATTACHED] = "replicating",
        [SOURCE_ASLEEP] = "idle"};
    log_about(state == SOURCE_ATTACHED || state == SOURCE_ASLEEP ? LOG_ATTACHED : LOG_STATE,
              db->name, NULL, words[state]);
    log_line(level, "%s: %s %s", db->name, db->path, say[state]);
    db->state = state;
    if (!routine || !db->attached_once || state == SOURCE_ARRIVING || was == SOURCE_ARRIVING)
        db->since_ms = clk_real_ms();
}

static void proven(struct database *db, uint64_t at_ms)
{
    db->audited_ms = at_ms;
    active_proven(db->active, db);
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
        proven(db, clk_mono_ms());
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
    memcpy(s->reader, r->reader, sizeof s->reader);
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
    if (!r->drained || db->hushed)
        db->wal_is_empty = db->wal_is_empty && r->state != SOURCE_ATTACHED;
    else if (!db->dirty) /* and whatever we wrote ourselves was told before */
        db->wal_is_empty = true;
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

/* What the last audit said, for as long as it holds. */
static void take_doubt(struct database *db, const struct source_job *job, const struct source_result *r)
{
    if (job->stay_away && job->audit && r->doubt != SOURCE_DOUBT_NONE) {
        db->dirty = db->audit = true; /* what is on disk is not on record: attach and see */
        return;
    }
    if (r->audited && r->writer) { /* a commit is on its way, for as long as that takes */
        db->dirty = true;
        db->audit_at_ms = db->last_run_ms + SETTLE_MS;
    }
    if (r->doubt == SOURCE_DOUBT_NONE && !r->audited)
        return;
    if (r->audited && r->doubt == SOURCE_DOUBT_NONE)
        proven(db, db->last_run_ms);
    if (r->doubt == SOURCE_DOUBT_NONE) {
        if (db->doubt.why) {
            log_about(LOG_CAPTURED_AGAIN, db->name, NULL, "replicating");
            log_line(LOG_NOTICE, "%s: every commit is seen again", db->name);
        }
        free(TAKE_PTR(db->doubt.why));
        return;
    }
    if (!db->doubt.why) {
        db->doubt.since_ms = clk_real_ms();
        db->doubt.since_mono_ms = db->last_run_ms;
    }
    if (db->doubt.why && !strcmp(db->doubt.why, r->doubt_why))
        return;
    free(db->doubt.why);
    db->doubt.why = util_strdup(r->doubt_why);
    log_about(LOG_NOT_CAPTURED, db->name, NULL, "unseen");
    log_line(LOG_WARN, "%s: commits may be missed: %s", db->name, r->doubt_why);
}

/* Kept until there is one again. */
static void take_gone(struct database *db, const struct source_result *r)
{
    char stamp[40];
    bool was_there = db->state != SOURCE_WAITING && db->state != SOURCE_LOADED;
    if (r->state != SOURCE_WAITING || !(r->broken || was_there))
        return;
    free(db->gone);
    db->gone = util_printf("%s at %s", r->gone[0] ? r->gone : "was moved away or removed",
                           util_rfc3339(stamp, clk_real_ms() / 1000 * 1000));
}

static void take_away(struct database *db, const struct source_result *r)
{
    db->ahead_ms = !r->ahead ? 0 : db->ahead_ms ? db->ahead_ms : clk_real_ms();
    bool was = db->away && !strcmp(db->away, r->away);
    if (was)
        return;
    free(db->away);
    db->away = r->away[0] ? util_strdup(r->away) : NULL;
}

static void take_alone(struct database *db, const struct source_job *job, const struct source_result *r)
{
    if (job->detach && r->stays) {
        db->stay_until_ms = r->again_ms ? db->last_run_ms + r->again_ms : 0;
        if (!r->again_ms)
            db->alone_at_ms = 0; /* somebody came, or is at work: his close will tell */
    } else if (job->closed && r->elsewhere) {
        db->alone_at_ms = db->last_run_ms;
    } else if (job->closed && !r->alone) {
        db->alone_at_ms = 0;
    }
    if (r->last_close) { /* its event came before; and we have closed what we had open, which makes one as well */
        bool often = db->last_run_ms < db->last_close_ms + SETTLE_MS;
        db->alone_wait_ms = often ? MIN(MAX(db->alone_wait_ms, (uint64_t)SETTLE_MS) * 2, db->conf.idle_ms) : SETTLE_MS;
        db->alone_at_ms = r->state == SOURCE_ATTACHED ? db->last_run_ms + db->alone_wait_ms : 0;
        db->last_close_ms = db->last_run_ms;
    }
    if (!job->detach || r->stays)
        return;
    db->alone_at_ms = db->stay_until_ms = 0;
    if (job->let_go && r->elsewhere) { /* he who waits can have it; see soon whether that was it */
        db->let_go_ms = db->last_run_ms;
        db->retry_at_ms = db->last_run_ms + LET_GO_LOOK_MS;
        db->dirty = true;
    }
}

static void take_state(struct database *db, enum source_state state, uint64_t again_ms)
{
    if (db->state != state || !db->attached_once) {
        if (state == SOURCE_ATTACHED || state == SOURCE_ASLEEP) {
            proven(db, db->last_run_ms);
            free(TAKE_PTR(db->gone));
        }
        set_state(db, state);
        database_is_quiet(db, clk_mono_ms());
    }
    if (state == SOURCE_ARRIVING)
        db->retry_at_ms = clk_mono_ms() + MIN(again_ms, (uint64_t)ARRIVING_MS);
    else if (state != SOURCE_ATTACHED && state != SOURCE_ASLEEP) /* events wake it; this is the net below them */
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

void database_set_hush(struct database *db, bool on)
{
    if (db->hush && on != db->hushed)
        db->hushed = db->hush(db, on);
    if (db->hushed) /* what is written into the WAL is not told */
        db->wal_is_empty = false;
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
        take_gone(db, r);
    }
    if (!ok) {
        take_error(db, &r->err);
    } else if (!run->job.load) {
        forget_error(db);
        if (!run->job.stay_away)
            take_state(db, r->state, r->again_ms);
    }
    take_doubt(db, &run->job, r);
    take_alone(db, &run->job, r);
    if (ok && !run->job.load && !run->job.stay_away)
        take_away(db, r);
    if (r->old_guard) {
        db->assist_until_ms = db->last_run_ms + SETTLE_MS;
        db->last_assist_ms = db->last_run_ms;
        db->assist_peek_ms = 0;
    }
    if (run->job.settle || run->job.closed)
        db->settled_ms = db->last_run_ms;
    if (r->pinned || (run->job.settle && !r->drained))
        settle_later(db);
    if ((run->job.detach && !r->stays) || r->state != SOURCE_ATTACHED) {
        database_set_hush(db, false);
        db->leave_at_ms = 0;
        berths_leave(db->berths, &db->berth);
    }
}

static void work_done(uv_work_t *w, int status)
{
    (void)status;
    cleanup_free struct database_run *run = w->data;
    cleanup_free struct err *fenced = run->fenced; /* goes with it */
    cleanup_free struct fence_lost *lost = run->lost;
    struct database *db = run->db;
    if (db->hear)
        db->hear(db); /* of what happened before the job was over; nothing begins yet */
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
