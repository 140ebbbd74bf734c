/* database_decide.c - what an idle source should do next, and when. */
#include "daemon/core/database_int.h"

#include "common/base/clk.h"

#define SETTLE_MS 1000       /* quiet for so long: copy the WAL into the database */
#define LOOK_MS 10 /* between two captures: look after the WAL, keep the guard recent */
#define HUSH_END_MS 200
#define PEEK_MAX_MS 64
#define ASSIST_MS 10 /* an application's checkpoint may wait for our guard with the write lock held */
#define AGED_MS 60   /* a file time so old can be told from any later one (position.c) */
#define SMALL_BYTES (16u << 20) /* cheaper to compare than to checkpoint, when there is no time */
#define NEVER UINT64_MAX
#define LET_GO_MS 60000 /* whoever has it by another name gets it once; then he is told of */
#define DOUBT_AGAIN_MS 300 /* while what is seen is in doubt: look again */

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
 * often, until a second opinion says that no writer is at work. */
static bool news(struct database *db, uint64_t now, uint64_t *ret_at)
{
    if (source_news(db->source)) {
        db->peek_ms = 0;
        return true;
    }
    uint64_t audit = MAX(db->last_event_ms + SETTLE_MS, db->audit_at_ms);
    db->audit = db->audit || now >= audit; /* rolled back, or in its fsync still: whoever has the write lock tells */
    db->peek_ms = MIN(db->peek_ms * 2 + 1, (uint64_t)PEEK_MAX_MS);
    *ret_at = MIN(*ret_at, MIN(now + db->peek_ms, MAX(audit, now + 1)));
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
        database_set_hush(db, false);
        db->dirty = true; /* what was written before the events are back */
        database_is_quiet(db, now);
        return;
    }
    db->assist_until_ms = now + SETTLE_MS;
    db->assist_peek_ms = 0;
    *ret_at = MIN(*ret_at, now + LOOK_MS);
}

/* Somebody has closed the database. If nobody else has it, the WAL goes where SQLite's last close would have put it:
 * people copy, move and replace the file when they have stopped its application. */
