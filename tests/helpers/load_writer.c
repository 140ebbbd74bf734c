/* load_writer - one application writing one database, measured.
 *
 *   load_writer DB SECONDS RATE [ROW_BYTES]     RATE commits a second, 0 = flat out
 *
 * Every transaction inserts one row (n, time, blob). Prints JSON: commits, commits_per_s, latency
 * percentiles of a commit in microseconds, errors, the largest size the -wal file had, and the
 * number and wall-clock time of the last commit. */
#include <math.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <time.h>

#include "common/base/clk.h"
#include "common/base/util.h"

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void wait_until(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
        ;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        (void)fprintf(stderr, "usage: load_writer DB SECONDS RATE [ROW_BYTES]\n");
        return 64;
    }
    double seconds = atof(argv[2]), rate = atof(argv[3]);
    int row = argc > 4 ? atoi(argv[4]) : 1024;
    cleanup_free char *wal = util_printf("%s-wal", argv[1]);
    sqlite3 *d;
    sqlite3_stmt *ins;
    if (sqlite3_open(argv[1], &d) ||
        sqlite3_exec(d,
                     "pragma journal_mode=wal;pragma synchronous=normal;create table if not exists "
                     "load(n integer primary key, at integer, b blob)",
                     NULL, NULL, NULL) ||
        sqlite3_prepare_v2(d, "insert into load(at,b) values(?1,?2)", -1, &ins, NULL)) {
        (void)fprintf(stderr, "load_writer: %s\n", sqlite3_errmsg(d));
        return 1;
    }
    (void)sqlite3_busy_timeout(d, 5000);
    uint8_t *blob = util_alloc((size_t)row);
    for (int i = 0; i < row; i++) /* half of it compresses */
        blob[i] = (uint8_t)(i % 2 ? 'x' : util_random_below(256));
    size_t cap = 1 << 20, n = 0;
    uint32_t *lat = util_alloc(cap * sizeof *lat);
    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), errors = 0;
    int64_t wal_max = 0, last_at = 0;
    for (uint64_t k = 0;; k++) {
        if (rate > 0)
            wait_until(start + (uint64_t)((double)k * 1e9 / rate));
        uint64_t t0 = now_ns();
        if (t0 >= end)
            break;
        memcpy(blob, &k, sizeof k);
        (void)sqlite3_bind_int64(ins, 1, clk_real_ms());
        (void)sqlite3_bind_blob(ins, 2, blob, row, SQLITE_STATIC);
        int rc = sqlite3_step(ins);
        (void)sqlite3_reset(ins);
        if (rc != SQLITE_DONE) {
            errors++;
            continue;
        }
        uint64_t t1 = now_ns();
        if (n == cap)
            lat = util_realloc(lat, (cap *= 2) * sizeof *lat);
        lat[n++] = (uint32_t)MIN((t1 - t0) / 10, (uint64_t)UINT32_MAX); /* 10 ns */
        last_at = clk_real_ms();
        struct stat st;
        if (k % 512 == 0 && stat(wal, &st) == 0)
            wal_max = MAX(wal_max, (int64_t)st.st_size);
    }
    double took = (double)(now_ns() - start) / 1e9;
    long last = (long)sqlite3_last_insert_rowid(d);
    qsort(lat, n, sizeof *lat, by_value);
#define P(q) ((double)lat[(size_t)((double)(n - 1) * (q))] / 100)
    if (n)
        printf("{\"commits\":%zu,\"commits_per_s\":%.0f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
               "\"p999_us\":%.1f,\"max_us\":%.1f,\"errors\":%llu,\"wal_max\":%lld,\"last\":%ld,"
               "\"last_at_ms\":%lld}\n",
               n, (double)n / took, P(.5), P(.99), P(.999), P(1), (unsigned long long)errors,
               (long long)wal_max, last, (long long)last_at);
    fflush(stdout);
    (void)sqlite3_finalize(ins);
    /* killed, not closed: the last close of a benchmark must not checkpoint for the other side */
    _exit(errors ? 1 : 0);
}
