#include "daemon/capture/source_int.h"

/* The state of the newest TXID as one file from TXID 1: a snapshot, or the base of a replica that has none. */
static bool newest_at_hand(const struct source *s)
{
    if (s->n_out)
        return true;
    cleanup_free char *path = spool_path(s->dir, s->txid);
    return access(path, F_OK) == 0;
}

/* The replica also needs the level 0 file of a base's TXID (uploader.c says why). When that one is
 * gone from the spool, a file that changes nothing takes the next TXID. */
static int touch(struct source *s, const struct session_index *x, struct err *e)
{
    cleanup_free char *path = NULL;
    struct capture_opts o = source_next_file(s, &path);
    o.touch = true;
    o.map = s->map;
    struct capture_pos pos = s->pos;
    struct capture_file f;
    int r = capture_full(s->session, x, &pos, &o, &f, e);
    if (r == 0)
        source_keep_file(s, &f);
    else
        source_map_forget(s);
    return r;
}

static void let_go(struct source *s)
{
    session_guard_undo(s->session);
    session_exit(s->session);
}

/* A second guard, and everything up to its end of the WAL captured: *ret_x is the state of the newest TXID.
 * Positive: not this time. The guard is held only when 0 is returned. */
static int hold_still(struct source *s, struct session_index *ret_x, struct err *e)
{
    int r = session_enter(s->session, e);
    if (r != 0)
        return r;
    r = session_guard_next(s->session, e);
    if (r != 0) {
        session_exit(s->session);
        return r;
    }
    for (int tries = 0;; tries++) {
        r = source_capture_all(s, e);
        if (r == 0)
            r = session_index(s->session, ret_x, e);
        if (r != 0 || !capture_behind(&s->pos, ret_x) || tries >= 20)
            break;
    }
    if (r == 0 && capture_behind(&s->pos, ret_x))
        r = OUT_FULL;
    if (r != 0)
        let_go(s);
    return r;
}

static int finish(struct source *s, struct source_result *ret, int r)
{
    let_go(s);
    if (r <= 0)
        return r;
    ret->more = true; /* the loop thread asks again */
    return 0;
}

/* What the map says of the newest TXID, and what the database holds, have the same checksum; if not, pages
 * were changed without going through the WAL. They are found and captured by comparing all. */
static int compare(struct source *s, struct source_result *ret, struct capture_file *f, struct err *e)
{
    if (!s->map || f->checksum == pagemap_state(s->map)->checksum)
        return 0;
    fsx_tmp_abort(&f->tmp);
    int r = source_start_over(s, ret, "pages of the file changed without SQLite's WAL", e);
    return r < 0 ? r : CAPTURE_BROKEN;
}

/* Everything up to x, and no further. x belongs to a guard that is held, so its frames stay. */
static int capture_until(struct source *s, const struct session_index *x, struct err *e)
{
    int r = 0;
    while (r == 0 && !(capture_same_wal(&s->pos, x) ? s->pos.frame >= x->n : !x->n && s->pos.restartable))
        r = source_capture_one(s, x, e);
    return r == CAPTURE_NOTHING ? 0 : r;
}

/* A large database: what is read, slice by slice and by others, is the state of the TXID that ends here. */
static int stream(struct source *s, struct source_result *ret, bool base, struct err *e)
{
    struct session_index x;
    struct snapshot *sn = NULL;
    struct stat st;
    int r = session_enter(s->session, e); /* until that session has its own lock: its files must be these */
    if (r != 0)
        return r;
    if (session_stat(s->session, &st) < 0 || session_side(s->session) != SESSION_SIDE_SAME)
        r = SESSION_BUSY;
    if (r == 0)
        r = snapshot_open(s->path, &st, &sn, &x, e);
    session_exit(s->session);
    if (r == 0)
        r = capture_until(s, &x, e);
    if (r == 0 && base && !newest_at_hand(s))
        r = touch(s, &x, e);
    struct snapshot_info info = {.txid = s->txid,
                                 .lineage = s->lineage,
                                 .clock_txid = s->clock_txid,
                                 .timestamp_ms = s->last_stamp_ms,
                                 .checksum = s->map ? pagemap_state(s->map)->checksum : 0};
    if (r == 0)
        r = snapshot_begin(sn, s->dir, s->conf.encoding, &info, e);
    if (r == 0)
        ret->stream = TAKE_PTR(sn);
    (void)snapshot_free(sn);
    if (r == CAPTURE_BROKEN)
        r = source_start_over(s, ret, "the WAL was restarted before a snapshot of it was read", e);
    ret->more = ret->more || r == OUT_FULL;
    return MIN(r, 0);
}

int source_snapshot(struct source *s, struct source_result *ret, bool base, struct err *e)
{
    struct session_index x;
    if (s->conf.stream_bytes && (uint64_t)s->pos.pages * session_page_size(s->session) >= s->conf.stream_bytes)
        return stream(s, ret, base, e);
    int r = hold_still(s, &x, e);
    if (r != 0) {
        ret->more = r > 0 && r != SESSION_BUSY;
        return r < 0 ? r : 0;
    }
    if (base && !newest_at_hand(s))
        r = touch(s, &x, e);
    if (r == 0) {
        cleanup_free char *path = spool_snapshot_path(s->dir, s->txid);
        struct capture_opts o = {.path = path,
                                 .min_txid = 1,
                                 .max_txid = s->txid,
                                 .timestamp_ms = s->last_stamp_ms,
                                 .lineage = s->lineage,
                                 .clock_txid = s->clock_txid,
                                 .encoding = s->conf.encoding,
                                 .dir = s->dir,
                                 .min_free_bytes = s->conf.min_free_bytes};
        struct capture_pos pos = s->pos;
        struct capture_file f;
        r = capture_full(s->session, &x, &pos, &o, &f, e);
        if (r == 0)
            r = compare(s, ret, &f, e);
        if (r == 0)
            r = fsx_tmp_publish(&f.tmp, FSX_REPLACE, e);
        if (r == 0)
            ret->snapshot = (struct spool_file){s->txid, f.size, o.timestamp_ms, f.checksum, s->lineage, true};
    }
    return finish(s, ret, r);
}

int source_map_survey(struct source *s, struct source_result *ret, struct err *e)
{
    struct session_index x;
    int r = hold_still(s, &x, e);
    if (r != 0)
        return r < 0 ? r : 0; /* there is no hurry */
    struct capture_opts o = {.min_txid = s->txid,
                             .max_txid = s->txid,
                             .lineage = s->lineage,
                             .dir = s->dir,
                             .min_free_bytes = s->conf.min_free_bytes};
    r = pagemap_create(s->dir, x.page_size, s->lineage, &o.map, e);
    if (r == 0) {
        struct capture_pos pos = s->pos;
        struct capture_file f;
        r = capture_full(s->session, &x, &pos, &o, &f, e);
    }
    if (r == 0) {
        source_map_forget(s);
        s->map = TAKE_PTR(o.map);
        s->no_map = false;
    }
    (void)pagemap_close(o.map);
    return finish(s, ret, r);
}
