#include "daemon/capture/source_int.h"

#include <sys/stat.h>

#include "common/base/whose.h"
#include "daemon/capture/dblock.h"

#define FULL_TRIES 5

/* ---- every page -------------------------------------------------------------------------------- */

/* The map to compare with, if there is one that fits. */
static struct pagemap *map_to_compare(struct source *s, const struct session_index *x,
                                      struct source_result *ret)
{
    struct err e;
    if (!s->map)
        return NULL;
    const struct pagemap_state *m = pagemap_state(s->map);
    if (m->page_size != x->page_size || m->lineage != s->lineage || m->txid != s->txid)
        return NULL;
    if (pagemap_check(s->map, false, &e) == 0)
        return s->map;
    source_map_redo(s);
    if (s->map && pagemap_check(s->map, false, &e) == 0)
        return s->map;
    source_map_drop(s, ret, &e);
    return NULL;
}

/* One attempt, under the guard held: into a new map, which takes the place of the old one. */
static int every_page(struct source *s, struct source_result *ret, struct err *e)
{
    struct session_index x;
    int r = session_index(s->session, &x, e);
    if (r < 0)
        return r;
    if (s->txid && s->tip.page_size && s->tip.page_size != x.page_size) {
        /* nothing can be put together from files of two page sizes: another history */
        s->lineage = 0;
        while (!s->lineage)
            util_random(&s->lineage, sizeof s->lineage);
    }
    cleanup_free char *path = NULL;
    struct capture_opts o = source_next_file(s, &path);
    struct err me;
    o.old = map_to_compare(s, &x, ret);
    if (pagemap_create(s->dir, x.page_size, s->lineage, &o.map, &me) < 0)
        o.map = NULL; /* what keeps it from being written keeps the file from being written */
    struct capture_file f;
    r = capture_full(s->session, &x, &s->pos, &o, &f, e);
    if (r == 0) {
        source_keep_file(s, &f);
        source_map_forget(s);
        s->map = TAKE_PTR(o.map);
        s->no_map = false;
    }
    (void)pagemap_close(o.map);
    if (r != 0 && r != CAPTURE_SAME)
        return r;
    struct position file = {.txid = 0};
    if (s->pos.restartable) /* nobody else can write into it now */
        source_restartable(s, &x, source_look(s, &file) ? &file : NULL);
    ret->compared = o.old != NULL;
    ret->differ = r == 0 ? f.n_pages : 0;
    s->count.fulls += !o.old;
    s->count.resyncs += o.old != NULL;
    s->count.resync_pages += o.old ? ret->differ : 0;
    return 0;
}

/* What the files looked like before all of them was read. */
struct before {
    struct position file;
    struct session_index x;
    bool known;
};

static struct before look_before(struct source *s)
{
    struct before b = {.file = {.txid = 0}};
    b.known = session_index(s->session, &b.x, NULL) == 0 && source_look(s, &b.file);
    return b;
}

/* Part of what was read may be of other files, or of one that was copied over this one, which no checkpoint explains. */
static bool disturbed(struct source *s, const struct before *b)
{
    struct session_index x;
    struct position now = {.txid = 0};
    if (s->without & SOURCE_SIDES)
        return false;
    if (session_side(s->session) != SESSION_SIDE_SAME)
        return true;
    if (!b->known || !source_look(s, &now) || position_same_content(&b->file, &now) || session_index(s->session, &x, NULL) < 0)
        return false;
    /* whoever restarts the WAL under our guard has copied nothing since */
    return memcmp(x.salt, b->x.salt, sizeof x.salt) != 0 ||
           (x.b == b->x.b && x.attempted == b->x.attempted && x.attempted == x.b);
}

/* Again, if it was a race with a writer that restarts the WAL. */
static int all_pages(struct source *s, struct source_result *ret, struct err *e)
{
    for (int tries = 0; tries < FULL_TRIES; tries++) {
        int r = every_page(s, ret, e);
        if (r == CAPTURE_NOTHING)
            return 0; /* no page yet */
        if (r != CAPTURE_BROKEN)
            return r;
    }
    return err_set(e, ERR_BUSY, "the WAL of %s was restarted under every attempt to read it", s->path);
}

