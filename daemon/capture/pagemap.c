#include "daemon/capture/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/base/beat.h"
#include "common/base/fsx.h"
#include "common/format/ltx.h"
#include "common/format/mapfile.h"

#define BLOCK MAPFILE_BLOCK
#define PER_BLOCK MAPFILE_PER_BLOCK
#define CACHE_BLOCKS 2048u /* 1 MiB; more only until the next flush */
#define SCAN_BLOCKS 512u

struct block {
    uint32_t no;
    bool dirty;
    uint8_t bytes[BLOCK];
};

struct pagemap {
    char *path;
    int fd;
    bool fresh; /* not yet at its path: nobody reads it, so it may be written at any time */
    struct fsx_tmp tmp;
    struct pagemap_state s;
    uint64_t sum; /* XOR of all entries */
    struct block **slot; /* hash table by block number */
    size_t n, cap, n_dirty;
};

static char *map_path(const char *dir)
{
    return util_printf("%s/pagemap", dir);
}

static void set_sum(struct pagemap *m, uint64_t sum)
{
    m->sum = sum;
    m->s.checksum = sum | LTX_CHECKSUM_FLAG;
}

static int damaged(const struct pagemap *m, struct err *e, const char *what, uint64_t where)
{
    return err_set(e, ERR_CORRUPT, "%s cannot be used: %s (%" PRIu64 ")", m->path, what, where);
}

/* ---- blocks ------------------------------------------------------------------------------------ */

static size_t slot_of(struct block *const *slot, size_t cap, uint32_t no)
{
    size_t i = (size_t)(no * 2654435761u) & (cap - 1);
    while (slot[i] && slot[i]->no != no)
        i = (i + 1) & (cap - 1);
    return i;
}

static int grow(struct pagemap *m, struct err *e)
{
    size_t cap = m->cap ? m->cap * 2 : 16;
    struct block **slot = calloc(cap, sizeof *slot);
    if (!slot)
        return err_set(e, ERR_NOMEM, "no memory for the page map %s", m->path);
    for (size_t i = 0; i < m->cap; i++)
        if (m->slot[i])
            slot[slot_of(slot, cap, m->slot[i]->no)] = m->slot[i];
    free(m->slot);
    m->slot = slot;
    m->cap = cap;
    return 0;
}

static void forget_blocks(struct pagemap *m)
{
    for (size_t i = 0; i < m->cap; i++)
        free(m->slot[i]);
    free(m->slot);
    m->slot = NULL;
    m->n = m->cap = m->n_dirty = 0;
}

static struct mapfile_header header_of(const struct pagemap *m)
{
    return (struct mapfile_header){m->s.page_size, m->s.pages, m->s.lineage, m->s.txid, m->sum};
}

static int block_verify(const struct pagemap *m, const uint8_t *bytes, uint32_t no, struct err *e)
{
    struct mapfile_header h = header_of(m);
    return mapfile_block_ok(&h, bytes, no) ? 0 : damaged(m, e, "a block fails its checksum", no);
}

static ssize_t read_some(const struct pagemap *m, void *p, size_t n, uint64_t off, struct err *e)
{
    size_t got = 0;
    while (got < n) {
        beat_step();
        ssize_t r = pread(m->fd, (uint8_t *)p + got, n - got, (off_t)(off + got));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return err_sys(e, errno, "read %s", m->path);
        if (!r)
            break;
        got += (size_t)r;
    }
    memset((uint8_t *)p + got, 0, n - got);
    return (ssize_t)got;
}

static int block_get(struct pagemap *m, uint32_t no, struct block **ret, struct err *e)
{
    if (m->cap) {
        struct block *b = m->slot[slot_of(m->slot, m->cap, no)];
        if (b) {
            *ret = b;
            return 0;
        }
    }
    if (m->n >= CACHE_BLOCKS && !m->n_dirty)
        forget_blocks(m);
    if (m->n * 2 >= m->cap) {
        int r = grow(m, e);
        if (r < 0)
            return r;
    }
    cleanup_free struct block *b = malloc(sizeof *b);
    if (!b)
        return err_set(e, ERR_NOMEM, "no memory for the page map %s", m->path);
    b->no = no;
    b->dirty = false;
    ssize_t got = read_some(m, b->bytes, BLOCK, mapfile_block_off(no), e);
    if (got < 0)
        return (int)got;
    int r = block_verify(m, b->bytes, no, e);
    if (r < 0)
        return r;
    *ret = m->slot[slot_of(m->slot, m->cap, no)] = TAKE_PTR(b);
    m->n++;
    return 0;
}

