/* held.c - level 4 of the explorer: an application is stopped in the middle of a statement.
 *
 * At step k of operation O an application in another process begins `how` and is stopped at its own step
 * `gate`: between two frames, before and after the sync, between the frames and the wal-index, between the
 * two copies of its header, before it lets go of the lock, in the middle of a checkpoint. O goes on, `then`
 * follows, and at step k2 of all that (0: after it) the application continues, or is killed where it is. At
 * step k3 another application does something beside it. Everything that the application was told to be
 * committed has to be in the spool in the end, also if walsup decides that it may go on sleeping. */
#include <time.h>

#include "tests/explorer/actions.h"
#include "tests/explorer/apart.h"
#include "tests/explorer/levels.h"
#include "tests/explorer/ops.h"
#include "tests/explorer/steps.h"
#include "tests/explorer/world.h"

/* ---- what it does, and what walsup does next --------------------------------------------------- */

static const struct how {
    const char *name, *sql;
} hows[] = {
    {"commit", "insert into t(b) values(randomblob(2000))"},
    {"spill", "begin immediate; update t set b=randomblob(350); insert into t(b) values(randomblob(9000)); commit"},
    {"rollback", "begin immediate; update t set b=randomblob(350); rollback"},
    {"passive", "pragma wal_checkpoint(passive)"},
    {"restart", "pragma wal_checkpoint(restart)"},
    {"truncate", "pragma wal_checkpoint(truncate)"},
    {"copy-commit", "pragma wal_checkpoint(passive); update t set b=randomblob(300) where a<4"},
    {"vacuum", "vacuum"},
    {"open", NULL},
    {"close", NULL},
};

enum { N_JOBS = 3 };
static const struct then {
    const char *name;
    bool restart; /* first of all another process of walsup takes over */
    struct source_job job[N_JOBS];
    unsigned n;
} thens[] = {
    {"nothing", false, {{.load = false}}, 0},
    {"capture", false, {{.capture = true}}, 1},
    {"settle", false, {{.capture = true, .settle = true}}, 1},
    {"snapshot", false, {{.capture = true, .snapshot = true}}, 1},
    {"detach", false, {{.detach = true}}, 1},
    {"hurry", false, {{.detach = true, .hurry = true}}, 1},
    {"detach-doze", false, {{.detach = true}, {.doze = true}}, 2},
    {"detach-attach", false, {{.detach = true}, {.capture = true}}, 2},
    {"hurry-attach", false, {{.detach = true, .hurry = true}, {.capture = true, .doze = true}}, 2},
    {"settle-detach", false, {{.capture = true, .settle = true}, {.detach = true}}, 2},
    {"settle-detach-attach", false, {{.capture = true, .settle = true}, {.detach = true}, {.capture = true}}, 3},
    {"restart", true, {{.capture = true, .doze = true}}, 1},
    {"restart-detach", true, {{.capture = true, .settle = true}, {.detach = true}}, 2},
};

static const char *const beside[] = {"commit", "passive", "full", "truncate", "last-close"};

/* ---- one run ---------------------------------------------------------------------------------- */

struct point {
    unsigned op, how, then;
    unsigned k, gate, k2, k3; /* steps; k2, k3: 0: after everything, never */
    bool killed;
    const char *beside;
};

static struct point now;
static bool print_steps;
static unsigned long n_stopped, n_where[4], n_asleep;

static void note_where(void)
{
    static const char *const kind[] = {"xWrite wal", "xSync wal", "xShmBarrier", "xShmLock"};
    n_stopped++;
    for (unsigned i = 0; i < ARRAY_LEN(kind); i++)
        n_where[i] += !strncmp(apart_where(apart_other), kind[i], strlen(kind[i]));
}

static void begin_it(void)
{
    const struct how *h = &hows[now.how];
    if (apart_open(apart_other, h->sql || !strcmp(h->name, "close") ? 0 : now.gate) == APART_DONE) {
        if (h->sql)
            (void)apart_sql(apart_other, now.gate, h->sql);
        else if (!strcmp(h->name, "close"))
            (void)apart_close(apart_other, now.gate);
    }
    if (apart_is_stopped(apart_other))
        note_where();
    if (print_steps)
        printf("  %s: %s %s\n", h->name, apart_is_stopped(apart_other) ? "stopped at" : "not stopped, took", apart_where(apart_other));
}

