/* Who may be attached when not all may: in which order berths are given and asked back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/unit/within.h"

#include "daemon/core/berths.h"

#define N 12

static struct one {
    struct berth berth;
    unsigned asked, told;
} one[N];
static struct berths *berths;

static void on_leave(struct berth *x)
{
    CONTAINER_OF(x, struct one, berth)->asked++;
}

static void on_enter(struct berth *x)
{
    CONTAINER_OF(x, struct one, berth)->told++;
}

static const struct berth_calls calls = {on_leave, on_enter};

static int begin(void **state)
{
    (void)state;
    for (size_t i = 0; i < N; i++)
        one[i] = (struct one){.berth.call = &calls};
    return 0;
}

static int end(void **state)
{
    (void)state;
    berths = berths_free(berths);
    return 0;
}

static bool enter(size_t i)
{
    return berths_enter(berths, &one[i].berth);
}

static void leave(size_t i)
{
    berths_leave(berths, &one[i].berth);
}

/* the ones that were asked, or told, as bits; each at most once */
static unsigned bits(bool asked)
{
    unsigned r = 0;
    for (size_t i = 0; i < N; i++) {
        assert_true(one[i].asked <= 1);
        r |= (asked ? one[i].asked : one[i].told) ? 1u << i : 0;
    }
    return r;
}

static void without_a_limit_everybody_has_one(void **state)
{
    (void)state;
    for (size_t i = 0; i < N; i++)
        assert_true(berths_enter(NULL, &one[i].berth));
    assert_true(berths_load(NULL, &one[0].berth));
}

static void the_one_whose_commit_is_longest_ago_is_asked_for_the_one_that_waits(void **state)
{
    (void)state;
    berths = berths_new(3);
    assert_true(enter(0) && enter(1) && enter(2));
    berths_touch(berths, &one[0].berth); /* now 1 is the oldest */
    assert_int_equal(bits(true), 0);
    assert_false(enter(3));
    assert_int_equal(bits(true), 1u << 1);
    assert_int_equal(berths_taken(berths), 3);
    assert_false(enter(3)); /* asking again asks nobody else */
    assert_int_equal(bits(true), 1u << 1);
    leave(1);
    assert_int_equal(bits(false), 1u << 3);
    assert_true(enter(3));
    assert_int_equal(berths_taken(berths), 3);
    assert_false(enter(4)); /* and the next one is asked for the next one */
    assert_int_equal(bits(true), 1u << 1 | 1u << 2);
}

static void who_came_first_enters_first(void **state)
{
    (void)state;
    berths = berths_new(2);
    assert_true(enter(0) && enter(1));
    assert_false(enter(2));
    assert_false(enter(3));
    assert_int_equal(bits(true), 1u << 0 | 1u << 1);
    leave(0);
    assert_int_equal(bits(false), 1u << 2); /* one berth, one is told */
    assert_false(enter(3));                 /* not before 2 */
    assert_true(enter(2));
    leave(1);
    assert_true(enter(3));
}

static void who_waits_no_more_gives_the_place_in_the_line(void **state)
{
    (void)state;
    berths = berths_new(1);
    assert_true(enter(0));
    assert_false(enter(1));
    assert_false(enter(2));
    leave(1);
    leave(0);
    assert_int_equal(one[2].told, 1);
    assert_true(enter(2));
    assert_int_equal(berths_taken(berths), 1);
}

static void who_commits_after_he_was_asked_may_stay_once_nobody_waits(void **state)
{
    (void)state;
    berths = berths_new(1);
    assert_true(enter(0));
    assert_false(enter(1));
    assert_true(one[0].berth.asked);
    berths_touch(berths, &one[0].berth);
    assert_true(one[0].berth.asked); /* somebody waits */
    leave(1);
    berths_touch(berths, &one[0].berth);
    assert_false(one[0].berth.asked);
}

static void an_eighth_is_kept_free(void **state)
{
    (void)state;
    berths = berths_new(8);
    for (size_t i = 0; i < 7; i++)
        assert_true(enter(i));
    assert_int_equal(bits(true), 0);
    assert_true(enter(7)); /* there is room, and the oldest makes some more */
    assert_int_equal(bits(true), 1u << 0);
}

static void a_smaller_limit_asks_the_oldest_and_a_larger_one_lets_in(void **state)
{
    (void)state;
    berths = berths_new(4);
    for (size_t i = 0; i < 4; i++)
        assert_true(enter(i));
    berths_resize(berths, 2);
    assert_int_equal(bits(true), 1u << 0 | 1u << 1);
    assert_false(enter(4));
    leave(0);
    assert_int_equal(bits(false), 0); /* three are in, two may be */
    leave(1);
    leave(2);
    assert_int_equal(bits(false), 1u << 4);
    assert_false(enter(5));
    berths_resize(berths, 4);
    assert_true(one[5].told > 0);
}

static void at_the_start_spools_are_read_by_some_at_a_time(void **state)
{
    (void)state;
    static struct one many[40];
    berths = berths_new(1);
    unsigned begun = 0;
    for (size_t i = 0; i < 40; i++) {
        many[i] = (struct one){.berth.call = &calls};
        begun += berths_load(berths, &many[i].berth);
    }
    assert_int_equal(begun, 32);
    for (size_t i = 0; i < 8; i++) { /* one is done: the next in the line is told, and begins */
        berths_loaded(berths);
        assert_int_equal(many[32 + i].told, 1);
        assert_true(berths_load(berths, &many[32 + i].berth));
    }
    assert_int_equal(berths_taken(berths), 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(without_a_limit_everybody_has_one),
        TEST(the_one_whose_commit_is_longest_ago_is_asked_for_the_one_that_waits),
        TEST(who_came_first_enters_first),
        TEST(who_waits_no_more_gives_the_place_in_the_line),
        TEST(who_commits_after_he_was_asked_may_stay_once_nobody_waits),
        TEST(an_eighth_is_kept_free),
        TEST(a_smaller_limit_asks_the_oldest_and_a_larger_one_lets_in),
        TEST(at_the_start_spools_are_read_by_some_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
