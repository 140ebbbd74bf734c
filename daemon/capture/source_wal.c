#include "daemon/capture/session_os.h"
#include "daemon/capture/source_int.h"

#define EAGER_BYTES (16u << 20)
#define BARRIER_WAIT_MS 100
#define CYCLE_TRIES 2
#define HANDOVER_TRIES 5
#define LET_GO_FACTOR 2
#define SLOW_SYNC_US 700000 /* a disk so slow is no place to make others wait */
#define SLOW_MS 10000
#define MOVE_ON_MS 150 /* SQLite asks again for a mark that it waits for every 100 ms at least */
#define HOLD_WAIT_MS 20 /* several writers leave no gap */
/* Then the write lock, for which whoever has no busy timeout does not wait: at so many times the limit, or if there are
 * several writers, who meet each other's lock as well. */
#define FORCE_FACTOR 4
#define TAIL_FRAMES 256 /* short enough to be dealt with while writers wait */

/* An application that checkpoints with FULL, RESTART or TRUNCATE waits, with the write lock held, first
 * for our guard to see the last frame and then for it to reach slot 0. Neither wait may be long. */
bool source_guard_is_old(struct source *s)
{
    struct session_index x;
    if (session_holds_checkpoints(s->session)) /* then theirs fail at once and wait for nothing */
        return false;
    if (session_peek(s->session, &x) < 0)
        return false;
    bool waited_for = s->waited_for && clk_mono_ms() >= s->guard_ms + MOVE_ON_MS;
    bool moved = waited_for || session_guard_behind(s->session, x.n) || x.n != s->guard_at.n || memcmp(x.salt, s->guard_at.salt, sizeof x.salt) != 0;
    return moved || (x.n == x.b && !(s->pos.restartable && capture_same_wal(&s->pos, &x)));
}

bool source_is_waited_for(struct source *s)
{
    struct session_index x;
    return !session_holds_checkpoints(s->session) && session_index(s->session, &x, NULL) == 0 && x.n != x.b &&
           session_checkpointer(s->session);
}

bool source_in_the_way(struct source *s)
{
    return s->session && s->pos.valid && source_guard_is_old(s);
}

bool source_news(struct source *s)
{
    struct session_index x;
    if (!s->session || !s->pos.valid || session_peek(s->session, &x) < 0)
        return true;
    return capture_behind(&s->pos, &x) > 0;
}

/* An attempt that found writers at work is repeated when the WAL has grown by half again: each one costs
 * two fsyncs. */
static uint64_t next_cycle(const struct source *s, const struct session_index *x)
{
    bool same = x->salt[0] == s->tried_at.salt[0] && x->salt[1] == s->tried_at.salt[1];
    return same ? s->tried_at.n + MAX(s->conf.checkpoint_pages, (uint64_t)s->tried_at.n / 2)
                : s->conf.checkpoint_pages;
}

bool source_wants_look(struct source *s)
{
    struct session_index x;
    if (!s->session || !s->pos.valid || session_peek(s->session, &x) < 0)
        return true;
    return capture_behind(&s->pos, &x) * wal_frame_size(x.page_size) >= EAGER_BYTES ||
           x.n * wal_frame_size(x.page_size) >= s->conf.wal_limit_bytes || x.n >= next_cycle(s, &x) ||
           x.n - MIN(x.n, s->last_look.n) >= s->conf.checkpoint_pages / 2 || source_guard_is_old(s);
}

/* ---- frames ----------------------------------------------------------------------------------- */

static bool fair_restart(struct source *s, const struct capture_pos *before)
{
    struct session_index x = {.n = s->pos.frame, .page_size = session_page_size(s->session),
                              .salt = {s->pos.salt[0], s->pos.salt[1]}};
    bool fair = capture_same_wal(before, &x) || source_restarted(s, before, &x);
    s->pos.valid = fair;
    return fair;
}

