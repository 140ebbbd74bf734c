/* history - many days of one database in a minute: the real daemon's code in one process with the application, on
 * a clock that the test moves.
 *
 *   history live DIR DAYS SEED     commits, for so many days from where the last run ended; what was acknowledged goes
 *                                  into DIR/ledger: TXID, time, SHA-256 of the database
 *   history judge DIR N SEED       restores N of the TXIDs and N random times inside the retention, and some outside
 *   history orphans DIR            every object is in the inventory, and none is older than it needs to be
 *   history clock DIR              the clock is set ten years ahead, for ten hours: no more may be deleted than those
 *                                  hours make old, at most a day's files; what the window needs is for judge, afterwards
 *   history cost DIR MINUTES SEED  two virtual days with a commit every so many minutes (0: none): what it costs; at
 *                                  rest two requests a day, no more
 *   history make|run|recover DIR   a brief life for kills.py: a day; another one, to be killed in; what the next
 *                                  process makes of it: two days more, judged, no orphans
 *
 * HISTORY=short: a retention of a day, so that little time has everything in it. HISTORY=forget: retention forgets
 * what the window needs, HISTORY=spoil: recover loses files; the controls, which judge has to notice. */
#include <fcntl.h>
#include <openssl/sha.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/base/log.h"
#include "common/store/layout.h"
#include "common/store/restore.h"
#include "daemon/capture/session.h"
#include "daemon/core/history_int.h"
#include "daemon/core/manager.h"
#include "tests/engines/app.h"
#include "tests/engines/asked.h"

#define BEGIN_MARK "/walsup-scripted-begins"
#define MINUTE 60000ll
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

static const char *dir;
static uv_loop_t loop;
static struct manager *m;
static FILE *ledger;
static bool brief, forget;

static _Noreturn void die(const char *fmt, ...) PRINTF_LIKE(1, 2);
static _Noreturn void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)printf("history: ");
    (void)vprintf(fmt, ap);
    (void)putchar('\n');
    (void)fflush(stdout);
    _exit(3);
}

static char *in_dir(const char *name)
{
    return util_printf("%s/%s", dir, name);
}

/* ---- the clock, which goes on where the last process left it ------------------------------------------- */

static int64_t shifted_ms;

static void clock_save(void)
{
    cleanup_free char *path = in_dir("clock");
    char text[32];
    int n = snprintf(text, sizeof text, "%lld\n", (long long)shifted_ms);
    if (fsx_publish(path, text, (size_t)n, 0600, FSX_REPLACE | FSX_NOSYNC, NULL) < 0)
        die("cannot write %s", path);
}

static void clock_forward(int64_t ms)
{
    shifted_ms += ms;
    clock_save();
    clk_shift(ms, (uint64_t)ms);
}

static void clock_load(void)
{
    cleanup_free char *path = in_dir("clock");
    cleanup_buf struct buf b = BUF_INIT;
    if (fsx_read(path, 64, &b, NULL) == 0)
        shifted_ms = strtoll(buf_str(&b), NULL, 10);
    clk_shift(shifted_ms, (uint64_t)shifted_ms);
}

/* ---- the application ------------------------------------------------------------------------------------- */

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

static void app_open(void)
{
    cleanup_free char *path = in_dir("a.db");
    char answer[APP_TEXT];
    if (!app_do('O', path, answer))
        die("%s: %s", path, answer);
    sql("pragma journal_mode=wal; pragma synchronous=off; create table if not exists t(a integer primary key, b)");
}

static void hash_of(const uint8_t *p, size_t n, char out[static 65])
{
    uint8_t h[SHA256_DIGEST_LENGTH];
    (void)SHA256(p, n, h);
    util_hex(out, h, sizeof h);
}

static void app_hash(char out[static 65])
{
    char answer[APP_TEXT];
    if (!app_do('H', "", answer))
        die("%s", answer);
    (void)snprintf(out, 65, "%.64s", answer);
}

static void app_commit(void)
{
    switch (random() % 20) {
    case 0:
        sql("delete from t where a %% 7 = %ld", random() % 7);
        return;
    case 1:
        sql("vacuum");
        return;
    case 2:
        sql("insert into t(b) values(randomblob(%ld))", 5000 + random() % 20000);
        return;
    default:
        sql("begin; insert into t(b) values(randomblob(%ld)); update t set b = randomblob(%ld) where a %% 50 = %ld; commit",
            random() % 900, random() % 400, random() % 50);
    }
}