int source_start_over(struct source *s, struct source_result *ret, const char *why, struct err *e)
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
    bool again = s->folded.read_again;
    int r = session_enter(s->session, e);
    if (r != 0)
        return r < 0 ? r : -(int)ERR_BUSY;
    struct before before = look_before(s);
    r = all_pages(s, ret, e);
    s->folded.read_again = disturbed(s, &before); /* as long as nobody can close it for good */
    session_exit(s->session);
    source_compared(s, before.file.size);
    if (r < 0)
        return r;
    if (!s->folded.read_again) {
        /* whoever waits for our guard waits for one that was begun before all this */
        int h = why && s->pos.valid && s->n_out < SOURCE_MAX_FILES ? source_handover(s, e) : 0;
        ret->more = ret->more || h > 0;
        return MIN(h, 0);
    }
    source_forget_out(s);
    s->pos.valid = false;
    if (again)
        return err_set(e, ERR_BUSY, "%s, or its -wal or -shm, was replaced while it was read", s->path);
    ret->more = true;
    return 0;
}

/* ---- attach ----------------------------------------------------------------------------------- */

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

/* Another file is another history: nothing that was known of the old one holds. */
void source_another_file(struct source *s, struct source_result *ret, const char *what)
{
    source_map_drop(s, ret, NULL);
    s->pos.valid = s->still.valid = false;
    s->lineage = 0;
    while (!s->lineage)
        util_random(&s->lineage, sizeof s->lineage);
    ret->broken = true;
    (void)snprintf(ret->why, sizeof ret->why, "%s %s", s->path, what);
}

bool source_look(struct source *s, struct position *p)
{
    return position_look(p, s->path) && !session_moved(s->session);
}

/* Go on where an earlier process stopped, if that can be proven under the guard just taken. Same
 * salts: the WAL was not restarted, so every frame after the position is still in it. Other salts:
 * it was restarted; if the database file was not written since everything was in it, nothing that is
 * missing here can have been copied and overwritten, so the new WAL has it all. Anything else leaves
 * the position invalid, and the whole database is captured. */
static int resume(struct source *s, struct source_result *ret, struct err *e)
{
    struct position p, now = {.txid = 0};
    struct session_index x;
    if (!position_read(s->dir, &p) || p.lineage != s->lineage || !position_look(&now, s->path))
        return 0;
    if (!position_same_file(&p, &now)) {
        source_another_file(s, ret, "was replaced while it was not watched");
        return 0;
    }
    if (p.txid != s->published)
        return 0;
    int r = session_index(s->session, &x, e);
    if (r < 0)
        return r;
    bool untouched = p.drained && position_same_content(&p, &now);
    bool named = p.pos.frame || p.pos.salt[0] || p.pos.salt[1]; /* every new and empty WAL has salts of zero */
    if (named && capture_same_wal(&p.pos, &x)) {
        bool news = x.n > p.pos.frame;
        if (x.n < p.pos.frame || !frame_is_ours(s, &p) || (p.drained && !news && !untouched))
            return 0;
        s->pos = p.pos;
        s->pos.restartable = false;
        if (x.n == x.b && !news)
            source_restartable(s, &x, &now);
    } else if (untouched && (s->without & SOURCE_TIMES || position_successor(&p, &now, x.salt[0]))) {
        s->pos = (struct capture_pos){
            .valid = true, .salt = {x.salt[0], x.salt[1]}, .pages = p.pos.pages};
        if (!x.n)
            source_restartable(s, &x, &now);
    }
    s->count.resumed += s->pos.valid;
    return 0;
}

void source_unlock(struct source *s)
{
    if (s->lock.held)
        dblock_drop(s->lock.dev, s->lock.ino);
    s->lock.held = false;
}

/* Another file under the name is known for one whatever became of the record. */
static void recognise(struct source *s, struct source_result *ret)
{
    struct position now = {.txid = 0};
    if (!position_look(&now, s->path))
        return;
    if (s->file.known && !position_same_file(&s->file.id, &now)) {
        source_another_file(s, ret, "was replaced while it was not watched");
        position_remove(s->dir);
    }
    s->file.known = true;
    s->file.id = now;
}

