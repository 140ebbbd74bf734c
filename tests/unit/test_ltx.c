#include "tests/unit/ltx_harness.h"

#include <lz4frame.h>

#include "common/base/fsx.h"
#include "common/format/crc64.h"
#include "tests/unit/quick.h"

#define VECTORS "tests/vectors/"

static bool python(const char *files)
{
    if (system("command -v python3 >/dev/null") != 0) {
        print_message("no python3: the independent decoder was not asked\n");
        return true;
    }
    cleanup_free char *cmd = util_printf("python3 tests/tools/ltx_check.py %s >/dev/null", files);
    return system(cmd) == 0;
}

/* ---- names and headers ---------------------------------------------------------------------- */

static void names(void **state)
{
    (void)state;
    char n[LTX_NAME_SIZE];
    uint64_t min = 7, max = 7;
    assert_string_equal(ltx_name(n, 1, 0xdeadbeef), "0000000000000001-00000000deadbeef.ltx");
    assert_true(ltx_name_parse(n, &min, &max));
    assert_int_equal(min, 1);
    assert_int_equal(max, 0xdeadbeef);
    assert_string_equal(ltx_name(n, UINT64_MAX, UINT64_MAX),
                        "ffffffffffffffff-ffffffffffffffff.ltx");
    assert_true(ltx_name_parse(n, &min, &max));
    assert_int_equal(max, UINT64_MAX);
    static const char *const bad[] = {
        "",
        "0000000000000001",
        "0000000000000001-",
        "0000000000000001-0000000000000002",
        "0000000000000001-0000000000000002.lt",
        "0000000000000001-0000000000000002.ltx ",
        "0000000000000001-0000000000000002.ltx.tmp",
        "0000000000000001_0000000000000002.ltx",
        "000000000000000A-000000000000000B.ltx",
        "000000000000001-0000000000000002.ltx",
        "00000000000000001-0000000000000002.ltx",
        "0000000000000000-0000000000000002.ltx",
        "0000000000000003-0000000000000002.ltx",
        "0x00000000000001-0000000000000002.ltx",
        " 000000000000001-0000000000000002.ltx",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(ltx_name_parse(bad[i], &min, &max));
    assert_int_equal(min, UINT64_MAX);
}

static void lock_pages(void **state)
{
    (void)state;
    static const uint32_t want[] = {2097153, 1048577, 524289, 262145, 131073, 65537, 32769, 16385};
    for (uint32_t i = 0; i < ARRAY_LEN(want); i++)
        assert_int_equal(ltx_lock_pgno(512u << i), want[i]);
}

static void page_checksums(void **state)
{
    (void)state;
    uint8_t page[512];
    memset(page, '1', sizeof page);
    assert_int_equal(ltx_page_checksum(1, page, 512), 0xeb1a999231044dddull);
    uint64_t sum = LTX_CHECKSUM_FLAG;
    for (uint8_t i = 1; i <= 3; i++) {
        memset(page, i, sizeof page);
        sum = LTX_CHECKSUM_FLAG | (sum ^ ltx_page_checksum(i, page, 512));
    }
    assert_int_equal(sum, 0xefffffffecd99000ull);
}

static void header_rules(void **state)
{
    (void)state;
    struct bad {
        const char *text;
        struct ltx_header h;
    } v[20];
    size_t n = 0;
#define BAD(what, min, change)                                       \
    do {                                                             \
        v[n] = (struct bad){what, header(4096, 3, min, MAX(min, 1))}; \
        struct ltx_header *h = &v[n++].h;                            \
        change;                                                      \
    } while (0)
    BAD("flags", 2, h->flags = 3);
    BAD("flags", 2, h->flags = 0x80000002u);
    BAD("page size", 2, h->page_size = 0);
    BAD("page size", 2, h->page_size = 4095);
    BAD("page size", 2, h->page_size = 131072);
    BAD("TXIDs", 0, h->flags = 2);
    BAD("TXIDs", 3, h->max_txid = 2);
    BAD("WAL offset", 2, h->wal_offset = -1);
    BAD("WAL offset", 2, h->wal_size = -1);
    BAD("without a WAL offset", 2, h->wal_offset = 0);
    BAD("without a WAL offset", 2, (h->wal_offset = 0, h->wal_size = 0, h->wal_salt[0] = 0));
    BAD("without a WAL offset", 2, (h->wal_offset = 0, h->wal_size = 0, h->wal_salt[1] = 0));
    BAD("pre-apply", 1, h->pre_apply = LTX_CHECKSUM_FLAG);
    BAD("pre-apply", 1, (h->flags = 0, h->pre_apply = LTX_CHECKSUM_FLAG));
    BAD("pre-apply", 2, h->pre_apply = LTX_CHECKSUM_FLAG);
    BAD("pre-apply", 2, h->flags = 0);
    BAD("pre-apply", 2, (h->flags = 0, h->pre_apply = 5));
    BAD("commit 0", 2, h->commit = 0);
#undef BAD
    for (size_t i = 0; i < n; i++) {
        struct err e = {0};
        struct ltx_header got = {.commit = 99};
        struct ltx_encoder *enc = NULL;
        uint8_t p[LTX_HEADER_SIZE];
        ltx_header_encode(&v[i].h, p);
        assert_int_equal(ltx_header_decode(p, &got, &e), -ERR_CORRUPT);
        if (!strstr(e.msg, v[i].text))
            fail_msg("\"%s\" is not in \"%s\"", v[i].text, e.msg);
        assert_int_equal(got.commit, 99);
        assert_int_equal(ltx_encoder_new(&v[i].h, LTX_BLOCK, take, NULL, &enc, &e), -ERR_INTERNAL);
        assert_null(enc);
    }
    struct ltx_header h = header(65536, 3, 2, 9), got;
    struct err e = {0};
    uint8_t p[LTX_HEADER_SIZE];
    h.timestamp_ms = -5;
    ltx_header_encode(&h, p);
    assert_int_equal(ltx_header_decode(p, &got, &e), 0);
    assert_int_equal(got.page_size, 65536);
    assert_int_equal(got.timestamp_ms, -5);
    assert_int_equal(got.wal_size, h.wal_size);
    assert_int_equal(got.wal_salt[1], h.wal_salt[1]);
    assert_int_equal(got.node_id, h.node_id);
    p[99] = 1; /* reserved: ignored */
    assert_int_equal(ltx_header_decode(p, &got, &e), 0);
    p[3] = '2';
    assert_int_equal(ltx_header_decode(p, &got, &e), -ERR_CORRUPT);
    assert_string_equal(e.msg, "LTX of version 2, which this walsup cannot read");
    assert_non_null(strstr(e.hint, "or a newer one"));
    p[0] = 'l';
    assert_int_equal(ltx_header_decode(p, &got, &e), -ERR_CORRUPT);
    assert_non_null(strstr(e.msg, "not an LTX file"));
}

/* ---- vectors -------------------------------------------------------------------------------- */

struct vector {
    const char *name;
    enum ltx_encoding encoding;
    uint32_t pages;
    uint64_t checksum;
};
static const struct vector vectors[] = {
    {"t1-snapshot-block", LTX_BLOCK, 1, 0xe4c9a5e1715ac0f2ull},
    {"t2-snapshot-frame", LTX_FRAME, 1, 0xbb9a269be3dc054full},
    {"t3-snapshot-stored", LTX_BLOCK, 1, 0xf0273f1e66fcd2feull},
    {"t4-l0-txid2-block", LTX_BLOCK, 3, 0xb1991ab89f721c42ull},
    {"t4-l0-txid2-frame", LTX_FRAME, 3, 0xab368a4d12cc34a9ull},
    {"t5-l1-txid1-2-block", LTX_BLOCK, 3, 0xab98ad307b1c75ecull},
    {"t5-l1-txid1-2-frame", LTX_FRAME, 3, 0x8c6933b8f2b3f247ull},
    {"t6-checksummed-block", LTX_BLOCK, 1, 0xbc8648327f8390c6ull},
    {"t6-checksummed-frame", LTX_FRAME, 1, 0x933ca75759f6677full},
    {"t7-commit-zero", LTX_BLOCK, 0, 0xf88c534cec9ba52bull},
};

static void read_vector(const char *name, struct buf *b)
{
    struct err e = {0};
    cleanup_free char *path = util_printf(VECTORS "%s.ltx", name);
    if (fsx_read(path, 1 << 20, b, &e) < 0)
        fail_msg("%s (run from the top of the tree)", e.msg);
}

/* Decode each vector, encode its pages again and compare whatever does not depend on the choices
 * of an LZ4 compressor. */
static void the_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
        const struct vector *v = &vectors[i];
        cleanup_buf struct buf b = BUF_INIT, out = BUF_INIT;
        struct err e = {0};
        struct ltx_decoder d, d2;
        struct ltx_encoder *enc;
        uint8_t page[1024], page2[1024];
        uint32_t pgno, pgno2, n = 0;
        int r;
        read_vector(v->name, &b);
        if (ltx_decoder_open(&d, b.p, b.len, &e) < 0)
            fail_msg("%s: %s", v->name, e.msg);
        assert_int_equal(d.file_checksum, v->checksum);
        assert_int_equal(ltx_encoder_new(&d.h, v->encoding, take, &out, &enc, &e), 0);
        while ((r = ltx_decoder_next(&d, &pgno, page, &e)) == 0) {
            assert_int_equal(ltx_encoder_page(enc, pgno, page, &e), 0);
            n++;
        }
        if (r < 0)
            fail_msg("%s: %s", v->name, e.msg);
        assert_int_equal(n, v->pages);
        assert_int_equal(ltx_encoder_finish(enc, d.post_apply, NULL, &e), 0);
        (void)ltx_encoder_free(enc);
        assert_memory_equal(out.p, b.p, LTX_HEADER_SIZE);
        assert_int_equal(ltx_decoder_open(&d, b.p, b.len, &e), 0);
        assert_int_equal(ltx_decoder_open(&d2, out.p, out.len, &e), 0);
        assert_int_equal(d.post_apply, d2.post_apply);
        for (uint32_t k = 0; k < n; k++) {
            assert_int_equal(ltx_decoder_next(&d, &pgno, page, &e), 0);
            assert_int_equal(ltx_decoder_next(&d2, &pgno2, page2, &e), 0);
            assert_int_equal(pgno, pgno2);
            assert_memory_equal(page, page2, d.h.page_size);
        }
        assert_int_equal(ltx_decoder_next(&d2, &pgno2, page2, &e), 1);
        if (!n) { /* nothing compressed: the same file */
            assert_int_equal(out.len, b.len);
            assert_memory_equal(out.p, b.p, b.len);
        }
    }
    assert_true(python(VECTORS "*.ltx"));
}