/* ---- the daemon ------------------------------------------------------------------------------------------ */

static struct conf *load_conf(void)
{
    cleanup_free char *path = in_dir("walsup.ini");
    cleanup_free char *text = util_printf(
        "[walsup]\nstate-dir = %s/state\nsocket = %s/sock\nsync-interval = 10ms\nidle-timeout = 1s\nmin-free = 0MiB\ncopy-wait = 0s\n"
        "retention = %s\nsnapshot-interval = %s\nlog-level = %s\n[target local]\ntype = file\npath = %s/replica\n[db a]\n"
        "path = %s/a.db\ntarget = local\n",
        dir, dir, forget ? "1d" : brief ? "1d" : "7d", forget ? "12h" : brief ? "6h" : "24h",
        getenv("HISTORY_LOG") ? getenv("HISTORY_LOG") : "error", dir, dir);
    struct err e;
    struct conf *c;
    cleanup_buf struct buf errors = BUF_INIT;
    if (fsx_publish(path, text, strlen(text), 0600, FSX_REPLACE | FSX_NOSYNC, &e) < 0 ||
        conf_load(path, &c, &errors, &e) < 0)
        die("%s %s", e.msg, buf_str(&errors));
    return c;
}

static struct database *db(void)
{
    return m->db[0];
}

static bool keepers_rest(void)
{
    const struct history *h = db()->history;
    bool rest = !h || (!h->job && !h->queued && h->loaded);
    for (size_t i = 0; rest && h && i < h->n_keepers; i++)
        rest = h->keeper[i].doing == KEEPER_RESTS && h->keeper[i].has_facts && !h->keeper[i].stale;
    return rest;
}

/* Everything that is due now is done. */
static bool quiet(void)
{
    return !db()->run && !db()->snapshot_wanted && !db()->up[0]->flight && keepers_rest() &&
           !agenda_look(m->history->agenda) && !agenda_look(m->history->looks);
}

static void settle(void)
{
    for (unsigned calm = 0; calm < 2;) {
        calm = quiet() ? calm + 1 : 0;
        (void)uv_run(&loop, calm ? UV_RUN_NOWAIT : UV_RUN_ONCE);
    }
}

static bool synced;

static void on_synced(struct database_sync *w, const struct err *e)
{
    (void)w;
    if (e->code != ERR_OK)
        die("sync: %s", e->msg);
    synced = true;
}

static int64_t stamp_of(uint64_t txid)
{
    for (size_t i = db()->n_files; i-- > 0;)
        if (db()->file[i].txid == txid)
            return db()->file[i].timestamp_ms;
    return 0;
}

static void commit(void)
{
    char hash[65];
    app_commit();
    struct database_sync w = {.done = on_synced, .wait = true};
    synced = false;
    database_sync(db(), &w, 60000);
    while (!synced)
        (void)uv_run(&loop, UV_RUN_ONCE);
    app_hash(hash);
    int64_t stamp = stamp_of(w.txid);
    if (!stamp)
        return; /* nothing changed, or it left the spool at once: it has no line of its own */
    if (fprintf(ledger, "%016llx %lld %s\n", (unsigned long long)w.txid, (long long)stamp, hash) < 0 || fflush(ledger))
        die("the ledger cannot be written");
}

static void begin(void)
{
    struct err e;
    cleanup_free char *ini = in_dir("walsup.ini"), *path = in_dir("ledger");
    ledger = fopen(path, "ae");
    if (!ledger || session_setup(&e) < 0)
        die("cannot begin in %s", dir);
    app_open();
    (void)uv_loop_init(&loop);
    if (manager_new(&loop, ini, load_conf(), &m, &e) < 0)
        die("%s", e.msg);
    while (!m->ready)
        (void)uv_run(&loop, UV_RUN_ONCE);
    (void)access(BEGIN_MARK, F_OK); /* seen by strace */
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
    (void)fclose(ledger);
}

