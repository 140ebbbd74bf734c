/* The scan thread, and the watch with its safety scan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/unit/within.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/base/log.h"
#include "daemon/watch/watch.h"

static char root[] = "/tmp/walsup-watch-XXXXXX";
static uv_loop_t loop;
static struct scan *scan;
static struct watch *watch;
static unsigned seen[WATCH_AUDIT + 1];

static void on_event(struct watched *wd, enum watch_event ev)
{
    (void)wd;
    seen[ev]++;
}

static void on_written(struct watched *wd, uint64_t since_ms)
{
    assert_true(since_ms <= clk_mono_ms());
    on_event(wd, WATCH_FILE);
}

static void on_unchanged(struct watched *wd)
{
    (void)wd;
}

static const struct watched_calls told = {on_event, on_written, on_unchanged, on_unchanged};

static char *in_root(const char *name)
{
    return util_printf("%s/%s", root, name);
}

static void put(const char *name, const char *text, size_t n)
{
    struct err e = {0};
    cleanup_free char *path = in_root(name);
    if (fsx_publish(path, text, n, 0600, FSX_REPLACE | FSX_NOSYNC, &e) < 0)
        fail_msg("%s", e.msg);
}

static void put_database(const char *name)
{
    uint8_t page[4096] = "SQLite format 3";
    be16_put(page + 16, 4096);
    put(name, (const char *)page, sizeof page);
}

static void append(const char *name)
{
    cleanup_free char *path = in_root(name);
    cleanup_close int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(fd, "x", 1), 1);
}

/* let the loop run for a while */
static void on_time(uv_timer_t *t)
{
    uv_stop(t->loop);
}

static void run_ms(uint64_t ms)
{
    uv_timer_t t;
    (void)uv_timer_init(&loop, &t);
    (void)uv_timer_start(&t, on_time, ms, 0);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&t, NULL);
    (void)uv_run(&loop, UV_RUN_NOWAIT);
}

static void forget(void)
{
    memset(seen, 0, sizeof seen);
}

static void closed(void *arg)
{
    ++*(int *)arg;
}

static int setup(void **state)
{
    (void)state;
    struct err e = {0};
    log_setup(LOG_ERROR);
    memcpy(root + sizeof root - 7, "XXXXXX", 6);
    if (!mkdtemp(root) || uv_loop_init(&loop) < 0 || scan_new(&loop, &scan, &e) < 0 ||
        watch_new(&loop, scan, &watch, &e) < 0)
        return -1;
    forget();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    int n = 0;
    scan_close(scan, closed, &n);
    watch_close(watch, closed, &n);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    cleanup_free char *rm = util_printf("rm -rf %s", root);
    return n == 2 && uv_loop_close(&loop) == 0 && system(rm) == 0 ? 0 : -1;
}

/* ---- the thread -------------------------------------------------------------------------------- */

struct listing {
    struct buf text; /* "name kind database," for each item, in order */
    bool done, same;
    int errnum;
    struct scan_mark mark;
};

static bool on_listing(struct scan_job *j)
{
    struct listing *l = j->data;
    static const char *const what[] = {"gone", "dir", "file"};
    for (size_t i = 0; i < j->n_items; i++)
        buf_printf(&l->text, "%s %s%s%s,", j->item[i].name, j->item[i].link ? "link to " : "",
                   what[j->item[i].what], j->item[i].database ? " database" : "");
    l->same = j->same;
    l->errnum = j->errnum;
    l->mark = j->mark;
    l->done = true;
    uv_stop(&loop);
    return true;
}

static struct listing list(const char *pattern, const char *aside, const struct scan_mark *known)
{
    struct listing l = {.text = BUF_INIT};
    struct scan_job *j = util_zalloc(sizeof *j);
    cleanup_free char *path = in_root(pattern);
    j->kind = SCAN_LIST;
    j->tree = util_zalloc(sizeof *j->tree);
    j->tree->refs = 1;
    assert_int_equal(glob_new(path, &j->tree->glob, NULL), 0);
    j->tree->aside = util_zalloc(sizeof(char *));
    if (aside)
        j->tree->aside[j->tree->n_aside++] = in_root(aside);
    j->path = util_strdup(root);
    j->at = glob_start(j->tree->glob);
    if (known)
        j->known = *known;
    j->done = on_listing;
    j->data = &l;
    scan_add(scan, j);
    while (!l.done)
        (void)uv_run(&loop, UV_RUN_ONCE);
    return l;
}

