/* One database on a loop of its own, led by events as the watch would send them. */
#include "tests/unit/db_harness.h"

#include "common/base/clk.h"
#include "daemon/core/database_int.h"

#define WRITE_EVERY_MS 5
#define ANSWER_MS 3 /* the watch's worker: events are back so long after they were asked for */
#define IDLE_MS 400

static uv_loop_t loop;
static struct {
    struct database *db;
    uv_timer_t writes, answer;
    uint64_t until_ms;
    unsigned hushed, heard;
} now_on;

/* as watch_take_wd(): what was written without an event is told when the events are back */
static void on_answer(uv_timer_t *t)
{
    (void)t;
    database_event(now_on.db, WATCH_WAL);
}

static bool on_hush(struct database *db, bool on)
{
    (void)db;
    now_on.hushed += on;
    now_on.heard += !on;
    if (!on)
        (void)uv_timer_start(&now_on.answer, on_answer, ANSWER_MS, 0);
    return on;
}

static void on_write(uv_timer_t *t)
{
    if (clk_mono_ms() >= now_on.until_ms)
        (void)uv_timer_stop(t);
    else if (!now_on.db->hushed)
        database_event(now_on.db, WATCH_WAL);
}

/* the loop turns until it is so, or fails */
static void until(bool (*so)(void), const char *what)
{
    uint64_t end = clk_mono_ms() + 20000;
    while (!so()) {
        (void)uv_run(&loop, UV_RUN_ONCE);
        if (clk_mono_ms() > end)
            fail_msg("never: %s", what);
    }
}

static bool is_attached(void)
{
    return now_on.db->state == SOURCE_ATTACHED && !now_on.db->run;
}

static bool is_hushed(void)
{
    return now_on.hushed == 1;
}

static bool is_asleep(void)
{
    return now_on.db->state == SOURCE_ASLEEP && !now_on.db->run;
}

static void on_closed(struct database *db, void *arg)
{
    (void)db;
    *(bool *)arg = true;
}

static void begin(struct tdb *t)
{
    tdb_new(t, 4096);
    assert_int_equal(sqlite3_close(t->app), SQLITE_OK);
    t->app = NULL;
    cleanup_free char *dir = util_printf("%s/state", t->dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    struct source_conf sc = {
        .path = t->path, .dir = dir, .checkpoint_pages = 1000, .wal_limit_bytes = 1 << 20};
    struct database_conf dc = {.scan_ms = 60000, .idle_ms = IDLE_MS, .spool_limit_bytes = 1 << 20};
    memset(&now_on, 0, sizeof now_on);
    assert_int_equal(uv_loop_init(&loop), 0);
    now_on.db = database_new(&loop, "a", &sc, &dc, NULL, 0);
    now_on.db->hush = on_hush;
    (void)uv_timer_init(&loop, &now_on.writes);
    (void)uv_timer_init(&loop, &now_on.answer);
    database_start(now_on.db);
}

static void end(struct tdb *t)
{
    bool closed = false;
    uv_close((uv_handle_t *)&now_on.writes, NULL);
    uv_close((uv_handle_t *)&now_on.answer, NULL);
    database_close(now_on.db, on_closed, &closed);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(closed);
    assert_int_equal(uv_loop_close(&loop), 0);
    tdb_done(t);
}

static void a_busy_database_asks_for_no_events_and_sleeps_when_it_is_quiet(void **state)
{
    (void)state;
    struct tdb t;
    begin(&t);
    until(is_attached, "it is attached");
    now_on.until_ms = clk_mono_ms() + 10000;
    (void)uv_timer_start(&now_on.writes, on_write, WRITE_EVERY_MS, WRITE_EVERY_MS);
    until(is_hushed, "its own look is cheaper than events");
    now_on.until_ms = 0;
    until(is_asleep, "it sleeps");
    assert_int_equal(now_on.hushed, 1); /* the event that was told late is not the next busy time */
    assert_int_equal(now_on.heard, 1);
    end(&t);
}

static void two_events_after_its_first_look_do_not_make_it_busy(void **state)
{
    (void)state;
    struct tdb t;
    begin(&t);
    until(is_attached, "it is attached");
    database_event(now_on.db, WATCH_WAL);
    database_event(now_on.db, WATCH_WAL);
    assert_int_equal(now_on.hushed, 0);
    until(is_asleep, "it sleeps");
    assert_int_equal(now_on.hushed, 0);
    end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_busy_database_asks_for_no_events_and_sleeps_when_it_is_quiet),
        cmocka_unit_test(two_events_after_its_first_look_do_not_make_it_busy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
