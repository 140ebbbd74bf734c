/* The page map of the source against the sums.
 *
 * A map that the daemon hands out is that of its header's TXID. One that lies on the disk may have newer
 * entries than its header says (daemon/capture/pagemap.h): then its entries are those of some later TXID, and which
 * one is told by their sum. */
#include <sys/stat.h>

#include "common/base/fsx.h"
#include "common/format/mapfile.h"
#include "common/store/verify_int.h"

#define CHUNK_BLOCKS 128u

static int unusable(struct verify *v, const struct err *e)
{
    struct verify_result *r = v->result;
    r->map = VERIFY_MAP_UNUSABLE;
    r->map_differ = 0;
    (void)snprintf(r->map_why, sizeof r->map_why, "%s", e->msg);
    return -(int)e->code;
}

/* fn for each block; their number goes by the length of the file where the header may be behind it */
static int each_block(const struct verify *v, int (*fn)(void *arg, const uint8_t *b, uint32_t no), void *arg,
                      struct err *e)
{
    struct stat st;
    if (fstat(v->map_fd, &st) < 0)
        return err_set(e, ERR_IO, "it cannot be looked at");
    uint64_t there = (uint64_t)MAX(st.st_size, (off_t)MAPFILE_HEADER_SPACE) - MAPFILE_HEADER_SPACE;
    uint32_t n = (uint32_t)MAX((uint64_t)mapfile_blocks(v->map.pages), there / MAPFILE_BLOCK);
    for (uint32_t first = 0; first < n; first += CHUNK_BLOCKS) {
        uint8_t b[CHUNK_BLOCKS * MAPFILE_BLOCK];
        uint32_t some = MIN(CHUNK_BLOCKS, n - first);
        int k = fsx_pread_all(v->map_fd, b, (size_t)some * MAPFILE_BLOCK, mapfile_block_off(first), e);
        for (uint32_t i = 0; i < some && k == 0; i++) {
            const uint8_t *at = b + (size_t)i * MAPFILE_BLOCK;
            if (!mapfile_block_ok(&v->map, at, first + i))
                k = err_set(e, ERR_CORRUPT, "block %u of it fails its checksum", first + i);
            else
                k = fn(arg, at, first + i);
        }
        if (k < 0)
            return k;
    }
    return 0;
}

static int add_up(void *arg, const uint8_t *b, uint32_t no)
{
    uint64_t *xor = arg;
    (void)no;
    for (uint32_t i = 0; i < MAPFILE_PER_BLOCK; i++)
        *xor ^= be64_get(b + (size_t)i * 8);
    return 0;
}

void verify_map_open(struct verify *v, int fd)
{
    uint8_t head[MAPFILE_HEADER_SPACE];
    struct err e = {0};
    v->map_fd = fd;
    if (fd < 0)
        return;
    v->result->map = VERIFY_MAP_UNREACHED;
    v->map_xor = 0;
    if (fsx_pread_all(fd, head, sizeof head, 0, &e) < 0 || mapfile_header_decode(head, sizeof head, &v->map, &e) < 0 ||
        each_block(v, add_up, &v->map_xor, &e) < 0) {
        (void)unusable(v, &e);
        return;
    }
    v->result->map_txid = v->map.txid;
}

static int compare(void *arg, const uint8_t *b, uint32_t no)
{
    struct verify *v = arg;
    struct verify_result *r = v->result;
    const struct verify_sums *s = &v->sums;
    for (uint32_t i = 0; i < MAPFILE_PER_BLOCK; i++) {
        uint64_t pgno = (uint64_t)no * MAPFILE_PER_BLOCK + i + 1;
        if (be64_get(b + (size_t)i * 8) == (pgno <= s->pages ? s->page.p[pgno] : 0))
            continue;
        if (r->map_differ < VERIFY_DIFFER_MAX)
            r->differ[r->map_differ] = (uint32_t)pgno;
        r->map_differ++;
    }
    return 0;
}

void verify_map_meet(struct verify *v)
{
    struct verify_result *r = v->result;
    const struct verify_sums *s = &v->sums;
    const struct mapfile_header *h = &v->map;
    struct err e = {0};
    if (v->map_fd < 0 || r->map != VERIFY_MAP_UNREACHED || s->txid < h->txid)
        return;
    bool exact = v->map_xor == h->sum;
    if (exact ? s->txid != h->txid : ((s->xor ^ v->map_xor) & ~LTX_CHECKSUM_FLAG) != 0)
        return;
    if (s->lineage && h->lineage && s->lineage != h->lineage)
        return; /* another history has that TXID as well */
    if (each_block(v, compare, v, &e) < 0) {
        (void)unusable(v, &e);
        return;
    }
    r->map_txid = s->txid;
    r->map_pages = s->pages;
    r->map = r->map_differ || h->page_size != s->page_size ? VERIFY_MAP_DIFFERS : VERIFY_MAP_EQUAL;
}

void verify_map_close(struct verify *v)
{
    struct err e;
    if (v->map_fd < 0 || v->result->map != VERIFY_MAP_UNREACHED || v->map_xor == v->map.sum)
        return;
    (void)err_set(&e, ERR_CORRUPT, "it is of a TXID after %016llx that it does not name, and nothing in the "
                  "replica adds up to it", (unsigned long long)v->map.txid);
    (void)unusable(v, &e);
}
