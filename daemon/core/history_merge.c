/* history_merge.c - the jobs of a history: merging files of one level to one of the next, and taking out of the spool
 * what nobody needs any more. */
#include "daemon/core/history_int.h"

#include <assert.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/base/log.h"
#include "daemon/os/walls.h"

#define MERGE_AT_ONCE 2u
#define INPUTS_MIN 4u /* fewer files are not worth another one at the next level */
#define ALONE_BYTES (1u << 20) /* a whole database so large is not merged: it would be uploaded again and again */

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

void history_load(struct history *h)
{
    job_start(h, job_new(h, HISTORY_LOAD));
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

void history_queue_leave(struct history *h)
{
    struct history_shared *s = h->shared;
    if (!h->queued)
        return;
    struct history **p = &s->queue;
    while (*p && *p != h)
        p = &(*p)->next;
    assert(*p);
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
        history_queue_leave(h);
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

uint64_t history_merge(struct history *h)
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

size_t history_merge_waiting(struct database *db)
{
    size_t n = 0;
    pass_over(db);
    while (n < db->n_files && db->file[db->n_files - 1 - n].txid > db->merged[0])
        n++;
    return n >= INPUTS_MIN ? n : 0;
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

void history_sweep(struct history *h)
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
        log_line(LOG_WARN,
                 "%s: merged files wait for replicas and there is no more room for them: dropped; "
                 "level 0 has "
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
