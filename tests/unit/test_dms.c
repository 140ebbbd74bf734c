/* The wal-index, when nobody but walsup has the database open: it looks as if nobody had. Seen from other processes. */
#include "tests/unit/db_harness.h"

#include <unistd.h>

#define FRAMES 8000
#define OPENS 150

static struct session *open_it(const char *path)
{
    struct session *s = NULL;
    struct err e = {0};
    if (session_open(path, &s, &e) != 0)
        fail_msg("%s", e.msg);
    return s;
}

static uint32_t frames(struct session *s)
{
    struct session_index x;
    struct err e = {0};
    if (session_index(s, &x, &e) < 0)
        fail_msg("%s", e.msg);
    return x.n;
}

static void copy(const char *from, const char *to, const char *suffix)
{
    cleanup_free char *a = util_printf("%s%s", from, suffix), *b = util_printf("%s%s", to, suffix);
    cleanup_buf struct buf buf = BUF_INIT;
    struct err e = {0};
    assert_int_equal(fsx_read(a, SIZE_MAX, &buf, &e), 0);
    assert_int_equal(fsx_publish(b, buf.p, buf.len, 0600, FSX_REPLACE | FSX_NOSYNC, &e), 0);
}

static void gone(const char *path, const char *suffix)
{
    cleanup_free char *a = util_printf("%s%s", path, suffix);
    assert_int_equal(unlink(a), 0);
}

/* A database of n rows, of which all but the table are in its -wal, that nobody has open. */
static void with_wal(struct tdb *t, int n)
{
    tdb_new(t, 1024);
    ex(t->app, "pragma wal_checkpoint");
    for (int i = 0; i < n; i++)
        ex(t->app, "insert into t values(null, randomblob(500))");
    app_close_quietly(t);
}

static void another_database_with_its_wal_comes_in_beside_the_old_shm(void **state)
{
    (void)state;
    for (int in_use = 0; in_use < 2; in_use++) {
        struct tdb t, other;
        with_wal(&t, 7);
        with_wal(&other, 40);
        struct session *s = open_it(t.path);
        if (in_use) /* and so it stays while it is used */
            session_hold_checkpoints(s, true);
        gone(t.path, "");
        gone(t.path, "-wal");
        copy(other.path, t.path, "");
        copy(other.path, t.path, "-wal");
        if (!in_use) {
            assert_string_equal(child("sql", t.path, "select count(*) from t"), "40");
            uint32_t n = frames(s);
            session_disown(s); /* that is no longer the old one */
            assert_int_equal(frames(s), n);
            assert_string_equal(child("sql", t.path, "pragma integrity_check"), "ok");
        } else {
            assert_string_not_equal(child("sql", t.path, "select count(*) from t"), "40");
            session_disown(s);
        }
        (void)session_close(s);
        assert_string_equal(child("sql", t.path, "select count(*) from t"), "40");
        assert_string_equal(child("sql", t.path, "pragma integrity_check"), "ok");
        tdb_done(&t);
        tdb_done(&other);
    }
}

static void the_guard_outlives_a_new_index(void **state)
{
    (void)state;
    struct tdb t;
    struct err e = {0};
    with_wal(&t, 7);
    struct session *s = open_it(t.path);
    uint32_t n = frames(s);
    assert_string_equal(child("sql", t.path, "insert into t values(100, 1)"), ""); /* the first one: a new wal-index */
    assert_int_equal(frames(s), n + 1);
    const char *r = child("sql", t.path, "pragma wal_checkpoint(truncate)");
    assert_int_equal(r[0], '1'); /* busy */
    assert_int_equal(frames(s), n + 1);
    assert_int_equal(session_guard_next(s, &e), 0);
    session_guard_switch(s);
    bool all = false;
    assert_int_equal(session_passive(s, &all, &e), 0);
    assert_true(all);
    assert_int_equal(session_guard_next(s, &e), 0);
    session_guard_switch(s);
    assert_true(session_guard_lets_restart(s));
    assert_string_equal(child("sql", t.path, "insert into t values(101, 1)"), "");
    assert_true(frames(s) > n + 1); /* made anew again: nothing counts as copied, so nothing is restarted */
    assert_int_equal(child("sql", t.path, "pragma wal_checkpoint(truncate)")[0], '1');
    assert_string_equal(child("sql", t.path, "select count(*) from t"), "9");
    (void)session_close(s);
    assert_string_equal(child("sql", t.path, "pragma integrity_check"), "ok");
    tdb_done(&t);
}

