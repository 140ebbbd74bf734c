/* A database whose thread walsup has lost: it was away, the file was another one, a page map was
 * behind or damaged, an application closed last, or was not seen at all. */
#include "tests/unit/source_harness.h"
#include "tests/unit/within.h"

/* walsup goes (cleanly or not), the application works on alone, walsup comes back. */
static void away(struct src *c, bool clean, const char *sql)
{
    if (clean)
        run(c, &(struct source_job){.detach = true});
    c->s = source_free(c->s);
    ex(c->t.app, "%s", sql);
    src_again(c);
    good(c, &(struct source_job){.load = true});
    capture(c);
    shadow_equals(&c->sh, c->t.path);
}

static void many_rows(struct src *c)
{
    ex(c->t.app, "with recursive n(i) as (select 100 union all select i + 1 from n where i < 1099) "
                 "insert into t select i, randomblob(3000) from n");
    capture(c);
}

/* The proof of a detach is about the file that was captured, not about one that took its name. */
static void replaced_just_before_the_detach(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    good(&c, &(struct source_job){.capture = true, .settle = true});
    assert_true(c.r.drained);
    cleanup_free char *other = util_printf("%s/b.db", c.t.dir);
    cleanup_free char *cmd = util_printf("cd '%s' && rm a.db-wal a.db-shm && mv b.db a.db", c.t.dir);
    assert_int_equal(sqlite3_close(c.t.app), SQLITE_OK);
    c.t.app = app_open(other);
    ex(c.t.app, "pragma journal_mode=wal; create table t(a, b)");
    assert_int_equal(sqlite3_close(c.t.app), SQLITE_OK);
    assert_int_equal(system(cmd), 0);
    (void)usleep(100000); /* old enough for a proof */
    run(&c, &(struct source_job){.detach = true});
    c.t.app = app_open(c.t.path);
    ex(c.t.app, "insert into t values(8, 8)");
    capture(&c);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

static void checkpointed_while_walsup_was_away_costs_the_difference(void **state)
{
    (void)state;
    for (int clean = 0; clean < 2; clean++) {
        struct src c;
        src_begin(&c);
        many_rows(&c);
        assert_true(c.sh.pages > 1000);
        away(&c, clean, "update t set b = randomblob(3000) where a in (200, 400, 900); "
                        "pragma wal_checkpoint(truncate); update t set b = 7 where a = 500");
        assert_int_equal(c.r.count.fulls, 0);
        assert_int_equal(c.r.count.resyncs, 1);
        assert_within(c.sh.in_file, 4, 12);
        /* and the other way: it shrinks, and VACUUM moves pages about */
        away(&c, clean, "delete from t where a > 300; vacuum; pragma wal_checkpoint(truncate)");
        assert_int_equal(c.r.count.fulls, 0);
        assert_true(c.sh.pages < 300);
        away(&c, clean, "insert into t values(5000, zeroblob(100000)); pragma wal_checkpoint(truncate)");
        assert_int_equal(c.r.count.fulls, 0);
        assert_within(c.sh.in_file, 20, 60);
        done(&c);
    }
}

static void nothing_changed_while_continuity_could_not_be_proven(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    many_rows(&c);
    uint64_t txid = c.r.txid;
    cleanup_free char *position = util_printf("%s/position", c.spool);
    c.s = source_free(c.s);
    assert_int_equal(unlink(position), 0);
    src_again(&c);
    good(&c, &(struct source_job){.load = true});
    capture(&c);
    assert_int_equal(c.r.count.resyncs, 1);
    assert_int_equal(c.r.n_files, 0); /* compared, and nothing to say */
    assert_int_equal(c.r.txid, txid);
    ex(c.t.app, "insert into t values(2, 2)");
    capture(&c);
    assert_int_equal(c.r.txid, txid + 1);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

/* The map on disk as a crash may leave it: at an older TXID, entries of any age behind it. */
static void a_map_that_is_behind_is_redone_from_the_spool(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    many_rows(&c);
    good(&c, &(struct source_job){.capture = true, .settle = true});
    run(&c, &(struct source_job){.detach = true}); /* durable here */
    cleanup_free char *old = util_printf("cp '%s/pagemap' '%s/old'", c.spool, c.t.dir);
    assert_int_equal(system(old), 0);
    for (int i = 0; i < 20; i++) {
        ex(c.t.app, "update t set b = randomblob(%d) where a %% 50 = %d", 10 + i * 300, i);
        if (i == 7)
            ex(c.t.app, "delete from t where a > 700; vacuum");
        if (i == 15)
            ex(c.t.app, "insert into t values(null, zeroblob(900000))");
        capture(&c);
    }
    c.s = source_free(c.s);
    cleanup_free char *newer = util_printf("cp '%s/pagemap' '%s/new'", c.spool, c.t.dir);
    assert_int_equal(system(newer), 0);
    cleanup_free char *back = util_printf("cp '%s/old' '%s/pagemap'", c.t.dir, c.spool);
    for (int round = 0; round < 2; round++) {
        if (round)
            assert_int_equal(system(back), 0);
        away(&c, false, "update t set b = 1 where a = 130; pragma wal_checkpoint(truncate)");
        assert_int_equal(c.r.count.fulls, 0);
        assert_within(c.sh.in_file, 1, 6);
    }
    done(&c);
}

static void flip(const char *path, off_t at)
{
    int fd = open(path, O_RDWR);
    uint8_t b = 0;
    assert_true(fd >= 0 && pread(fd, &b, 1, at) == 1);
    b ^= 0x10;
    assert_true(pwrite(fd, &b, 1, at) == 1);
    assert_int_equal(close(fd), 0);
}

static void a_damaged_map_is_not_believed(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    many_rows(&c);
    cleanup_free char *map = util_printf("%s/pagemap", c.spool);
    for (int i = 0; i < 5; i++) {
        run(&c, &(struct source_job){.detach = true});
        c.s = source_free(c.s);
        struct stat st;
        assert_int_equal(stat(map, &st), 0);
        if (i == 0)
            flip(map, 512 + 512 * 7 + 99);
        else if (i == 1)
            flip(map, 25); /* the TXID in the header */
        else if (i == 2)
            assert_int_equal(truncate(map, st.st_size / 2), 0);
        else if (i == 3)
            assert_int_equal(unlink(map), 0);
        else
            assert_int_equal(truncate(map, 0), 0);
        src_again(&c);
        good(&c, &(struct source_job){.load = true});
        ex(c.t.app, "update t set b = %d where a = 130; pragma wal_checkpoint(truncate)", i);
        capture(&c);
        shadow_equals(&c.sh, c.t.path);
        assert_int_equal(c.r.count.fulls, 1);
        assert_int_equal(c.r.count.resyncs, 0);
    }
    done(&c);
}

/* A state directory of a walsup without page maps, or a map lost while everything is proven. */
static void a_missing_map_is_made_when_there_is_time(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    many_rows(&c);
    run(&c, &(struct source_job){.detach = true});
    c.s = source_free(c.s);
    cleanup_free char *map = util_printf("%s/pagemap", c.spool);
    assert_int_equal(unlink(map), 0);
    src_again(&c);
    good(&c, &(struct source_job){.load = true});
    good(&c, &(struct source_job){.capture = true, .settle = true});
    assert_int_equal(c.r.count.fulls + c.r.count.resyncs, 0);
    assert_int_equal(c.r.n_files, 0);
    ex(c.t.app, "insert into t values(2, 2)");
    capture(&c); /* its checksum is compared in good() */
    away(&c, true, "update t set b = 1 where a = 130; pragma wal_checkpoint(truncate)");
    assert_int_equal(c.r.count.resyncs, 1);
    done(&c);
}

static void pages_changed_behind_the_wal_are_found_by_a_base(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    many_rows(&c);
    good(&c, &(struct source_job){.capture = true, .settle = true});
    assert_true(c.r.drained);
    /* Not by open(), which would drop this process's locks: another process spoils the file. */
    cleanup_free char *cmd = util_printf(
        "printf spoilt | dd of='%s' bs=1 seek=%d conv=notrunc status=none", c.t.path, 600 * 4096 + 100);
    assert_int_equal(system(cmd), 0);
    good(&c, &(struct source_job){.capture = true, .snapshot = true});
    assert_true(c.r.broken && c.r.compared);
    assert_int_equal(c.r.differ, 1);
    assert_int_equal(c.r.snapshot.txid, 0);
    good(&c, &(struct source_job){.capture = true, .snapshot = true});
    assert_int_equal(c.r.snapshot.txid, c.r.txid);
    assert_true(c.r.snapshot.checksum == shadow_checksum(&c.sh));
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

/* Another process, since one of this process shares our locks. */
static void the_last_close_of_an_application_is_its_own_and_is_followed(void **state)
{
    (void)state;
    struct src c;
    struct stat st;
    src_begin(&c);
    capture(&c);
    assert_int_equal(sqlite3_close(c.t.app), SQLITE_OK);
    c.t.app = NULL;
    source_set_without(c.s, 0);
    run(&c, &(struct source_job){.detach = true}); /* the -shm that it shared with the application */
    good(&c, &(struct source_job){.capture = true, .settle = true});
    cleanup_free char *wal = util_printf("%s-wal", c.t.path);
    for (unsigned i = 1; i <= 3; i++) {
        assert_string_equal(child("close", c.t.path, "insert into t values(null, 2)"), "");
        assert_int_equal(stat(wal, &st), -1); /* nothing is left for us to copy */
        good(&c, &(struct source_job){.capture = true});
        assert_false(c.r.broken);
        assert_int_equal(c.r.count.last_closes, i);
        good(&c, &(struct source_job){.capture = true}); /* it may have come to rest */
        shadow_equals(&c.sh, c.t.path);
    }
    assert_int_equal(c.r.count.fulls, 1);
    source_set_without(c.s, SOURCE_ASIDE);
    c.t.app = app_open(c.t.path);
    done(&c);
}

/* The control: with our lock held all the time it cannot be the last one. */
static void without_standing_aside_the_wal_is_left_behind(void **state)
{
    (void)state;
    struct src c;
    struct stat st;
    src_begin(&c);
    capture(&c);
    assert_int_equal(sqlite3_close(c.t.app), SQLITE_OK);
    c.t.app = NULL;
    good(&c, &(struct source_job){.capture = true, .settle = true});
    assert_string_equal(child("close", c.t.path, "insert into t values(null, 2)"), "");
    cleanup_free char *wal = util_printf("%s-wal", c.t.path);
    assert_int_equal(stat(wal, &st), 0);
    assert_true(st.st_size > 0);
    good(&c, &(struct source_job){.capture = true});
    assert_int_equal(c.r.count.last_closes, 0);
    c.t.app = app_open(c.t.path);
    done(&c);
}

/* Fixes are left out one at a time: the second opinion alone has to notice. */
static void without_the_look_at_side_files_the_auditor_notices_them_alone(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    ex(c.t.app, "insert into t values(null, 1)");
    capture(&c);
    assert_int_equal(sqlite3_close(c.t.app), SQLITE_OK);
    c.t.app = NULL;
    cleanup_free char *shm = util_printf("%s-shm", c.t.path);
    assert_int_equal(unlink(shm), 0);
    assert_string_equal(child("sql", c.t.path, "insert into t values(null, 2)"), "");
    source_set_without(c.s, SOURCE_SIDES | SOURCE_ASIDE);
    run(&c, &(struct source_job){.capture = true}); /* believes what is mapped */
    assert_int_equal(c.r.state, SOURCE_ATTACHED);
    assert_int_equal(c.r.n_files, 0);
    run(&c, &(struct source_job){.capture = true, .audit = true});
    assert_int_equal(c.r.state, SOURCE_ARRIVING);
    assert_non_null(strstr(c.r.away, "does not show"));
    source_set_without(c.s, SOURCE_ASIDE);
    c.t.app = app_open(c.t.path);
    done(&c);
}

static void a_commit_that_a_sleep_did_not_see_is_noticed_by_the_auditor_alone(void **state)
{
    (void)state;
    struct src c;
    src_begin(&c);
    capture(&c);
    run(&c, &(struct source_job){.detach = true});
    assert_int_equal(c.r.state, SOURCE_ASLEEP);
    run(&c, &(struct source_job){.stay_away = true, .audit = true}); /* the control */
    assert_int_equal(c.r.doubt, SOURCE_DOUBT_NONE);
    ex(c.t.app, "insert into t values(null, 1)"); /* whatever its times may say */
    run(&c, &(struct source_job){.stay_away = true, .audit = true});
    assert_int_equal(c.r.doubt, SOURCE_DOUBT_UNSEEN);
    done(&c);
}

int main(int argc, char **argv)
{
    if (argc > 2)
        return child_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replaced_just_before_the_detach),
        cmocka_unit_test(checkpointed_while_walsup_was_away_costs_the_difference),
        cmocka_unit_test(nothing_changed_while_continuity_could_not_be_proven),
        cmocka_unit_test(a_map_that_is_behind_is_redone_from_the_spool),
        cmocka_unit_test(a_damaged_map_is_not_believed),
        cmocka_unit_test(a_missing_map_is_made_when_there_is_time),
        cmocka_unit_test(pages_changed_behind_the_wal_are_found_by_a_base),
        cmocka_unit_test(the_last_close_of_an_application_is_its_own_and_is_followed),
        cmocka_unit_test(without_standing_aside_the_wal_is_left_behind),
        cmocka_unit_test(without_the_look_at_side_files_the_auditor_notices_them_alone),
        cmocka_unit_test(a_commit_that_a_sleep_did_not_see_is_noticed_by_the_auditor_alone),
    };
    struct err e;
    if (session_setup(&e) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
