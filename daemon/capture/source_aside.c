/* source_aside.c - an application was the last one out: SQLite's last close has folded in the WAL and removed it, since
 * we stand aside between our checkpoints (session_aside). What it did is followed to its end by what is still open. */
#include "daemon/capture/source_int.h"

#include <unistd.h>

#include "daemon/capture/session_os.h"

#define OFTEN_MS 5000 /* again so soon: attached at once, so that the next one is followed frame by frame */
#define SMALL_BYTES (16u << 20)
#define STAY_BYTES (50u << 10) /* a millisecond for so many: comparing takes some twentieth of the time then */
#define STAY_MAX_MS 600000
#define CLOSE_TRIES 50
#define CLOSE_PAUSE_US 1000
#define SEAL_TRIES 10 /* a tick takes 1 to 10 ms */
#define SEAL_PAUSE_US 1000
#define SHUT_OUT_MS 1500 /* that was not a last close */

/* What wrote the file after that close wrote it later than the -wal was removed, and what was written before is captured.
 * In one tick of the file system's clock they cannot be told apart. */
static bool proven(const struct position *p, int64_t removed_ns)
{
    return MAX(p->mtime_ns, p->ctime_ns) < removed_ns;
}

/* Still as it was when everything was in it, and nothing committed to a WAL that was restarted since? */
static bool undisturbed(struct source *s, struct position *now)
{
    struct session_index x;
    const struct session_index *was = &s->drained.x;
    if (!source_look(s, now) || !position_same_content(&s->drained.file, now) || session_index(s->session, &x, NULL) < 0)
        return false;
    return (x.b == was->b && !memcmp(x.salt, was->salt, sizeof x.salt)) || (!x.n && x.salt[0] == was->salt[0] + 1);
}

void source_seal(struct source *s)
{
    if (!s->session || s->without & SOURCE_ASIDE || !s->pos.valid || !s->pos.restartable || !s->drained.known)
        return;
    for (int i = 0; i < SEAL_TRIES && !position_sealed(&s->drained.file); i++) {
        struct position now = {.txid = 0};
        if (i)
            (void)usleep(SEAL_PAUSE_US);
        if (!position_seals(&s->drained.file) || !undisturbed(s, &now))
            return;
        s->drained.file = now;
    }
}

void source_restartable(struct source *s, const struct session_index *x, const struct position *file)
{
    s->pos.restartable = session_guard_lets_restart(s->session);
    s->drained.known = file != NULL;
    if (!file)
        return;
    s->drained.x = *x;
    s->drained.file = *file;
    if (!position_sealed(file) && session_checkpointer(s->session)) /* a RESTART or TRUNCATE: the next salts may be any */
        source_seal(s);
}

/* Whoever has restarted a WAL himself counts; who has not takes salts at random for one that he finds empty. */
static bool first_of_its_writer(struct source *s)
{
    uint8_t h[WAL_HEADER_SIZE];
    struct wal_header wal;
    return session_wal_read(s->session, 0, h, sizeof h, NULL) == 0 && wal_header_parse(h, &wal, NULL) == 0 && !wal.sequence;
}

/* A last close has written into the file, so only the WAL itself can tell: the frames before were not added to, as far as
 * they have not been overwritten, and nobody truncated it. */
static bool restarted_once(struct source *s, const struct capture_pos *before, const struct session_index *x)
{
    uint8_t h[WAL_FRAME_HEADER_SIZE];
    if (!before->frame)
        return !before->salt[0] && !before->salt[1] && first_of_its_writer(s);
    uint64_t last = wal_frame_off(x->page_size, before->frame), next = wal_frame_off(x->page_size, before->frame + 1ull);
    if (x->salt[0] != before->salt[0] + 1 || x->n > before->frame ||
        session_wal_read(s->session, last, h, sizeof h, NULL) < 0)
        return false;
    return session_wal_read(s->session, next, h, sizeof h, NULL) < 0 ||
           memcmp(wal_frame_parse(h).salt, before->salt, sizeof before->salt) != 0;
}

