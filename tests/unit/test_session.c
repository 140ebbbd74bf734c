/* Attaching, and that the guards are what the protocol takes them for: seen from other processes. */
#include "tests/unit/db_harness.h"

#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/base/clk.h"

static int open_it(const char *path, struct session **s, struct err *e)
{
    *s = NULL;
    memset(e, 0, sizeof *e);
    return session_open(path, s, e);
}

/* SQLite's call of it comes here: while stall names a database, the disk is done only when somebody else has read it. */
static const char *stall;
static char seen[200];

int fdatasync(int fd)
{
    if (stall) {
        const char *path = stall;
        stall = NULL;
        (void)snprintf(seen, sizeof seen, "%s", child("sql", path, "select count(*) from t"));
    }
    return fsync(fd);
}

static void put(const char *path, const void *p, size_t n)
{
    struct err e;
    assert_int_equal(fsx_publish(path, p, n, 0600, FSX_REPLACE | FSX_NOSYNC, &e), 0);
}

static void what_cannot_be_attached_is_said_and_left_alone(void **state)
{
    (void)state;
    struct tdb t;
    struct session *s;
    struct err e;
    tdb_dir(&t);
    assert_int_equal(open_it(t.path, &s, &e), SESSION_MISSING);
    put(t.path, "", 0);
    assert_int_equal(open_it(t.path, &s, &e), SESSION_EMPTY);
    uint8_t h[1024] = "this is no database at all, only some text that is long enough";
    put(t.path, h, sizeof h);
    assert_int_equal(open_it(t.path, &s, &e), -ERR_CORRUPT);
    (void)unlink(t.path);
    t.app = app_open(t.path);
    ex(t.app, "pragma page_size=1024; create table t(a)");
    assert_int_equal(open_it(t.path, &s, &e), SESSION_NOT_WAL);
    assert_int_equal(sqlite3_close(t.app), SQLITE_OK);
    t.app = NULL;
    cleanup_buf struct buf b = BUF_INIT;
    assert_int_equal(fsx_read(t.path, SIZE_MAX, &b, &e), 0);
    b.p[18] = b.p[19] = 3;
    put(t.path, b.p, b.len);
    assert_int_equal(open_it(t.path, &s, &e), -ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "WAL2"));
    b.p[18] = b.p[19] = 2;
    b.p[16] = 3, b.p[17] = 1;
    put(t.path, b.p, b.len);
    assert_int_equal(open_it(t.path, &s, &e), -ERR_CORRUPT);
    assert_false(exists(t.path, "-wal") || exists(t.path, "-shm"));
    (void)unlink(t.path);
    assert_int_equal(mkdir(t.path, 0700), 0);
    assert_int_equal(open_it(t.path, &s, &e), -ERR_CONFIG);
    assert_null(s);
    tdb_done(&t);
}

static struct session_index look(struct session *s)
{
    struct session_index x;
    struct err e = {0};
    if (session_index(s, &x, &e) < 0)
        fail_msg("%s", e.msg);
    return x;
}

static void handover(struct session *s)
{
    struct err e = {0};
    assert_int_equal(session_guard_next(s, &e), 0);
    session_guard_switch(s);
}

static void a_guard_with_a_mark_pins_the_wal(void **state)
{
    (void)state;
    struct tdb t;
    struct session *s;
    struct err e;
    tdb_new(&t, 4096);
    ex(t.app, "insert into t values(1, 1)");
    assert_int_equal(open_it(t.path, &s, &e), 0);
    struct session_index x = look(s);
    assert_true(x.n > 0 && x.b == 0 && x.page_size == 4096);
    ex(t.app, "insert into t values(2, 2)");
    /* TRUNCATE copies up to the mark, is busy, and restarts nothing */
    assert_string_equal(child("sql", t.path, "pragma wal_checkpoint(truncate)"), "1,4,3");
    struct session_index y = look(s);
    assert_int_equal(y.n, x.n + 1);
    assert_int_equal(y.b, x.n);
    assert_memory_equal(y.salt, x.salt, sizeof x.salt);
    /* with both guards held the older one still counts, and after a change of mind as well */
    assert_int_equal(session_guard_next(s, &e), 0);
    assert_string_equal(child("sql", t.path, "pragma wal_checkpoint(truncate)"), "1,4,3");
    session_guard_undo(s);
    session_guard_undo(s);
    session_guard_switch(s);
    assert_string_equal(child("sql", t.path, "pragma wal_checkpoint(truncate)"), "1,4,3");
    /* the control: a newer guard lets the rest through, but not the restart */
    handover(s);
    assert_string_equal(child("sql", t.path, "pragma wal_checkpoint(truncate)"), "1,4,4");
    ex(t.app, "insert into t values(3, 3)");
    assert_memory_equal(look(s).salt, x.salt, sizeof x.salt);
    assert_int_equal(look(s).n, 5);
    s = session_close(s);
    assert_string_equal(child("sql", t.path, "pragma wal_checkpoint(truncate)"), "0,0,0");
    tdb_done(&t);
}

