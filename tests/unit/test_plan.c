#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/format/plan.h"

#define F(level, min, max) {level, min, max, 200, 0, 0}

static void expect(const struct plan_file *file, size_t n, uint64_t txid,
                   const struct plan_file *want, size_t n_want)
{
    struct err e = {0};
    struct plan_file *got = NULL;
    size_t n_got = 0;
    assert_int_equal(plan_restore(file, n, txid, &got, &n_got, &e), 0);
    assert_int_equal(n_got, n_want);
    for (size_t i = 0; i < n_want; i++) {
        assert_int_equal(got[i].level, want[i].level);
        assert_int_equal(got[i].min, want[i].min);
        assert_int_equal(got[i].max, want[i].max);
    }
    free(got);
}

static void refuse(const struct plan_file *file, size_t n, uint64_t txid, enum err_code code,
                   const char *text)
{
    struct err e = {0};
    struct plan_file *got = NULL;
    size_t n_got = 77;
    assert_int_equal(plan_restore(file, n, txid, &got, &n_got, &e), -(int)code);
    assert_int_equal(e.code, code);
    if (!strstr(e.msg, text))
        fail_msg("\"%s\" is not in \"%s\"", text, e.msg);
    assert_null(got);
    assert_int_equal(n_got, 77);
}

static const struct plan_file replica[] = {
    F(0, 8, 8), F(0, 9, 9), F(0, 10, 10), F(1, 4, 6), F(1, 7, 9),
    F(2, 2, 6), F(9, 1, 3), F(9, 1, 1),   F(0, 7, 7),
};

static void latest_takes_the_longest_steps(void **state)
{
    (void)state;
    static const struct plan_file want[] = {F(9, 1, 3), F(2, 2, 6), F(1, 7, 9), F(0, 10, 10)};
    expect(replica, ARRAY_LEN(replica), 0, want, ARRAY_LEN(want));
}

static void a_txid_is_reached_exactly(void **state)
{
    (void)state;
    static const struct plan_file want[] = {F(9, 1, 3), F(2, 2, 6), F(0, 7, 7), F(0, 8, 8)};
    expect(replica, ARRAY_LEN(replica), 8, want, ARRAY_LEN(want));
    refuse(replica, ARRAY_LEN(replica), 5, ERR_CORRUPT, "exactly TXID 0000000000000005");
    refuse(replica, ARRAY_LEN(replica), 5, ERR_CORRUPT, "before it is 0000000000000003");
    refuse(replica, ARRAY_LEN(replica), 5, ERR_CORRUPT, "ends at 0000000000000006");
    refuse(replica, ARRAY_LEN(replica), 11, ERR_CORRUPT, "before it is 000000000000000a");
}

static void a_compacted_level_may_hold_the_snapshot(void **state)
{
    (void)state;
    static const struct plan_file file[] = {F(0, 1, 1), F(0, 2, 2), F(1, 1, 2), F(0, 3, 3)};
    static const struct plan_file want[] = {F(1, 1, 2), F(0, 3, 3)};
    expect(file, ARRAY_LEN(file), 0, want, ARRAY_LEN(want));
}

static void equal_reach_prefers_smaller_min_then_higher_level(void **state)
{
    (void)state;
    static const struct plan_file file[] = {F(9, 1, 5), F(0, 6, 8), F(1, 4, 8), F(3, 4, 8),
                                            F(2, 4, 8), F(1, 1, 5)};
    static const struct plan_file want[] = {F(9, 1, 5), F(3, 4, 8)};
    expect(file, ARRAY_LEN(file), 0, want, ARRAY_LEN(want));
}

static void holes_are_named(void **state)
{
    (void)state;
    static const struct plan_file hole[] = {F(9, 1, 3), F(0, 4, 4), F(0, 7, 7), F(1, 9, 12)};
    static const struct plan_file want[] = {F(9, 1, 3), F(0, 4, 4)};
    refuse(hole, ARRAY_LEN(hole), 0, ERR_CORRUPT,
           "TXIDs 0000000000000005 to 0000000000000006 are missing");
    refuse(hole, ARRAY_LEN(hole), 0, ERR_CORRUPT, "up to 000000000000000c");
    expect(hole, ARRAY_LEN(hole), 4, want, ARRAY_LEN(want));
    refuse(hole, ARRAY_LEN(hole), 7, ERR_CORRUPT, "before it is 0000000000000004");
    refuse(hole, ARRAY_LEN(hole), 2, ERR_CORRUPT, "the oldest one is of TXID 0000000000000003");
    refuse(hole + 1, ARRAY_LEN(hole) - 1, 0, ERR_CORRUPT, "no snapshot");
    refuse(hole, 0, 0, ERR_NOTFOUND, "empty");
}

