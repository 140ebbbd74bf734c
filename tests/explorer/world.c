#include "tests/explorer/world.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "common/format/crc64.h"
#include "tests/explorer/apart.h"
#include "tests/explorer/steps.h"

struct world world = {.acks = -1};

static struct buf template;

static void die(const char *what, const char *why)
{
    (void)fprintf(stderr, "world: %s: %s\n", what, why);
    exit(2);
}

void world_violation(const char *fmt, ...)
{
    if (world.violation[0])
        return;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(world.violation, sizeof world.violation, fmt, ap);
    va_end(ap);
}

/* ---- files ------------------------------------------------------------------------------------ */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    return ftw->level ? remove(path) : 0;
}

static void empty_dir(void)
{
    (void)nftw(world.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void must(sqlite3 *d, const char *sql)
{
    if (sqlite3_exec(d, sql, NULL, NULL, NULL) != SQLITE_OK)
        die(sql, sqlite3_errmsg(d));
}

static void make_template(void)
{
    sqlite3 *d;
    struct err e;
    if (sqlite3_open_v2(world.db, &d, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, STEPS_APP_VFS))
        die("create", world.db);
    must(d, "pragma page_size=512; pragma journal_mode=wal; create table t(a integer primary key, b);"
            "create index i on t(length(b));"
            "with recursive c(x) as (select 1 union all select x + 1 from c where x < 30) "
            "insert into t select x, randomblob(300) from c");
    (void)sqlite3_close(d);
    if (fsx_read(world.db, SIZE_MAX, &template, &e) < 0)
        die("template", e.msg);
}

static void remove_all(void)
{
    empty_dir();
    (void)rmdir(world.dir);
    free(world.db);
    free(world.spool);
    free(world.replica);
    free(world.state);
    buf_free(&template);
}

void world_setup(const char *in)
{
    struct err e;
    if (session_setup(&e) < 0)
        die("session_setup", e.msg);
    steps_install();
    const char *tmp = getenv("TMPDIR");
    if (!in)
        in = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : tmp ? tmp : "/tmp";
    (void)snprintf(world.dir, sizeof world.dir, "%s/walsup-worldXXXXXX", in);
    if (!mkdtemp(world.dir))
        die(world.dir, strerror(errno));
    world.db = util_printf("%s/a.db", world.dir);
    world.spool = util_printf("%s/spool", world.dir);
    make_template();
    (void)atexit(remove_all);
}

/* ---- the application -------------------------------------------------------------------------- */

/* SQLITE_PROTOCOL: the patience of an application is over that waited for somebody else's recovery,
 * who stands still because this is all one thread. */
static bool is_busy(int rc)
{
    return (rc & 0xff) == SQLITE_BUSY || (rc & 0xff) == SQLITE_LOCKED || rc == SQLITE_PROTOCOL;
}

void world_app_open(void)
{
    if (world.apart) {
        (void)apart_open(apart_app, 0);
        return;
    }
    if (world.app || world.elsewhere)
        return;
    if (sqlite3_open_v2(world.db, &world.app, SQLITE_OPEN_READWRITE, STEPS_APP_VFS) != SQLITE_OK)
        die("open", world.db);
    /* few pages in memory: transactions spill into the WAL, and rolled back ones leave frames there */
    int rc = sqlite3_exec(world.app,
                          "pragma wal_autocheckpoint=0; pragma synchronous=off; pragma cache_size=10",
                          NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        return;
    if (!is_busy(rc))
        world_violation("the application: open: %s", sqlite3_errmsg(world.app));
    world.n_busy++;
    world_app_close(); /* it tries again with its next statement */
}

void world_app_close(void)
{
    if (world.apart) {
        (void)apart_close(apart_app, 0);
        return;
    }
    (void)sqlite3_close(world.app);
    world.app = NULL;
}

/* Everything that a reader who begins now sees; to be freed with sqlite3_free. */
uint8_t *world_image(sqlite3 *d, sqlite3_int64 *ret_bytes)
{
    int rc = sqlite3_exec(d, "begin; select count(*) from sqlite_master", NULL, NULL, NULL);
    uint8_t *p = rc == SQLITE_OK ? sqlite3_serialize(d, "main", ret_bytes, 0) : NULL;
    if (!p && rc != SQLITE_OK && !is_busy(rc))
        world_violation("a reader: %s", sqlite3_errmsg(d));
    (void)sqlite3_exec(d, "rollback", NULL, NULL, NULL);
    return p;
}

static bool image_hash(sqlite3 *d, uint64_t *ret)
{
    sqlite3_int64 bytes = 0;
    uint8_t *p = d ? world_image(d, &bytes) : NULL;
    if (!p)
        return false;
    *ret = crc64(0, p, (size_t)bytes);
    sqlite3_free(p);
    return true;
}

/* By one write, without a sync: whoever kills this process leaves the kernel alive. */
static void note(char what, uint64_t value)
{
    char line[32];
    int n = snprintf(line, sizeof line, "%c %016llx\n", what, (unsigned long long)value);
    if (world.acks >= 0 && write(world.acks, line, (size_t)n) != n)
        die("acks", strerror(errno));
}

void world_note_state(uint64_t hash)
{
    if (world.n_states && world.state[world.n_states - 1] == hash)
        return;
    if (world.n_states == world.states_cap) {
        world.states_cap = world.states_cap ? world.states_cap * 2 : 64;
        world.state = util_realloc(world.state, world.states_cap * sizeof *world.state);
    }
    world.state[world.n_states++] = hash;
    note('s', hash);
}

static bool hash_now(uint64_t *ret)
{
    return world.apart ? apart_hash(apart_app, ret) : image_hash(world.app, ret);
}

void world_record(void)
{
    uint64_t hash;
    if (hash_now(&hash))
        world_note_state(hash);
    else
        world.hidden = true;
}

void world_settle(void)
{
    uint64_t hash;
    if (!world.unsettled)
        return;
    world.unsettled = false;
    world_app_open();
    if (!hash_now(&hash)) {
        world.hidden = true;
        return;
    }
    for (size_t i = 0; i + 1 < world.n_states; i++)
        if (world.state[i] == hash)
            world_violation("the application lost commits: state %zu of %zu", i + 1, world.n_states);
    world_note_state(hash);
}

bool world_sql(const char *fmt, ...)
{
    char sql[1000];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(sql, sizeof sql, fmt, ap);
    va_end(ap);
    world_settle();
    if (world.apart)
        return (apart_is_open(apart_app) || apart_open(apart_app, 0) == APART_DONE) &&
               apart_sql(apart_app, 0, sql) == APART_DONE;
    world_app_open();
    if (!world.app)
        return false; /* and nothing was committed */
    int rc = sqlite3_exec(world.app, sql, NULL, NULL, NULL);
    if (rc != SQLITE_OK && !is_busy(rc))
        world_violation("the application: %s: %s", sql, sqlite3_errmsg(world.app));
    world.n_busy += is_busy(rc);
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(world.app))
        (void)sqlite3_exec(world.app, "rollback", NULL, NULL, NULL);
    world_record();
    return rc == SQLITE_OK;
}

/* ---- another process -------------------------------------------------------------------------- */

static int child_main(const char *how, const char *path, int out)
{
    sqlite3 *d;
    uint64_t hash;
    steps_install();
    if (sqlite3_open_v2(path, &d, SQLITE_OPEN_READWRITE, STEPS_APP_VFS) != SQLITE_OK ||
        sqlite3_exec(d, "pragma wal_autocheckpoint=0; pragma synchronous=off; pragma cache_size=5", NULL,
                     NULL, NULL) != SQLITE_OK)
        return 1;
    if (!strcmp(how, CHILD_CRASHES))
        return sqlite3_exec(d, "begin immediate; update t set b=randomblob(350);"
                               "insert into t(b) values(randomblob(20000))", NULL, NULL, NULL);
    (void)sqlite3_exec(d, "insert into t(b) values(randomblob(2000))", NULL, NULL, NULL);
    if (!image_hash(d, &hash))
        return 1;
    int status = write(out, &hash, sizeof hash) != (ssize_t)sizeof hash;
    if (!strcmp(how, CHILD_STAYS))
        (void)pause();
    return status;
}

void world_child_main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "--child"))
        _exit(child_main(argv[2], argv[3], STDOUT_FILENO)); /* nothing is closed */
}

