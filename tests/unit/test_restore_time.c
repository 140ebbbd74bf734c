/* Restores to a time, and what they ask the store for. */
#include "tests/unit/restore_harness.h"

#define DAY 86400000ll

/* A replica of small LTX files whose headers say what they like about the time. */
static uint64_t clock_txid; /* of what put_at() makes */

static void put_at(const struct fix *f, unsigned level, uint64_t min, uint64_t max, int64_t time_ms)
{
    cleanup_buf struct buf b = BUF_INIT;
    struct err e = {0};
    struct ltx_encoder *enc;
    struct ltx_header h = {.flags = LTX_FLAG_NO_CHECKSUM, .page_size = f->page_size,
                           .commit = pages(f, 1), .min_txid = min, .max_txid = max,
                           .timestamp_ms = time_ms, .wal_offset = 32, .clock_txid = clock_txid};
    assert_int_equal(ltx_encoder_new(&h, LTX_BLOCK, take, &b, &enc, &e), 0);
    for (uint32_t i = 1; i <= (min == 1 ? h.commit : 1); i++)
        assert_int_equal(ltx_encoder_page(enc, i, page_of(f, 1, i), &e), 0);
    assert_int_equal(ltx_encoder_finish(enc, 0, NULL, &e), 0);
    (void)ltx_encoder_free(enc);
    put_bytes(f, level, min, max, &b);
}

static void clear(struct fix *f)
{
    cleanup_free char *rm = util_printf("rm -r %s/app", f->root);
    assert_int_equal(system(rm), 0);
}

static uint64_t at_time(struct fix *f, int64_t until, int64_t want_ms, uint64_t want_next)
{
    struct err e = {0};
    struct restore_result r;
    struct restore_opts o = opts(f, 0);
    o.by_time = o.dry_run = true;
    o.until_ms = until;
    if (restore_run(&f->loop, f->s, &o, on_progress, f, &r, &e) < 0)
        fail_msg("%lld: %s", (long long)until, e.msg);
    assert_int_equal(r.timestamp_ms, want_ms);
    assert_int_equal(r.next_txid, want_next);
    uint64_t txid = r.txid;
    restore_result_done(&r);
    return txid;
}

static void not_at_time(struct fix *f, int64_t until, enum err_code code, const char *text)
{
    struct restore_opts o = opts(f, 0);
    o.by_time = o.dry_run = true;
    o.until_ms = until;
    refuses(f, &o, code, text);
}

/* the harness: TXID k is of second k; level 9 has 1, level 0 has 2 to 12, others in between */
static void every_time(void **state)
{
    struct fix *f = *state;
    for (uint64_t k = 1; k <= STATES; k++) {
        struct restore_opts o = opts(f, 0);
        int64_t ms = (int64_t)k * 1000;
        uint64_t next = k < STATES ? k + 1 : 0;
        assert_int_equal(at_time(f, ms, ms, next), k);
        assert_int_equal(at_time(f, ms + 999, ms, next), k);
        o.by_time = true;
        o.until_ms = ms + 1;
        restores(f, &o, k, 0);
        assert_int_equal(unlink(f->out), 0);
    }
    assert_int_equal(at_time(f, 100 * DAY, STATES * 1000, 0), STATES);
    not_at_time(f, 999, ERR_NOTFOUND, "its oldest point is TXID 0000000000000001 of "
                                      "1970-01-01T00:00:01Z");
}

static void levels_without_the_files_below(void **state)
{
    struct fix *f = *state;
    /* L0 of 2 to 6 went into 2-4 and 5-6: between them there is no point */
    for (uint64_t k = 2; k <= 6; k++)
        drop(f, 0, k, k);
    drop(f, 2, 2, 6);
    assert_int_equal(at_time(f, 3999, 1000, 4), 1);
    assert_int_equal(at_time(f, 4000, 4000, 6), 4);
    assert_int_equal(at_time(f, 5999, 4000, 6), 4);
    assert_int_equal(at_time(f, 6000, 6000, 7), 6);
    /* a gap: what is beyond it can neither be restored nor passed off as the latest */
    drop(f, 0, 10, 10);
    assert_int_equal(at_time(f, 8500, 8000, 9), 8);
    not_at_time(f, 9000, ERR_CORRUPT, "are missing");
    not_at_time(f, 100 * DAY, ERR_CORRUPT, "are missing");
}

