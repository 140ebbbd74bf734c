#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/retain.h"

#define HOUR 3600000
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

static void times_that_go_back_never_make_more_go(void **state)
{
    (void)state;
    struct retain_whole w[4] = {{100, 0}, {200, 50 * (int64_t)DAY}, {300, DAY}, {400, 2 * (int64_t)DAY}};
    struct retain_verdict v = retain_judge(w, 4, 20 * (int64_t)DAY, 7 * (uint64_t)DAY);
    assert_int_equal(v.anchor, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_that_is_older_than_the_window_is_the_anchor),
        cmocka_unit_test(nothing_goes_before_the_window_is_full),
        cmocka_unit_test(two_generations_stay_whatever_the_clock_says),
        cmocka_unit_test(times_that_go_back_never_make_more_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