/* ---- round trips ---------------------------------------------------------------------------- */

static void round_trips(void **state)
{
    (void)state;
    char dir[] = "/tmp/walsup-test-ltx-XXXXXX";
    assert_non_null(mkdtemp(dir));
    struct err e = {0};
    cleanup_buf struct buf files = BUF_INIT;
    for (uint32_t ps = 512; ps <= 65536; ps *= 2)
        for (int encoding = LTX_BLOCK; encoding <= LTX_FRAME; encoding++)
            for (int kind = 0; kind < 3; kind++) {
                static const uint32_t some[] = {2, 3, 4, 6, 9, 127, 128, 129, 16383, 16384, 90000};
                uint32_t all[40], n = kind == 1 ? ARRAY_LEN(some) : ARRAY_LEN(all);
                for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
                    all[i] = i + 1;
                struct ltx_header h = kind == 1 ? header(ps, 100000, 5, 8) : header(ps, n, 1, 3);
                uint64_t post = 0;
                if (kind == 2) { /* with database checksums */
                    cleanup_free uint8_t *page = malloc(ps);
                    h.flags = 0;
                    post = LTX_CHECKSUM_FLAG;
                    for (uint32_t i = 0; i < n; i++) {
                        fill(page, ps, all[i]);
                        post = LTX_CHECKSUM_FLAG | (post ^ ltx_page_checksum(all[i], page, ps));
                    }
                }
                cleanup_buf struct buf b = BUF_INIT;
                encode(&b, &h, (enum ltx_encoding)encoding, kind == 1 ? some : all, n, post);
                expect_pages(&b, kind == 1 ? some : all, n);
                if (ps > 4096)
                    continue; /* the python decoder takes its time */
                cleanup_free char *path = util_printf("%s/%u-%d-%d.ltx", dir, ps, encoding, kind);
                assert_int_equal(fsx_publish(path, b.p, b.len, 0600, FSX_NOSYNC, &e), 0);
                buf_printf(&files, "%s ", path);
            }
    assert_true(python(buf_str(&files)));
    cleanup_free char *rm = util_printf("rm -r %s", dir);
    assert_int_equal(system(rm), 0);
}

