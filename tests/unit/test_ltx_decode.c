/* What the decoder refuses. */
#include "tests/unit/quick.h"
#include "tests/unit/ltx_harness.h"

#include <lz4.h>

#include "common/format/crc64.h"

/* A writer without rules, checksums right, to break one rule at a time. */
struct raw {
    struct buf b, index;
    uint64_t crc;
};

static void raw_start(struct raw *w, const struct ltx_header *h)
{
    uint8_t p[LTX_HEADER_SIZE];
    *w = (struct raw){BUF_INIT, BUF_INIT, 0};
    ltx_header_encode(h, p);
    w->crc = crc64(0, p, sizeof p);
    buf_add(&w->b, p, sizeof p);
}

static void raw_varint(struct buf *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        buf_add(b, &(uint8_t){(uint8_t)(v | 0x80)}, 1);
    buf_add(b, &(uint8_t){(uint8_t)v}, 1);
}

/* len bytes of the page are compressed; declared: the size field, 0 = the true one */
static void raw_page_as(struct raw *w, uint32_t pgno, uint16_t flags, uint32_t len,
                        uint32_t declared)
{
    uint8_t p[10 + 2048], page[1024];
    fill(page, sizeof page, pgno);
    int n = LZ4_compress_default((const char *)page, (char *)p + 10, (int)len, 2048);
    be32_put(p, pgno);
    be16_put(p + 4, flags);
    be32_put(p + 6, declared ? declared : (uint32_t)n);
    w->crc = crc64(crc64(w->crc, p, 10), page, 512);
    raw_varint(&w->index, pgno);
    raw_varint(&w->index, w->b.len);
    raw_varint(&w->index, 10 + (uint64_t)n);
    buf_add(&w->b, p, 10 + (size_t)n);
}

static void raw_page(struct raw *w, uint32_t pgno)
{
    raw_page_as(w, pgno, 1, 512, 0);
}

static void raw_tail(struct raw *w, uint64_t index_size, uint64_t post)
{
    uint8_t zero[6] = {0}, p[16];
    size_t from = w->b.len;
    buf_add(&w->b, zero, 6);
    buf_add(&w->b, w->index.p, w->index.len);
    buf_add(&w->b, zero, 1);
    be64_put(p, index_size ? index_size : w->index.len + 1);
    be64_put(p + 8, post);
    buf_add(&w->b, p, 16);
    w->crc = crc64(w->crc, w->b.p + from, w->b.len - from);
    be64_put(p, LTX_CHECKSUM_FLAG | w->crc);
    buf_add(&w->b, p, 8);
}

/* ltx_verify by the other way of reading. */
static int walk(const void *p, size_t n)
{
    static uint8_t page[65536];
    struct err e = {0};
    struct ltx_decoder d;
    struct ltx_index_entry x;
    struct ltx_sum sum = {0};
    int r = ltx_decoder_open(&d, p, n, &e);
    while (r == 0 && (r = ltx_walk_next(&d, &x, &e)) == 0)
        r = ltx_walk_page(&d, &x, page, &sum, &e);
    return r < 0 ? r : ltx_walk_finish(&d, &sum, &e);
}

static void raw_refused(struct raw *w, const char *text)
{
    struct err e = {0};
    struct ltx_header h = {.commit = 99};
    int r = ltx_verify(w->b.p, w->b.len, &h, &e);
    if (text && !strstr(e.msg, text))
        fail_msg("\"%s\" is not in \"%s\"", text, e.msg);
    assert_int_equal(r, text ? -ERR_CORRUPT : 0);
    assert_int_equal(h.commit == 99, text != NULL);
    assert_int_equal(walk(w->b.p, w->b.len), text ? -ERR_CORRUPT : 0);
    buf_free(&w->b);
    buf_free(&w->index);
}