static void equal_times_and_clocks_set_back(void **state)
{
    struct fix *f = *state;
    static const int64_t same[] = {100, 100, 100, 200, 200, 200, 200, 300};
    clear(f);
    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        put_at(f, i ? 0 : 9, i ? i + 1 : 1, i + 1, same[i]);
    assert_int_equal(at_time(f, 100, 100, 4), 3);
    assert_int_equal(at_time(f, 199, 100, 4), 3);
    assert_int_equal(at_time(f, 200, 200, 8), 7);
    assert_int_equal(at_time(f, 300, 300, 0), 8);
    not_at_time(f, 99, ERR_NOTFOUND, "does not reach back");
    /* whatever the clock did, the point is one where time passed the moment */
    srand(3);
    for (unsigned round = 0; round < 50; round++) {
        int64_t t[30];
        clear(f);
        for (size_t i = 0; i < ARRAY_LEN(t); i++) {
            t[i] = 1000 + (int64_t)i * 10 + rand() % 100;
            put_at(f, i ? 0 : 9, i ? i + 1 : 1, i + 1, t[i]);
        }
        int64_t until = t[0] + rand() % 200;
        struct err e = {0};
        struct restore_result r;
        struct restore_opts o = opts(f, 0);
        o.by_time = o.dry_run = true;
        o.until_ms = until;
        assert_int_equal(restore_run(&f->loop, f->s, &o, on_progress, f, &r, &e), 0);
        assert_int_equal(r.timestamp_ms, t[r.txid - 1]);
        assert_true(t[r.txid - 1] <= until);
        assert_true(r.txid == ARRAY_LEN(t) || (r.next_txid == r.txid + 1 && t[r.txid] > until));
        restore_result_done(&r);
    }
}

/* What walsup writes: each file knows since when its times grow. The newest point whose own time is not after the moment
 * is found, whatever the clock did. */
static void a_clock_that_leaps_to_and_fro(void **state)
{
    struct fix *f = *state;
    unsigned twice = 0, early = 0;
    srand(7);
    for (unsigned round = 0; round < 150; round++) {
        int64_t t[40], now = 100000;
        clear(f);
        clock_txid = 0;
        for (size_t i = 0; i < ARRAY_LEN(t); i++) {
            now += rand() % 100;
            int64_t before = i ? t[i - 1] : 0;
            t[i] = rand() % 6 ? MAX(now, before) : now + (rand() % 2 ? 1 : -1) * (rand() % 2000);
            if (t[i] < before)
                clock_txid = i + 1;
            put_at(f, i ? 0 : 9, i ? i + 1 : 1, i + 1, t[i]);
        }
        for (size_t i = 0; i < 12; i++) {
            int64_t until = t[0] - 100 + rand() % (now - t[0] + 300);
            size_t want = ARRAY_LEN(t);
            while (want && t[want - 1] > until)
                want--;
            struct err e = {0};
            struct restore_result r;
            struct restore_opts o = opts(f, 0);
            o.by_time = o.dry_run = true;
            o.until_ms = until;
            if (!want) {
                not_at_time(f, until, ERR_NOTFOUND, "does not reach back");
                early++;
                continue;
            }
            if (restore_run(&f->loop, f->s, &o, on_progress, f, &r, &e) < 0)
                fail_msg("%s", e.msg);
            assert_int_equal(r.txid, want);
            assert_true(r.timestamp_ms == t[want - 1] && (want == ARRAY_LEN(t)) == !r.next_txid);
            if (r.set_back_txid) { /* and it is said that there is another answer */
                assert_true(r.set_back_txid <= want && r.set_back_from_ms > until && r.set_back_to_ms < r.set_back_from_ms);
                twice++;
            }
            restore_result_done(&r);
        }
    }
    clock_txid = 0;
    assert_true(twice > 100 && early > 10);
}

