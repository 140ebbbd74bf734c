#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "common/format/merge.h"

#define PAGES 40u
#define PS 512u
#define LINEAGE 0x0123456789abcdefull

static int take(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    buf_add(arg, p, n);
    return 0;
}

/* every version of a page is another one */
static void fill(uint8_t *page, uint32_t page_size, uint32_t pgno, uint64_t version)
{
    for (uint32_t i = 0; i < page_size; i++)
        page[i] = (uint8_t)(i / 32 + pgno * 7 + version * 13);
}

struct file {
    struct buf b;
    uint64_t version[PAGES + 1]; /* 0: the page is not in it */
};

static void encode(struct file *f, struct ltx_header h, enum ltx_encoding encoding)
{
    struct err e = {0};
    struct ltx_encoder *enc = NULL;
    uint8_t page[4096];
    h.flags = LTX_FLAG_NO_CHECKSUM;
    f->b = (struct buf)BUF_INIT;
    assert_int_equal(ltx_encoder_new(&h, encoding, take, &f->b, &enc, &e), 0);
    for (uint32_t p = 1; p <= h.commit; p++) {
        if (!f->version[p])
            continue;
        fill(page, h.page_size, p, f->version[p]);
        if (ltx_encoder_page(enc, p, page, &e))
            fail_msg("%s", e.msg);
    }
    assert_int_equal(ltx_encoder_finish(enc, 0, NULL, &e), 0);
    (void)ltx_encoder_free(enc);
}

static struct ltx_header head(uint64_t min, uint64_t max, uint32_t commit)
{
    return (struct ltx_header){.page_size = PS, .commit = commit, .min_txid = min, .max_txid = max,
                               .timestamp_ms = (int64_t)max * 1000, .node_id = LINEAGE,
                               .wal_offset = 32, .wal_size = 536, .wal_salt = {1, 2}};
}

static void expect(const struct buf *b, const uint64_t *version, uint32_t commit)
{
    struct err e = {0};
    struct ltx_decoder d;
    uint8_t page[PS], want[PS];
    uint32_t pgno, last = 0;
    int r = ltx_decoder_open(&d, b->p, b->len, &e);
    while (r == 0 && (r = ltx_decoder_next(&d, &pgno, page, &e)) == 0) {
        for (uint32_t p = last + 1; p < pgno; p++)
            assert_false(version[p]);
        assert_true(version[pgno]);
        fill(want, PS, pgno, version[pgno]);
        assert_memory_equal(page, want, PS);
        last = pgno;
    }
    if (r < 0)
        fail_msg("%s", e.msg);
    for (uint32_t p = last + 1; p <= commit; p++)
        assert_false(version[p]);
}

/* Random chains, with growth completed as the capture does it, in both encodings, mixed. */
static void the_newest_version_of_each_page_and_nothing_beyond_the_end(void **state)
{
    (void)state;
    srandom(7);
    for (int round = 0; round < 300; round++) {
        size_t n = 1 + (size_t)random() % 8;
        struct file f[8] = {0};
        struct merge_input in[8];
        uint64_t want[PAGES + 1] = {0}, txid = 5;
        uint32_t commit = 1 + (uint32_t)random() % PAGES;
        for (size_t i = 0; i < n; i++) {
            uint32_t before = commit;
            commit = 1 + (uint32_t)random() % PAGES;
            for (uint32_t p = 1; p <= commit; p++)
                if (random() % 3 == 0 || (i && p > before))
                    want[p] = f[i].version[p] = i + 1;
            for (uint32_t p = commit + 1; p <= PAGES; p++)
                want[p] = 0;
            uint64_t min = i && random() % 4 == 0 ? txid - 1 : txid; /* sometimes they overlap */
            uint64_t max = txid + (uint64_t)random() % 3;
            encode(&f[i], head(min, max, commit), random() % 2 ? LTX_BLOCK : LTX_FRAME);
            in[i] = (struct merge_input){f[i].b.p, f[i].b.len};
            txid = max + 1;
        }
        struct buf out = BUF_INIT;
        struct merge_output o;
        struct err e = {0};
        if (merge_ltx(in, n, random() % 2 ? LTX_BLOCK : LTX_FRAME, take, &out, &o, &e))
            fail_msg("%s", e.msg);
        assert_int_equal(o.size, out.len);
        assert_int_equal(o.h.min_txid, 5);
        assert_int_equal(o.h.max_txid, txid - 1);
        assert_int_equal(o.h.timestamp_ms, (int64_t)(txid - 1) * 1000);
        assert_int_equal(o.h.commit, commit);
        assert_int_equal(o.h.node_id, LINEAGE);
        assert_int_equal(o.h.wal_size, 0);
        uint32_t there = 0;
        for (uint32_t p = 1; p <= PAGES; p++)
            there += want[p] != 0;
        assert_int_equal(o.pages, there);
        expect(&out, want, commit);
        buf_free(&out);
        for (size_t i = 0; i < n; i++)
            buf_free(&f[i].b);
    }
}

