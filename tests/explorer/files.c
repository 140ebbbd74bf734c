/* files.c - level 5 of the explorer: what people do to the files of a database.
 *
 * The application is a process of its own for the whole run. Three kinds of run:
 *   beneath: at step k of operation O it ends (orderly or by SIGKILL) or goes on, files are removed,
 *     replaced or put back from copies of themselves, and it starts again and commits.
 *   over: it ends after O; walsup lets go (or has let go, or was ended); a backup is copied or moved over
 *     the database, as is safe where the last close leaves nothing beside it; it starts again.
 *   in: a database that has a WAL in use is copied in, a piece at a time, while walsup looks; then it starts.
 * The source has to be as it would be without walsup, and what is in the spool in the end what it is. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "tests/explorer/apart.h"
#include "tests/explorer/levels.h"
#include "tests/explorer/ops.h"
#include "tests/explorer/steps.h"
#include "tests/explorer/world.h"

/* ---- files ------------------------------------------------------------------------------------ */

static char *beside(const char *end)
{
    return util_printf("%s%s", world.db, end);
}

static void remove_it(const char *end)
{
    cleanup_free char *path = beside(end);
    (void)unlink(path);
}

static bool slurp(const char *path, struct buf *b)
{
    struct err e;
    return fsx_read(path, SIZE_MAX, b, &e) == 0;
}

/* As cp does it: the same inode, if there is one. */
static void copy_to(const char *path, const uint8_t *p, size_t n)
{
    cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, p, n) != (ssize_t)n)
        world_violation("copy to %s: %s", path, strerror(errno));
}

/* Moved away, and a copy of it put in its place: the same content in another inode. */
static void swap_it(const char *end)
{
    cleanup_free char *path = beside(end), *aside = util_printf("%s/aside", world.dir);
    cleanup_buf struct buf b = BUF_INIT;
    if (!slurp(path, &b) || rename(path, aside) < 0)
        return;
    copy_to(path, b.p, b.len);
    (void)unlink(aside);
}

static void put_backup(bool moved)
{
    cleanup_free char *other = util_printf("%s/b.db", world.dir);
    cleanup_buf struct buf b = BUF_INIT;
    if (!slurp(other, &b))
        return;
    if (moved)
        (void)rename(other, world.db);
    else
        copy_to(world.db, b.p, b.len);
}

/* ---- beneath ---------------------------------------------------------------------------------- */

enum end { GOES_ON, ENDS, DIES };
static const char *const end_name[] = {"goes-on", "ends", "dies"};

static void rm_shm(void)
{
    remove_it("-shm");
}

static void rm_both(void)
{
    remove_it("-wal");
    remove_it("-shm");
}

static void rm_both_put_backup(void)
{
    rm_both();
    put_backup(false);
}

static void rm_both_move_backup(void)
{
    rm_both();
    put_backup(true);
}

static void rm_wal(void)
{
    remove_it("-wal");
}

static void swap_shm(void)
{
    swap_it("-shm");
}

static void swap_wal(void)
{
    swap_it("-wal");
}

static void swap_wal_rm_shm(void)
{
    swap_it("-wal");
    remove_it("-shm");
}

static void swap_all(void)
{
    swap_it("");
    swap_it("-wal");
    swap_it("-shm");
}

static void swap_db(void)
{
    swap_it("");
}

static void commits(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (apart_is_open(apart_app) || apart_open(apart_app, 0) == APART_DONE)
            (void)apart_sql(apart_app, 0, i % 2 ? "update t set b=randomblob(90) where a%3=1"
                                     : "insert into t(b) values(randomblob(700))");
}

/* Opened and closed again and again, always the last one out. */
static void cycles(void)
{
    for (int i = 0; i < 3; i++) {
        commits(1);
        (void)apart_close(apart_app, 0);
    }
}

static void journal_and_back(void)
{
    commits(1);
    (void)apart_sql(apart_app, 0, "pragma journal_mode=delete");
    commits(1);
    (void)apart_sql(apart_app, 0, "pragma journal_mode=wal");
}

static bool left_wal;

