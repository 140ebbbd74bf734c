/* ltx_page.h - one page frame of an LTX file, shared by encoder, decoder and random access. Pure;
 * any thread. Not for use outside ltx*.c. */
#ifndef WALSUP_LTX_PAGE_H
#define WALSUP_LTX_PAGE_H

#include "common/format/ltx.h"

#define LTX_PAGE_HEADER_SIZE 6u
#define LTX_PAGE_FLAG_BLOCK 1u
#define LTX_INDEX_SIZE_SIZE 8u
#define LTX_BLOCK_HEAD_SIZE (LTX_PAGE_HEADER_SIZE + 4u)
/* The only LZ4 frame header that every Litestream v0.5 reads: independent blocks of at most 64 KiB,
 * content checksum, nothing else. */
#define LTX_LZ4_HEADER "\x04\x22\x4d\x18\x64\x40\xa7"
#define LTX_LZ4_HEADER_SIZE 7u
#define LTX_LZ4_STORED 0x80000000u
#define LTX_FRAME_HEAD_SIZE (LTX_PAGE_HEADER_SIZE + LTX_LZ4_HEADER_SIZE + 4u)
#define LTX_FRAME_TAIL_SIZE 8u

struct ltx_frame {
    uint32_t pgno;
    uint32_t summed; /* bytes from the start of the frame under the file checksum */
    const uint8_t *payload;
    uint32_t payload_size;
    bool block, stored;
    uint32_t xxh32; /* of the page; not in block frames */
    size_t size;    /* of the whole frame */
};

/** ltx_payload_max(page_size): the longest LZ4 block of a page. */
static inline uint32_t ltx_payload_max(uint32_t page_size)
{
    return page_size + page_size / 255 + 16;
}
/** ltx_frame_parse(p, n, page_size, ret, e): the page frame at the start of the n bytes at p, which
 * may go on behind it. */
int ltx_frame_parse(const uint8_t *p, size_t n, uint32_t page_size, struct ltx_frame *ret,
                    struct err *e);
/** ltx_frame_unpack(f, page_size, page, e): decompress it. */
int ltx_frame_unpack(const struct ltx_frame *f, uint32_t page_size, uint8_t *page, struct err *e);
/** ltx_header_check(h, code, e): every rule on header fields; a broken one is an error with this
 * code (a damaged file when reading, our own mistake when writing). */
int ltx_header_check(const struct ltx_header *h, enum err_code code, struct err *e);
/** ltx_post_apply_check(h, post_apply, code, e): the same for the trailer's database checksum. */
int ltx_post_apply_check(const struct ltx_header *h, uint64_t post_apply, enum err_code code,
                         struct err *e);
/** ltx_snapshot_next(h, last_pgno): the page that follows in a file that holds all of them. */
uint64_t ltx_snapshot_next(const struct ltx_header *h, uint32_t last_pgno);

#endif