static void only_what_matters_is_listed_and_only_databases_are_databases(void **state)
{
    (void)state;
    cleanup_free char *dir = in_root("dir"), *aside = in_root("aside"), *link = in_root("link.db");
    cleanup_free char *fifo = in_root("fifo.db"), *loose = in_root("loose.db");
    assert_int_equal(mkdir(dir, 0700) + mkdir(aside, 0700) + mkfifo(fifo, 0600), 0);
    assert_int_equal(symlink("real.db", link) + symlink("nowhere", loose), 0);
    put_database("real.db");
    put_database("real.db-wal");
    put_database("other.txt");
    put("empty.db", "", 0);
    put("text.db", "SQLite format 2 and then some", 29);
    struct listing l = list("**/*.db", "aside", NULL);
    assert_string_equal(buf_str(&l.text), "dir dir,empty.db file,real.db file database,text.db file,"
                                          "link.db link to file database,");
    buf_free(&l.text);
    usleep(60000); /* a directory that was changed a moment ago may change again unseen */
    l = list("*.db", NULL, NULL);
    assert_false(l.same);
    buf_free(&l.text);
    struct listing again = list("*.db", NULL, &l.mark);
    assert_true(again.same);
    assert_int_equal(again.text.len, 0);
    put_database("new.db");
    again = list("*.db", NULL, &l.mark);
    assert_false(again.same);
    assert_non_null(strstr(buf_str(&again.text), "new.db file database"));
    buf_free(&again.text);
}

/* whether somebody else finds the file locked */
static bool locked(const char *path)
{
    pid_t child = fork();
    if (!child) {
        struct flock lk = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int fd = open(path, O_RDWR | O_CLOEXEC);
        _exit(fd < 0 || fcntl(fd, F_GETLK, &lk) < 0 ? 2 : lk.l_type != F_UNLCK);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
    return WEXITSTATUS(status) == 1;
}

static void reading_a_header_drops_no_lock_of_the_process(void **state)
{
    (void)state;
    put_database("a.db");
    cleanup_free char *path = in_root("a.db");
    cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC);
    struct flock lk = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_len = 1};
    assert_int_equal(fcntl(fd, F_SETLK, &lk), 0);
    assert_true(locked(path));
    for (int i = 0; i < 20; i++) {
        struct listing l = list("*.db", NULL, NULL);
        assert_string_equal(buf_str(&l.text), "a.db file database,");
        buf_free(&l.text);
    }
    assert_true(locked(path));
    /* the control: the same on this thread drops it */
    (void)close(open(path, O_RDONLY | O_CLOEXEC));
    assert_false(locked(path));
}

/* ---- the watch --------------------------------------------------------------------------------- */

static struct watched *new_watched(const char *name)
{
    struct watched *wd = util_zalloc(sizeof *wd);
    wd->path = in_root(name);
    wd->call = &told;
    return wd;
}

static unsigned n_added;

static void on_added(struct watched *wd, const struct watch_found *found)
{
    (void)wd;
    (void)found;
    n_added++;
}

static void add(struct watched *wd, const struct scan_mark mark[2])
{
    n_added = 0;
    watch_add(watch, wd, mark, on_added);
    for (int i = 0; i < 1000 && !n_added; i++)
        run_ms(5);
    assert_int_equal(n_added, 1);
}

static void drop(struct watched *wd)
{
    watch_remove(watch, wd);
    free((char *)(uintptr_t)wd->path);
    free(wd);
}

static void events_go_to_the_database_they_are_about(void **state)
{
    (void)state;
    put_database("a.db");
    put_database("b.db");
    put("a.db-wal", "", 0);
    struct watched *a = new_watched("a.db"), *b = new_watched("b.db");
    add(a, NULL);
    add(b, NULL);
    assert_int_equal(watch_counters(watch)->directories, 1);
    append("a.db-wal");
    run_ms(50);
    assert_int_equal(seen[WATCH_WAL], 1);
    append("b.db");
    run_ms(50);
    assert_int_equal(seen[WATCH_FILE], 1);
    drop(b);
    append("b.db");
    put("c.db", "", 0);
    run_ms(50);
    assert_int_equal(seen[WATCH_WAL] + seen[WATCH_FILE] + seen[WATCH_NAME], 2);
    drop(a);
    assert_int_equal(watch_counters(watch)->directories, 0);
}

