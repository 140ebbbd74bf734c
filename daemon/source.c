#include "daemon/source.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/format/wal.h"
#include "daemon/position.h"

#define RANGE_LIMIT_BYTES (64u << 20)
#define EAGER_BYTES (16u << 20)
#define BARRIER_WAIT_MS 100
#define SETTLED_US 25000 /* file times are kept in steps of a few milliseconds */
#define FULL_TRIES 5
#define CYCLE_TRIES 2
#define LET_GO_FACTOR 2
#define IO_TRIES 2 /* failed jobs in a row before the database is opened anew */
#define TAIL_FRAMES 256 /* short enough to be dealt with while writers wait */

struct source {
    struct source_conf conf;
    char *path, *dir;
    struct spool_state spool;
    bool loaded;
    struct session *session;
    struct capture_pos pos;
    uint64_t txid;      /* last one given out */
    uint64_t published; /* last one in the spool */
    uint64_t lineage;
    int64_t last_stamp_ms;
    struct ltx_header tip; /* of the newest published file */
    struct capture_file out[SOURCE_MAX_FILES]; /* captured, not yet published */
    size_t n_out;
    struct capture_pos recorded; /* what the position file says */
    struct session_index last_look, guard_at, tried_at;
    unsigned failures; /* jobs in a row */
    struct source_counters count;
};

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

static void forget_out(struct source *s)
{
    for (size_t i = 0; i < s->n_out; i++)
        fsx_tmp_abort(&s->out[i].tmp);
    s->n_out = 0;
    s->txid = s->published;
}

