#include "common/store/restore_copy.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "common/base/fsx.h"
#include "common/format/crc64.h"
#include "common/store/restore_disk.h"
#include "common/store/restore_wal.h"

#define MAGIC 0x77616c7375702d77ull          /* "walsup-w" */
#define MAGIC_ROLLBACK 0x77616c7375702d66ull /* "walsup-f": a copy in rollback mode */
#define SLOT_SIZE (4u * 8 + 3 * 4 + COPY_HEADER_SIZE)
#define SEEN_SIZE (3u * 8)
#define RECORD_SIZE (8u + 2 * SLOT_SIZE + SEEN_SIZE + 8)
#define ROLLBACK_SIZE (8u + 2 * SLOT_SIZE + 8)
#define BUSY_MS 10000
#define TICK_US 20000 /* longer than the kernel's clock for files stands still */

/* the file after an orderly end, so that it need not be read to know what it is; all zero: it does */
struct seen {
    uint64_t ino, size;
    int64_t mtime_ns;
};

struct record {
    bool rollback;
    struct copy_state s[2]; /* before and after the last step */
    struct seen seen;
};

char *copy_record(const char *path)
{
    return util_printf("%s.follow", path);
}

/* ---- the record ----------------------------------------------------------------------------- */

static void slot_put(uint8_t *p, const struct copy_state *s)
{
    be64_put(p, s->txid);
    be64_put(p + 8, s->lineage);
    be64_put(p + 16, s->checksum);
    be64_put(p + 24, (uint64_t)s->time_ms);
    be32_put(p + 32, s->page_size);
    be32_put(p + 36, s->commit);
    be32_put(p + 40, s->counter);
    memcpy(p + 44, s->header, COPY_HEADER_SIZE);
}

static struct copy_state slot_get(const uint8_t *p)
{
    struct copy_state s = {be64_get(p), be64_get(p + 8), be64_get(p + 16), (int64_t)be64_get(p + 24),
                           be32_get(p + 32), be32_get(p + 36), be32_get(p + 40), {0}};
    memcpy(s.header, p + 44, COPY_HEADER_SIZE);
    return s;
}

static int write_record(const char *path, const struct copy_state *from, const struct copy_state *to,
                        const struct seen *seen, struct err *e)
{
    uint8_t p[RECORD_SIZE], *at = p + 8 + 2 * SLOT_SIZE;
    be64_put(p, MAGIC);
    slot_put(p + 8, from);
    slot_put(p + 8 + SLOT_SIZE, to);
    be64_put(at, seen->ino);
    be64_put(at + 8, seen->size);
    be64_put(at + 16, (uint64_t)seen->mtime_ns);
    be64_put(p + RECORD_SIZE - 8, crc64(0, p, RECORD_SIZE - 8));
    return fsx_publish(path, p, sizeof p, 0600, FSX_REPLACE, e);
}

static bool read_record(const char *path, struct record *ret)
{
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    if (fsx_read(path, RECORD_SIZE, &b, &e) < 0 || b.len < 16 ||
        be64_get(b.p + b.len - 8) != crc64(0, b.p, b.len - 8))
        return false;
    ret->rollback = be64_get(b.p) == MAGIC_ROLLBACK && b.len == ROLLBACK_SIZE;
    if (!ret->rollback && (be64_get(b.p) != MAGIC || b.len != RECORD_SIZE))
        return false;
    ret->s[0] = slot_get(b.p + 8);
    ret->s[1] = slot_get(b.p + 8 + SLOT_SIZE);
    const uint8_t *at = b.p + 8 + 2 * SLOT_SIZE;
    ret->seen = (struct seen){0};
    if (!ret->rollback)
        ret->seen = (struct seen){be64_get(at), be64_get(at + 8), (int64_t)be64_get(at + 16)};
    return true;
}

/* A time without nanoseconds may be of a file system that has none: it proves nothing. */
static struct seen seen_of(const struct stat *st)
{
    if (!st->st_mtim.tv_nsec)
        return (struct seen){0};
    return (struct seen){st->st_ino, (uint64_t)st->st_size, st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec};
}

/* Nothing lies beside it, and it looks as it did. */
static bool untouched(const char *path, const struct seen *before)
{
    struct stat st;
    cleanup_free char *wal = util_printf("%s-wal", path), *journal = util_printf("%s-journal", path);
    if (!before->ino || lstat(wal, &st) == 0 || lstat(journal, &st) == 0 || stat(path, &st) < 0)
        return false;
    struct seen now = seen_of(&st);
    return now.ino == before->ino && now.size == before->size && now.mtime_ns == before->mtime_ns;
}