static void decoder_rules_on_pages(void **state)
{
    (void)state;
    struct raw w;
    struct ltx_header snap = header(512, 2, 1, 1), inc = header(512, 9, 2, 2);
    struct ltx_header big = header(512, ltx_lock_pgno(512) + 1, 2, 2);
#define RAW(h, text, post, ...)   \
    do {                          \
        raw_start(&w, h);         \
        __VA_ARGS__;              \
        raw_tail(&w, 0, post);    \
        raw_refused(&w, text);    \
    } while (0)
    RAW(&snap, NULL, 0, raw_page(&w, 1), raw_page(&w, 2));
    RAW(&snap, "ends at page 1 of 2", 0, raw_page(&w, 1));
    RAW(&snap, "ends at page 0 of 2", 0, (void)0);
    RAW(&snap, "page 2 follows page 0", 0, raw_page(&w, 2));
    RAW(&snap, "beyond commit", 0, raw_page(&w, 1), raw_page(&w, 2), raw_page(&w, 3));
    RAW(&inc, NULL, 0, (void)0);
    RAW(&inc, NULL, 0, raw_page(&w, 2), raw_page(&w, 9));
    RAW(&inc, "beyond commit", 0, raw_page(&w, 10));
    RAW(&inc, "comes after page 3", 0, raw_page(&w, 3), raw_page(&w, 3));
    RAW(&inc, "comes after page 4", 0, raw_page(&w, 4), raw_page(&w, 3));
    RAW(&big, "lock page", 0, raw_page(&w, ltx_lock_pgno(512)));
    RAW(&inc, "page number 0", 0, raw_page(&w, 0));
    RAW(&inc, "flags 0003", 0, raw_page_as(&w, 1, 3, 512, 0));
    RAW(&inc, "flags 8001", 0, raw_page_as(&w, 1, 0x8001, 512, 0));
    RAW(&inc, "not the LZ4 frame header", 0, raw_page_as(&w, 1, 0, 512, 0));
    RAW(&inc, "decodes to 511", 0, raw_page_as(&w, 1, 1, 511, 0));
    RAW(&inc, "malformed LZ4", 0, raw_page_as(&w, 1, 1, 513, 0));
    RAW(&inc, "block of 531", 0, raw_page_as(&w, 1, 1, 512, 512 + 2 + 16 + 1));
    RAW(&inc, "block of 4294967295", 0, raw_page_as(&w, 1, 1, 512, UINT32_MAX));
    RAW(&inc, "bytes where", 0, raw_page_as(&w, 1, 1, 512, 512));
    RAW(&inc, "post-apply", 1, raw_page(&w, 1));
    snap.flags = 0;
    RAW(&snap, "post-apply", 7, raw_page(&w, 1), raw_page(&w, 2));
    RAW(&snap, "the pages give", LTX_CHECKSUM_FLAG | 7, raw_page(&w, 1), raw_page(&w, 2));
    snap.commit = 0;
    RAW(&snap, NULL, LTX_CHECKSUM_FLAG, (void)0);
    RAW(&snap, "commit 0", LTX_CHECKSUM_FLAG | 1, (void)0);
    RAW(&snap, "beyond commit", LTX_CHECKSUM_FLAG, raw_page(&w, 1));
#undef RAW
}

static void decoder_rules_on_the_index(void **state)
{
    (void)state;
    struct ltx_header inc = header(512, 9, 2, 2);
    struct raw w;
    static const struct {
        const char *text;
        uint64_t entry[3]; /* for page 3, whose frame has 50 bytes at 150 or so */
        bool more, none;
        uint64_t size;
    } v[] = {
        {NULL, {0}, false, false, 0},
        {"where the page index says", {3, 101, 0}, false, false, 0},
        {"where the page index says", {4, 100, 0}, false, false, 0},
        {"where the page index says", {0}, false, true, 0},
        {"goes on after", {0}, true, false, 0},
        {"page index of 0 bytes", {0}, false, false, UINT64_MAX}, /* stands for 0 */
        {"page index of 9999 bytes", {0}, false, false, 9999},
        {"bytes where", {0}, false, false, 40},
    };
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        raw_start(&w, &inc);
        raw_page(&w, 3);
        if (v[i].entry[0]) {
            uint64_t size = w.b.len - 100;
            w.index.len = 0;
            raw_varint(&w.index, v[i].entry[0]);
            raw_varint(&w.index, v[i].entry[1]);
            raw_varint(&w.index, size);
        }
        if (v[i].none)
            w.index.len = 0;
        if (v[i].more) {
            raw_varint(&w.index, 4);
            raw_varint(&w.index, 500);
            raw_varint(&w.index, 20);
        }
        raw_tail(&w, v[i].size == UINT64_MAX ? 0 : v[i].size, 0);
        if (v[i].size == UINT64_MAX)
            be64_put(w.b.p + w.b.len - 24, 0);
        raw_refused(&w, v[i].text);
    }
}

