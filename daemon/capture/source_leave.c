/* source_leave.c - letting go of a database: with a proof of where it stood, and with its files as SQLite's own last
 * close would have left them. */
#include "daemon/capture/source_int.h"

#include <sys/stat.h>

#include "daemon/capture/framemap.h"

#define SETTLE_US 55000   /* longer than a file system's clock takes for a tick */
#define SETTLE_MAX_MS 100 /* a file system with a slower clock is waited for with the database attached */
#define SMALL_BYTES (16u << 20)
#define SUSPECT_MS 600000 /* after commits that the wal-index did not show, nothing is removed for so long */

/* ---- the file under our feet ---------------------------------------------------------------------- */

/* While the checkpoint that was begun last is over, nobody but a tool that knows nothing of SQLite writes into the
 * file before the next one is begun, which the wal-index shows first. After a recovery it says that one was begun: then
 * the lock tells. */
static bool no_checkpoint(struct source *s, const struct session_index *x)
{
    return x->attempted == x->b || !session_checkpointer(s->session);
}

static bool still_so(const struct source *s, const struct session_index *x)
{
    return s->still.valid && x->attempted == s->still.attempted && x->b == s->still.copied &&
           !memcmp(x->salt, s->still.salt, sizeof x->salt);
}

bool source_written_over(struct source *s)
{
    struct session_index x;
    struct position now = {.txid = 0};
    if (session_index(s->session, &x, NULL) < 0 || !still_so(s, &x)) {
        s->still.valid = false;
        return false;
    }
    struct session_index again; /* a checkpoint that began between the two looks */
    return position_look(&now, s->path) && !position_same_content(&s->still.file, &now) && no_checkpoint(s, &x) &&
           session_index(s->session, &again, NULL) == 0 && still_so(s, &again);
}

bool source_changed_unexplained(struct source *s)
{
    struct position now = {.txid = 0};
    bool before = s->still.valid && s->still.taken_ms < s->unexplained_since_ms;
    return s->unexplained &&
           !(before && position_look(&now, s->path) && position_same_content(&s->still.file, &now));
}

bool source_written_before(struct source *s)
{
    struct session_index x;
    struct position now = {.txid = 0};
    return session_index(s->session, &x, NULL) == 0 && still_so(s, &x) && x.n == x.b &&
           position_look(&now, s->path) && !position_same_content(&s->still.file, &now);
}

bool source_written_last(struct source *s)
{
    struct session_index x;
    struct position now = {.txid = 0};
    return session_index(s->session, &x, NULL) == 0 && x.n && !x.b && !x.attempted &&
           !session_checkpointer(s->session) && position_look(&now, s->path) &&
           now.ctime_ns >= now.wal_mtime_ns;
}

bool source_tampered(struct source *s)
{
    bool r = source_written_over(s);
    s->still.valid = s->still.valid && !r;
    return r;
}

bool source_foreign_write(struct source *s)
{
    struct session_index x;
    return s->session && s->still.valid && session_peek(s->session, &x) == 0 && still_so(s, &x);
}

static bool first_pages(struct source *s, uint32_t page_size, uint64_t sum[SOURCE_STILL_PAGES])
{
    cleanup_free uint8_t *p = util_alloc((size_t)SOURCE_STILL_PAGES * page_size);
    if (session_db_read(s->session, 1, SOURCE_STILL_PAGES, p, NULL) < 0)
        return false;
    for (uint32_t i = 0; i < SOURCE_STILL_PAGES; i++)
        sum[i] = ltx_page_checksum(i + 1, p + (size_t)i * page_size, page_size);
    return true;
}

void source_stand_still(struct source *s, const struct stat *left)
{
    struct session_index x, again;
    s->still.taken_ms = clk_mono_ms();
    s->still.valid = s->session && s->pos.valid && session_index(s->session, &x, NULL) == 0 && source_look(s, &s->still.file) &&
                     first_pages(s, x.page_size, s->still.sum) && no_checkpoint(s, &x) &&
                     session_index(s->session, &again, NULL) == 0 && again.attempted == x.attempted && again.b == x.b &&
                     !memcmp(again.salt, x.salt, sizeof x.salt);
    if (!s->still.valid)
        return;
    s->still.left = left && !s->times_move;
    if (s->still.left)
        position_was(&s->still.file, left);
    s->still.attempted = x.attempted;
    s->still.copied = x.b;
    memcpy(s->still.salt, x.salt, sizeof x.salt);
}

