/* guard_stress - the WAL protocol under hostile applications.
 *
 *   guard_stress SECONDS [calm|hot|unsafe] [PAGE_SIZE]
 *
 * Three processes write, roll back spilled transactions, VACUUM, checkpoint in every mode, close and
 * reopen one database, while this process runs the daemon's own source and session code on it. The
 * LTX files it produces are applied to a shadow image, which is compared page by page with what an
 * independent SQLite reader sees. `unsafe` drops the guard between jobs: the control, which must
 * lose frames. `hot` never pauses, for the bound on the WAL. Prints its figures; exit status 0: no
 * difference (and the WAL stayed below its limit), 1: a difference. */
#include <fcntl.h>
#include <sys/wait.h>

/* The real code, in this translation unit, so that the control can reach the guard. */
#include "daemon/capture/session.c"
#include "daemon/capture/source.c"

#define MAX_PAGES 400000u
#define WAL_LIMIT (16u << 20)

static char db_path[300];
static uint32_t page_size = 512;
static bool calm, hot, unsafe;

static uint32_t rnd(void)
{
    static uint64_t x;
    if (!x)
        x = (uint64_t)clk_mono_us() * 2654435761u ^ ((uint64_t)getpid() << 32);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)(x >> 11);
}

static int ex(sqlite3 *d, const char *sql)
{
    return sqlite3_exec(d, sql, NULL, NULL, NULL);
}

/* ---- the applications -------------------------------------------------------------------------- */

static void one_write(sqlite3 *d, char *b, size_t cap)
{
    switch (rnd() % 10) {
    case 7:
        (void)snprintf(b, cap, "update t set b=randomblob(%u) where a%%7=%u", rnd() % 300,
                       rnd() % 7);
        break;
    case 8:
        (void)snprintf(b, cap, "delete from t where a%%13=%u", rnd() % 13);
        break;
    case 9:
        if (rnd() % 8)
            (void)snprintf(b, cap,
                           "begin immediate;update t set b=randomblob(%u);rollback", page_size / 2);
        else
            (void)snprintf(b, cap, "vacuum");
        break;
    default:
        (void)snprintf(b, cap, "insert or replace into t values(%u,randomblob(%u))", rnd() % 400,
                       rnd() % (2 * page_size));
    }
    if (ex(d, b))
        (void)ex(d, "rollback");
}

static void writer(int id, int seconds)
{
    uint64_t end = clk_mono_ms() + (uint64_t)seconds * 1000;
    char b[200];
    while (clk_mono_ms() < end) {
        sqlite3 *d;
        if (sqlite3_open(db_path, &d))
            _exit(1);
        (void)sqlite3_busy_timeout(d, 2000);
        (void)snprintf(b, sizeof b,
                       "pragma synchronous=off;pragma wal_autocheckpoint=%u;pragma cache_size=%d",
                       rnd() % 4 ? 20 + rnd() % 200 : 0, rnd() % 2 ? -2000 : 5);
        (void)ex(d, b);
        uint32_t n = hot ? 2000 : rnd() % 60;
        for (uint32_t i = 0; i < n && clk_mono_ms() < end; i++) {
            while (calm && (clk_mono_ms() / 100) % 3) /* bursts of 100 ms, then 200 ms of silence */
                clk_pause_us(3000);
            one_write(d, b, sizeof b);
            if (!hot && rnd() % 20 == 0)
                clk_pause_us(rnd() % 30000);
        }
        if (id == 1 && rnd() % 3 == 0)
            (void)ex(d, rnd() % 2   ? "pragma wal_checkpoint(truncate)"
                        : rnd() % 2 ? "pragma wal_checkpoint(restart)"
                                    : "pragma wal_checkpoint(full)");
        (void)sqlite3_close(d);
        if (!hot && rnd() % 4 == 0)
            clk_pause_us(rnd() % 60000);
    }
    _exit(0);
}

/* ---- the shadow -------------------------------------------------------------------------------- */

static uint8_t *shadow[MAX_PAGES + 1];
static uint32_t shadow_pages;
static unsigned long n_files, n_compares, violations;
static uint64_t next_txid = 1;

static void die(const char *what)
{
    (void)fprintf(stderr, "guard_stress: %s\n", what);
    exit(2);
}

