/* A file of unknown origin: it is refused, or every way of reading it gives the same pages and
 * writing them again gives a file that reads as them. */
#include "common/base/buf.h"
#include "common/format/ltx.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

#define CHECK(x)     \
    do {             \
        if (!(x))    \
            abort(); \
    } while (0)

static int take(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    buf_add(arg, p, n);
    return 0;
}

/* Index and frames on their own: no file checksum protects random access. */
static void random_access(const uint8_t *p, size_t n)
{
    static uint8_t page[65536];
    struct err e;
    struct ltx_index_entry x;
    size_t pos = 0;
    uint32_t pgno;
    while (ltx_index_next(p, n, &pos, &x, &e) == 0)
        if (x.off <= n && x.size <= n - x.off)
            (void)ltx_page_decode(p + x.off, x.size, 4096, &pgno, page, &e);
    (void)ltx_page_decode(p, n, 512, &pgno, page, &e);
    (void)ltx_page_decode(p, n, 65536, &pgno, page, &e);
}

static void same_again(const uint8_t *p, size_t n, enum ltx_encoding encoding)
{
    static uint8_t page[65536], page2[65536];
    struct err e;
    struct ltx_decoder d, d2;
    struct ltx_encoder *enc;
    cleanup_buf struct buf out = BUF_INIT;
    uint32_t pgno = 0, pgno2 = 0;
    CHECK(ltx_decoder_open(&d, p, n, &e) == 0);
    CHECK(ltx_encoder_new(&d.h, encoding, take, &out, &enc, &e) == 0);
    while (ltx_decoder_next(&d, &pgno, page, &e) == 0)
        CHECK(ltx_encoder_page(enc, pgno, page, &e) == 0);
    CHECK(d.done);
    CHECK(ltx_encoder_finish(enc, d.post_apply, NULL, &e) == 0);
    (void)ltx_encoder_free(enc);
    CHECK(ltx_decoder_open(&d, p, n, &e) == 0);
    CHECK(ltx_decoder_open(&d2, out.p, out.len, &e) == 0);
    while (ltx_decoder_next(&d, &pgno, page, &e) == 0) {
        CHECK(ltx_decoder_next(&d2, &pgno2, page2, &e) == 0);
        CHECK(pgno == pgno2 && memcmp(page, page2, d.h.page_size) == 0);
    }
    CHECK(ltx_decoder_next(&d2, &pgno2, page2, &e) == 1);
}

/* Reach what lies behind the file checksum: put the one the decoder asks for in its place. */
static bool mend(uint8_t *p, size_t n)
{
    struct err e;
    if (ltx_verify(p, n, NULL, &e) == 0)
        return true;
    const char *want = strstr(e.msg, "its bytes give ");
    if (!want)
        return false;
    be64_put(p + n - 8, strtoull(want + strlen("its bytes give "), NULL, 16));
    return ltx_verify(p, n, NULL, &e) == 0;
}

/* Reading by the index says the same as reading in turn. */
static bool walk(const uint8_t *p, size_t n)
{
    static uint8_t page[65536];
    struct err e;
    struct ltx_decoder d;
    struct ltx_index_entry x;
    struct ltx_sum sum = {0};
    int r = ltx_decoder_open(&d, p, n, &e);
    while (r == 0 && (r = ltx_walk_next(&d, &x, &e)) == 0)
        r = ltx_walk_page(&d, &x, page, &sum, &e);
    return r > 0 && ltx_walk_finish(&d, &sum, &e) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct err e;
    random_access(p, n);
    CHECK(walk(p, n) == (ltx_verify(p, n, NULL, &e) == 0));
    uint8_t *copy = malloc(n + 1);
    CHECK(copy);
    if (n)
        memcpy(copy, p, n);
    if (mend(copy, n)) {
        CHECK(walk(copy, n));
        same_again(copy, n, LTX_BLOCK);
        same_again(copy, n, LTX_FRAME);
    }
    free(copy);
    return 0;
}