static void txids_at_the_end_of_64_bits(void **state)
{
    (void)state;
    static const struct plan_file file[] = {F(9, 1, UINT64_MAX - 1), F(0, UINT64_MAX, UINT64_MAX)};
    expect(file, 2, 0, file, 2);
    expect(file, 2, UINT64_MAX, file, 2);
}

/* Sets of TXIDs reachable, by trying everything: the oracle. */
static uint64_t reachable(const struct plan_file *f, size_t n, uint64_t txid)
{
    bool at[16] = {true};
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < n; i++)
            for (uint64_t have = 0; have < 16; have++)
                if (at[have] && (have || f[i].min == 1) && f[i].min <= have + 1 &&
                    f[i].max > have && (!txid || f[i].max <= txid) && !at[f[i].max])
                    more = at[f[i].max] = true;
    }
    for (uint64_t k = 15; k; k--)
        if (at[k])
            return k;
    return 0;
}

/* The fewest files that lead there: taking the furthest reach each time must find as few. */
static unsigned fewest(const struct plan_file *f, size_t n, uint64_t to)
{
    unsigned steps[16] = {0};
    for (uint64_t have = 1; have <= to; have++) {
        steps[have] = 1000;
        for (size_t i = 0; i < n; i++) {
            if (f[i].max != have)
                continue;
            if (f[i].min == 1)
                steps[have] = MIN(steps[have], 1u);
            for (uint64_t from = f[i].min - 1; from && from < have; from++)
                steps[have] = MIN(steps[have], steps[from] + 1);
        }
    }
    return steps[to];
}

static void random_replicas_against_brute_force(void **state)
{
    (void)state;
    unsigned found = 0, refused = 0;
    for (int round = 0; round < 200000; round++) {
        struct plan_file f[8];
        size_t n = 1 + (size_t)util_random_below(8);
        uint64_t newest = 0;
        for (size_t i = 0; i < n; i++) {
            uint64_t min = 1 + util_random_below(util_random_below(2) ? 4 : 10);
            f[i] = (struct plan_file)F((unsigned)util_random_below(10), min,
                                       MIN(min + util_random_below(4), 15ull));
            newest = MAX(newest, f[i].max);
        }
        uint64_t txid = util_random_below(2) ? util_random_below(16) : 0;
        uint64_t to = reachable(f, n, txid);
        struct err e = {0};
        struct plan_file *got = NULL;
        size_t n_got = 0;
        int r = plan_restore(f, n, txid, &got, &n_got, &e);
        if (!to || to != (txid ? txid : newest)) {
            assert_int_equal(r, -ERR_CORRUPT);
            refused++;
            continue;
        }
        assert_int_equal(r, 0);
        uint64_t have = 0;
        for (size_t i = 0; i < n_got; i++) {
            assert_true(i ? got[i].min <= have + 1 : got[i].min == 1);
            assert_true(got[i].max > have);
            have = got[i].max;
        }
        assert_int_equal(have, to);
        assert_int_equal(n_got, fewest(f, n, to));
        free(got);
        found++;
    }
    assert_true(found > 1000 && refused > 1000);
}

/* a point is what plan_restore ends at, and nothing else */
static void points_are_what_can_be_reached(void **state)
{
    (void)state;
    srand(7);
    size_t reached = 0, not = 0;
    for (unsigned round = 0; round < 3000; round++) {
        struct plan_file f[24], *p = NULL, *plan = NULL;
        size_t n = (size_t)rand() % ARRAY_LEN(f), n_p = 0, n_plan, at = 0;
        uint64_t newest = 0, max = 0;
        struct err e = {0};
        for (size_t i = 0; i < n; i++) {
            uint64_t min = rand() % 4 ? 1 + (uint64_t)rand() % 12 : 1;
            f[i] = (struct plan_file)F((unsigned)rand() % 10, min, min + (uint64_t)rand() % 4);
            max = MAX(max, f[i].max);
        }
        int r = plan_points(f, n, &p, &n_p, &newest, &e);
        assert_true(r == 0 ? newest == max : r == -(int)(n ? ERR_CORRUPT : ERR_NOTFOUND));
        for (uint64_t txid = 1; txid <= 20; txid++) {
            bool can = plan_restore(f, n, txid, &plan, &n_plan, &e) == 0;
            free(TAKE_PTR(plan));
            bool is = at < n_p && p[at].max == txid;
            assert_int_equal(can, is);
            if (!is)
                not++;
            for (size_t i = 0; is && i < n; i++)
                assert_true(f[i].max != txid || f[i].level >= p[at].level);
            at += is;
            reached += is;
        }
        assert_int_equal(at, n_p);
        free(p);
    }
    assert_true(reached > 1000 && not > 1000);
    static const struct plan_file end[] = {F(9, 1, UINT64_MAX - 1), F(0, UINT64_MAX, UINT64_MAX)};
    struct plan_file *p = NULL;
    size_t n = 0;
    struct err e = {0};
    assert_int_equal(plan_points(end, 2, &p, &n, NULL, &e), 0);
    assert_int_equal(n, 2);
    free(p);
}