/* Pages whose newest version is not yet in the database file. */
static int pages_ahead(struct source *s, const struct session_index *x, struct framemap *m, struct err *e)
{
    int r = 0;
    for (uint32_t k = x->b + 1; k <= x->n && r == 0; k++) {
        uint8_t h[WAL_FRAME_HEADER_SIZE];
        r = session_wal_read(s->session, wal_frame_off(x->page_size, k), h, sizeof h, e);
        if (r == 0)
            r = framemap_put(m, wal_frame_parse(h).pgno, k, e);
    }
    return r;
}

/* Whether a checkpoint that was killed may have written what the file has: an old SQLite does not announce it. */
static bool in_wal(struct source *s, const struct session_index *x, uint32_t pgno, uint64_t sum)
{
    struct err e;
    cleanup_free uint8_t *frame = util_alloc((size_t)wal_frame_size(x->page_size));
    for (uint32_t k = 1; k <= x->n; k++) {
        uint64_t off = wal_frame_off(x->page_size, k);
        if (session_wal_read(s->session, off, frame, WAL_FRAME_HEADER_SIZE, &e) < 0)
            return true;
        if (wal_frame_parse(frame).pgno == pgno &&
            (session_wal_read(s->session, off, frame, (size_t)wal_frame_size(x->page_size), &e) < 0 ||
             ltx_page_checksum(pgno, frame + WAL_FRAME_HEADER_SIZE, x->page_size) == sum))
            return true;
    }
    return false;
}

/* The first pages are known as they were in the file, also those that the WAL has newer. */
static bool other_first_pages(struct source *s, const struct session_index *x)
{
    uint64_t now[SOURCE_STILL_PAGES];
    if (!first_pages(s, x->page_size, now))
        return false;
    for (uint32_t i = 0; i < SOURCE_STILL_PAGES; i++)
        if (now[i] != s->still.sum[i] && !in_wal(s, x, i + 1, now[i]))
            return true;
    return false;
}

/* Whether the file holds other pages than were captured: then it is another database by now, to which the WAL does
 * not belong. A file that was only touched is not. Without a map that cannot be told. */
static bool other_pages(struct source *s, const struct session_index *x)
{
    struct err e;
    cleanup_framemap struct framemap ahead = {NULL, 0, 0};
    if (other_first_pages(s, x))
        return true;
    source_map_load(s);
    if (!s->map || pagemap_state(s->map)->txid != s->published || pages_ahead(s, x, &ahead, &e) < 0)
        return false;
    cleanup_free uint8_t *page = util_alloc(x->page_size);
    for (uint32_t pgno = 1; pgno <= pagemap_state(s->map)->pages; pgno++) {
        uint64_t sum;
        if (framemap_has(&ahead, pgno))
            continue;
        if (session_db_read(s->session, pgno, 1, page, &e) < 0 || pagemap_get(s->map, pgno, &sum, &e) < 0)
            return false;
        if (sum && sum != ltx_page_checksum(pgno, page, x->page_size))
            return true;
    }
    return false;
}

/* ---- everything that was committed ------------------------------------------------------------------ */

/* Captured up to *ret_x. */
static bool captured(struct source *s, struct session_index *ret_x)
{
    struct err e;
    return source_capture_all(s, &e) == 0 && session_index(s->session, ret_x, &e) == 0 &&
           capture_same_wal(&s->pos, ret_x) && !capture_behind(&s->pos, ret_x);
}

