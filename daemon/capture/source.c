#include "daemon/capture/source_int.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "daemon/os/busfault.h"

#define RANGE_LIMIT_BYTES (64u << 20)
#define CLOCK_SLACK_MS 60000
#define CLOCK_SANE_MS 1704067200000 /* 2024: no walsup is older */
#define IO_TRIES 2 /* failed jobs in a row before the database is opened anew */

struct source *source_new(const struct source_conf *c)
{
    struct source *s = util_zalloc(sizeof *s);
    s->path = util_strdup(c->path);
    s->dir = util_strdup(c->dir);
    source_reconf(s, c);
    return s;
}

void source_reconf(struct source *s, const struct source_conf *c)
{
    s->conf = *c;
    s->conf.path = s->path;
    s->conf.dir = s->dir;
}

void source_set_without(struct source *s, unsigned mask)
{
    s->without = mask;
}

void source_forget_out(struct source *s)
{
    for (size_t i = 0; i < s->n_out; i++)
        fsx_tmp_abort(&s->out[i].tmp);
    if (s->n_out)
        source_map_forget(s); /* it knows them already */
    s->n_out = 0;
    s->txid = s->published;
}

/* The map goes with it: nothing that is not attached costs a descriptor. */
void source_close_session(struct source *s)
{
    s->session = session_close(s->session);
    s->still.valid = false;
    if (s->n_out)
        return;
    source_map_forget(s);
    s->no_map = false;
}

struct source *source_free(struct source *s)
{
    if (!s)
        return NULL;
    source_forget_out(s);
    source_map_forget(s);
    source_close_session(s);
    source_unlock(s);
    free(s->out);
    spool_state_done(&s->spool);
    free(s->path);
    free(s->dir);
    free(s);
    return NULL;
}

const struct spool_state *source_spool(const struct source *s)
{
    return &s->spool;
}

/* ---- captured, not yet published ---------------------------------------------------------------- */

/* The time of the next file. A clock that steps back a little repeats the last time until that is over. If it is set back
 * by more, it was ahead before, and time goes back with it: else a clock that was ahead once, by years, would stand still for
 * all of them. The first file after that is on record in all that follow, so that whoever looks for a time finds it. A
 * clock of the past, as of a machine without a battery before it has asked for the time, is not believed. */
static void stamp(struct source *s)
{
    int64_t now = clk_real_ms(), back = s->last_stamp_ms - now;
    bool another = s->stamped != s->lineage; /* what was before may have had another clock */
    if (back > CLOCK_SLACK_MS && now >= CLOCK_SANE_MS) {
        char dur[32];
        log_line(LOG_WARN, "%s: the clock was set back by %s: commits from TXID %016" PRIx64 " on have earlier times than some "
                 "before them (walsupctl points shows where)", s->path, util_duration(dur, (uint64_t)back), s->txid + 1);
        another = true;
        s->last_stamp_ms = now;
    }
    if (another && s->txid)
        s->clock_txid = s->txid + 1;
    s->stamped = s->lineage;
    s->last_stamp_ms = MAX(now, s->last_stamp_ms);
}

struct capture_opts source_next_file(struct source *s, char **path)
{
    stamp(s);
    free(*path);
    *path = spool_path(s->dir, s->txid + 1);
    return (struct capture_opts){
        .path = *path,
        .min_txid = s->txid + 1,
        .max_txid = s->txid + 1,
        .timestamp_ms = s->last_stamp_ms,
        .clock_txid = s->clock_txid,
        .lineage = s->lineage,
        .encoding = s->conf.encoding,
        .limit_bytes = RANGE_LIMIT_BYTES,
        .dir = s->dir,
        .min_free_bytes = s->conf.min_free_bytes,
    };
}

void source_keep_file(struct source *s, const struct capture_file *f)
{
    if (!s->out)
        s->out = util_alloc(SOURCE_MAX_FILES * sizeof *s->out);
    if (f->checksum) /* for uploads after a restart; a file system without them only makes those poorer */
        spool_mark(f->tmp.fd, f->checksum);
    s->out[s->n_out++] = *f;
    s->txid = f->h.max_txid;
    s->count.captures++;
    s->count.frames += f->frames;
    s->count.pages += f->n_pages;
    s->count.bytes += f->size;
}

/* ---- publishing ------------------------------------------------------------------------------- */

