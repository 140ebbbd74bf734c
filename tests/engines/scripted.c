/* scripted - a life of walsup with one database, to be ended at any moment from outside.
 *
 *   scripted make DIR ACKS           the database
 *   scripted run DIR ACKS            load, attach, capture, checkpoint cycle, snapshot, ship, detach, ...
 *   scripted cut DIR ACKS K MOUNT    the same; at step K the file system MOUNT loses its power
 *   scripted recover DIR ACKS        what the next process does; exit status 0: everything is there
 *
 * ACKS is the ledger: states that were committed, TXIDs that were in the spool. For `cut` it is on
 * another file system. SCRIPTED=no-fsync: walsup's fsyncs do nothing; =off: the application does not
 * sync either, so that a cut may take back what it committed. */
#include <fcntl.h>
#include <sys/ioctl.h>

#include "tests/explorer/steps.h"
#include "tests/explorer/world.h"

#define BEGIN_MARK "/walsup-scripted-begins"
#define FS_IOC_SHUTDOWN _IOR('X', 125, unsigned int) /* of ext4, xfs and f2fs */
enum { SHUTDOWN_NO_FLUSH = 2 };

static bool app_syncs = true;

static void job(const struct source_job *j)
{
    world_job(j);
    if (world.violation[0]) {
        printf("scripted: %s\n", world.violation);
        exit(3);
    }
}

static void sync_mode(void)
{
    world_sql("pragma synchronous=%s", app_syncs ? "full" : "off");
}

static void life(void)
{
    sync_mode();
    world_source(1u << 30, 1u << 30);
    job(&(struct source_job){.capture = true});
    world_sql("insert into t(b) values(randomblob(500))");
    world_sql("update t set b=randomblob(200) where a%%3=1");
    job(&(struct source_job){.capture = true});
    world_sql("insert into t(b) values(randomblob(20000))");
    job(&(struct source_job){.capture = true});
    world_sql("delete from t where a%%4=0");
    job(&(struct source_job){.capture = true});
    job(&(struct source_job){.settle = true});
    world_sql("insert into t(b) values(randomblob(800))");
    job(&(struct source_job){.capture = true, .snapshot = true});
    world_ship();
    world_sql("vacuum");
    job(&(struct source_job){.capture = true});
    world_sql("insert into t(b) values(randomblob(300))");
    world_sql("pragma wal_checkpoint(truncate)");
    job(&(struct source_job){.capture = true, .settle = true});
    job(&(struct source_job){.detach = true});
    world_sql("insert into t(b) values(randomblob(900))");
    job(&(struct source_job){.capture = true});
    job(&(struct source_job){.capture = true, .settle = true});
    world_ship();
    job(&(struct source_job){.detach = true});
    world_app_close();
    world_sql("update t set b=randomblob(150) where a%%5=1");
    world.s = source_free(world.s);
}

static int recover(void)
{
    world.may_break = true;
    world_source(1u << 30, 1u << 30);
    world_quiet();
    world_judge();
    if (!world.violation[0]) {
        world_afterlife();
        world_judge();
    }
    if (world.violation[0])
        printf("violation: %s\n", world.violation);
    bool bad = world.violation[0] != '\0';
    world_end();
    return bad;
}

static unsigned cut_at;
static const char *cut_mount;

static int at_step(unsigned n, const char *what)
{
    (void)what;
    if (n != cut_at)
        return 0;
    unsigned flag = SHUTDOWN_NO_FLUSH;
    int fd = open(cut_mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, FS_IOC_SHUTDOWN, &flag) < 0) {
        perror(cut_mount);
        _exit(2);
    }
    _exit(9);
}

static int not_a_command(void)
{
    (void)fprintf(stderr, "scripted make|run|cut|recover DIR ACKS [K MOUNT]\n");
    return 2;
}

int main(int argc, char **argv)
{
    const char *mode = getenv("SCRIPTED");
    if (argc < 4)
        return not_a_command();
    app_syncs = !mode || strcmp(mode, "off") != 0;
    world.may_lose = !app_syncs;
    steps_fsync_lies = mode && !strcmp(mode, "no-fsync");
    bool make = !strcmp(argv[1], "make");
    if (!make && !strcmp(argv[1], "run"))
        (void)access(BEGIN_MARK, F_OK); /* seen by strace: what comes before is not ours */
    world_adopt(argv[2], argv[3], make);
    if (make) {
        world_app_close();
        return world.violation[0] != '\0';
    }
    if (!strcmp(argv[1], "recover"))
        return recover();
    if (!strcmp(argv[1], "cut") && argc == 6) {
        cut_at = (unsigned)strtoul(argv[4], NULL, 10);
        cut_mount = argv[5];
        steps_arm(at_step);
    } else if (strcmp(argv[1], "run") != 0) {
        return not_a_command();
    }
    life();
    printf("steps %u\n", steps_disarm());
    return 0;
}