/* Held while it sleeps, too. A file that is not there is for session_open to tell of. */
static int lock_file(struct source *s, struct err *e)
{
    struct stat st;
    bool there = stat(s->path, &st) == 0;
    if (there && s->lock.held && s->lock.dev == st.st_dev && s->lock.ino == st.st_ino)
        return 0;
    source_unlock(s); /* its number may soon be another file's */
    if (!there)
        return 0;
    int r = dblock_take(st.st_dev, st.st_ino, s->path, e);
    if (r < 0)
        return r;
    s->lock.held = true;
    s->lock.dev = st.st_dev;
    s->lock.ino = st.st_ino;
    return 0;
}

/* Whoever owns a directory below a pattern may make a name in it lead to somebody else's file. ret_st: of the file; zero:
 * there is none. */
static int may_follow(struct source *s, struct stat *ret_st, struct err *e)
{
    *ret_st = (struct stat){.st_ino = 0};
    int r = s->conf.found ? whose_below(s->conf.base_len, s->path, ret_st, e) : 0;
    return r == -(int)ERR_PERM ? err_wrap(e, "%s", s->path) : 0;
}

/* At any moment, also while it is opened. */
static int opened_what_may_be(struct source *s, struct err *e)
{
    struct stat st;
    if (may_follow(s, &st, e) == 0 && (!s->conf.found || session_is(s->session, &st)))
        return 0;
    source_close_session(s);
    return e->code == ERR_PERM ? -(int)ERR_PERM : err_set(e, ERR_BUSY, "%s was replaced while it was opened", s->path);
}

int source_attach(struct source *s, struct source_result *ret, struct err *e)
{
    struct stat st;
    int r = may_follow(s, &st, e);
    if (r == 0)
        r = lock_file(s, e);
    if (r < 0)
        return r;
    recognise(s, ret);
    if (source_waits_until_still(s, ret))
        return 1;
    err_clear(e);
    r = source_open(s, ret, e);
    switch (r) {
    case SESSION_EMPTY:
        (void)snprintf(ret->away, sizeof ret->away, "%s", e->msg);
        /* fall through */
    case SESSION_MISSING:
        ret->state = SOURCE_WAITING;
        return r;
    case SESSION_FIRST:
        return r;
    case SESSION_NOT_WAL:
        ret->state = SOURCE_NOT_WAL;
        return r;
    case SESSION_BUSY:
        ret->state = SOURCE_BUSY;
        (void)snprintf(ret->away, sizeof ret->away, "%s", e->msg);
        ret->ahead = !source_asleep(s);
        return r;
    default:
        if (r < 0)
            return r;
    }
    s->pos = (struct capture_pos){.valid = false};
    r = opened_what_may_be(s, e);
    if (r < 0)
        return r;
    r = session_guard_again(s->session, &s->guard_at, e);
    if (r != 0) {
        source_close_session(s);
        ret->state = SOURCE_BUSY;
        return r;
    }
    source_stand_aside(s);
    r = resume(s, ret, e);
    return r < 0 ? r : 0;
}

/* ---- records ----------------------------------------------------------------------------------- */

/* Cheap enough for every capture: it is not synced, and worthless only after a power cut. */
void source_record(struct source *s)
{
    const struct capture_pos *old = &s->recorded, *now = &s->pos;
    if (!s->session || !now->valid || s->n_out || !s->published ||
        (old->valid && !memcmp(old->salt, now->salt, sizeof now->salt) && old->frame == now->frame &&
         !memcmp(old->cksum, now->cksum, sizeof now->cksum) && old->pages == now->pages &&
         old->restartable == now->restartable))
        return;
    struct position p = {.txid = s->published, .lineage = s->lineage, .pos = s->pos,
                         .checksum = s->map ? pagemap_state(s->map)->checksum : 0,
                         .boot = position_boot()};
    if (!source_look(s, &p))
        return;
    if (position_write(s->dir, &p, false, NULL) == 0)
        s->recorded = s->pos;
}

bool source_asleep(struct source *s)
{
    struct position p, now = {.txid = 0};
    if (s->session || !s->published || !position_read(s->dir, &p) || !p.drained ||
        p.txid != s->published || p.lineage != s->lineage || !position_look(&now, s->path) ||
        !position_same_content(&p, &now))
        return false;
    /* an application that goes away removes the WAL, and it had nothing that was not copied */
    return !now.wal_ino || position_same_wal(&p, &now);
}