struct source *source_free(struct source *s)
{
    if (!s)
        return NULL;
    forget_out(s);
    s->session = session_close(s->session);
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

/* An application that checkpoints with FULL, RESTART or TRUNCATE waits, with the write lock held, first
 * for our guard to see the last frame and then for it to reach slot 0. Neither wait may be long. */
static bool guard_is_old(struct source *s)
{
    struct session_index x;
    if (session_holds_checkpoints(s->session)) /* then theirs fail at once and wait for nothing */
        return false;
    if (session_peek(s->session, &x) < 0)
        return false;
    bool moved = x.n != s->guard_at.n || memcmp(x.salt, s->guard_at.salt, sizeof x.salt) != 0;
    return moved || (x.n == x.b && !(s->pos.restartable && capture_same_wal(&s->pos, &x)));
}

bool source_in_the_way(struct source *s)
{
    return s->session && s->pos.valid && guard_is_old(s);
}

bool source_news(struct source *s)
{
    struct session_index x;
    if (!s->session || !s->pos.valid || session_peek(s->session, &x) < 0)
        return true;
    return capture_behind(&s->pos, &x) > 0;
}

/* ---- capturing -------------------------------------------------------------------------------- */

static struct capture_opts next_file(struct source *s, char **path)
{
    int64_t now = clk_real_ms();
    s->last_stamp_ms = MAX(now, s->last_stamp_ms); /* a clock set back never reorders history */
    free(*path);
    *path = spool_path(s->dir, s->txid + 1);
    return (struct capture_opts){
        .path = *path,
        .min_txid = s->txid + 1,
        .max_txid = s->txid + 1,
        .timestamp_ms = s->last_stamp_ms,
        .lineage = s->lineage,
        .encoding = s->conf.encoding,
        .limit_bytes = RANGE_LIMIT_BYTES,
    };
}

static void keep_file(struct source *s, const struct capture_file *f)
{
    s->out[s->n_out++] = *f;
    s->txid = f->h.max_txid;
    s->count.captures++;
    s->count.frames += f->frames;
    s->count.pages += f->n_pages;
    s->count.bytes += f->size;
}

/* One more file of WAL frames: 0, or an outcome of capture_range; "full" when there is no room. */
enum { OUT_FULL = 16 };

static int capture_one(struct source *s, struct err *e)
{
    if (s->n_out == SOURCE_MAX_FILES)
        return OUT_FULL;
    cleanup_free char *path = NULL;
    struct capture_opts o = next_file(s, &path);
    struct capture_file f;
    int r = capture_range(s->session, &s->pos, &o, &f, e);
    if (r == 0)
        keep_file(s, &f);
    return r;
}

/* Everything that was committed when the call was made, and no race with a writer that never pauses:
 * 0, OUT_FULL, BROKEN or an error. */
static int capture_all(struct source *s, struct err *e)
{
    struct session_index x;
    int r = session_index(s->session, &x, e);
    /* a WAL shorter than the position is for capture_range to refuse */
    bool shorter = r == 0 && capture_same_wal(&s->pos, &x) && s->pos.frame > x.n;
    while (r == 0 && (shorter || !capture_same_wal(&s->pos, &x) || s->pos.frame < x.n)) {
        r = capture_one(s, e);
        shorter = false;
    }
    return r == CAPTURE_NOTHING ? 0 : r;
}

static int capture_everything(struct source *s, struct err *e)
{
    for (int tries = 0; tries < FULL_TRIES; tries++) {
        struct session_index x;
        int r = session_index(s->session, &x, e);
        if (r < 0)
            return r;
        cleanup_free char *path = NULL;
        struct capture_opts o = next_file(s, &path);
        struct capture_file f;
        r = capture_full(s->session, &x, &s->pos, &o, &f, e);
        if (r == CAPTURE_BROKEN)
            continue;
        if (r == 0) {
            keep_file(s, &f);
            s->count.fulls++;
        }
        return r;
    }
    return err_set(e, ERR_BUSY, "the WAL of %s was restarted under every attempt to read it", s->path);
}

/* ---- guards and checkpoints (the rules W1 to W6 of DESIGN.md) ---------------------------------- */

/* Take a new guard, then drop the old one. When N = B the new guard may have landed in slot 0, where
 * it does not stop the next writer from restarting the WAL: then everything must be captured before
 * the old guard goes. When N > B no restart is possible under either kind of guard, and frames that
 * are not captured yet are safe. 0, or BROKEN, or an error; a lock that is busy is no error, the old
 * guard simply stays. */
static int handover(struct source *s, struct err *e)
{
    struct session_index x, before; /* the guard sees at least what was there before it */
    int r = session_index(s->session, &before, e);
    if (r == 0)
        r = session_guard_next(s->session, e);
    if (r == SESSION_BUSY)
        return 0;
    if (r < 0)
        return r;
    for (;;) {
        r = session_index(s->session, &x, e);
        if (r < 0)
            break;
        bool same = s->pos.valid && capture_same_wal(&s->pos, &x);
        if (x.n != x.b) {
            if (same && capture_behind(&s->pos, &x))
                s->pos.restartable = false;
            break;
        }
        if (same && !capture_behind(&s->pos, &x)) {
            s->pos.restartable = true;
            break;
        }
        if (!same && !x.n && s->pos.valid && s->pos.restartable) {
            /* restarted by a transaction that was rolled back: an empty WAL with new salts */
            s->pos = (struct capture_pos){.valid = true,
                                          .salt = {x.salt[0], x.salt[1]},
                                          .pages = s->pos.pages,
                                          .restartable = true};
            break;
        }
        r = capture_one(s, e);
        if (r != 0)
            break;
    }
    if (r != 0) {
        session_guard_undo(s->session);
        return r == OUT_FULL || r == CAPTURE_NOTHING ? 0 : r;
    }
    session_guard_switch(s->session);
    s->guard_at = before;
    s->count.handovers++;
    return 0;
}

/* Copy the WAL into the database and leave the guard in slot 0, so that the next writer restarts the
 * WAL. *ret_done tells whether that came about; writers that kept going are the usual reason why
 * not. */
static int cycle(struct source *s, bool *ret_done, bool *ret_pinned, struct err *e)
{
    *ret_done = false;
    for (int tries = 0; tries < CYCLE_TRIES; tries++) {
        int r = handover(s, e);
        if (r != 0)
            return r;
        bool all = false;
        r = session_passive(s->session, &all, e);
        if (r != 0)
            return r == SESSION_BUSY ? 0 : r;
        s->count.checkpoints++;
        struct session_index x;
        r = session_index(s->session, &x, e);
        if (r < 0)
            return r;
        *ret_pinned = !all && x.n == s->pos.frame;
        if (x.n != x.b)
            continue;
        r = handover(s, e);
        if (r != 0)
            return r;
        if (s->pos.restartable) {
            *ret_done = true;
            s->count.restarts++;
            return 0;
        }
    }
    return 0;
}

/* Bring capture and copying so close to the end of the WAL that the rest is quick. The longer the WAL
 * already is, the fewer attempts: at several times the limit writers wait for all of it, because a
 * bound that gives way is none. */
static int shorten_tail(struct source *s, uint64_t wal_bytes, struct err *e)
{
    uint64_t over = wal_bytes / MAX(s->conf.wal_limit_bytes, (uint64_t)1);
    for (uint64_t tries = over; tries <= CYCLE_TRIES; tries++) {
        int r = capture_all(s, e);
        if (r != 0)
            return r == OUT_FULL ? 0 : r;
        struct session_index x;
        r = session_index(s->session, &x, e);
        if (r < 0 || x.n - x.b < TAIL_FRAMES)
            return r;
        bool all;
        r = handover(s, e);
        if (r == 0)
            r = session_passive(s->session, &all, e);
        if (r != 0)
            return r == SESSION_BUSY ? 0 : r;
        s->count.checkpoints++;
    }
    return 0;
}

/* Writers that never pause: hold them for the tail of the WAL, which is captured and copied while they
 * wait; then the next of them restarts the WAL. */
static int barrier(struct source *s, uint64_t wal_bytes, struct err *e)
{
    int r = shorten_tail(s, wal_bytes, e);
    if (r != 0 || s->n_out == SOURCE_MAX_FILES)
        return r;
    /* trying costs the application nothing; the longer the WAL, the more patience */
    unsigned patience = (unsigned)MIN(wal_bytes / MAX(s->conf.wal_limit_bytes, (uint64_t)1), (uint64_t)10);
    r = session_write_lock(s->session, BARRIER_WAIT_MS * MAX(patience, 1u), e);
    if (r != 0)
        return r == SESSION_BUSY ? 0 : r;
    uint64_t start = clk_mono_us();
    bool all = false;
    r = handover(s, e);
    if (r == 0)
        r = session_passive(s->session, &all, e);
    if (r == 0 && all)
        r = handover(s, e);
    session_write_unlock(s->session);
    uint64_t took = clk_mono_us() - start;
    s->count.barriers++;
    s->count.restarts += s->pos.valid && s->pos.restartable;
    s->count.barrier_us += took;
    s->count.barrier_max_us = MAX(s->count.barrier_max_us, took);
    return r == SESSION_BUSY ? 0 : r;
}

/* While commits pour in and the WAL is long, the checkpoints are ours alone. */
static void choose_checkpointer(struct source *s)
{
    struct session_index x;
    if (!s->session)
        return;
    if (session_index(s->session, &x, NULL) < 0) {
        session_hold_checkpoints(s->session, false); /* somebody has to recover it: not against our lock */
        return;
    }
    uint32_t news = x.salt[0] == s->last_look.salt[0] && x.n >= s->last_look.n
                        ? x.n - s->last_look.n
                        : x.n;
    s->last_look = x;
    bool drained = x.n == x.b && s->pos.restartable && !capture_behind(&s->pos, &x);
    bool hot = news >= s->conf.checkpoint_pages / 2;
    session_hold_checkpoints(s->session, hot || (!drained && x.n >= s->conf.checkpoint_pages));
}

/* ---- attach ----------------------------------------------------------------------------------- */

/* Continuity is gone: say why, take everything. */
static int start_over(struct source *s, struct source_result *ret, const char *why, struct err *e)
{
    s->pos.valid = false;
    if (why) {
        ret->broken = true;
        s->count.broken++;
        (void)snprintf(ret->why, sizeof ret->why, "%s", why);
    }
    if (s->n_out == SOURCE_MAX_FILES) {
        ret->more = true;
        return 0;
    }
    int r = capture_everything(s, e);
    if (r == CAPTURE_NOTHING)
        return 0; /* no page yet */
    return r;
}

/* The frame at the recorded position carries the recorded running checksum: the frames up to it are
 * the ones that were captured, however many processes died meanwhile. */
static bool frame_is_ours(struct source *s, const struct position *p)
{
    if (!p->pos.frame)
        return true;
    uint8_t h[WAL_FRAME_HEADER_SIZE];
    uint64_t off = wal_frame_off(session_page_size(s->session), p->pos.frame);
    if (session_wal_read(s->session, off, h, sizeof h, NULL) < 0)
        return false;
    struct wal_frame f = wal_frame_parse(h);
    return f.commit == p->pos.pages && !memcmp(f.salt, p->pos.salt, sizeof f.salt) &&
           !memcmp(f.cksum, p->pos.cksum, sizeof f.cksum);
}

/* Go on where an earlier process stopped, if that can be proven under the guard just taken. Same
 * salts: the WAL was not restarted, so every frame after the position is still in it. Other salts:
 * it was restarted; if the database file was not written since everything was in it, nothing that is
 * missing here can have been copied and overwritten, so the new WAL has it all. Anything else leaves
 * the position invalid, and the whole database is captured. */
static int resume(struct source *s, struct err *e)
{
    struct position p;
    struct session_index x;
    struct stat st;
    if (!position_read(s->dir, &p) || p.txid != s->published || p.lineage != s->lineage)
        return 0;
    int r = session_index(s->session, &x, e);
    if (r < 0 || session_stat(s->session, &st) < 0 || !position_same_file(&p, &st))
        return r;
    bool untouched = p.drained && position_same_content(&p, &st);
    if (capture_same_wal(&p.pos, &x)) {
        bool news = x.n > p.pos.frame;
        if (x.n < p.pos.frame || !frame_is_ours(s, &p) || (p.drained && !news && !untouched))
            return 0;
        s->pos = p.pos;
        s->pos.restartable = x.n == x.b && !news;
    } else if (untouched) {
        s->pos = (struct capture_pos){
            .valid = true, .salt = {x.salt[0], x.salt[1]}, .pages = p.pos.pages,
            .restartable = !x.n};
    }
    s->count.resumed += s->pos.valid;
    return 0;
}

static int attach(struct source *s, struct source_result *ret, struct err *e)
{
    int r = session_open(s->path, &s->session, e);
    switch (r) {
    case SESSION_MISSING:
    case SESSION_EMPTY:
        ret->state = SOURCE_WAITING;
        return r;
    case SESSION_NOT_WAL:
        ret->state = SOURCE_NOT_WAL;
        return r;
    case SESSION_BUSY:
        ret->state = SOURCE_BUSY;
        return r;
    default:
        if (r < 0)
            return r;
    }
    s->pos = (struct capture_pos){.valid = false};
    r = resume(s, e);
    return r < 0 ? r : 0;
}

/* The file under the path is not the one that is open any more: another database, another history. */
static void check_identity(struct source *s, struct source_result *ret)
{
    if (!s->session || !session_moved(s->session))
        return;
    forget_out(s);
    s->session = session_close(s->session);
    s->lineage = 0;
    ret->broken = true;
    (void)snprintf(ret->why, sizeof ret->why, "%s was replaced or removed", s->path);
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
    if (ret->snapshot.txid < txid)
        return;
    (void)spool_drop_snapshot(s->dir, ret->snapshot.txid, NULL);
    ret->snapshot = (struct spool_file){.txid = 0};
}

/* fsync comes here, after the guards are settled: nobody waits for our disk under a lock. A file that
 * cannot be made durable was not captured. */
static int publish(struct source *s, struct source_result *ret, struct err *e)
{
    for (size_t i = 0; i < s->n_out; i++) {
        struct capture_file *f = &s->out[i];
        int r = fsx_tmp_publish(&f->tmp, 0, e);
        if (r < 0) {
            unpublish(s, f->h.max_txid, ret, e);
            forget_out(s); /* the rest follows a gap: gone as well */
            s->pos.valid = false;
            return err_wrap(e, "spool of %s", s->path);
        }
        s->published = f->h.max_txid;
        s->tip = f->h;
        ret->file[ret->n_files++] =
            (struct spool_file){f->h.max_txid, f->size, f->h.timestamp_ms};
    }
    s->n_out = 0;
    return 0;
}

/* What a later process needs to know to go on from here. Cheap enough for every capture: it is not
 * synced, and worthless only after a power cut. */
static void record(struct source *s)
{
    const struct capture_pos *old = &s->recorded, *now = &s->pos;
    if (!s->session || !now->valid || s->n_out || !s->published ||
        (old->valid && !memcmp(old->salt, now->salt, sizeof now->salt) && old->frame == now->frame &&
         !memcmp(old->cksum, now->cksum, sizeof now->cksum) && old->pages == now->pages &&
         old->restartable == now->restartable))
        return;
    struct position p = {.txid = s->published, .lineage = s->lineage, .pos = s->pos};
    struct stat st;
    if (session_stat(s->session, &st) < 0)
        return;
    position_stat(&p, &st);
    if (position_write(s->dir, &p, false, NULL) == 0)
        s->recorded = s->pos;
}

/* Detach so that the next attach can prove that nothing was missed: everything captured, copied, the
 * guard in slot 0, and the file's last change old enough to be told from a later one. */
static void detach(struct source *s, struct source_result *ret)
{
    struct err e;
    bool done = false, pinned;
    if (!s->session || !s->pos.valid || s->n_out || !s->published)
        return;
    struct session_index x;
    bool drained = session_index(s->session, &x, &e) == 0 && x.n == x.b &&
                   !capture_behind(&s->pos, &x) && s->pos.restartable;
    if (!drained && (cycle(s, &done, &pinned, &e) != 0 || publish(s, ret, &e) < 0 || !done)) {
        record(s);
        return;
    }
    struct position p = {.txid = s->published, .lineage = s->lineage, .pos = s->pos};
    for (int i = 0; i < 2; i++) {
        struct stat st;
        if (session_stat(s->session, &st) < 0 || session_index(s->session, &x, &e) < 0 ||
            x.n != x.b || capture_behind(&s->pos, &x) || !capture_same_wal(&s->pos, &x))
            return;
        position_stat(&p, &st);
        if (!i)
            (void)usleep(SETTLED_US);
    }
    p.drained = clk_real_ms() >= p.mtime_ns / 1000000 + SETTLED_US / 1000;
    (void)position_write(s->dir, &p, true, NULL);
}

/* A base for a replica that has none: the state of the newest TXID, as one file from TXID 1. */
static bool newest_at_hand(const struct source *s)
{
    if (s->n_out)
        return true;
    cleanup_free char *path = spool_path(s->dir, s->txid);
    return access(path, F_OK) == 0;
}

/* The replica also needs the level 0 file of the base's TXID (uploader.c says why). When that one is
 * gone from the spool, a file that changes nothing takes the next TXID. */
static int touch(struct source *s, const struct session_index *x, struct err *e)
{
    cleanup_free char *path = NULL;
    struct capture_opts o = next_file(s, &path);
    o.touch = true;
    struct capture_pos pos = s->pos;
    struct capture_file f;
    int r = capture_full(s->session, x, &pos, &o, &f, e);
    if (r == 0)
        keep_file(s, &f);
    return r;
}

static int snapshot(struct source *s, struct source_result *ret, struct err *e)
{
    int r = session_guard_next(s->session, e);
    if (r != 0)
        return r == SESSION_BUSY ? 0 : r;
    struct session_index x;
    for (int tries = 0;; tries++) {
        r = capture_all(s, e);
        if (r == 0)
            r = session_index(s->session, &x, e);
        if (r != 0 || !capture_behind(&s->pos, &x) || tries >= 20)
            break;
    }
    if (r == 0 && capture_behind(&s->pos, &x))
        r = OUT_FULL;
    if (r == 0 && !newest_at_hand(s))
        r = touch(s, &x, e);
    if (r == 0) {
        cleanup_free char *path = spool_snapshot_path(s->dir, s->txid);
        struct capture_opts o = {.path = path,
                                 .min_txid = 1,
                                 .max_txid = s->txid,
                                 .timestamp_ms = s->last_stamp_ms,
                                 .lineage = s->lineage,
                                 .encoding = s->conf.encoding};
        struct capture_pos pos = s->pos;
        struct capture_file f;
        r = capture_full(s->session, &x, &pos, &o, &f, e);
        if (r == 0)
            r = fsx_tmp_publish(&f.tmp, FSX_REPLACE, e);
        if (r == 0)
            ret->snapshot = (struct spool_file){s->txid, f.size, o.timestamp_ms};
    }
    session_guard_undo(s->session);
    if (r == OUT_FULL || r == CAPTURE_NOTHING || r == CAPTURE_BROKEN) {
        ret->more = true; /* the manager asks again */
        return 0;
    }
    return r;
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
    }
    return 0;
}

