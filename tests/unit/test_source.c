/* A database as a source of files: numbering, restarts of ours, full disks, bases. */
#include "tests/unit/source_harness.h"
#include "tests/unit/within.h"

#include <sys/mount.h>

#include "common/base/clk.h"

static void commits_become_files_and_the_wal_is_restarted(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    capture(&c);
    assert_int_equal(c.r.state, SOURCE_ATTACHED);
    assert_int_equal(c.r.txid, 1);
    uint64_t wal_max = 0;
    for (int i = 0; i < 200; i++) {
        ex(c.t.app, "insert or replace into t values(%d, randomblob(%d))", i % 20, i * 97 % 9000);
        if (i % 17 == 0)
            ex(c.t.app, "vacuum");
        capture(&c);
        assert_true(c.r.txid > 0 && c.r.pending_bytes == 0);
        wal_max = MAX(wal_max, c.r.wal_bytes);
        if (i % 10 == 0)
            shadow_equals(&c.sh, c.t.path);
    }
    assert_int_equal(c.sh.txid, c.r.txid);
    assert_int_equal(c.r.count.fulls, 1);
    assert_int_equal(c.r.count.broken, 0);
    assert_true(c.r.count.restarts > 3);
    assert_true(wal_max < 150 * 4120);
    good(&c, &(struct source_job){.capture = true, .settle = true});
    assert_true(c.r.drained);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

static void more_commits_than_fit_one_job(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    capture(&c);
    /* 9 files of 64 MiB would be slow: the same through a long sequence of jobs that only look */
    for (int i = 0; i < 30; i++) {
        ex(c.t.app, "insert or replace into t values(7, randomblob(40000))");
        good(&c, &(struct source_job){.assist = true});
    }
    capture(&c);
    shadow_equals(&c.sh, c.t.path);
    assert_int_equal(c.r.count.broken, 0);
    done(&c);
}

static void a_restart_keeps_numbering_and_lineage(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    capture(&c);
    ex(c.t.app, "insert into t values(2, 2)");
    capture(&c);
    uint64_t lineage = c.r.lineage, txid = c.r.txid;
    assert_int_equal(txid, 2);
    for (int round = 0; round < 3; round++) {
        if (round == 1) /* detached first, or not */
            run(&c, &(struct source_job){.detach = true});
        c.s = source_free(c.s);
        ex(c.t.app, "insert into t values(null, 'while nobody looked'); pragma wal_checkpoint(truncate)");
        if (round == 2) { /* only the tip is left */
            cleanup_free char *cmd = util_printf("rm '%s'/l0/* 2>/dev/null", c.spool);
            struct spool_state st;
            struct err e;
            assert_int_equal(spool_open(c.spool, &st, &e), 0);
            assert_int_equal(spool_drop(c.spool, &st.tip, 0, 1, st.tip.max_txid, &e), 0);
            spool_state_done(&st);
            assert_int_not_equal(system(cmd), 0);
        }
        src_again(&c);
        good(&c, &(struct source_job){.load = true});
        assert_int_equal(source_spool(c.s)->has_tip, true);
        assert_int_equal(source_spool(c.s)->tip.max_txid, txid);
        capture(&c);
        assert_int_equal(c.r.txid, txid + 1);
        assert_true(c.r.lineage == lineage);
        txid = c.r.txid;
        shadow_equals(&c.sh, c.t.path);
    }
    done(&c);
}

static void detached_and_attached_again_in_one_life(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    capture(&c);
    run(&c, &(struct source_job){.detach = true});
    assert_string_equal(child("locks", c.t.path, ""), "--------");
    run(&c, &(struct source_job){.detach = true});
    ex(c.t.app, "insert into t values(2, 2); pragma wal_checkpoint(truncate); insert into t values(3, 3)");
    capture(&c);
    assert_string_equal(child("locks", c.t.path, ""), "----r---");
    assert_int_equal(c.r.txid, 2);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

static void numbering_behind_a_replica(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    good(&c, &(struct source_job){.next_txid = 0}); /* attaches, and captures what is there */
    assert_int_equal(c.r.txid, 1);
    ex(c.t.app, "insert into t values(2, 2)");
    capture(&c);
    c.sh.txid = 99;
    /* a step before it fails in the same job: the number is not lost */
    cleanup_free char *snapshot = spool_snapshot_path(c.spool, 5);
    assert_int_equal(mkdir(snapshot, 0700), 0);
    run(&c, &(struct source_job){.capture = true, .next_txid = 100, .drop_snapshot = 5});
    assert_int_not_equal(c.r.err.code, ERR_OK);
    (void)rmdir(snapshot);
    capture(&c);
    assert_int_equal(c.r.txid, 100);
    assert_int_equal(c.sh.in_file, c.sh.pages); /* a whole database, since nothing precedes it there */
    shadow_equals(&c.sh, c.t.path);
    good(&c, &(struct source_job){.capture = true, .next_txid = 7}); /* never backwards */
    assert_int_equal(c.r.txid, 100);
    done(&c);
}

/* header of what was captured last */
static struct ltx_header newest(const struct src *c)
{
    cleanup_free char *path = spool_path(c->spool, c->r.txid);
    cleanup_buf struct buf b = BUF_INIT;
    struct ltx_header h;
    struct err e = {0};
    assert_int_equal(fsx_read(path, 64u << 20, &b, &e), 0);
    assert_int_equal(ltx_header_decode(b.p, &h, &e), 0);
    return h;
}

static struct ltx_header commit_at(struct src *c, int64_t shift_ms)
{
    clk_shift(shift_ms, 0);
    ex(c->t.app, "insert into t(b) values(randomblob(100))");
    capture(c);
    struct ltx_header h = newest(c);
    int64_t late = clk_real_ms() - h.timestamp_ms;
    assert_true(late < 10000); /* never before its commit */
    return h;
}

/* The clock was ahead for one commit: what follows has the right time, and is on record to go back. */
static void a_clock_that_was_ahead_is_believed_when_it_is_right(void **state)
{
    (void)state;
    struct src c;
    const int64_t years = 3 * 365 * 86400000ll;
    src_begin(&c);
    capture(&c);
    struct ltx_header a = commit_at(&c, 0), ahead = commit_at(&c, years), b = commit_at(&c, -years);
    assert_true(ahead.timestamp_ms > a.timestamp_ms + years - 10000 && !ahead.clock_txid && !a.clock_txid);
    assert_true(b.timestamp_ms >= a.timestamp_ms && b.timestamp_ms < a.timestamp_ms + 60000);
    assert_int_equal(b.clock_txid, b.max_txid);
    struct ltx_header d = commit_at(&c, 0); /* carried on, also by the next process */
    assert_int_equal(d.clock_txid, b.max_txid);
    c.s = source_free(c.s);
    src_again(&c);
    good(&c, &(struct source_job){.load = true});
    assert_int_equal(commit_at(&c, 0).clock_txid, b.max_txid);
    /* and once more */
    assert_int_equal(commit_at(&c, 3600000).clock_txid, b.max_txid);
    struct ltx_header again = commit_at(&c, -3600000);
    assert_int_equal(again.clock_txid, again.max_txid);
    done(&c);
}

/* Small steps back, and a clock of the past, repeat the last time. */
static void a_clock_that_is_behind_is_not_believed(void **state)
{
    (void)state;
    struct src c;
    const int64_t years = 10 * 365 * 86400000ll;
    src_begin(&c);
    capture(&c);
    struct ltx_header a = commit_at(&c, 0), b = commit_at(&c, -20000);
    assert_true(b.timestamp_ms == a.timestamp_ms && !b.clock_txid);
    b = commit_at(&c, -years);
    assert_true(b.timestamp_ms == a.timestamp_ms && !b.clock_txid);
    b = commit_at(&c, years + 20000);
    assert_true(b.timestamp_ms >= a.timestamp_ms && !b.clock_txid);
    done(&c);
}

static void a_base_equals_the_database_at_its_txid(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    capture(&c);
    for (int i = 0; i < 6; i++) {
        ex(c.t.app, "insert into t values(null, randomblob(5000))");
        if (i % 2)
            good(&c, &(struct source_job){.capture = true, .settle = true});
        ex(c.t.app, "insert into t values(null, randomblob(5000))");
        good(&c, &(struct source_job){.snapshot = true, .capture = true});
        assert_int_equal(c.r.snapshot.txid, c.r.txid);
        assert_int_equal(c.r.snapshot.txid, c.sh.txid);
        struct shadow base = {.page = NULL};
        cleanup_free char *path = spool_snapshot_path(c.spool, c.r.snapshot.txid);
        struct ltx_header h = shadow_apply(&base, path);
        assert_true(h.min_txid == 1 && h.max_txid == c.r.txid && h.node_id == c.r.lineage);
        assert_int_equal(base.pages, c.sh.pages);
        for (uint32_t p = 1; p <= base.pages; p++)
            assert_memory_equal(base.page[p], c.sh.page[p], 4096);
        shadow_equals(&base, c.t.path);
        /* the base and what follows it */
        ex(c.t.app, "update t set b=randomblob(%d) where a=1; delete from t where a%%4=0", 9000 + i);
        capture(&c);
        cleanup_free char *next = spool_path(c.spool, c.r.txid);
        (void)shadow_apply(&base, next);
        shadow_equals(&base, c.t.path);
        shadow_done(&base);
    }
    done(&c);
}

static void a_base_whose_last_file_is_not_published_is_taken_back(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    capture(&c);
    ex(c.t.app, "insert into t values(2, 2)");
    cleanup_free char *in_the_way = spool_path(c.spool, 2);
    cleanup_free char *base = spool_snapshot_path(c.spool, 2);
    assert_int_equal(mkdir(in_the_way, 0700), 0);
    run(&c, &(struct source_job){.snapshot = true, .capture = true});
    assert_int_not_equal(c.r.err.code, ERR_OK);
    assert_int_equal(c.r.n_files, 0);
    assert_int_equal(c.r.snapshot.txid, 0);
    assert_int_equal(access(base, F_OK), -1);
    (void)rmdir(in_the_way);
    ex(c.t.app, "insert into t values(3, 3)");
    good(&c, &(struct source_job){.snapshot = true, .capture = true});
    assert_int_equal(c.r.txid, 2);
    assert_int_equal(c.r.snapshot.txid, 2);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

static void another_database_under_the_name_is_another_history(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    capture(&c);
    uint64_t lineage = c.r.lineage;
    ex(c.t.app, "insert into t values(2, 2)");
    assert_int_equal(sqlite3_close(c.t.app), SQLITE_OK);
    cleanup_free char *cmd = util_printf("rm -f '%s' '%s'-wal '%s'-shm", c.t.path, c.t.path, c.t.path);
    assert_int_equal(system(cmd), 0);
    run(&c, &(struct source_job){.capture = true});
    assert_int_equal(c.r.state, SOURCE_WAITING);
    assert_true(c.r.broken && c.r.lineage != lineage);
    assert_int_equal(c.r.err.code, ERR_OK);
    assert_int_equal(c.r.n_files, 1); /* what was committed before it went */
    cleanup_free char *last = spool_path(c.spool, c.r.file[0].txid);
    (void)shadow_apply(&c.sh, last);
    c.t.app = app_open(c.t.path);
    ex(c.t.app, "pragma page_size=1024; create table t(a)"); /* and of another page size */
    run(&c, &(struct source_job){.capture = true});
    assert_int_equal(c.r.state, SOURCE_NOT_WAL);
    ex(c.t.app, "pragma journal_mode=wal");
    capture(&c);
    assert_int_equal(c.r.state, SOURCE_ATTACHED);
    assert_int_equal(c.r.txid, 3);
    assert_int_equal(c.r.page_size, 1024);
    assert_true(c.r.lineage != lineage);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

static void asleep_until_something_happens(void **state)
{
    (void)state;
    static const char *const what[] = {
        "insert into t values(null, 1)", "pragma wal_checkpoint(truncate)",
        "insert into t values(null, 1); pragma wal_checkpoint(truncate)",
        "create table u(a); drop table u; vacuum"};
    for (size_t i = 0; i < 2 * ARRAY_LEN(what); i++) {
        struct src c;
        src_begin(&c);
        capture(&c);
        run(&c, &(struct source_job){.detach = true});
        assert_int_equal(c.r.state, SOURCE_ASLEEP);
        assert_string_equal(child("locks", c.t.path, ""), "--------");
        for (int k = 0; k < 3; k++) { /* also in a later process */
            good(&c, &(struct source_job){.doze = true, .capture = true});
            assert_int_equal(c.r.state, SOURCE_ASLEEP);
            c.s = source_free(c.s);
            src_again(&c);
            good(&c, &(struct source_job){.load = true});
        }
        ex(c.t.app, "%s", what[i % ARRAY_LEN(what)]);
        if (i >= ARRAY_LEN(what)) { /* the last one closes: the WAL goes */
            assert_int_equal(sqlite3_close(c.t.app), SQLITE_OK);
            c.t.app = app_open(c.t.path);
        }
        good(&c, &(struct source_job){.doze = true, .capture = true});
        if (i % ARRAY_LEN(what) != 1) /* which copied and changed nothing */
            assert_int_equal(c.r.state, SOURCE_ATTACHED);
        assert_int_equal(c.r.count.fulls, 0);
        shadow_equals(&c.sh, c.t.path);
        done(&c);
    }
}

/* Needs a file system that can be filled without harm. */
static void a_full_disk_loses_nothing(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    if (mount("tmpfs", c.spool, "tmpfs", 0, "size=512k") < 0) {
        print_message("skipped: no small file system can be mounted here (%s)\n", strerror(errno));
        done(&c);
        skip();
    }
    good(&c, &(struct source_job){.load = true});
    capture(&c);
    assert_int_equal(c.r.txid, 1);
    unsigned refused = 0;
    for (int i = 0; i < 10; i++) {
        ex(c.t.app, "insert into t values(null, randomblob(100000))");
        run(&c, &(struct source_job){.capture = true});
        if (c.r.err.code == ERR_OK) {
            for (size_t k = 0; k < c.r.n_files; k++) {
                cleanup_free char *path = spool_path(c.spool, c.r.file[k].txid);
                (void)shadow_apply(&c.sh, path);
            }
            continue;
        }
        assert_int_equal(c.r.err.code, ERR_NOSPC);
        if (!refused) /* it may pass: the guard is still held; later it is not, for the WAL's sake */
            assert_int_equal(c.r.state, SOURCE_ATTACHED);
        assert_int_equal(c.r.txid, c.sh.txid);
        refused++;
    }
    assert_true(refused >= 3);
    cleanup_free char *find = util_printf("test -z \"$(find '%s' -name '*.tmp-*')\"", c.spool);
    assert_int_equal(system(find), 0);
    assert_int_equal(mount(NULL, c.spool, NULL, MS_REMOUNT, "size=64m"), 0);
    capture(&c);
    shadow_equals(&c.sh, c.t.path);
    c.s = source_free(c.s);
    assert_int_equal(umount2(c.spool, MNT_DETACH), 0);
    done(&c);
}

int main(int argc, char **argv)
{
    if (argc > 2)
        return child_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commits_become_files_and_the_wal_is_restarted),
        cmocka_unit_test(more_commits_than_fit_one_job),
        cmocka_unit_test(a_restart_keeps_numbering_and_lineage),
        cmocka_unit_test(detached_and_attached_again_in_one_life),
        cmocka_unit_test(numbering_behind_a_replica),
        cmocka_unit_test(a_clock_that_was_ahead_is_believed_when_it_is_right),
        cmocka_unit_test(a_clock_that_is_behind_is_not_believed),
        cmocka_unit_test(a_base_equals_the_database_at_its_txid),
        cmocka_unit_test(a_base_whose_last_file_is_not_published_is_taken_back),
        cmocka_unit_test(another_database_under_the_name_is_another_history),
        cmocka_unit_test(asleep_until_something_happens),
        cmocka_unit_test(a_full_disk_loses_nothing),
    };
    struct err e;
    if (session_setup(&e) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
