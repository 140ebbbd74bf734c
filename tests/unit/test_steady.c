#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/clk.h"
#include "daemon/replica/steady.h"

#define HOUR 3600000ll
#define DAY (24 * HOUR)
#define YEAR (365 * DAY)

static void near_to(int64_t a, int64_t b)
{
    if (a - b > 2000 || b - a > 2000)
        fail_msg("%lld is not near %lld", (long long)a, (long long)b);
}

static void it_follows_the_real_time(void **state)
{
    (void)state;
    struct steady s = {0};
    near_to(steady_now(&s, 1), clk_real_ms());
    clk_shift(9 * DAY, (uint64_t)(9 * DAY)); /* nine days without a look */
    near_to(steady_now(&s, 1), clk_real_ms());
    clk_shift(5 * 60000, 0); /* set by five minutes */
    near_to(steady_now(&s, 1), clk_real_ms());
    assert_int_equal(s.leapt_ms, 0);
}

static void ten_years_ahead_is_not_believed_and_time_goes_on(void **state)
{
    (void)state;
    struct steady s = {0};
    int64_t before = steady_now(&s, 1);
    clk_shift(10 * YEAR, 0);
    near_to(steady_now(&s, 1), before);
    near_to(s.leapt_ms, 10 * YEAR);
    clk_shift(HOUR, HOUR);
    near_to(steady_now(&s, 1), before + HOUR);
    near_to(steady_now(&s, 2), before + HOUR); /* nor after a boot */
    clk_shift(-10 * YEAR, 0);                  /* somebody mends it */
    near_to(steady_now(&s, 2), clk_real_ms());
    assert_int_equal(s.leapt_ms, 0);
    near_to(steady_now(&s, 2), before + HOUR);
}

static void a_clock_set_back_is_believed_at_once(void **state)
{
    (void)state;
    struct steady s = {0};
    (void)steady_now(&s, 1);
    clk_shift(-3 * YEAR, 0);
    near_to(steady_now(&s, 1), clk_real_ms());
    clk_shift(3 * YEAR, 0); /* and back: that is a leap */
    near_to(steady_now(&s, 1), clk_real_ms() - 3 * YEAR);
    steady_trust(&s, 1);
    near_to(steady_now(&s, 1), clk_real_ms());
}

static void a_night_switched_off_is_believed_a_month_is_not(void **state)
{
    (void)state;
    struct steady s = {0};
    (void)steady_now(&s, 1);
    clk_shift(12 * HOUR, 0);
    near_to(steady_now(&s, 2), clk_real_ms());
    clk_shift(30 * DAY, 0);
    near_to(steady_now(&s, 3), clk_real_ms() - 30 * DAY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_follows_the_real_time),
        cmocka_unit_test(ten_years_ahead_is_not_believed_and_time_goes_on),
        cmocka_unit_test(a_clock_set_back_is_believed_at_once),
        cmocka_unit_test(a_night_switched_off_is_believed_a_month_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
