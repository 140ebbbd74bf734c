#include "common/store/restore_side.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "common/base/fsx.h"
#include "common/format/ltx.h"
#include "common/format/wal.h"

#define FOLD_BUSY_MS 2000
#define JOURNAL_MAGIC {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7}

static int open_side(const char *path, const char *suffix, char **ret_name)
{
    *ret_name = util_printf("%s%s", path, suffix);
    return open(*ret_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

/* how each begins; a -shm in the byte order of the machine */
static bool is_sqlites(const char *suffix, const uint8_t *p, size_t n)
{
    static const uint8_t zero[8], journal[8] = JOURNAL_MAGIC;
    uint32_t word;
    if (!memcmp(p, zero, n))
        return true;
    if (n < sizeof zero)
        return false;
    memcpy(&word, p, sizeof word);
    if (!strcmp(suffix, "-wal"))
        return (be32_get(p) & ~1u) == 0x377f0682u;
    return !strcmp(suffix, "-shm") ? word == 3007000 : !memcmp(p, journal, n);
}

const char *side_foreign(const char *path)
{
    static const char *const suffix[] = {"-wal", "-shm", "-journal"};
    for (size_t i = 0; i < ARRAY_LEN(suffix); i++) {
        uint8_t p[8] = {0};
        cleanup_free char *name = NULL;
        cleanup_close int fd = open_side(path, suffix[i], &name);
        ssize_t n = fd >= 0 ? pread(fd, p, sizeof p, 0) : errno == ENOENT ? 0 : -1;
        if (n < 0 || !is_sqlites(suffix[i], p, (size_t)n)) /* what cannot be read may be anything */
            return suffix[i];
    }
    return NULL;
}

bool side_journal_hot(const char *path)
{
    cleanup_free char *name = NULL;
    cleanup_close int fd = open_side(path, "-journal", &name);
    static const uint8_t magic[8] = JOURNAL_MAGIC;
    uint8_t head[8];
    if (fd < 0)
        return errno != ENOENT; /* what cannot be read may be anything */
    return pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head && !memcmp(head, magic, sizeof magic);
}

/* ---- the -wal ------------------------------------------------------------------------------- */

static int scan(int fd, const struct wal_header *h, uint64_t size, struct side_wal *ret, struct err *e)
{
    struct wal_scan w;
    struct wal_frame f;
    uint64_t frame = wal_frame_size(h->page_size), n = (size - WAL_HEADER_SIZE) / frame;
    cleanup_free uint8_t *p = malloc((size_t)frame);
    if (!p)
        return err_set(e, ERR_NOMEM, "no memory for a page");
    wal_scan_init(&w, h);
    for (uint64_t k = 1; k <= n; k++) {
        int r = fsx_pread_all(fd, p, (size_t)frame, wal_frame_off(h->page_size, k), e);
        if (r < 0)
            return r;
        if (!wal_scan_frame(&w, p, &f))
            break;
    }
    *ret = (struct side_wal){h->page_size, w.commit_pages, {h->salt[0], h->salt[1]},
                             {w.commit_s[0], w.commit_s[1]}, w.committed};
    return 0;
}

int side_wal_read(const char *path, struct side_wal *ret, struct err *e)
{
    cleanup_free char *name = NULL;
    cleanup_close int fd = open_side(path, "-wal", &name);
    uint8_t p[WAL_HEADER_SIZE];
    struct wal_header h;
    struct stat st;
    struct err bad;
    *ret = (struct side_wal){0};
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(e, errno, "look at %s", name);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_EXISTS, "%s is not a regular file", name);
    if ((uint64_t)st.st_size < sizeof p)
        return 0;
    int r = fsx_pread_all(fd, p, sizeof p, 0, e);
    if (!r && wal_header_parse(p, &h, &bad) < 0) {
        if (bad.code != ERR_UNSUPPORTED)
            return 0; /* SQLite takes it for empty, too */
        return err_set(e, ERR_UNSUPPORTED, "%s: %s", name, bad.msg);
    }
    if (!r)
        r = scan(fd, &h, (uint64_t)st.st_size, ret, e);
    return r < 0 ? err_wrap(e, "read %s", name) : 0;
}

bool side_wal_same(const struct side_wal *a, const struct side_wal *b)
{
    return a->frames == b->frames && !memcmp(a->salt, b->salt, sizeof a->salt) &&
           !memcmp(a->cksum, b->cksum, sizeof a->cksum);
}

/* newest[n]: the last frame of page n */
static int map_frames(int fd, const struct side_wal *w, uint64_t *newest, struct err *e)
{
    for (uint64_t k = 1; k <= w->frames; k++) {
        uint8_t p[WAL_FRAME_HEADER_SIZE];
        int r = fsx_pread_all(fd, p, sizeof p, wal_frame_off(w->page_size, k), e);
        if (r < 0)
            return r;
        uint32_t pgno = be32_get(p);
        if (pgno <= w->pages)
            newest[pgno] = k;
    }
    return 0;
}

static int compare(int wal, const struct side_wal *w, const uint64_t *newest, int fd, uint64_t *ret, struct err *e)
{
    cleanup_free uint8_t *a = malloc(w->page_size), *b = malloc(w->page_size);
    if (!a || !b)
        return err_set(e, ERR_NOMEM, "no memory for a page");
    for (uint32_t n = 1; n <= w->pages; n++) {
        if (!newest[n] || n == ltx_lock_pgno(w->page_size))
            continue;
        int r = fsx_pread_all(wal, a, w->page_size, wal_frame_off(w->page_size, newest[n]) + WAL_FRAME_HEADER_SIZE, e);
        if (!r)
            r = fsx_pread_all(fd, b, w->page_size, (uint64_t)(n - 1) * w->page_size, e);
        if (r < 0)
            return r;
        *ret += memcmp(a, b, w->page_size) != 0;
    }
    return 0;
}

int side_wal_adds(const char *path, const struct side_wal *w, int fd, uint32_t page_size, uint32_t pages,
                  uint64_t *ret, struct err *e)
{
    cleanup_free char *name = NULL;
    *ret = 0;
    if (!w->frames)
        return 0;
    if (w->page_size != page_size || w->pages != pages) {
        *ret = w->pages;
        return 0;
    }
    cleanup_close int wal = open_side(path, "-wal", &name);
    if (wal < 0)
        return err_sys(e, errno, "open %s", name);
    cleanup_free uint64_t *newest = calloc((size_t)w->pages + 1, sizeof *newest);
    if (!newest)
        return err_set(e, ERR_NOMEM, "no memory for the pages of %s", name);
    int r = map_frames(wal, w, newest, e);
    if (!r)
        r = compare(wal, w, newest, fd, ret, e);
    return r < 0 ? err_wrap(e, "compare %s with what is restored", name) : 0;
}

/* ---- into the database ---------------------------------------------------------------------- */

int side_fold(const char *path, struct err *e)
{
    sqlite3 *db = NULL;
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_busy_timeout(db, FOLD_BUSY_MS);
    /* reading recovers the -wal, and plays a journal back */
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "PRAGMA schema_version", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    int r = rc == SQLITE_OK ? 0
                            : err_set(e, (rc & 0xff) == SQLITE_BUSY ? ERR_BUSY : ERR_EXISTS, "%s", sqlite3_errmsg(db));
    (void)sqlite3_close(db);
    return r;
}