static void a_guard_in_slot_0_lets_one_restart_pass_and_no_copy(void **state)
{
    (void)state;
    struct tdb t;
    struct session *s;
    struct err e;
    bool all = false;
    tdb_new(&t, 4096);
    ex(t.app, "insert into t values(1, 1)");
    assert_int_equal(open_it(t.path, &s, &e), 0);
    assert_int_equal(session_passive(s, &all, &e), 0);
    assert_true(all);
    handover(s);
    struct session_index x = look(s);
    assert_int_equal(x.n, x.b);
    assert_string_equal(child("locks", t.path, ""), "---r----");
    ex(t.app, "insert into t values(2, 2)");
    struct session_index y = look(s);
    assert_true(memcmp(x.salt, y.salt, sizeof x.salt) != 0 && y.n == 1 && y.b == 0);
    assert_string_equal(child("sql", t.path, "pragma wal_checkpoint(passive)"), "0,1,0");
    assert_string_equal(child("sql", t.path, "pragma wal_checkpoint(truncate)"), "1,1,0");
    ex(t.app, "insert into t values(3, 3)");
    assert_int_equal(look(s).n, 2);
    assert_memory_equal(look(s).salt, y.salt, sizeof y.salt);
    (void)session_close(s);
    tdb_done(&t);
}

/* SQLite's FULL, RESTART and TRUNCATE wait for a mark by what they read there before the guard came to it. */
static void a_guard_moves_off_its_mark_when_it_is_told_to(void **state)
{
    (void)state;
    struct tdb t;
    struct session *s;
    struct err e;
    tdb_new(&t, 4096);
    ex(t.app, "insert into t values(1, 1)");
    assert_int_equal(open_it(t.path, &s, &e), 0);
    assert_string_equal(child("locks", t.path, ""), "----r---");
    handover(s); /* nothing new: the same mark again */
    assert_string_equal(child("locks", t.path, ""), "----r---");
    static const char *const marks[] = {"-----r--", "------r-", "-------r", "-------r"};
    for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
        session_guard_elsewhere(s);
        handover(s);
        assert_string_equal(child("locks", t.path, ""), marks[i]);
        assert_false(session_guard_behind(s, look(s).n));
    }
    ex(t.app, "insert into t values(2, 2)");
    handover(s); /* with a commit SQLite begins with the first one again */
    assert_string_equal(child("locks", t.path, ""), "----r---");
    (void)session_close(s);
    tdb_done(&t);
}

static void our_locks_survive_everything_we_read(void **state)
{
    (void)state;
    struct tdb t;
    struct session *s;
    struct err e;
    uint8_t buf[8192];
    tdb_new(&t, 4096);
    ex(t.app, "insert into t values(1, randomblob(9000))");
    assert_int_equal(open_it(t.path, &s, &e), 0);
    char before[9];
    (void)snprintf(before, sizeof before, "%s", child("locks", t.path, ""));
    assert_string_equal(before, "----r---");
    for (int i = 0; i < 5; i++) {
        assert_int_equal(session_wal_read(s, 0, buf, 32, &e), 0);
        assert_int_equal(session_db_read(s, 1, 2, buf, &e), 0);
        (void)look(s);
        assert_false(session_moved(s));
        handover(s);
        assert_int_equal(session_write_lock(s, 10, &e), 0);
        assert_int_equal(child("locks", t.path, "")[0], 'w');
        session_write_unlock(s);
        /* a second session in this process comes and goes */
        struct session *s2;
        assert_int_equal(open_it(t.path, &s2, &e), 0);
        (void)session_close(s2);
        assert_string_equal(child("locks", t.path, ""), before);
    }
    assert_int_equal(session_wal_read(s, 1 << 20, buf, 32, &e), -ERR_CORRUPT);
    (void)session_close(s);
    assert_string_equal(child("locks", t.path, ""), "--------");
    tdb_done(&t);
}

