#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sqlite3.h>

#include "common/base/fsx.h"
#include "common/format/wal.h"

/* The checksum in the words of the file format, nothing shared with the code under test. */
static void sum(bool big_endian, const uint8_t *p, size_t n, uint32_t s[2])
{
    for (size_t i = 0; i < n; i += 8)
        for (int k = 0; k < 2; k++) {
            const uint8_t *b = p + i + 4 * k;
            uint32_t le = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 |
                          (uint32_t)b[3] << 24;
            uint32_t be = (uint32_t)b[3] | (uint32_t)b[2] << 8 | (uint32_t)b[1] << 16 |
                          (uint32_t)b[0] << 24;
            s[k] += (big_endian ? be : le) + s[1 - k];
        }
}

static void make_header(uint8_t p[static WAL_HEADER_SIZE], bool big_endian, uint32_t page_size)
{
    be32_put(p, big_endian ? 0x377f0683u : 0x377f0682u);
    be32_put(p + 4, 3007000);
    be32_put(p + 8, page_size);
    be32_put(p + 12, 5);
    be32_put(p + 16, 0xa1a2a3a4u);
    be32_put(p + 20, 0xb1b2b3b4u);
    uint32_t s[2] = {0, 0};
    sum(big_endian, p, 24, s);
    be32_put(p + 24, s[0]);
    be32_put(p + 28, s[1]);
}

static void make_frame(uint8_t *p, bool big_endian, uint32_t page_size, uint32_t pgno,
                       uint32_t commit, uint32_t s[2])
{
    be32_put(p, pgno);
    be32_put(p + 4, commit);
    be32_put(p + 8, 0xa1a2a3a4u);
    be32_put(p + 12, 0xb1b2b3b4u);
    util_random(p + WAL_FRAME_HEADER_SIZE, page_size);
    sum(big_endian, p, 8, s);
    sum(big_endian, p + WAL_FRAME_HEADER_SIZE, page_size, s);
    be32_put(p + 16, s[0]);
    be32_put(p + 20, s[1]);
}

static void every_page_size_and_byte_order(void **state)
{
    (void)state;
    struct err e = {0};
    for (unsigned big = 0; big < 2; big++)
        for (uint32_t ps = 512; ps <= 65536; ps *= 2) {
            uint8_t head[WAL_HEADER_SIZE];
            struct wal_header h;
            struct wal_scan w;
            struct wal_frame f;
            uint8_t *p = malloc((size_t)wal_frame_size(ps));
            assert_non_null(p);
            make_header(head, big, ps);
            assert_int_equal(wal_header_parse(head, &h, &e), 0);
            assert_int_equal(h.big_endian, big);
            assert_int_equal(h.page_size, ps);
            assert_int_equal(h.sequence, 5);
            assert_int_equal(h.salt[0], 0xa1a2a3a4u);
            assert_int_equal(h.salt[1], 0xb1b2b3b4u);
            wal_scan_init(&w, &h);
            uint32_t s[2] = {h.cksum[0], h.cksum[1]};
            static const uint32_t commit[] = {0, 7, 0, 9, 9, 0};
            for (uint32_t i = 0; i < ARRAY_LEN(commit); i++) {
                make_frame(p, big, ps, i + 1, commit[i], s);
                assert_true(wal_scan_frame(&w, p, &f));
                assert_int_equal(f.pgno, i + 1);
                assert_int_equal(f.commit, commit[i]);
            }
            assert_int_equal(w.valid, 6);
            assert_int_equal(w.committed, 5);
            assert_int_equal(w.commit_pages, 9);
            assert_int_not_equal(w.commit_s[0], w.s[0]);
            free(p);
        }
}

