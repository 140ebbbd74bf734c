/* history.c - what is due for a database: merging its files level by level, snapshots, and what its keepers do. */
#include "daemon/history_int.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/base/log.h"
#include "common/format/crc64.h"
#include "daemon/position.h"
#include "daemon/walls.h"

#define MERGE_AT_ONCE 2u
#define INPUTS_MIN 4u /* fewer files are not worth another one at the next level */
#define ALONE_BYTES (1u << 20) /* a whole database so large is not merged: it would be uploaded again and again */
#define FIRST_LOOK_MS 60000    /* after the first capture: what is due otherwise? */
#define SAVE_STEADY_MS (10 * 60000)
#define REST_MS 1000 /* due so soon: not worth going away */

/* ---- time -------------------------------------------------------------------------------------- */

int64_t history_time(struct history_shared *s)
{
    int64_t now = steady_now(&s->steady, position_boot());
    if (!!s->steady.leapt_ms != s->leap_told) {
        char dur[32];
        s->leap_told = !s->leap_told;
        if (s->leap_told)
            log_line(LOG_WARN,
                     "the clock leapt forward by %s: nothing is deleted by it, the retention goes on by the time as it "
                     "was before (if the clock is right: walsupctl reconcile --trust-clock)",
                     util_duration(dur, (uint64_t)s->steady.leapt_ms));
        else
            log_line(LOG_NOTICE, "the clock is believed again");
    }
    if (s->steady_saved_ms && clk_mono_ms() < s->steady_saved_ms + SAVE_STEADY_MS)
        return now;
    s->steady_saved_ms = clk_mono_ms();
    inventory_fact_set(s->inventory, "steady.time", s->steady.time_ms);
    inventory_fact_set(s->inventory, "steady.since-boot", (int64_t)s->steady.boot_ms);
    inventory_fact_set(s->inventory, "steady.boot", (int64_t)s->steady.boot);
    inventory_fact_set(s->inventory, "steady.leapt", s->steady.leapt_ms);
    return now;
}

void history_trust_clock(struct history_shared *s)
{
    steady_trust(&s->steady, position_boot());
    s->steady_saved_ms = 0;
    (void)history_time(s);
}

uint64_t history_due_at(int64_t real_ms, uint64_t most_ms)
{
    int64_t left = real_ms - clk_real_ms();
    if (left > (int64_t)MIN(most_ms, (uint64_t)INT64_MAX)) /* it was taken from a clock that was ahead */
        left = 0;
    return clk_mono_ms() + (uint64_t)MAX(left, (int64_t)0);
}

int64_t history_boundary(const struct database *db, int64_t after_ms, uint64_t interval_ms)
{
    int64_t every = (int64_t)MAX(interval_ms, (uint64_t)1);
    int64_t shift = (int64_t)(crc64(0, db->name, strlen(db->name)) % (uint64_t)every);
    return (after_ms - shift + every) / every * every + shift;
}

/* ---- the job ----------------------------------------------------------------------------------- */

static void on_job(uv_work_t *w, int status);

static void sweep(struct history_job *j, const char *dir)
{
    for (unsigned i = 0; i < SPOOL_LEVELS; i++)
        for (size_t n = 0; n < j->n_drop[i]; n++) {
            cleanup_free char *path = spool_level_path(dir, i + 1, j->drop[i][n].min, j->drop[i][n].max);
            (void)fsx_unlink(path, NULL);
            beat_step();
        }
    j->r = spool_merged_write(dir, j->merged, &j->err);
}

static void do_job(struct history_job *j)
{
    const char *dir = j->h->db->dir;
    switch (j->what) {
    case HISTORY_LOAD:
        j->r = spool_levels_load(dir, j->loaded, &j->err);
        return;
    case HISTORY_MERGE:
        j->r = compact_run(&j->compact, &j->made, &j->err);
        if (j->r == 0) {
            j->merged[j->compact.level - 1] = j->made.max;
            (void)spool_merged_write(dir, j->merged, NULL);
        }
        return;
    default:
        sweep(j, dir);
    }
}

static void work_job(uv_work_t *w)
{
    struct history_job *j = w->data;
    beat_begin(&j->beat);
    do_job(j);
    beat_end();
}

struct beat *history_beat(const struct database *db)
{
    return db->history && db->history->job ? &db->history->job->beat : NULL;
}