/* The TXID will be given out again, so nothing may be left that carries it: not the file, should it have
 * got its name before the directory could not be synced, and not a base made up to it. */
static void unpublish(struct source *s, uint64_t txid, struct source_result *ret,
                      const struct err *why)
{
    cleanup_free char *path = spool_path(s->dir, txid);
    if (why->code != ERR_EXISTS)
        (void)fsx_unlink(path, NULL);
    if (ret->stream && snapshot_info(ret->stream)->txid >= txid)
        ret->stream = snapshot_free(ret->stream);
    if (ret->snapshot.txid < txid)
        return;
    (void)spool_drop_snapshot(s->dir, ret->snapshot.txid, NULL);
    ret->snapshot = (struct spool_file){.txid = 0};
}

/* fsync comes here, after the guards are settled: nobody waits for our disk under a lock. A file that
 * cannot be made durable was not captured. */
int source_publish(struct source *s, struct source_result *ret, struct err *e)
{
    for (size_t i = 0; i < s->n_out; i++) {
        struct capture_file *f = &s->out[i];
        int r = fsx_tmp_publish(&f->tmp, 0, e);
        if (r < 0) {
            unpublish(s, f->h.max_txid, ret, e);
            source_forget_out(s); /* the rest follows a gap: gone as well */
            s->pos.valid = false;
            return err_wrap(e, "spool of %s", s->path);
        }
        s->published = f->h.max_txid;
        s->tip = f->h;
        s->tip_checksum = f->checksum;
        s->bytes_since_sync += f->size;
        ret->file[ret->n_files++] =
            (struct spool_file){f->h.max_txid, f->size, f->h.timestamp_ms, f->checksum, f->h.node_id,
                                f->n_pages == ltx_pages(&f->h)};
    }
    s->n_out = 0;
    if (ret->n_files)
        source_map_published(s, ret);
    return 0;
}

/* ---- the job ---------------------------------------------------------------------------------- */

static int load(struct source *s, struct err *e)
{
    spool_state_done(&s->spool);
    int r = spool_open(s->dir, &s->spool, e);
    if (r < 0)
        return r;
    s->loaded = true;
    if (s->spool.has_tip) {
        s->tip = s->spool.tip;
        s->txid = s->published = s->tip.max_txid;
        s->lineage = s->tip.node_id;
        s->last_stamp_ms = s->tip.timestamp_ms;
        s->clock_txid = s->tip.clock_txid;
        s->stamped = s->tip.node_id;
        s->tip_checksum = s->spool.tip_checksum;
    }
    return 0;
}

/* A guard that is recent enough needs no successor. With the second connection that is opened for it, it would be the
 * dearer part of a short wake-up, and in the way of an application that has committed and closes at once: then a little
 * later. */
static int renew_guard(struct source *s, const struct source_job *job, struct source_result *ret, struct err *e)
{
    ret->old_guard = !job->assist && !job->settle && session_alone_guard(s->session);
    return ret->old_guard ? 0 : source_handover(s, e);
}

/* What CAPTURE_BROKEN means: nothing, if an application's last close came in between. */
static int broken(struct source *s, struct source_result *ret, const char *why, struct err *e)
{
    return source_closed_over(s, ret) ? 0 : source_start_over(s, ret, why, e);
}

static int capture_job(struct source *s, const struct source_job *job, struct source_result *ret, struct err *e)
{
    int r = source_capture_all(s, e);
    if (r == OUT_FULL)
        ret->more = true;
    else if (r == CAPTURE_BROKEN)
        return broken(s, ret, "the WAL changed without us (locks lost, or -shm replaced)", e);
    else if (r != 0)
        return r;
    bool old = session_holds_checkpoints(s->session) || source_guard_is_old(s);
    return old ? renew_guard(s, job, ret, e) : 0;
}

static void take_unexplained(struct source *s, const struct source_job *job)
{
    if (job->unexplained)
        s->unexplained_since_ms = s->unexplained ? MIN(s->unexplained_since_ms, job->unexplained_since_ms)
                                                 : job->unexplained_since_ms;
    s->unexplained = s->unexplained || job->unexplained;
}

