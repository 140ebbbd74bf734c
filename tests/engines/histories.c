/* histories - many short random lives of one database: commits, VACUUM, large transactions, snapshots, merging,
 * retention, restarts, a state directory that goes back in time, takeovers, a clock that is set. After each
 * verify must find nothing wrong; and it must notice when one object that is needed is taken away.
 *
 *   histories DIR N SEED        N of them; the seed of one that fails is printed
 *   histories DIR 1 SEED -v     what is done, one a line */
#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/base/log.h"
#include "common/store/layout.h"
#include "common/store/verify.h"
#include "daemon/capture/session.h"
#include "daemon/core/history_int.h"
#include "daemon/core/manager.h"
#include "tests/engines/app.h"

#define MINUTE 60000ll
#define HOUR (60 * MINUTE)
#define OPS 40

static const char *base;
static uv_loop_t loop;
static struct manager *m;
static bool verbose, setup;
static struct tally {
    unsigned lives, objects, takeovers, holes, noticed, wrong, sets;
} tally;

static _Noreturn void die(const char *fmt, ...) PRINTF_LIKE(1, 2);
static _Noreturn void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)printf("histories: ");
    (void)vprintf(fmt, ap);
    (void)putchar('\n');
    (void)fflush(stdout);
    _exit(3);
}