static void the_safety_scan_finds_what_nothing_announced(void **state)
{
    (void)state;
    static const struct {
        int file, wal; /* 0: as it is; else another size */
        unsigned want_wal, want_name;
    } row[] = {{0, 0, 0, 0}, {1, 0, 0, 1}, {0, 1, 1, 0}, {1, 1, 1, 0}};
    put_database("a.db");
    put("a.db-wal", "frames", 6);
    usleep(60000);
    cleanup_free char *path = in_root("a.db"), *wal = in_root("a.db-wal");
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct scan_mark mark[2];
        assert_true(scan_mark_of(path, &mark[0]) && scan_mark_of(wal, &mark[1]));
        mark[0].size_bytes += row[i].file;
        mark[1].size_bytes += row[i].wal;
        struct watched *wd = new_watched("a.db");
        add(wd, mark);
        forget();
        watch_look(watch, 1, 1);
        run_ms(50);
        assert_int_equal(seen[WATCH_WAL_MADE], row[i].want_wal);
        assert_int_equal(seen[WATCH_NAME], row[i].want_name);
        watch_look(watch, 1, 1); /* now it is as it was */
        run_ms(50);
        assert_int_equal(seen[WATCH_WAL_MADE] + seen[WATCH_NAME],
                         row[i].want_wal + row[i].want_name);
        drop(wd);
    }
}

static void a_write_in_the_grain_of_the_clock_is_found_later(void **state)
{
    (void)state;
    put_database("a.db");
    put("a.db-wal", "frames", 6);
    cleanup_free char *wal = in_root("a.db-wal");
    struct watched *wd = new_watched("a.db");
    add(wd, NULL); /* written just now: what comes in the same tick has the same time */
    forget();
    watch_look(watch, 1, 1);
    run_ms(60);
    assert_true(seen[WATCH_WAL_MADE] >= 1);
    drop(wd);
}

static void a_look_is_spread_over_the_interval(void **state)
{
    (void)state;
    enum { N = 1000 };
    struct watched *wd[N];
    struct scan_mark never[2] = {{.ino = 1, .size_bytes = 1, .mtime_ns = 1}, {0}};
    for (int i = 0; i < N; i++) {
        cleanup_free char *name = util_printf("%d.db", i);
        put_database(name);
        wd[i] = new_watched(name);
        watch_add(watch, wd[i], never, NULL);
    }
    run_ms(100);
    forget();
    watch_look(watch, 1, 10);
    run_ms(100);
    assert_within(seen[WATCH_NAME], 100, 120);
    for (int i = 0; i < 10; i++)
        watch_look(watch, 1, 10);
    run_ms(200);
    assert_true(seen[WATCH_NAME] >= N);
    for (int i = 0; i < N; i++)
        drop(wd[i]);
}

static void a_directory_that_was_replaced_is_watched_again(void **state)
{
    (void)state;
    cleanup_free char *dir = in_root("d"), *moved = in_root("moved"), *sub = in_root("d/s");
    assert_int_equal(mkdir(dir, 0700) + mkdir(sub, 0700), 0);
    put_database("d/s/a.db");
    struct watched *wd = new_watched("d/s/a.db");
    add(wd, NULL);
    /* the parent is renamed: nobody tells about the directory itself */
    assert_int_equal(rename(dir, moved), 0);
    assert_int_equal(mkdir(dir, 0700) + mkdir(sub, 0700), 0);
    put_database("d/s/a.db");
    watch_look(watch, 1, 1);
    for (int i = 0; i < 1000 && seen[WATCH_NAME] < 2; i++)
        run_ms(5); /* another file, and another directory */
    assert_true(seen[WATCH_NAME] >= 2);
    forget();
    append("d/s/a.db");
    run_ms(60);
    assert_int_equal(seen[WATCH_FILE], 1);
    drop(wd);
}

static void twenty_thousand_databases(void **state)
{
    (void)state;
    enum { N = 20000 };
    static struct watched *wd[N];
    const struct scan_mark none[2] = {{0}, {0}};
    uint64_t start = clk_mono_ms();
    for (int i = 0; i < N; i++) {
        cleanup_free char *name = util_printf("%d.db", i); /* there is no such file */
        wd[i] = new_watched(name);
        watch_add(watch, wd[i], none, NULL);
    }
    for (int i = N; i-- > 0;)
        drop(wd[i]);
    assert_true(clk_mono_ms() - start <= 5000);
    assert_int_equal(watch_counters(watch)->directories, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(only_what_matters_is_listed_and_only_databases_are_databases),
        T(reading_a_header_drops_no_lock_of_the_process),
        T(events_go_to_the_database_they_are_about),
        T(the_safety_scan_finds_what_nothing_announced),
        T(a_write_in_the_grain_of_the_clock_is_found_later),
        T(a_look_is_spread_over_the_interval),
        T(a_directory_that_was_replaced_is_watched_again),
        T(twenty_thousand_databases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