static void job_free(struct history_job *j)
{
    free((void *)(uintptr_t)j->compact.in);
    for (unsigned i = 0; i < SPOOL_LEVELS; i++) {
        free(j->drop[i]);
        level_list_done(&j->loaded[i]);
    }
    free(j);
}

static struct history_job *job_new(struct history *h, enum history_task what)
{
    struct history_job *j = util_zalloc(sizeof *j);
    j->what = what;
    j->h = h;
    j->work.uv.data = j;
    memcpy(j->merged, h->db->merged, sizeof j->merged);
    return j;
}

static void job_start(struct history *h, struct history_job *j)
{
    h->job = j;
    work_queue(h->shared->loop, &j->work, WALL_OWN, work_job, on_job);
}

/* ---- what is to be merged ---------------------------------------------------------------------- */

static struct level_file below(const struct history *h, unsigned level, size_t i)
{
    if (level > 1)
        return h->level[level - 2].file[i];
    const struct spool_file *f = &h->db->file[i];
    return (struct level_file){f->txid, f->txid, f->size, f->timestamp_ms, f->checksum, f->lineage, f->whole};
}

static bool stands_alone(const struct level_file *f)
{
    return f->min == 1 || (f->whole && f->size >= ALONE_BYTES);
}

struct run {
    size_t first, n;
    uint64_t bytes;
    bool closed; /* what comes next does not belong to it */
};

/* The first files of the level below that are not merged yet and belong together. What never can be merged is passed
 * over. */
static struct run next_run(struct history *h, unsigned level)
{
    uint64_t *merged = &h->db->merged[level - 1];
    size_t n = level > 1 ? h->level[level - 2].n : h->db->n_files;
    struct run r = {.n = 0};
    struct level_file last = {0};
    for (size_t i = 0; i < n; i++) {
        struct level_file f = below(h, level, i);
        if (f.max <= *merged)
            continue;
        bool alone = stands_alone(&f);
        bool fits = r.n && !alone && f.min <= last.max + 1 && f.lineage == last.lineage &&
                    r.n < COMPACT_MAX_FILES && r.bytes + f.size <= COMPACT_MAX_BYTES;
        if (r.n > 1 && !fits) {
            r.closed = true;
            return r;
        }
        if (r.n && !fits) { /* a lone one before a gap */
            *merged = last.max;
            r.n = 0;
        }
        if (alone) {
            *merged = f.max;
            continue;
        }
        if (!r.n)
            r = (struct run){.first = i};
        r.n++;
        r.bytes += f.size;
        last = f;
    }
    return r;
}

/* Monotonic time when files go to this level. */
static uint64_t merge_due(struct history *h, unsigned level, struct run *ret)
{
    uint64_t interval = h->db->conf.history.level_ms[level - 1];
    *ret = next_run(h, level);
    if (!interval || !ret->n)
        return HISTORY_NEVER;
    if (ret->closed)
        return 0;
    if (ret->n < INPUTS_MIN)
        return HISTORY_NEVER;
    int64_t first = below(h, level, ret->first).timestamp_ms;
    return history_due_at(history_boundary(h->db, first, interval), interval);
}

static void merge_start(struct history *h, unsigned level, const struct run *run)
{
    struct history_job *j = job_new(h, HISTORY_MERGE);
    struct level_file *in = util_alloc(run->n * sizeof *in);
    for (size_t i = 0; i < run->n; i++)
        in[i] = below(h, level, run->first + i);
    j->compact = (struct compact_job){h->db->dir, level, h->db->source_conf.encoding, in, run->n};
    h->shared->merging++;
    job_start(h, j);
}

static void queue_leave(struct history *h)
{
    struct history_shared *s = h->shared;
    if (!h->queued)
        return;
    struct history **p = &s->queue;
    while (*p != h)
        p = &(*p)->next;
    *p = h->next;
    if (!h->next)
        s->queue_end = p;
    h->queued = false;
}

/* Only so many at once, in the order they came: captures need the workers, too. */
static bool my_turn(struct history *h)
{
    struct history_shared *s = h->shared;
    if (s->merging < MERGE_AT_ONCE && (!s->queue || s->queue == h)) {
        queue_leave(h);
        return true;
    }
    if (!h->queued) {
        h->queued = true;
        h->next = NULL;
        *s->queue_end = h;
        s->queue_end = &h->next;
    }
    return false;
}