bool source_capture_rest(struct source *s, struct source_result *ret, struct session_index *ret_x)
{
    struct err e;
    int r;
    do {
        r = source_capture_all(s, &e);
        if ((r != 0 && r != OUT_FULL) || source_publish(s, ret, &e) < 0)
            return false;
    } while (r == OUT_FULL && ret->n_files < SOURCE_MAX_FILES);
    return r == 0 && session_index(s->session, ret_x, &e) == 0 && capture_same_wal(&s->pos, ret_x) &&
           !capture_behind(&s->pos, ret_x);
}

/* ---- proof -------------------------------------------------------------------------------------------- */

/* Everything captured and copied, the guard in slot 0, no writer under way, and the files' last change old enough to be
 * told from a later one. A writer has written its frames, and perhaps waits for the disk, before the wal-index shows
 * its commit, and that makes no event: so there must have been none at some moment after the files were looked at, with
 * nothing new then. */
static bool prove(struct source *s, bool hurry, struct position *p)
{
    struct session_index x, after;
    long pid;
    if (!source_look(s, p) || session_index(s->session, &x, NULL) < 0)
        return false;
    uint64_t young = position_settled_ms(p);
    if (young && young <= SETTLE_MAX_MS && !hurry)
        (void)usleep(SETTLE_US);
    bool writer = session_writer(s->session, &pid);
    if (!source_look(s, p) || session_index(s->session, &x, NULL) < 0 || x.n != x.b ||
        capture_behind(&s->pos, &x) || !capture_same_wal(&s->pos, &x))
        return false;
    writer = writer || session_writer(s->session, &pid);
    if ((writer || session_unseen(s->session, &x)) && !(s->without & SOURCE_WRITER))
        return false;
    if (session_index(s->session, &after, NULL) < 0 || after.n != x.n || after.b != x.b ||
        memcmp(after.salt, x.salt, sizeof x.salt) != 0)
        return false;
    return !source_written_over(s) && (!position_settled_ms(p) || s->without & SOURCE_TIMES);
}

struct position source_position_now(const struct source *s)
{
    return (struct position){.txid = s->published,
                             .lineage = s->lineage,
                             .pos = s->pos,
                             .checksum = s->map ? pagemap_state(s->map)->checksum : 0,
                             .boot = position_boot()};
}

/* ---- the last one out ---------------------------------------------------------------------------------- */

/* Commits that the wal-index did not show came from somebody whose locks we do not see, and who may still have the
 * files open without our being able to tell. */
static bool suspect(const struct source *s)
{
    return s->unseen_at_ms && clk_mono_ms() < s->unseen_at_ms + SUSPECT_MS;
}

/* As SQLite's own last close; false: others have it open, or something moved, and nothing was done. proven: what is
 * recorded holds for the files as they are now. */
static bool last_one_out(struct source *s, const struct session_index *x, bool proven)
{
    struct err e;
    if (suspect(s))
        return false;
    int r = session_leave_begin(s->session, SESSION_LEAVE_FOLD, x, &e);
    if (r != 0) {
        if (r < 0)
            source_close_session(s); /* without its guard it is worth nothing */
        return false;
    }
    struct position p = source_position_now(s);
    if (source_look(s, &p)) {
        p.wal_ino = p.wal_size = 0; /* it goes in a moment */
        p.wal_mtime_ns = 0;
        p.drained = proven && x->n == x->b && !position_settled_ms(&p) && !source_written_over(s);
        if (position_write(s->dir, &p, false, NULL) < 0)
            position_remove(s->dir);
    }
    s->session = session_leave_end(s->session, SESSION_LEAVE_FOLD);
    source_close_session(s);
    return true;
}

/* What the WAL holds is in the replica's way and belongs to no file any more: SQLite's last close would have removed
 * it before the file was replaced. sure: that it was is certain, so that what cannot be captured is
 * lost to nobody. */
static bool put_aside(struct source *s, struct source_result *ret, bool sure)
{
    struct session_index x, rest;
    struct err e;
    long pid;
    if (session_company(s->session, &pid) != SESSION_ALONE || suspect(s) ||
        session_index(s->session, &x, &e) < 0)
        return false;
    /* by the map, which a capture that fails takes away */
    bool other = x.n == x.b || other_pages(s, &x);
    bool captured = source_capture_rest(s, ret, &rest);
    if (!other || (!captured && !sure) ||
        session_leave_begin(s->session, SESSION_LEAVE_DISCARD, captured ? &rest : &x, &e) != 0)
        return false;
    s->session = session_leave_end(s->session, SESSION_LEAVE_DISCARD);
    source_close_session(s);
    return true;
}