/* Ten bursts of ten commits a day; the brief life has less of them. */
static void live(long days)
{
    long bursts = brief ? 4 : 10, n = brief ? 6 : 10;
    begin();
    for (long i = 0; i < days * bursts; i++) {
        for (long k = 0; k < n; k++) {
            commit();
            clock_forward(15000 + random() % 10000);
            settle();
        }
        /* what is due in between happens at its time, not at the end */
        for (int k = 0; k < 4; k++) {
            clock_forward(DAY / bursts / 4 - n * 5000);
            settle();
        }
    }
    end();
}

/* ---- the judge ------------------------------------------------------------------------------------------- */

struct entry {
    uint64_t txid;
    int64_t time_ms;
    char hash[65];
};

static struct entry *read_ledger(size_t *ret_n)
{
    cleanup_free char *path = in_dir("ledger");
    cleanup_file FILE *f = fopen(path, "re");
    struct entry *list = NULL, x;
    unsigned long long txid;
    long long time_ms;
    size_t n = 0;
    while (f && fscanf(f, "%llx %lld %64s", &txid, &time_ms, x.hash) == 3) {
        list = util_realloc(list, (n + 1) * sizeof *list);
        x.txid = txid;
        x.time_ms = time_ms;
        list[n++] = x;
    }
    if (!n)
        die("the ledger is empty");
    *ret_n = n;
    return list;
}

static struct store *open_store(struct conf *c)
{
    struct store *s;
    struct err e;
    (void)uv_loop_init(&loop);
    if (store_open(&loop, &c->target[0], &s, &e) < 0)
        die("%s", e.msg);
    return s;
}

/* 0 and *ret_hash, or the error. */
static int restore(struct store *s, struct restore_opts *o, char hash[static 65], uint64_t *ret_txid, struct err *e)
{
    cleanup_free char *out = in_dir("restored.db");
    cleanup_buf struct buf b = BUF_INIT;
    struct restore_result r;
    (void)unlink(out);
    o->replica = "a";
    o->output = out;
    o->check = RESTORE_CHECK_NONE;
    int k = restore_run(&loop, s, o, NULL, NULL, &r, e);
    if (k < 0)
        return k;
    if (!r.verified)
        die("TXID %016llx was restored unverified", (unsigned long long)r.txid);
    *ret_txid = r.txid;
    restore_result_done(&r);
    if (fsx_read(out, SIZE_MAX, &b, e) < 0)
        die("%s", e->msg);
    hash_of(b.p, b.len, hash);
    return 0;
}

static unsigned wrong;

static void compare(const char *what, const struct entry *x, int k, const char *hash, const struct err *e)
{
    if (k == 0 && !strcmp(hash, x->hash))
        return;
    if (wrong++ < 5)
        printf("history: %s of TXID %016llx: %s\n", what, (unsigned long long)x->txid, k < 0 ? e->msg : "another database");
}

static size_t newest_until(const struct entry *x, size_t n, int64_t t)
{
    size_t at = 0;
    while (at + 1 < n && x[at + 1].time_ms <= t)
        at++;
    return at;
}

static uint64_t oldest_whole(void)
{
    cleanup_free char *at = in_dir("replica/a/ltx/9");
    uint64_t oldest = UINT64_MAX;
    cleanup_free char *cmd = util_printf("ls %s", at);
    FILE *f = popen(cmd, "re");
    char name[64];
    uint64_t min, max;
    while (f && fscanf(f, "%63s", name) == 1)
        if (ltx_name_parse(name, &min, &max))
            oldest = MIN(oldest, max);
    if (f)
        (void)pclose(f);
    return oldest;
}