static void end_it(void)
{
    if (!apart_is_stopped(apart_other))
        return;
    if (now.killed)
        apart_kill(apart_other);
    else
        (void)apart_go(apart_other);
    if (print_steps)
        printf("  %s\n", now.killed ? "killed" : "continued");
}

static void act_beside(void)
{
    world_record(); /* a commit that is there, but of which its application was not told yet */
    for (size_t i = 0; i < n_actions; i++)
        if (!strcmp(actions[i].name, now.beside))
            actions[i].run();
}

static int at_step(unsigned n, const char *what)
{
    if (print_steps)
        printf("  step %u: %s\n", n, what);
    if (n == now.k)
        begin_it();
    if (n == now.k3 && now.beside)
        act_beside();
    if (n == now.k2)
        end_it();
    return 0;
}

static unsigned run(const struct point *p, uint64_t seed)
{
    const struct op *o = &ops[p->op];
    const struct then *t = &thens[p->then];
    now = *p;
    world_begin(seed);
    o->before();
    /* in between the wal-index may be in two minds, for longer than anybody waits: that is an error
     * which passes, and it costs continuity */
    world.any_error = world.may_break = true;
    steps_arm(at_step);
    world_job(&o->job);
    if (t->restart)
        world_source(world.conf.checkpoint_pages, world.conf.wal_limit_bytes);
    for (unsigned i = 0; i < t->n; i++)
        world_job(&t->job[i]);
    unsigned n = steps_disarm();
    end_it();
    /* a header that a dead process left half written costs one job, whose error closes the session */
    world.any_error = p->killed;
    /* whether it detached just now or before: what it believes to know of the files has to be true */
    if (world.r.state == SOURCE_ASLEEP || o->job.detach || t->n) {
        world_job(&(struct source_job){.doze = true});
        if (world.r.state == SOURCE_ASLEEP) {
            n_asleep++;
            world_judge();
        }
    }
    /* Whoever opens it next recovers what a dead process had written whole, which is a commit from
     * then on. While walsup only watches, it holds nobody off from that, and is told by events. */
    world_settle();
    world_quiet();
    world.any_error = false;
    world_judge();
    if (!world.violation[0]) {
        world_afterlife();
        world_judge();
    }
    world_end();
    return n;
}

/* ---- many ------------------------------------------------------------------------------------- */

static unsigned n_steps[MAX_OPS][ARRAY_LEN(thens)], n_gates[ARRAY_LEN(hows)];

static unsigned count_steps(const struct point *p, uint64_t seed)
{
    unsigned *n = &n_steps[p->op][p->then];
    if (!*n)
        *n = run(&(struct point){.op = p->op, .then = p->then}, seed);
    return *n;
}

static void count_gates(uint64_t seed)
{
    for (unsigned h = 0; h < ARRAY_LEN(hows); h++) {
        world_begin(seed);
        now = (struct point){.how = h};
        begin_it();
        n_gates[h] = MAX(apart_steps(apart_other), 1u);
        world_end();
    }
}

/* near: only what a walsup without the look at the write lock is likely to fall for. */
static struct point sample(uint64_t seed, bool near)
{
    struct point p = {.op = search_below(n_ops), .then = search_below((unsigned)ARRAY_LEN(thens)),
                      .how = search_below((unsigned)ARRAY_LEN(hows))};
    if (search_below(2))
        p.how = 0; /* the commonest of all deserves it */
    unsigned n = count_steps(&p, seed);
    p.k = 1 + search_below(n);
    switch (search_below(4)) {
    case 0: /* all its frames are there, and nobody knows */
        p.gate = APART_SYNC + 1 + search_below(2);
        break;
    case 1:
        p.gate = APART_BARRIER + 1 + search_below(2);
        break;
    default:
        p.gate = 1 + search_below(n_gates[p.how]);
    }
    p.k2 = search_below(3) ? 0 : p.k + search_below(n - p.k + 1);
    p.killed = search_below(3) == 0;
    if (search_below(3) == 0) {
        p.beside = beside[search_below((unsigned)ARRAY_LEN(beside))];
        p.k3 = p.k + search_below(n - p.k + 1);
    }
    if (near) {
        p.gate = APART_SYNC + 1 + search_below(2);
        p.how = p.k2 = p.k3 = 0;
        p.killed = false;
        p.beside = NULL;
    }
    return p;
}