static void a_frame_that_is_not_the_successor(void **state)
{
    (void)state;
    struct err e = {0};
    uint8_t head[WAL_HEADER_SIZE], p[WAL_FRAME_HEADER_SIZE + 512];
    struct wal_header h;
    make_header(head, false, 512);
    assert_int_equal(wal_header_parse(head, &h, &e), 0);
    uint32_t s[2] = {h.cksum[0], h.cksum[1]};
    make_frame(p, false, 512, 3, 4, s);
    for (size_t i = 0; i < sizeof p; i++) {
        uint32_t t[2] = {h.cksum[0], h.cksum[1]};
        struct wal_frame f = {.pgno = 99};
        p[i] ^= 0x10;
        assert_false(wal_frame_check(&h, p, t, &f));
        p[i] ^= 0x10;
        assert_int_equal(t[0], h.cksum[0]);
        assert_int_equal(t[1], h.cksum[1]);
        assert_int_equal(f.pgno, 99);
    }
    uint32_t t[2] = {h.cksum[0], h.cksum[1]};
    struct wal_frame f;
    assert_true(wal_frame_check(&h, p, t, &f));
    assert_int_equal(t[0], s[0]);
    assert_false(wal_frame_check(&h, p, t, &f)); /* the same frame again */
    t[0] = h.cksum[0];
    t[1] = h.cksum[1];
    make_frame(p, false, 512, 0, 4, t); /* page 0, all else right */
    t[0] = h.cksum[0];
    t[1] = h.cksum[1];
    assert_false(wal_frame_check(&h, p, t, &f));
}

static void refuse_header(const uint8_t *p, enum err_code code, const char *text)
{
    struct err e = {0};
    struct wal_header h = {.sequence = 77};
    assert_int_equal(wal_header_parse(p, &h, &e), -(int)code);
    if (!strstr(e.msg, text))
        fail_msg("\"%s\" is not in \"%s\"", text, e.msg);
    assert_int_equal(h.sequence, 77);
}

static void headers_that_are_refused(void **state)
{
    (void)state;
    uint8_t good[WAL_HEADER_SIZE], p[WAL_HEADER_SIZE];
    make_header(good, false, 4096);
    for (size_t i = 0; i < sizeof p; i++)
        for (int bit = 0; bit < 8; bit++) {
            memcpy(p, good, sizeof p);
            p[i] ^= (uint8_t)(1 << bit);
            refuse_header(p, ERR_CORRUPT, "WAL header has");
        }
    memcpy(p, good, sizeof p);
    be32_put(p + 4, 3021000);
    refuse_header(p, ERR_UNSUPPORTED, "WAL2");
    static const uint32_t sizes[] = {0, 1, 256, 511, 1000, 4097, 131072, 0x80000000u};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        make_header(p, false, sizes[i]); /* with a right checksum */
        refuse_header(p, ERR_CORRUPT, "page size");
        assert_false(page_size_valid(sizes[i]));
    }
    memset(p, 0, sizeof p);
    refuse_header(p, ERR_CORRUPT, "magic");
}

static void offsets_beyond_4_gib(void **state)
{
    (void)state;
    assert_int_equal(wal_frame_off(4096, 1), 32);
    assert_int_equal(wal_frame_off(4096, 2), 32 + 4120);
    uint64_t k = (1ull << 32) / 4120 + 2; /* the first one behind the limit of 32 bits */
    assert_true(wal_frame_off(4096, k - 1) < 1ull << 32);
    assert_true(wal_frame_off(4096, k) > 1ull << 32);
    assert_int_equal(wal_frame_off(4096, k), 32 + (k - 1) * 4120);
    assert_int_equal(wal_frame_off(65536, UINT32_MAX), 32 + (UINT32_MAX - 1ull) * 65560);

    /* a sparse file: header, and two frames that go on from a known checksum behind 4 GiB */
    char name[] = "/tmp/walsup-test-wal-XXXXXX";
    cleanup_close int fd = mkstemp(name);
    assert_true(fd >= 0);
    (void)unlink(name);
    uint8_t head[WAL_HEADER_SIZE], p[WAL_FRAME_HEADER_SIZE + 4096], got[sizeof p];
    struct err e = {0};
    struct wal_header h;
    struct wal_frame f;
    make_header(head, false, 4096);
    assert_int_equal(pwrite(fd, head, sizeof head, 0), sizeof head);
    uint32_t s[2] = {1, 2}, t[2] = {1, 2};
    for (uint64_t i = k; i < k + 2; i++) {
        make_frame(p, false, 4096, (uint32_t)i, i > k ? 5 : 0, s);
        assert_int_equal(pwrite(fd, p, sizeof p, (off_t)wal_frame_off(4096, i)), sizeof p);
    }
    assert_int_equal(fsx_pread_all(fd, head, sizeof head, 0, &e), 0);
    assert_int_equal(wal_header_parse(head, &h, &e), 0);
    for (uint64_t i = k; i < k + 2; i++) {
        assert_int_equal(fsx_pread_all(fd, got, sizeof got, wal_frame_off(4096, i), &e), 0);
        assert_true(wal_frame_check(&h, got, t, &f));
        assert_int_equal(f.pgno, i);
    }
    assert_int_equal(f.commit, 5);
    assert_memory_equal(got, p, sizeof p);
}

