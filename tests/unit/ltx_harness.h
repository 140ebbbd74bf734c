/* ltx_harness.h - pages and files of LTX, for test_ltx.c and test_ltx_decode.c. */
#ifndef WALSUP_TESTS_LTX_HARNESS_H
#define WALSUP_TESTS_LTX_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "common/format/ltx.h"

static inline int take(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    buf_add(arg, p, n);
    return 0;
}

/* Content that depends on the page number; every third page is incompressible. */
static inline void fill(uint8_t *page, uint32_t page_size, uint32_t pgno)
{
    uint64_t x = pgno * 0x9e3779b97f4a7c15ull;
    for (uint32_t i = 0; i < page_size; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        page[i] = pgno % 3 ? (uint8_t)(i / 64 + pgno) : (uint8_t)(x >> 56);
    }
}

static inline struct ltx_header header(uint32_t page_size, uint32_t commit, uint64_t min, uint64_t max)
{
    return (struct ltx_header){
        .flags = LTX_FLAG_NO_CHECKSUM,
        .page_size = page_size,
        .commit = commit,
        .min_txid = min,
        .max_txid = max,
        .timestamp_ms = 1767225600000,
        .wal_offset = 32,
        .wal_size = 4120,
        .wal_salt = {0x11223344, 0x55667788},
        .node_id = 0x0123456789abcdefull,
    };
}

/* The pages in pgno[0..n) as a file. */
static inline void encode(struct buf *b, const struct ltx_header *h, enum ltx_encoding encoding,
                   const uint32_t *pgno, size_t n, uint64_t post_apply)
{
    struct err e = {0};
    struct ltx_encoder *enc = NULL;
    uint64_t size = 0;
    uint8_t *page = malloc(h->page_size);
    assert_non_null(page);
    assert_int_equal(ltx_encoder_new(h, encoding, take, b, &enc, &e), 0);
    for (size_t i = 0; i < n; i++) {
        fill(page, h->page_size, pgno[i]);
        if (ltx_encoder_page(enc, pgno[i], page, &e))
            fail_msg("%s", e.msg);
    }
    if (ltx_encoder_finish(enc, post_apply, &size, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(size, b->len);
    assert_null(ltx_encoder_free(enc));
    free(page);
}

/* It decodes, in turn and through its index, to exactly these pages. */
static inline void expect_pages(const struct buf *b, const uint32_t *pgno, size_t n)
{
    struct err e = {0};
    struct ltx_decoder d;
    struct ltx_index_entry x;
    if (ltx_decoder_open(&d, b->p, b->len, &e))
        fail_msg("%s", e.msg);
    uint8_t *page = malloc(d.h.page_size), *want = malloc(d.h.page_size);
    assert_true(page && want);
    size_t pos = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t got = 0;
        if (ltx_decoder_next(&d, &got, page, &e))
            fail_msg("page %u: %s", pgno[i], e.msg);
        assert_int_equal(got, pgno[i]);
        fill(want, d.h.page_size, got);
        assert_memory_equal(page, want, d.h.page_size);
        memset(page, 0xee, d.h.page_size);
        assert_int_equal(ltx_index_next(b->p + d.index_off, d.index_end - d.index_off, &pos, &x, &e),
                         0);
        assert_int_equal(x.pgno, pgno[i]);
        assert_int_equal(
            ltx_page_decode(b->p + x.off, (size_t)x.size, d.h.page_size, &got, page, &e), 0);
        assert_int_equal(got, pgno[i]);
        assert_memory_equal(page, want, d.h.page_size);
        assert_int_not_equal(
            ltx_page_decode(b->p + x.off, (size_t)x.size + 1, d.h.page_size, &got, page, &e), 0);
    }
    uint32_t got;
    assert_int_equal(ltx_decoder_next(&d, &got, page, &e), 1);
    assert_int_equal(ltx_decoder_next(&d, &got, page, &e), 1);
    assert_int_equal(ltx_index_next(b->p + d.index_off, d.index_end - d.index_off, &pos, &x, &e), 1);

    /* in two pieces, as two threads would */
    struct ltx_sum sum[2] = {{0}};
    uint64_t db = 0;
    assert_int_equal(ltx_decoder_open(&d, b->p, b->len, &e), 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(ltx_walk_next(&d, &x, &e), 0);
        assert_int_equal(x.pgno, pgno[i]);
        assert_int_equal(ltx_walk_page(&d, &x, page, &sum[i > n / 3], &e), 0);
        fill(want, d.h.page_size, x.pgno);
        assert_memory_equal(page, want, d.h.page_size);
        assert_true(sum[i > n / 3].page == ltx_page_checksum(x.pgno, page, d.h.page_size));
        db ^= sum[i > n / 3].page;
    }
    assert_int_equal(ltx_walk_next(&d, &x, &e), 1);
    assert_int_equal(ltx_walk_next(&d, &x, &e), 1);
    ltx_sum_join(&sum[0], &sum[1]);
    assert_true(sum[0].db == db);
    assert_int_equal(ltx_walk_finish(&d, &sum[0], &e), 0);
    free(page);
    free(want);
}

#endif
