/* A WAL of unknown origin: header, then frames as long as they are valid. The first byte says
 * whether to mend the checksums, so that frames are reached at all. */
#include "common/format/wal.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

#define CHECK(x)     \
    do {             \
        if (!(x))    \
            abort(); \
    } while (0)

static void mend(uint8_t *p, size_t n)
{
    uint32_t s[2] = {0, 0}, page_size = be32_get(p + 8);
    bool big = be32_get(p) & 1;
    wal_checksum(big, p, 24, s);
    be32_put(p + 24, s[0]);
    be32_put(p + 28, s[1]);
    if (!page_size_valid(page_size))
        return;
    for (size_t at = WAL_HEADER_SIZE; n - at >= wal_frame_size(page_size);
         at += wal_frame_size(page_size)) {
        if (p[at + 8] != p[16])
            return; /* leave a way to end with foreign salts */
        memcpy(p + at + 8, p + 16, 8);
        wal_checksum(big, p + at, 8, s);
        wal_checksum(big, p + at + WAL_FRAME_HEADER_SIZE, page_size, s);
        be32_put(p + at + 16, s[0]);
        be32_put(p + at + 20, s[1]);
    }
}

static void scan(const uint8_t *p, size_t n)
{
    struct err e = {0};
    struct wal_header h;
    struct wal_scan w;
    struct wal_frame f;
    uint8_t head[WAL_HEADER_SIZE] = {0};
    memcpy(head, p, n < sizeof head ? n : sizeof head);
    int r = wal_header_parse(head, &h, &e);
    if (r < 0) {
        CHECK(e.code == ERR_CORRUPT || e.code == ERR_UNSUPPORTED);
        return;
    }
    if (n < WAL_HEADER_SIZE)
        return;
    wal_scan_init(&w, &h);
    for (uint64_t k = 1; wal_frame_off(h.page_size, k + 1) <= n; k++) {
        if (!wal_scan_frame(&w, p + wal_frame_off(h.page_size, k), &f))
            break;
        CHECK(f.pgno && w.valid == k && w.committed <= k);
        CHECK(!f.commit || (w.committed == k && w.commit_pages == f.commit));
    }
    CHECK(!w.committed == !w.commit_pages);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    if (!n)
        return 0;
    uint8_t *copy = malloc(n);
    CHECK(copy);
    memcpy(copy, p, n);
    if (copy[0] & 1 && n > WAL_HEADER_SIZE)
        mend(copy + 1, n - 1);
    scan(copy + 1, n - 1);
    free(copy);
    return 0;
}
