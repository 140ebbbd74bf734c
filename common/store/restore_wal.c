#include "common/store/restore_wal.h"

#include <assert.h>
#include <sqlite3.h>

#include "common/base/clk.h"
#include "common/format/wal.h"

#define INDEX_VERSION 3007000u
#define REGION 32768
#define SLOTS 8192u
#define PER_BLOCK 4096u
#define HEAD_BYTES 136u
#define IN_FIRST (PER_BLOCK - HEAD_BYTES / 4)
/* SQLite's locks in the -shm */
#define LOCK_WRITE 0
#define LOCK_CHECKPOINT 1
#define LOCK_READ_1 4
#define READERS 4
#define NOT_USED UINT32_MAX

#define OUT_BYTES (1u << 20)
#define WRITE_BYTES (64u << 10) /* SQLite's own never write more than a page at once; the VFS takes less than 128 KiB */
#define LONG_WAL_BYTES (16u << 20)

static_assert(sizeof(struct walx_header) == 48, "as in the -shm");

/* behind the two copies of the header */
struct info {
    uint32_t backfill, read_mark[1 + READERS];
    uint8_t lock[8];
    uint32_t attempted, unused;
};

static_assert(2 * sizeof(struct walx_header) + sizeof(struct info) == HEAD_BYTES, "as in the -shm");

static int failed(const struct walx *x, const char *what, int rc, struct err *e)
{
    int code = rc & 0xff;
    return err_set(e, code == SQLITE_BUSY ? ERR_BUSY : code == SQLITE_FULL ? ERR_NOSPC : ERR_IO, "%s: %s: %s", x->path,
                   what, sqlite3_errstr(rc));
}

/* ---- the wal-index -------------------------------------------------------------------------- */

/* The mapping is shared with other processes: words, each written once. */
static void words_get(void *to, const volatile uint32_t *from, size_t bytes)
{
    uint32_t *p = to;
    for (size_t i = 0; i < bytes / 4; i++)
        p[i] = from[i];
}

static void words_put(volatile uint32_t *to, const void *from, size_t bytes)
{
    const uint32_t *p = from;
    for (size_t i = 0; i < bytes / 4; i++)
        to[i] = p[i];
}

static int region(const struct walx *x, uint32_t i, volatile void **ret, struct err *e)
{
    int rc = x->file->pMethods->xShmMap(x->file, (int)i, REGION, 1, ret);
    if (rc == SQLITE_OK && !*ret)
        rc = SQLITE_IOERR_SHMMAP;
    return rc == SQLITE_OK ? 0 : failed(x, "map the wal-index", rc, e);
}

struct block {
    volatile uint32_t *pgno; /* [0]: of frame zero + 1 */
    volatile uint16_t *hash;
    uint32_t zero, n;
};

static uint32_t block_of(uint32_t frame)
{
    return (frame + PER_BLOCK - IN_FIRST - 1) / PER_BLOCK;
}

static int block(const struct walx *x, uint32_t i, struct block *ret, struct err *e)
{
    volatile void *p = NULL;
    int r = region(x, i, &p, e);
    if (r < 0)
        return r;
    uint32_t skip = i ? 0 : HEAD_BYTES / 4;
    *ret = (struct block){(volatile uint32_t *)p + skip, (volatile uint16_t *)((volatile uint32_t *)p + PER_BLOCK),
                          i ? IN_FIRST + (i - 1) * PER_BLOCK : 0, PER_BLOCK - skip};
    return 0;
}

static uint32_t slot_of(uint32_t pgno)
{
    return pgno * 383 & (SLOTS - 1);
}

/* the newest frame of a page; 0: it is in the database file */
static int find_frame(const struct walx *x, uint32_t pgno, uint32_t *ret, struct err *e)
{
    *ret = 0;
    if (!x->h.frames)
        return 0;
    for (uint32_t i = block_of(x->h.frames) + 1; i-- > 0 && !*ret;) {
        struct block b;
        int r = block(x, i, &b, e);
        if (r < 0)
            return r;
        uint32_t tries = SLOTS;
        for (uint32_t s = slot_of(pgno); b.hash[s]; s = (s + 1) & (SLOTS - 1)) {
            uint32_t at = b.hash[s];
            if (!tries-- || at > b.n)
                return err_set(e, ERR_CORRUPT, "%s: the wal-index is damaged", x->path);
            if (b.zero + at <= x->h.frames && b.pgno[at - 1] == pgno)
                *ret = b.zero + at;
        }
    }
    return 0;
}