/* One more file of WAL frames: 0, or an outcome of capture_range; "full" when there is no room. */
int source_capture_one(struct source *s, const struct session_index *end, struct err *e)
{
    if (s->n_out == SOURCE_MAX_FILES)
        return OUT_FULL;
    cleanup_free char *path = NULL;
    struct capture_opts o = source_next_file(s, &path);
    o.map = s->map;
    o.end = end;
    struct capture_file f;
    struct capture_pos before = s->pos;
    int r = capture_range(s->session, &s->pos, &o, &f, e);
    if (r == 0 && !fair_restart(s, &before)) {
        fsx_tmp_abort(&f.tmp);
        r = CAPTURE_BROKEN;
    }
    if (r == 0)
        source_keep_file(s, &f);
    else if (r != CAPTURE_NOTHING)
        source_map_forget(s);
    return r;
}

int source_capture_all(struct source *s, struct err *e)
{
    struct session_index x;
    int r = session_index(s->session, &x, e);
    /* a WAL shorter than the position is for capture_range to refuse */
    bool shorter = r == 0 && capture_same_wal(&s->pos, &x) && s->pos.frame > x.n;
    while (r == 0 && (shorter || !capture_same_wal(&s->pos, &x) || s->pos.frame < x.n)) {
        r = source_capture_one(s, NULL, e);
        shorter = false;
    }
    return r == CAPTURE_NOTHING ? 0 : r;
}

/* ---- guards and checkpoints (the rules W1 to W6 of DESIGN.md) ---------------------------------- */

/* To the beginning of a WAL that was restarted, while the guard in slot 0 still keeps everybody from copying any of it: the
 * next guard does not, and then the file has changed. */
static bool follow_restart(struct source *s, const struct session_index *x)
{
    if (!s->pos.valid || !s->pos.restartable || capture_same_wal(&s->pos, x))
        return true;
    if (!source_restarted(s, &s->pos, x))
        return false;
    s->pos = (struct capture_pos){.valid = true, .salt = {x->salt[0], x->salt[1]}, .pages = s->pos.pages, .restartable = !x->n};
    s->drained.x = *x;
    return true;
}

static int another_guard(struct source *s, struct err *e)
{
    session_guard_undo(s->session);
    return session_guard_next(s->session, e);
}

/* Take a new guard, then drop the old one. When N = B the new guard may have landed in slot 0, where
 * it does not stop the next writer from restarting the WAL: then everything must be captured before
 * the old guard goes. When N > B no restart is possible under either kind of guard, and frames that
 * are not captured yet are safe. 0, or BROKEN, or an error; a lock that is busy is no error, the old
 * guard simply stays. */
int source_handover(struct source *s, struct err *e)
{
    struct session_index x, before; /* the guard sees at least what was there before it */
    struct position file = {.txid = 0};
    int tries = 0, r = session_index(s->session, &before, e);
    struct session_index seen = before; /* when the file was looked at */
    bool looked = r == 0 && source_look(s, &file), again = false;
    if (s->waited_for)
        session_guard_elsewhere(s->session);
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
        if (!follow_restart(s, &x)) {
            r = CAPTURE_BROKEN;
            break;
        }
        bool same = s->pos.valid && capture_same_wal(&s->pos, &x);
        bool short_of = x.n != x.b && session_guard_behind(s->session, before.n); /* somebody was at work on the read marks */
        if (x.n != x.b && (!short_of || tries++ >= HANDOVER_TRIES)) {
            if (same && capture_behind(&s->pos, &x))
                s->pos.restartable = false;
            break;
        }
        if (short_of) {
            if ((r = another_guard(s, e)) != 0)
                return r == SESSION_BUSY ? 0 : r;
            continue;
        }
        if (same && !capture_behind(&s->pos, &x)) {
            bool still = seen.b == x.b && !memcmp(seen.salt, x.salt, sizeof x.salt);
            if (!still && !again) { /* a checkpoint was under way */
                again = true;
                seen = x;
                looked = source_look(s, &file);
                continue;
            }
            source_restartable(s, &x, looked && still ? &file : NULL);
            if (s->pos.restartable || tries++ >= HANDOVER_TRIES)
                break;
            if ((r = another_guard(s, e)) != 0) /* this one was begun while somebody's checkpoint was about to be over */
                return r == SESSION_BUSY ? 0 : r;
            continue;
        }
        r = source_capture_one(s, NULL, e);
        if (r != 0)
            break;
    }
    if (r != 0) {
        session_guard_undo(s->session);
        return r == OUT_FULL || r == CAPTURE_NOTHING ? 0 : r;
    }
    session_guard_switch(s->session);
    s->guard_at = before;
    s->waited_for = false;
    s->guard_ms = clk_mono_ms();
    s->count.handovers++;
    return 0;
}