static void the_checkpoint_lock_is_kept_between_our_own_checkpoints(void **state)
{
    (void)state;
    struct tdb t;
    struct session *s;
    struct err e;
    bool all = false;
    tdb_new(&t, 4096);
    assert_int_equal(open_it(t.path, &s, &e), 0);
    session_hold_checkpoints(s, true);
    session_hold_checkpoints(s, true);
    for (int i = 0; i < 3; i++) {
        ex(t.app, "insert into t values(null, 1)");
        assert_int_equal(child("locks", t.path, "")[1], 'w');
        assert_string_equal(child("sql", t.path, "pragma wal_checkpoint"), "1,-1,-1");
        handover(s);
        assert_int_equal(session_passive(s, &all, &e), 0);
        assert_true(all);
    }
    session_hold_checkpoints(s, false);
    assert_int_equal(child("locks", t.path, "")[1], '-');
    session_hold_checkpoints(s, true);
    (void)session_close(s);
    assert_string_equal(child("locks", t.path, ""), "--------");
    tdb_done(&t);
}

static void the_write_lock_waits_no_longer_than_told(void **state)
{
    (void)state;
    struct tdb t;
    struct session *s;
    struct err e;
    tdb_new(&t, 4096);
    assert_int_equal(open_it(t.path, &s, &e), 0);
    ex(t.app, "begin immediate; insert into t values(1, 1)");
    assert_int_equal(session_write_lock(s, 20, &e), SESSION_BUSY);
    ex(t.app, "commit");
    assert_int_equal(session_write_lock(s, 20, &e), 0);
    assert_string_equal(child("sql", t.path, "insert into t values(2, 2)"), "rc 5");
    session_write_unlock(s);
    assert_string_equal(child("sql", t.path, "insert into t values(2, 2)"), "");
    (void)session_close(s);
    tdb_done(&t);
}

static void a_disk_that_stalls_under_the_barrier_makes_others_wait_for_a_second_only(void **state)
{
    (void)state;
    for (int stalls = 0; stalls < 2; stalls++) {
        struct tdb t;
        struct session *s;
        struct err e;
        bool all = false;
        tdb_new(&t, 4096);
        ex(t.app, "insert into t values(1, 1)");
        assert_int_equal(open_it(t.path, &s, &e), 0);
        assert_int_equal(session_hold_all(s, 1000, &e), 0);
        assert_string_equal(child("locks", t.path, "") + 4, "wwww");
        seen[0] = '\0';
        stall = stalls ? t.path : NULL;
        assert_int_equal(session_passive(s, &all, &e), 0);
        assert_true(all);
        if (stalls) /* "locking protocol", after ten seconds, whatever the busy timeout, if nobody is let in */
            assert_string_equal(seen, "1");
        assert_string_equal(child("locks", t.path, "") + 4, stalls ? "----" : "wwww");
        assert_int_equal(session_release_all(s, &e), 0);
        assert_string_equal(child("sql", t.path, "insert into t values(2, 2)"), "");
        assert_string_equal(child("sql", t.path, "select count(*) from t"), "2");
        (void)session_close(s);
        tdb_done(&t);
    }
}

