/* locks - the kernel's own list of locks, watched while walsup runs under hostile applications.
 *
 *   locks SECONDS [--control]
 *
 * POSIX locks vanish silently when any descriptor of the file is closed in the process. So at every step of
 * walsup's connections and after every job, as long as the source is attached, /proc/locks must show
 * this process with a read lock on one of the reader slots of -shm (a guard) and a read lock on the
 * database. Three processes write, checkpoint, vacuum, and reopen meanwhile.
 * --control: one descriptor of -shm, then one of the database, is opened and closed in between; both
 * must be noticed. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/base/clk.h"
#include "tests/explorer/steps.h"
#include "tests/explorer/world.h"

enum { N_APPS = 3, SLOTS_FIRST = 123, SLOTS_LAST = 127, REREADS = 4 };
#define DB_SHARED_FIRST 1073741826ull /* what SQLite calls SHARED_FIRST */

uint64_t __real_clk_mono_ms(void);

static unsigned long n_checks, n_lost, n_jobs_attached, n_detach;
static bool attached, control;
static ino_t db_ino, shm_ino;

/* ---- the applications, each in a process of its own -------------------------------------------- */

static unsigned rnd(unsigned n)
{
    static uint64_t x;
    if (!x)
        x = (uint64_t)getpid() * 0x9e3779b97f4a7c15u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (unsigned)((x >> 11) % n);
}

static void app(const char *path)
{
    static const char *const sql[] = {
        "insert into t(b) values(randomblob(400))",
        "update t set b=randomblob(300) where a%5=2",
        "delete from t where a>200",
        "begin immediate; update t set b=randomblob(200); rollback",
        "insert into t(b) values(randomblob(30000))",
        "pragma wal_checkpoint(passive)",
        "pragma wal_checkpoint(full)",
        "pragma wal_checkpoint(restart)",
        "pragma wal_checkpoint(truncate)",
        "vacuum",
    };
    for (;;) {
        sqlite3 *d;
        if (sqlite3_open_v2(path, &d, SQLITE_OPEN_READWRITE, "unix") != SQLITE_OK)
            _exit(1);
        (void)sqlite3_busy_timeout(d, 20);
        (void)sqlite3_exec(d, "pragma synchronous=off; pragma cache_size=10", NULL, NULL, NULL);
        for (unsigned i = rnd(60); i; i--) {
            (void)sqlite3_exec(d, sql[rnd(ARRAY_LEN(sql))], NULL, NULL, NULL);
            if (!sqlite3_get_autocommit(d))
                (void)sqlite3_exec(d, "rollback", NULL, NULL, NULL);
        }
        (void)sqlite3_close(d);
    }
}

static pid_t app_start(void)
{
    char self[] = "/proc/self/exe", flag[] = "--app";
    char *argv[] = {self, flag, world.db, NULL};
    pid_t pid;
    if (posix_spawn(&pid, self, NULL, NULL, argv, environ) != 0)
        abort();
    return pid;
}

/* ---- the kernel's list ------------------------------------------------------------------------- */

enum { CKPT_LOCK = 121 };

static void look(bool *ret_guard, bool *ret_db)
{
    char text[65536];
    *ret_guard = *ret_db = false;
    cleanup_close int fd = open("/proc/locks", O_RDONLY | O_CLOEXEC);
    size_t have = 0;
    ssize_t got;
    while (have < sizeof text - 1 && (got = read(fd, text + have, sizeof text - 1 - have)) > 0)
        have += (size_t)got;
    text[have] = '\0';
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char mode[12];
        int pid;
        unsigned long ino;
        unsigned long long first, last;
        /* "1: POSIX  ADVISORY  READ 123 00:1b:456 123 123" (waiters have "->" before POSIX) */
        if (sscanf(line, "%*s POSIX %*s %11s %d %*x:%*x:%lu %llu %llu", mode, &pid, &ino, &first,
                   &last) != 5 || pid != getpid())
            continue;
        /* in a barrier the checkpoint lock stands for the guard */
        *ret_guard |= ino == shm_ino && !strcmp(mode, "WRITE") && first <= CKPT_LOCK && last >= CKPT_LOCK;
        if (strcmp(mode, "READ") != 0)
            continue;
        *ret_guard |= ino == shm_ino && first <= SLOTS_LAST && last >= SLOTS_FIRST;
        *ret_db |= ino == db_ino && first <= DB_SHARED_FIRST && last >= DB_SHARED_FIRST;
    }
}