static void header_sum(const struct walx_header *h, uint32_t s[2])
{
    const uint16_t one = 1;
    s[0] = s[1] = 0;
    wal_checksum(*(const uint8_t *)&one == 0, (const uint8_t *)h, offsetof(struct walx_header, own_cksum), s);
}

/* false: a writer died while it wrote one of them, and the next reader has to recover */
static bool header_read(volatile void *p, struct walx_header *ret)
{
    struct walx_header two[2];
    uint32_t s[2];
    words_get(two, p, sizeof two);
    header_sum(&two[0], s);
    *ret = two[0];
    return two[0].init && !memcmp(&two[0], &two[1], sizeof two[0]) && !memcmp(s, two[0].own_cksum, sizeof s);
}

static int header_write(const struct walx *x, struct walx_header *h, struct err *e)
{
    volatile void *p = NULL;
    int r = region(x, 0, &p, e);
    if (r < 0)
        return r;
    h->init = 1;
    h->version = INDEX_VERSION;
    header_sum(h, h->own_cksum);
    words_put((volatile uint32_t *)p + sizeof *h / 4, h, sizeof *h);
    x->file->pMethods->xShmBarrier(x->file);
    words_put(p, h, sizeof *h);
    return 0;
}

/* What a writer that died has left behind the last frame. */
static int clean(const struct walx *x, struct err *e)
{
    struct block b;
    int r = x->next.frames ? block(x, block_of(x->next.frames), &b, e) : 1;
    if (r != 0)
        return r < 0 ? r : 0;
    uint32_t keep = x->next.frames - b.zero;
    for (uint32_t i = 0; i < SLOTS; i++)
        if (b.hash[i] > keep)
            b.hash[i] = 0;
    for (uint32_t i = keep; i < b.n; i++)
        b.pgno[i] = 0;
    return 0;
}

static int index_add(const struct walx *x, uint32_t frame, uint32_t pgno, struct err *e)
{
    struct block b;
    int r = block(x, block_of(frame), &b, e);
    if (r < 0)
        return r;
    uint32_t at = frame - b.zero, s = slot_of(pgno), tries = SLOTS;
    for (uint32_t i = 0; at == 1 && i < b.n + SLOTS / 2; i++) /* a block that is begun: the hash follows */
        b.pgno[i] = 0;
    for (; b.hash[s]; s = (s + 1) & (SLOTS - 1))
        if (!tries--)
            return err_set(e, ERR_CORRUPT, "%s: the wal-index is damaged", x->path);
    b.pgno[at - 1] = pgno;
    b.hash[s] = (uint16_t)at;
    return 0;
}

/* ---- locks ---------------------------------------------------------------------------------- */

static int lock(const struct walx *x, int at, int n)
{
    return x->file->pMethods->xShmLock(x->file, at, n, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE);
}

