/* Captures of a real database, put together again and compared page by page with what a reader sees. */
#include "tests/unit/db_harness.h"
#include "tests/unit/quick.h"

#include "common/format/wal.h"
#include "daemon/capture/capture.h"

struct cap {
    struct tdb t;
    struct session *s;
    struct capture_pos pos;
    struct shadow sh;
    uint64_t txid;
    struct capture_file f; /* the last one */
};

static struct session_index look(struct cap *c)
{
    struct session_index x;
    struct err e = {0};
    if (session_index(c->s, &x, &e) < 0)
        fail_msg("%s", e.msg);
    return x;
}

static void attach(struct cap *c)
{
    struct err e = {0};
    if (session_open(c->t.path, &c->s, &e) != 0)
        fail_msg("%s", e.msg);
}

static void done(struct cap *c)
{
    c->s = session_close(c->s);
    shadow_done(&c->sh);
    tdb_done(&c->t);
}

static char *name(const struct cap *c)
{
    return util_printf("%s/%llu.ltx", c->t.dir, (unsigned long long)c->txid + 1);
}

static void take(struct cap *c, const char *path)
{
    struct err e = {0};
    if (fsx_tmp_publish(&c->f.tmp, FSX_NOSYNC, &e) < 0)
        fail_msg("%s", e.msg);
    struct ltx_header h = shadow_apply(&c->sh, path);
    assert_int_equal(c->sh.in_file, c->f.n_pages);
    assert_int_equal(h.node_id, 77);
    assert_true(h.wal_offset >= 32 && h.wal_size % (int64_t)wal_frame_size(h.page_size) == 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, c->f.size);
    c->txid++;
    (void)unlink(path);
}

static void full(struct cap *c)
{
    struct err e = {0};
    struct session_index x = look(c);
    cleanup_free char *path = name(c);
    /* a full capture that is not the first one would be no snapshot by its number: start again at 1 */
    struct capture_opts o = {.path = path, .min_txid = 1, .max_txid = c->txid + 1, .lineage = 77};
    if (capture_full(c->s, &x, &c->pos, &o, &c->f, &e) != 0)
        fail_msg("%s", e.msg);
    assert_true(c->pos.valid && c->pos.frame == x.n && c->pos.restartable == (x.n == x.b));
    take(c, path);
}

static int range(struct cap *c, uint64_t limit, struct err *e)
{
    cleanup_free char *path = name(c);
    struct capture_opts o = {.path = path,
                             .min_txid = c->txid + 1,
                             .max_txid = c->txid + 1,
                             .lineage = 77,
                             .encoding = c->txid % 2 ? LTX_BLOCK : LTX_FRAME,
                             .limit_bytes = limit};
    memset(e, 0, sizeof *e);
    int r = capture_range(c->s, &c->pos, &o, &c->f, e);
    if (r == 0)
        take(c, path);
    return r;
}

