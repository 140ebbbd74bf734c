/* ltx.h - LTX files (version 3) as Litestream v0.5 writes and reads them. Pure: bytes in, bytes
 * out; any thread, one object at a time. The format to the byte: common/format/DESIGN.md. */
#ifndef WALSUP_LTX_H
#define WALSUP_LTX_H

#include "common/base/err.h"

#define LTX_HEADER_SIZE 100u
#define LTX_TRAILER_SIZE 16u
#define LTX_NAME_SIZE 38u /* "<16 hex>-<16 hex>.ltx" and a NUL */
#define LTX_FLAG_NO_CHECKSUM 0x2u
#define LTX_CHECKSUM_FLAG (1ull << 63)
#define LTX_SNAPSHOT_LEVEL 9

enum ltx_encoding {
    LTX_BLOCK, /* one raw LZ4 block a page: Litestream >= v0.5.16 */
    LTX_FRAME, /* one LZ4 frame a page: every v0.5.x */
};

struct ltx_header {
    uint32_t flags; /* LTX_FLAG_NO_CHECKSUM or 0 */
    uint32_t page_size;
    uint32_t commit; /* database size in pages after applying the file */
    uint64_t min_txid, max_txid;
    int64_t timestamp_ms;
    uint64_t pre_apply; /* database checksum before; 0 with NO_CHECKSUM and in snapshots */
    int64_t wal_offset, wal_size; /* the WAL bytes consumed */
    uint32_t wal_salt[2];
    uint64_t node_id; /* walsup: the lineage */
    uint64_t clock_txid; /* walsup: from this TXID on the clock was not set back, up to this file; 0: nor before that */
};

/** ltx_lock_pgno(page_size): the page SQLite never uses; never encoded, counts in commit. */
uint32_t ltx_lock_pgno(uint32_t page_size);
/** ltx_page_checksum(pgno, page, page_size): 2^63 | CRC(pgno, page). */
uint64_t ltx_page_checksum(uint32_t pgno, const uint8_t *page, uint32_t page_size);

/** ltx_header_encode(h, out), ltx_header_decode(p, ret, e): the 100 bytes; decode enforces every
 * rule that the header alone can break. */
void ltx_header_encode(const struct ltx_header *h, uint8_t out[static LTX_HEADER_SIZE]);
int ltx_header_decode(const uint8_t p[static LTX_HEADER_SIZE], struct ltx_header *ret,
                      struct err *e);

/** ltx_name(buf, min, max), ltx_name_parse(name, ret_min, ret_max): "<min>-<max>.ltx". Parse takes
 * exactly lower-case 16-digit names with 1 <= min <= max. */
const char *ltx_name(char buf[static LTX_NAME_SIZE], uint64_t min, uint64_t max);
bool ltx_name_parse(const char *name, uint64_t *ret_min, uint64_t *ret_max);

/* ---- writing: header, pages in ascending order, finish -------------------------------------- */

struct ltx_encoder;
/** called with consecutive bytes of the file; 0, or a negative code with e filled */
typedef int (*ltx_write_fn)(void *arg, const void *p, size_t n, struct err *e);

/** ltx_encoder_new(h, encoding, write, arg, ret, e): checks h by the encoder's rules and writes the
 * header. Output is gathered: it arrives in pieces of up to 128 KiB, the last ones from
 * ltx_encoder_finish. Memory: those 128 KiB and about 10 bytes a page for the index. A failed call
 * is final: every later one fails as well. */
int ltx_encoder_new(const struct ltx_header *h, enum ltx_encoding encoding, ltx_write_fn write,
                    void *arg, struct ltx_encoder **ret, struct err *e);
/** ltx_encoder_page(enc, pgno, page, e): page is page_size bytes. Enforced: ascending, <= commit,
 * not the lock page; in a snapshot (min_txid 1) no page may be left out. */
int ltx_encoder_page(struct ltx_encoder *enc, uint32_t pgno, const uint8_t *page, struct err *e);
/** ltx_encoder_copy(enc, frame, n, page, e): the same for a page frame of another file (n bytes), which
 * decodes to `page`: not compressed again if it has the encoder's form. */
int ltx_encoder_copy(struct ltx_encoder *enc, const uint8_t *frame, size_t n, const uint8_t *page,
                     struct err *e);
/** ltx_encoder_finish(enc, post_apply, ret_size, e): page index and trailer; a snapshot must have
 * reached commit. post_apply is 0 with NO_CHECKSUM. ret_size may be NULL. */
int ltx_encoder_finish(struct ltx_encoder *enc, uint64_t post_apply, uint64_t *ret_size,
                       struct err *e);
struct ltx_encoder *ltx_encoder_free(struct ltx_encoder *enc);

