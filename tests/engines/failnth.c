/* failnth - the Nth of something fails, for every N until it is not reached any more.
 *
 *   failnth [--every N] [--offset N] [--control]
 *
 * What fails: an allocation within SQLite; an allocation of walsup's own where it does not end the process
 * by design (util_alloc); each kind of file operation, with EIO and ENOSPC. Once, or from the Nth on
 * until the job ends. In each operation of tests/explorer/ops.c. Then the next jobs must recover by
 * themselves, and the spool must be what world_judge demands. A file whose fsync failed must not be in
 * the spool, whatever later ones said.
 * --every, --offset: a part of it. --control: a failed fsync that is not told; must find something. */
#include <errno.h>
#include <getopt.h>
#include <sys/stat.h>

#include "common/base/clk.h"
#include "tests/explorer/ops.h"
#include "tests/explorer/steps.h"

/* ---- allocations ------------------------------------------------------------------------------ */

enum what { SQLITE_MEMORY, OWN_MEMORY, OPEN, WRITE, FSYNC, RENAME, UNLINK, MKDIR, N_WHAT };

static const char *const what_name[N_WHAT] = {"sqlite-memory", "memory", "open",   "write",
                                              "fsync",         "rename", "unlink", "mkdir"};
static struct {
    enum what what;
    unsigned long n, count; /* the nth, so far */
    bool forever, armed;
    int error;
} fault;
static unsigned long n_failed[N_WHAT];

static bool fails(enum what what)
{
    if (!fault.armed || fault.what != what)
        return false;
    fault.count++;
    if (fault.count != fault.n && !(fault.forever && fault.count > fault.n))
        return false;
    n_failed[what]++;
    return true;
}

static sqlite3_mem_methods sqlite_memory;

static void *sqlite_malloc(int n)
{
    return fails(SQLITE_MEMORY) ? NULL : sqlite_memory.xMalloc(n);
}

static void *sqlite_realloc(void *p, int n)
{
    return fails(SQLITE_MEMORY) ? NULL : sqlite_memory.xRealloc(p, n);
}

static void sqlite_memory_wrap(void)
{
    if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &sqlite_memory) != SQLITE_OK)
        abort();
    sqlite3_mem_methods mine = sqlite_memory;
    mine.xMalloc = sqlite_malloc;
    mine.xRealloc = sqlite_realloc;
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &mine) != SQLITE_OK)
        abort();
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_util_alloc(size_t n);
void *__real_util_zalloc(size_t n);
void *__real_util_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_util_alloc(size_t n);
void *__wrap_util_zalloc(size_t n);
void *__wrap_util_realloc(void *p, size_t n);

static bool in_util; /* which ends the process when there is no memory: not what is tested here */

void *__wrap_malloc(size_t n)
{
    return !in_util && fails(OWN_MEMORY) ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return !in_util && fails(OWN_MEMORY) ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return !in_util && fails(OWN_MEMORY) ? NULL : __real_realloc(p, n);
}

void *__wrap_util_alloc(size_t n)
{
    in_util = true;
    void *p = __real_util_alloc(n);
    in_util = false;
    return p;
}

void *__wrap_util_zalloc(size_t n)
{
    in_util = true;
    void *p = __real_util_zalloc(n);
    in_util = false;
    return p;
}

void *__wrap_util_realloc(void *p, size_t n)
{
    in_util = true;
    p = __real_util_realloc(p, n);
    in_util = false;
    return p;
}

/* ---- files ------------------------------------------------------------------------------------ */

static ino_t poisoned[64]; /* their fsync failed */
static size_t n_poisoned;

static int at_step(unsigned n, const char *text)
{
    static const struct {
        const char *text;
        enum what what;
    } list[] = {{"open", OPEN},     {"open to create", OPEN}, {"write", WRITE}, {"fsync", FSYNC},
                {"rename", RENAME}, {"unlink", UNLINK},       {"mkdir", MKDIR}};
    (void)n;
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        if (strcmp(text, list[i].text) != 0)
            continue;
        if (!fails(list[i].what))
            return 0;
        struct stat st;
        if (list[i].what == FSYNC && n_poisoned < ARRAY_LEN(poisoned) && fstat(steps_fd, &st) == 0 &&
            S_ISREG(st.st_mode))
            poisoned[n_poisoned++] = st.st_ino;
        return fault.error;
    }
    return 0;
}