static int judge(long n_picks)
{
    size_t n, first = 0;
    cleanup_free struct entry *x = read_ledger(&n);
    struct conf *c = load_conf();
    struct store *s = open_store(c);
    char hash[65];
    uint64_t txid;
    struct err e;
    int64_t now = clk_real_ms(), window = forget ? 7 * DAY : (int64_t)c->db[0].retention_ms;
    while (first < n && x[first].time_ms < now - window)
        first++;
    if (first == n)
        die("nothing was written inside the window");
    for (long i = 0; i < n_picks; i++) {
        const struct entry *p = &x[first + (size_t)random() % (n - first)];
        int k = restore(s, &(struct restore_opts){.txid = p->txid}, hash, &txid, &e);
        compare("restore", p, k, hash, &e);
        int64_t t = MAX(now - window, x[0].time_ms) + random() % (now - MAX(now - window, x[0].time_ms));
        p = &x[newest_until(x, n, t)];
        k = restore(s, &(struct restore_opts){.by_time = true, .until_ms = t}, hash, &txid, &e);
        compare("restore to a time", p, k, hash, &e);
    }
    unsigned outside = 0;
    cleanup_free char *very_first = in_dir("replica/a/ltx/0/0000000000000001-0000000000000001.ltx");
    uint64_t oldest = access(very_first, F_OK) == 0 ? 1 : oldest_whole();
    char nearest[17];
    (void)snprintf(nearest, sizeof nearest, "%016llx", (unsigned long long)oldest);
    for (size_t i = 0; i < n && x[i].txid < oldest && outside < 20; i += 1 + n / 40) {
        int k = restore(s, &(struct restore_opts){.txid = x[i].txid}, hash, &txid, &e);
        if (k == 0 || (!strstr(e.msg, nearest) && !strstr(e.hint, nearest))) {
            wrong++;
            printf("history: TXID %016llx is outside and the answer does not say what is nearest: %s\n",
                   (unsigned long long)x[i].txid, k ? e.msg : "restored");
        }
        outside++;
    }
    printf("history: %zu commits over %.1f days, %zu of them inside the window; %ld TXIDs and %ld times restored, %u outside "
           "refused with the nearest, %u wrong\n",
           n, (double)(now - x[0].time_ms) / DAY, n - first, n_picks, n_picks, outside, wrong);
    store_close(s, NULL, NULL);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    (void)conf_free(c);
    return wrong ? 1 : 0;
}

/* ---- orphans, the clock ---------------------------------------------------------------------------------- */

static size_t count_objects(void)
{
    cleanup_free char *cmd = util_printf("find %s/replica/a -name '*.ltx' | wc -l", dir);
    FILE *f = popen(cmd, "re");
    unsigned long n = 0;
    if (!f || fscanf(f, "%lu", &n) != 1)
        die("cannot count");
    (void)pclose(f);
    return n;
}