/* Page 1 of the source becomes that of the copy: WAL mode. */
static void patch(uint8_t *page1)
{
    page1[18] = page1[19] = 2;
}

int copy_prepare(const char *path, int fd, struct copy_state *s, struct err *e)
{
    cleanup_free char *record = copy_record(path);
    uint8_t p[COPY_HEADER_SIZE];
    struct stat st;
    int r = fsx_pread_all(fd, s->header, sizeof s->header, 0, e);
    if (r < 0)
        return err_wrap(e, "read page 1");
    memcpy(p, s->header, sizeof p);
    patch(p);
    if (pwrite(fd, p, sizeof p, 0) != (ssize_t)sizeof p || fsync(fd) < 0 || fstat(fd, &st) < 0)
        return err_sys(e, errno, "write page 1");
    (void)usleep(TICK_US);
    struct seen seen = seen_of(&st);
    return write_record(record, s, s, &seen, e);
}

/* ---- open ----------------------------------------------------------------------------------- */

static int sql_failed(const struct copy *c, const char *what, struct err *e)
{
    int rc = sqlite3_errcode(c->db) & 0xff;
    return err_set(e, rc == SQLITE_BUSY ? ERR_BUSY : rc == SQLITE_FULL ? ERR_NOSPC : ERR_IO,
                   "%s: %s: %s", c->path, what, rc == SQLITE_OK ? "SQLite did not do it" : sqlite3_errmsg(c->db));
}

static int on_mode(void *arg, int n, char **value, char **name)
{
    bool *wal = arg;
    (void)name;
    *wal = n == 1 && value[0] && !strcmp(value[0], "wal");
    return 0;
}