static void sql(sqlite3 *db, const char *text)
{
    char *msg = NULL;
    if (sqlite3_exec(db, text, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s: %s", text, msg);
}

static struct wal_scan scan_file(const char *path)
{
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    struct wal_header h;
    struct wal_scan w;
    struct wal_frame f;
    assert_int_equal(fsx_read(path, 64u << 20, &b, &e), 0);
    assert_true(b.len > WAL_HEADER_SIZE);
    assert_int_equal(wal_header_parse(b.p, &h, &e), 0);
    wal_scan_init(&w, &h);
    for (size_t at = WAL_HEADER_SIZE; at + wal_frame_size(h.page_size) <= b.len;
         at += (size_t)wal_frame_size(h.page_size))
        if (!wal_scan_frame(&w, b.p + at, &f))
            break;
    return w;
}

static void a_real_wal(uint32_t page_size)
{
    char dir[] = "/tmp/walsup-test-wal-XXXXXX";
    assert_non_null(mkdtemp(dir));
    cleanup_free char *path = util_printf("%s/db", dir), *wal = util_printf("%s-wal", path);
    cleanup_free char *pragma = util_printf("PRAGMA page_size=%u", page_size);
    sqlite3 *db, *other;
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sql(db, pragma);
    sql(db, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=5");
    sql(db, "CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    sql(db, "INSERT INTO t(b) VALUES(randomblob(300000))");
    struct wal_scan first = scan_file(wal);
    assert_int_equal(first.h.page_size, page_size);
    assert_true(first.committed > 4);
    assert_int_equal(first.committed, first.valid);
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA page_count", -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_int_equal(first.commit_pages, sqlite3_column_int(st, 0));
    (void)sqlite3_finalize(st);

    /* too much for the cache: frames reach the file, the transaction does not */
    sql(db, "BEGIN");
    for (int i = 0; i < 200; i++)
        sql(db, "INSERT INTO t(b) VALUES(randomblob(20000))");
    sql(db, "ROLLBACK");
    struct wal_scan spilled = scan_file(wal);
    assert_true(spilled.valid > first.valid);
    assert_int_equal(spilled.committed, first.committed);
    assert_int_equal(spilled.commit_pages, first.commit_pages);
    assert_int_equal(spilled.commit_s[0], first.commit_s[0]);

    /* overwrites the spilled frames */
    sql(db, "INSERT INTO t(b) VALUES(1)");
    struct wal_scan more = scan_file(wal);
    assert_true(more.committed > first.committed);
    assert_true(more.committed < spilled.valid);

    /* restart: the file keeps its length, the old frames behind the new ones do not count */
    sql(db, "PRAGMA wal_checkpoint(RESTART); INSERT INTO t(b) VALUES(2)");
    struct wal_scan again = scan_file(wal);
    assert_true(again.committed < first.committed);
    assert_int_equal(again.committed, again.valid);
    assert_int_not_equal(again.h.salt[1], first.h.salt[1]);
    assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
    sql(other, "SELECT count(*) FROM t");
    (void)sqlite3_close(other);
    (void)sqlite3_close(db);
    (void)unlink(path);
    (void)rmdir(dir);
}

static void wal_files_of_sqlite(void **state)
{
    (void)state;
    for (uint32_t ps = 512; ps <= 65536; ps *= 2)
        a_real_wal(ps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_page_size_and_byte_order),
        cmocka_unit_test(a_frame_that_is_not_the_successor),
        cmocka_unit_test(headers_that_are_refused),
        cmocka_unit_test(offsets_beyond_4_gib),
        cmocka_unit_test(wal_files_of_sqlite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