static int capture_job(struct source *s, struct source_result *ret, struct err *e)
{
    int r = capture_all(s, e);
    if (r == OUT_FULL)
        ret->more = true;
    else if (r == CAPTURE_BROKEN)
        return start_over(s, ret, "the WAL changed without us (locks lost, or -shm replaced)", e);
    else if (r != 0)
        return r;
    return handover(s, e);
}

static int look_after_wal(struct source *s, const struct source_job *job,
                          struct source_result *ret, struct err *e)
{
    struct session_index x;
    int r = session_index(s->session, &x, e);
    if (r < 0 || !x.n)
        return r;
    bool drained = s->pos.restartable && x.n == x.b && !capture_behind(&s->pos, &x);
    if (drained)
        return 0;
    uint64_t bytes = x.n * wal_frame_size(x.page_size);
    if (bytes >= s->conf.wal_limit_bytes)
        return barrier(s, bytes, e);
    /* An attempt that found writers at work is repeated when the WAL has grown by half again: each one
     * costs two fsyncs. */
    bool same = x.salt[0] == s->tried_at.salt[0] && x.salt[1] == s->tried_at.salt[1];
    uint64_t next = same ? s->tried_at.n + MAX(s->conf.checkpoint_pages, (uint64_t)s->tried_at.n / 2)
                         : s->conf.checkpoint_pages;
    if (x.n < next && !job->settle)
        return 0;
    bool done = false;
    r = cycle(s, &done, &ret->pinned, e);
    s->tried_at = x;
    return r;
}