/* Into a rollback journal, and only after the job back. */
static void journal_for_long(void)
{
    char mode[200];
    commits(1);
    apart_ask(apart_app, "pragma journal_mode=delete", mode, sizeof mode);
    left_wal = !strcmp(mode, "delete");
    commits(1);
}

static void journal_back(void)
{
    struct stat st;
    cleanup_free char *wal = beside("-wal"), *shm = beside("-shm");
    if (left_wal && (stat(wal, &st) == 0 || stat(shm, &st) == 0))
        world_violation("a -wal or -shm lies beside a database with a rollback journal");
    (void)apart_sql(apart_app, 0, "pragma journal_mode=wal");
    commits(1);
}

static void exclusive(void)
{
    commits(1);
    (void)apart_sql(apart_app, 0, "pragma locking_mode=exclusive");
    commits(2);
    (void)apart_sql(apart_app, 0, "pragma wal_checkpoint(truncate)");
    commits(1);
    (void)apart_close(apart_app, 0); /* whoever opened it so cannot share it any more */
    commits(1);
}

/* Where the last close left nothing beside it. */
static void copy_over(void)
{
    cleanup_free char *wal = beside("-wal");
    struct stat st;
    (void)apart_close(apart_app, 0);
    if (stat(wal, &st) < 0 || !st.st_size)
        put_backup(false);
}

static void nothing(void)
{
}

/* emptied: only if all of the WAL could be copied and cut off before, else it is harm that no walsup is needed for. */
static const struct deed {
    const char *name;
    void (*run)(void);
    bool live, emptied, another;
    void (*after)(void);
} deeds[] = {
    {"restart", nothing, false, false, false, NULL},
    {"rm-shm", rm_shm, false, false, false, NULL},
    {"rm-both", rm_both, false, true, false, NULL},
    {"rm-both-cp", rm_both_put_backup, false, true, true, NULL},
    {"rm-both-mv", rm_both_move_backup, false, true, true, NULL},
    {"rm-wal-live", rm_wal, true, false, false, NULL},
    {"swap-shm", swap_shm, false, false, false, NULL},
    {"swap-wal", swap_wal, false, false, false, NULL},
    {"swap-wal-rm-shm", swap_wal_rm_shm, false, false, false, NULL},
    {"swap-all", swap_all, false, false, false, NULL},
    {"swap-db", swap_db, false, true, false, NULL},
    {"cycles", cycles, false, false, false, NULL},
    {"journal", journal_and_back, false, false, false, NULL},
    {"journal-long", journal_for_long, false, false, false, journal_back},
    {"exclusive", exclusive, false, false, false, NULL},
    {"copy-over", copy_over, false, false, true, NULL},
};

static bool empty_wal(void)
{
    char busy[200];
    apart_ask(apart_app, "pragma wal_checkpoint(truncate)", busy, sizeof busy);
    cleanup_free char *wal = beside("-wal");
    struct stat st;
    return !strcmp(busy, "0") && (stat(wal, &st) < 0 || !st.st_size);
}

static bool beneath(const struct deed *d, enum end end)
{
    if (d->emptied && !empty_wal())
        return false;
    if (end == DIES)
        apart_kill(apart_app);
    else if (end == ENDS)
        (void)apart_close(apart_app, 0);
    d->run();
    if (d->another && apart_open(apart_app, 0) != APART_DONE)
        world.hidden = true;
    commits(2);
    return true;
}

/* ---- over ------------------------------------------------------------------------------------- */

static const struct leaving {
    const char *name;
    struct source_job job[2];
    unsigned n;
    bool is_gone; /* walsup ends, and another one begins later */
} leavings[] = {
    {"detached", {{.detach = true}}, 1, false},
    {"settled-detached", {{.capture = true, .settle = true}, {.detach = true}}, 2, false},
    {"hurried", {{.capture = true}, {.detach = true, .hurry = true}}, 2, true},
    {"stopped", {{.detach = true}}, 1, true},
};