/* Not over what somebody has copied there since this job began: then the WAL does not belong to it. What is copied there
 * from here on is nobody's checkpoint. */
static int passive(struct source *s, bool *ret_all, struct err *e)
{
    struct stat left;
    if (source_written_over(s))
        return SESSION_BUSY;
    int r = session_passive(s->session, ret_all, e);
    if (r == 0 && *ret_all && session_left(s->session, &left))
        source_stand_still(s, &left);
    return r;
}

/* Copy the WAL into the database and leave the guard in slot 0, so that the next writer restarts the
 * WAL. *ret_done tells whether that came about; writers that kept going are the usual reason why
 * not. */
int source_cycle(struct source *s, bool *ret_done, bool *ret_pinned, struct err *e)
{
    *ret_done = false;
    for (int tries = 0; tries < CYCLE_TRIES; tries++) {
        int r = source_handover(s, e);
        if (r != 0)
            return r;
        bool all = false;
        r = passive(s, &all, e);
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
        r = source_handover(s, e);
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
        int r = source_capture_all(s, e);
        if (r != 0)
            return r == OUT_FULL ? 0 : r;
        struct session_index x;
        r = session_index(s->session, &x, e);
        if (r < 0 || x.n - x.b < TAIL_FRAMES)
            return r;
        bool all;
        r = source_handover(s, e);
        if (r == 0)
            r = passive(s, &all, e);
        if (r != 0)
            return r == SESSION_BUSY ? 0 : r;
        s->count.checkpoints++;
    }
    return 0;
}

static void count_barrier(struct source *s, uint64_t start_us)
{
    uint64_t took = clk_mono_us() - start_us;
    s->count.barriers++;
    s->count.restarts += s->pos.valid && s->pos.restartable;
    s->count.barrier_us += took;
    s->count.barrier_max_us = MAX(s->count.barrier_max_us, took);
}

/* Nobody sees SQLITE_BUSY: whoever begins a transaction waits in SQLite, as for a checkpoint of another process. */
static int hold_everybody_now(struct source *s, unsigned timeout_ms, struct err *e)
{
    struct session_index x;
    struct position file = {.txid = 0};
    bool all = false;
    int r = session_hold_all(s->session, timeout_ms, e);
    if (r != 0)
        return r;
    uint64_t start = clk_mono_us();
    r = source_capture_all(s, e);
    if (r == 0)
        r = passive(s, &all, e);
    bool drained = false, looked = false;
    if (r == 0 && session_index(s->session, &x, e) == 0) {
        s->guard_at = x;
        drained = all && x.n == x.b && capture_same_wal(&s->pos, &x) && !capture_behind(&s->pos, &x);
        looked = drained && source_look(s, &file);
    }
    struct err lost;
    if (session_release_all(s->session, &lost) != 0) /* without a guard it is worth nothing: another session */
        return err_set(e, ERR_INTERNAL, "the read transaction on %s could not be begun again", s->path);
    if (drained)
        source_restartable(s, &x, looked ? &file : NULL);
    count_barrier(s, start);
    return r == SESSION_BUSY || r == OUT_FULL ? 0 : r;
}