static void closing_changes_nothing(void **state)
{
    (void)state;
    for (int with_wal = 0; with_wal < 2; with_wal++) {
        struct tdb t;
        struct session *s;
        struct err e;
        tdb_new(&t, 4096);
        ex(t.app, "insert into t values(1, randomblob(30000))");
        if (with_wal) {
            app_close_quietly(&t);
        } else {
            assert_int_equal(sqlite3_close(t.app), SQLITE_OK);
            t.app = NULL;
            assert_false(exists(t.path, "-wal"));
        }
        cleanup_free char *wal = util_printf("%s-wal", t.path);
        cleanup_buf struct buf db0 = BUF_INIT, db1 = BUF_INIT, wal0 = BUF_INIT, wal1 = BUF_INIT;
        assert_int_equal(fsx_read(t.path, SIZE_MAX, &db0, &e), 0);
        (void)fsx_read(wal, SIZE_MAX, &wal0, &e);
        assert_int_equal(wal0.len > 0, with_wal);
        assert_int_equal(open_it(t.path, &s, &e), 0);
        struct session_index x = look(s);
        assert_int_equal(x.n > 0, with_wal);
        assert_int_equal(x.pages, with_wal ? x.pages : db0.len / 4096);
        handover(s);
        (void)session_close(s);
        assert_true(exists(t.path, "-wal") && exists(t.path, "-shm"));
        assert_int_equal(fsx_read(t.path, SIZE_MAX, &db1, &e), 0);
        assert_int_equal(fsx_read(wal, SIZE_MAX, &wal1, &e), 0);
        assert_int_equal(db1.len, db0.len);
        assert_memory_equal(db1.p, db0.p, db0.len);
        assert_int_equal(wal1.len, wal0.len);
        if (wal0.len)
            assert_memory_equal(wal1.p, wal0.p, wal0.len);
        tdb_done(&t);
    }
}

static void a_file_that_was_replaced_is_noticed(void **state)
{
    (void)state;
    struct tdb t;
    struct session *s;
    struct err e;
    tdb_new(&t, 4096);
    assert_int_equal(open_it(t.path, &s, &e), 0);
    cleanup_free char *other = util_printf("%s/b.db", t.dir);
    assert_false(session_moved(s));
    assert_int_equal(rename(t.path, other), 0);
    assert_true(session_moved(s));
    put(t.path, "x", 1);
    assert_true(session_moved(s));
    assert_int_equal(rename(other, t.path), 0);
    assert_false(session_moved(s));
    (void)session_close(s);
    tdb_done(&t);
}

/* Commits pour in while the wal-index is read: every copy is one that was there. */
static void the_index_is_consistent_under_a_writer(void **state)
{
    (void)state;
    struct tdb t;
    struct session *s;
    struct err e;
    tdb_new(&t, 512);
    assert_int_equal(open_it(t.path, &s, &e), 0);
    uint32_t last = 0;
    for (int i = 0; i < 2000; i++) {
        if (i % 20 == 0)
            ex(t.app, "insert into t values(null, randomblob(300))");
        struct session_index x = look(s);
        assert_true(x.n >= last && x.b <= x.n);
        last = x.n;
    }
    (void)session_close(s);
    tdb_done(&t);
}

/* A process that takes a lease on the file and hears nothing when the kernel asks for it. Returns its pid. */
static pid_t lessee(const char *path, int stop[2])
{
    int ready[2];
    char c;
    assert_int_equal(pipe(ready) | pipe(stop), 0);
    pid_t pid = fork();
    if (!pid) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        (void)signal(SIGIO, SIG_IGN);
        (void)close(stop[1]);
        if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0 || write(ready[1], "", 1) != 1)
            _exit(1);
        (void)!read(stop[0], &c, 1);
        _exit(0);
    }
    (void)close(ready[1]);
    (void)close(stop[0]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    (void)close(ready[0]);
    return pid;
}

static void a_lease_that_is_not_given_up_is_said_and_not_waited_for(void **state)
{
    (void)state;
    const char *const suffix[] = {"", "-wal"};
    for (size_t i = 0; i < ARRAY_LEN(suffix); i++) {
        struct tdb t;
        struct session *s;
        struct err e;
        int stop[2];
        tdb_new(&t, 4096);
        ex(t.app, "insert into t values(1, 2)");
        app_close_quietly(&t); /* who has it open for writing keeps others from a lease */
        cleanup_free char *path = util_printf("%s%s", t.path, suffix[i]);
        pid_t pid = lessee(path, stop);
        uint64_t start = clk_mono_ms();
        assert_int_equal(open_it(t.path, &s, &e), -ERR_IO);
        assert_true(clk_mono_ms() < start + 20000); /* the kernel takes it away after 45 seconds */
        if (!strstr(e.msg, "lease"))
            fail_msg("%s", e.msg);
        assert_null(s);
        (void)close(stop[1]);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_int_equal(open_it(t.path, &s, &e), 0);
        (void)session_close(s);
        tdb_done(&t);
    }
}