static void refused(struct file *f, size_t n, const char *word)
{
    struct merge_input in[3];
    struct buf out = BUF_INIT;
    struct merge_output o;
    struct err e = {0};
    for (size_t i = 0; i < n; i++)
        in[i] = (struct merge_input){f[i].b.p, f[i].b.len};
    assert_int_equal(merge_ltx(in, n, LTX_BLOCK, take, &out, &o, &e), -ERR_CORRUPT);
    if (!strstr(e.msg, word))
        fail_msg("%s: no %s", e.msg, word);
    buf_free(&out);
}

static void files_that_do_not_belong_together_are_refused(void **state)
{
    (void)state;
    struct file f[3] = {0};
    f[0].version[1] = 1;
    f[1].version[1] = f[1].version[2] = 2;
    encode(&f[0], head(5, 5, 2), LTX_BLOCK);
    struct ltx_header h = head(7, 7, 2);
    encode(&f[1], h, LTX_BLOCK);
    refused(f, 2, "file 2: TXIDs 0000000000000007");
    buf_free(&f[1].b);
    h = head(5, 5, 2);
    encode(&f[1], h, LTX_BLOCK);
    refused(f, 2, "file 2: TXIDs");
    buf_free(&f[1].b);
    h = head(6, 6, 2);
    h.node_id++;
    encode(&f[1], h, LTX_BLOCK);
    refused(f, 2, "file 2: lineage");
    buf_free(&f[1].b);
    h = head(6, 6, 2);
    h.page_size = 1024;
    encode(&f[1], h, LTX_BLOCK);
    refused(f, 2, "file 2: page size 1024");
    buf_free(&f[1].b);
    buf_free(&f[0].b);
}

/* A flipped bit in any byte of a page, also of one that a newer file replaces. */
static void damage_in_a_page_that_is_not_even_used_is_found(void **state)
{
    (void)state;
    struct file f[2] = {0};
    for (uint32_t p = 1; p <= 3; p++)
        f[0].version[p] = 1, f[1].version[p] = 2;
    encode(&f[0], head(5, 5, 3), LTX_BLOCK);
    encode(&f[1], head(6, 6, 3), LTX_BLOCK);
    unsigned found = 0, harmless = 0;
    for (size_t i = 0; i < f[0].b.len; i++) {
        struct merge_input in[2] = {{f[0].b.p, f[0].b.len}, {f[1].b.p, f[1].b.len}};
        struct buf out = BUF_INIT;
        struct merge_output o;
        struct err e = {0};
        f[0].b.p[i] ^= 4;
        if (merge_ltx(in, 2, LTX_BLOCK, take, &out, &o, &e) < 0) {
            found++;
            if (e.code == ERR_CORRUPT && !strstr(e.msg, "file "))
                fail_msg("does not say which file: %s", e.msg);
        } else {
            harmless++; /* LZ4 has two ways to say the same */
        }
        buf_free(&out);
        f[0].b.p[i] ^= 4;
    }
    print_message("%u flips found, %u decode to the same\n", found, harmless);
    assert_true(found > 20 * harmless);
    for (size_t i = 0; i < 2; i++)
        buf_free(&f[i].b);
}

static int full_disk(void *arg, const void *p, size_t n, struct err *e)
{
    (void)p;
    (void)n;
    ++*(int *)arg;
    return err_set(e, ERR_NOSPC, "disk full");
}

static void an_output_that_fails_is_reported(void **state)
{
    (void)state;
    struct file f = {0};
    int calls = 0;
    f.version[1] = 1;
    encode(&f, head(5, 5, 1), LTX_BLOCK);
    struct merge_input in = {f.b.p, f.b.len};
    struct merge_output o;
    struct err e = {0};
    assert_int_equal(merge_ltx(&in, 1, LTX_BLOCK, full_disk, &calls, &o, &e), -ERR_NOSPC);
    assert_int_equal(calls, 1);
    buf_free(&f.b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_version_of_each_page_and_nothing_beyond_the_end),
        cmocka_unit_test(files_that_do_not_belong_together_are_refused),
        cmocka_unit_test(damage_in_a_page_that_is_not_even_used_is_found),
        cmocka_unit_test(an_output_that_fails_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
