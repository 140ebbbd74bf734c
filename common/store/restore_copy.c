#include "common/store/restore_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "common/base/fsx.h"
#include "common/format/crc64.h"
#include "common/store/restore_disk.h"

#define MAGIC 0x77616c7375702d66ull /* "walsup-f" */
#define SLOT_SIZE (4u * 8 + 3 * 4 + COPY_HEADER_SIZE)
#define RECORD_SIZE (8u + 2 * SLOT_SIZE + 8)
#define BUSY_MS 10000
/* SQLite's rollback journal */
#define SECTOR 512u
#define JOURNAL_HEADER 28u
static const uint8_t journal_magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};

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
                        struct err *e)
{
    uint8_t p[RECORD_SIZE];
    be64_put(p, MAGIC);
    slot_put(p + 8, from);
    slot_put(p + 8 + SLOT_SIZE, to);
    be64_put(p + RECORD_SIZE - 8, crc64(0, p, RECORD_SIZE - 8));
    return fsx_publish(path, p, sizeof p, 0600, FSX_REPLACE, e);
}

static bool read_record(const char *path, struct copy_state ret[2])
{
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    if (fsx_read(path, RECORD_SIZE, &b, &e) < 0 || b.len != RECORD_SIZE || be64_get(b.p) != MAGIC ||
        be64_get(b.p + RECORD_SIZE - 8) != crc64(0, b.p, RECORD_SIZE - 8))
        return false;
    ret[0] = slot_get(b.p + 8);
    ret[1] = slot_get(b.p + 8 + SLOT_SIZE);
    return true;
}

/* Page 1 of the source becomes that of the copy: rollback mode, a counter that tells this state from the
 * last one, and a size that is valid for that counter. */
static void patch(uint8_t *page1, const struct copy_state *s)
{
    page1[18] = page1[19] = 1;
    be32_put(page1 + 24, s->counter);
    be32_put(page1 + 28, s->commit);
    be32_put(page1 + 92, s->counter);
}

int copy_prepare(const char *path, int fd, struct copy_state *s, struct err *e)
{
    cleanup_free char *record = copy_record(path);
    uint8_t p[COPY_HEADER_SIZE];
    int r = fsx_pread_all(fd, s->header, sizeof s->header, 0, e);
    if (r < 0)
        return err_wrap(e, "read page 1");
    s->counter = be32_get(s->header + 24) + 1;
    memcpy(p, s->header, sizeof p);
    patch(p, s);
    if (pwrite(fd, p, sizeof p, 0) != (ssize_t)sizeof p)
        return err_sys(e, errno, "write page 1");
    return write_record(record, s, s, e);
}

/* ---- open ----------------------------------------------------------------------------------- */

static int sql_failed(const struct copy *c, const char *what, struct err *e)
{
    int rc = sqlite3_errcode(c->db) & 0xff;
    return err_set(e, rc == SQLITE_BUSY ? ERR_BUSY : rc == SQLITE_FULL ? ERR_NOSPC : ERR_IO,
                   "%s: %s: %s", c->path, what, sqlite3_errmsg(c->db));
}

