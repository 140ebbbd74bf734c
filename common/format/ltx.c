/* Headers, names, page frames and the page index. */
#include "common/format/ltx.h"

#include <inttypes.h>
#include <lz4.h>

#include "common/format/crc64.h"
#include "common/format/ltx_page.h"
#include "common/format/wal.h"
#include "common/format/xxh32.h"

#define MAGIC "LTX1"
#define LOCK_BYTE 0x40000000u
#define VARINT_MAX 10

static inline uint32_t le32_get(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

uint32_t ltx_lock_pgno(uint32_t page_size)
{
    return LOCK_BYTE / page_size + 1;
}

uint64_t ltx_page_checksum(uint32_t pgno, const uint8_t *page, uint32_t page_size)
{
    uint8_t n[4];
    be32_put(n, pgno);
    return LTX_CHECKSUM_FLAG | crc64(crc64(0, n, sizeof n), page, page_size);
}

uint64_t ltx_snapshot_next(const struct ltx_header *h, uint32_t last_pgno)
{
    uint64_t next = (uint64_t)last_pgno + 1;
    return next == ltx_lock_pgno(h->page_size) ? next + 1 : next;
}

/* ---- header --------------------------------------------------------------------------------- */

void ltx_header_encode(const struct ltx_header *h, uint8_t out[static LTX_HEADER_SIZE])
{
    memset(out, 0, LTX_HEADER_SIZE);
    memcpy(out, MAGIC, 4);
    be32_put(out + 4, h->flags);
    be32_put(out + 8, h->page_size);
    be32_put(out + 12, h->commit);
    be64_put(out + 16, h->min_txid);
    be64_put(out + 24, h->max_txid);
    be64_put(out + 32, (uint64_t)h->timestamp_ms);
    be64_put(out + 40, h->pre_apply);
    be64_put(out + 48, (uint64_t)h->wal_offset);
    be64_put(out + 56, (uint64_t)h->wal_size);
    be32_put(out + 64, h->wal_salt[0]);
    be32_put(out + 68, h->wal_salt[1]);
    be64_put(out + 72, h->node_id);
    be64_put(out + 80, h->clock_txid);
}

int ltx_header_check(const struct ltx_header *h, enum err_code code, struct err *e)
{
    bool no_checksum = h->flags & LTX_FLAG_NO_CHECKSUM;
    if (h->flags & ~LTX_FLAG_NO_CHECKSUM)
        return err_set(e, code, "LTX header has unknown flags %08x", h->flags);
    if (!page_size_valid(h->page_size))
        return err_set(e, code, "LTX header has page size %u", h->page_size);
    if (!h->min_txid || h->min_txid > h->max_txid)
        return err_set(e, code, "LTX header has TXIDs %016" PRIx64 " to %016" PRIx64, h->min_txid,
                       h->max_txid);
    if (h->wal_offset < 0 || h->wal_size < 0)
        return err_set(e, code, "LTX header has WAL offset %" PRId64 " and size %" PRId64,
                       h->wal_offset, h->wal_size);
    if (!h->wal_offset && (h->wal_size || h->wal_salt[0] || h->wal_salt[1]))
        return err_set(e, code, "LTX header has WAL size or salts without a WAL offset");
    if (h->min_txid == 1 && h->pre_apply)
        return err_set(e, code, "LTX header of a snapshot has a pre-apply checksum");
    if (h->min_txid > 1 && no_checksum && h->pre_apply)
        return err_set(e, code, "LTX header has a pre-apply checksum and says there is none");
    if (h->min_txid > 1 && !no_checksum && !(h->pre_apply & LTX_CHECKSUM_FLAG))
        return err_set(e, code, "LTX header has pre-apply checksum %016" PRIx64, h->pre_apply);
    if (!h->commit && no_checksum)
        return err_set(e, code, "LTX header has commit 0, which needs checksums");
    return 0;
}

int ltx_header_decode(const uint8_t p[static LTX_HEADER_SIZE], struct ltx_header *ret,
                      struct err *e)
{
    if (memcmp(p, MAGIC, 3) == 0 && p[3] > MAGIC[3] && p[3] <= '9') {
        int r = err_set(e, ERR_CORRUPT, "LTX of version %c, which this walsup cannot read", p[3]);
        (void)err_hint(e, "use the version of walsup or Litestream that wrote it, or a newer one");
        return r;
    }
    if (memcmp(p, MAGIC, 4) != 0)
        return err_set(e, ERR_CORRUPT, "not an LTX file: magic %08x", be32_get(p));
    struct ltx_header h = {
        .flags = be32_get(p + 4),
        .page_size = be32_get(p + 8),
        .commit = be32_get(p + 12),
        .min_txid = be64_get(p + 16),
        .max_txid = be64_get(p + 24),
        .timestamp_ms = (int64_t)be64_get(p + 32),
        .pre_apply = be64_get(p + 40),
        .wal_offset = (int64_t)be64_get(p + 48),
        .wal_size = (int64_t)be64_get(p + 56),
        .wal_salt = {be32_get(p + 64), be32_get(p + 68)},
        .node_id = be64_get(p + 72),
        .clock_txid = be64_get(p + 80),
    };
    if (h.clock_txid > h.max_txid) /* somebody else's bytes */
        h.clock_txid = 0;
    int r = ltx_header_check(&h, ERR_CORRUPT, e);
    if (r < 0)
        return r;
    *ret = h;
    return 0;
}

int ltx_post_apply_check(const struct ltx_header *h, uint64_t post_apply, enum err_code code,
                         struct err *e)
{
    bool no_checksum = h->flags & LTX_FLAG_NO_CHECKSUM;
    if (no_checksum ? post_apply != 0 : !(post_apply & LTX_CHECKSUM_FLAG))
        return err_set(e, code, "LTX post-apply checksum is %016" PRIx64 " with header flags %u",
                       post_apply, h->flags);
    if (!h->commit && post_apply != LTX_CHECKSUM_FLAG)
        return err_set(e, code, "LTX post-apply checksum is %016" PRIx64 " with commit 0",
                       post_apply);
    return 0;
}

/* ---- names ---------------------------------------------------------------------------------- */

const char *ltx_name(char buf[static LTX_NAME_SIZE], uint64_t min, uint64_t max)
{
    (void)snprintf(buf, LTX_NAME_SIZE, "%016" PRIx64 "-%016" PRIx64 ".ltx", min, max);
    return buf;
}

static bool hex16(const char *p, uint64_t *ret)
{
    static const char digits[] = "0123456789abcdef";
    uint64_t v = 0;
    for (int i = 0; i < 16; i++) {
        const char *d = p[i] ? strchr(digits, p[i]) : NULL;
        if (!d)
            return false;
        v = v << 4 | (uint64_t)(d - digits);
    }
    *ret = v;
    return true;
}

bool ltx_name_parse(const char *name, uint64_t *ret_min, uint64_t *ret_max)
{
    uint64_t min, max;
    if (!hex16(name, &min) || name[16] != '-' || !hex16(name + 17, &max) ||
        strcmp(name + 33, ".ltx") != 0 || !min || min > max)
        return false;
    *ret_min = min;
    *ret_max = max;
    return true;
}

/* ---- page frames ---------------------------------------------------------------------------- */

static int parse_block(const uint8_t *p, size_t n, struct ltx_frame *f, uint32_t max, struct err *e)
{
    if (n < LTX_BLOCK_HEAD_SIZE)
        return err_set(e, ERR_CORRUPT, "page %u: cut off in its header", f->pgno);
    f->payload_size = be32_get(p + LTX_PAGE_HEADER_SIZE);
    if (!f->payload_size || f->payload_size > max)
        return err_set(e, ERR_CORRUPT, "page %u: LZ4 block of %u bytes", f->pgno, f->payload_size);
    f->block = true;
    f->summed = LTX_BLOCK_HEAD_SIZE;
    f->payload = p + LTX_BLOCK_HEAD_SIZE;
    f->size = (size_t)LTX_BLOCK_HEAD_SIZE + f->payload_size;
    return 0;
}

static int parse_frame(const uint8_t *p, size_t n, struct ltx_frame *f, uint32_t page_size,
                       struct err *e)
{
    if (n < LTX_FRAME_HEAD_SIZE)
        return err_set(e, ERR_CORRUPT, "page %u: cut off in its LZ4 frame header", f->pgno);
    if (memcmp(p + LTX_PAGE_HEADER_SIZE, LTX_LZ4_HEADER, LTX_LZ4_HEADER_SIZE) != 0)
        return err_set(e, ERR_CORRUPT, "page %u: not the LZ4 frame header of an LTX file", f->pgno);
    uint32_t size = le32_get(p + LTX_PAGE_HEADER_SIZE + LTX_LZ4_HEADER_SIZE);
    f->stored = size & LTX_LZ4_STORED;
    f->payload_size = size & ~LTX_LZ4_STORED;
    if (!f->payload_size || f->payload_size > ltx_payload_max(page_size) ||
        (f->stored && f->payload_size != page_size))
        return err_set(e, ERR_CORRUPT, "page %u: LZ4 frame with a block of %u bytes", f->pgno,
                       f->payload_size);
    f->summed = LTX_PAGE_HEADER_SIZE;
    f->payload = p + LTX_FRAME_HEAD_SIZE;
    f->size = (size_t)LTX_FRAME_HEAD_SIZE + f->payload_size + LTX_FRAME_TAIL_SIZE;
    return 0;
}

int ltx_frame_parse(const uint8_t *p, size_t n, uint32_t page_size, struct ltx_frame *ret,
                    struct err *e)
{
    if (n < LTX_PAGE_HEADER_SIZE)
        return err_set(e, ERR_CORRUPT, "page header cut off");
    struct ltx_frame f = {.pgno = be32_get(p)};
    uint16_t flags = be16_get(p + 4);
    if (!f.pgno)
        return err_set(e, ERR_CORRUPT, "page header with page number 0");
    if (flags & ~LTX_PAGE_FLAG_BLOCK)
        return err_set(e, ERR_CORRUPT, "page %u: unknown page flags %04x", f.pgno, flags);
    int r = flags & LTX_PAGE_FLAG_BLOCK ? parse_block(p, n, &f, ltx_payload_max(page_size), e)
                                        : parse_frame(p, n, &f, page_size, e);
    if (r < 0)
        return r;
    if (f.size > n)
        return err_set(e, ERR_CORRUPT, "page %u: %zu bytes where %zu are left", f.pgno, f.size, n);
    if (!f.block) {
        const uint8_t *tail = p + f.size - LTX_FRAME_TAIL_SIZE;
        if (le32_get(tail))
            return err_set(e, ERR_CORRUPT, "page %u: more than one block in its LZ4 frame", f.pgno);
        f.xxh32 = le32_get(tail + 4);
    }
    *ret = f;
    return 0;
}

int ltx_frame_unpack(const struct ltx_frame *f, uint32_t page_size, uint8_t *page, struct err *e)
{
    if (f->stored) {
        memcpy(page, f->payload, page_size);
    } else {
        int n = LZ4_decompress_safe((const char *)f->payload, (char *)page, (int)f->payload_size,
                                    (int)page_size);
        if (n < 0)
            return err_set(e, ERR_CORRUPT, "page %u: malformed LZ4 data", f->pgno);
        if ((uint32_t)n != page_size)
            return err_set(e, ERR_CORRUPT, "page %u: decodes to %d bytes", f->pgno, n);
    }
    if (!f->block && xxh32(page, page_size) != f->xxh32)
        return err_set(e, ERR_CORRUPT, "page %u: content checksum of its LZ4 frame is wrong",
                       f->pgno);
    return 0;
}

int ltx_page_decode(const uint8_t *frame, size_t n, uint32_t page_size, uint32_t *ret_pgno,
                    uint8_t *page, struct err *e)
{
    struct ltx_frame f;
    if (!page_size_valid(page_size))
        return err_set(e, ERR_CORRUPT, "page size %u", page_size);
    int r = ltx_frame_parse(frame, n, page_size, &f, e);
    if (r < 0)
        return r;
    if (f.size != n)
        return err_set(e, ERR_CORRUPT, "page %u: frame of %zu bytes, the index says %zu", f.pgno,
                       f.size, n);
    r = ltx_frame_unpack(&f, page_size, page, e);
    if (r < 0)
        return r;
    *ret_pgno = f.pgno;
    return 0;
}

/* ---- page index ----------------------------------------------------------------------------- */

static bool varint(const uint8_t *p, size_t end, size_t *pos, uint64_t *ret)
{
    uint64_t v = 0;
    for (int i = 0; i < VARINT_MAX && *pos < end; i++) {
        uint8_t b = p[(*pos)++];
        v |= (uint64_t)(b & 0x7f) << 7 * i;
        if (!(b & 0x80)) {
            *ret = v;
            return i < VARINT_MAX - 1 || b <= 1; /* the tenth byte has room for one bit */
        }
    }
    return false;
}

int ltx_index_next(const uint8_t *p, size_t end, size_t *pos, struct ltx_index_entry *ret,
                   struct err *e)
{
    uint64_t pgno, off, size;
    size_t at = *pos;
    if (at >= end)
        return 1;
    if (!varint(p, end, &at, &pgno) || !varint(p, end, &at, &off) || !varint(p, end, &at, &size))
        return err_set(e, ERR_CORRUPT, "page index: malformed entry at byte %zu", *pos);
    if (!pgno || pgno > UINT32_MAX)
        return err_set(e, ERR_CORRUPT, "page index: page number %" PRIu64, pgno);
    *pos = at;
    *ret = (struct ltx_index_entry){(uint32_t)pgno, off, size};
    return 0;
}