static void apply(const char *dir, const struct spool_file *f)
{
    cleanup_free char *path = spool_path(dir, f->txid);
    cleanup_buf struct buf b = BUF_INIT;
    struct err e;
    struct ltx_decoder d;
    if (fsx_read(path, SIZE_MAX, &b, &e) < 0 || ltx_decoder_open(&d, b.p, b.len, &e) < 0)
        die(e.msg);
    if (f->txid != next_txid++)
        die("a TXID is missing");
    uint8_t page[65536];
    uint32_t pgno;
    int r;
    while ((r = ltx_decoder_next(&d, &pgno, page, &e)) == 0) {
        if (pgno > MAX_PAGES)
            die("database too large");
        if (!shadow[pgno])
            shadow[pgno] = util_alloc(page_size);
        memcpy(shadow[pgno], page, page_size);
    }
    if (r < 0)
        die(e.msg);
    for (uint32_t p = d.h.commit + 1; p <= shadow_pages; p++) {
        free(shadow[p]);
        shadow[p] = NULL;
    }
    shadow_pages = d.h.commit;
    uint64_t sum = 0;
    for (uint32_t p = 1; p <= shadow_pages; p++)
        sum ^= shadow[p] ? ltx_page_checksum(p, shadow[p], page_size) : 0;
    if (!unsafe && (sum | LTX_CHECKSUM_FLAG) != f->checksum) {
        (void)fprintf(stderr, "TXID %llu: the page map has another checksum\n", (unsigned long long)f->txid);
        violations++;
    }
    n_files++;
    (void)unlink(path);
}

static bool same_as(const uint8_t *image, uint64_t bytes, bool print)
{
    bool same = bytes == (uint64_t)shadow_pages * page_size;
    if (!same && print)
        (void)fprintf(stderr, "shadow has %u pages, the database %llu\n", shadow_pages,
                      (unsigned long long)(bytes / page_size));
    for (uint32_t p = 1; same && p <= shadow_pages; p++)
        if (!shadow[p] || memcmp(shadow[p], image + (size_t)(p - 1) * page_size, page_size) != 0) {
            if (print)
                (void)fprintf(stderr, "page %u of %u %s\n", p, shadow_pages,
                              shadow[p] ? "differs" : "is missing");
            same = false;
        }
    return same;
}

/* The whole database through an ordinary SQLite reader. It counts only if nothing was committed
 * between our position and the reader's snapshot. */
static void compare(struct source *s, bool must)
{
    static sqlite3 *reader;
    if (!reader && sqlite3_open(db_path, &reader))
        die("open a reader");
    struct session_index x;
    struct err e;
    if (!s->session || session_index(s->session, &x, &e) < 0 || capture_behind(&s->pos, &x))
        return;
    if (ex(reader, "begin;select count(*) from sqlite_master") != SQLITE_OK) {
        (void)ex(reader, "rollback");
        return;
    }
    struct session_index after;
    if (session_index(s->session, &after, &e) == 0 && after.n == x.n &&
        !memcmp(after.salt, x.salt, sizeof x.salt)) {
        sqlite3_int64 bytes = 0;
        unsigned char *image = sqlite3_serialize(reader, "main", &bytes, 0);
        n_compares++;
        if (image && !same_as(image, (uint64_t)bytes, !unsafe)) {
            violations++;
            if (must)
                (void)fprintf(stderr, "the final image differs\n");
        }
        sqlite3_free(image);
    }
    (void)ex(reader, "rollback");
}

/* ---- the run ----------------------------------------------------------------------------------- */

static uint64_t wal_max;
static unsigned long n_detach;
/* The one moment when a guard does not help: it was taken at an attach when everything, also what is not
 * captured yet, had been copied; the next writer may restart the WAL under the first capture. That
 * has to be noticed, and is no failure of the protocol. */
static unsigned long n_late;
static bool away;

static void job(struct source *s, const struct source_job *j)
{
    struct source_result r;
    source_run(s, j, &r);
    if (r.err.code != ERR_OK && r.err.code != ERR_BUSY)
        (void)fprintf(stderr, "job: %s\n", r.err.msg);
    for (size_t i = 0; i < r.n_files; i++)
        apply(s->dir, &r.file[i]);
    wal_max = MAX(wal_max, r.wal_bytes);
    n_late += r.broken && away;
    away = j->detach || (away && r.state != SOURCE_ATTACHED);
    if (r.broken && !unsafe)
        (void)fprintf(stderr, "continuity lost: %s\n", r.why);
}