static bool followed(struct source *s, const struct capture_pos *before, const struct session_index *x)
{
    struct position now = {.txid = 0};
    return s->drained.known && source_look(s, &now) && position_same_content(&s->drained.file, &now) &&
           (position_sealed(&s->drained.file) || x->salt[0] == before->salt[0] + 1 || (!before->frame && first_of_its_writer(s)));
}

bool source_restarted(struct source *s, const struct capture_pos *before, const struct session_index *x)
{
    int64_t removed_ns;
    if (s->without & SOURCE_ASIDE)
        return true;
    for (int i = 0; !session_folded(s->session, &removed_ns); i++) {
        if (followed(s, before, x))
            return true;
        if (i == CLOSE_TRIES || (!session_owned(s->session) && session_side(s->session) == SESSION_SIDE_SAME))
            return false;
        (void)usleep(CLOSE_PAUSE_US); /* somebody's last close is under way */
    }
    return restarted_once(s, before, x);
}

/* What the side files said is over, whatever comes next begins from the database file. */
static void last_close(struct source *s, struct source_result *ret)
{
    s->recorded.valid = false;
    s->count.last_closes++;
    ret->last_close = true;
    s->folded.at_ms = clk_mono_ms();
    source_close_session(s);
    s->pos.valid = false;
}

bool source_folded(struct source *s, struct source_result *ret, int64_t removed_ns)
{
    struct session_index x;
    uint64_t now = clk_mono_ms();
    if (!s->pos.valid) { /* and nothing was captured from it */
        source_close_session(s);
        return true;
    }
    /* before what was committed last, which does not belong to what was captured */
    if (source_changed_unexplained(s) || source_written_before(s))
        return source_closed_over(s, ret);
    s->unexplained = false;
    bool all = source_capture_rest(s, ret, &x);
    if (all ? x.n != x.b : s->pos.valid)
        return false;
    struct position p = source_position_now(s);
    bool seen = all && source_look(s, &p);
    p.wal_ino = p.wal_size = 0; /* what is there now, if it is, is another one */
    p.wal_mtime_ns = p.wal_birth_ns = 0;
    s->folded.proven = p.drained = seen && proven(&p, removed_ns);
    s->folded.compare = !p.drained;
    bool often = s->folded.at_ms && now < s->folded.at_ms + OFTEN_MS;
    if (!seen || position_write(s->dir, &p, false, NULL) < 0)
        position_remove(s->dir);
    last_close(s, ret);
    s->folded.rest = s->folded.proven && !often && os_holder_of(s->path) < 0;
    return true;
}

bool source_closed_over(struct source *s, struct source_result *ret)
{
    int64_t removed_ns;
    if (!session_folded(s->session, &removed_ns))
        return false;
    position_remove(s->dir);
    s->folded.compare = true;
    last_close(s, ret);
    ret->more = true;
    return true;
}

void source_compared(struct source *s, uint64_t bytes)
{
    if (s->folded.compare && bytes > SMALL_BYTES)
        s->folded.stay_ms = clk_mono_ms() + MIN(bytes / STAY_BYTES, (uint64_t)STAY_MAX_MS);
    s->folded.compare = false;
}

void source_stand_aside(struct source *s)
{
    if (s->without & SOURCE_ASIDE || clk_mono_ms() < s->folded.stay_ms)
        session_stay(s->session);
    else
        session_aside(s->session);
}

bool source_shut_out(struct source *s, struct source_result *ret)
{
    struct session_index x;
    struct err e;
    uint64_t ms = session_shut_out_ms(s->session);
    if (!ms)
        return false;
    int r = session_enter(s->session, &e);
    if (r == 0)
        session_exit(s->session);
    if (r == 0 || ms < SHUT_OUT_MS)
        return false;
    if (s->pos.valid && !source_capture_rest(s, ret, &x))
        source_forget_out(s);
    source_record(s);
    source_close_session(s);
    s->pos.valid = false;
    ret->state = SOURCE_BUSY;
    (void)snprintf(ret->away, sizeof ret->away, "%s", e.msg);
    ret->ahead = !source_asleep(s);
    return true;
}