bool source_replaced(struct source *s, struct source_result *ret, bool sure)
{
    if (!put_aside(s, ret, sure))
        return false;
    position_remove(s->dir);
    s->pos.valid = false;
    s->changed_under_us = true;
    ret->broken = true;
    (void)snprintf(ret->why, sizeof ret->why, "another file was copied over %s", s->path);
    return true;
}

/* ---- the file or its side files are others now ---------------------------------------------------------- */

/* The name leads elsewhere. What was committed in time is captured, and if nobody else has the file open, it gets
 * what SQLite's last close would have given it. */
static void let_go_of_moved(struct source *s, struct source_result *ret)
{
    struct session_index x;
    struct err e;
    const char *what = session_removed(s->session) ? "was removed" : "was moved away";
    /* Whoever opens the file that was put in its place takes what lies beside it for its own: nothing that waits for a
     * disk comes before that is gone, if there is no file to be completed any more. */
    bool removed = session_removed(s->session);
    bool all = s->pos.valid && (removed ? captured(s, &x) : source_capture_rest(s, ret, &x));
    enum session_leave how = removed && all ? SESSION_LEAVE_DISCARD : SESSION_LEAVE_FOLD;
    /* what could not be captured is all the more needed in the file that was moved */
    if (!suspect(s) && (all || session_index(s->session, &x, &e) == 0) &&
        session_leave_begin(s->session, how, &x, &e) == 0)
        s->session = session_leave_end(s->session, how);
    if (s->session)
        session_disown(s->session);
    (void)source_publish(s, ret, &e);
    source_forget_out(s);
    source_close_session(s);
    source_unlock(s);
    source_another_file(s, ret, what);
    s->file.known = false; /* told */
    (void)snprintf(ret->gone, sizeof ret->gone, "%s", what);
}

/* A session over a -shm that was removed sees nothing of what happens from then on. As long as somebody else has the
 * same one open, he is where the commits come from, and it shows them. */
static void other_sides(struct source *s, struct source_result *ret, enum session_side side)
{
    struct session_index x;
    long pid;
    s->changed_under_us = true;
    enum session_company company = session_company(s->session, &pid);
    if (company == SESSION_SHARED && !session_other_wal(s->session)) {
        ret->doubt = SOURCE_DOUBT_SIDES;
        source_tell_doubt(ret, pid);
        return;
    }
    if (company == SESSION_ALONE && side == SESSION_SIDE_WAL && !session_other_wal(s->session) && s->pos.valid && source_capture_rest(s, ret, &x) &&
        last_one_out(s, &x, false))
        return; /* what the removed -wal had is in the database */
    source_forget_out(s);
    source_close_session(s);
    s->pos.valid = false;
    position_remove(s->dir);
    ret->broken = true;
    (void)snprintf(ret->why, sizeof ret->why, "%s%s was removed or replaced", s->path,
                   side == SESSION_SIDE_WAL ? "-wal" : "-shm");
}

/* An application that is the last one out takes a moment between the two names, with everybody kept away. */
static void side_files(struct source *s, struct source_result *ret)
{
    if (s->without & SOURCE_SIDES || session_side(s->session) == SESSION_SIDE_SAME)
        return;
    if (session_enter(s->session, NULL) != 0) {
        if (!source_shut_out(s, ret))
            ret->more = true;
        return;
    }
    enum session_side side = session_side(s->session);
    int64_t removed_ns;
    if (session_folded(s->session, &removed_ns)) {
        session_exit(s->session); /* nobody can do anything to these any more */
        if (source_folded(s, ret, removed_ns) || session_enter(s->session, NULL) != 0)
            return;
    }
    if (side != SESSION_SIDE_SAME)
        other_sides(s, ret, side);
    if (s->session)
        session_exit(s->session);
}

