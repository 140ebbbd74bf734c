#include "common/format/wal.h"

#define MAGIC_LE 0x377f0682u
#define MAGIC_BE 0x377f0683u
#define VERSION 3007000u
#define VERSION_WAL2 3021000u
#define HEADER_SUMMED 24u /* bytes of the file header under its checksum */
#define FRAME_SUMMED 8u   /* bytes of a frame header under the running checksum */

bool page_size_valid(uint32_t n)
{
    return n >= 512 && n <= 65536 && !(n & (n - 1));
}

static inline uint32_t word(const uint8_t *p, bool big_endian)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return big_endian ? be32toh(v) : le32toh(v);
}

/* Inlined once per byte order, so that the loop has no test and the sums stay in registers. */
static inline __attribute__((always_inline)) void checksum(bool big_endian, const uint8_t *p,
                                                           size_t n, uint32_t s[2])
{
    uint32_t s0 = s[0], s1 = s[1];
    for (const uint8_t *end = p + n; p < end; p += 8) {
        s0 += word(p, big_endian) + s1;
        s1 += word(p + 4, big_endian) + s0;
    }
    s[0] = s0;
    s[1] = s1;
}

void wal_checksum(bool big_endian, const uint8_t *p, size_t n, uint32_t s[2])
{
    if (big_endian)
        checksum(true, p, n, s);
    else
        checksum(false, p, n, s);
}

int wal_header_parse(const uint8_t p[static WAL_HEADER_SIZE], struct wal_header *ret,
                     struct err *e)
{
    uint32_t magic = be32_get(p), version = be32_get(p + 4);
    if (magic != MAGIC_LE && magic != MAGIC_BE)
        return err_set(e, ERR_CORRUPT, "WAL header has magic %08x", magic);
    if (version == VERSION_WAL2)
        return err_set(e, ERR_UNSUPPORTED, "the database is in WAL2 mode");
    if (version != VERSION)
        return err_set(e, ERR_CORRUPT, "WAL header has format version %u", version);
    struct wal_header h = {
        .big_endian = magic == MAGIC_BE,
        .page_size = be32_get(p + 8),
        .sequence = be32_get(p + 12),
        .salt = {be32_get(p + 16), be32_get(p + 20)},
        .cksum = {be32_get(p + 24), be32_get(p + 28)},
    };
    if (!page_size_valid(h.page_size))
        return err_set(e, ERR_CORRUPT, "WAL header has page size %u", h.page_size);
    uint32_t s[2] = {0, 0};
    wal_checksum(h.big_endian, p, HEADER_SUMMED, s);
    if (s[0] != h.cksum[0] || s[1] != h.cksum[1])
        return err_set(e, ERR_CORRUPT, "WAL header has checksum %08x%08x, its bytes give %08x%08x",
                       h.cksum[0], h.cksum[1], s[0], s[1]);
    *ret = h;
    return 0;
}

struct wal_frame wal_frame_parse(const uint8_t p[static WAL_FRAME_HEADER_SIZE])
{
    return (struct wal_frame){
        .pgno = be32_get(p),
        .commit = be32_get(p + 4),
        .salt = {be32_get(p + 8), be32_get(p + 12)},
        .cksum = {be32_get(p + 16), be32_get(p + 20)},
    };
}

bool wal_frame_check(const struct wal_header *h, const uint8_t *p, uint32_t s[2],
                     struct wal_frame *ret)
{
    struct wal_frame f = wal_frame_parse(p);
    if (!f.pgno || f.salt[0] != h->salt[0] || f.salt[1] != h->salt[1])
        return false;
    uint32_t t[2] = {s[0], s[1]};
    wal_checksum(h->big_endian, p, FRAME_SUMMED, t);
    wal_checksum(h->big_endian, p + WAL_FRAME_HEADER_SIZE, h->page_size, t);
    if (t[0] != f.cksum[0] || t[1] != f.cksum[1])
        return false;
    s[0] = t[0];
    s[1] = t[1];
    *ret = f;
    return true;
}

void wal_scan_init(struct wal_scan *w, const struct wal_header *h)
{
    *w = (struct wal_scan){
        .h = *h,
        .s = {h->cksum[0], h->cksum[1]},
        .commit_s = {h->cksum[0], h->cksum[1]},
    };
}

bool wal_scan_frame(struct wal_scan *w, const uint8_t *p, struct wal_frame *ret)
{
    struct wal_frame f;
    if (!wal_frame_check(&w->h, p, w->s, &f))
        return false;
    w->valid++;
    if (f.commit) {
        w->committed = w->valid;
        w->commit_pages = f.commit;
        w->commit_s[0] = w->s[0];
        w->commit_s[1] = w->s[1];
    }
    *ret = f;
    return true;
}