/* Start the merge that is due, or tell when one is. */
static uint64_t merge_something(struct history *h)
{
    uint64_t now = clk_mono_ms(), at = HISTORY_NEVER;
    if (h->job || h->db->low_space || h->db->flushing)
        return HISTORY_NEVER;
    for (unsigned level = 1; level <= SPOOL_LEVELS; level++) {
        struct run run;
        uint64_t due = merge_due(h, level, &run);
        if (due <= now) {
            if (my_turn(h))
                merge_start(h, level, &run);
            return HISTORY_NEVER;
        }
        at = MIN(at, due);
    }
    return at;
}

/* ---- what may leave the spool ------------------------------------------------------------------ */

static bool may_go(const struct history *h, unsigned level, const struct level_file *f)
{
    if (level < SPOOL_LEVELS && f->max > h->db->merged[level])
        return false;
    for (size_t i = 0; i < h->n_keepers; i++)
        if (!h->keeper[i].has_facts || keeper_needs(&h->keeper[i], level, f))
            return false;
    return true;
}

static uint64_t bytes_of(const struct history *h)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < SPOOL_LEVELS; i++)
        for (size_t j = 0; j < h->level[i].n; j++)
            bytes += h->level[i].file[j].size;
    return bytes;
}

static void drop(struct history *h, struct history_job *j, unsigned i, size_t at)
{
    struct level_list *l = &h->level[i];
    if (!j->drop[i])
        j->drop[i] = util_alloc(l->n * sizeof *j->drop[i]);
    j->drop[i][j->n_drop[i]++] = l->file[at];
    level_list_remove(l, at);
}

static void sweep_something(struct history *h)
{
    if (h->job)
        return;
    struct history_job *j = NULL;
    uint64_t bytes = bytes_of(h), limit = h->db->conf.spool_limit_bytes;
    bool over = bytes > limit || h->db->low_space;
    for (unsigned i = 0; i < SPOOL_LEVELS; i++)
        for (size_t at = 0; at < h->level[i].n;) {
            bool forced = over && (h->db->low_space || bytes > limit / 2);
            if (!forced && !may_go(h, i + 1, &h->level[i].file[at])) {
                at++;
                continue;
            }
            if (!j)
                j = job_new(h, HISTORY_SWEEP);
            bytes -= h->level[i].file[at].size;
            drop(h, j, i, at);
        }
    if (over && !h->overflow_told)
        log_line(LOG_WARN, "%s: merged files wait for replicas and there is no more room for them: dropped; level 0 has "
                           "the same",
                 h->db->name);
    h->overflow_told = over;
    if (j)
        job_start(h, j);
}

/* ---- the result of a job ----------------------------------------------------------------------- */

static void job_failed(struct history *h, const struct history_job *j)
{
    bool first = !h->retry.failures;
    uint64_t wait = MAX(retry_after(&h->retry, &j->err), (uint64_t)1000);
    h->retry_at_ms = clk_mono_ms() + wait;
    if (first)
        log_err(LOG_WARN, &j->err, "%s: history", h->db->name);
    if (j->what == HISTORY_MERGE && j->err.code == ERR_CORRUPT) /* level 0 has the same in every replica */
        h->db->merged[j->compact.level - 1] = j->compact.in[j->compact.n - 1].max;
}

static void take_job(struct history *h, struct history_job *j)
{
    if (j->r < 0) {
        job_failed(h, j);
        return;
    }
    retry_ok(&h->retry);
    h->retry_at_ms = 0;
    if (j->what == HISTORY_LOAD) {
        for (unsigned i = 0; i < SPOOL_LEVELS; i++) {
            h->level[i] = j->loaded[i];
            j->loaded[i] = (struct level_list){.file = NULL};
            /* the record of what is merged may be older than the files */
            for (size_t n = 0; n < h->level[i].n; n++)
                h->db->merged[i] = MAX(h->db->merged[i], h->level[i].file[n].max);
        }
        h->loaded = true;
    } else if (j->what == HISTORY_MERGE && j->r == 0) {
        h->db->merged[j->compact.level - 1] = j->made.max;
        level_list_add(&h->level[j->compact.level - 1], &j->made);
        h->db->seen_merges++;
        database_poke(h->db); /* files of level 0 may go */
    }
}