static int write_blocks(struct pagemap *m, struct err *e);

/* ---- entries ----------------------------------------------------------------------------------- */

int pagemap_get(struct pagemap *m, uint32_t pgno, uint64_t *ret, struct err *e)
{
    struct block *b;
    int r = block_get(m, (pgno - 1) / PER_BLOCK, &b, e);
    if (r == 0)
        *ret = be64_get(b->bytes + (size_t)((pgno - 1) % PER_BLOCK) * 8);
    return r;
}

static int put(struct pagemap *m, uint32_t pgno, uint64_t sum, struct err *e)
{
    struct block *b;
    int r = block_get(m, (pgno - 1) / PER_BLOCK, &b, e);
    if (r < 0)
        return r;
    uint8_t *p = b->bytes + (size_t)((pgno - 1) % PER_BLOCK) * 8;
    uint64_t old = be64_get(p);
    if (old == sum)
        return 0;
    be64_put(p, sum);
    set_sum(m, m->sum ^ old ^ sum);
    m->n_dirty += !b->dirty;
    b->dirty = true;
    return m->fresh && m->n_dirty >= CACHE_BLOCKS ? write_blocks(m, e) : 0;
}

int pagemap_put(struct pagemap *m, uint32_t pgno, uint64_t sum, struct err *e)
{
    return put(m, pgno, sum | LTX_CHECKSUM_FLAG, e);
}

int pagemap_commit(struct pagemap *m, uint64_t txid, uint32_t pages, struct err *e)
{
    for (uint32_t p = m->s.pages; p > pages; p--) {
        int r = put(m, p, 0, e);
        if (r < 0)
            return r;
    }
    m->s.pages = pages;
    m->s.txid = txid;
    return 0;
}

void pagemap_adopt(struct pagemap *m, uint64_t txid, uint32_t pages, uint64_t checksum)
{
    m->s.txid = txid;
    m->s.pages = pages;
    /* every entry has the flag, so it is left in the sum when their number is odd */
    bool odd = (pages - (pages >= ltx_lock_pgno(m->s.page_size))) & 1;
    set_sum(m, (checksum & ~LTX_CHECKSUM_FLAG) | (odd ? LTX_CHECKSUM_FLAG : 0));
}

static int redo(struct pagemap *m, const uint8_t *p, size_t n, struct err *e)
{
    struct ltx_decoder d;
    int r = ltx_decoder_open(&d, p, n, e);
    if (r < 0)
        return r;
    if (d.h.page_size != m->s.page_size)
        return damaged(m, e, "the spool holds another page size", d.h.page_size);
    cleanup_free uint8_t *page = malloc(d.h.page_size);
    if (!page)
        return err_set(e, ERR_NOMEM, "no memory for a page");
    uint32_t pgno;
    while ((r = ltx_decoder_next(&d, &pgno, page, e)) == 0) {
        r = pagemap_put(m, pgno, ltx_page_checksum(pgno, page, d.h.page_size), e);
        if (r < 0)
            return r;
    }
    return r < 0 ? r : pagemap_commit(m, d.h.max_txid, d.h.commit, e);
}

int pagemap_redo(struct pagemap *m, const char *path, struct err *e)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(e, errno, "open %s", path);
    if (st.st_size < (off_t)LTX_HEADER_SIZE)
        return err_set(e, ERR_CORRUPT, "%s is only %lld bytes long", path, (long long)st.st_size);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return err_sys(e, errno, "map %s", path);
    int r = redo(m, p, (size_t)st.st_size, e);
    (void)munmap(p, (size_t)st.st_size);
    return r < 0 ? err_wrap(e, "%s", path) : 0;
}

