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
    if (what == 'o' || what == 'h')
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
    uint8_t *p = db && (what == 'o' || what == 's' || what == 'h') ? read_all(&bytes) : NULL;
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

struct apart {
    pid_t pid;
    int to, from;
    struct answer last;
    char doing; /* what it was told last */
};

static struct apart processes[2];
struct apart *const apart_app = &processes[0], *const apart_other = &processes[1];

static void give_up(const char *why)
{
    (void)fprintf(stderr, "apart: %s\n", why);
    exit(2);
}

static void start(struct apart *a)
{
    if (a->pid)
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
        posix_spawn(&a->pid, argv[0], &fa, NULL, argv, environ))
        give_up(strerror(errno));
    (void)posix_spawn_file_actions_destroy(&fa);
    (void)close(in[0]);
    (void)close(out[1]);
    a->to = in[1];
    a->from = out[0];
    a->last = (struct answer){.what = APART_DONE};
}

void apart_kill(struct apart *a)
{
    if (!a->pid)
        return;
    if (a->last.what == APART_STOPPED)
        world.unsettled = true;
    (void)kill(a->pid, SIGKILL);
    (void)waitpid(a->pid, NULL, 0);
    (void)close(a->to);
    (void)close(a->from);
    a->pid = 0;
    a->last = (struct answer){.what = APART_DONE};
}

static enum apart_answer hear(struct apart *a)
{
    struct answer *last = &a->last;
    if (read(a->from, last, sizeof *last) != (ssize_t)sizeof *last) {
        world_violation("the application died");
        *last = (struct answer){.what = APART_FAILED};
        return APART_FAILED;
    }
    if (last->what == APART_FAILED && !world.any_error)
        world_violation("the application: %s", last->text);
    world.n_busy += last->what == APART_BUSY;
    if (last->what == APART_STOPPED || a->doing == 'h')
        return last->what;
    if (last->has_hash)
        world_note_state(last->hash);
    else if (a->doing == 's')
        world.hidden = true;
    return last->what;
}

static void send_line(struct apart *a, const char *line)
{
    size_t n = strlen(line);
    if (write(a->to, line, n) != (ssize_t)n)
        give_up("the process is gone");
}

static enum apart_answer order(struct apart *a, char what, unsigned stop, const char *arg)
{
    start(a);
    cleanup_free char *line = util_printf("%c %u %s\n", what, stop, arg);
    a->doing = what;
    send_line(a, line);
    return hear(a);
}

enum apart_answer apart_open(struct apart *a, unsigned stop)
{
    world_settle();
    return order(a, 'o', stop, "");
}

enum apart_answer apart_sql(struct apart *a, unsigned stop, const char *sql)
{
    return order(a, 's', stop, sql);
}

enum apart_answer apart_close(struct apart *a, unsigned stop)
{
    return order(a, 'c', stop, "");
}

enum apart_answer apart_go(struct apart *a)
{
    if (a->last.what != APART_STOPPED)
        return a->last.what;
    send_line(a, "\n");
    return hear(a);
}

bool apart_is_stopped(const struct apart *a)
{
    return a->pid && a->last.what == APART_STOPPED;
}

bool apart_is_open(const struct apart *a)
{
    return a->pid && a->last.open;
}

unsigned apart_steps(const struct apart *a)
{
    return a->last.steps;
}

const char *apart_where(const struct apart *a)
{
    return a->last.text;
}

bool apart_hash(struct apart *a, uint64_t *ret)
{
    bool fine = order(a, 'h', 0, "") == APART_DONE && a->last.has_hash;
    *ret = a->last.hash;
    return fine;
}

bool apart_image(struct apart *a, struct buf *ret)
{
    cleanup_free char *path = util_printf("%s/image", world.dir);
    struct err e;
    return order(a, 'i', 0, path) == APART_DONE && fsx_read(path, SIZE_MAX, ret, &e) == 0;
}

void apart_ask(struct apart *a, const char *sql, char *ret, size_t size)
{
    (void)order(a, 'a', 0, sql);
    (void)snprintf(ret, size, "%s", a->last.text);
}
