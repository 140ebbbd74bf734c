#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/replica/retain.h"

#define HOUR 3600000ll
#define DAY (24 * HOUR)

/* one whole database a day, TXID 100 on day 0, 200 on day 1 ... */
static size_t daily(struct retain_whole *w, size_t days)
{
    for (size_t i = 0; i < days; i++)
        w[i] = (struct retain_whole){100 * (i + 1), (int64_t)i * DAY};
    return days;
}

static void the_newest_that_is_older_than_the_window_is_the_anchor(void **state)
{
    (void)state;
    struct retain_whole w[30];
    size_t n = daily(w, 30);
    struct retain_verdict v = retain_judge(w, n, 29 * (int64_t)DAY + HOUR, 7 * (uint64_t)DAY);
    assert_int_equal(v.anchor, 2300); /* day 22 */
    assert_int_equal(v.due_ms, 30 * (int64_t)DAY);
}

static void nothing_goes_before_the_window_is_full(void **state)
{
    (void)state;
    struct retain_whole w[30];
    size_t n = daily(w, 5);
    struct retain_verdict v = retain_judge(w, n, 4 * (int64_t)DAY, 7 * (uint64_t)DAY);
    assert_int_equal(v.anchor, 0);
    assert_int_equal(v.due_ms, 7 * (int64_t)DAY);
    assert_int_equal(retain_judge(w, 0, DAY, DAY).anchor, 0);
    assert_int_equal(retain_judge(w, 1, 100 * (int64_t)DAY, DAY).anchor, 0);
    assert_int_equal(retain_judge(w, 1, 100 * (int64_t)DAY, DAY).due_ms, 0);
}

/* A clock that is ten years ahead: everything seems old, and two generations stay all the same. */
static void two_generations_stay_whatever_the_clock_says(void **state)
{
    (void)state;
    struct retain_whole w[30];
    size_t n = daily(w, 30);
    struct retain_verdict v = retain_judge(w, n, 3650 * (int64_t)DAY, 7 * (uint64_t)DAY);
    assert_int_equal(v.anchor, 2900);
    assert_int_equal(v.due_ms, 0); /* not before there is another one */
}

/* The clock was ahead for one of them, by much or by little: it is as old as the one after it. */
static void a_clock_that_was_ahead_holds_nothing_up(void **state)
{
    (void)state;
    for (int64_t ahead = 9; ahead < 2000; ahead += 7) {
        struct retain_whole w[5] = {{100, 0}, {200, ahead * DAY}, {300, DAY}, {400, 2 * (int64_t)DAY}, {500, 3 * (int64_t)DAY}};
        struct retain_verdict v = retain_judge(w, 5, 9 * (int64_t)DAY + HOUR, 7 * (uint64_t)DAY);
        assert_int_equal(v.anchor, ahead == 9 ? 100 : 400);
    }
}

/* and nothing goes because of it: what was stored after it is not old yet */
static void a_clock_that_was_ahead_deletes_nothing(void **state)
{
    (void)state;
    struct retain_whole w[4] = {{100, 0}, {200, 3000 * (int64_t)DAY}, {300, 10 * (int64_t)DAY}, {400, 11 * (int64_t)DAY}};
    struct retain_verdict v = retain_judge(w, 4, 12 * (int64_t)DAY, 7 * (uint64_t)DAY);
    assert_int_equal(v.anchor, 100);
    assert_int_equal(v.due_ms, 17 * (int64_t)DAY);
    /* the newest ones are all of the future: as young as can be */
    struct retain_whole f[4] = {{100, 0}, {200, 3000 * (int64_t)DAY}, {300, 3001 * (int64_t)DAY}, {400, 3002 * (int64_t)DAY}};
    v = retain_judge(f, 4, 12 * (int64_t)DAY, 7 * (uint64_t)DAY);
    assert_int_equal(v.anchor, 100);
    assert_int_equal(v.due_ms, 19 * (int64_t)DAY);
}

/* A machine without a battery: it comes up years behind, and is set right later. */
static void a_clock_that_was_behind_makes_nothing_old(void **state)
{
    (void)state;
    int64_t t = 5000 * (int64_t)DAY;
    struct retain_whole w[5] = {{100, t}, {200, t + DAY}, {300, 10}, {400, t + 2 * (int64_t)DAY}, {500, t + 3 * (int64_t)DAY}};
    assert_int_equal(retain_judge(w, 5, t + 4 * (int64_t)DAY, 7 * (uint64_t)DAY).anchor, 0);
    assert_int_equal(retain_judge(w, 5, t + 8 * (int64_t)DAY + HOUR, 7 * (uint64_t)DAY).anchor, 200);
    assert_int_equal(retain_judge(w, 5, t + 9 * (int64_t)DAY + HOUR, 7 * (uint64_t)DAY).anchor, 400);
    /* and while it is behind, everything before is of the future */
    struct retain_whole b[4] = {{100, t}, {200, t + DAY}, {300, 10}, {400, 20}};
    assert_int_equal(retain_judge(b, 4, 30, 7 * (uint64_t)DAY).anchor, 0);
}

/* A clock that leaps to and fro at random. The true age decides, or more is kept: never less. */
static void whatever_the_clock_does_nothing_goes_too_early(void **state)
{
    (void)state;
    unsigned gone = 0;
    srandom(1);
    for (unsigned round = 0; round < 20000; round++) {
        struct retain_whole w[40];
        int64_t true_ms[40], t = 20000 * (int64_t)DAY, window = (1 + random() % 20) * DAY;
        for (size_t i = 0; i < 40; i++) {
            t += random() % DAY;
            true_ms[i] = t;
            long x = random() % 10;
            w[i] = (struct retain_whole){100 * (i + 1), x ? t : t + (random() % 2 ? random() % (40 * DAY) : 1000 * (int64_t)DAY)};
        }
        struct retain_verdict v = retain_judge(w, 40, t, (uint64_t)window);
        size_t at = (size_t)(v.anchor / 100);
        gone += at > 1;
        if (at && true_ms[at - 1] + window > t)
            fail_msg("round %u: the anchor is %lld ms too young", round, (long long)(true_ms[at - 1] + window - t));
        assert_true(at <= 38);
    }
    assert_true(gone > 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_that_is_older_than_the_window_is_the_anchor),
        cmocka_unit_test(nothing_goes_before_the_window_is_full),
        cmocka_unit_test(two_generations_stay_whatever_the_clock_says),
        cmocka_unit_test(a_clock_that_was_ahead_holds_nothing_up),
        cmocka_unit_test(a_clock_that_was_ahead_deletes_nothing),
        cmocka_unit_test(a_clock_that_was_behind_makes_nothing_old),
        cmocka_unit_test(whatever_the_clock_does_nothing_goes_too_early),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