/* ---- reading a whole file in memory (or mapped) --------------------------------------------- */

struct ltx_decoder {
    struct ltx_header h;
    uint64_t post_apply, file_checksum; /* from the trailer */
    const uint8_t *p; /* the bytes of the file from `base` on */
    size_t base;
    size_t n; /* size of the file */
    size_t index_off, index_end; /* index entries, without terminator */
    size_t pos;                  /* next page frame */
    uint64_t crc;
    uint32_t last_pgno;
    size_t index_pos;
    uint64_t db_checksum;
    bool done;
};

/** ltx_decoder_open(d, p, n, e): header, trailer and index bounds. p must outlive d; nothing to
 * free. */
int ltx_decoder_open(struct ltx_decoder *d, const void *p, size_t n, struct err *e);
/** ltx_decoder_open_tail(d, header, p, base, n, ret_from, e): the same for a file of n bytes of which
 * only the header and what is from offset `base` on, at p, is at hand: at least the last 24 bytes. 1,
 * and d untouched: the page index starts earlier, bytes from *ret_from on are needed. Such a file can be
 * walked (see below), but not finished, since nobody sees all of it. */
int ltx_decoder_open_tail(struct ltx_decoder *d, const uint8_t header[static LTX_HEADER_SIZE],
                          const void *p, size_t base, size_t n, size_t *ret_from, struct err *e);
/** ltx_decoder_next(d, ret_pgno, page, e): 0 and one page (page_size bytes); 1 at the end, when
 * everything was verified: order, index against frames, every rule of DESIGN.md, file checksum;
 * negative when the file is bad. */
int ltx_decoder_next(struct ltx_decoder *d, uint32_t *ret_pgno, uint8_t *page, struct err *e);
/** ltx_verify(p, n, ret_h, e): run the decoder to the end; ret_h may be NULL. */
int ltx_verify(const void *p, size_t n, struct ltx_header *ret_h, struct err *e);

/** ltx_pages(h): how many pages a file with all of the database has: all but the lock page. */
uint32_t ltx_pages(const struct ltx_header *h);
/** ltx_is_whole(p, n): a verified file: whether it has all of them. */
bool ltx_is_whole(const void *p, size_t n);

/* ---- random access through the page index --------------------------------------------------- */

struct ltx_index_entry {
    uint32_t pgno;
    uint64_t off, size; /* of the whole page frame in the file */
};
/** ltx_index_next(p, end, pos, ret): decode the entry at *pos (start with 0) of the index bytes
 * [p, p+end); 0 and *pos advanced, 1 at the end, negative when malformed. */
int ltx_index_next(const uint8_t *p, size_t end, size_t *pos, struct ltx_index_entry *ret,
                   struct err *e);
/** ltx_page_decode(frame, n, page_size, ret_pgno, page, e): one page frame of exactly n bytes. */
int ltx_page_decode(const uint8_t *frame, size_t n, uint32_t page_size, uint32_t *ret_pgno,
                    uint8_t *page, struct err *e);

/* ---- reading a whole file on several threads ------------------------------------------------ */

/* Opened with ltx_decoder_open, then instead of ltx_decoder_next: one thread walks the index, any
 * threads decode the entries it gave, and the sums of their pieces, put together in the order of
 * the file, are compared at the end. Together that checks all that ltx_decoder_next checks. */
struct ltx_sum {
    uint64_t crc, n; /* start with all zero */
    uint64_t db;     /* XOR of the page checksums */
    uint64_t page;   /* checksum of the page it was last continued with */
};
/** ltx_walk_next(d, ret, e): the next page frame by the index; 0, 1 at the end, negative when the
 * file is bad. */
int ltx_walk_next(struct ltx_decoder *d, struct ltx_index_entry *ret, struct err *e);
/** ltx_walk_page(d, x, page, sum, e): decode the page of entry x and continue sum with it; does not
 * change d. ltx_walk_frame(d, x, frame, page, sum, e): the same for a file whose pages d does not have:
 * the x->size bytes of this one are at frame. */
int ltx_walk_page(const struct ltx_decoder *d, const struct ltx_index_entry *x, uint8_t *page,
                  struct ltx_sum *sum, struct err *e);
int ltx_walk_frame(const struct ltx_decoder *d, const struct ltx_index_entry *x,
                   const uint8_t *frame, uint8_t *page, struct ltx_sum *sum, struct err *e);
/** ltx_sum_join(a, b): continue a with b, which follows it directly. */
void ltx_sum_join(struct ltx_sum *a, const struct ltx_sum *b);
/** ltx_walk_finish(d, sum, e): after ltx_walk_next returned 1: compare the sum of all pages. */
int ltx_walk_finish(const struct ltx_decoder *d, const struct ltx_sum *sum, struct err *e);

#endif
