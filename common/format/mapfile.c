#include "common/format/mapfile.h"

#include "common/format/crc64.h"
#include "common/format/ltx.h"

#define MAGIC "walsupPM"
#define FORMAT_VERSION 1u

uint64_t mapfile_block_off(uint32_t no)
{
    return MAPFILE_HEADER_SPACE + (uint64_t)no * MAPFILE_BLOCK;
}

uint32_t mapfile_blocks(uint32_t pages)
{
    return (uint32_t)(((uint64_t)pages + MAPFILE_PER_BLOCK - 1) / MAPFILE_PER_BLOCK);
}

uint64_t mapfile_block_sum(const uint8_t *bytes, uint32_t no)
{
    uint8_t head[4];
    be32_put(head, no);
    return crc64(crc64(0, head, sizeof head), bytes, (size_t)MAPFILE_PER_BLOCK * 8);
}

static bool may_be_missing(const struct mapfile_header *h, uint32_t no)
{
    uint64_t first = (uint64_t)no * MAPFILE_PER_BLOCK + 1;
    return first > h->pages || first == ltx_lock_pgno(h->page_size);
}

bool mapfile_block_ok(const struct mapfile_header *h, const uint8_t *bytes, uint32_t no)
{
    if (be64_get(bytes + (size_t)MAPFILE_PER_BLOCK * 8) == mapfile_block_sum(bytes, no))
        return true;
    bool zero = may_be_missing(h, no);
    for (size_t i = 0; zero && i < MAPFILE_BLOCK; i++)
        zero = !bytes[i];
    return zero;
}

void mapfile_header_encode(const struct mapfile_header *h, uint8_t out[static MAPFILE_HEADER_SPACE])
{
    memset(out, 0, MAPFILE_HEADER_SPACE);
    memcpy(out, MAGIC, 8);
    be32_put(out + 8, FORMAT_VERSION);
    be32_put(out + 12, h->page_size);
    be64_put(out + 16, h->lineage);
    be64_put(out + 24, h->txid);
    be64_put(out + 32, h->sum);
    be32_put(out + 40, h->pages);
    be64_put(out + 48, crc64(0, out, 48));
}

int mapfile_header_decode(const uint8_t *p, size_t n, struct mapfile_header *ret, struct err *e)
{
    if (n < MAPFILE_HEADER_BYTES || memcmp(p, MAGIC, 8) != 0 || be64_get(p + 48) != crc64(0, p, 48))
        return err_set(e, ERR_CORRUPT, "its header is damaged");
    if (be32_get(p + 8) != FORMAT_VERSION)
        return err_set(e, ERR_CORRUPT, "another version of walsup wrote it (%u)", be32_get(p + 8));
    struct mapfile_header h = {.page_size = be32_get(p + 12),
                               .pages = be32_get(p + 40),
                               .lineage = be64_get(p + 16),
                               .txid = be64_get(p + 24),
                               .sum = be64_get(p + 32)};
    if (h.page_size < 512 || h.page_size > 65536 || (h.page_size & (h.page_size - 1)) || !h.pages)
        return err_set(e, ERR_CORRUPT, "its header makes no sense (page size %u)", h.page_size);
    *ret = h;
    return 0;
}
