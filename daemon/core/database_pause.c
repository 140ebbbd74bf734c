/* database_pause.c - a database that is left alone until somebody says otherwise: detached as at a stop, while what
 * is in its spool goes on its way. */
#include "daemon/core/database_int.h"

#include "common/base/clk.h"
#include "common/base/log.h"

#define PAUSE_LOOK_MS 60000

int database_paused_error(const struct database *db, struct err *e)
{
    err_set(e, ERR_BUSY, "%s is paused%s%s%s, so its commits are not captured", db->name, *db->pause->reason ? " (" : "",
            db->pause->reason, *db->pause->reason ? ")" : "");
    return err_hint(e, "walsupctl resume %s", db->name);
}

/* Whoever waits for a capture will not get one. */
static void refuse_waiters(struct database *db)
{
    struct err e;
    database_paused_error(db, &e);
    for (struct database_sync **p = &db->waiting; *p;) {
        struct database_sync *w = *p;
        if (w->armed) { /* only for the replicas, and that goes on */
            p = &w->next;
            continue;
        }
        *p = w->next;
        database_sync_finish(w, &e);
    }
}

void database_pause_check(struct database *db)
{
    if (db->run || db->stream || db->state == SOURCE_ATTACHED)
        return;
    while (db->pausing) {
        struct database_pause_wait *w = db->pausing;
        db->pausing = w->next;
        w->done(w);
    }
}

void database_pause_abandon(struct database *db)
{
    while (db->pausing) {
        struct database_pause_wait *w = db->pausing;
        db->pausing = w->next;
        w->done(w);
    }
}

void database_pause_load(struct database *db, struct pause *p)
{
    if (!p)
        return;
    if (db->pause_told) { /* what was said since it was read is newer */
        free(p);
        return;
    }
    log_about(LOG_PAUSED, db->name, NULL, "paused");
    log_line(LOG_NOTICE, "%s: paused%s%s, as before the start", db->name, *p->reason ? ": " : "", p->reason);
    free(db->pause);
    db->pause = p;
    db->attached_once = true; /* nobody needs to wait for that */
}

void database_pause(struct database *db, struct pause *p, struct database_pause_wait *w)
{
    char by[24];
    bool news = !db->pause;
    free(db->pause);
    db->pause = p;
    db->pause_told = true;
    active_add(db->active, db);
    w->next = db->pausing;
    db->pausing = w;
    if (news) {
        log_about(LOG_PAUSED, db->name, NULL, "paused");
        log_line(LOG_NOTICE, "%s: paused by %s%s%s", db->name, pause_by(p, by), *p->reason ? ": " : "", p->reason);
        refuse_waiters(db);
        if (db->stream)
            stream_close(db->stream);
    }
    database_poke(db);
    database_pause_check(db);
}

void database_resume(struct database *db)
{
    db->pause_told = true;
    if (!db->pause)
        return;
    log_about(LOG_RESUMED, db->name, NULL, NULL);
    log_line(LOG_NOTICE, "%s: resumed", db->name);
    free(TAKE_PTR(db->pause));
    db->force = db->loaded;
    db->retry_at_ms = 0;
    database_poke(db);
}

uint64_t database_pause_left_ms(struct database *db)
{
    if (!db->pause || !db->pause->until_ms)
        return UINT64_MAX;
    int64_t left = db->pause->until_ms - clk_real_ms();
    if (left > 0)
        return (uint64_t)MIN(left, (int64_t)PAUSE_LOOK_MS); /* the clock may be set */
    log_line(LOG_NOTICE, "%s: the time of its pause has passed", db->name);
    database_resume(db);
    return UINT64_MAX;
}

bool database_paused_job(struct database *db, struct source_job *job)
{
    db->force = db->look = false;
    if (db->state == SOURCE_ATTACHED) {
        *job = (struct source_job){.detach = true, .drop_snapshot = db->drop_snapshot};
        database_files_to_drop(db, true, job);
        return !db->stream; /* its end comes back here */
    }
    *job = (struct source_job){.stay_away = true, .drop_snapshot = db->drop_snapshot, .next_txid = db->renumber,
                               .new_lineage = db->new_lineage};
    berths_leave(db->berths, &db->berth);
    database_files_to_drop(db, true, job);
    return job->drop_last || job->drop_snapshot;
}