static int open_db(struct copy *c, struct err *e)
{
    if (sqlite3_open_v2(c->path, &c->db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        return sql_failed(c, "open", e);
    (void)sqlite3_busy_timeout(c->db, BUSY_MS);
    /* reading plays a journal back that a killed process left */
    if (sqlite3_exec(c->db, "PRAGMA mmap_size=0; PRAGMA schema_version", NULL, NULL, NULL) != SQLITE_OK)
        return sql_failed(c, "read", e);
    if (sqlite3_file_control(c->db, "main", SQLITE_FCNTL_FILE_POINTER, &c->file) != SQLITE_OK)
        return sql_failed(c, "file handle", e);
    return 0;
}

static int read_page(const struct copy *c, void *p, size_t n, uint64_t off, struct err *e)
{
    int rc = c->file->pMethods->xRead(c->file, p, (int)n, (sqlite3_int64)off);
    return rc == SQLITE_OK ? 0 : err_set(e, ERR_IO, "%s: read at %" PRIu64 ": %s", c->path, off,
                                         sqlite3_errstr(rc));
}

int copy_open(struct copy *c, const char *path, struct err *e)
{
    struct copy_state s[2];
    uint8_t p[COPY_HEADER_SIZE];
    *c = (struct copy){.path = util_strdup(path), .record = copy_record(path)};
    (void)restore_sweep(c->record);
    if (!read_record(c->record, s) || access(path, F_OK) < 0) {
        copy_close(c);
        return 2;
    }
    int r = open_db(c, e);
    if (!r)
        r = read_page(c, p, sizeof p, 0, e);
    if (r < 0) {
        copy_close(c);
        return r;
    }
    for (int i = 1; i >= 0; i--) {
        uint8_t want[COPY_HEADER_SIZE];
        memcpy(want, s[i].header, sizeof want);
        patch(want, &s[i]);
        c->state = s[i];
        if (!memcmp(want, p, sizeof p))
            return 0;
    }
    c->state.counter = be32_get(p + 24);
    c->state.page_size = be16_get(p + 16) == 1 ? 65536 : be16_get(p + 16);
    return 1;
}

void copy_close(struct copy *c)
{
    (void)sqlite3_close(c->db);
    free(c->path);
    free(c->record);
    *c = (struct copy){.path = NULL};
}

/* ---- a step --------------------------------------------------------------------------------- */

struct step {
    struct copy *c;
    struct copy_step *s;
    uint32_t page_size, old_commit, lock;
    uint8_t *old, *new, *map; /* map: bit n: page n is to be written */
    uint64_t checksum;
    int journal;
    uint32_t n_saved, nonce;
    struct buf out; /* of the journal */
};

static bool in_new(const struct step *x, uint32_t pgno)
{
    return pgno <= x->s->to.commit &&
           (pgno == 1 || !x->s->have || x->s->have[pgno / 8] >> pgno % 8 & 1);
}

/* x->new: page n as it will be in the source. Page 1 is always written, for its counter. */
static int load_new(struct step *x, uint32_t pgno, struct err *e)
{
    bool here = !x->s->have || x->s->have[pgno / 8] >> pgno % 8 & 1;
    if (!here) {
        memcpy(x->new, x->old, x->page_size);
        memcpy(x->new, x->c->state.header, COPY_HEADER_SIZE);
        return 0;
    }
    return fsx_pread_all(x->s->fd, x->new, x->page_size, (uint64_t)(pgno - 1) * x->page_size, e);
}

static uint32_t journal_sum(const struct step *x, const uint8_t *page)
{
    uint32_t sum = x->nonce;
    for (int i = (int)x->page_size - 200; i > 0; i -= 200)
        sum += page[i];
    return sum;
}

static int flush(struct step *x, size_t at_least, struct err *e)
{
    if (x->out.len < at_least)
        return 0;
    int r = fsx_write_all(x->journal, x->out.p, x->out.len, e);
    x->out.len = 0;
    return r;
}

static int save(struct step *x, uint32_t pgno, struct err *e)
{
    uint8_t word[4];
    be32_put(word, pgno);
    buf_add(&x->out, word, sizeof word);
    buf_add(&x->out, x->old, x->page_size);
    be32_put(word, journal_sum(x, x->old));
    buf_add(&x->out, word, sizeof word);
    x->n_saved++;
    return flush(x, 1u << 20, e);
}

/* The checksum of x->old, as the source has it. */
static uint64_t old_sum(const struct step *x, uint32_t pgno)
{
    if (pgno != 1)
        return ltx_page_checksum(pgno, x->old, x->page_size);
    uint8_t copy[COPY_HEADER_SIZE];
    memcpy(copy, x->old, sizeof copy);
    memcpy(x->old, x->c->state.header, sizeof copy);
    uint64_t sum = ltx_page_checksum(pgno, x->old, x->page_size);
    memcpy(x->old, copy, sizeof copy);
    return sum;
}

/* What page n was goes into the journal, if it changes. */
static int look_at(struct step *x, uint32_t pgno, struct err *e)
{
    bool is_new = in_new(x, pgno), was = pgno <= x->old_commit;
    uint64_t sum = 0, before = 0;
    int r = 0;
    if (pgno == x->lock || (!is_new && pgno <= x->s->to.commit))
        return 0;
    if (was) {
        r = read_page(x->c, x->old, x->page_size, (uint64_t)(pgno - 1) * x->page_size, e);
        before = r < 0 ? 0 : old_sum(x, pgno);
    }
    if (!r && is_new) {
        r = load_new(x, pgno, e);
        sum = r < 0 ? 0 : ltx_page_checksum(pgno, x->new, x->page_size);
        if (!r && pgno == 1)
            memcpy(x->s->to.header, x->new, COPY_HEADER_SIZE);
    }
    /* all pages are at hand: what was there before does not matter */
    if (!r)
        x->checksum ^= x->s->have ? before ^ sum : sum;
    if (r < 0 || (was && is_new && sum == before && pgno != 1))
        return r;
    if (is_new)
        x->map[pgno / 8] |= (uint8_t)(1 << pgno % 8);
    x->s->pages += is_new;
    return was ? save(x, pgno, e) : 0;
}

static int begin_journal(struct step *x, const char *path, struct err *e)
{
    uint8_t head[SECTOR] = {0};
    x->journal = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st;
    if (x->journal < 0 || stat(x->c->path, &st) < 0)
        return err_sys(e, errno, "create %s", path);
    /* whoever may write the database may have to play it back */
    (void)fchmod(x->journal, st.st_mode & 0777);
    if (geteuid() == 0 && fchown(x->journal, st.st_uid, st.st_gid) < 0)
        return err_sys(e, errno, "set the owner of %s", path);
    util_random(&x->nonce, sizeof x->nonce);
    /* all zero is no journal: it becomes one when everything in it is on the disk */
    return fsx_write_all(x->journal, head, sizeof head, e);
}

static int seal_journal(struct step *x, const char *path, struct err *e)
{
    uint8_t head[JOURNAL_HEADER];
    cleanup_free char *copy = util_strdup(path);
    memcpy(head, journal_magic, sizeof journal_magic);
    be32_put(head + 8, x->n_saved);
    be32_put(head + 12, x->nonce);
    be32_put(head + 16, x->old_commit);
    be32_put(head + 20, SECTOR);
    be32_put(head + 24, x->page_size);
    int r = flush(x, 1, e);
    if (!r && fdatasync(x->journal) < 0)
        r = err_sys(e, errno, "fsync %s", path);
    if (!r && pwrite(x->journal, head, sizeof head, 0) != (ssize_t)sizeof head)
        r = err_sys(e, errno, "write %s", path);
    if (!r && fdatasync(x->journal) < 0)
        r = err_sys(e, errno, "fsync %s", path);
    return r < 0 ? r : fsx_sync_dir(dirname(copy), e);
}

static int write_new(struct step *x, struct err *e)
{
    const sqlite3_io_methods *io = x->c->file->pMethods;
    int rc = SQLITE_OK;
    for (uint32_t i = 1; i <= x->s->to.commit && rc == SQLITE_OK; i++) {
        if (!(x->map[i / 8] >> i % 8 & 1))
            continue;
        uint64_t off = (uint64_t)(i - 1) * x->page_size;
        int r = i == 1 ? read_page(x->c, x->old, x->page_size, off, e) : 0;
        if (!r)
            r = load_new(x, i, e);
        if (r < 0)
            return r;
        if (i == 1)
            patch(x->new, &x->s->to);
        rc = io->xWrite(x->c->file, x->new, (int)x->page_size, (sqlite3_int64)off);
    }
    if (rc == SQLITE_OK)
        rc = io->xTruncate(x->c->file, (sqlite3_int64)x->s->to.commit * x->page_size);
    if (rc == SQLITE_OK)
        rc = io->xSync(x->c->file, SQLITE_SYNC_FULL);
    return rc == SQLITE_OK ? 0 : err_set(e, rc == SQLITE_FULL ? ERR_NOSPC : ERR_IO, "%s: write: %s",
                                         x->c->path, sqlite3_errstr(rc));
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

/* Under the lock. Until the journal is gone the old state is what counts. */
static int locked(struct step *x, const char *path, struct err *e)
{
    cleanup_free char *copy = util_strdup(path);
    uint32_t last = MAX(x->old_commit, x->s->to.commit);
    int r = begin_journal(x, path, e);
    for (uint32_t i = 1; !r && i <= last; i++)
        r = look_at(x, i, e);
    if (!r)
        r = compare(x, e);
    if (!r)
        r = write_record(x->c->record, &x->c->state, &x->s->to, e);
    if (r < 0) {
        if (x->journal >= 0)
            (void)unlink(path); /* nothing was written, and it is no journal yet */
        return r;
    }
    r = seal_journal(x, path, e);
    if (!r)
        r = write_new(x, e);
    if (!r && unlink(path) < 0)
        r = err_sys(e, errno, "remove %s", path);
    if (!r)
        r = fsx_sync_dir(dirname(copy), e);
    return r;
}

/* Whatever a step that failed half-way has written is played back by the next reader, or here. */
static int end(struct step *x, int r, struct err *e)
{
    struct err own = {0};
    if (sqlite3_exec(x->c->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK && !r)
        r = sql_failed(x->c, "unlock", e);
    if (!r)
        x->c->state = x->s->to;
    else if (sqlite3_exec(x->c->db, "PRAGMA schema_version", NULL, NULL, NULL) != SQLITE_OK)
        (void)sql_failed(x->c, "read", &own);
    return r;
}

int copy_apply(struct copy *c, struct copy_step *s, struct err *e)
{
    struct step x = {.c = c, .s = s, .page_size = s->to.page_size, .journal = -1,
                     .checksum = s->have ? c->state.checksum : 0, .out = BUF_INIT};
    cleanup_free char *path = util_printf("%s-journal", c->path);
    sqlite3_int64 size = 0;
    if (s->to.page_size != c->state.page_size) {
        (void)err_set(e, ERR_UNSUPPORTED, "%s has pages of %u bytes, the replica of %u now", c->path,
                      c->state.page_size, s->to.page_size);
        return err_hint(e, "stop the readers, remove the copy and its .follow, and start again");
    }
    if (sqlite3_exec(c->db, "BEGIN EXCLUSIVE", NULL, NULL, NULL) != SQLITE_OK) {
        int r = sql_failed(c, "lock", e);
        (void)sqlite3_exec(c->db, "ROLLBACK", NULL, NULL, NULL);
        return r;
    }
    (void)c->file->pMethods->xFileSize(c->file, &size);
    x.old_commit = (uint32_t)((uint64_t)size / x.page_size);
    x.lock = ltx_lock_pgno(x.page_size);
    s->to.counter = c->state.counter + 1;
    s->pages = 0;
    x.old = malloc(x.page_size);
    x.new = malloc(x.page_size);
    x.map = calloc((size_t)s->to.commit / 8 + 1, 1);
    int r = x.old && x.new && x.map ? locked(&x, path, e)
                                    : err_set(e, ERR_NOMEM, "%s: no memory for a step", c->path);
    if (x.journal >= 0)
        (void)close(x.journal);
    free(x.old);
    free(x.new);
    free(x.map);
    buf_free(&x.out);
    return end(&x, r, e);
}