static int check_name(const char *name, void *arg)
{
    cleanup_free char *path = util_printf("%s/%s", (const char *)arg, name);
    struct stat st;
    for (size_t i = 0; i < n_poisoned && stat(path, &st) == 0; i++)
        if (st.st_ino == poisoned[i])
            world_violation("%s is in the spool, and its fsync failed", name);
    return 0;
}

/* Right after the job: an inode that is free is soon another file's. */
static void check_poisoned(void)
{
    cleanup_free char *l0 = util_printf("%s/l0", world.spool);
    if (n_poisoned && access(l0, F_OK) == 0)
        (void)fsx_list(l0, check_name, l0, NULL);
    n_poisoned = 0;
}

/* ---- runs ------------------------------------------------------------------------------------- */

static unsigned long n_runs, n_violations;
static bool control;

/* false: the Nth was not reached */
static bool run(const struct op *o, enum what what, unsigned long n, bool forever, int error)
{
    world_begin(1);
    o->before();
    world.any_error = world.may_break = true;
    fault.what = what;
    fault.n = n;
    fault.count = 0;
    fault.forever = forever;
    fault.error = error;
    n_poisoned = 0;
    steps_arm(at_step);
    fault.armed = true;
    world_job(&o->job);
    fault.armed = false;
    (void)steps_disarm();
    bool reached = fault.count >= n;
    check_poisoned();
    world.any_error = false;
    world_quiet();
    world_judge();
    if (!world.violation[0]) {
        world_afterlife();
        world_judge();
    }
    world_end();
    n_runs++;
    if (world.violation[0]) {
        n_violations++;
        if (!control)
            printf("violation: %s, %s %lu%s fails (%s): %s\n", o->name, what_name[what], n,
                   forever ? " and all after it" : "", strerrorname_np(error), world.violation);
    }
    return reached;
}

static void all_of(const struct op *o, enum what what, unsigned long first, unsigned long every)
{
    bool memory = what == SQLITE_MEMORY || what == OWN_MEMORY;
    unsigned long step = memory ? every : (every + 7) / 8; /* there are few of the others */
    for (int mode = 0; mode < (memory ? 2 : 4); mode++)
        for (unsigned long n = 1 + first % step; run(o, what, n, mode & 1, mode & 2 ? EIO : ENOSPC);)
            n += step;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"every", 1, NULL, 'e'}, {"offset", 1, NULL, 'o'}, {"control", 0, NULL, 'c'}, {NULL, 0, NULL, 0}};
    unsigned long every = 1, offset = 0;
    int opt;
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt == 'e')
            every = MAX(strtoul(optarg, NULL, 10), 1ul);
        else if (opt == 'o')
            offset = strtoul(optarg, NULL, 10);
        else if (opt == 'c')
            control = steps_fsync_lies = true;
        else
            return 2;
    }
    sqlite_memory_wrap();
    world_setup(NULL);
    uint64_t start = clk_mono_ms();
    for (unsigned i = 0; i < n_ops; i++)
        for (int w = control ? FSYNC : 0; w < (control ? FSYNC + 1 : N_WHAT); w++)
            all_of(&ops[i], (enum what)w, offset + i, every);
    printf("failnth: every %lu from %lu%s: %u operations, %lu runs, failed:", every, offset,
           control ? ", failed fsyncs hidden" : "", n_ops, n_runs);
    unsigned long total = 0;
    for (int w = 0; w < N_WHAT; w++) {
        printf(" %s %lu", what_name[w], n_failed[w]);
        total += n_failed[w];
    }
    printf("; %lu states compared, %lu violations, %.1f s\n", world.n_states_checked, n_violations,
           (double)(clk_mono_ms() - start) / 1e3);
    if (!total || !world.n_states_checked)
        return 1;
    return control ? !n_violations : n_violations > 0;
}
