#include "tests/explorer/ops.h"

#define BIG (1ull << 30)
#define CAPTURE {.capture = true}

/* ---- operations ------------------------------------------------------------------------------- */

static void some_commits(void)
{
    world_sql("insert into t(b) values(randomblob(350))");
    world_sql("update t set b=randomblob(280) where a%%4=1");
    world_sql("insert into t(b) values(randomblob(50))");
}

static void attached(uint64_t checkpoint_pages, uint64_t wal_limit)
{
    some_commits();
    world_source(checkpoint_pages, wal_limit);
    world_job(&(struct source_job)CAPTURE);
}

static void drained(void)
{
    attached(BIG, BIG);
    world_job(&(struct source_job){.capture = true, .settle = true});
}

static void fresh(void)
{
    some_commits();
    world_source(BIG, BIG);
}

static void fresh_copied(void)
{
    some_commits();
    world_sql("pragma wal_checkpoint(passive)");
    world_source(BIG, BIG);
}

static void fresh_alone(void)
{
    some_commits();
    world_app_close(); /* the last one: WAL copied and removed */
    world_source(BIG, BIG);
}

static void behind(void)
{
    attached(BIG, BIG);
    some_commits();
}

static void behind_small_cycle(void)
{
    attached(1, BIG);
    some_commits();
}

static void behind_small_limit(void)
{
    attached(BIG, 1);
    some_commits();
}

static void restarted(void)
{
    drained();
    some_commits();
}

static void restarted_small_cycle(void)
{
    restarted();
    world.conf.checkpoint_pages = 1;
    source_reconf(world.s, &world.conf);
}

static void detached(void)
{
    drained();
    world_job(&(struct source_job){.detach = true});
}

static void detached_then_changed(void)
{
    detached();
    some_commits();
    world_sql("pragma wal_checkpoint(truncate)");
    some_commits();
}

static void detached_then_more(void)
{
    detached();
    some_commits();
}

/* as after a kill: no word of farewell */
static void restarted_daemon(void)
{
    behind();
    world_source(BIG, BIG);
}

static void restarted_daemon_debris(void)
{
    cleanup_free char *l0 = util_printf("%s/l0/x.tmp-0123456789abcdef", world.spool);
    cleanup_free char *base = util_printf("%s/snapshot/x", world.spool);
    restarted_daemon();
    (void)fsx_publish(l0, "x", 1, 0600, FSX_NOSYNC, NULL);
    (void)fsx_publish(base, "x", 1, 0600, FSX_NOSYNC, NULL);
}

static void restarted_daemon_copied(void)
{
    attached(BIG, BIG);
    world_source(BIG, BIG);
    some_commits();
    world_sql("pragma wal_checkpoint(passive)");
}

static void no_record(void)
{
    drained();
    some_commits();
    world_source(BIG, BIG);
    cleanup_free char *path = util_printf("%s/position", world.spool);
    (void)unlink(path);
    world_sql("pragma wal_checkpoint(restart)");
    world_sql("update t set b=randomblob(90) where a%%6=1");
}

const struct op ops[] = {
    {"load", restarted_daemon_debris, {.load = true}, false, false},
    {"attach", fresh, CAPTURE, false, false},
    {"attach-copied", fresh_copied, CAPTURE, false, false},
    {"attach-alone", fresh_alone, CAPTURE, false, false},
    {"capture", behind, CAPTURE, true, false},
    {"capture-restarted", restarted, CAPTURE, true, false},
    {"capture-nothing", drained, CAPTURE, true, false},
    {"look", behind, {.load = false}, true, false},
    {"look-drained", drained, {.load = false}, true, false},
    {"look-restarted", restarted, {.load = false}, true, false},
    {"assist", behind, {.assist = true}, true, false},
    {"settle", behind, {.capture = true, .settle = true}, true, false},
    {"settle-restarted", restarted, {.settle = true}, true, false},
    {"cycle", behind_small_cycle, CAPTURE, true, false},
    {"cycle-restarted", restarted_small_cycle, CAPTURE, true, false},
    {"barrier", behind_small_limit, CAPTURE, true, false},
    {"snapshot", behind, {.capture = true, .snapshot = true}, true, false},
    {"snapshot-drained", drained, {.snapshot = true}, true, false},
    {"detach", behind, {.detach = true}, true, true},
    {"detach-drained", drained, {.detach = true}, true, true},
    {"reattach", detached, CAPTURE, false, true},
    {"reattach-more", detached_then_more, CAPTURE, false, true},
    {"reattach-changed", detached_then_changed, CAPTURE, false, true},
    {"restart", restarted_daemon, CAPTURE, false, false},
    {"restart-copied", restarted_daemon_copied, CAPTURE, false, false},
    {"resync", no_record, CAPTURE, false, false},
};
const unsigned n_ops = ARRAY_LEN(ops);