static void varints(void **state)
{
    (void)state;
    struct err e = {0};
    struct ltx_index_entry x = {.pgno = 99};
    static const uint8_t max[] = {0xff, 0xff, 0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, 0xff,
                                  0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x05};
    size_t pos = 0;
    assert_int_equal(ltx_index_next(max, sizeof max, &pos, &x, &e), 0);
    assert_int_equal(x.pgno, UINT32_MAX);
    assert_int_equal(x.off, UINT64_MAX);
    assert_int_equal(x.size, 5);
    assert_int_equal(pos, sizeof max);
    assert_int_equal(ltx_index_next(max, sizeof max, &pos, &x, &e), 1);
    for (size_t cut = 1; cut < sizeof max; cut++) {
        pos = 0;
        assert_int_equal(ltx_index_next(max, cut, &pos, &x, &e), -ERR_CORRUPT);
        assert_int_equal(pos, 0);
    }
    static const uint8_t bad[][16] = {
        {0x80, 0x80, 0x80, 0x80, 0x10, 1, 1},                               /* page 2^32 */
        {0, 1, 1},                                                          /* page 0 */
        {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 1}, /* 65 bits */
        {1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1}, /* 11 bytes */
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        pos = 0;
        assert_int_equal(ltx_index_next(bad[i], 16, &pos, &x, &e), -ERR_CORRUPT);
    }
}

static void cut_off_and_prolonged(void **state)
{
    (void)state;
    static const uint32_t pgno[] = {1, 2, 3};
    struct ltx_header h = header(512, 3, 1, 1);
    struct err e = {0};
    for (int encoding = LTX_BLOCK; encoding <= LTX_FRAME; encoding++) {
        cleanup_buf struct buf b = BUF_INIT;
        encode(&b, &h, (enum ltx_encoding)encoding, pgno, 3, 0);
        for (size_t n = 0; n < b.len; n++) {
            uint8_t *exact = malloc(n ? n : 1); /* so that the sanitizer sees an overrun */
            memcpy(exact, b.p, n);
            assert_int_equal(ltx_verify(exact, n, NULL, &e), -ERR_CORRUPT);
            assert_int_equal(walk(exact, n), -ERR_CORRUPT);
            free(exact);
        }
        buf_add(&b, "\0", 1);
        assert_int_equal(ltx_verify(b.p, b.len, NULL, &e), -ERR_CORRUPT);
    }
}

static void single_bytes_changed(void **state)
{
    (void)state;
    static const uint32_t pgno[] = {1, 2, 3, 4, 5};
    unsigned accepted = 0, refused = 0;
    const int rounds = quick("9 of 10 changed bytes") ? 2000 : 20000;
    for (int round = 0; round < rounds; round++) {
        static struct buf b[2];
        struct buf *f = &b[round & 1];
        struct ltx_header h = header(512, 5, 1, 1);
        if (!f->len)
            encode(f, &h, round & 1 ? LTX_FRAME : LTX_BLOCK, pgno, 5, 0);
        size_t at = (size_t)util_random_below(f->len);
        uint8_t was = f->p[at];
        f->p[at] = (uint8_t)(was ^ (1 + util_random_below(255)));
        struct err e = {0};
        if (ltx_verify(f->p, f->len, NULL, &e) < 0) {
            assert_int_equal(walk(f->p, f->len), -ERR_CORRUPT);
            refused++;
        } else {
            expect_pages(f, pgno, 5);
            accepted++;
        }
        f->p[at] = was;
        if (round >= rounds - 2)
            buf_free(f);
    }
    /* only LZ4 data has several ways to say the same */
    print_message("%u refused, %u accepted with the same pages\n", refused, accepted);
    assert_true(refused > (unsigned)rounds / 20 * 19);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoder_rules_on_pages),
        cmocka_unit_test(decoder_rules_on_the_index),
        cmocka_unit_test(varints),
        cmocka_unit_test(cut_off_and_prolonged),
        cmocka_unit_test(single_bytes_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
