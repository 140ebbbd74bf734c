/* explorer - one thing that an application may do, at every step of everything that walsup does.
 *
 *   explorer [--seed N] [--level 1|2|3|4|5] [--runs N | --all] [--control] [--list]
 *   explorer --seed N --only O,k,A[,k2,A2 | ,j,E]
 *
 * An operation O of the source (attach, capture, handover, checkpoint, barrier, ...) takes some number
 * of steps: calls of its connections into the VFS, its own file operations, its looks at the wal-index.
 * At step k the application does A. Then O is finished, and walsup is given time to become quiet; the
 * files of its spool must then be, one by one, states that the application committed, the last one what
 * a reader sees (world_judge).
 *   level 1: every (O, k, A).  level 2: two interruptions.  level 3: an action, and an I/O error at
 * another step (EIO or ENOSPC).
 *   level 4: an application that is stopped in the middle of a statement (held.c).
 *   level 5: an application whose files are removed, replaced, copied over and copied in (files.c).
 * Without --all a sample of N runs is taken by the seed, which is printed. --control: the same, on a
 * walsup whose guards are not held (level 4: that does not look at the write lock; level 5: nor at what becomes
 * of the side files and at what is being copied in); it must find something. Exit status 0: no violation (--control: at
 * least one). */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>

#include "common/base/clk.h"
#include "tests/explorer/actions.h"
#include "tests/explorer/apart.h"
#include "tests/explorer/levels.h"
#include "tests/explorer/ops.h"
#include "tests/explorer/steps.h"
#include "tests/explorer/world.h"

/* ---- one run ---------------------------------------------------------------------------------- */

struct point {
    unsigned op;
    unsigned k[2]; /* steps; 0: none */
    unsigned a[2]; /* actions */
    unsigned j;    /* step that fails; 0: none */
    int error;
};

static struct point now;
static uint64_t seed = 1;
static bool print_steps;
static unsigned long n_asleep;

static int at_step(unsigned n, const char *what)
{
    if (print_steps)
        printf("  step %u: %s\n", n, what);
    for (int i = 0; i < 2; i++)
        if (n == now.k[i])
            actions[now.a[i]].run();
    return n == now.j ? now.error : 0;
}

static unsigned run(const struct point *p)
{
    const struct op *o = &ops[p->op];
    now = *p;
    world_begin(seed);
    o->before();
    world.any_error = p->j != 0;
    world.may_break = !(o->flags & KEPT) || p->j;
    steps_arm(at_step);
    world_job(&o->job);
    unsigned n = steps_disarm();
    world.elsewhere = false;
    if ((o->flags & AWAKE) && world.r.state == SOURCE_ASLEEP)
        world_violation("asleep, although something happened");
    if (o->job.detach) { /* and if it stays asleep, nothing may be missing */
        world_job(&(struct source_job){.doze = true});
        if (world.r.state == SOURCE_ASLEEP) {
            n_asleep++;
            world_judge();
        }
    }
    world_quiet();
    world_judge();
    if (!world.violation[0]) {
        world_afterlife();
        world_judge();
    }
    world.n_fulls += world.r.count.fulls;
    world_end();
    return n;
}

/* ---- many runs -------------------------------------------------------------------------------- */

static unsigned n_steps[MAX_OPS];
static unsigned long n_runs, n_violations;
static bool control;

static uint64_t rnd(void)
{
    static uint64_t x;
    if (!x)
        x = seed * 0x9e3779b97f4a7c15u + 1;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x >> 11;
}

static void try(const struct point *p)
{
    (void)run(p);
    n_runs++;
    if (!world.violation[0])
        return;
    n_violations++;
    if (control || n_violations > 40)
        return;
    printf("violation: explorer --seed %llu --only %s,%u,%s", (unsigned long long)seed, ops[p->op].name,
           p->k[0], actions[p->a[0]].name);
    if (p->k[1])
        printf(",%u,%s", p->k[1], actions[p->a[1]].name);
    if (p->j)
        printf(",%u,%s", p->j, p->error == ENOSPC ? "ENOSPC" : "EIO");
    printf(": %s\n", world.violation);
    (void)fflush(stdout);
}

/* A run takes milliseconds. One that never ends, as where walsup and the application wait for the
 * same mutex, is to be named too; `now` is of levels 1 to 3. */
static void *watch_for_hangs(void *unused)
{
    const struct timespec pause = {.tv_sec = 60};
    for (unsigned long last = 0; clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL) == 0;) {
        if (world.n_begun == last)
            break;
        last = world.n_begun;
    }
    (void)fprintf(stderr,
                  "violation: explorer --seed %llu --only %s,%u,%s: run %lu does not end\n",
                  (unsigned long long)seed, ops[now.op].name, now.k[0], actions[now.a[0]].name,
                  world.n_begun);
    _exit(1);
    return unused;
}

static unsigned find_action(const char *name)
{
    for (unsigned i = 0; i < n_actions; i++)
        if (!strcmp(actions[i].name, name))
            return i;
    (void)fprintf(stderr, "explorer: no action %s\n", name);
    exit(2);
}

static unsigned find_op(const char *name)
{
    for (unsigned i = 0; i < n_ops; i++)
        if (!strcmp(ops[i].name, name))
            return i;
    (void)fprintf(stderr, "explorer: no operation %s\n", name);
    exit(2);
}

static void count_steps(void)
{
    for (unsigned o = 0; o < n_ops; o++) {
        n_steps[o] = run(&(struct point){.op = o});
        if (world.violation[0] && !control) {
            printf("violation: %s alone: %s\n", ops[o].name, world.violation);
            n_violations++;
        }
    }
}