static void over(const struct leaving *l, bool moved, bool in_use)
{
    commits(1);
    if (!in_use)
        (void)apart_close(apart_app, 0);
    for (unsigned i = 0; i < l->n; i++)
        world_job(&l->job[i]);
    if (in_use) /* it was the last one, and nobody kept it from leaving as it should */
        (void)apart_close(apart_app, 0);
    put_backup(moved);
    char sum[200], ok[200];
    if (apart_open(apart_app, 0) != APART_DONE) {
        world_violation("the application cannot open the backup");
        return;
    }
    apart_ask(apart_app, "select count(*) from t", sum, sizeof sum);
    apart_ask(apart_app, "pragma integrity_check", ok, sizeof ok);
    if (strcmp(sum, "20") != 0 || strcmp(ok, "ok") != 0)
        world_violation("the application finds %s of 20 rows of the backup, integrity '%.80s'", sum, ok);
    if (l->is_gone)
        world_source(world.conf.checkpoint_pages, world.conf.wal_limit_bytes);
}

/* ---- in --------------------------------------------------------------------------------------- */

/* A database and its WAL as they lie there after a crash: 30 rows in the one, 40 commits in the other. */
static void hot_copy(struct buf *db, struct buf *wal)
{
    cleanup_free char *log = beside("-wal");
    for (int i = 0; i < 40; i++)
        (void)apart_sql(apart_app, 0, "insert into t(b) values(randomblob(300))");
    if (!slurp(world.db, db) || !slurp(log, wal))
        world_violation("nothing to copy");
    apart_kill(apart_app);
    remove_it("");
    rm_both();
}

static void look_on(void)
{
    world_job(&(struct source_job){.capture = true, .doze = true});
}

static void in(unsigned pieces, bool wal_first)
{
    cleanup_buf struct buf db = BUF_INIT, wal = BUF_INIT;
    cleanup_free char *log = beside("-wal");
    hot_copy(&db, &wal);
    look_on();
    if (!wal_first) {
        copy_to(world.db, db.p, db.len);
        look_on();
    }
    for (unsigned i = 1; i <= pieces; i++) {
        cleanup_close int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        size_t from = wal.len * (i - 1) / pieces, to = wal.len * i / pieces;
        if (fd < 0 || write(fd, wal.p + from, to - from) != (ssize_t)(to - from))
            world_violation("copy the WAL: %s", strerror(errno));
        look_on();
    }
    if (wal_first) {
        copy_to(world.db, db.p, db.len / 2);
        look_on();
        copy_to(world.db, db.p, db.len);
        look_on();
    }
    size_t before = world.n_states;
    if (apart_open(apart_app, 0) != APART_DONE)
        world_violation("the application cannot open what was copied in");
    if (world.n_states != before)
        world_violation("the application does not find what was copied in");
}

/* ---- one run ---------------------------------------------------------------------------------- */

struct point {
    char kind; /* b, o, i */
    unsigned op, k, deed, leaving, pieces;
    enum end end;
    bool flag[2]; /* over: moved, in use; in: the WAL first */
};

static struct point now;
static bool print_steps, did;
static unsigned long n_done, n_asleep, n_last_closes;

static int at_step(unsigned n, const char *what)
{
    if (print_steps)
        printf("  step %u: %s\n", n, what);
    if (n == now.k && now.kind == 'b')
        did = beneath(&deeds[now.deed], now.end);
    return 0;
}

/* 20 of its rows, in WAL mode, and nothing beside it */
static void make_backup(void)
{
    cleanup_free char *other = util_printf("%s/b.db", world.dir);
    cleanup_free char *sql = util_printf("vacuum into '%s'", other);
    sqlite3 *d;
    if (!world_sql("%s", sql) || sqlite3_open_v2(other, &d, SQLITE_OPEN_READWRITE, STEPS_APP_VFS) != SQLITE_OK)
        return;
    (void)sqlite3_exec(d, "pragma journal_mode=wal; delete from t where a>20", NULL, NULL, NULL);
    (void)sqlite3_close(d);
}

static void afterwards(void)
{
    commits(1);
    world_job(&(struct source_job){.assist = true});
    (void)apart_sql(apart_app, 0, "pragma wal_checkpoint(restart)");
    commits(2);
    world_job(&(struct source_job){.capture = true, .settle = true});
    (void)apart_sql(apart_app, 0, "pragma wal_checkpoint(truncate)");
    (void)apart_sql(apart_app, 0, "delete from t where a%7=1");
}