/* Without a guard the last one out could fold the WAL together with what comes after it. */
static int hold_everybody(struct source *s, unsigned timeout_ms, struct err *e)
{
    int r = session_enter(s->session, e);
    if (r != 0)
        return r;
    r = session_side(s->session) == SESSION_SIDE_SAME ? hold_everybody_now(s, timeout_ms, e) : SESSION_BUSY;
    session_exit(s->session);
    return r;
}

/* Readers that overlap all the time keep the WAL from being copied however long the writers wait: once in vain, it is not
 * tried again before the WAL is longer by half. */
static bool force_is_vain(const struct source *s, const struct session_index *x)
{
    return !memcmp(x->salt, s->forced_at.salt, sizeof x->salt) && x->n < s->forced_at.n + s->forced_at.n / 2;
}

/* Writers that never pause: hold them for the tail of the WAL, which is captured and copied while they
 * wait; then the next of them restarts the WAL. */
static int barrier(struct source *s, uint64_t wal_bytes, struct err *e)
{
    int r = shorten_tail(s, wal_bytes, e);
    if (r != 0 || s->n_out == SOURCE_MAX_FILES)
        return r;
    /* what the disk needs for this it needs now, not while everybody waits */
    uint64_t took, now = clk_mono_ms();
    if (now < s->slow_until_ms)
        return 0;
    r = session_sync(s->session, &took, e);
    if (r < 0)
        return r;
    if (took > SLOW_SYNC_US) {
        s->slow_until_ms = now + SLOW_MS;
        s->count.barriers_skipped++;
        return 0;
    }
    unsigned patience = (unsigned)MIN(wal_bytes / MAX(s->conf.wal_limit_bytes, (uint64_t)1), (uint64_t)10);
    bool several = session_several_writers(s->session);
    r = hold_everybody(s, several ? HOLD_WAIT_MS : BARRIER_WAIT_MS * MAX(patience, 1u), e);
    if (r != SESSION_BUSY || (patience < FORCE_FACTOR && !session_several_writers(s->session)))
        return r == SESSION_BUSY ? 0 : r;
    struct session_index x;
    r = session_index(s->session, &x, e);
    if (r < 0 || force_is_vain(s, &x))
        return r;
    r = session_write_lock(s->session, BARRIER_WAIT_MS * patience, e);
    if (r != 0)
        return r == SESSION_BUSY ? 0 : r;
    uint64_t start = clk_mono_us();
    bool all = false;
    r = source_handover(s, e);
    if (r == 0)
        r = passive(s, &all, e);
    if (r == 0 && all)
        r = source_handover(s, e);
    session_write_unlock(s->session);
    const struct session_index none = {.n = 0};
    s->forced_at = all ? none : x;
    count_barrier(s, start);
    s->count.barriers_forced++;
    return r == SESSION_BUSY ? 0 : r;
}

/* While commits pour in and the WAL is long, the checkpoints are ours alone. */
void source_choose_checkpointer(struct source *s)
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

int source_look_after_wal(struct source *s, const struct source_job *job,
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
    if (bytes >= s->conf.wal_limit_bytes && !job->reading)
        return barrier(s, bytes, e);
    if (x.n < next_cycle(s, &x) && !job->settle && !(job->closed && ret->alone))
        return 0;
    bool done = false;
    r = source_cycle(s, &done, &ret->pinned, e);
    ret->pinned = ret->pinned && !job->reading;
    if (ret->pinned)
        (void)os_command(session_reader(s->session), ret->reader, sizeof ret->reader);
    s->tried_at = x;
    return r;
}

bool source_far_behind(struct source *s)
{
    struct session_index x;
    return session_index(s->session, &x, NULL) == 0 &&
           capture_behind(&s->pos, &x) * wal_frame_size(x.page_size) >= EAGER_BYTES;
}

bool source_wal_too_long(struct source *s)
{
    struct session_index x;
    return s->session && session_index(s->session, &x, NULL) == 0 &&
           x.n * wal_frame_size(x.page_size) >= LET_GO_FACTOR * s->conf.wal_limit_bytes;
}

