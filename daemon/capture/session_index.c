#include "common/base/clk.h"
#include "common/format/wal.h"
#include "daemon/capture/session_int.h"
#include "daemon/os/busfault.h"

#define SPINS 100

/* Layout of one header copy, in 32-bit words: 0 version, 2 change, 3 init/byte order/page size,
 * 4 mxFrame, 5 pages, 6-7 frame checksum, 8-9 salts, 10-11 checksum of the 40 bytes before. Two
 * copies, then nBackfill at word 24 and nBackfillAttempted at word 32. Writers store the second copy first. */
static bool header_good(const uint32_t h[12])
{
    uint32_t s0 = 0, s1 = 0;
    for (int i = 0; i < 10; i += 2) {
        s0 += h[i] + s1;
        s1 += h[i + 1] + s0;
    }
    return s0 == h[10] && s1 == h[11];
}

static int file_pages(struct session *s, uint32_t *ret, struct err *e)
{
    sqlite3_file *f = session_db_file(&s->guard[s->held]);
    sqlite3_int64 size = 0;
    int rc = f->pMethods->xFileSize(f, &size);
    if (rc != SQLITE_OK)
        return session_sql_err(e, s, s->guard[s->held].db, rc, "take the size of");
    *ret = (uint32_t)(size / s->page_size);
    return 0;
}

static void copy_header(const struct session *s, unsigned first, uint32_t h[12])
{
    for (unsigned i = 0; i < 12; i++)
        h[i] = s->shm[first + i];
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* N and B of one moment: B is no part of the header, and a restart sets it back to 0. N of the old WAL
 * beside that 0 would look like a long WAL that is safe from a restart. */
static bool read_index(const struct session *s, uint32_t a[12], uint32_t *ret_backfill, uint32_t *ret_attempted)
{
    uint32_t b[12];
    copy_header(s, 0, a);
    copy_header(s, 12, b);
    if (memcmp(a, b, sizeof b) != 0 || !header_good(a))
        return false;
    *ret_backfill = s->shm[WAL_INDEX_BACKFILL];
    *ret_attempted = s->shm[WAL_INDEX_ATTEMPTED];
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    copy_header(s, 0, b);
    return !memcmp(a, b, sizeof b);
}

/* A writer is between its two copies for less than a microsecond; one that died there leaves it so. */
static int index_at_most(struct session *s, unsigned pauses, struct session_index *ret,
                         struct err *e)
{
    uint32_t a[12], backfill = 0, attempted = 0;
    for (unsigned tries = 0; !read_index(s, a, &backfill, &attempted); tries++) {
        if (tries > SPINS + pauses)
            return err_set(e, ERR_CORRUPT, "the wal-index of %s never gets consistent", s->path);
        if (tries > SPINS)
            clk_pause_us(100);
    }
    if (a[0] != 3007000)
        return err_set(e, ERR_UNSUPPORTED, "the wal-index of %s has version %u", s->path, a[0]);
    const uint8_t *bytes = (const uint8_t *)&a[3]; /* init u8, big-endian flag u8, page size u16 */
    uint16_t stored;
    memcpy(&stored, bytes + 2, sizeof stored);
    uint32_t page_size = stored == 1 ? 65536 : stored;
    *ret = (struct session_index){
        .n = a[4],
        .b = backfill,
        .attempted = attempted,
        .salt = {be32toh(a[8]), be32toh(a[9])}, /* copied from the WAL header as stored */
        .pages = a[5],
        .cksum = {a[6], a[7]},
        .page_size = s->page_size,
    };
    if (!ret->n) /* page size and pages may be unset then, and the file is the truth */
        return file_pages(s, &ret->pages, e);
    if (page_size != s->page_size)
        return err_set(e, ERR_CORRUPT, "the wal-index of %s gives page size %u, its header %u",
                       s->path, page_size, s->page_size);
    return 0;
}

int session_index(struct session *s, struct session_index *ret, struct err *e)
{
    int r = index_at_most(s, 2000, ret, e);
    return session_faulted(s) ? err_set(e, ERR_CORRUPT, "%s-shm was truncated while it was in use", s->path) : r;
}

int session_peek(struct session *s, struct session_index *ret)
{
    int r = index_at_most(s, 0, ret, NULL);
    return session_faulted(s) ? -ERR_CORRUPT : r;
}

bool session_faulted(struct session *s)
{
    s->faulted = busfault_taken() || s->faulted;
    return s->faulted;
}