/* The events of its files, and so a look at them; and what an application that went on meanwhile does at its end. */
static void look_after(void)
{
    if (now.kind == 'b' && did && deeds[now.deed].live) {
        look_on();
        look_on();
        (void)apart_close(apart_app, 0);
        look_on();
        if (apart_open(apart_app, 0) != APART_DONE)
            world_violation("the application cannot open its database any more");
    }
    if (now.kind == 'b' && did && deeds[now.deed].after)
        deeds[now.deed].after();
    world_job(&(struct source_job){.doze = true});
    n_last_closes += world.r.count.last_closes;
    if (world.r.state == SOURCE_ASLEEP && !world.violation[0]) {
        n_asleep++;
        world_judge();
    }
    look_on();
    look_on();
}

static unsigned run(const struct point *p, uint64_t seed)
{
    now = *p;
    did = p->kind != 'b';
    world_begin(seed);
    make_backup();
    ops[p->op].before();
    (void)apart_open(apart_app, 0);
    world.any_error = world.may_break = true;
    unsigned n = 0;
    steps_arm(at_step);
    if (p->kind != 'i')
        world_job(&ops[p->op].job);
    for (int i = 0; p->kind != 'i' && i < 50 && world.r.state == SOURCE_ARRIVING && !did; i++) {
        (void)nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL); /* not opened yet: its moment comes */
        world_job(&ops[p->op].job);
    }
    n = steps_disarm();
    if (p->kind == 'o')
        over(&leavings[p->leaving], p->flag[0], p->flag[1]);
    else if (p->kind == 'i') {
        world_source(world.conf.checkpoint_pages, world.conf.wal_limit_bytes);
        in(p->pieces, p->flag[0]);
    }
    look_after();
    world.any_error = false;
    if (!world.violation[0])
        world_quiet();
    world_judge();
    if (!world.violation[0]) {
        afterwards();
        world_quiet();
        world_judge();
    }
    n_done += did;
    world_end();
    return n;
}

/* ---- many ------------------------------------------------------------------------------------- */

static unsigned n_steps[MAX_OPS];

static struct point sample(uint64_t seed)
{
    struct point p = {.kind = "bbbbboi"[search_below(7)], .op = search_below(n_ops)};
    if (p.kind == 'b') {
        if (!n_steps[p.op])
            n_steps[p.op] = run(&(struct point){.kind = 'b', .op = p.op}, seed);
        p.k = 1 + search_below(MAX(n_steps[p.op], 1u));
        p.deed = search_below((unsigned)ARRAY_LEN(deeds));
        p.end = deeds[p.deed].live ? GOES_ON : search_below(2) ? ENDS : DIES;
    }
    p.leaving = search_below((unsigned)ARRAY_LEN(leavings));
    p.pieces = 1 + search_below(6);
    p.flag[0] = search_below(2);
    p.flag[1] = search_below(4) == 0;
    return p;
}

/* What the run was about: a deed, a way of leaving, or a copy. */
enum { N_KINDS = ARRAY_LEN(deeds) + ARRAY_LEN(leavings) + 2 };
static unsigned long tried[N_KINDS], wrong[N_KINDS];

static unsigned kind_of(const struct point *p)
{
    if (p->kind == 'b')
        return p->deed;
    return (unsigned)ARRAY_LEN(deeds) + (p->kind == 'o' ? p->leaving : (unsigned)ARRAY_LEN(leavings) + p->flag[0]);
}

static void print_kinds(void)
{
    for (unsigned i = 0; i < N_KINDS; i++) {
        unsigned j = i - (unsigned)ARRAY_LEN(deeds);
        const char *name = i < ARRAY_LEN(deeds) ? deeds[i].name : j < ARRAY_LEN(leavings) ? leavings[j].name
                         : j == ARRAY_LEN(leavings) ? "db-first" : "wal-first";
        printf("  %s: %s %lu of %lu wrong\n", i < ARRAY_LEN(deeds) ? "beneath" : j < ARRAY_LEN(leavings) ? "over" : "in",
               name, wrong[i], tried[i]);
    }
}

