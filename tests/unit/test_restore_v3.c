/* A WAL of Litestream v0.3 beyond 4 GiB: offsets of nine digits, in bounded memory. */
#include <lz4frame.h>
#include <sys/resource.h>

#include "tests/unit/quick.h"
#include "tests/unit/restore_harness.h"

#define PAGE 65536u
#define FRAME (WAL_FRAME_HEADER_SIZE + PAGE)
#define SEGMENT_FRAMES 4000u
#define SEGMENTS 18u /* of 250 MiB */
#define GENERATION "0123456789abcdef"

/* a segment being written */
struct segment {
    LZ4F_cctx *ctx;
    struct buf b;
};

static const LZ4F_preferences_t prefs = {
    .frameInfo = {.blockSizeID = LZ4F_max4MB, .blockMode = LZ4F_blockLinked,
                  .contentChecksumFlag = LZ4F_contentChecksumEnabled}};

static void add(struct segment *s, const void *p, size_t n)
{
    size_t bound = LZ4F_compressBound(n, &prefs);
    size_t got = LZ4F_compressUpdate(s->ctx, buf_reserve(&s->b, bound), bound, p, n, NULL);
    assert_false(LZ4F_isError(got));
    s->b.len += got;
}

static void start(struct segment *s)
{
    s->b.len = 0;
    size_t got = LZ4F_compressBegin(s->ctx, buf_reserve(&s->b, 64), 64, &prefs);
    assert_false(LZ4F_isError(got));
    s->b.len += got;
}

static void finish(struct segment *s)
{
    size_t bound = LZ4F_compressBound(0, &prefs);
    size_t got = LZ4F_compressEnd(s->ctx, buf_reserve(&s->b, bound), bound, NULL);
    assert_false(LZ4F_isError(got));
    s->b.len += got;
}

static void end(struct segment *s, const char *dir, uint64_t off)
{
    struct err e = {0};
    finish(s);
    cleanup_free char *path = util_printf("%s/00000003_%08llx.wal.lz4", dir, (unsigned long long)off);
    assert_int_equal(fsx_publish(path, s->b.p, s->b.len, 0600, FSX_NOSYNC, &e), 0);
}

static void put_snapshot(const struct fix *f, struct segment *s)
{
    struct err e = {0};
    cleanup_free char *dir = util_printf("%s/v3/generations/" GENERATION "/snapshots", f->root);
    cleanup_free char *path = util_printf("%s/00000003.snapshot.lz4", dir);
    assert_int_equal(fsx_mkdirs(dir, 0700, &e), 0);
    start(s);
    add(s, f->state[1].p, f->state[1].len);
    finish(s);
    assert_int_equal(fsx_publish(path, s->b.p, s->b.len, 0600, FSX_NOSYNC, &e), 0);
}

/* frame k changes page 2 or 3, and every hundredth ends a transaction */
static void put_wal(const struct fix *f, struct segment *s)
{
    struct err e = {0};
    cleanup_free char *dir = util_printf("%s/v3/generations/" GENERATION "/wal", f->root);
    cleanup_free uint8_t *frame = util_zalloc(FRAME);
    uint8_t h[WAL_HEADER_SIZE] = {0};
    uint32_t sum[2] = {0, 0};
    uint64_t off = 0;
    assert_int_equal(fsx_mkdirs(dir, 0700, &e), 0);
    be32_put(h, 0x377f0682);
    be32_put(h + 4, 3007000);
    be32_put(h + 8, PAGE);
    wal_checksum(false, h, 24, sum);
    be32_put(h + 24, sum[0]);
    be32_put(h + 28, sum[1]);
    for (uint64_t i = 0, k = 1; i < SEGMENTS; i++) {
        start(s);
        if (!i)
            add(s, h, sizeof h);
        for (uint64_t j = 0; j < SEGMENT_FRAMES; j++, k++) {
            be32_put(frame, 2 + k % 2);
            be32_put(frame + 4, k % 100 ? 0 : pages(f, 1));
            be64_put(frame + WAL_FRAME_HEADER_SIZE, k);
            wal_checksum(false, frame, 8, sum);
            wal_checksum(false, frame + WAL_FRAME_HEADER_SIZE, PAGE, sum);
            be32_put(frame + 16, sum[0]);
            be32_put(frame + 20, sum[1]);
            add(s, frame, FRAME);
        }
        end(s, dir, off);
        off = WAL_HEADER_SIZE + (k - 1) * FRAME;
    }
    assert_true(off > 1ull << 32);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static void a_wal_beyond_4_gib(void **state)
{
    struct fix *f = *state;
    if (SANITIZED || quick("a WAL beyond 4 GiB"))
        skip(); /* for its time */
    struct segment s = {.b = BUF_INIT};
    struct restore_opts o = {.replica = "v3", .output = f->out, .check = RESTORE_CHECK_NONE};
    struct restore_result r;
    struct err e = {0};
    struct rusage before, after;
    assert_int_equal(LZ4F_createCompressionContext(&s.ctx, LZ4F_VERSION), 0);
    put_snapshot(f, &s);
    put_wal(f, &s);
    (void)LZ4F_freeCompressionContext(s.ctx);
    buf_free(&s.b);
    (void)getrusage(RUSAGE_SELF, &before);
    if (restore_run(&f->loop, f->s, &o, on_progress, f, &r, &e) < 0)
        fail_msg("%s", e.msg);
    (void)getrusage(RUSAGE_SELF, &after);
    assert_true(r.v3 && r.n_files == SEGMENTS + 1 && r.file[SEGMENTS].max > 1ull << 32);
    assert_int_equal(r.dropped_bytes, 0);
    assert_int_equal(r.database_bytes, f->state[1].len);
    assert_true(after.ru_maxrss - before.ru_maxrss < 64 * 1024);
    restore_result_done(&r);
    cleanup_buf struct buf b = BUF_INIT;
    assert_int_equal(fsx_read(f->out, 64u << 20, &b, &e), 0);
    assert_int_equal(be64_get(b.p + PAGE), SEGMENTS * SEGMENT_FRAMES);
    assert_int_equal(be64_get(b.p + 2u * PAGE), SEGMENTS * SEGMENT_FRAMES - 1);
    assert_memory_equal(b.p, f->state[1].p, PAGE);
    /* the one beyond 4 GiB is missing: that is not the end */
    uint64_t last = WAL_HEADER_SIZE + (uint64_t)(SEGMENTS - 2) * SEGMENT_FRAMES * FRAME;
    cleanup_free char *path = util_printf("%s/v3/generations/" GENERATION "/wal/00000003_%08llx.wal.lz4",
                                          f->root, (unsigned long long)last);
    assert_int_equal(unlink(path), 0);
    o.force = true;
    assert_int_equal(restore_run(&f->loop, f->s, &o, on_progress, f, &r, &e), -(int)ERR_CORRUPT);
    assert_non_null(strstr(e.msg, "a segment is missing or damaged"));
}

static int setup_64k(void **state)
{
    int r = setup(state);
    struct fix *f = *state;
    f->page_size = PAGE;
    for (unsigned k = 0; k <= STATES; k++)
        buf_free(&f->state[k]);
    assert_int_equal(unlink(f->db), 0);
    make_states(f);
    return r;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_wal_beyond_4_gib, setup_64k, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