static void unlock(const struct walx *x, int at, int n)
{
    (void)x->file->pMethods->xShmLock(x->file, at, n, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
}

/* Reading opens the -wal and the wal-index, and recovers it if need be. */
static int open_handles(struct walx *x, struct err *e)
{
    int rc = sqlite3_exec(x->db, "PRAGMA schema_version", NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        return failed(x, "read", rc, e);
    rc = sqlite3_file_control(x->db, "main", SQLITE_FCNTL_FILE_POINTER, &x->file);
    if (rc == SQLITE_OK)
        rc = sqlite3_file_control(x->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &x->wal);
    if (rc == SQLITE_OK && (!x->file->pMethods || x->file->pMethods->iVersion < 2 || !x->wal->pMethods))
        rc = SQLITE_MISUSE;
    return rc == SQLITE_OK ? 0 : failed(x, "file handle", rc, e);
}

/* An empty -wal says neither how large a page is nor how many there are. */
static int understood(struct walx *x, uint32_t page_size, struct err *e)
{
    sqlite3_int64 size = 0;
    uint32_t said = x->h.page_size == 1 ? 65536 : x->h.page_size;
    if (x->h.version != INDEX_VERSION)
        return err_set(e, ERR_UNSUPPORTED, "%s: its wal-index has version %u, which this walsup does not know", x->path,
                       x->h.version);
    if (said && said != page_size)
        return err_set(e, ERR_UNSUPPORTED, "%s: its -wal has pages of %u bytes, the database of %u", x->path, said,
                       page_size);
    int rc = x->file->pMethods->xFileSize(x->file, &size);
    x->page_size = page_size;
    x->pages = x->h.pages ? x->h.pages : (uint32_t)((uint64_t)size / page_size);
    return rc == SQLITE_OK ? 0 : failed(x, "look at its size", rc, e);
}

int walx_begin(struct walx *x, struct sqlite3 *db, const char *path, uint32_t page_size, unsigned timeout_ms,
               struct err *e)
{
    uint64_t end = clk_mono_ms() + timeout_ms;
    *x = (struct walx){.db = db, .path = path, .out = BUF_INIT, .pgno = BUF_INIT};
    for (;;) {
        volatile void *p = NULL;
        int r = open_handles(x, e);
        if (r < 0)
            return r;
        int rc = lock(x, LOCK_WRITE, 1);
        if (rc == SQLITE_OK) {
            r = region(x, 0, &p, e);
            bool good = !r && header_read(p, &x->h);
            if (good)
                r = understood(x, page_size, e);
            x->next = x->h;
            x->locked = good && !r;
            if (x->locked)
                return 0;
            unlock(x, LOCK_WRITE, 1);
            if (r < 0)
                return r;
            rc = SQLITE_BUSY;
        }
        if ((rc & 0xff) != SQLITE_BUSY || clk_mono_ms() >= end)
            return failed(x, "lock", rc, e);
        (void)usleep(5000);
    }
}

void walx_end(struct walx *x)
{
    if (x->locked)
        unlock(x, LOCK_WRITE, 1);
    buf_free(&x->out);
    buf_free(&x->pgno);
    x->locked = false;
}

/* ---- pages ---------------------------------------------------------------------------------- */

int walx_read(const struct walx *x, uint32_t pgno, uint8_t *p, struct err *e)
{
    uint32_t frame;
    int r = find_frame(x, pgno, &frame, e);
    if (r < 0)
        return r;
    struct sqlite3_file *f = frame ? x->wal : x->file;
    uint64_t off = frame ? wal_frame_off(x->page_size, frame) + WAL_FRAME_HEADER_SIZE
                         : (uint64_t)(pgno - 1) * x->page_size;
    int rc = f->pMethods->xRead(f, p, (int)x->page_size, (sqlite3_int64)off);
    if (rc == SQLITE_IOERR_SHORT_READ) /* a page that was never written is zeros, and they are there */
        rc = SQLITE_OK;
    return rc == SQLITE_OK ? 0 : failed(x, "read", rc, e);
}

/* Everything is in the database file and nobody reads the -wal: it begins again. No checkpointer must be at work:
 * some versions of SQLite take what is written now for what they have copied (the WAL-reset bug). */
static int begin_again(struct walx *x, struct err *e)
{
    volatile void *p = NULL;
    int r = region(x, 0, &p, e);
    volatile struct info *info = (volatile void *)((volatile uint8_t *)p + 2 * sizeof(struct walx_header));
    if (r < 0 || !x->h.frames || info->backfill < x->h.frames || lock(x, LOCK_CHECKPOINT, 1) != SQLITE_OK)
        return r;
    if (lock(x, LOCK_READ_1, READERS) == SQLITE_OK) {
        x->next.frames = 0;
        be32_put(x->next.salt, be32_get(x->next.salt) + 1);
        util_random(x->next.salt + 4, 4);
        r = header_write(x, &x->next, e);
        info->backfill = info->attempted = 0;
        info->read_mark[1] = 0;
        for (int i = 2; i <= READERS; i++)
            info->read_mark[i] = NOT_USED;
        x->h = x->next;
        unlock(x, LOCK_READ_1, READERS);
    }
    unlock(x, LOCK_CHECKPOINT, 1);
    return r;
}

static int begin_log(struct walx *x, struct err *e)
{
    const uint16_t one = 1;
    uint8_t p[WAL_HEADER_SIZE];
    x->next.big_endian = *(const uint8_t *)&one == 0;
    be32_put(x->next.salt, be32_get(x->next.salt) + 1);
    util_random(x->next.salt + 4, 4);
    be32_put(p, 0x377f0682u | x->next.big_endian);
    be32_put(p + 4, INDEX_VERSION);
    be32_put(p + 8, x->page_size);
    be32_put(p + 12, 0);
    memcpy(p + 16, x->next.salt, 8);
    x->next.cksum[0] = x->next.cksum[1] = 0;
    wal_checksum(x->next.big_endian, p, 24, x->next.cksum);
    be32_put(p + 24, x->next.cksum[0]);
    be32_put(p + 28, x->next.cksum[1]);
    int rc = x->wal->pMethods->xWrite(x->wal, p, sizeof p, 0);
    if (rc == SQLITE_OK) /* before any frame of it */
        rc = x->wal->pMethods->xSync(x->wal, SQLITE_SYNC_FULL);
    return rc == SQLITE_OK ? 0 : failed(x, "write the -wal", rc, e);
}

static int flush(struct walx *x, struct err *e)
{
    int rc = SQLITE_OK;
    for (size_t done = 0; done < x->out.len && rc == SQLITE_OK; done += WRITE_BYTES)
        rc = x->wal->pMethods->xWrite(x->wal, x->out.p + done, (int)MIN(x->out.len - done, WRITE_BYTES),
                                      (sqlite3_int64)(x->out_off + done));
    x->out_off += x->out.len;
    x->out.len = 0;
    return rc == SQLITE_OK ? 0 : failed(x, "write the -wal", rc, e);
}

/* The last frame goes once it is known whether it is the commit. */
static void seal(struct walx *x, uint32_t commit)
{
    uint8_t *p = x->out.p + x->last;
    be32_put(p + 4, commit);
    wal_checksum(x->next.big_endian, p, 8, x->next.cksum);
    wal_checksum(x->next.big_endian, p + WAL_FRAME_HEADER_SIZE, x->page_size, x->next.cksum);
    be32_put(p + 16, x->next.cksum[0]);
    be32_put(p + 20, x->next.cksum[1]);
}

int walx_put(struct walx *x, uint32_t pgno, const uint8_t *p, struct err *e)
{
    uint8_t head[WAL_FRAME_HEADER_SIZE] = {0};
    int r = 0;
    if (!x->pgno.len) {
        r = begin_again(x, e);
        if (!r && !x->next.frames)
            r = begin_log(x, e);
        x->out_off = wal_frame_off(x->page_size, (uint64_t)x->next.frames + 1);
    } else {
        seal(x, 0);
        if (x->out.len >= OUT_BYTES)
            r = flush(x, e);
    }
    if (r < 0)
        return r;
    be32_put(head, pgno);
    memcpy(head + 8, x->next.salt, sizeof x->next.salt);
    x->last = x->out.len;
    buf_add(&x->out, head, sizeof head);
    buf_add(&x->out, p, x->page_size);
    buf_add(&x->pgno, &pgno, sizeof pgno);
    if (x->out.failed || x->pgno.failed)
        return err_set(e, ERR_NOMEM, "%s: no memory for a step", x->path);
    return 0;
}

int walx_commit(struct walx *x, uint32_t pages, struct err *e)
{
    size_t n = x->pgno.len / sizeof(uint32_t);
    assert(x->locked && n);
    seal(x, pages);
    int r = flush(x, e);
    int rc = r < 0 ? SQLITE_OK : x->wal->pMethods->xSync(x->wal, SQLITE_SYNC_FULL);
    if (rc != SQLITE_OK)
        r = failed(x, "sync the -wal", rc, e);
    if (!r)
        r = clean(x, e);
    for (size_t i = 0; i < n && !r; i++) {
        uint32_t pgno;
        memcpy(&pgno, x->pgno.p + i * sizeof pgno, sizeof pgno);
        r = index_add(x, x->next.frames + 1 + (uint32_t)i, pgno, e);
    }
    if (r < 0)
        return r;
    x->next.frames += (uint32_t)n;
    x->next.pages = pages;
    x->next.change++;
    x->next.page_size = (uint16_t)(x->page_size == 65536 ? 1 : x->page_size);
    r = header_write(x, &x->next, e);
    if (!r) {
        x->h = x->next;
        x->pages = pages;
    }
    return r;
}

void walx_checkpoint(struct sqlite3 *db)
{
    int all = 0, done = 0;
    struct sqlite3_file *wal = NULL;
    sqlite3_int64 size = 0;
    int rc = sqlite3_wal_checkpoint_v2(db, "main", SQLITE_CHECKPOINT_PASSIVE, &all, &done);
    if (rc == SQLITE_OK && all == done &&
        sqlite3_file_control(db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal) == SQLITE_OK && wal->pMethods &&
        wal->pMethods->xFileSize(wal, &size) == SQLITE_OK && size > LONG_WAL_BYTES)
        (void)sqlite3_wal_checkpoint_v2(db, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
}
