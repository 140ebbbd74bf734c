/* The spool directory: what a start finds after a crash, a damaged disk, a full one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "daemon/spool/spool.h"

static char dir[64];

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/walsup-spoolXXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char cmd[100];
    (void)snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

static int take(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    buf_add(arg, p, n);
    return 0;
}

static void put(const char *path, const void *p, size_t n)
{
    struct err e;
    if (fsx_publish(path, p, n, 0600, FSX_REPLACE | FSX_NOSYNC, &e) < 0)
        fail_msg("%s", e.msg);
}

static void make(uint64_t txid, uint64_t named)
{
    cleanup_buf struct buf b = BUF_INIT;
    struct err e = {0};
    struct ltx_encoder *enc;
    struct ltx_header h = {.flags = LTX_FLAG_NO_CHECKSUM, .page_size = 512, .commit = 3,
                           .min_txid = txid, .max_txid = txid, .wal_offset = 32,
                           .timestamp_ms = 1000 * (int64_t)(txid % 1000000), .node_id = 0xabc};
    uint8_t page[512];
    util_random(page, sizeof page);
    assert_int_equal(ltx_encoder_new(&h, LTX_BLOCK, take, &b, &enc, &e), 0);
    for (uint32_t p = 1; p <= 3; p++)
        assert_int_equal(ltx_encoder_page(enc, p, page, &e), 0);
    assert_int_equal(ltx_encoder_finish(enc, 0, NULL, &e), 0);
    (void)ltx_encoder_free(enc);
    cleanup_free char *path = spool_path(dir, named);
    put(path, b.p, b.len);
}

static void make_range(uint64_t first, uint64_t last)
{
    for (uint64_t t = first; t <= last; t++)
        make(t, t);
}

static struct spool_state load(void)
{
    struct spool_state st = {0};
    struct err e = {0};
    if (spool_open(dir, &st, &e) < 0)
        fail_msg("%s", e.msg);
    return st;
}

static bool there(uint64_t txid)
{
    cleanup_free char *path = spool_path(dir, txid);
    return access(path, F_OK) == 0;
}

static void expect(uint64_t first, uint64_t last, uint64_t tip, bool damaged)
{
    struct spool_state st = load();
    assert_int_equal(st.damage != NULL, damaged);
    assert_int_equal(st.n, last + 1 - first);
    for (size_t i = 0; i < st.n; i++) {
        assert_int_equal(st.file[i].txid, first + i);
        assert_int_equal(st.file[i].timestamp_ms, 1000 * (int64_t)(first + i));
        cleanup_free char *path = spool_path(dir, first + i);
        struct stat s;
        assert_int_equal(stat(path, &s), 0);
        assert_int_equal(st.file[i].size, s.st_size);
    }
    assert_int_equal(st.has_tip, tip != 0);
    if (tip)
        assert_int_equal(st.tip.max_txid, tip);
    spool_state_done(&st);
}

static void an_empty_one_is_made(void **state)
{
    (void)state;
    expect(1, 0, 0, false);
    make_range(8, 12); /* around the place where the names get longer in decimal, not in hex */
    expect(8, 12, 12, false);
}

static void left_overs_are_swept_and_what_is_not_ours_stays(void **state)
{
    (void)state;
    expect(1, 0, 0, false);
    make_range(1, 2);
    static const char *const gone[] = {"tip.tmp-0123456789abcdef", "acked.s3.tmp-0123456789abcdef",
                                       "l0/0000000000000003-0000000000000003.ltx.tmp-0123456789abcdef",
                                       "snapshot/0000000000000001-0000000000000002.ltx",
                                       "snapshot/x.tmp-0123456789abcdef"};
    static const char *const stay[] = {"l0/README", "acked.s3", "l0/a.tmp-12",
                                       "l0/0000000000000001-0000000000000002.ltx"};
    char path[200];
    for (size_t i = 0; i < ARRAY_LEN(gone); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, gone[i]);
        put(path, "x", 1);
    }
    for (size_t i = 0; i < ARRAY_LEN(stay); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, stay[i]);
        put(path, "x", 1);
    }
    expect(1, 2, 2, false);
    for (size_t i = 0; i < ARRAY_LEN(gone); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, gone[i]);
        assert_int_equal(access(path, F_OK), -1);
    }
    for (size_t i = 0; i < ARRAY_LEN(stay); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, stay[i]);
        assert_int_equal(access(path, F_OK), 0);
    }
}