static unsigned find(const char *what, const char *name, const char *(*name_of)(unsigned), unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!strcmp(name_of(i), name))
            return i;
    (void)fprintf(stderr, "explorer: no %s %s\n", what, name);
    exit(2);
}

static const char *op_name(unsigned i)
{
    return ops[i].name;
}

static const char *how_name(unsigned i)
{
    return hows[i].name;
}

static const char *then_name(unsigned i)
{
    return thens[i].name;
}

/* O,k,HOW,gate,THEN,k2,goes|killed[,k3,BESIDE] */
static struct point parse(char *text)
{
    char *part[9] = {NULL};
    size_t n = 0;
    for (char *at = strtok(text, ","); at && n < ARRAY_LEN(part); at = strtok(NULL, ","))
        part[n++] = at;
    if (n != 7 && n != 9) {
        (void)fprintf(stderr, "explorer: --level 4 --only O,k,HOW,gate,THEN,k2,goes|killed[,k3,BESIDE]\n");
        exit(2);
    }
    return (struct point){.op = find("operation", part[0], op_name, n_ops),
                          .k = (unsigned)atoi(part[1]),
                          .how = find("statement", part[2], how_name, (unsigned)ARRAY_LEN(hows)),
                          .gate = (unsigned)atoi(part[3]),
                          .then = find("sequel", part[4], then_name, (unsigned)ARRAY_LEN(thens)),
                          .k2 = (unsigned)atoi(part[5]),
                          .killed = !strcmp(part[6], "killed"),
                          .k3 = part[7] ? (unsigned)atoi(part[7]) : 0,
                          .beside = part[8]};
}

static void print_violation(const struct point *p, uint64_t seed)
{
    printf("violation: explorer --level 4 --seed %llu --only %s,%u,%s,%u,%s,%u,%s", (unsigned long long)seed,
           ops[p->op].name, p->k, hows[p->how].name, p->gate, thens[p->then].name, p->k2,
           p->killed ? "killed" : "goes");
    if (p->beside)
        printf(",%u,%s", p->k3, p->beside);
    printf(": %s\n", world.violation);
    (void)fflush(stdout);
}

int held_search(const struct search *s)
{
    world.always_apart = true;
    world.without = s->control ? SOURCE_WRITER : 0;
    if (s->only) {
        struct point p = parse(s->only);
        print_steps = world.print = true;
        (void)run(&p, s->seed);
        printf("%s\n", world.violation[0] ? world.violation : "no violation");
        return world.violation[0] != '\0';
    }
    time_t start = time(NULL);
    unsigned long bad = 0;
    count_gates(s->seed);
    for (unsigned long i = 0; i < s->runs; i++) {
        struct point p = sample(s->seed, s->control);
        (void)run(&p, s->seed);
        if (!world.violation[0])
            continue;
        if (++bad <= 40 && !s->control)
            print_violation(&p, s->seed);
    }
    printf("explorer: seed %llu level 4%s: %lu runs, stopped %lu times (%lu at a frame, %lu at a sync, %lu at the "
           "wal-index, %lu at a lock), %lu states compared, %lu times busy, %lu asleep, %lu violations, %lld s\n",
           (unsigned long long)s->seed, s->control ? " without the look at the write lock" : "", s->runs, n_stopped, n_where[0],
           n_where[1], n_where[2], n_where[3], world.n_states_checked, world.n_busy, n_asleep, bad,
           (long long)(time(NULL) - start));
    bool nothing = !s->runs || !world.n_states_checked || !n_where[1] || !n_asleep ||
                   (!s->control && (!n_where[0] || !n_where[2]));
    return nothing || (s->control ? !bad : bad > 0);
}