static int attached_job(struct source *s, const struct source_job *job, struct source_result *ret,
                        struct err *e)
{
    int r = 0;
    long pid;
    bool unlike = source_changed_unexplained(s);
    if (source_shut_out(s, ret))
        return 0;
    s->unexplained = false;
    source_stand_aside(s);
    source_map_load(s);
    if (s->pos.valid && job->distrust && !s->folded.proven)
        return source_start_over(s, ret, "pages of the file changed without SQLite's WAL", e);
    bool last = job->file_was_last && source_written_last(s);
    if (s->pos.valid && (source_tampered(s) || last)) {
        bool left = s->still.left;
        if (source_replaced(s, ret, last))
            return source_attach(s, ret, e); /* as soon as it is complete */
        r = source_start_over(s, ret, "the file was written by something else than SQLite", e);
        s->times_move = s->times_move || (left && r == 0 && ret->compared && !ret->differ);
        return r;
    }
    if (s->pos.valid && unlike)
        return source_start_over(s, ret, "something else than SQLite wrote into the file before the last commits", e);
    if (!s->still.valid) /* for what is copied over it during this job */
        source_stand_still(s, NULL);
    if (!s->pos.valid) {
        r = source_start_over(s, ret, NULL, e);
        if (r == 0 && s->pos.valid)
            r = renew_guard(s, job, ret, e);
    } else if (job->capture || job->snapshot || source_far_behind(s)) {
        r = capture_job(s, job, ret, e);
    }
    if (!s->session)
        return r;
    if (r == 0 && s->pos.valid && !ret->old_guard && source_guard_is_old(s))
        r = source_handover(s, e);
    if (job->closed) {
        enum session_company company = session_company(s->session, &pid);
        ret->alone = company == SESSION_ALONE;
        ret->elsewhere = company == SESSION_ELSEWHERE;
    }
    if (r == 0 && s->pos.valid)
        r = source_look_after_wal(s, job, ret, e);
    if (r == 0 && job->audit)
        source_audit(s, ret);
    if (!s->session)
        return r;
    s->waited_for = source_is_waited_for(s);
    /* a guard that was given less than there was is soon in the way, and no event would tell */
    ret->old_guard = ret->old_guard || session_guard_behind(s->session, s->guard_at.n) || s->waited_for;
    if (r == CAPTURE_BROKEN)
        r = broken(s, ret, "the WAL was restarted before its end was captured", e);
    if (!s->session)
        return r;
    if (r == 0 && job->snapshot && s->pos.valid && s->txid)
        r = source_snapshot(s, ret, job->base, e);
    if (r != 0 && ret->stream)
        ret->stream = snapshot_free(ret->stream);
    if (r == 0 && job->settle && s->no_map && s->pos.valid && s->txid)
        r = source_map_survey(s, ret, e);
    return r;
}

static void describe(struct source *s, struct source_result *ret)
{
    ret->txid = s->published;
    ret->lineage = s->lineage;
    ret->count = s->count;
    if (!s->session)
        return;
    ret->state = SOURCE_ATTACHED;
    struct session_index x;
    if (session_index(s->session, &x, NULL) < 0)
        return;
    uint64_t frame = wal_frame_size(x.page_size);
    ret->page_size = x.page_size;
    ret->pages = x.pages;
    ret->wal_bytes = x.n * frame;
    ret->pending_bytes = capture_behind(&s->pos, &x) * frame;
    ret->drained = s->pos.valid && s->pos.restartable && x.n == x.b && !ret->pending_bytes;
}

/* Files of somebody else carry the next TXIDs: go on behind them, with a whole database, since nothing of
 * ours precedes it there. */
static void renumber(struct source *s, uint64_t next, struct source_result *ret)
{
    s->txid = s->published = next - 1;
    s->pos.valid = false;
    source_map_drop(s, ret, NULL);
}

static int drop(struct source *s, const struct source_job *job, struct source_result *ret, struct err *e)
{
    source_map_sync(s, ret); /* what it would need to be redone goes away */
    return spool_drop(s->dir, &s->tip, s->tip_checksum, job->drop_first, job->drop_last, e);
}