/* The list is not read at one moment: a lock that is really gone stays so. */
static void check(const char *where)
{
    bool guard = false, db = false;
    for (int i = 0; i < REREADS && !(guard && db); i++) {
        bool g, d;
        look(&g, &d);
        guard |= g;
        db |= d;
    }
    n_checks++;
    if (guard && db)
        return;
    n_lost++;
    if (!control && n_lost < 10)
        printf("violation: locks: at %s: %s\n", where,
               guard ? "no lock on the database" : db ? "no guard" : "no lock at all");
}

static int at_step(unsigned n, const char *what)
{
    (void)n;
    if (!strncmp(what, "xClose", 6) || !strncmp(what, "xShmUnmap", 9)) /* asked for: the rest of this job proves nothing */
        attached = false;
    if (attached)
        check(what);
    return 0;
}

static void job(const struct source_job *j)
{
    steps_arm(at_step);
    world_job(j);
    (void)steps_disarm();
    attached = world.r.state == SOURCE_ATTACHED;
    struct stat st;
    cleanup_free char *shm = util_printf("%s-shm", world.db);
    if (!attached || stat(shm, &st) < 0)
        return;
    shm_ino = st.st_ino;
    n_jobs_attached++;
    check("the end of a job");
}

static void run(uint64_t until)
{
    while (__real_clk_mono_ms() < until) {
        unsigned k = rnd(12);
        job(&(struct source_job){.capture = k < 8, .assist = k == 9, .settle = k == 10, .snapshot = k == 11});
        if (rnd(40))
            continue;
        job(&(struct source_job){.detach = true});
        n_detach++;
    }
}

static bool noticed(const char *path)
{
    job(&(struct source_job){.capture = true});
    unsigned long before = n_lost;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    (void)close(fd);
    if (attached)
        check("after a raw close");
    printf("locks: a raw open and close of %s: %s\n", strrchr(path, '/') + 1,
           n_lost > before ? "noticed" : "NOT noticed");
    job(&(struct source_job){.detach = true}); /* begin anew */
    return n_lost > before;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--app"))
        app(argv[2]);
    double seconds = argc > 1 ? atof(argv[1]) : 3;
    control = argc > 2 && !strcmp(argv[2], "--control");
    world_setup(NULL);
    world_begin(1);
    world.any_error = world.may_break = true; /* others judge that */
    struct stat st;
    if (stat(world.db, &st) < 0)
        return 2;
    db_ino = st.st_ino;
    world_app_close();
    pid_t pid[N_APPS];
    for (int i = 0; i < N_APPS; i++)
        pid[i] = app_start();
    world_source(50, 1u << 20);
    run(__real_clk_mono_ms() + (uint64_t)(seconds * 1000));
    unsigned long lost = n_lost;
    for (int i = 0; i < N_APPS; i++) {
        (void)kill(pid[i], SIGKILL);
        (void)waitpid(pid[i], NULL, 0);
    }
    bool fine = true;
    if (control) {
        cleanup_free char *shm = util_printf("%s-shm", world.db);
        fine = noticed(shm);
        fine = noticed(world.db) && fine;
    }
    printf("locks: %lu looks at /proc/locks in %lu jobs, %lu detaches, %lu times a lock was gone\n",
           n_checks, n_jobs_attached, n_detach, lost);
    world_end();
    return !(fine && n_checks && n_jobs_attached && !lost);
}