/* Under the unit walsupd has CAP_CHOWN and not CAP_FOWNER: what is given away cannot be changed any
 * more. */
static struct {
    const char *db; /* whose side files are watched; NULL: none */
    unsigned made, appeared, changed_late;
    uid_t owner;
    mode_t mode;
} births;

int openat(int dir, const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    size_t n = births.db ? strlen(births.db) : 0;
    bool side = births.db && !strncmp(path, births.db, n) && path[n] == '-';
    births.made += side && flags & O_CREAT;
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

int fchmod(int fd, mode_t mode)
{
    struct stat st;
    births.changed_late += births.db && fstat(fd, &st) == 0 && st.st_uid != geteuid();
    return (int)syscall(SYS_fchmod, fd, mode);
}

int linkat(int from_dir, const char *from, int dir, const char *path, int flags)
{
    struct stat st;
    if (births.db && fstatat(from_dir, from, &st, 0) == 0) {
        births.appeared++;
        assert_int_equal(st.st_uid, births.owner);
        assert_int_equal(st.st_mode & 0777, births.mode);
    }
    return (int)syscall(SYS_linkat, from_dir, from, dir, path, flags);
}

/* SQLite makes it and then gives it away: whoever opens it in between is refused. */
static void side_files_appear_with_the_databases_owner(void **state)
{
    (void)state;
    struct tdb t;
    struct session *s;
    struct err e;
    tdb_new(&t, 4096);
    assert_int_equal(sqlite3_close(t.app), SQLITE_OK);
    t.app = NULL;
    births.owner = geteuid() ? geteuid() : 61001; /* only root can give files away */
    births.mode = 0640;
    assert_int_equal(chmod(t.path, 0640) | chown(t.path, births.owner, (gid_t)-1), 0);
    births.db = t.path;
    int r = open_it(t.path, &s, &e);
    births.db = NULL;
    assert_int_equal(r, 0);
    assert_int_equal(births.appeared, 2);
    assert_int_equal(births.made + births.changed_late, 0);
    (void)session_close(s);
    tdb_done(&t);
}

static void a_wal_that_is_a_link_is_not_read(void **state)
{
    (void)state;
    struct tdb t, other;
    struct session *s;
    struct err e;
    tdb_new(&t, 4096);
    assert_int_equal(sqlite3_close(t.app), SQLITE_OK);
    t.app = NULL;
    tdb_new(&other, 4096);
    ex(other.app, "insert into t values(1, 'of somebody else')");
    app_close_quietly(&other);
    cleanup_free char *wal = util_printf("%s-wal", t.path), *to = util_printf("%s-wal", other.path);
    assert_int_equal(symlink(to, wal), 0);
    assert_int_equal(open_it(t.path, &s, &e), -ERR_PERM);
    assert_non_null(strstr(e.msg, "is a symbolic link"));
    assert_null(s);
    tdb_done(&other);
    tdb_done(&t);
}

int main(int argc, char **argv)
{
    if (argc > 2)
        return child_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cannot_be_attached_is_said_and_left_alone),
        cmocka_unit_test(a_guard_with_a_mark_pins_the_wal),
        cmocka_unit_test(a_guard_in_slot_0_lets_one_restart_pass_and_no_copy),
        cmocka_unit_test(a_guard_moves_off_its_mark_when_it_is_told_to),
        cmocka_unit_test(our_locks_survive_everything_we_read),
        cmocka_unit_test(the_checkpoint_lock_is_kept_between_our_own_checkpoints),
        cmocka_unit_test(the_write_lock_waits_no_longer_than_told),
        cmocka_unit_test(a_disk_that_stalls_under_the_barrier_makes_others_wait_for_a_second_only),
        cmocka_unit_test(closing_changes_nothing),
        cmocka_unit_test(a_file_that_was_replaced_is_noticed),
        cmocka_unit_test(the_index_is_consistent_under_a_writer),
        cmocka_unit_test(a_lease_that_is_not_given_up_is_said_and_not_waited_for),
        cmocka_unit_test(side_files_appear_with_the_databases_owner),
        cmocka_unit_test(a_wal_that_is_a_link_is_not_read),
    };
    struct err e;
    if (session_setup(&e) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
