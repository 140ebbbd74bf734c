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

static void no_record_no_map(void)
{
    no_record();
    cleanup_free char *path = util_printf("%s/pagemap", world.spool);
    (void)unlink(path);
}

const struct op ops[] = {
    {"load", restarted_daemon_debris, {.load = true}, 0},
    {"attach", fresh, CAPTURE, 0},
    {"attach-copied", fresh_copied, CAPTURE, 0},
    {"attach-alone", fresh_alone, CAPTURE, 0},
    {"capture", behind, CAPTURE, KEPT},
    {"capture-restarted", restarted, CAPTURE, KEPT},
    {"capture-nothing", drained, CAPTURE, KEPT},
    {"look", behind, {.load = false}, KEPT},
    {"look-drained", drained, {.load = false}, KEPT},
    {"look-restarted", restarted, {.load = false}, KEPT},
    {"assist", behind, {.assist = true}, KEPT},
    {"settle", behind, {.capture = true, .settle = true}, KEPT},
    {"settle-restarted", restarted, {.settle = true}, KEPT},
    {"cycle", behind_small_cycle, CAPTURE, KEPT},
    {"cycle-restarted", restarted_small_cycle, CAPTURE, KEPT},
    {"barrier", behind_small_limit, CAPTURE, KEPT},
    {"snapshot", behind, {.capture = true, .snapshot = true}, KEPT},
    {"snapshot-drained", drained, {.snapshot = true}, KEPT},
    {"detach", behind, {.detach = true}, KEPT | SLOW},
    {"detach-drained", drained, {.detach = true}, KEPT | SLOW},
    {"reattach", detached, CAPTURE, SLOW},
    {"reattach-more", detached_then_more, CAPTURE, SLOW},
    {"reattach-changed", detached_then_changed, CAPTURE, SLOW},
    {"doze", detached, {.doze = true}, SLOW},
    {"doze-more", detached_then_more, {.capture = true, .doze = true}, SLOW | AWAKE},
    {"doze-changed", detached_then_changed, {.doze = true}, SLOW | AWAKE},
    {"restart", restarted_daemon, CAPTURE, 0},
    {"restart-copied", restarted_daemon_copied, CAPTURE, 0},
    {"resync", no_record, CAPTURE, 0},
    {"resync-no-map", no_record_no_map, CAPTURE, 0},
    {"new-lineage", behind, {.capture = true, .new_lineage = true}, KEPT},
};
const unsigned n_ops = ARRAY_LEN(ops);