static int orphans(void)
{
    cleanup_free char *path = in_dir("state/state.db");
    sqlite3 *d;
    sqlite3_stmt *st;
    if (sqlite3_open_v2(path, &d, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(d, "SELECT level, min, max, (SELECT min(known) FROM replica) FROM object", -1, &st, NULL) != SQLITE_OK)
        die("%s: %s", path, sqlite3_errmsg(d));
    size_t rows = 0, missing = 0, known = 0;
    while (sqlite3_step(st) == SQLITE_ROW) {
        cleanup_free char *key = layout_key(CONF_FILE, "a", (unsigned)sqlite3_column_int(st, 0),
                                            (uint64_t)sqlite3_column_int64(st, 1), (uint64_t)sqlite3_column_int64(st, 2));
        cleanup_free char *file = util_printf("%s/replica/%s", dir, key);
        missing += access(file, F_OK) < 0;
        known += (size_t)sqlite3_column_int(st, 3);
        rows++;
    }
    (void)sqlite3_finalize(st);
    (void)sqlite3_close(d);
    size_t there = count_objects();
    printf("history: %zu objects, %zu in the inventory, %zu of these missing%s\n", there, rows, missing,
           known ? "" : "; not known to be all");
    return !rows || missing || there != rows || !known;
}

static int leap(void)
{
    begin();
    settle();
    size_t before = count_objects();
    clk_shift(10 * 365 * DAY, 0); /* the real time alone */
    for (int i = 0; i < 10; i++) {
        commit();
        clock_forward(HOUR);
        settle();
    }
    size_t after = count_objects();
    int64_t ahead = m->history->steady.leapt_ms;
    end();
    printf("history: the clock is %.1f years ahead: %zu objects before, %zu after\n", (double)ahead / (365 * DAY), before,
           after);
    return after < before * 3 / 4 || ahead < 9 * 365 * DAY;
}

/* as kills.py calls it; the rest of its arguments is not needed */
static int part_of_a_brief_life(const char *verb)
{
    brief = true;
    srandom(1);
    if (strcmp(verb, "recover") != 0) {
        live(1);
        return 0;
    }
    live(2);
    const char *mode = getenv("HISTORY");
    cleanup_free char *rm = util_printf("rm -r %s/replica/a/ltx/[01]", dir);
    if (mode && !strcmp(mode, "spoil") && system(rm) != 0)
        die("%s failed", rm);
    int r = judge(10);
    return orphans() || r;
}

/* ---- what it costs ----------------------------------------------------------------------------------------- */

static void cost(long minutes)
{
    begin();
    commit();
    settle();
    /* the first day fills the replica, the second one is counted */
    struct uploader before = {0};
    struct source_counters count = {0};
    for (long i = 0; i < 2 * 1440; i++) {
        if (i == 1440) {
            before = *db()->up[0];
            count = db()->seen.count;
            asked = (struct asked){0};
        }
        if (minutes && i % minutes == 0) {
            sql("begin; insert into t(b) values(randomblob(200)); update t set b = randomblob(200) where a = %ld; commit",
                1 + random() % (i + 1));
            struct database_sync w = {.done = on_synced, .wait = true};
            synced = false;
            database_sync(db(), &w, 60000);
            while (!synced)
                (void)uv_run(&loop, UV_RUN_ONCE);
        }
        clock_forward(MINUTE / 2);
        settle();
        clock_forward(MINUTE / 2);
        settle();
    }
    const struct uploader *u = db()->up[0];
    uint64_t pages = (db()->seen.count.pages - count.pages) * db()->seen.page_size, merged = 0;
    for (unsigned i = 0; i < LTX_SNAPSHOT_LEVEL; i++)
        merged += u->level_bytes[i] - before.level_bytes[i];
    uint64_t snapshots = u->level_bytes[LTX_SNAPSHOT_LEVEL] - before.level_bytes[LTX_SNAPSHOT_LEVEL];
    char every[40] = "no commit";
    if (minutes)
        (void)snprintf(every, sizeof every, "a commit every %ld min", minutes);
    printf("cost: %s: on the second day %llu PUT, %llu GET, %llu LIST, %llu DELETE, %llu HEAD; pages changed %llu bytes, "
           "uploaded at levels 0 to 3 %llu bytes (%.2f for each byte), snapshots %llu bytes (the database has %llu)\n",
           every, (unsigned long long)asked.puts, (unsigned long long)asked.gets, (unsigned long long)asked.lists,
           (unsigned long long)asked.deletes, (unsigned long long)asked.heads, (unsigned long long)pages,
           (unsigned long long)merged, pages ? (double)merged / (double)pages : 0, (unsigned long long)snapshots,
           (unsigned long long)db()->seen.pages * db()->seen.page_size);
    end();
    if (!minutes && (asked.puts || asked.gets || asked.lists || asked.deletes || !asked.heads || asked.heads > 2))
        die("a replica at rest is to be looked at once a day, with two requests");
}

int main(int argc, char **argv)
{
    const char *mode = getenv("HISTORY");
    if (argc < 3)
        die("history live|judge|orphans|clock DIR ...");
    brief = mode && !strcmp(mode, "short");
    forget = mode && !strcmp(mode, "forget");
    dir = argv[2];
    if (!app_start())
        die("no application");
    (void)setenv("UV_THREADPOOL_SIZE", "4", 1);
    log_setup(getenv("HISTORY_LOG") ? LOG_INFO : LOG_ERROR);
    clock_load();
    if (argc > 4)
        srandom((unsigned)strtoul(argv[4], NULL, 10));
    if (!strcmp(argv[1], "make") || !strcmp(argv[1], "run") || !strcmp(argv[1], "recover"))
        return part_of_a_brief_life(argv[1]);
    if (!strcmp(argv[1], "orphans"))
        return orphans();
    if (!strcmp(argv[1], "clock"))
        return leap();
    if (argc < 5)
        die("history live|judge DIR NUMBER SEED");
    if (!strcmp(argv[1], "cost")) {
        cost(strtol(argv[3], NULL, 10));
        return 0;
    }
    if (!strcmp(argv[1], "judge"))
        return judge(strtol(argv[3], NULL, 10));
    live(strtol(argv[3], NULL, 10));
    printf("history: %zu objects\n", count_objects());
    return 0;
}