/* The frames are LZ4 frames for liblz4, and the blocks do not lean on each other. */
static void liblz4_agrees_about_frames(void **state)
{
    (void)state;
    for (uint32_t ps = 512; ps <= 65536; ps *= 2) {
        static const uint32_t pgno[] = {1, 2, 3};
        cleanup_buf struct buf b = BUF_INIT, f = BUF_INIT;
        struct ltx_header h = header(ps, 3, 1, 1);
        struct ltx_decoder d;
        struct ltx_index_entry x;
        struct err e = {0};
        LZ4F_dctx *dctx;
        uint8_t *want = malloc(ps), *page = malloc(ps);
        encode(&b, &h, LTX_FRAME, pgno, 3, 0);
        assert_int_equal(ltx_decoder_open(&d, b.p, b.len, &e), 0);
        assert_int_equal(LZ4F_createDecompressionContext(&dctx, LZ4F_VERSION), 0);
        for (size_t pos = d.index_off; ltx_index_next(b.p, d.index_end, &pos, &x, &e) == 0;) {
            size_t n_out = ps, n_in = (size_t)x.size - 6;
            assert_int_equal(LZ4F_decompress(dctx, page, &n_out, b.p + x.off + 6, &n_in, NULL), 0);
            assert_int_equal(n_out, ps);
            assert_int_equal(n_in, x.size - 6);
            fill(want, ps, x.pgno);
            assert_memory_equal(page, want, ps);

            /* and the other way round */
            LZ4F_preferences_t prefs = {.frameInfo = {.blockSizeID = LZ4F_max64KB,
                                                      .blockMode = LZ4F_blockIndependent,
                                                      .contentChecksumFlag = 1}};
            uint32_t got = 0;
            f.len = 0;
            uint8_t *p = buf_reserve(&f, 6 + LZ4F_compressFrameBound(ps, &prefs));
            be32_put(p, x.pgno);
            be16_put(p + 4, 0);
            size_t n = LZ4F_compressFrame(p + 6, LZ4F_compressFrameBound(ps, &prefs), want, ps,
                                          &prefs);
            assert_false(LZ4F_isError(n));
            memset(page, 0, ps);
            if (ltx_page_decode(p, 6 + n, ps, &got, page, &e))
                fail_msg("%s", e.msg);
            assert_memory_equal(page, want, ps);
        }
        (void)LZ4F_freeDecompressionContext(dctx);
        free(want);
        free(page);
    }
}

