/* mapfile.h - the bytes of a page map (daemon/capture/pagemap.h says what it is): a header, then blocks of a
 * disk's sector with the checksums of 63 pages each. walsupd writes it; verify reads it. Pure. */
#ifndef WALSUP_MAPFILE_H
#define WALSUP_MAPFILE_H

#include "common/base/err.h"

#define MAPFILE_BLOCK 512u
#define MAPFILE_PER_BLOCK 63u /* entries of 8 bytes, big-endian; then the block's checksum */
#define MAPFILE_HEADER_BYTES 56u
#define MAPFILE_HEADER_SPACE 512u

/* magic 8, version 4, page size 4, lineage 8, TXID 8, XOR of the entries 8, pages 4, zero 4, checksum of
 * all that 8 */
struct mapfile_header {
    uint32_t page_size, pages;
    uint64_t lineage, txid, sum;
};

/** mapfile_header_encode(h, out), mapfile_header_decode(p, n, ret, e): decode says ERR_CORRUPT with what is
 * wrong, without naming the file. */
void mapfile_header_encode(const struct mapfile_header *h, uint8_t out[static MAPFILE_HEADER_SPACE]);
int mapfile_header_decode(const uint8_t *p, size_t n, struct mapfile_header *ret, struct err *e);

/** mapfile_block_off(no), mapfile_blocks(pages): where a block is, and how many there are. */
uint64_t mapfile_block_off(uint32_t no);
uint32_t mapfile_blocks(uint32_t pages);
/** mapfile_block_sum(bytes, no): its number is part of the checksum: a block that ended up in another's
 * place is noticed. */
uint64_t mapfile_block_sum(const uint8_t *bytes, uint32_t no);
/** mapfile_block_ok(h, bytes, no): its checksum is right. A block that was never written reads as zeros:
 * right behind the last page, and nowhere else but for one that holds the lock page alone. */
bool mapfile_block_ok(const struct mapfile_header *h, const uint8_t *bytes, uint32_t no);

#endif
