/* Replicas of Litestream v0.3. The first byte says what the rest is: 'n': names, one a line, with a
 * byte for the time before each; 'o': an object, whose content is read as a WAL; 'w': a WAL. */
#include "common/format/v3seg.h"

#include "common/base/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

#define CHECK(x)     \
    do {             \
        if (!(x))    \
            abort(); \
    } while (0)

static void check_plan(const struct v3_file *f, size_t n, int64_t until)
{
    CHECK(n && f[0].snapshot && f[0].mtime_ms <= until);
    for (size_t i = 1; i < n; i++) {
        CHECK(!f[i].snapshot && f[i].mtime_ms <= until && !strcmp(f[i].generation, f[0].generation));
        if (i == 1)
            CHECK(f[i].index == f[0].index && !f[i].off);
        else if (f[i].off)
            CHECK(f[i].index == f[i - 1].index && f[i].off > f[i - 1].off);
        else
            CHECK(f[i].index == f[i - 1].index + 1);
    }
}

static void names(const uint8_t *p, size_t n)
{
    struct v3_file *f = calloc(n / 2 + 1, sizeof *f), *out = NULL;
    size_t n_f = 0, n_out = 0;
    struct err e = {0};
    CHECK(f);
    while (n > 1) {
        const uint8_t *end = memchr(p + 1, '\n', n - 1);
        size_t len = end ? (size_t)(end - p) - 1 : n - 1;
        char *name = strndup((const char *)p + 1, len);
        if (name && v3_name_parse(name, &f[n_f])) {
            char *back = v3_name(&f[n_f]);
            CHECK(!strcmp(name, back));
            free(back);
            f[n_f++].mtime_ms = p[0];
        }
        free(name);
        p += len + 1;
        n -= len + 1;
        if (end && n) {
            p++;
            n--;
        }
    }
    for (int64_t until = 0; until <= 256; until += 16) {
        int64_t t = until == 256 ? INT64_MAX : until;
        for (unsigned own = 0; own < 2; own++) {
            const char *generation = own && n_f ? f[0].generation : "";
            int r = v3_plan(f, n_f, generation, t, &out, &n_out, &e);
            if (r == 0) {
                check_plan(out, n_out, t);
                CHECK(!*generation || !strcmp(out[0].generation, generation));
                free(out);
            } else {
                CHECK(r == -(int)e.code && e.msg[0]);
            }
        }
    }
    if (v3_points(f, n_f, "", &out, &n_out, &e) == 0) {
        CHECK(n_out && n_out <= n_f);
        free(out);
    }
    free(f);
}

static int on_frame(void *arg, uint64_t k, const struct wal_frame *f, const uint8_t *page,
                    struct err *e)
{
    uint64_t *last = arg;
    (void)page;
    (void)e;
    CHECK(k == ++*last && f->pgno);
    return 0;
}

static int count(void *arg, const uint8_t *p, size_t n, struct err *e)
{
    (void)p;
    *(uint64_t *)arg += n;
    return *(uint64_t *)arg > 64u << 20 ? err_set(e, ERR_NOSPC, "enough") : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct v3_wal w = {.fn = NULL};
    struct err e = {0};
    uint64_t bytes = 0, frames = 0;
    if (!n)
        return 0;
    if (*p == 'n') {
        names(p + 1, n - 1);
        return 0;
    }
    v3_wal_start(&w, on_frame, &frames);
    if (*p == 'o') {
        struct v3_unpack *u = v3_unpack_new(&e);
        CHECK(u);
        int r = v3_unpack(u, p + 1, n - 1, count, &bytes, &e);
        CHECK(r == 0 || (r == -(int)e.code && e.msg[0]));
        (void)v3_unpack(u, p + 1, n - 1, v3_wal_feed, &w, &e);
        v3_unpack_free(u);
    } else {
        size_t piece = *p + 1u;
        for (size_t at = 1; at < n; at += piece)
            if (v3_wal_feed(&w, p + at, MIN(piece, n - at), &e) < 0)
                break;
    }
    CHECK(w.scan.valid == frames && w.scan.committed <= frames);
    v3_wal_done(&w);
    return 0;
}