static void damaged_headers(void **state)
{
    struct fix *f = *state;
    cleanup_free char *path = object(f, 0, 12, 12);
    cleanup_buf struct buf b = BUF_INIT;
    struct err e = {0};
    assert_int_equal(fsx_read(path, 1u << 20, &b, &e), 0);
    b.p[0] ^= 1;
    put_bytes(f, 0, 12, 12, &b);
    not_at_time(f, 5000, ERR_CORRUPT, "0000000000000c-");
    b.p[0] ^= 1;
    put_bytes(f, 0, 13, 13, &b); /* under another name */
    not_at_time(f, 5000, ERR_CORRUPT, "its header says TXIDs 000000000000000c");
    assert_int_equal(truncate(path, 50), 0);
    drop(f, 0, 13, 13);
    not_at_time(f, 5000, ERR_CORRUPT, "");
}

/* ---- how much is asked for ------------------------------------------------------------------ */

static unsigned gets, lists;
static const struct store_ops *real_ops;

static void counting_get(struct store *s, struct store_req *req, const char *key, uint64_t off,
                         uint64_t len, store_sink_fn sink, void *arg, struct store_info *info)
{
    gets++;
    assert_int_equal(len, LTX_HEADER_SIZE);
    real_ops->get(s, req, key, off, len, sink, arg, info);
}

static void counting_list(struct store *s, struct store_req *req, const char *prefix,
                          const char *after, store_item_fn item, void *arg)
{
    lists++;
    real_ops->list(s, req, prefix, after, item, arg);
}

static void count_requests(struct fix *f)
{
    static struct store_ops ops;
    real_ops = f->s->ops;
    ops = *real_ops;
    ops.get = counting_get;
    ops.list = counting_list;
    f->s->ops = &ops;
    gets = lists = 0;
}

static void few_requests_for_a_time(void **state)
{
    struct fix *f = *state;
    clear(f);
    put_at(f, 9, 1, 1, 1000);
    for (uint64_t k = 2; k <= 2000; k++)
        put_at(f, 0, k, k, (int64_t)k * 1000);
    count_requests(f);
    unsigned most = 0;
    for (uint64_t k = 1; k < 2000; k += 37) {
        gets = lists = 0;
        assert_int_equal(at_time(f, (int64_t)k * 1000 + 500, (int64_t)k * 1000, k + 1), k);
        assert_int_equal(lists, 10);
        most = MAX(most, gets);
    }
    assert_true(most <= 13); /* 2 + log2(2000) */
    struct restore_points p = {.n = 0};
    struct restore_opts o = opts(f, 0);
    struct err e = {0};
    gets = lists = 0;
    assert_int_equal(restore_points(&f->loop, f->s, &o, 20, &p, &e), 0);
    assert_int_equal(gets, 21);
    assert_int_equal(lists, 10);
    assert_true(p.n == 20 && p.total == 2000 && p.at_level[0] == 1999 && p.at_level[9] == 1);
    assert_true(p.oldest.txid == 1 && p.oldest.time_ms == 1000 && p.newest_txid == 2000);
    for (size_t i = 0; i < p.n; i++) {
        assert_int_equal(p.point[i].txid, 1981 + i);
        assert_int_equal(p.point[i].time_ms, 1000 * (1981 + (int64_t)i));
        assert_true(p.point[i].exact && p.point[i].level == 0 && p.point[i].size > 100);
    }
    restore_points_done(&p);
    f->s->ops = real_ops;
}

static void points_of_little(void **state)
{
    struct fix *f = *state;
    struct restore_points p = {.n = 0};
    struct restore_opts o = opts(f, 0);
    struct err e = {0};
    assert_int_equal(restore_points(&f->loop, f->s, &o, 0, &p, &e), 0);
    assert_true(p.n == STATES && p.total == STATES && p.oldest.txid == 1 && !p.v3);
    restore_points_done(&p);
    o.replica = "nobody";
    assert_int_equal(restore_points(&f->loop, f->s, &o, 0, &p, &e), -(int)ERR_NOTFOUND);
    assert_int_equal(p.n, 0);
    o.generation = "0123456789abcdef";
    assert_int_equal(restore_points(&f->loop, f->s, &o, 0, &p, &e), -(int)ERR_NOTFOUND);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(every_time),
        T(levels_without_the_files_below),
        T(equal_times_and_clocks_set_back),
        T(a_clock_that_leaps_to_and_fro),
        T(damaged_headers),
        T(few_requests_for_a_time),
        T(points_of_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
