#include "tests/explorer/apart.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "common/format/crc64.h"
#include "tests/explorer/steps.h"
#include "tests/explorer/world.h"

/* What the process answers; one for a stop, one for the end of what it was told. */
struct answer {
    enum apart_answer what;
    bool open, has_hash;
    unsigned steps;
    uint64_t hash;
    char text[160];
};

/* ---- the process ------------------------------------------------------------------------------ */

static sqlite3 *db;
static unsigned stop_at, n_syncs, n_barriers;
static bool wrote; /* a frame, in this statement */

static void tell(const struct answer *a)
{
    if (write(STDOUT_FILENO, a, sizeof *a) != (ssize_t)sizeof *a)
        _exit(3);
}

/* Tells where it is and waits. Nothing but a line or the end of the pipe gets it further. */
static int at_step(unsigned n, const char *what)
{
    wrote = wrote || !strcmp(what, "xWrite wal");
    bool sync = !strcmp(what, "xSync wal") && APART_SYNC + ++n_syncs == stop_at;
    bool barrier = wrote && !strncmp(what, "xShmBarrier", 11) && APART_BARRIER + ++n_barriers == stop_at;
    if (n != stop_at && !sync && !barrier)
        return 0;
    struct answer a = {.what = APART_STOPPED, .open = true, .steps = n};
    (void)snprintf(a.text, sizeof a.text, "%s", what);
    tell(&a);
    char line[8];
    if (!fgets(line, sizeof line, stdin))
        _exit(0);
    return 0;
}

static int open_it(const char *path)
{
    if (db)
        return SQLITE_OK;
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "pragma wal_autocheckpoint=0; pragma synchronous=full; pragma cache_size=5;"
                              "select count(*) from sqlite_master", NULL, NULL, NULL);
    return rc;
}

static uint8_t *read_all(sqlite3_int64 *ret_bytes)
{
    uint8_t *p = NULL;
    if (sqlite3_exec(db, "begin; select count(*) from sqlite_master", NULL, NULL, NULL) == SQLITE_OK)
        p = sqlite3_serialize(db, "main", ret_bytes, 0);
    (void)sqlite3_exec(db, "rollback", NULL, NULL, NULL);
    return p;
}

static int image_to(const char *path)
{
    sqlite3_int64 bytes = 0;
    struct err e;
    uint8_t *p = db ? read_all(&bytes) : NULL;
    int rc = p && fsx_publish(path, p, (size_t)bytes, 0600, FSX_REPLACE, &e) == 0 ? SQLITE_OK : SQLITE_BUSY;
    sqlite3_free(p);
    return rc;
}

static void ask(const char *sql, struct answer *a)
{
    sqlite3_stmt *st = NULL;
    const char *text = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
        text = (const char *)sqlite3_column_text(st, 0);
    (void)snprintf(a->text, sizeof a->text, "%s", text ? text : sqlite3_errmsg(db));
    (void)sqlite3_finalize(st);
}

static int statement(const char *sql)
{
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(db))
        (void)sqlite3_exec(db, "rollback", NULL, NULL, NULL);
    return rc;
}

static int close_it(void)
{
    int rc = sqlite3_close(db);
    db = NULL;
    return rc;
}