static int open_db(struct copy *c, struct err *e)
{
    bool wal = false;
    if (sqlite3_open_v2(c->path, &c->db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        return sql_failed(c, "open", e);
    (void)sqlite3_busy_timeout(c->db, BUSY_MS);
    /* reading plays back what a killed process left */
    if (sqlite3_exec(c->db, "PRAGMA mmap_size=0; PRAGMA wal_autocheckpoint=0; PRAGMA schema_version", NULL, NULL,
                     NULL) != SQLITE_OK)
        return sql_failed(c, "read", e);
    if (sqlite3_exec(c->db, "PRAGMA journal_mode=wal", on_mode, &wal, NULL) != SQLITE_OK || !wal) {
        int r = wal ? 0 : sql_failed(c, "bring it into WAL mode", e);
        return r ? err_hint(e, "it is in rollback mode, and its readers keep it there; stop them, and run the same "
                               "command again") : err_set(e, ERR_UNSUPPORTED, "%s: it cannot be in WAL mode", c->path);
    }
    return 0;
}

static uint64_t page_sum(const struct copy *c, uint32_t pgno, uint8_t *p)
{
    uint8_t copy[COPY_HEADER_SIZE];
    if (pgno != 1)
        return ltx_page_checksum(pgno, p, c->state.page_size);
    /* as the source has it */
    memcpy(copy, p, sizeof copy);
    memcpy(p, c->state.header, sizeof copy);
    uint64_t sum = ltx_page_checksum(pgno, p, c->state.page_size);
    memcpy(p, copy, sizeof copy);
    return sum;
}

/* Of all pages but the first; *ret_first: that one, malloc'ed. */
static int sum_of(const struct walx *x, uint64_t *ret, uint8_t **ret_first, struct err *e)
{
    cleanup_free uint8_t *p = malloc(x->page_size), *first = malloc(x->page_size);
    uint32_t lock = ltx_lock_pgno(x->page_size);
    uint64_t sum = 0;
    if (!p || !first)
        return err_set(e, ERR_NOMEM, "%s: no memory for a page", x->path);
    int r = walx_read(x, 1, first, e);
    for (uint32_t n = 2; n <= x->pages && !r; n++) {
        if (n == lock)
            continue;
        r = walx_read(x, n, p, e);
        if (!r)
            sum ^= ltx_page_checksum(n, p, x->page_size);
    }
    if (!r) {
        *ret = sum;
        *ret_first = TAKE_PTR(first);
    }
    return r;
}

/* What page 1 has in the copy where the source has s->header. */
static bool header_fits(const struct record *rec, const struct copy_state *s, const uint8_t *page1)
{
    uint8_t want[COPY_HEADER_SIZE];
    memcpy(want, s->header, sizeof want);
    patch(want);
    if (!rec->rollback)
        return !memcmp(want, page1, sizeof want);
    /* the counters were walsup's own, and SQLite has counted on when it changed the mode */
    return !memcmp(want, page1, 24) && !memcmp(want + 32, page1 + 32, 60);
}

/* 0: it is in one of the states of its record; 1: it is not */
static int recognize(struct copy *c, const struct record *rec, bool known, struct err *e)
{
    struct walx x;
    uint64_t sum = 0;
    cleanup_free uint8_t *first = NULL;
    c->state = rec->s[1];
    int r = walx_begin(&x, c->db, c->path, c->state.page_size, BUSY_MS, e);
    if (r < 0)
        return r;
    c->change = x.h.change;
    if (known) {
        walx_end(&x);
        return 0;
    }
    r = sum_of(&x, &sum, &first, e);
    walx_end(&x);
    for (int i = 1; i >= 0 && !r; i--) {
        c->state = rec->s[i];
        if (x.pages == c->state.commit && header_fits(rec, &c->state, first) &&
            ((sum ^ page_sum(c, 1, first)) | LTX_CHECKSUM_FLAG) == c->state.checksum)
            return 0;
    }
    return r < 0 ? r : 1;
}

/* Its page 1 had counters of walsup's own: now it becomes the source's. */
static int rewrite_page1(struct copy *c, struct err *e)
{
    cleanup_free uint8_t *none = calloc((size_t)c->state.commit / 8 + 1, 1);
    struct copy_step s = {.fd = -1, .have = none, .to = c->state};
    return none ? copy_apply(c, &s, e) : err_set(e, ERR_NOMEM, "%s: no memory for a step", c->path);
}

static int open_copy(struct copy *c, const struct record *rec, struct err *e)
{
    bool known = untouched(c->path, &rec->seen);
    int r = open_db(c, e);
    if (!r)
        r = recognize(c, rec, known, e);
    c->foreign = r > 0;
    return r || !rec->rollback ? r : rewrite_page1(c, e);
}

int copy_open(struct copy *c, const char *path, struct err *e)
{
    struct record rec;
    *c = (struct copy){.path = util_strdup(path), .record = copy_record(path)};
    (void)restore_sweep(c->record);
    int r = !read_record(c->record, &rec) || access(path, F_OK) < 0 ? 2 : open_copy(c, &rec, e);
    if (r == 2 || r < 0) {
        c->state.txid = 0; /* nothing is known, so nothing is noted */
        copy_close(c);
    }
    return r;
}

/* The next one to open it need not read all of it, if nobody has it open any more. */
static void note_end(const struct copy *c)
{
    struct stat st;
    struct seen seen;
    (void)usleep(TICK_US);
    if (stat(c->path, &st) < 0)
        return;
    seen = seen_of(&st);
    if (untouched(c->path, &seen))
        (void)write_record(c->record, &c->state, &c->state, &seen, NULL);
}

void copy_close(struct copy *c)
{
    bool open = c->db && c->state.txid;
    (void)sqlite3_close(c->db);
    if (open && !c->foreign)
        note_end(c);
    free(c->path);
    free(c->record);
    *c = (struct copy){.path = NULL};
}

/* ---- a step --------------------------------------------------------------------------------- */

struct step {
    struct copy *c;
    struct copy_step *s;
    struct walx x;
    uint32_t lock;
    uint8_t *old, *new, *map; /* map: bit n: page n is to be written */
    uint64_t checksum;
};

static bool in_new(const struct step *x, uint32_t pgno)
{
    return pgno <= x->s->to.commit &&
           (pgno == 1 || !x->s->have || x->s->have[pgno / 8] >> pgno % 8 & 1);
}

/* x->new: page n as it will be in the source. Page 1 is always written: a commit needs a page. */
static int load_new(struct step *x, uint32_t pgno, struct err *e)
{
    bool here = !x->s->have || x->s->have[pgno / 8] >> pgno % 8 & 1;
    if (!here) {
        memcpy(x->new, x->old, x->x.page_size);
        memcpy(x->new, x->c->state.header, COPY_HEADER_SIZE);
        return 0;
    }
    return fsx_pread_all(x->s->fd, x->new, x->x.page_size, (uint64_t)(pgno - 1) * x->x.page_size, e);
}

/* Does page n change, and what does that do to the checksum? */
static int look_at(struct step *x, uint32_t pgno, struct err *e)
{
    bool is_new = in_new(x, pgno), was = pgno <= x->x.pages;
    uint64_t sum = 0, before = 0;
    int r = 0;
    if (pgno == x->lock || (!is_new && pgno <= x->s->to.commit))
        return 0;
    if (was) {
        r = walx_read(&x->x, pgno, x->old, e);
        before = r < 0 ? 0 : page_sum(x->c, pgno, x->old);
    }
    if (!r && is_new) {
        r = load_new(x, pgno, e);
        sum = r < 0 ? 0 : ltx_page_checksum(pgno, x->new, x->x.page_size);
        if (!r && pgno == 1)
            memcpy(x->s->to.header, x->new, COPY_HEADER_SIZE);
    }
    /* all pages are at hand: what was there before does not matter */
    if (!r)
        x->checksum ^= x->s->have ? before ^ sum : sum;
    if (r < 0 || !is_new || (was && sum == before && pgno != 1))
        return r;
    x->map[pgno / 8] |= (uint8_t)(1 << pgno % 8);
    x->s->pages++;
    return 0;
}

static int write_new(struct step *x, struct err *e)
{
    int r = 0;
    for (uint32_t i = 1; i <= x->s->to.commit && !r; i++) {
        if (!(x->map[i / 8] >> i % 8 & 1))
            continue;
        if (i == 1)
            r = walx_read(&x->x, i, x->old, e);
        if (!r)
            r = load_new(x, i, e);
        if (!r && i == 1)
            patch(x->new);
        if (!r)
            r = walx_put(&x->x, i, x->new, e);
    }
    return r < 0 ? r : walx_commit(&x->x, x->s->to.commit, e);
}

static int compare(const struct step *x, struct err *e)
{
    uint64_t want = x->s->to.checksum, found = x->checksum | LTX_CHECKSUM_FLAG;
    if (want && want != found)
        return err_set(e, ERR_CORRUPT, "%s: the database at TXID %016" PRIx64
                       " should have checksum %016" PRIx64 ", the copy would have %016" PRIx64,
                       x->c->path, x->s->to.txid, want, found);
    x->s->to.checksum = found;
    return 0;
}

static int locked(struct step *x, struct err *e)
{
    static const struct seen in_use;
    uint32_t last = MAX(x->x.pages, x->s->to.commit);
    int r = 0;
    if (x->s->have && x->x.h.change != x->c->change)
        return 1;
    for (uint32_t i = 1; !r && i <= last; i++)
        r = look_at(x, i, e);
    if (!r)
        r = compare(x, e);
    if (!r)
        r = write_record(x->c->record, &x->c->state, &x->s->to, &in_use, e);
    return r < 0 ? r : write_new(x, e);
}

static int still_there(const struct copy *c, struct err *e)
{
    int moved = 0;
    if (sqlite3_file_control(c->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) != SQLITE_OK || !moved)
        return 0;
    err_set(e, ERR_EXISTS, "%s was replaced or removed while it was followed", c->path);
    return err_hint(e, "start again; if another file is there now, move it away, and %s with it", c->record);
}

int copy_apply(struct copy *c, struct copy_step *s, struct err *e)
{
    struct step x = {.c = c, .s = s, .checksum = s->have ? c->state.checksum : 0};
    if (s->to.page_size != c->state.page_size) {
        (void)err_set(e, ERR_UNSUPPORTED, "%s has pages of %u bytes, the replica of %u now", c->path,
                      c->state.page_size, s->to.page_size);
        return err_hint(e, "stop the readers, remove the copy and its .follow, and start again");
    }
    int r = still_there(c, e);
    if (!r)
        r = walx_begin(&x.x, c->db, c->path, s->to.page_size, BUSY_MS, e);
    if (r < 0)
        return r;
    x.lock = ltx_lock_pgno(x.x.page_size);
    s->pages = 0;
    x.old = malloc(x.x.page_size);
    x.new = malloc(x.x.page_size);
    x.map = calloc((size_t)s->to.commit / 8 + 1, 1);
    r = x.old && x.new && x.map ? locked(&x, e) : err_set(e, ERR_NOMEM, "%s: no memory for a step", c->path);
    walx_end(&x.x);
    free(x.old);
    free(x.new);
    free(x.map);
    if (r == 0) {
        c->state = s->to;
        c->change = x.x.h.change;
        c->foreign = false;
        walx_checkpoint(c->db);
    }
    c->foreign = c->foreign || r > 0;
    return r;
}