int pagemap_check(struct pagemap *m, bool recount, struct err *e)
{
    cleanup_free uint8_t *chunk = malloc((size_t)SCAN_BLOCKS * BLOCK);
    if (!chunk)
        return err_set(e, ERR_NOMEM, "no memory to read %s", m->path);
    uint64_t sum = 0, present = 0;
    uint32_t blocks = mapfile_blocks(m->s.pages);
    for (uint32_t first = 0; first < blocks; first += SCAN_BLOCKS) {
        uint32_t n = MIN(SCAN_BLOCKS, blocks - first);
        ssize_t got = read_some(m, chunk, (size_t)n * BLOCK, mapfile_block_off(first), e);
        if (got < 0)
            return (int)got;
        for (uint32_t i = 0; i < n; i++) {
            const uint8_t *bytes = chunk + (size_t)i * BLOCK;
            const struct block *b = m->cap ? m->slot[slot_of(m->slot, m->cap, first + i)] : NULL;
            int r = b ? 0 : block_verify(m, bytes, first + i, e);
            if (r < 0)
                return r;
            for (uint32_t k = 0; k < PER_BLOCK; k++) {
                uint64_t v = be64_get((b ? b->bytes : bytes) + (size_t)k * 8);
                if (v && (uint64_t)(first + i) * PER_BLOCK + k >= m->s.pages)
                    return damaged(m, e, "an entry lies beyond the last page", first + i);
                sum ^= v;
                present += v != 0;
            }
        }
    }
    bool lock = m->s.pages >= ltx_lock_pgno(m->s.page_size);
    if (present + lock != m->s.pages)
        return damaged(m, e, "pages are missing", present);
    if (!recount && sum != m->sum)
        return damaged(m, e, "its entries do not add up to its checksum", sum);
    set_sum(m, sum);
    return 0;
}

/* ---- the file ---------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    uint32_t x = (*(struct block *const *)a)->no, y = (*(struct block *const *)b)->no;
    return (x > y) - (x < y);
}

static int write_at(const struct pagemap *m, const void *p, size_t n, uint64_t off, struct err *e)
{
    const uint8_t *b = p;
    while (n) {
        beat_step();
        ssize_t put_n = pwrite(m->fd, b, n, (off_t)off);
        if (put_n < 0 && errno == EINTR)
            continue;
        if (put_n < 0)
            return err_sys(e, errno, "write %s", m->path);
        b += put_n;
        off += (uint64_t)put_n;
        n -= (size_t)put_n;
    }
    return 0;
}

/* In ascending order, neighbours together. */
static int write_blocks(struct pagemap *m, struct err *e)
{
    if (!m->n_dirty)
        return 0;
    cleanup_free struct block **dirty = malloc(m->n_dirty * sizeof *dirty);
    cleanup_free uint8_t *chunk = malloc((size_t)SCAN_BLOCKS * BLOCK);
    if (!dirty || !chunk)
        return err_set(e, ERR_NOMEM, "no memory to write %s", m->path);
    size_t n = 0;
    for (size_t i = 0; i < m->cap; i++)
        if (m->slot[i] && m->slot[i]->dirty)
            dirty[n++] = m->slot[i];
    qsort(dirty, n, sizeof(struct block *), by_number);
    for (size_t i = 0; i < n;) {
        uint32_t first = dirty[i]->no, k = 0;
        while (i + k < n && k < SCAN_BLOCKS && dirty[i + k]->no == first + k) {
            struct block *b = dirty[i + k];
            be64_put(b->bytes + (size_t)PER_BLOCK * 8, mapfile_block_sum(b->bytes, b->no));
            memcpy(chunk + (size_t)k * BLOCK, b->bytes, BLOCK);
            k++;
        }
        int r = write_at(m, chunk, (size_t)k * BLOCK, mapfile_block_off(first), e);
        if (r < 0)
            return r;
        i += k;
    }
    for (size_t i = 0; i < n; i++)
        dirty[i]->dirty = false;
    m->n_dirty = 0;
    if (m->n > CACHE_BLOCKS)
        forget_blocks(m);
    return 0;
}

static int write_header(struct pagemap *m, struct err *e)
{
    uint8_t p[MAPFILE_HEADER_SPACE];
    struct mapfile_header h = header_of(m);
    mapfile_header_encode(&h, p);
    return write_at(m, p, sizeof p, 0, e);
}