static void say(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void say(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (verbose) {
        (void)vprintf(fmt, ap);
        (void)putchar('\n');
        (void)fflush(stdout);
    }
    va_end(ap);
}

static void shell(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void shell(const char *fmt, ...)
{
    char text[1000];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (system(text) != 0)
        die("%s failed", text);
}

static void sql(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void sql(const char *fmt, ...)
{
    char text[500], answer[APP_TEXT];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!app_do('S', text, answer))
        die("%s", answer);
}

/* ---- the daemon, in this process ------------------------------------------------------------------------ */

static struct database *db(void)
{
    return m->db[0];
}

static struct conf *load_conf(void)
{
    cleanup_free char *path = util_printf("%s/walsup.ini", base);
    cleanup_free char *text = util_printf(
        "[walsup]\nstate-dir = %s/state\nsocket = %s/sock\nsync-interval = 10ms\nidle-timeout = 1s\nmin-free = 0MiB\ncopy-wait = 0s\n"
        "retention = 1d\nsnapshot-interval = 6h\nlog-level = error\n[target local]\ntype = file\npath = %s/replica\n"
        "[db a]\npath = %s/a.db\ntarget = local\n", base, base, base, base);
    struct err e;
    struct conf *c;
    cleanup_buf struct buf errors = BUF_INIT;
    if (fsx_publish(path, text, strlen(text), 0600, FSX_REPLACE | FSX_NOSYNC, &e) < 0 ||
        conf_load(path, &c, &errors, &e) < 0)
        die("%s %s", e.msg, buf_str(&errors));
    return c;
}

static bool keepers_rest(void)
{
    const struct history *h = db()->history;
    bool rest = !h || (!h->job && !h->queued && h->loaded);
    for (size_t i = 0; rest && h && i < h->n_keepers; i++)
        rest = h->keeper[i].doing == KEEPER_RESTS && h->keeper[i].has_facts && !h->keeper[i].stale;
    return rest;
}

static void settle(void)
{
    for (unsigned calm = 0; calm < 2;) {
        bool quiet = !db()->run && !db()->snapshot_wanted && !db()->up[0]->flight && keepers_rest() &&
                     !agenda_look(m->history->agenda) && !agenda_look(m->history->looks);
        calm = quiet ? calm + 1 : 0;
        (void)uv_run(&loop, calm ? UV_RUN_NOWAIT : UV_RUN_ONCE);
    }
}

static void forward(int64_t ms)
{
    clk_shift(ms, (uint64_t)ms);
    settle();
}

static void begin(void)
{
    struct err e;
    cleanup_free char *ini = util_printf("%s/walsup.ini", base), *path = util_printf("%s/a.db", base);
    if (!setup && session_setup(&e) < 0)
        die("%s", e.msg);
    setup = true;
    char answer[APP_TEXT];
    if (!app_do('O', path, answer))
        die("%s: %s", path, answer);
    sql("pragma journal_mode=wal; pragma synchronous=off; create table if not exists t(a integer primary key, b)");
    (void)uv_loop_init(&loop);
    if (manager_new(&loop, ini, load_conf(), &m, &e) < 0)
        die("%s", e.msg);
    while (!m->ready)
        (void)uv_run(&loop, UV_RUN_ONCE);
}

static void end(void)
{
    manager_stop(m);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    (void)uv_run(&loop, UV_RUN_NOWAIT);
    (void)manager_free(m);
    (void)uv_loop_close(&loop);
    char answer[APP_TEXT];
    (void)app_do('C', "", answer);
}

static bool answered;
static struct err answer;

static void on_synced(struct database_sync *w, const struct err *e)
{
    (void)w;
    answer = *e;
    answered = true;
}

/* Whether it got there. */
static bool sync_all(void)
{
    struct database_sync w = {.done = on_synced, .wait = true};
    answered = false;
    database_sync(db(), &w, 30000);
    while (!answered)
        (void)uv_run(&loop, UV_RUN_ONCE);
    return answer.code == ERR_OK;
}

/* ---- what may happen ------------------------------------------------------------------------------------ */

static void take_over(void)
{
    tally.takeovers++;
    say("takeover");
    uploader_takeover(db()->up[0]);
    if (!sync_all())
        die("after a takeover: %s", answer.msg);
}

static void sync_or_take_over(void)
{
    if (sync_all())
        return;
    if (!db()->up[0]->fenced)
        die("sync: %s", answer.msg);
    if (!strstr(answer.msg, "this machine") && !strstr(answer.msg, "copy of this history"))
        die("the machine's own past is called something else: %s", answer.msg);
    take_over();
}

static void some_commits(void)
{
    long n = 1 + random() % 8;
    say("%ld commits", n);
    for (long i = 0; i < n; i++) {
        sql("begin; insert into t(b) values(randomblob(%ld)); update t set b = randomblob(%ld) where a %% 20 = %ld; commit",
            random() % 900, random() % 400, random() % 20);
        sync_or_take_over();
        forward(1000 + random() % 20000);
    }
}

static void a_large_one(bool vacuum)
{
    say(vacuum ? "vacuum" : "a large transaction");
    sql("insert into t(b) values(randomblob(%ld))", 1100000 + random() % 500000);
    if (vacuum) {
        sync_or_take_over();
        sql("delete from t where length(b) > 1000000 and a %% 2; vacuum");
    }
    sync_or_take_over();
}

static void on_called(struct history_call *c)
{
    history_call_done(c);
    answered = true;
}

static void a_snapshot(void)
{
    say("snapshot");
    struct history_call c = {.what = HISTORY_SNAPSHOT, .done = on_called};
    answered = false;
    history_ask(db(), &c);
    while (!answered)
        (void)uv_run(&loop, UV_RUN_ONCE);
}

static void time_goes_by(void)
{
    static const int64_t most[] = {MINUTE, 10 * MINUTE, 3 * HOUR, 30 * HOUR};
    int64_t ms = 1 + random() % most[random() % (long)ARRAY_LEN(most)];
    say("%lld min", (long long)(ms / MINUTE));
    for (int i = 0; i < 4; i++)
        forward(ms / 4);
}

/* A machine that is put back to what it was: its state directory is, the database goes on. */
static void back_in_time(void)
{
    say("the state directory goes back in time");
    end();
    shell("rm -rf %s/old; cp -a %s/state %s/old", base, base, base);
    begin();
    some_commits();
    end();
    shell("rm -rf %s/state; mv %s/old %s/state", base, base, base);
    begin();
    some_commits();
}

static void clock_is_set(void)
{
    static const int64_t by[] = {5000, 10 * MINUTE, 26 * HOUR, 3 * 365 * 24 * HOUR};
    int64_t ms = by[random() % (long)ARRAY_LEN(by)];
    say("the clock is %lld min ahead for a while", (long long)(ms / MINUTE));
    tally.sets++;
    clk_shift(ms, 0);
    some_commits();
    if (random() % 2)
        a_snapshot();
    clk_shift(-ms, 0);
}

static void something(void)
{
    long x = random() % 100;
    if (x < 55)
        some_commits();
    else if (x < 62)
        a_large_one(true);
    else if (x < 67)
        a_large_one(false);
    else if (x < 85)
        time_goes_by();
    else if (x < 90)
        a_snapshot();
    else if (x < 94) {
        say("restart");
        end();
        begin();
    } else if (x < 97)
        back_in_time();
    else
        clock_is_set();
}

/* ---- the judgement -------------------------------------------------------------------------------------- */

static void verify(struct verify_result *r)
{
    struct conf *c = load_conf();
    struct store *s;
    struct err e;
    (void)uv_loop_init(&loop);
    if (store_open(&loop, &c->target[0], &s, &e) < 0)
        die("%s", e.msg);
    struct verify_opts o = {.replica = "a", .tmp_dir = base, .map_fd = -1};
    if (verify_run(&loop, s, &o, NULL, NULL, r, &e) < 0)
        die("verify: %s", e.msg);
    store_close(s, NULL, NULL);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&loop);
    (void)conf_free(c);
}

static void print_wrong(const struct verify_result *r)
{
    for (size_t i = 0; i < r->n_objects; i++) {
        const struct verify_object *o = &r->object[i];
        if (verbose || o->state != VERIFY_FOUND)
            printf("  %s level %u %llx-%llx %llu bytes: %s\n", verify_state_name(o->state), o->level,
                   (unsigned long long)o->min, (unsigned long long)o->max, (unsigned long long)o->size, o->why ? o->why : "");
    }
    if (!r->latest_restores)
        printf("  the latest state does not restore: %s\n", r->latest_why);
}

static bool stands_alone(const struct verify_result *r, uint64_t txid)
{
    for (size_t i = 0; i < r->n_objects; i++) {
        const struct verify_object *o = &r->object[i];
        bool covers = o->min <= txid && o->max >= txid && (o->level || o->min < o->max);
        if (o->state != VERIFY_FOUND || (covers && o->level < LTX_SNAPSHOT_LEVEL) || (o->min == 1 && o->max >= txid))
            return false;
    }
    return true;
}

/* One file of level 0 that no other holds, and on which others stand. */
static const struct verify_object *needed(const struct verify_result *r)
{
    const struct verify_object *found = NULL;
    unsigned n = 0;
    for (size_t i = 0; i + 1 < r->n_objects; i++) {
        const struct verify_object *o = &r->object[i];
        if (o->level == 0 && !o->why && r->object[i + 1].level == 0 && o->max < r->newest && stands_alone(r, o->max) &&
            random() % ++n == 0)
            found = o;
    }
    return found;
}

static bool judge(unsigned long seed)
{
    struct verify_result r = {0}, without = {0};
    verify(&r);
    tally.objects += (unsigned)r.n_objects;
    bool good = !verify_wrong(&r) && r.latest_restores;
    if (!good || verbose) {
        printf("histories: seed %lu: %zu of %zu objects wrong\n", seed, verify_wrong(&r), r.n_objects);
        print_wrong(&r);
    }
    const struct verify_object *o = good ? needed(&r) : NULL;
    if (o) {
        tally.holes++;
        cleanup_free char *path = util_printf("%s/replica/%s", base, o->name);
        if (unlink(path) < 0)
            die("%s is not there", path);
        verify(&without);
        tally.noticed += verify_wrong(&without) > 0;
        if (!verify_wrong(&without)) {
            printf("histories: seed %lu: %s was taken away, and verify does not notice\n", seed, o->name);
            good = false;
        }
        verify_result_done(&without);
    }
    verify_result_done(&r);
    return good;
}

static bool live(unsigned long seed)
{
    srandom((unsigned)seed);
    shell("rm -rf %s; mkdir -p %s", base, base);
    begin();
    some_commits();
    for (int i = 0; i < OPS / 2 + (int)(random() % OPS); i++)
        something();
    some_commits();
    end();
    tally.lives++;
    return judge(seed);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        die("histories DIR N SEED [-v]");
    if (!app_start())
        die("no application");
    cleanup_free char *at = util_printf("%s/life", argv[1]);
    base = at;
    verbose = argc > 4;
    (void)setenv("UV_THREADPOOL_SIZE", "4", 1);
    log_setup(verbose && getenv("HISTORY_LOG") ? LOG_INFO : LOG_ERROR - 1);
    unsigned long n = strtoul(argv[2], NULL, 10), seed = strtoul(argv[3], NULL, 10);
    for (unsigned long i = 0; i < n; i++)
        tally.wrong += !live(seed + i);
    printf("histories: %u lives from seed %lu, %u objects, %u takeovers, the clock set %u times: %u with a false alarm or "
           "more; %u objects taken away, %u of these noticed\n",
           tally.lives, seed, tally.objects, tally.takeovers, tally.sets, tally.wrong, tally.holes, tally.noticed);
    return tally.wrong || !tally.lives || (n >= 20 && (!tally.holes || !tally.takeovers));
}