/* A new wal-index is shorter than what is mapped here of the old one. */
static void a_new_index_that_is_shorter_is_no_end(void **state)
{
    (void)state;
    struct tdb t;
    struct err e = {0};
    with_wal(&t, FRAMES);
    struct session *s = open_it(t.path);
    assert_true(frames(s) > FRAMES / 2);
    bool all = false;
    assert_int_equal(session_passive(s, &all, &e), 0);
    assert_int_equal(session_guard_next(s, &e), 0);
    session_guard_switch(s);
    cleanup_free char *wal = util_printf("%s-wal", t.path);
    assert_int_equal(truncate(wal, 0), 0); /* by somebody who knows nothing of SQLite; all of it was copied */
    assert_string_equal(child("sql", t.path, "insert into t values(null, 1)"), "");
    assert_int_equal(session_guard_next(s, &e), 0);
    session_guard_switch(s);
    assert_int_equal(frames(s), 1);
    assert_int_equal(session_passive(s, &all, &e), 0);
    assert_false(session_faulted(s));
    (void)session_close(s);
    assert_string_equal(child("sql", t.path, "pragma integrity_check"), "ok");
    cleanup_free char *rows = util_printf("%d", FRAMES + 1);
    assert_string_equal(child("sql", t.path, "select count(*) from t"), rows);
    tdb_done(&t);
}

static void whoever_makes_a_new_index_dies_at_once(void **state)
{
    (void)state;
    struct tdb t;
    struct err e = {0};
    with_wal(&t, FRAMES);
    struct session *s = open_it(t.path);
    uint32_t n = frames(s);
    cleanup_free char *shm = util_printf("%s-shm", t.path), *rows = util_printf("%d", FRAMES);
    assert_int_equal(truncate(shm, 3), 0); /* as SQLite begins it */
    struct session_index x;
    assert_int_equal(session_peek(s, &x), -ERR_CORRUPT); /* his two copies differ until he is done */
    assert_int_equal(session_guard_next(s, &e), 0);
    session_guard_switch(s);
    assert_false(session_faulted(s));
    assert_int_equal(frames(s), n);
    session_hold_checkpoints(s, true); /* so that it is believed */
    assert_string_equal(child("sql", t.path, "select count(*) from t"), rows);
    assert_string_equal(child("sql", t.path, "pragma integrity_check"), "ok");
    (void)session_close(s);
    tdb_done(&t);
}