/* A WAL that grows fast is captured in pieces, whatever the sync interval says: the barrier must not find
 * a long tail. */
static bool far_behind(struct source *s)
{
    struct session_index x;
    return session_index(s->session, &x, NULL) == 0 &&
           capture_behind(&s->pos, &x) * wal_frame_size(x.page_size) >= EAGER_BYTES;
}

static int attached_job(struct source *s, const struct source_job *job, struct source_result *ret,
                        struct err *e)
{
    int r = 0;
    if (!s->pos.valid) {
        r = start_over(s, ret, NULL, e);
        if (r == 0 && s->pos.valid)
            r = handover(s, e);
    } else if (job->capture || job->snapshot || far_behind(s)) {
        r = capture_job(s, ret, e);
    }
    if (r == 0 && s->pos.valid && guard_is_old(s))
        r = handover(s, e);
    if (r == 0 && s->pos.valid)
        r = look_after_wal(s, job, ret, e);
    if (r == CAPTURE_BROKEN)
        r = start_over(s, ret, "the WAL was restarted before its end was captured", e);
    if (r == 0 && job->snapshot && s->pos.valid && s->txid)
        r = snapshot(s, ret, e);
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

/* A positive return is an outcome that ret already tells. */
static int run(struct source *s, const struct source_job *job, struct source_result *ret,
               struct err *e)
{
    if (!s->loaded || job->load) {
        int r = load(s, e);
        if (r < 0 || job->load)
            return r;
    }
    /* first of all: if one of the steps below fails, this must not be forgotten */
    if (job->next_txid > s->txid + 1) {
        s->txid = s->published = job->next_txid - 1;
        s->pos.valid = false;
    }
    if (job->drop_last) {
        int r = spool_drop(s->dir, &s->tip, job->drop_first, job->drop_last, e);
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
    check_identity(s, ret);
    while (!s->lineage)
        util_random(&s->lineage, sizeof s->lineage);
    int r = s->session ? 0 : attach(s, ret, e);
    if (r == 0)
        r = attached_job(s, job, ret, e);
    return r < 0 ? r : 0;
}

/* While nothing can be captured the guard makes the application's WAL grow. Its disk is worth more than
 * our continuity. */
static bool wal_too_long(struct source *s)
{
    struct session_index x;
    return s->session && session_index(s->session, &x, NULL) == 0 &&
           x.n * wal_frame_size(x.page_size) >= LET_GO_FACTOR * s->conf.wal_limit_bytes;
}

/* Letting go of the guard costs a read of the whole database. What may be gone with the next attempt (no
 * memory, no descriptor, no space) does not justify that; a handle that keeps failing does, and a WAL
 * that gets too long. */
static bool needs_new_session(struct source *s, enum err_code code)
{
    s->failures++;
    switch (code) {
    case ERR_BUSY:
        return wal_too_long(s);
    case ERR_NOSPC:
    case ERR_NOMEM:
    case ERR_IO:
        return s->failures >= IO_TRIES || wal_too_long(s);
    default:
        return true;
    }
}

void source_run(struct source *s, const struct source_job *job, struct source_result *ret)
{
    *ret = (struct source_result){.state = SOURCE_LOADED};
    if (job->detach) {
        detach(s, ret);
        s->session = session_close(s->session);
        return;
    }
    int r = run(s, job, ret, &ret->err);
    choose_checkpointer(s);
    struct err pe;
    err_clear(&pe);
    if (publish(s, ret, &pe) < 0 && r == 0) {
        ret->err = pe;
        r = -(int)pe.code;
    }
    record(s);
    if (r == 0) {
        err_clear(&ret->err);
        s->failures = 0;
    } else if (needs_new_session(s, ret->err.code)) {
        s->session = session_close(s->session); /* the next attempt starts from a clean attach */
    }
    describe(s, ret);
}