static void drop_guard(struct source *s)
{
    if (!s->session)
        return;
    struct conn *c = &s->session->guard[s->session->held];
    session_read_end(c);
    clk_pause_us(rnd() % 20000);
    int rc;
    do /* without a guard the files may have become others, which no longer fit together */
        clk_pause_us(500);
    while (((rc = session_read_begin(c)) & 0xff) == SQLITE_BUSY);
}

int main(int argc, char **argv)
{
    int seconds = argc > 1 ? atoi(argv[1]) : 10;
    const char *mode = argc > 2 ? argv[2] : "";
    unsafe = !strcmp(mode, "unsafe");
    calm = !strcmp(mode, "calm");
    hot = !strcmp(mode, "hot");
    if (argc > 3)
        page_size = (uint32_t)atoi(argv[3]);
    char dir[] = "/tmp/guard_stressXXXXXX";
    if (!mkdtemp(dir))
        die("mkdtemp");
    (void)snprintf(db_path, sizeof db_path, "%s/a.db", dir);
    cleanup_free char *spool = util_printf("%s/spool", dir);
    sqlite3 *d;
    char sql[200];
    (void)snprintf(sql, sizeof sql,
                   "pragma page_size=%u;pragma journal_mode=wal;create table t(a integer primary "
                   "key,b);insert into t values(1,2)",
                   page_size);
    if (sqlite3_open(db_path, &d) || ex(d, sql))
        die("create the database");
    (void)sqlite3_close(d);
    pid_t pid[3];
    for (int i = 0; i < 3; i++)
        if (!(pid[i] = fork()))
            writer(i, seconds);
    struct err e;
    if (session_setup(&e) < 0)
        die(e.msg);
    struct source_conf c = {.path = db_path,
                            .dir = spool,
                            .checkpoint_pages = 200,
                            .wal_limit_bytes = hot ? WAL_LIMIT / 4 : WAL_LIMIT / 16};
    struct source *s = source_new(&c);
    uint64_t end = clk_mono_ms() + (uint64_t)seconds * 1000 + 300;
    while (clk_mono_ms() < end) {
        clk_pause_us(rnd() % 3000);
        uint32_t k = rnd() % 12;
        struct source_job j = {.capture = k < 8, .assist = k == 9, .settle = k == 10};
        job(s, &j);
        if (!hot && !unsafe && rnd() % 12 == 0) { /* away for a moment, and back with a proof or without */
            job(s, &(struct source_job){.settle = true});
            job(s, &(struct source_job){.detach = true});
            n_detach++;
            clk_pause_us(rnd() % 40000);
        }
        if (unsafe)
            drop_guard(s);
        if (rnd() % 4 == 0)
            compare(s, false);
    }
    for (int i = 0; i < 3; i++)
        (void)waitpid(pid[i], NULL, 0);
    job(s, &(struct source_job){.capture = true});
    job(s, &(struct source_job){.capture = true});
    unsigned long before = n_compares;
    compare(s, true);
    bool final = n_compares > before;
    printf("files %lu frames %llu handovers %llu checkpoints %llu restarts %llu barriers %llu "
           "(max %.1f ms) detached %lu resumed %llu full %llu resyncs %llu lost %llu compares %lu violations %lu wal max %.1f MiB%s\n",
           n_files, (unsigned long long)s->count.frames, (unsigned long long)s->count.handovers,
           (unsigned long long)s->count.checkpoints, (unsigned long long)s->count.restarts,
           (unsigned long long)s->count.barriers, (double)s->count.barrier_max_us / 1e3,
           n_detach, (unsigned long long)s->count.resumed, (unsigned long long)s->count.fulls, (unsigned long long)s->count.resyncs, (unsigned long long)s->count.broken, n_compares,
           violations, (double)wal_max / (1 << 20), final ? "" : " NO FINAL COMPARE");
    bool bounded = !hot || wal_max < WAL_LIMIT;
    bool lost = s->count.broken > n_late; /* with the guard held continuity is never lost */
    (void)source_free(s);
    (void)snprintf(sql, sizeof sql, "rm -rf %s", dir);
    if (system(sql) != 0)
        return 2;
    if (unsafe)
        return violations || lost;
    return !(final && n_compares > 1 && !violations && !lost && bounded);
}