/* Opens and reads without a busy timeout until its input ends; says how often it was refused. */
static int opener(const char *path)
{
    int refused = 0, done = 0, one = 1;
    struct timeval none = {0, 0};
    for (;; done++) {
        fd_set in;
        FD_ZERO(&in);
        FD_SET(0, &in);
        if (done && select(1, &in, NULL, NULL, &none))
            break;
        sqlite3 *d;
        if (sqlite3_open(path, &d) != SQLITE_OK)
            return 9;
        (void)sqlite3_db_config(d, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        (void)sqlite3_file_control(d, "main", SQLITE_FCNTL_PERSIST_WAL, &one);
        int rc = sqlite3_exec(d, "select count(*) from sqlite_schema", NULL, NULL, NULL);
        refused += rc == SQLITE_BUSY;
        if (rc != SQLITE_OK && rc != SQLITE_BUSY)
            return 9;
        (void)sqlite3_close(d);
        if (done)
            continue;
        (void)printf("at work\n");
        (void)fflush(stdout);
    }
    (void)printf("%d\n", refused);
    return 0;
}

static void nobody_is_refused_while_we_recover_a_wal(void **state)
{
    (void)state;
    struct tdb t;
    char self[300] = "", line[100] = "";
    int in[2], out[2], status = 1;
    with_wal(&t, FRAMES);
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    assert_int_equal(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (!pid) {
        (void)dup2(in[0], 0);
        (void)dup2(out[1], 1);
        (void)execl(self, self, "opens", t.path, "", (char *)NULL);
        _exit(9);
    }
    (void)close(out[1]);
    FILE *f = fdopen(out[0], "r");
    assert_non_null(fgets(line, sizeof line, f));
    for (int i = 0; i < OPENS; i++)
        (void)session_close(open_it(t.path));
    (void)close(in[1]);
    assert_non_null(fgets(line, sizeof line, f));
    assert_string_equal(line, "0\n");
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    (void)fclose(f);
    (void)close(in[0]);
    tdb_done(&t);
}

static void whoever_joins_is_never_the_first(void **state)
{
    (void)state;
    struct tdb t;
    struct session *s = NULL;
    struct err e = {0};
    with_wal(&t, 7);
    gone(t.path, "-shm");
    assert_int_equal(session_join(t.path, &s, &e), SESSION_FIRST);
    assert_false(exists(t.path, "-shm"));
    assert_string_equal(child("sql", t.path, "select count(*) from t"), "7"); /* and leaves a -shm of his own */
    assert_int_equal(session_join(t.path, &s, &e), SESSION_FIRST);
    assert_string_equal(child("close", t.path, "select count(*) from t"), "7");
    assert_false(exists(t.path, "-wal"));
    assert_int_equal(session_join(t.path, &s, &e), SESSION_FIRST);
    assert_false(exists(t.path, "-wal") || exists(t.path, "-shm"));
    gone(t.path, "");
    assert_int_equal(session_join(t.path, &s, &e), SESSION_MISSING);
    assert_null(s);
    tdb_done(&t);
    with_wal(&t, 7);
    struct session *first = open_it(t.path); /* of this process */
    assert_int_equal(session_join(t.path, &s, &e), 0);
    (void)session_close(s);
    (void)session_close(first);
    tdb_done(&t);
}

static void two_sessions_of_one_file_share_the_switch(void **state)
{
    (void)state;
    struct tdb t;
    with_wal(&t, 7);
    for (int first = 0; first < 2; first++) {
        struct session *s[2];
        s[0] = open_it(t.path);
        assert_string_equal(child("dms", t.path, ""), "-");
        s[1] = open_it(t.path);
        assert_string_equal(child("dms", t.path, ""), "-");
        session_hold_checkpoints(s[0], true);
        assert_string_equal(child("dms", t.path, ""), "r");
        session_hold_checkpoints(s[0], false);
        assert_string_equal(child("dms", t.path, ""), "-");
        (void)session_close(s[first]);
        session_hold_checkpoints(s[!first], true);
        assert_string_equal(child("dms", t.path, ""), "r");
        session_hold_checkpoints(s[!first], false);
        assert_string_equal(child("dms", t.path, ""), "-");
        (void)session_close(s[!first]);
    }
    tdb_done(&t);
}

static int dms(const char *path)
{
    cleanup_free char *shm = util_printf("%s-shm", path);
    cleanup_close int fd = open(shm, O_RDWR | O_CLOEXEC);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 128, .l_len = 1};
    if (fd < 0 || fcntl(fd, F_GETLK, &l) < 0)
        return 9;
    (void)putchar(l.l_type == F_UNLCK ? '-' : l.l_type == F_RDLCK ? 'r' : 'w');
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 2)
        return !strcmp(argv[1], "opens") ? opener(argv[2]) : !strcmp(argv[1], "dms") ? dms(argv[2]) : child_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_database_with_its_wal_comes_in_beside_the_old_shm),
        cmocka_unit_test(the_guard_outlives_a_new_index),
        cmocka_unit_test(a_new_index_that_is_shorter_is_no_end),
        cmocka_unit_test(whoever_makes_a_new_index_dies_at_once),
        cmocka_unit_test(nobody_is_refused_while_we_recover_a_wal),
        cmocka_unit_test(whoever_joins_is_never_the_first),
        cmocka_unit_test(two_sessions_of_one_file_share_the_switch),
    };
    struct err e;
    if (session_setup(&e) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
