/* reset_race - SQLite's WAL-reset bug (up to 3.51.2) against walsup's own session and source.
 *
 *   reset_race [--control]
 *
 * A checkpoint that has looked at the wal-index, and is overtaken by a commit which restarts the WAL,
 * counts old frames as copied in the new WAL: the frames of that count are lost. Here everything is
 * copied, so that the next writer may restart the WAL; then walsup checkpoints, and the application
 * commits at step k of it, for every k; then the application outgrows the old WAL and checkpoints. The
 * guard has to make that harmless (W4 of daemon/DESIGN.md): with a guard begun before the copying
 * (slot >= 1), with one begun after it (slot 0), and in a whole job of the source.
 * --application: somebody else checkpoints, with a second connection of its own; the application commits
 * at step k of that, and walsup moves its guard at a later one. Only told: what an affected SQLite does to
 * its own database is not for walsup to prevent, and takes one coincidence less without walsup.
 * --control: the same without taking the guards' locks, which must damage the database, unless this
 * SQLite has the bug no more. */
#include "common/base/clk.h"
#include "tests/explorer/steps.h"
#include "tests/explorer/world.h"

enum { ROWS_BEFORE = 60, ROWS_AFTER = 120, FIXED_VERSION = 3051003 };
enum how { SLOT_ONE, SLOT_ZERO, SOURCE, N_HOW };

static unsigned commit_at, move_at, committed;

static int at_step(unsigned n, const char *what)
{
    (void)what;
    if (n == commit_at)
        committed += world_sql("insert into t(b) values(randomblob(10))");
    if (n == move_at)
        world_job(&(struct source_job){.assist = true});
    return 0;
}

static void rows(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        committed += world_sql("insert into t(b) values(randomblob(1500))");
}

static void must(int r, const char *what, const struct err *e)
{
    if (r == 0)
        return;
    (void)fprintf(stderr, "reset_race: %s: %d %s\n", what, r, r < 0 ? e->msg : "");
    exit(2);
}

static void guard_anew(struct session *s)
{
    struct err e;
    must(session_guard_next(s, &e), "guard", &e);
    session_guard_switch(s);
}

/* How many steps the checkpoint has. */
static unsigned with_session(enum how how)
{
    struct session *s = NULL;
    struct err e;
    bool all;
    must(session_open(world.db, &s, &e), "session_open", &e);
    /* a connection that has checkpointed before: only to that one is the wal-index news, and in between lies
     * the step at which it can be overtaken */
    must(session_passive(s, &all, &e), "session_passive", &e);
    rows(ROWS_BEFORE);
    guard_anew(s);
    world_sql("pragma wal_checkpoint(passive)");
    if (how == SLOT_ZERO)
        guard_anew(s);
    steps_arm(at_step);
    int r = session_passive(s, &all, &e);
    unsigned n = steps_disarm();
    must(r == SESSION_BUSY ? 0 : r, "session_passive", &e);
    rows(ROWS_AFTER);
    world_sql("pragma wal_checkpoint(passive)");
    (void)session_close(s);
    return n;
}

static unsigned with_source(void)
{
    rows(3);
    world_source(1u << 30, 1u << 30);
    world.may_break = true; /* in the control */
    world_job(&(struct source_job){.capture = true, .settle = true});
    rows(ROWS_BEFORE);
    world_job(&(struct source_job){.capture = true});
    world_sql("pragma wal_checkpoint(passive)");
    steps_arm(at_step);
    world_job(&(struct source_job){.settle = true});
    unsigned n = steps_disarm();
    rows(ROWS_AFTER);
    world_sql("pragma wal_checkpoint(passive)");
    return n;
}

static long long number(sqlite3 *d, const char *sql)
{
    sqlite3_stmt *st = NULL;
    long long v = -1;
    if (sqlite3_prepare_v2(d, sql, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
        v = sqlite3_column_int64(st, 0);
    (void)sqlite3_finalize(st);
    return v;
}

/* By a connection that has cached nothing. */
static bool damaged(void)
{
    world_app_close();
    world_app_open();
    return !world.app || number(world.app, "select count(*) from t not indexed") != (long long)committed + 30 ||
           number(world.app, "select count(*) from pragma_integrity_check where integrity_check='ok'") != 1 ||
           world.violation[0];
}

/* The checkpointer is the connection whose steps are numbered. */
static unsigned with_application(void)
{
    sqlite3 *other;
    rows(3);
    world_source(1u << 30, 1u << 30);
    world_job(&(struct source_job){.capture = true});
    if (sqlite3_open(world.db, &other) != SQLITE_OK)
        exit(2);
    (void)number(other, "select count(*) from t");
    rows(ROWS_BEFORE);
    world_job(&(struct source_job){.capture = true});
    world_sql("pragma wal_checkpoint(passive)");
    world_job(&(struct source_job){.assist = true}); /* the guard in slot 0 */
    steps_arm(at_step);
    (void)sqlite3_wal_checkpoint_v2(other, "main", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    unsigned n = steps_disarm();
    (void)sqlite3_close(other);
    rows(ROWS_AFTER);
    world_sql("pragma wal_checkpoint(passive)");
    return n;
}

static int application(void)
{
    unsigned n_runs = 0, n_damaged = 0, first_commit = 0, first_move = 0;
    for (unsigned n = 1, k = 0; k <= n; k++)
        for (unsigned m = k; m <= n + 12; m++) {
            world_begin(1);
            committed = 0;
            commit_at = k;
            move_at = m;
            world.any_error = world.may_break = true;
            unsigned steps = with_application();
            n = MAX(n, steps);
            n_runs++;
            if (damaged()) {
                n_damaged++;
                first_commit = first_commit ? first_commit : k;
                first_move = first_move ? first_move : m;
            }
            world_end();
        }
    printf("reset_race: SQLite %s: an application's own checkpoint, a commit and a move of the guard within: "
           "%u runs, %u damaged (first: commit at step %u, move at %u)\n",
           sqlite3_libversion(), n_runs, n_damaged, first_commit, first_move);
    return !n_runs;
}

int main(int argc, char **argv)
{
    bool control = argc > 1 && !strcmp(argv[1], "--control");
    unsigned n_runs = 0, n_damaged = 0, first = 0;
    uint64_t start = clk_mono_ms();
    steps_no_guard = control;
    world_setup(NULL);
    if (argc > 1 && !strcmp(argv[1], "--application"))
        return application();
    for (int how = 0; how < N_HOW; how++)
        for (unsigned n = 1, k = 0; k <= n; k++) { /* 0: no commit, which tells the number of steps */
            world_begin(1);
            committed = 0;
            commit_at = k;
            unsigned steps = how == SOURCE ? with_source() : with_session((enum how)how);
            n = k ? n : steps;
            n_runs++;
            if (damaged()) {
                n_damaged++;
                first = first ? first : k;
                if (!control)
                    printf("violation: reset_race: schedule %d, commit at step %u: %s\n", how, k,
                           world.violation[0] ? world.violation : "rows lost or integrity");
            }
            world_end();
        }
    printf("reset_race: SQLite %s%s: %u schedules, %u runs, %u damaged (first at step %u), %.1f s\n",
           sqlite3_libversion(), control ? " without guards" : "", N_HOW, n_runs, n_damaged, first,
           (double)(clk_mono_ms() - start) / 1e3);
    if (n_runs <= N_HOW)
        return 1;
    if (control && !n_damaged && sqlite3_libversion_number() >= FIXED_VERSION) {
        printf("reset_race: this SQLite has the bug no more; the control has nothing to show\n");
        return 0;
    }
    return control ? !n_damaged : n_damaged > 0;
}