static void range_all(struct cap *c, uint64_t limit)
{
    struct err e;
    int r;
    while ((r = range(c, limit, &e)) == 0)
        ;
    if (r < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(r, CAPTURE_NOTHING);
    assert_true(c->pos.valid && capture_behind(&c->pos, &(struct session_index){0}) == 0);
}

static void handover(struct cap *c)
{
    struct err e = {0};
    assert_int_equal(session_guard_next(c->s, &e), 0);
    struct session_index x = look(c);
    if (x.n == x.b && !capture_behind(&c->pos, &x))
        c->pos.restartable = true;
    session_guard_switch(c->s);
}

static bool passive(struct cap *c)
{
    struct err e = {0};
    bool all = false;
    assert_int_equal(session_passive(c->s, &all, &e), 0);
    return all;
}

/* All captured, all copied, the guard in slot 0: the next commit restarts the WAL. */
static void drain(struct cap *c)
{
    range_all(c, UINT64_MAX);
    handover(c);
    assert_true(passive(c));
    handover(c);
    assert_true(c->pos.restartable);
}

static void begin(struct cap *c, uint32_t page_size)
{
    *c = (struct cap){.txid = 0};
    tdb_new(&c->t, page_size);
}

static void every_page_size_with_every_kind_of_change(void **state)
{
    (void)state;
    for (uint32_t ps = 512; ps <= 65536; ps *= 2) {
        struct cap c;
        begin(&c, ps);
        ex(c.t.app, "insert into t values(1, zeroblob(%u))", 3 * ps);
        attach(&c);
        full(&c);
        shadow_equals(&c.sh, c.t.path);
        unsigned restarts = 0;
        for (unsigned i = 0; i < 40; i++) {
            struct session_index was = look(&c);
            switch (i % 8) {
            case 1:
                ex(c.t.app, "delete from t where a%%3=1");
                break;
            case 3:
                ex(c.t.app, "vacuum");
                break;
            case 5:
                ex(c.t.app, "begin; insert into t values(9999, zeroblob(%u)); delete from t where "
                            "a=9999; insert into t values(null, 1); commit", 30 * ps);
                break;
            case 6:
                ex(c.t.app, "update t set b=randomblob(%u)", ps / 3);
                break;
            default:
                ex(c.t.app, "insert into t values(null, randomblob(%u))", (i * 37 % 5 + 1) * ps / 2);
            }
            if (i % 3 == 0)
                continue; /* several commits in one range */
            range_all(&c, i % 2 ? 1 : UINT64_MAX);
            shadow_equals(&c.sh, c.t.path);
            struct session_index x = look(&c);
            restarts += memcmp(x.salt, was.salt, sizeof x.salt) != 0;
            if (i % 4 == 0)
                handover(&c);
            if (i % 5 == 0)
                drain(&c);
        }
        assert_true(restarts >= 2);
        drain(&c);
        full(&c);
        shadow_equals(&c.sh, c.t.path);
        done(&c);
    }
}

/* A transaction that grows the database by pages which it then frees again. Debian's SQLite has frames for
 * them all the same. */
static void grow_without_frames(struct cap *c)
{
    ex(c->t.app, "begin; insert into t values(9999, zeroblob(%u)); delete from t where a=9999; "
                 "insert into t values(null, 1); commit", 40 * c->t.page_size);
}

static void a_database_that_shrinks_and_grows(void **state)
{
    (void)state;
    /* 0: old frames not copied; 1: copied, the WAL goes on; 2: copied and restarted; 3: shrunk and grown
     * within one range; 4: as 3, but the file was cut in between; 5: grown in a cut range */
    for (int kind = 0; kind < 6; kind++) {
        struct cap c;
        begin(&c, 1024);
        ex(c.t.app, "insert into t values(1, randomblob(60000)); insert into t values(2, 1)");
        attach(&c);
        full(&c);
        uint32_t large = c.sh.pages;
        ex(c.t.app, "delete from t where a=1");
        range_all(&c, UINT64_MAX);
        if (kind == 3)
            ex(c.t.app, "insert into t values(3, randomblob(60000))");
        if (kind == 4) {
            ex(c.t.app, "insert into t values(3, randomblob(60000)); delete from t where a=3");
            range_all(&c, UINT64_MAX);
        }
        if (kind < 3)
            ex(c.t.app, "vacuum");
        if (kind < 3)
            range_all(&c, UINT64_MAX);
        else
            ex(c.t.app, "vacuum");
        if (kind == 1 || kind == 4) {
            /* the file is copied and cut, but a guard with a mark keeps the WAL from restarting */
            handover(&c);
            assert_true(passive(&c));
        }
        if (kind == 2)
            drain(&c);
        grow_without_frames(&c);
        struct session_index x = look(&c);
        assert_true(x.pages > 40);
        if (kind == 5)
            for (int i = 0; i < 30; i++)
                ex(c.t.app, "insert into t values(null, randomblob(400))");
        range_all(&c, kind == 5 ? 1 : UINT64_MAX);
        assert_true(large > 40);
        shadow_equals(&c.sh, c.t.path);
        done(&c);
    }
}

/* By hand, since Debian's SQLite does not do it: the database grows to `pages` by a commit whose only frame
 * is page 1. Everything must be closed. */
static void append_growth(struct cap *c, uint32_t pages)
{
    const uint32_t ps = c->t.page_size;
    struct err e = {0};
    cleanup_free char *wal = util_printf("%s-wal", c->t.path);
    cleanup_buf struct buf b = BUF_INIT;
    assert_int_equal(fsx_read(wal, SIZE_MAX, &b, &e), 0);
    struct wal_header h;
    assert_int_equal(wal_header_parse(b.p, &h, &e), 0);
    struct wal_scan w;
    struct wal_frame f;
    wal_scan_init(&w, &h);
    uint8_t *frame = util_zalloc((size_t)wal_frame_size(ps));
    for (uint64_t off = WAL_HEADER_SIZE; off + wal_frame_size(ps) <= b.len; off += wal_frame_size(ps)) {
        if (!wal_scan_frame(&w, b.p + off, &f))
            break;
        if (f.pgno == 1)
            memcpy(frame, b.p + off, (size_t)wal_frame_size(ps));
    }
    assert_true(w.valid == w.committed && be32_get(frame) == 1);
    be32_put(frame + 4, pages);
    be32_put(frame + WAL_FRAME_HEADER_SIZE + 28, pages);
    uint32_t sum[2] = {w.s[0], w.s[1]};
    wal_checksum(h.big_endian, frame, 8, sum);
    wal_checksum(h.big_endian, frame + WAL_FRAME_HEADER_SIZE, ps, sum);
    be32_put(frame + 16, sum[0]);
    be32_put(frame + 20, sum[1]);
    int fd = open(wal, O_RDWR);
    assert_int_equal(pwrite(fd, frame, (size_t)wal_frame_size(ps), (off_t)wal_frame_off(ps, w.valid + 1)),
                     wal_frame_size(ps));
    (void)close(fd);
    free(frame);
}

static void growth_without_frames_is_completed_as_a_reader_sees_it(void **state)
{
    (void)state;
    for (int twice = 0; twice < 2; twice++) {
        struct cap c;
        struct err e;
        begin(&c, 1024);
        ex(c.t.app, "insert into t values(1, randomblob(60000))");
        attach(&c);
        full(&c);
        uint32_t large = c.sh.pages;
        ex(c.t.app, "delete from t; vacuum");
        range_all(&c, UINT64_MAX);
        assert_true(large > 50 && c.sh.pages < 10);
        c.s = session_close(c.s);
        app_close_quietly(&c.t);
        append_growth(&c, large + 20);
        if (twice) /* shrunk and grown again before we look: and a cut in the middle is no cut */
            append_growth(&c, large + 30);
        c.t.app = app_open(c.t.path);
        ex(c.t.app, "select count(*) from t");
        attach(&c);
        assert_int_equal(look(&c).n, c.pos.frame + 1 + (uint32_t)twice);
        assert_int_equal(range(&c, 1, &e), 0);
        assert_int_equal(c.sh.pages, large + 20 + (twice ? 10 : 0));
        assert_int_equal(c.sh.in_file, c.sh.pages - 2 + 1); /* all but the one that stayed */
        shadow_equals(&c.sh, c.t.path);
        assert_int_equal(range(&c, 1, &e), CAPTURE_NOTHING);
        done(&c);
    }
}

static void pages_beyond_the_last_commit_are_dropped(void **state)
{
    (void)state;
    struct cap c;
    begin(&c, 4096);
    ex(c.t.app, "insert into t values(1, 1)");
    attach(&c);
    full(&c);
    ex(c.t.app, "insert into t values(2, randomblob(200000)); delete from t where a=2; vacuum");
    range_all(&c, UINT64_MAX);
    assert_true(c.sh.pages < 5 && c.sh.in_file <= c.sh.pages);
    assert_true(c.f.frames > 40);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

static void a_transaction_that_was_spilled_and_rolled_back_is_not_captured(void **state)
{
    (void)state;
    struct cap c;
    struct err e;
    begin(&c, 1024);
    ex(c.t.app, "insert into t values(1, randomblob(100000))");
    attach(&c);
    full(&c);
    ex(c.t.app, "pragma cache_size=5");
    cleanup_free char *wal = util_printf("%s-wal", c.t.path);
    struct stat before, after;
    assert_int_equal(stat(wal, &before), 0);
    ex(c.t.app, "begin; update t set b=randomblob(300000)");
    assert_int_equal(range(&c, UINT64_MAX, &e), CAPTURE_NOTHING);
    assert_int_equal(stat(wal, &after), 0);
    assert_true(after.st_size > before.st_size + 50000);
    ex(c.t.app, "rollback");
    assert_int_equal(range(&c, UINT64_MAX, &e), CAPTURE_NOTHING);
    ex(c.t.app, "insert into t values(2, 2)"); /* a short commit before the long rest */
    range_all(&c, UINT64_MAX);
    assert_true(c.f.frames < 10);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

static void a_range_is_cut_at_a_commit(void **state)
{
    (void)state;
    struct cap c;
    struct err e;
    begin(&c, 4096);
    attach(&c);
    full(&c);
    for (int i = 0; i < 10; i++)
        ex(c.t.app, "insert into t values(%d, randomblob(12000))", i);
    struct session_index x = look(&c);
    uint32_t behind = capture_behind(&c.pos, &x), last = c.pos.frame;
    unsigned files = 0;
    while (range(&c, 3 * wal_frame_size(4096), &e) == 0) {
        uint32_t n = c.pos.frame - last;
        assert_true(n >= 3 && n <= 3 + 6);
        assert_int_equal(c.f.frames, n);
        last = c.pos.frame;
        assert_int_equal(capture_behind(&c.pos, &x), x.n - last);
        files++;
        sqlite3_int64 pages = c.sh.pages;
        assert_int_equal(pages, c.pos.pages);
    }
    assert_int_equal(last, x.n);
    assert_true(files >= 5 && behind > 30);
    shadow_equals(&c.sh, c.t.path);
    /* one commit longer than the limit is one file all the same */
    ex(c.t.app, "insert into t values(100, randomblob(100000))");
    assert_int_equal(range(&c, 1, &e), 0);
    assert_true(c.f.frames > 24);
    assert_int_equal(range(&c, 1, &e), CAPTURE_NOTHING);
    done(&c);
}

static void a_restart_is_followed_only_when_nothing_can_be_lost(void **state)
{
    (void)state;
    for (int legal = 0; legal < 2; legal++) {
        struct cap c;
        struct err e;
        begin(&c, 4096);
        ex(c.t.app, "insert into t values(1, randomblob(20000))");
        attach(&c);
        full(&c);
        drain(&c);
        struct session_index was = look(&c);
        ex(c.t.app, "insert into t values(2, 2)");
        assert_memory_not_equal(look(&c).salt, was.salt, sizeof was.salt);
        struct capture_pos pos = c.pos;
        c.pos.restartable = legal;
        if (legal) {
            range_all(&c, UINT64_MAX);
            assert_true(!c.pos.restartable && c.pos.frame == 1);
            shadow_equals(&c.sh, c.t.path);
        } else {
            assert_int_equal(range(&c, UINT64_MAX, &e), CAPTURE_BROKEN);
            assert_false(c.pos.valid);
            assert_int_equal(range(&c, UINT64_MAX, &e), CAPTURE_BROKEN);
            /* the same salts, but shorter than the position */
            c.pos = pos;
            memcpy(c.pos.salt, look(&c).salt, sizeof pos.salt);
            assert_int_equal(range(&c, UINT64_MAX, &e), CAPTURE_BROKEN);
        }
        done(&c);
    }
}

static void an_empty_wal(void **state)
{
    (void)state;
    struct cap c;
    struct err e;
    begin(&c, 4096);
    ex(c.t.app, "insert into t values(1, randomblob(20000)); pragma wal_checkpoint(truncate)");
    attach(&c);
    assert_int_equal(look(&c).n, 0);
    full(&c);
    assert_int_equal(c.f.h.wal_size, 0);
    assert_int_equal(range(&c, UINT64_MAX, &e), CAPTURE_NOTHING);
    shadow_equals(&c.sh, c.t.path);
    ex(c.t.app, "insert into t values(2, 2)");
    range_all(&c, UINT64_MAX);
    shadow_equals(&c.sh, c.t.path);
    /* emptied again while we are attached, which TRUNCATE may do once everything is copied */
    drain(&c);
    assert_string_equal(child("sql", c.t.path, "pragma wal_checkpoint(truncate)"), "0,0,0");
    assert_int_equal(range(&c, UINT64_MAX, &e), CAPTURE_NOTHING);
    ex(c.t.app, "insert into t values(3, randomblob(9000))");
    range_all(&c, UINT64_MAX);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

/* A database of just under 1 GiB that is a hole, so that the next pages lie on both sides of the page
 * that SQLite never uses. */
static void the_lock_page_is_left_out(void **state)
{
    (void)state;
    const uint32_t ps = 65536, lock = ltx_lock_pgno(ps);
    struct cap c;
    begin(&c, ps);
    ex(c.t.app, "insert into t values(1, 1); pragma wal_checkpoint(truncate)");
    assert_int_equal(sqlite3_close(c.t.app), SQLITE_OK);
    int fd = open(c.t.path, O_RDWR);
    uint8_t n[4];
    be32_put(n, lock - 3);
    assert_int_equal(pwrite(fd, n, 4, 28), 4);
    assert_int_equal(ftruncate(fd, (off_t)(lock - 3) * ps), 0);
    (void)close(fd);
    c.t.app = app_open(c.t.path);
    ex(c.t.app, "insert into t values(2, 2)");
    attach(&c);
    struct session_index x = look(&c);
    assert_int_equal(x.pages, lock - 3);
    c.pos = (struct capture_pos){.valid = true, .frame = x.n, .pages = x.pages};
    memcpy(c.pos.salt, x.salt, sizeof x.salt);
    memcpy(c.pos.cksum, x.cksum, sizeof x.cksum);
    c.txid = c.sh.txid = 1;
    ex(c.t.app, "begin; insert into t values(9, zeroblob(%u)); delete from t where a=9; insert into t "
                "values(3, 3); commit", 10 * ps);
    range_all(&c, UINT64_MAX);
    assert_true(c.sh.pages > lock + 3);
    assert_null(c.sh.page[lock]);
    for (uint32_t p = lock - 2; p <= c.sh.pages; p++)
        assert_true(p == lock || c.sh.page[p]);
    /* and in a full capture, which the encoder would refuse with the page in it */
    if (!getenv("ASAN_OPTIONS") && !quick("a full capture of 1 GiB")) {
        struct err e = {0};
        cleanup_free char *path = name(&c);
        struct capture_opts o = {.path = path, .min_txid = 1, .max_txid = 3, .lineage = 77};
        x = look(&c);
        if (capture_full(c.s, &x, &c.pos, &o, &c.f, &e) != 0)
            fail_msg("%s", e.msg);
        assert_int_equal(c.f.n_pages, x.pages - 1);
        fsx_tmp_abort(&c.f.tmp);
    }
    done(&c);
}

static void a_frame_that_was_damaged_is_never_taken(void **state)
{
    (void)state;
    struct cap c;
    struct err e;
    begin(&c, 4096);
    attach(&c);
    full(&c);
    ex(c.t.app, "insert into t values(1, randomblob(20000))");
    struct capture_pos pos = c.pos;
    cleanup_free char *wal = util_printf("%s-wal", c.t.path);
    int fd = open(wal, O_RDWR); /* the WAL carries no locks */
    for (uint32_t k = pos.frame + 1; k <= look(&c).n; k++)
        for (unsigned at = 0; at < 24 + 4096; at += 511) {
            off_t off = (off_t)(wal_frame_off(4096, k) + at);
            uint8_t b, bad;
            assert_int_equal(pread(fd, &b, 1, off), 1);
            bad = b ^ 0x10;
            assert_int_equal(pwrite(fd, &bad, 1, off), 1);
            assert_int_equal(range(&c, UINT64_MAX, &e), -ERR_CORRUPT);
            assert_memory_equal(&c.pos, &pos, sizeof pos);
            assert_int_equal(pwrite(fd, &b, 1, off), 1);
        }
    (void)close(fd);
    range_all(&c, UINT64_MAX);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

int main(int argc, char **argv)
{
    if (argc > 2)
        return child_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_page_size_with_every_kind_of_change),
        cmocka_unit_test(a_database_that_shrinks_and_grows),
        cmocka_unit_test(growth_without_frames_is_completed_as_a_reader_sees_it),
        cmocka_unit_test(pages_beyond_the_last_commit_are_dropped),
        cmocka_unit_test(a_transaction_that_was_spilled_and_rolled_back_is_not_captured),
        cmocka_unit_test(a_range_is_cut_at_a_commit),
        cmocka_unit_test(a_restart_is_followed_only_when_nothing_can_be_lost),
        cmocka_unit_test(an_empty_wal),
        cmocka_unit_test(the_lock_page_is_left_out),
        cmocka_unit_test(a_frame_that_was_damaged_is_never_taken),
    };
    struct err e;
    if (session_setup(&e) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