/* 1 GiB of zero pages: a snapshot steps over the lock page, counts it, and never holds it. */
static void a_snapshot_across_the_lock_page(void **state)
{
    (void)state;
    const uint32_t ps = 65536, lock = ltx_lock_pgno(ps);
    uint8_t *page = calloc(1, ps);
    /* ends before, at and behind the lock page */
    uint32_t from = quick("3 of 4 snapshots of 1 GiB") ? lock + 2 : lock - 1;
    for (uint32_t commit = from; commit <= lock + 2; commit++) {
        cleanup_buf struct buf b = BUF_INIT;
        struct ltx_header h = header(ps, commit, 1, 1);
        struct err e = {0};
        struct ltx_encoder *enc;
        uint32_t first = 1;
        assert_int_equal(ltx_encoder_new(&h, LTX_BLOCK, take, &b, &enc, &e), 0);
        for (uint32_t i = first; i <= commit; i++)
            if (i != lock)
                assert_int_equal(ltx_encoder_page(enc, i, page, &e), 0);
        assert_int_equal(ltx_encoder_finish(enc, 0, NULL, &e), 0);
        (void)ltx_encoder_free(enc);
        if (commit == lock + 2 || commit == lock)
            assert_int_equal(ltx_verify(b.p, b.len, NULL, &e), 0);
    }
    free(page);
}

static void increments_around_the_lock_page(void **state)
{
    (void)state;
    for (uint32_t ps = 512; ps <= 65536; ps *= 2) {
        uint32_t lock = ltx_lock_pgno(ps), pgno[] = {lock - 1, lock + 1, lock + 2};
        cleanup_buf struct buf b = BUF_INIT;
        struct ltx_header h = header(ps, lock + 5, 2, 2);
        encode(&b, &h, LTX_BLOCK, pgno, 3, 0);
        expect_pages(&b, pgno, 3);
    }
}

