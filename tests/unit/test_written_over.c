/* Another file is copied over a database, and the application's next commit is over, last close and all, before anybody
 * looks: the times of the file are explained by that close, and only the event of the first write tells of the copy. */
#include "tests/unit/source_harness.h"

#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clk.h"

#define TICK_US 30000

/* SQLite's call of it comes here, also in the child: the clock of the file system ticks between what a last close writes and
 * its end, as it does on a disk whose sync takes time. Otherwise the file is compared anyway. */
int unlink(const char *path)
{
    size_t n = strlen(path);
    if (n > 4 && !strcmp(path + n - 4, "-wal"))
        (void)usleep(TICK_US);
    return unlinkat(AT_FDCWD, path, 0);
}

static struct src *copied_over_while_it_syncs, *copied_over_while_it_settles;
static void copy_over(struct src *c);

/* So does the proof of where a database stood when it is left. */
int usleep(useconds_t us)
{
    const struct timespec t = {us / 1000000, us % 1000000 * 1000l};
    struct src *c = copied_over_while_it_settles;
    copied_over_while_it_settles = NULL;
    if (c)
        copy_over(c);
    return nanosleep(&t, NULL);
}

/* SQLite's last step of a checkpoint, which may take seconds on a disk that is busy. */
int fdatasync(int fd)
{
    struct stat file, db;
    struct src *c = copied_over_while_it_syncs;
    if (c && fstat(fd, &file) == 0 && stat(c->t.path, &db) == 0 && file.st_ino == db.st_ino) {
        copied_over_while_it_syncs = NULL;
        (void)usleep(TICK_US);
        copy_over(c);
    }
    return fsync(fd);
}

/* Attached, with nothing in the WAL that is not in the file, and nobody else there. without: as for src_start(). */
static void begin(struct src *c, unsigned without)
{
    *c = (struct src){.spool = NULL};
    tdb_new(&c->t, 4096);
    ex(c->t.app, "insert into t values(1, randomblob(90000)); insert into t values(2, randomblob(90000))");
    assert_int_equal(sqlite3_close(c->t.app), SQLITE_OK);
    c->t.app = NULL;
    c->spool = util_printf("%s/spool", c->t.dir);
    src_start(c, without);
    good(c, &(struct source_job){.load = true});
    for (int i = 0; i < 3; i++)
        good(c, &(struct source_job){.capture = true, .settle = true});
    assert_int_equal(c->r.state, SOURCE_ATTACHED);
    assert_true(c->r.drained);
    shadow_equals(&c->sh, c->t.path);
}