static void obey(const char *path, char what, const char *arg)
{
    struct answer a = {.what = APART_DONE};
    int rc = SQLITE_OK;
    n_syncs = n_barriers = 0;
    wrote = false;
    steps_arm(at_step);
    if (what == 'o')
        rc = open_it(path);
    else if (what == 's')
        rc = db ? statement(arg) : SQLITE_BUSY;
    else if (what == 'c')
        rc = close_it();
    a.steps = steps_disarm();
    if (what == 'i')
        rc = image_to(arg);
    else if (what == 'a' && db)
        ask(arg, &a);
    bool busy = (rc & 0xff) == SQLITE_BUSY || (rc & 0xff) == SQLITE_LOCKED || rc == SQLITE_PROTOCOL;
    if (rc != SQLITE_OK) {
        a.what = busy ? APART_BUSY : APART_FAILED;
        (void)snprintf(a.text, sizeof a.text, "%s", db ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
    }
    if (rc != SQLITE_OK && what == 'o')
        (void)close_it();
    sqlite3_int64 bytes = 0;
    uint8_t *p = db && (what == 'o' || what == 's') ? read_all(&bytes) : NULL;
    if (p)
        a.hash = crc64(0, p, (size_t)bytes);
    a.has_hash = p != NULL;
    sqlite3_free(p);
    a.open = db != NULL;
    tell(&a);
}

void apart_main(int argc, char **argv)
{
    if (argc != 4 || strcmp(argv[1], "--apart") != 0)
        return;
    char line[1100];
    steps_install();
    steps_begin(strtoull(argv[3], NULL, 10));
    while (fgets(line, sizeof line, stdin)) {
        char what;
        int at = 0;
        line[strcspn(line, "\n")] = '\0';
        if (sscanf(line, "%c %u %n", &what, &stop_at, &at) >= 2)
            obey(argv[2], what, line + at);
    }
    _exit(0);
}

/* ---- this side of the pipes ------------------------------------------------------------------- */

static pid_t pid;
static int to = -1, from = -1;
static struct answer last;
static char doing; /* what it was told last */

static void start(void)
{
    if (pid)
        return;
    static uint64_t n; /* other random numbers, and so other salts, in each of them */
    int in[2], out[2];
    char self[] = "/proc/self/exe", flag[] = "--apart";
    cleanup_free char *number = util_printf("%llu", (unsigned long long)++n);
    char *argv[] = {self, flag, world.db, number, NULL};
    posix_spawn_file_actions_t fa;
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || posix_spawn_file_actions_init(&fa) ||
        posix_spawn_file_actions_adddup2(&fa, in[0], STDIN_FILENO) ||
        posix_spawn_file_actions_adddup2(&fa, out[1], STDOUT_FILENO) ||
        posix_spawn(&pid, argv[0], &fa, NULL, argv, environ)) {
        (void)fprintf(stderr, "apart: %s\n", strerror(errno));
        exit(2);
    }
    (void)posix_spawn_file_actions_destroy(&fa);
    (void)close(in[0]);
    (void)close(out[1]);
    to = in[1];
    from = out[0];
    last = (struct answer){.what = APART_DONE};
}

void apart_kill(void)
{
    if (!pid)
        return;
    if (last.what == APART_STOPPED)
        world.unsettled = true;
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    (void)close(to);
    (void)close(from);
    pid = 0;
    last = (struct answer){.what = APART_DONE};
}

static enum apart_answer hear(void)
{
    if (read(from, &last, sizeof last) != (ssize_t)sizeof last) {
        world_violation("the application died");
        last = (struct answer){.what = APART_FAILED};
        return APART_FAILED;
    }
    if (last.what == APART_FAILED && !world.any_error)
        world_violation("the application: %s", last.text);
    world.n_busy += last.what == APART_BUSY;
    if (last.what == APART_STOPPED)
        return last.what;
    if (last.has_hash)
        world_note_state(last.hash);
    else if (doing == 's')
        world.hidden = true;
    return last.what;
}

static void send_line(const char *line)
{
    size_t n = strlen(line);
    if (write(to, line, n) != (ssize_t)n) {
        (void)fprintf(stderr, "apart: the process is gone\n");
        exit(2);
    }
}

static enum apart_answer order(char what, unsigned stop, const char *arg)
{
    start();
    cleanup_free char *line = util_printf("%c %u %s\n", what, stop, arg);
    doing = what;
    send_line(line);
    return hear();
}

enum apart_answer apart_open(unsigned stop)
{
    world_settle();
    return order('o', stop, "");
}

enum apart_answer apart_sql(unsigned stop, const char *sql)
{
    return order('s', stop, sql);
}

enum apart_answer apart_close(unsigned stop)
{
    return order('c', stop, "");
}

enum apart_answer apart_go(void)
{
    if (last.what != APART_STOPPED)
        return last.what;
    send_line("\n");
    return hear();
}

bool apart_is_stopped(void)
{
    return pid && last.what == APART_STOPPED;
}

bool apart_is_open(void)
{
    return pid && last.open;
}

unsigned apart_steps(void)
{
    return last.steps;
}

const char *apart_where(void)
{
    return last.text;
}

bool apart_image(struct buf *ret)
{
    cleanup_free char *path = util_printf("%s/image", world.dir);
    struct err e;
    return order('i', 0, path) == APART_DONE && fsx_read(path, SIZE_MAX, ret, &e) == 0;
}

void apart_ask(const char *sql, char *ret, size_t size)
{
    (void)order('a', 0, sql);
    (void)snprintf(ret, size, "%s", last.text);
}