void source_check_identity(struct source *s, struct source_result *ret)
{
    if (!s->session)
        return;
    if (session_moved(s->session))
        let_go_of_moved(s, ret);
    else
        side_files(s, ret);
}

/* ---- detach ---------------------------------------------------------------------------------------------- */

/* Writers or readers at work: no proof, but nothing is left behind either, if they pause long enough. */
static void detach_unproven(struct source *s, struct source_result *ret)
{
    struct session_index x;
    bool all = source_capture_rest(s, ret, &x);
    source_record(s);
    if (all && !last_one_out(s, &x, false) && !s->session)
        return;
    if (all)
        ret->state = SOURCE_ASLEEP;
}

/* Everything into the database, with the guard in slot 0. */
static bool drain(struct source *s, struct source_result *ret)
{
    struct session_index x;
    struct err e;
    bool done = false, pinned;
    if (session_index(s->session, &x, &e) == 0 && x.n == x.b && !capture_behind(&s->pos, &x) && s->pos.restartable)
        return true;
    int r = source_cycle(s, &done, &pinned, &e);
    return source_publish(s, ret, &e) == 0 && r == 0 && done;
}

/* A file system whose clock is slow: rather a moment longer than without a proof, unless what is small is as quickly
 * compared. */
static bool too_young(struct source *s, const struct source_job *job, struct source_result *ret)
{
    struct position p = {.txid = 0};
    if (!job->may_stay || s->without & SOURCE_TIMES || !source_look(s, &p))
        return false;
    uint64_t ms = position_settled_ms(&p);
    if (ms <= SETTLE_MAX_MS || p.size <= SMALL_BYTES)
        return false;
    ret->again_ms = ms;
    return true;
}

static void detach_proven(struct source *s, const struct source_job *job, struct source_result *ret)
{
    struct err e;
    struct session_index x;
    struct position p = source_position_now(s);
    p.drained = prove(s, job->hurry, &p);
    if (session_side(s->session) != SESSION_SIDE_SAME && !(s->without & SOURCE_SIDES)) {
        position_remove(s->dir); /* what was noted is about other files */
        return;
    }
    if (session_moved(s->session) || session_index(s->session, &x, &e) < 0 || !capture_same_wal(&s->pos, &x) ||
        capture_behind(&s->pos, &x))
        return;
    bool proven = p.drained;
    if (last_one_out(s, &x, proven)) {
        ret->state = SOURCE_ASLEEP;
        return;
    }
    if (s->session && position_write(s->dir, &p, false, NULL) == 0)
        ret->state = SOURCE_ASLEEP;
}

void source_detach(struct source *s, const struct source_job *job, struct source_result *ret)
{
    long pid;
    source_check_identity(s, ret);
    if (!s->session || !s->pos.valid || s->n_out || !s->published)
        return;
    bool unlike = source_changed_unexplained(s);
    bool last = job->file_was_last && source_written_last(s);
    if (source_tampered(s) || last || unlike) { /* then this position proves nothing */
        if (!source_replaced(s, ret, last))
            position_remove(s->dir);
        return;
    }
    enum session_company company = session_company(s->session, &pid);
    ret->elsewhere = company == SESSION_ELSEWHERE;
    if (job->if_alone && company != SESSION_ALONE && !(ret->elsewhere && job->let_go)) {
        ret->stays = true;
        return;
    }
    bool hurried = job->hurry && company != SESSION_ALONE;
    struct session_index x;
    struct err e;
    bool drained = session_index(s->session, &x, &e) == 0 && x.n == x.b && !capture_behind(&s->pos, &x) &&
                   s->pos.restartable;
    if (!drained && (hurried || !drain(s, ret))) {
        ret->stays = job->if_alone;
        if (!ret->stays)
            detach_unproven(s, ret);
        return;
    }
    if (source_tampered(s)) { /* since that wrote */
        if (!source_replaced(s, ret, false))
            position_remove(s->dir);
        return;
    }
    ret->stays = too_young(s, job, ret);
    if (!ret->stays)
        detach_proven(s, job, ret);
}