static char *describe(const struct point *p)
{
    if (p->kind == 'b')
        return util_printf("beneath,%s,%u,%s,%s", ops[p->op].name, p->k, deeds[p->deed].name, end_name[p->end]);
    if (p->kind == 'o')
        return util_printf("over,%s,%s,%s,%s", ops[p->op].name, leavings[p->leaving].name, p->flag[0] ? "mv" : "cp",
                           p->flag[1] ? "in-use" : "ended");
    return util_printf("in,%s,%u,%s", ops[p->op].name, p->pieces, p->flag[0] ? "wal-first" : "db-first");
}

#define FIND(list, text) find(&(list)[0].name, sizeof (list)[0], (unsigned)ARRAY_LEN(list), text)
static unsigned find(const char *const *name, size_t stride, unsigned n, const char *text)
{
    for (unsigned i = 0; i < n; i++)
        if (!strcmp(*(const char *const *)(const void *)((const char *)name + i * stride), text))
            return i;
    (void)fprintf(stderr, "explorer: no %s\n", text);
    exit(2);
}

static struct point parse(char *text)
{
    const char *part[5] = {"", "", "", "", ""};
    size_t n = 0;
    for (char *at = strtok(text, ","); at && n < ARRAY_LEN(part); at = strtok(NULL, ","))
        part[n++] = at;
    struct point p = {.kind = part[0][0]};
    if (!strchr("boi", p.kind) || n < 4) {
        (void)fprintf(stderr, "explorer: --level 5 --only beneath,O,k,DEED,ends|dies|goes-on or "
                              "over,O,LEAVING,cp|mv,ended|in-use or in,O,PIECES,db-first|wal-first\n");
        exit(2);
    }
    p.op = find(&ops[0].name, sizeof ops[0], n_ops, part[1]);
    if (p.kind == 'b') {
        p.k = (unsigned)atoi(part[2]);
        p.deed = FIND(deeds, part[3]);
        p.end = !strcmp(part[4], "dies") ? DIES : !strcmp(part[4], "ends") ? ENDS : GOES_ON;
    } else if (p.kind == 'o') {
        p.leaving = FIND(leavings, part[2]);
        p.flag[0] = !strcmp(part[3], "mv");
        p.flag[1] = !strcmp(part[4], "in-use");
    } else {
        p.pieces = (unsigned)MAX(atoi(part[2]), 1);
        p.flag[0] = !strcmp(part[3], "wal-first");
    }
    return p;
}

int files_search(const struct search *s)
{
    world.always_apart = true;
    world.copy_wait_ms = s->control ? 0 : 2000;
    world.without = s->control ? SOURCE_SIDES : 0;
    if (s->only) {
        struct point p = parse(s->only);
        print_steps = world.print = true;
        (void)run(&p, s->seed);
        printf("%s%s\n", world.violation[0] ? world.violation : "no violation", did ? "" : " (nothing was done)");
        return world.violation[0] != '\0';
    }
    time_t start = time(NULL);
    unsigned long bad = 0;
    for (unsigned long i = 0; i < s->runs; i++) {
        struct point p = sample(s->seed);
        (void)run(&p, s->seed);
        tried[kind_of(&p)] += did;
        wrong[kind_of(&p)] += world.violation[0] != '\0';
        if (!world.violation[0] || ++bad > 40 || s->control)
            continue;
        cleanup_free char *text = describe(&p);
        printf("violation: explorer --level 5 --seed %llu --only %s: %s\n", (unsigned long long)s->seed, text,
               world.violation);
        (void)fflush(stdout);
    }
    printf("explorer: seed %llu level 5%s: %lu runs, %lu times files were touched, %lu states compared, %lu times busy, "
           "%lu asleep, %lu last closes, %lu violations, %lld s\n", (unsigned long long)s->seed, s->control ? " without the looks at the side files and at copies" : "",
           s->runs, n_done, world.n_states_checked, world.n_busy, n_asleep, n_last_closes, bad, (long long)(time(NULL) - start));
    if (bad)
        print_kinds();
    bool empty = !s->runs || !world.n_states_checked || !n_done || (!s->control && !n_last_closes);
    return empty || (s->control ? !bad : bad > 0);
}
