#include "tests/explorer/actions.h"

#include <stdio.h>

#include "tests/explorer/steps.h"
#include "tests/explorer/world.h"

static void commit(void)
{
    world_sql("insert into t(b) values(randomblob(400))");
}

/* 1000 pages in one transaction, most of them in the WAL before it is committed */
static void big(void)
{
    world_sql("insert into t(b) values(randomblob(500000))");
}

static void spilled_rollback(void)
{
    world_sql("begin immediate; update t set b=randomblob(450); rollback");
}

static void passive(void)
{
    world_sql("pragma wal_checkpoint(passive)");
}

static void full(void)
{
    world_sql("pragma wal_checkpoint(full)");
}

static void restart(void)
{
    world_sql("pragma wal_checkpoint(restart)");
}

static void truncate_wal(void)
{
    world_sql("pragma wal_checkpoint(truncate)");
}

static void vacuum(void)
{
    world_sql("delete from t where a%%2=0");
    world_sql("vacuum");
}

static void growth(void)
{
    for (int i = 0; i < 5; i++)
        world_sql("insert into t(b) values(randomblob(3000))");
}

static void commit_copy_commit(void)
{
    commit();
    passive();
    world_sql("update t set b=randomblob(100) where a<10");
}

/* Whatever is not held makes this one overwrite the WAL, twice. */
static void restarts(void)
{
    for (int i = 0; i < 3; i++) {
        world_sql("update t set b=randomblob(%d) where a%%3=%d", 100 + 50 * i, i);
        restart();
    }
    commit();
}

/* A page that is freed, dropped, and comes back by growth without a frame of its own. */
static void shrink_and_grow(void)
{
    world_sql("delete from t where a>15");
    world_sql("vacuum");
    passive();
    world_sql("insert into t(b) values(zeroblob(6000))");
}

static void last_close(void)
{
    (void)sqlite3_close(world.reader);
    world.reader = NULL;
    world_app_close();
    commit();
}

static void rollback_journal_and_back(void)
{
    if (world_sql("pragma journal_mode=delete")) {
        world.may_break = true;
        commit();
    }
    world_sql("pragma journal_mode=wal");
}

/* As it is done properly: a finished database, nothing of the old one beside it. The application is another
 * process then: two files that share one -shm within one process would not see each other's locks. */
static void replace_by(const char *how)
{
    cleanup_free char *other = util_printf("%s/b.db", world.dir);
    cleanup_free char *sql = util_printf("vacuum into '%s'", other);
    world_app_open();
    if (!world.app || sqlite3_exec(world.app, sql, NULL, NULL, NULL) != SQLITE_OK)
        return;
    world_app_close();
    (void)sqlite3_close(world.reader);
    world.reader = NULL;
    sqlite3 *d;
    if (sqlite3_open_v2(other, &d, SQLITE_OPEN_READWRITE, STEPS_APP_VFS) == SQLITE_OK)
        (void)sqlite3_exec(d, "pragma journal_mode=wal; delete from t where a%3=1", NULL, NULL, NULL);
    (void)sqlite3_close(d);
    cleanup_free char *wal = util_printf("%s-wal", world.db), *shm = util_printf("%s-shm", world.db);
    (void)unlink(wal);
    (void)unlink(shm);
    (void)rename(other, world.db);
    world.may_break = world.any_error = world.elsewhere = true;
    world_child(how);
}

static void replace(void)
{
    replace_by(CHILD_DIES);
}

static void replace_live(void)
{
    replace_by(CHILD_STAYS);
}

static void long_reader(void)
{
    if (world.reader || world.elsewhere)
        return;
    if (sqlite3_open_v2(world.db, &world.reader, SQLITE_OPEN_READWRITE, STEPS_APP_VFS) == SQLITE_OK)
        (void)sqlite3_exec(world.reader, "begin; select count(*) from t", NULL, NULL, NULL);
    commit();
}

static void crash(void)
{
    if (world.elsewhere)
        return;
    world_child(CHILD_CRASHES);
}

const struct action actions[] = {
    {"commit", commit},
    {"big-commit", big},
    {"rollback", spilled_rollback},
    {"passive", passive},
    {"full", full},
    {"restart", restart},
    {"truncate", truncate_wal},
    {"vacuum", vacuum},
    {"growth", growth},
    {"commit-copy-commit", commit_copy_commit},
    {"restarts", restarts},
    {"shrink-and-grow", shrink_and_grow},
    {"last-close", last_close},
    {"journal-and-back", rollback_journal_and_back},
    {"replace", replace},
    {"replace-live", replace_live},
    {"long-reader", long_reader},
    {"crash", crash},
};
const size_t n_actions = ARRAY_LEN(actions);