static void a_damaged_file_goes_with_all_before_it_and_its_txid_stays_taken(void **state)
{
    (void)state;
    expect(1, 0, 0, false);
    /* damaged in every way there is: cut, empty, one bit, another TXID inside */
    for (int kind = 0; kind < 4; kind++)
        for (uint64_t bad = 1; bad <= 5; bad += 2) {
            make_range(1, 5);
            cleanup_free char *path = spool_path(dir, bad);
            cleanup_buf struct buf b = BUF_INIT;
            struct err e;
            assert_int_equal(fsx_read(path, SIZE_MAX, &b, &e), 0);
            if (kind == 2)
                b.p[b.len / 2] ^= 1;
            if (kind == 3)
                make(7, bad);
            else
                put(path, b.p, kind == 0 ? b.len - 1 : kind == 1 ? 0 : b.len);
            expect(bad + 1, 5, 5, true);
            assert_false(there(1) || there(bad));
            expect(bad + 1, 5, 5, false); /* said once, and the numbering is still known */
            cleanup_free char *tip = util_printf("%s/tip", dir);
            (void)unlink(tip);
        }
}

static void dropping_keeps_the_numbering(void **state)
{
    (void)state;
    struct err e = {0};
    expect(1, 0, 0, false);
    make_range(1, 6);
    struct spool_state st = load();
    struct ltx_header tip = st.tip;
    spool_state_done(&st);
    assert_int_equal(spool_drop(dir, &tip, 0, 1, 3, &e), 0);
    cleanup_free char *path = util_printf("%s/tip", dir);
    assert_int_equal(access(path, F_OK), -1); /* its file is still there */
    expect(4, 6, 6, false);
    assert_int_equal(spool_drop(dir, &tip, 0, 1, 6, &e), 0);
    expect(1, 0, 6, false);
    assert_int_equal(spool_drop(dir, &tip, 0, 1, 6, &e), 0);
    st = load();
    uint8_t was[LTX_HEADER_SIZE], is[LTX_HEADER_SIZE]; /* a struct has padding */
    ltx_header_encode(&tip, was);
    ltx_header_encode(&st.tip, is);
    assert_memory_equal(is, was, sizeof was);
    spool_state_done(&st);
    /* a gap as wide as numbers get: not counted through */
    make(7, 7);
    make(1ull << 62, 1ull << 62);
    st = load();
    tip = st.tip;
    assert_int_equal(tip.max_txid, 1ull << 62);
    spool_state_done(&st);
    assert_int_equal(spool_drop(dir, &tip, 0, 7, 1ull << 62, &e), 0);
    assert_false(there(7) || there(1ull << 62));
    expect(1, 0, 1ull << 62, false);
    /* a torn tip says nothing rather than something wrong */
    put(path, "LTX1", 4);
    expect(1, 0, 0, false);
}

/* The disk is full: what needs no room is removed all the same. */
static void the_old_ones_go_even_if_the_tip_cannot_be_written(void **state)
{
    (void)state;
    struct err e = {0};
    expect(1, 0, 0, false);
    make_range(1, 4);
    struct spool_state st = load();
    cleanup_free char *path = util_printf("%s/tip", dir);
    assert_int_equal(mkdir(path, 0700), 0); /* nothing can be renamed to that */
    assert_true(spool_drop(dir, &st.tip, 0, 1, 4, &e) < 0);
    assert_false(there(1) || there(2) || there(3));
    assert_true(there(4)); /* it alone knows the numbering */
    (void)rmdir(path);
    assert_int_equal(spool_drop(dir, &st.tip, 0, 1, 4, &e), 0);
    spool_state_done(&st);
    expect(1, 0, 4, false);
}

static void acknowledged_records(void **state)
{
    (void)state;
    struct err e = {0};
    uint64_t t = 99;
    expect(1, 0, 0, false);
    assert_false(spool_acked_read(dir, "s3", 0xabc, &t));
    assert_int_equal(spool_acked_write(dir, "s3", 0xabc, 0x1234, &e), 0);
    assert_true(spool_acked_read(dir, "s3", 0xabc, &t));
    assert_int_equal(t, 0x1234);
    assert_false(spool_acked_read(dir, "s3", 0xabd, &t)); /* another lineage */
    assert_false(spool_acked_read(dir, "local", 0xabc, &t));
    cleanup_free char *path = util_printf("%s/acked.s3", dir);
    cleanup_buf struct buf b = BUF_INIT;
    assert_int_equal(fsx_read(path, 100, &b, &e), 0);
    for (size_t n = 0; n < b.len; n++) { /* torn anywhere */
        put(path, b.p, n);
        t = 99;
        assert_false(spool_acked_read(dir, "s3", 0xabc, &t));
        assert_int_equal(t, 99);
    }
    buf_add(&b, "\n", 1);
    put(path, b.p, b.len);
    assert_false(spool_acked_read(dir, "s3", 0xabc, &t));
    memset(b.p, 0, b.len);
    put(path, b.p, b.len - 1);
    assert_false(spool_acked_read(dir, "s3", 0, &t));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_empty_one_is_made, set_up, tear_down),
        cmocka_unit_test_setup_teardown(left_overs_are_swept_and_what_is_not_ours_stays, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            a_damaged_file_goes_with_all_before_it_and_its_txid_stays_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(dropping_keeps_the_numbering, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_old_ones_go_even_if_the_tip_cannot_be_written, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(acknowledged_records, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