static void child_end(void)
{
    if (!world.child)
        return;
    (void)kill(world.child, SIGKILL);
    (void)waitpid(world.child, NULL, 0);
    world.child = 0;
}

void world_child(const char *how)
{
    child_end();
    char self[] = "/proc/self/exe", flag[] = "--child";
    cleanup_free char *mode = util_strdup(how);
    char *argv[] = {self, flag, mode, world.db, NULL};
    int ends[2];
    posix_spawn_file_actions_t fa;
    uint64_t hash = 0;
    if (pipe2(ends, O_CLOEXEC) < 0 || posix_spawn_file_actions_init(&fa) ||
        posix_spawn_file_actions_adddup2(&fa, ends[1], STDOUT_FILENO) ||
        posix_spawn(&world.child, argv[0], &fa, NULL, argv, environ))
        die("spawn", strerror(errno));
    (void)posix_spawn_file_actions_destroy(&fa);
    (void)close(ends[1]);
    if (read(ends[0], &hash, sizeof hash) == (ssize_t)sizeof hash)
        world_note_state(hash);
    else if (strcmp(how, CHILD_CRASHES) != 0)
        world.hidden = true;
    (void)close(ends[0]);
    if (!strcmp(how, CHILD_STAYS))
        return;
    (void)waitpid(world.child, NULL, 0);
    world.child = 0;
}