static void after_close(struct database *db, uint64_t now, struct source_job *job, uint64_t *ret_at)
{
    if (!db->closed_look_ms)
        return;
    if (db->closed_look_ms <= now)
        job->closed = job->capture = true;
    else
        *ret_at = MIN(*ret_at, db->closed_look_ms);
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
    bool foreign = db->file_check_ms && source_foreign_write(db->source);
    if (foreign || (db->file_check_ms && db->seen.drained && !db->dirty)) {
        if (foreign || db->file_check_ms <= now)
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
    after_close(db, now, job, ret_at);
    uint64_t scan = db->doubt.why ? MAX(db->audit_at_ms, db->last_run_ms + DOUBT_AGAIN_MS)
                                  : MAX(db->last_audit_ms, db->last_run_ms) + db->conf.scan_ms;
    if (now >= scan)
        job->capture = db->audit = true;
    else
        *ret_at = MIN(*ret_at, scan);
}

/* Quiet for long enough, or asked to leave: detach. With a proof if that can be had, so that nothing needs
 * to be compared at the next attach. */
static bool leaves(struct database *db, uint64_t now, uint64_t *ret_at)
{
    bool busy = db->dirty || db->force || db->snapshot_wanted || db->waiting || db->retry.failures ||
                db->file_check_ms;
    uint64_t aged = MAX(db->settled_ms + AGED_MS, db->stay_until_ms);
    if (db->leave_at_ms) {
        bool hurry = leaves_in_a_hurry(db), ready = !busy && (db->seen.drained || hurry);
        uint64_t at = !ready ? db->leave_at_ms : hurry ? now : MIN(aged, db->leave_at_ms);
        *ret_at = MIN(*ret_at, at);
        return at <= now;
    }
    if (busy)
        return false;
    if (db->alone_at_ms) { /* nobody else has it: if nobody comes */
        uint64_t alone = MAX(db->alone_at_ms, db->stay_until_ms);
        *ret_at = MIN(*ret_at, alone);
        if (alone <= now)
            return true;
    }
    if (!db->seen.drained)
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
    if (db->pause) {
        uint64_t left = database_pause_left_ms(db);
        if (left != UINT64_MAX)
            *ret_at = now + left;
    }
    if (db->pause)
        return database_paused_job(db, job);
    if (db->retry_at_ms > now && !db->force) {
        bool leave = attached && db->leave_at_ms && db->leave_at_ms <= now; /* others want to work */
        *ret_at = attached && db->leave_at_ms ? MIN(db->retry_at_ms, db->leave_at_ms) : db->retry_at_ms;
        *job = (struct source_job){.detach = leave};
        return leave;
    }
    *job = (struct source_job){.next_txid = db->renumber,
                               .new_lineage = db->new_lineage,
                               .drop_snapshot = db->drop_snapshot,
                               .snapshot = db->snapshot_wanted && !db->stream,
                               .base = db->base_wanted,
                               .reading = db->stream != NULL,
                               .distrust = db->distrust};
    bool quiet = asleep && !db->dirty && !db->force && !db->waiting;
    if (quiet && db->audit) {
        *job = (struct source_job){.stay_away = true, .audit = true};
        return true;
    }
    database_files_to_drop(db, db->low_space || quiet, job);
    if (db->flushing && !db->force)
        /* nothing new any more */;
    else if (attached)
        decide_attached(db, now, job, ret_at);
    else if (!quiet) {
        job->doze = asleep && !job->snapshot;
        job->capture = true;
    }
    job->audit = db->audit || (job->capture && database_sync_wants_capture(db));
    bool needed = job->audit || job->capture || job->assist || job->settle || job->snapshot || db->look ||
                  (!attached && !asleep && !db->flushing);
    if (attached && !db->flushing && (!needed || db->leave_at_ms) && leaves(db, now, ret_at)) {
        bool alone = !db->leave_at_ms && db->alone_at_ms && db->alone_at_ms <= now;
        *job = (struct source_job){.detach = true,
                                   .hurry = leaves_in_a_hurry(db),
                                   .if_alone = alone,
                                   .let_go = now >= db->let_go_ms + LET_GO_MS,
                                   .may_stay = !db->leave_at_ms,
                                   .drop_snapshot = db->drop_snapshot};
        database_files_to_drop(db, !db->leave_at_ms, job);
        return true;
    }
    job->stay_away = !needed && !attached;
    if (!needed) {
        if (!attached)
            berths_leave(db->berths, &db->berth); /* it may have stood in line for what is not wanted any more */
        return job->drop_last || job->drop_snapshot;
    }
    return berths_enter(db->berths, &db->berth); /* else it is poked when there is room */
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
            (void)uv_timer_start(&db->timer, database_on_timer, db->retry_at_ms - now, 0);
            return;
        }
        job = (struct source_job){.load = true, .doze = true};
        if (berths_load(db->berths, &db->berth))
            database_start_job(db, &job);
        return;
    }
    if (!number(db)) {
        (void)uv_timer_start(&db->timer, database_on_timer,
                             db->number_deadline_ms > now ? db->number_deadline_ms - now : 0, 0);
        return;
    }
    if (!decide(db, now, &job, &at)) {
        if (at == NEVER)
            (void)uv_timer_stop(&db->timer);
        else
            (void)uv_timer_start(&db->timer, database_on_timer, at > now ? at - now : 0, 0);
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
    if (job.audit) {
        db->dirty = false;
        db->last_audit_ms = now;
    }
    if (job.closed)
        db->closed_look_ms = 0;
    db->look = db->audit = false;
    db->file_check_ms = 0;
    if (!job.detach)
        db->renumber = 0, db->new_lineage = false;
    database_start_job(db, &job);
}

void database_on_timer(uv_timer_t *t)
{
    database_poke(t->data);
}