/* A positive return is an outcome that ret already tells. */
static int run(struct source *s, const struct source_job *job, struct source_result *ret,
               struct err *e)
{
    if (!job->load) { /* the loop thread has its copy */
        free(s->spool.file);
        s->spool.file = NULL;
        s->spool.n = 0;
    }
    if (!s->loaded || job->load) {
        int r = load(s, e);
        if (r == 0 && job->load && job->doze && source_asleep(s))
            ret->state = SOURCE_ASLEEP;
        if (r < 0 || job->load)
            return r;
    }
    /* first of all: if one of the steps below fails, this must not be forgotten */
    if (job->next_txid > s->txid + 1)
        renumber(s, job->next_txid, ret);
    if (job->drop_last) {
        int r = drop(s, job, ret, e);
        if (r < 0)
            return r;
    }
    if (job->drop_snapshot) {
        int r = spool_drop_snapshot(s->dir, job->drop_snapshot, e);
        if (r < 0)
            return r;
    }
    if (job->new_lineage)
        s->lineage = 0;
    s->folded.proven = s->folded.rest = false;
    take_unexplained(s, job);
    source_check_identity(s, ret);
    if (s->unexplained && !s->session) /* the record may be of later */
        position_remove(s->dir);
    s->unexplained = s->unexplained && s->session;
    while (!s->lineage)
        util_random(&s->lineage, sizeof s->lineage);
    if (!s->session && job->stay_away) {
        if (job->audit && source_audit_asleep(s))
            ret->doubt = SOURCE_DOUBT_UNSEEN;
        ret->audited = job->audit;
        return 0;
    }
    bool doze = job->doze || (s->folded.rest && !job->snapshot);
    if (!s->session && doze && source_asleep(s) && !(job->audit && source_audit_asleep(s))) {
        ret->state = SOURCE_ASLEEP;
        ret->audited = job->audit;
        return 0;
    }
    int r = fsx_room(s->dir, s->conf.min_free_bytes, e);
    ret->low_space = r < 0;
    if (r == 0 && !s->session)
        r = source_attach(s, ret, e);
    if (r == 0 && s->session)
        r = attached_job(s, job, ret, e);
    return r < 0 ? r : 0;
}

/* Letting go of the guard costs a read of the whole database. What may be gone with the next attempt (no
 * memory, no descriptor, no space) does not justify that; a handle that keeps failing does, and a WAL
 * that gets too long. */
static bool needs_new_session(struct source *s, enum err_code code)
{
    s->failures++;
    switch (code) {
    case ERR_BUSY:
        return source_wal_too_long(s);
    case ERR_NOSPC:
    case ERR_NOMEM:
    case ERR_IO:
        return s->failures >= IO_TRIES || source_wal_too_long(s);
    default:
        return true;
    }
}

/* What was captured since may be anything. */
static int lost_to_a_fault(struct source *s, struct err *e)
{
    source_forget_out(s);
    source_close_session(s);
    s->pos.valid = false;
    s->changed_under_us = true;
    position_remove(s->dir);
    err_set(e, ERR_CORRUPT, "%s-shm was truncated while it was in use", s->path);
    return err_hint(e, "whoever did that can damage the database: it belongs to SQLite alone");
}

void source_run(struct source *s, const struct source_job *job, struct source_result *ret)
{
    *ret = (struct source_result){.state = SOURCE_LOADED};
    (void)busfault_taken(); /* of an earlier job, by a file of the spool */
    if (job->detach) {
        take_unexplained(s, job);
        source_detach(s, job, ret);
        if (s->session && session_faulted(s->session))
            (void)lost_to_a_fault(s, &ret->err);
        if (job->drop_last)
            (void)drop(s, job, ret, &ret->err);
        if (job->drop_snapshot)
            (void)spool_drop_snapshot(s->dir, job->drop_snapshot, NULL);
        if (!ret->stays)
            source_close_session(s);
        describe(s, ret);
        return;
    }
    int r = run(s, job, ret, &ret->err);
    if (s->session && session_faulted(s->session)) {
        r = lost_to_a_fault(s, &ret->err);
    } else {
        source_choose_checkpointer(s);
    }
    struct err pe;
    err_clear(&pe);
    if (source_publish(s, ret, &pe) < 0 && r == 0) {
        ret->err = pe;
        r = -(int)pe.code;
    }
    source_record(s);
    if (job->copy_map && r == 0)
        source_map_copy(s, ret);
    source_seal(s);
    if (!source_foreign_write(s)) /* there was a checkpoint, so that it says nothing any more */
        source_stand_still(s, NULL);
    if (r == 0) {
        err_clear(&ret->err);
        s->failures = 0;
    } else if (needs_new_session(s, ret->err.code)) {
        source_close_session(s); /* the next attempt starts from a clean attach */
    }
    if (!s->session)
        source_close_session(s);
    describe(s, ret);
}