static void a_hundred_thousand_files(void **state)
{
    (void)state;
    size_t n = 100000, n_got = 0;
    struct plan_file *f = malloc(n * sizeof *f), *got = NULL;
    struct err e = {0};
    assert_non_null(f);
    for (size_t i = 0; i < n; i++)
        f[n - 1 - i] = (struct plan_file)F(0, i + 1, i + 1);
    assert_int_equal(plan_restore(f, n, 0, &got, &n_got, &e), 0);
    assert_int_equal(n_got, n);
    free(got);
    free(f);
}

/* Levels as compaction makes them, some of it pruned. */
static void the_way_to_each_point_is_what_a_plan_weighs(void **state)
{
    (void)state;
    struct plan_file f[4000], *point = NULL, *plan = NULL;
    size_t n = 0, n_point, n_plan;
    struct err e = {0};
    const uint64_t each[] = {1, 5, 25, 125};
    for (unsigned level = 0; level < 4; level++)
        for (uint64_t min = 2; min + each[level] - 1 <= 1500; min += each[level])
            if (level == 3 || min > (level == 0 ? 900u : level == 1 ? 500u : 250u))
                f[n++] = (struct plan_file){level, min, min + each[level] - 1, 100 + min * 7 % 1000, 0, 0};
    for (uint64_t max = 1; max <= 1500; max += 500)
        f[n++] = (struct plan_file){9, 1, max, 5000 + max, 0, 0};
    assert_int_equal(plan_points(f, n, &point, &n_point, NULL, &e), 0);
    assert_true(n_point > 600);
    for (size_t i = 0; i < n_point; i++) {
        uint64_t bytes = 0;
        assert_int_equal(plan_restore(f, n, point[i].max, &plan, &n_plan, &e), 0);
        for (size_t k = 0; k < n_plan; k++)
            bytes += plan[k].size;
        free(plan);
        assert_int_equal(point[i].way, bytes);
    }
    free(point);
}

static void a_copy_goes_on_from_its_txid(void **state)
{
    (void)state;
    static const struct plan_file f[] = {F(9, 1, 10), F(0, 12, 12), F(0, 13, 13), F(1, 9, 13),
                                         F(0, 20, 20)};
    struct plan_file *got = NULL;
    size_t n = 0;
    struct err e = {0};
    assert_int_equal(plan_from(f, 5, 11, &got, &n, &e), 0);
    assert_int_equal(n, 1);
    assert_true(got[0].min == 9 && got[0].max == 13);
    free(got);
    assert_int_equal(plan_from(f, 3, 11, &got, &n, &e), 0);
    assert_int_equal(n, 2);
    free(got);
    assert_int_equal(plan_from(f, 5, 14, &got, &n, &e), 1); /* a gap before 20 */
    assert_int_equal(n, 0);
    free(got);
    assert_int_equal(plan_from(f, 5, 20, &got, &n, &e), 0);
    assert_int_equal(n, 0);
    free(got);
    assert_int_equal(plan_from(NULL, 0, 20, &got, &n, &e), 0);
    assert_int_equal(n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(latest_takes_the_longest_steps),
        cmocka_unit_test(a_txid_is_reached_exactly),
        cmocka_unit_test(a_compacted_level_may_hold_the_snapshot),
        cmocka_unit_test(equal_reach_prefers_smaller_min_then_higher_level),
        cmocka_unit_test(holes_are_named),
        cmocka_unit_test(txids_at_the_end_of_64_bits),
        cmocka_unit_test(random_replicas_against_brute_force),
        cmocka_unit_test(points_are_what_can_be_reached),
        cmocka_unit_test(the_way_to_each_point_is_what_a_plan_weighs),
        cmocka_unit_test(a_copy_goes_on_from_its_txid),
        cmocka_unit_test(a_hundred_thousand_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
