#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/beat.h"

static void a_job_that_no_worker_has_taken_is_queued(void **arg)
{
    (void)arg;
    struct beat b = {0};
    enum beat_state state;
    beat_step(); /* of this thread, which has no job */
    assert_int_equal(beat_still_ms(&b, 1000, &state), 0);
    assert_int_equal(beat_still_ms(&b, 4000, &state), 3000);
    assert_int_equal(state, BEAT_QUEUED);
}

static void silence_is_counted_from_the_last_beat(void **arg)
{
    (void)arg;
    struct beat b = {0};
    enum beat_state state;
    beat_begin(&b);
    assert_int_equal(beat_still_ms(&b, 1000, &state), 0);
    assert_int_equal(beat_still_ms(&b, 3000, &state), 2000);
    assert_int_equal(state, BEAT_WORKS);
    beat_step();
    assert_int_equal(beat_still_ms(&b, 5000, &state), 0);
    beat_end();
    assert_int_equal(beat_still_ms(&b, 6000, &state), 0);
    beat_step(); /* not of this job any more */
    assert_int_equal(beat_still_ms(&b, 9000, &state), 3000);
}

static void what_takes_time_in_one_call_is_parked_until_it_returns(void **arg)
{
    (void)arg;
    struct beat b = {0};
    enum beat_state state;
    beat_begin(&b);
    beat_park(true);
    (void)beat_still_ms(&b, 1000, &state);
    assert_int_equal(beat_still_ms(&b, 61000, &state), 60000);
    assert_int_equal(state, BEAT_PARKED);
    beat_park(false);
    assert_int_equal(beat_still_ms(&b, 62000, &state), 0);
    assert_int_equal(state, BEAT_WORKS);
    beat_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_that_no_worker_has_taken_is_queued),
        cmocka_unit_test(silence_is_counted_from_the_last_beat),
        cmocka_unit_test(what_takes_time_in_one_call_is_parked_until_it_returns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