static void on_job(uv_work_t *w, int status)
{
    (void)status;
    struct history_job *j = w->data;
    struct history *h = j->h;
    struct history_shared *s = h->shared;
    h->job = NULL;
    if (j->what == HISTORY_MERGE) {
        s->merging--;
        if (s->queue)
            agenda_set(s->agenda, &s->queue->db->due, 0);
    }
    if (!h->closing)
        take_job(h, j);
    job_free(j);
    history_poke(h);
}

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
    queue_leave(h);
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
    bool idle = h->db->state != SOURCE_ATTACHED && !h->db->run && !h->db->stream && !h->call && !h->job && !h->queued && h->loaded &&
                at > clk_mono_ms() + REST_MS;
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
        idle = idle && (keeper_rests(h, &h->keeper[i]) || h->keeper[i].err || h->keeper[i].delete_err || h->keeper[i].u->fenced);
    return idle;
}

static uint64_t decide(struct history *h)
{
    uint64_t at = HISTORY_NEVER;
    if (h->retry_at_ms > clk_mono_ms())
        at = h->retry_at_ms;
    else if (h->loaded)
        at = merge_something(h);
    else if (!h->job)
        job_start(h, job_new(h, HISTORY_LOAD));
    if (!h->loaded)
        return at;
    for (size_t i = 0; i < h->n_keepers; i++)
        at = MIN(at, keeper_poke(&h->keeper[i]));
    if (h->retry_at_ms <= clk_mono_ms())
        sweep_something(h);
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

/* A first capture is not merged, and need not wait for anything to leave the spool. */
static void pass_over(struct database *db)
{
    for (size_t i = 0; i < db->n_files; i++) {
        const struct spool_file *f = &db->file[i];
        if (f->txid <= db->merged[0])
            continue;
        if (f->txid != 1 && !(f->whole && f->size >= ALONE_BYTES))
            return;
        db->merged[0] = f->txid;
    }
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
    size_t waiting = 0;
    pass_over(db);
    while (waiting < db->n_files && db->file[db->n_files - 1 - waiting].txid > db->merged[0])
        waiting++;
    if (interval && waiting >= INPUTS_MIN)
        agenda_sooner(a, &db->due,
                      history_due_at(history_boundary(db, db->file[db->n_files - waiting].timestamp_ms, interval), interval));
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

/* ---- what all share ---------------------------------------------------------------------------- */

static void on_look(void *arg, struct agenda_entry *x)
{
    (void)arg;
    uploader_look_due(CONTAINER_OF(x, struct uploader, look_due));
}

int history_shared_new(uv_loop_t *loop, const char *state_dir,
                       void (*fire)(void *arg, struct agenda_entry *x), void *arg,
                       struct history_shared **ret, struct err *e)
{
    struct inventory *v;
    int r = inventory_open(loop, state_dir, &v, e);
    if (r < 0)
        return r;
    struct history_shared *s = util_zalloc(sizeof *s);
    s->loop = loop;
    s->inventory = v;
    s->queue_end = &s->queue;
    s->steady = (struct steady){inventory_fact_get(v, "steady.time"),
                                (uint64_t)inventory_fact_get(v, "steady.since-boot"),
                                (uint64_t)inventory_fact_get(v, "steady.boot"), inventory_fact_get(v, "steady.leapt")};
    s->agenda = agenda_new(loop, fire, arg);
    s->looks = agenda_new(loop, on_look, s);
    *ret = s;
    return 0;
}

static void on_inventory_closed(void *arg)
{
    struct history_shared *s = arg;
    void (*closed)(void *) = s->closed;
    void *closed_arg = s->closed_arg;
    free(s);
    closed(closed_arg);
}

static void on_looks_closed(void *arg)
{
    struct history_shared *s = arg;
    inventory_close(s->inventory, on_inventory_closed, s);
}

static void on_agenda_closed(void *arg)
{
    struct history_shared *s = arg;
    agenda_close(s->looks, on_looks_closed, s);
}

void history_shared_close(struct history_shared *s, void (*closed)(void *arg), void *arg)
{
    s->closed = closed;
    s->closed_arg = arg;
    s->steady_saved_ms = 0;
    (void)history_time(s);
    agenda_close(s->agenda, on_agenda_closed, s);
}