static unsigned below(unsigned n)
{
    return (unsigned)(rnd() % n);
}

unsigned search_below(unsigned n)
{
    return below(n);
}

static void sample(int level, unsigned long runs)
{
    for (unsigned long i = 0; i < runs; i++) {
        struct point p = {.op = below(n_ops)};
        if ((ops[p.op].flags & SLOW) && below(3))
            p.op = below(n_ops);
        if (control)
            while (!(ops[p.op].flags & KEPT))
                p.op = below(n_ops);
        p.k[0] = 1 + below(n_steps[p.op]);
        p.a[0] = below((unsigned)n_actions);
        if (level == 2) {
            p.k[1] = 1 + below(n_steps[p.op] + 5);
            p.a[1] = below((unsigned)n_actions);
        } else if (level == 3) {
            p.j = 1 + below(n_steps[p.op]);
            p.error = below(2) ? ENOSPC : EIO;
            if (below(2))
                p.k[0] = 0; /* the error alone */
        }
        try(&p);
    }
}

/* What it has found before, at every step. */
static void again(void)
{
    static const char *const op[] = {"attach", "detach-drained"};
    for (size_t i = 0; i < ARRAY_LEN(op); i++)
        for (unsigned o = find_op(op[i]), k = 1; k <= n_steps[o]; k++)
            try(&(struct point){.op = o, .k = {k, 0}, .a = {find_action("replace-live"), 0}});
}

static void everything(int level)
{
    for (unsigned o = 0; o < n_ops; o++)
        for (unsigned k = 1; k <= n_steps[o]; k++) {
            if (level == 3) {
                try(&(struct point){.op = o, .j = k, .error = EIO});
                try(&(struct point){.op = o, .j = k, .error = ENOSPC});
                continue;
            }
            for (unsigned a = 0; a < n_actions; a++)
                try(&(struct point){.op = o, .k = {k, 0}, .a = {a, 0}});
        }
}

/* ---- main ------------------------------------------------------------------------------------- */

static struct point parse_point(char *text)
{
    char *part[5] = {NULL};
    size_t n = 0;
    for (char *at = strtok(text, ","); at && n < 5; at = strtok(NULL, ","))
        part[n++] = at;
    if (n != 3 && n != 5) {
        (void)fprintf(stderr, "explorer: --only O,k,A[,k2,A2 | ,j,EIO | ,j,ENOSPC]\n");
        exit(2);
    }
    struct point p = {.op = find_op(part[0])};
    p.k[0] = (unsigned)atoi(part[1]);
    p.a[0] = find_action(part[2]);
    if (n == 5 && part[4][0] == 'E') {
        p.j = (unsigned)atoi(part[3]);
        p.error = !strcmp(part[4], "ENOSPC") ? ENOSPC : EIO;
    } else if (n == 5) {
        p.k[1] = (unsigned)atoi(part[3]);
        p.a[1] = find_action(part[4]);
    }
    return p;
}

static int only(char *text)
{
    struct point p = parse_point(text);
    print_steps = world.print = true;
    (void)run(&p);
    printf("%s\n", world.violation[0] ? world.violation : "no violation");
    return world.violation[0] != '\0';
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", 1, NULL, 's'}, {"level", 1, NULL, 'l'},   {"runs", 1, NULL, 'r'}, {"all", 0, NULL, 'a'},
        {"only", 1, NULL, 'o'}, {"control", 0, NULL, 'c'}, {"list", 0, NULL, 'L'}, {NULL, 0, NULL, 0},
    };
    int level = 1, opt;
    unsigned long runs = 1000;
    bool all = false, list = false;
    char *one = NULL;
    world_child_main(argc, argv);
    apart_main(argc, argv);
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (opt) {
        case 's':
            seed = strtoull(optarg, NULL, 10);
            break;
        case 'l':
            level = atoi(optarg);
            break;
        case 'r':
            runs = strtoul(optarg, NULL, 10);
            break;
        case 'a':
            all = true;
            break;
        case 'o':
            one = optarg;
            break;
        case 'c':
            control = true;
            break;
        case 'L':
            list = true;
            break;
        default:
            return 2;
        }
    }
    world_setup(NULL);
    pthread_t watch;
    if (pthread_create(&watch, NULL, watch_for_hangs, NULL) != 0)
        return 2;
    steps_no_guard = control && level < 4;
    if (level >= 4) {
        const struct search search = {.seed = seed, .runs = runs, .control = control, .only = one};
        return level == 4 ? held_search(&search) : files_search(&search);
    }
    if (one)
        return only(one);
    uint64_t start = clk_mono_ms();
    count_steps();
    unsigned total = 0;
    for (unsigned o = 0; o < n_ops; o++) {
        total += n_steps[o];
        if (list)
            printf("%-20s %u steps\n", ops[o].name, n_steps[o]);
    }
    if (list)
        runs = 0;
    else if (all)
        everything(level);
    else
        sample(level, runs);
    if (level == 1 && !all && !list && !control)
        again();
    printf("explorer: seed %llu level %d%s: %u operations of %u steps, %zu actions: %lu runs, %lu states "
           "compared, %lu pages, %lu times busy, %lu full captures, %lu asleep, %lu violations, %.1f s\n",
           (unsigned long long)seed, level, control ? " without guards" : "", n_ops, total, n_actions,
           n_runs, world.n_states_checked, world.n_pages, world.n_busy, world.n_fulls, n_asleep, n_violations,
           (double)(clk_mono_ms() - start) / 1e3);
    if (list)
        return 0;
    bool nothing = !n_runs || !total || !world.n_states_checked;
    return nothing || (control ? !n_violations : n_violations > 0);
}
