/* How fast the formats are on this machine, on one core: make bench-format. */
#include <time.h>

#include "common/format/crc64.h"
#include "common/format/ltx.h"
#include "common/format/wal.h"

#define PAGE 4096u
#define PAGES 16384u

static double now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

struct sink {
    uint8_t *p;
    size_t n;
};

static int take(void *arg, const void *p, size_t n, struct err *e)
{
    struct sink *s = arg;
    (void)e;
    memcpy(s->p + s->n, p, n);
    s->n += n;
    return 0;
}

/* Pages a bit like a b-tree's: words that repeat, numbers that do not, some free space. */
static void fill(uint8_t *p, size_t n, bool random)
{
    if (random) {
        util_random(p, n);
        return;
    }
    static const char *const words[] = {"alpha", "customer", "2026-01-01T00:00:00", "pending",
                                        "https://example.org/", "order", "null", "zebra"};
    for (size_t at = 0; at < n;) {
        char row[96];
        int k = snprintf(row, sizeof row, "%016llx%s%s%08llx%s",
                         (unsigned long long)util_random_below(1u << 20),
                         words[util_random_below(8)], words[util_random_below(8)],
                         (unsigned long long)util_random_below(UINT32_MAX),
                         words[util_random_below(8)]);
        size_t m = MIN((size_t)k, n - at);
        memcpy(p + at, row, m);
        at += m;
    }
}

static void fatal(const struct err *e)
{
    (void)fprintf(stderr, "%s\n", e->msg);
    exit(1);
}

static void bench_ltx(const char *what, const uint8_t *db, enum ltx_encoding encoding)
{
    struct err e = {0};
    struct ltx_header h = {.flags = LTX_FLAG_NO_CHECKSUM, .page_size = PAGE, .commit = PAGES,
                           .min_txid = 1, .max_txid = 1};
    struct sink s = {malloc(2ul * PAGE * PAGES), 0};
    struct ltx_encoder *enc;
    if (!s.p)
        abort();
    memset(s.p, 1, 2ul * PAGE * PAGES);
    double t = now(), mb = (double)PAGE * PAGES / 1e6;
    if (ltx_encoder_new(&h, encoding, take, &s, &enc, &e) < 0)
        fatal(&e);
    for (uint32_t i = 1; i <= PAGES; i++)
        if (ltx_encoder_page(enc, i, db + (size_t)(i - 1) * PAGE, &e) < 0)
            fatal(&e);
    if (ltx_encoder_finish(enc, 0, NULL, &e) < 0)
        fatal(&e);
    (void)ltx_encoder_free(enc);
    double t_enc = now() - t;
    t = now();
    if (ltx_verify(s.p, s.n, NULL, &e) < 0)
        fatal(&e);
    double t_dec = now() - t;
    (void)printf("ltx %-12s %-5s  encode %6.0f MB/s  decode %6.0f MB/s  ratio %.2f\n", what,
                 encoding == LTX_BLOCK ? "block" : "frame", mb / t_enc, mb / t_dec,
                 mb * 1e6 / (double)s.n);
    free(s.p);
}

static void bench_sums(const uint8_t *db, size_t n)
{
    uint64_t crc = 0;
    uint32_t s[2] = {0, 0};
    double t = now();
    for (int i = 0; i < 16; i++)
        crc = crc64(crc, db, n);
    double t_fast = now() - t;
    t = now();
    for (int i = 0; i < 16; i++)
        for (size_t at = 0; at < n; at += PAGE)
            crc = crc64(crc, db + at, PAGE);
    double t_page = now() - t;
    t = now();
    for (int i = 0; i < 4; i++)
        crc = crc64_portable(crc, db, n);
    double t_slow = now() - t;
    t = now();
    for (int i = 0; i < 4; i++)
        wal_checksum(false, db, n, s);
    double t_wal = now() - t;
    t = now();
    for (int i = 0; i < 4; i++)
        wal_checksum(true, db, n, s);
    double t_swap = now() - t;
    double gb = (double)n / 1e9;
    (void)printf("crc64 %.1f GB/s, by pages of %u %.1f GB/s, portable %.1f GB/s  (%016llx)\n",
                 16 * gb / t_fast, PAGE, 16 * gb / t_page, 4 * gb / t_slow,
                 (unsigned long long)crc);
    (void)printf("wal_checksum native %.1f GB/s, swapped %.1f GB/s  (%08x)\n", 4 * gb / t_wal,
                 4 * gb / t_swap, s[0] ^ s[1]);
}

int main(void)
{
    size_t n = (size_t)PAGE * PAGES;
    uint8_t *db = malloc(n);
    if (!db)
        abort();
    static const char *const what[] = {"rows", "random", "zero"};
    for (unsigned k = 0; k < 3; k++) {
        if (k < 2)
            fill(db, n, k == 1);
        else
            memset(db, 0, n);
        if (!k)
            bench_sums(db, n);
        bench_ltx(what[k], db, LTX_BLOCK);
        bench_ltx(what[k], db, LTX_FRAME);
    }
    free(db);
    return 0;
}