/* ---- what the encoder refuses --------------------------------------------------------------- */

static void misuse(const struct ltx_header *h, const uint32_t *pgno, size_t n, uint64_t post,
                   const char *text)
{
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    struct ltx_encoder *enc;
    uint8_t page[512] = {0};
    int r = 0;
    assert_int_equal(ltx_encoder_new(h, LTX_BLOCK, take, &b, &enc, &e), 0);
    for (size_t i = 0; i < n && !r; i++)
        r = ltx_encoder_page(enc, pgno[i], page, &e);
    if (!r)
        r = ltx_encoder_finish(enc, post, NULL, &e);
    assert_int_equal(r, -ERR_INTERNAL);
    if (!strstr(e.msg, text))
        fail_msg("\"%s\" is not in \"%s\"", text, e.msg);
    assert_int_not_equal(ltx_encoder_finish(enc, post, NULL, &e), 0); /* stays refused */
    (void)ltx_encoder_free(enc);
}

static void encoder_rules(void **state)
{
    (void)state;
    struct ltx_header snap = header(512, 3, 1, 1), inc = header(512, 3, 2, 2), sum = snap;
    sum.flags = 0;
    uint32_t lock = ltx_lock_pgno(512);
    struct ltx_header big = header(512, lock + 1, 2, 2);
#define P(...) (const uint32_t[]){__VA_ARGS__}, sizeof((uint32_t[]){__VA_ARGS__}) / 4
    misuse(&snap, P(2), 0, "page 2");
    misuse(&snap, P(1, 3), 0, "page 3");
    misuse(&snap, P(1, 2), 0, "ends at page 2 of 3");
    misuse(&snap, P(1, 2, 3, 4), 0, "beyond commit");
    misuse(&snap, P(1, 2, 3), 1, "post-apply");
    misuse(&sum, P(1, 2, 3), 0, "post-apply");
    misuse(&sum, P(1, 2, 3), 5, "post-apply");
    misuse(&inc, P(0), 0, "page 0");
    misuse(&inc, P(2, 2), 0, "comes after page 2");
    misuse(&inc, P(3, 2), 0, "comes after page 3");
    misuse(&inc, P(4), 0, "beyond commit");
    misuse(&big, P(lock), 0, "lock page");
    snap.flags = 0;
    snap.commit = 0;
    misuse(&snap, P(1), LTX_CHECKSUM_FLAG, "beyond commit");
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    encode(&b, &snap, LTX_BLOCK, NULL, 0, LTX_CHECKSUM_FLAG);
    assert_int_equal(ltx_verify(b.p, b.len, NULL, &e), 0);
#undef P
}

static int refuse_write(void *arg, const void *p, size_t n, struct err *e)
{
    (void)p;
    (void)n;
    ++*(int *)arg;
    return err_set(e, ERR_NOSPC, "disk full");
}

static void a_failed_write_is_final(void **state)
{
    (void)state;
    struct ltx_header h = header(512, 1, 1, 1);
    struct err e = {0};
    struct ltx_encoder *enc;
    uint8_t page[512] = {0};
    int calls = 0;
    assert_int_equal(ltx_encoder_new(&h, LTX_BLOCK, refuse_write, &calls, &enc, &e), 0);
    assert_int_equal(ltx_encoder_page(enc, 1, page, &e), 0);
    assert_int_equal(ltx_encoder_finish(enc, 0, NULL, &e), -ERR_NOSPC);
    assert_string_equal(e.msg, "disk full");
    assert_int_equal(ltx_encoder_finish(enc, 0, NULL, &e), -ERR_INTERNAL);
    assert_int_equal(calls, 1);
    (void)ltx_encoder_free(enc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(lock_pages),
        cmocka_unit_test(page_checksums),
        cmocka_unit_test(header_rules),
        cmocka_unit_test(the_vectors),
        cmocka_unit_test(round_trips),
        cmocka_unit_test(liblz4_agrees_about_frames),
        cmocka_unit_test(a_snapshot_across_the_lock_page),
        cmocka_unit_test(increments_around_the_lock_page),
        cmocka_unit_test(encoder_rules),
        cmocka_unit_test(a_failed_write_is_final),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