static int read_header(struct pagemap *m, struct err *e)
{
    uint8_t p[MAPFILE_HEADER_SPACE];
    struct mapfile_header h;
    ssize_t got = read_some(m, p, sizeof p, 0, e);
    if (got < 0)
        return (int)got;
    if (mapfile_header_decode(p, (size_t)got, &h, e) < 0)
        return err_wrap(e, "%s cannot be used", m->path);
    m->s.page_size = h.page_size;
    m->s.lineage = h.lineage;
    m->s.txid = m->s.durable = h.txid;
    m->s.pages = h.pages;
    set_sum(m, h.sum);
    return 0;
}

static int sync_file(const struct pagemap *m, struct err *e)
{
    beat_park(true);
    int r = fdatasync(m->fd);
    beat_park(false);
    return r < 0 ? err_sys(e, errno, "fsync %s", m->path) : 0;
}

/* The new file at its path, with the descriptor kept. */
static int install(struct pagemap *m, unsigned flags, struct err *e)
{
    int fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return err_sys(e, errno, "duplicate a descriptor");
    int r = fsx_tmp_publish(&m->tmp, FSX_REPLACE | flags, e);
    m->fd = fd;
    m->fresh = false;
    return r;
}

int pagemap_flush(struct pagemap *m, struct err *e)
{
    int r = write_blocks(m, e);
    if (r == 0 && m->fresh)
        r = write_header(m, e);
    if (r == 0 && m->fresh)
        r = install(m, FSX_NOSYNC, e);
    return r;
}

int pagemap_sync(struct pagemap *m, struct err *e)
{
    if (!m->fresh && !m->n_dirty && m->s.durable == m->s.txid)
        return 0;
    int r = write_blocks(m, e);
    if (r == 0 && !m->fresh)
        r = sync_file(m, e); /* the entries first: the header vouches for them */
    if (r == 0)
        r = write_header(m, e);
    if (r == 0)
        r = m->fresh ? install(m, 0, e) : sync_file(m, e);
    if (r < 0)
        return r;
    m->s.durable = m->s.txid;
    /* last, and for tidiness only: the entries there are zero */
    (void)!ftruncate(m->fd, (off_t)mapfile_block_off(mapfile_blocks(m->s.pages)));
    return 0;
}

int pagemap_open(const char *dir, struct pagemap **ret, struct err *e)
{
    cleanup_free char *path = map_path(dir);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return PAGEMAP_NONE;
    if (fd < 0)
        return err_sys(e, errno, "open %s", path);
    struct pagemap *m = util_zalloc(sizeof *m);
    m->path = TAKE_PTR(path);
    m->fd = fd;
    m->tmp = (struct fsx_tmp)FSX_TMP_INIT;
    int r = read_header(m, e);
    if (r < 0) {
        (void)pagemap_close(m);
        return r;
    }
    *ret = m;
    return 0;
}

int pagemap_create(const char *dir, uint32_t page_size, uint64_t lineage, struct pagemap **ret,
                   struct err *e)
{
    cleanup_free char *path = map_path(dir);
    struct fsx_tmp tmp;
    int r = fsx_tmp_open(path, 0600, &tmp, e);
    if (r < 0)
        return r;
    struct pagemap *m = util_zalloc(sizeof *m);
    m->path = TAKE_PTR(path);
    m->tmp = tmp;
    m->fd = tmp.fd;
    m->fresh = true;
    m->s.page_size = page_size;
    m->s.lineage = lineage;
    set_sum(m, 0);
    *ret = m;
    return 0;
}

struct pagemap *pagemap_close(struct pagemap *m)
{
    if (!m)
        return NULL;
    forget_blocks(m);
    if (m->fresh)
        fsx_tmp_abort(&m->tmp);
    else if (m->fd >= 0)
        (void)close(m->fd);
    free(m->path);
    free(m);
    return NULL;
}

void pagemap_remove(const char *dir)
{
    cleanup_free char *path = map_path(dir);
    (void)fsx_unlink(path, NULL);
}

const struct pagemap_state *pagemap_state(const struct pagemap *m)
{
    return &m->s;
}