/* ---- a run ------------------------------------------------------------------------------------ */

/* The state that is there now: noted before, or committed by a process that died before it noted it. */
static void last_state(void)
{
    uint64_t hash;
    world_app_open();
    if (!image_hash(world.app, &hash)) {
        world_violation("the database cannot be read");
        return;
    }
    for (size_t i = 0; i + 1 < world.n_states; i++)
        if (world.state[i] == hash && !world.may_lose)
            world_violation("the application lost commits: state %zu of %zu", i + 1, world.n_states);
    world_note_state(hash);
}

void world_adopt(const char *dir, const char *acks, bool make)
{
    struct err e;
    char what;
    unsigned long long value;
    if (session_setup(&e) < 0)
        die("session_setup", e.msg);
    steps_install();
    (void)snprintf(world.dir, sizeof world.dir, "%s", dir);
    world.db = util_printf("%s/a.db", dir);
    world.spool = util_printf("%s/spool", dir);
    world.replica = util_printf("%s/replica", dir);
    if (make) {
        cleanup_free char *l0 = util_printf("%s/l0", world.replica);
        if (fsx_mkdirs(l0, 0700, &e) < 0)
            die("make", e.msg);
        make_template();
    }
    cleanup_file FILE *f = fopen(acks, "r");
    while (f && fscanf(f, "%c %llx\n", &what, &value) == 2) {
        if (what == 's')
            world_note_state(value);
        else
            world.acked_txid = MAX(world.acked_txid, value);
    }
    world.acks = open(acks, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (world.acks < 0)
        die(acks, strerror(errno));
    last_state();
}

void world_begin(uint64_t seed)
{
    empty_dir();
    steps_begin(seed);
    world.n_begun++;
    struct err e;
    if (fsx_publish(world.db, template.p, template.len, 0644, FSX_NOSYNC, &e) < 0)
        die("copy the template", e.msg);
    world.n_states = 0;
    world.acked_txid = 0;
    world.any_error = world.may_break = world.hidden = world.elsewhere = false;
    world.unsettled = false;
    world.apart = world.always_apart;
    world.violation[0] = '\0';
    world_app_open();
    world_record();
}

void world_end(void)
{
    world.s = source_free(world.s);
    (void)sqlite3_close(world.reader);
    world.reader = NULL;
    world_app_close();
    child_end();
    apart_kill(apart_app);
    apart_kill(apart_other);
}

void world_source(uint64_t checkpoint_pages, uint64_t wal_limit_bytes)
{
    world.s = source_free(world.s);
    world.conf = (struct source_conf){.path = world.db,
                                      .dir = world.spool,
                                      .checkpoint_pages = checkpoint_pages,
                                      .copy_wait_ms = world.copy_wait_ms,
                                      .wal_limit_bytes = wal_limit_bytes};
    world.s = source_new(&world.conf);
    source_set_without(world.s, world.without | (world.apart ? 0 : SOURCE_ASIDE));
    world_job(&(struct source_job){.load = true});
}

void world_job(const struct source_job *job)
{
    struct source_result *r = &world.r;
    source_run(world.s, job, r);
    world.n_jobs++;
    if (world.print)
        printf("  job%s%s%s%s%s%s: state %d, TXID %llu%s%s%s%s\n", job->load ? " load" : "", job->capture ? " capture" : "",
               job->settle ? " settle" : "", job->doze ? " doze" : "", job->detach ? " detach" : "",
               job->hurry ? " hurry" : "", r->state, (unsigned long long)r->txid, r->err.code ? ", error: " : "",
               r->err.code ? r->err.msg : "", r->broken ? ", continuity lost: " : "", r->broken ? r->why : "");
    if (r->err.code != ERR_OK && r->err.code != ERR_BUSY && !world.any_error)
        world_violation("a job: %s", r->err.msg);
    for (size_t i = 0; i < r->n_files; i++) {
        world.acked_txid = MAX(world.acked_txid, r->file[i].txid);
        note('t', r->file[i].txid);
    }
    if (r->broken && !world.may_break)
        world_violation("continuity lost: %s", r->why);
}

void world_quiet(void)
{
    for (int tries = 0, good = 0; tries < 12; tries++) {
        world_job(&(struct source_job){.capture = true});
        if (world.r.state == SOURCE_ARRIVING) /* it waits until the files have been still */
            (void)nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
        bool fine = world.r.err.code == ERR_OK && world.r.state == SOURCE_ATTACHED && !world.r.more &&
                    !world.r.pending_bytes && world.r.txid;
        good = fine ? good + 1 : 0;
        if (good == 2)
            return;
    }
    world_violation("it never gets quiet: state %d, %s", world.r.state,
                    world.r.err.code ? world.r.err.msg : "no error");
}

void world_ship(void)
{
    struct spool_state st;
    struct err e;
    if (spool_open(world.spool, &st, &e) < 0)
        die("ship", e.msg);
    for (size_t i = 0; i < st.n; i++) {
        cleanup_free char *from = spool_path(world.spool, st.file[i].txid);
        cleanup_free char *to = spool_path(world.replica, st.file[i].txid);
        cleanup_buf struct buf b = BUF_INIT;
        if (fsx_read(from, SIZE_MAX, &b, &e) < 0 ||
            fsx_publish(to, b.p, b.len, 0600, FSX_REPLACE, &e) < 0)
            die("ship", e.msg);
    }
    if (st.n)
        world_job(&(struct source_job){.drop_first = st.file[0].txid, .drop_last = st.file[st.n - 1].txid});
    spool_state_done(&st);
}

/* ---- after the judgement -------------------------------------------------------------------- */

void world_afterlife(void)
{
    world_sql("insert into t(b) values(randomblob(700))");
    world_job(&(struct source_job){.assist = true});
    world_sql("pragma wal_checkpoint(restart)");
    world_sql("update t set b=randomblob(200) where a%%5=0");
    world_job(&(struct source_job){.capture = true, .settle = true});
    world_sql("insert into t(b) values(randomblob(900))");
    world_sql("pragma wal_checkpoint(truncate)");
    world_sql("delete from t where a%%7=1");
    world_quiet();
}