/* As cp does it: the same inode. The same database, but for the content of two rows. */
static void copy_over(struct src *c)
{
    cleanup_buf struct buf b = BUF_INIT;
    struct err e = {0};
    assert_int_equal(fsx_read(c->t.path, SIZE_MAX, &b, &e), 0);
    for (size_t i = 20 * 4096ul + 100; i < 40 * 4096ul; i += 4096) /* overflow pages of a blob */
        b.p[i] ^= 0x5a;
    int fd = open(c->t.path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_int_equal(write(fd, b.p, b.len), (ssize_t)b.len);
    assert_int_equal(close(fd), 0);
}

static void what_the_next_last_close_has_written_does_not_explain_a_copy(void **state)
{
    (void)state;
    for (unsigned told = 0; told < 2; told++) { /* not told, it is not noticed: the control */
        struct src c;
        begin(&c, 0);
        copy_over(&c);
        assert_string_equal(child("close", c.t.path, "insert into t values(null, 3)"), "");
        assert_false(exists(c.t.path, "-wal"));
        for (int i = 0; i < 3; i++)
            good(&c, &(struct source_job){.capture = true, .unexplained = told && !i});
        assert_int_equal(c.r.count.resyncs, told);
        if (told)
            shadow_equals(&c.sh, c.t.path);
        done(&c);
    }
}

static void a_copy_while_a_database_is_left(void **state)
{
    (void)state;
    struct src c;
    begin(&c, 0);
    cleanup_free char *wal = util_printf("%s-wal", c.t.path);
    assert_int_equal(utimensat(AT_FDCWD, wal, NULL, 0), 0); /* young enough to be waited for */
    copied_over_while_it_settles = &c;
    good(&c, &(struct source_job){.detach = true});
    assert_null(copied_over_while_it_settles);
    for (int i = 0; i < 3; i++)
        good(&c, &(struct source_job){.capture = true, .doze = true});
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

static void a_copy_before_a_last_close_that_had_nothing_to_copy(void **state)
{
    (void)state;
    struct src c;
    begin(&c, 0);
    copy_over(&c);
    assert_string_equal(child("close", c.t.path, "select count(*) from t"), "2");
    assert_false(exists(c.t.path, "-wal"));
    for (int i = 0; i < 3; i++)
        good(&c, &(struct source_job){.capture = true});
    assert_int_equal(c.r.count.resyncs, 1);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

/* The job is quicker than the event. */
static void a_copy_that_is_told_after_the_last_close_was_followed_is_compared(void **state)
{
    (void)state;
    struct src c;
    begin(&c, 0);
    (void)usleep(TICK_US);
    uint64_t before = clk_mono_ms();
    copy_over(&c);
    assert_string_equal(child("close", c.t.path, "insert into t values(null, 3)"), "");
    for (int i = 0; i < 3; i++) /* believes it: the control */
        good(&c, &(struct source_job){.capture = true});
    assert_int_equal(c.r.count.resyncs, 0);
    good(&c, &(struct source_job){.capture = true, .unexplained = true, .unexplained_since_ms = before});
    assert_int_equal(c.r.count.resyncs, 1);
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

/* as if a frame had been written after the copy */
static void make_wal_newer(const char *path)
{
    cleanup_free char *wal = util_printf("%s-wal", path);
    struct timespec t[2];
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &t[0]), 0);
    t[0].tv_sec++;
    t[1] = t[0];
    assert_int_equal(utimensat(AT_FDCWD, wal, t, 0), 0);
}

/* A last close that failed, because we had the lock for a moment, has left the -wal, which a copy
 * follows at once. */
static void a_copy_after_the_last_frame_is_not_given_that_frame(void **state)
{
    (void)state;
    /* The control: not told, or told of a newer WAL, the frame ends in the copy. */
    enum { NOT_TOLD, TOLD, TOLD_BUT_NEWER, N } how;
    for (how = NOT_TOLD; how < N; how++) {
        struct src c;
        begin(&c, 0);
        assert_string_equal(child("sql", c.t.path, "insert into t values(null, 3)"), "");
        assert_true(exists(c.t.path, "-wal"));
        copy_over(&c);
        if (how == TOLD_BUT_NEWER)
            make_wal_newer(c.t.path);
        cleanup_buf struct buf copy = BUF_INIT, now = BUF_INIT;
        struct err e = {0};
        assert_int_equal(fsx_read(c.t.path, SIZE_MAX, &copy, &e), 0);
        for (int i = 0; i < 4 || (i < 200 && c.r.state != SOURCE_ATTACHED); i++) {
            bool told = how != NOT_TOLD && !i;
            good(&c, &(struct source_job){.capture = true, .settle = true, .file_was_last = told});
            (void)usleep(5000); /* what was replaced may still be written */
        }
        assert_int_equal(fsx_read(c.t.path, SIZE_MAX, &now, &e), 0);
        assert_int_equal(now.len == copy.len && !memcmp(now.p, copy.p, now.len), how == TOLD);
        if (how == TOLD)
            shadow_equals(&c.sh, c.t.path);
        done(&c);
    }
}

static void a_write_of_our_own_that_is_told_late_is_none(void **state)
{
    (void)state;
    struct src c;
    begin(&c, 0);
    uint64_t looked = c.r.count.resyncs;
    good(&c, &(struct source_job){.capture = true, .unexplained = true, .unexplained_since_ms = clk_mono_ms() + 1});
    assert_int_equal(c.r.state, SOURCE_ATTACHED);
    assert_int_equal(c.r.count.resyncs, looked);
    done(&c);
}

static void a_copy_while_our_own_checkpoint_waits_for_the_disk(void **state)
{
    (void)state;
    for (unsigned leaves = 0; leaves < 2; leaves++) {
        struct src c;
        begin(&c, SOURCE_ASIDE);
        ex(c.t.app = app_open(c.t.path), "insert into t values(null, 3)");
        copied_over_while_it_syncs = &c;
        good(&c, &(struct source_job){.capture = true, .settle = true, .detach = leaves});
        assert_null(copied_over_while_it_syncs);
        for (int i = 0; i < 3; i++)
            good(&c, &(struct source_job){.capture = true});
        assert_int_equal(c.r.state, SOURCE_ATTACHED);
        assert_int_equal(c.r.count.resyncs, 1);
        shadow_equals(&c.sh, c.t.path);
        done(&c);
    }
}

static void a_copy_that_is_told_when_the_last_close_was_followed_is_compared(void **state)
{
    (void)state;
    struct src c;
    begin(&c, 0);
    copy_over(&c);
    assert_string_equal(child("close", c.t.path, "insert into t values(null, 3)"), "");
    good(&c, &(struct source_job){.detach = true}); /* may believe it */
    for (int i = 0; i < 3; i++)
        good(&c, &(struct source_job){.capture = true, .doze = true, .unexplained = !i});
    shadow_equals(&c.sh, c.t.path);
    done(&c);
}

int main(int argc, char **argv)
{
    if (argc > 2)
        return child_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_next_last_close_has_written_does_not_explain_a_copy),
        cmocka_unit_test(a_copy_while_our_own_checkpoint_waits_for_the_disk),
        cmocka_unit_test(a_copy_while_a_database_is_left),
        cmocka_unit_test(a_copy_before_a_last_close_that_had_nothing_to_copy),
        cmocka_unit_test(a_copy_that_is_told_after_the_last_close_was_followed_is_compared),
        cmocka_unit_test(a_copy_after_the_last_frame_is_not_given_that_frame),
        cmocka_unit_test(a_write_of_our_own_that_is_told_late_is_none),
        cmocka_unit_test(a_copy_that_is_told_when_the_last_close_was_followed_is_compared),
    };
    struct err e;
    if (session_setup(&e) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
