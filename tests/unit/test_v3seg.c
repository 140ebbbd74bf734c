#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <lz4frame.h>

#include "common/base/buf.h"
#include "common/format/v3seg.h"

#define A "aaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbb"
#define SNAP(g, i, t) {g, true, 0, i, 0, 100, t}
#define SEG(g, i, o, t) {g, false, 8, i, o, 50, t}
#define LATEST INT64_MAX

static void names(void **state)
{
    (void)state;
    static const char *const good[] = {
        A "/snapshots/00000000.snapshot.lz4", "0123456789abcdef/snapshots/7fffffff.snapshot.lz4",
        A "/wal/00000000_00000000.wal.lz4", A "/wal/0000001f_00001038.wal.lz4",
        A "/wal/00000001_100000000.wal.lz4", A "/wal/00000001_7fffffffffffffff.wal.lz4",
        A "/wal/00000001_0000000000000020.wal.lz4"};
    static const char *const bad[] = {
        "", A, A "/", A "/snapshots/", A "/wal/", A "/snapshots/00000000.snapshot",
        A "/snapshots/0000000.snapshot.lz4", A "/snapshots/000000000.snapshot.lz4",
        A "/snapshots/80000000.snapshot.lz4", A "/snapshots/0000000A.snapshot.lz4",
        A "/snapshots/00000000.snapshot.lz4.tmp", A "/wal/00000000.wal.lz4",
        A "/wal/00000000_0000000.wal.lz4", A "/wal/00000000_00000000000000000.wal.lz4",
        A "/wal/00000000_8000000000000000.wal.lz4", A "/wal/00000000_00000000.wal.gz",
        A "/wal/00000000/00000000.wal.lz4", A "a/wal/00000000_00000000.wal.lz4",
        "aaaaaaaaaaaaaaag/wal/00000000_00000000.wal.lz4",
        "Aaaaaaaaaaaaaaaa/wal/00000000_00000000.wal.lz4"};
    struct v3_file f;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        if (!v3_name_parse(good[i], &f))
            fail_msg("%s", good[i]);
        cleanup_free char *back = v3_name(&f);
        assert_string_equal(back, good[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (v3_name_parse(bad[i], &f))
            fail_msg("%s", bad[i]);
    assert_true(v3_name_parse(A "/wal/00000001_123456789.wal.lz4", &f));
    assert_true(f.off == 0x123456789 && f.index == 1 && !f.snapshot);
    assert_true(v3_generation_ok(A));
    assert_false(v3_generation_ok(A "a"));
    assert_false(v3_generation_ok("aaa"));
}

static void plan(const struct v3_file *f, size_t n, const char *g, int64_t until, const char *want)
{
    struct err e = {0};
    struct v3_file *p = NULL;
    size_t n_p = 0;
    cleanup_buf struct buf b = BUF_INIT;
    if (v3_plan(f, n, g, until, &p, &n_p, &e) < 0)
        fail_msg("%s", e.msg);
    for (size_t i = 0; i < n_p; i++) {
        assert_string_equal(p[i].generation, p[0].generation);
        assert_int_equal(p[i].snapshot, i == 0);
        if (i)
            buf_printf(&b, " %x_%llx", p[i].index, (unsigned long long)p[i].off);
        else
            buf_printf(&b, "%c%x", p[i].generation[0], p[i].index);
    }
    assert_string_equal(buf_str(&b), want);
    free(p);
}

static void refuse(const struct v3_file *f, size_t n, const char *g, int64_t until,
                   enum err_code code, const char *text)
{
    struct err e = {0};
    struct v3_file *p = NULL;
    size_t n_p = 77;
    int r = v3_plan(f, n, g, until, &p, &n_p, &e);
    if (r != -(int)code || !strstr(e.msg, text))
        fail_msg("\"%s\" is not in \"%s\"", text, e.msg);
    assert_null(p);
    assert_int_equal(n_p, 77);
}

static const struct v3_file two[] = {
    SEG(B, 1, 0, 80), SNAP(A, 0, 10), SEG(A, 0, 0, 11), SEG(A, 0, 0x1000, 12), SEG(A, 1, 0, 13),
    SEG(A, 1, 0x20, 20), SNAP(A, 1, 18), SNAP(B, 1, 70), SEG(B, 1, 0x100000000, 90),
    SEG(B, 1, 0x20000000, 85), SEG(A, 2, 0, 40)};

static void the_newest_generation_and_snapshot(void **state)
{
    (void)state;
    size_t n = ARRAY_LEN(two);
    /* offsets by number, not by name */
    plan(two, n, "", LATEST, "b1 1_0 1_20000000 1_100000000");
    plan(two, n, A, LATEST, "a1 1_0 1_20 2_0");
    plan(two, n, B, LATEST, "b1 1_0 1_20000000 1_100000000");
    refuse(two, n, "cccccccccccccccc", LATEST, ERR_NOTFOUND, "no generation cccc");
    refuse(two, 0, "", LATEST, ERR_NOTFOUND, "empty");
}

static void until_a_time(void **state)
{
    (void)state;
    size_t n = ARRAY_LEN(two);
    plan(two, n, "", 85, "b1 1_0 1_20000000");
    plan(two, n, "", 84, "b1 1_0");
    plan(two, n, "", 70, "b1");
    plan(two, n, "", 69, "a1 1_0 1_20 2_0");
    plan(two, n, "", 39, "a1 1_0 1_20");
    /* the snapshot of 18 may have pages of the segment of 20: the one before it is safe */
    plan(two, n, "", 19, "a0 0_0 0_1000 1_0");
    plan(two, n, "", 11, "a0 0_0");
    plan(two, n, "", 10, "a0");
    plan(two, n, A, 1000, "a1 1_0 1_20 2_0");
    refuse(two, n, "", 9, ERR_NOTFOUND, "oldest object is of 1970-01-01T00:00:00.01Z");
    refuse(two, n, B, 60, ERR_NOTFOUND, "nothing in generation bbbb");
    static const struct v3_file pruned[] = {SNAP(A, 1, 18), SEG(A, 1, 0, 13), SEG(A, 1, 0x20, 20)};
    refuse(pruned, 3, "", 19, ERR_NOTFOUND, "has no snapshot that restores");
    refuse(pruned, 3, "", 15, ERR_NOTFOUND, "has no snapshot that restores");
    plan(pruned, 3, "", 20, "a1 1_0 1_20");
}

static void gaps_are_named(void **state)
{
    (void)state;
    static const struct v3_file first[] = {SNAP(A, 0, 1), SEG(A, 0, 0x20, 2)};
    refuse(first, 2, "", LATEST, ERR_CORRUPT, "first segment of WAL index 00000000 is missing");
    static const struct v3_file second[] = {SNAP(A, 0, 1), SEG(A, 0, 0, 2), SEG(A, 1, 0x20, 3)};
    refuse(second, 3, "", LATEST, ERR_CORRUPT, A "/wal/00000001_00000020.wal.lz4 comes first");
    plan(second, 3, "", 2, "a0 0_0");
    static const struct v3_file index[] = {SNAP(A, 0, 1), SEG(A, 0, 0, 2), SEG(A, 2, 0, 3)};
    refuse(index, 3, "", LATEST, ERR_CORRUPT, "WAL index 00000001 are missing");
    static const struct v3_file start[] = {SNAP(A, 3, 1), SEG(A, 4, 0, 2)};
    refuse(start, 2, "", LATEST, ERR_CORRUPT, "WAL index 00000003 are missing");
    static const struct v3_file twice[] = {SNAP(A, 0, 1), SEG(A, 0, 0, 2), SEG(A, 0, 9, 2),
                                           SEG(A, 0, 9, 3)};
    refuse(twice, 4, "", LATEST, ERR_CORRUPT, "two segments");
    static const struct v3_file none[] = {SNAP(A, 0, 1), SEG(B, 0, 0, 2)};
    refuse(none, 2, "", LATEST, ERR_CORRUPT, "generation " B " has no snapshot");
    plan(none, 2, A, LATEST, "a0");
    static const struct v3_file tie[] = {SNAP(A, 0, 5), SNAP(B, 0, 5)};
    refuse(tie, 2, "", LATEST, ERR_USAGE, "equally new");
    plan(tie, 2, B, LATEST, "b0");
}

static void points(void **state)
{
    (void)state;
    struct err e = {0};
    struct v3_file *p = NULL;
    size_t n = 0;
    assert_int_equal(v3_points(two, ARRAY_LEN(two), "", &p, &n, &e), 0);
    assert_int_equal(n, ARRAY_LEN(two));
    for (size_t i = 1; i < n; i++)
        assert_true(p[i].mtime_ms >= p[i - 1].mtime_ms);
    free(p);
    assert_int_equal(v3_points(two, ARRAY_LEN(two), B, &p, &n, &e), 0);
    assert_int_equal(n, 4);
    free(p);
    /* behind a gap nothing can be reached until the next snapshot */
    static const struct v3_file gap[] = {SNAP(A, 0, 1), SEG(A, 0, 0, 2), SEG(A, 2, 0, 3),
                                         SEG(A, 3, 0, 4), SNAP(A, 3, 4), SEG(A, 3, 9, 5)};
    assert_int_equal(v3_points(gap, ARRAY_LEN(gap), "", &p, &n, &e), 0);
    assert_int_equal(n, 5);
    free(p);
    assert_int_equal(v3_points(gap + 1, 2, "", &p, &n, &e), -(int)ERR_NOTFOUND);
}

/* ---- objects -------------------------------------------------------------------------------- */

static int take(void *arg, const uint8_t *p, size_t n, struct err *e)
{
    (void)e;
    buf_add(arg, p, n);
    return 0;
}

static void pack(struct buf *out, const void *p, size_t n, bool checksum, bool linked)
{
    LZ4F_preferences_t prefs = {.frameInfo = {
        .blockSizeID = LZ4F_max4MB, .blockMode = linked ? LZ4F_blockLinked : LZ4F_blockIndependent,
        .contentChecksumFlag = checksum ? LZ4F_contentChecksumEnabled : LZ4F_noContentChecksum}};
    size_t bound = LZ4F_compressFrameBound(n, &prefs);
    uint8_t *to = buf_reserve(out, bound);
    size_t got = LZ4F_compressFrame(to, bound, p, n, &prefs);
    assert_false(LZ4F_isError(got));
    out->len += got;
}

static void unpacks(struct v3_unpack *u, const struct buf *object, const void *want, size_t n)
{
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    if (v3_unpack(u, object->p, object->len, take, &b, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(b.len, n);
    if (n)
        assert_memory_equal(b.p, want, n);
}

static void fails(struct v3_unpack *u, const void *p, size_t n, enum err_code code, const char *text)
{
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    int r = v3_unpack(u, p, n, take, &b, &e);
    if (r != -(int)code || !strstr(e.msg, text))
        fail_msg("%d: \"%s\" is not in \"%s\"", r, text, e.msg);
}

static void objects(void **state)
{
    (void)state;
    struct err e = {0};
    struct v3_unpack *u = v3_unpack_new(&e);
    size_t n = 9u << 20; /* three blocks */
    cleanup_free uint8_t *text = malloc(n);
    cleanup_buf struct buf big = BUF_INIT, small = BUF_INIT, bare = BUF_INIT, empty = BUF_INIT;
    for (size_t i = 0; i < n; i++)
        text[i] = (uint8_t)(i >> 3 ^ i * i >> 11);
    pack(&big, text, n, true, true);
    unpacks(u, &big, text, n);
    pack(&small, text, 1000, true, false);
    unpacks(u, &small, text, 1000);
    pack(&empty, text, 0, true, false);
    unpacks(u, &empty, text, 0);
    pack(&bare, text, 1000, false, false);
    fails(u, bare.p, bare.len, ERR_CORRUPT, "no content checksum");
    for (size_t i = 0; i < small.len; i++) {
        fails(u, small.p, i, ERR_CORRUPT, "");
        /* some bits only say how it was made */
        cleanup_buf struct buf flipped = BUF_INIT, got = BUF_INIT;
        buf_add(&flipped, small.p, small.len);
        flipped.p[i] ^= 0x10;
        if (v3_unpack(u, flipped.p, flipped.len, take, &got, &e) == 0)
            assert_true(got.len == 1000 && !memcmp(got.p, text, 1000));
    }
    buf_add(&small, "x", 1);
    fails(u, small.p, small.len, ERR_CORRUPT, "1 bytes follow");
    static const char age[] = "age-encryption.org/v1\n-> X25519 abcdef\n";
    fails(u, age, sizeof age, ERR_UNSUPPORTED, "encrypted with age");
    fails(u, "-----BEGIN AGE ENCRYPTED FILE-----\n", 35, ERR_UNSUPPORTED, "encrypted with age");
    fails(u, "SQLite format 3", 16, ERR_CORRUPT, "not with an LZ4 frame");
    fails(u, "\x50\x2a\x4d\x18\x04\0\0\0abcd", 12, ERR_CORRUPT, "not with an LZ4 frame");
    fails(u, "", 0, ERR_CORRUPT, "0 bytes");
    /* it is as good as new after a failure */
    unpacks(u, &big, text, n);
    v3_unpack_free(u);
}

/* ---- WAL ------------------------------------------------------------------------------------ */

static void add_frame(struct buf *b, uint32_t pgno, uint32_t commit, uint32_t s[2])
{
    uint8_t f[WAL_FRAME_HEADER_SIZE + 512];
    memset(f, (int)pgno, sizeof f);
    be32_put(f, pgno);
    be32_put(f + 4, commit);
    be32_put(f + 8, 7);
    be32_put(f + 12, 8);
    wal_checksum(false, f, 8, s);
    wal_checksum(false, f + WAL_FRAME_HEADER_SIZE, 512, s);
    be32_put(f + 16, s[0]);
    be32_put(f + 20, s[1]);
    buf_add(b, f, sizeof f);
}

static void make_wal(struct buf *b)
{
    uint8_t h[WAL_HEADER_SIZE] = {0};
    uint32_t s[2] = {0, 0};
    be32_put(h, 0x377f0682);
    be32_put(h + 4, 3007000);
    be32_put(h + 8, 512);
    be32_put(h + 16, 7);
    be32_put(h + 20, 8);
    wal_checksum(false, h, 24, s);
    be32_put(h + 24, s[0]);
    be32_put(h + 28, s[1]);
    buf_add(b, h, sizeof h);
    add_frame(b, 1, 0, s);
    add_frame(b, 2, 2, s);
    add_frame(b, 3, 3, s);
    add_frame(b, 1, 0, s);
}

static int on_frame(void *arg, uint64_t k, const struct wal_frame *f, const uint8_t *page,
                    struct err *e)
{
    static const uint32_t want[] = {1, 2, 3, 1};
    unsigned *n = arg;
    (void)e;
    assert_int_equal(k, ++*n);
    assert_int_equal(f->pgno, want[k - 1]);
    assert_int_equal(page[511], want[k - 1]);
    return 0;
}

static void wal_in_pieces_of_any_size(void **state)
{
    (void)state;
    cleanup_buf struct buf b = BUF_INIT;
    struct v3_wal w = {.fn = NULL};
    struct err e = {0};
    make_wal(&b);
    for (size_t piece = 1; piece <= b.len; piece = piece * 3 / 2 + 1) {
        unsigned n = 0;
        v3_wal_start(&w, on_frame, &n);
        for (size_t at = 0; at < b.len; at += piece)
            assert_int_equal(v3_wal_feed(&w, b.p + at, MIN(piece, b.len - at), &e), 0);
        assert_int_equal(n, 4);
        assert_true(w.scan.committed == 3 && w.scan.commit_pages == 3 && w.off == b.len);
        assert_false(v3_wal_whole(&w)); /* the last frame is of no transaction */
    }
    size_t frame = WAL_FRAME_HEADER_SIZE + 512;
    static const bool whole[] = {true, false, true, true, false};
    for (size_t k = 0; k < ARRAY_LEN(whole); k++) {
        v3_wal_start(&w, NULL, NULL);
        assert_int_equal(v3_wal_feed(&w, b.p, WAL_HEADER_SIZE + k * frame, &e), 0);
        assert_int_equal(v3_wal_whole(&w), whole[k]);
        if (k < 4)
            assert_int_equal(v3_wal_feed(&w, b.p + WAL_HEADER_SIZE + k * frame, 5, &e), 0);
        assert_false(k < 4 && v3_wal_whole(&w));
    }
    for (size_t i = 0; i < b.len; i++) {
        /* the commit flag of the last frame is under the checksum as well */
        b.p[i] ^= 1;
        v3_wal_start(&w, NULL, NULL);
        int r = v3_wal_feed(&w, b.p, b.len, &e);
        assert_true(r < 0);
        b.p[i] ^= 1;
    }
    v3_wal_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(the_newest_generation_and_snapshot),
        cmocka_unit_test(until_a_time),
        cmocka_unit_test(gaps_are_named),
        cmocka_unit_test(points),
        cmocka_unit_test(objects),
        cmocka_unit_test(wal_in_pieces_of_any_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
