/* The map from pages to frames against a plain array. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/capture/framemap.h"

#define PAGES 5000u

static void later_frames_win_and_sorting_cuts(void **state)
{
    (void)state;
    static uint32_t plain[PAGES + 1];
    struct err e = {0};
    for (uint32_t stride = 1; stride <= 4096; stride *= 16) { /* strides that collide in a hash */
        struct framemap m cleanup_framemap = {NULL, 0, 0};
        memset(plain, 0, sizeof plain);
        assert_false(framemap_has(&m, 1));
        size_t distinct = 0;
        for (uint32_t frame = 1; frame <= 4 * PAGES; frame++) {
            uint32_t k = 1 + (uint32_t)util_random_below(PAGES);
            distinct += !plain[k];
            plain[k] = frame;
            assert_int_equal(framemap_put(&m, k * stride, frame, &e), 0);
            assert_int_equal(m.n, distinct);
        }
        for (uint32_t k = 1; k <= PAGES; k++)
            assert_int_equal(framemap_has(&m, k * stride), plain[k] != 0);
        assert_false(framemap_has(&m, UINT32_MAX));
        uint32_t max = PAGES / 2 * stride, last = 0;
        framemap_sort(&m, max);
        size_t expected = 0;
        for (uint32_t k = 1; k <= PAGES / 2; k++)
            expected += plain[k] != 0;
        assert_int_equal(m.n, expected);
        for (size_t i = 0; i < m.n; i++) {
            assert_true(m.slot[i].pgno > last && m.slot[i].pgno <= max);
            last = m.slot[i].pgno;
            assert_int_equal(m.slot[i].frame, plain[last / stride]);
        }
    }
}

static void the_largest_page_and_frame_0_are_kept(void **state)
{
    (void)state;
    struct err e = {0};
    struct framemap m cleanup_framemap = {NULL, 0, 0};
    framemap_sort(&m, 10);
    assert_int_equal(m.n, 0);
    assert_int_equal(framemap_put(&m, UINT32_MAX - 1, 0, &e), 0);
    assert_true(framemap_has(&m, UINT32_MAX - 1));
    framemap_sort(&m, UINT32_MAX);
    assert_int_equal(m.n, 1);
    assert_int_equal(m.slot[0].frame, 0);
    framemap_free(&m);
    framemap_free(&m);
    assert_false(framemap_has(&m, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(later_frames_win_and_sorting_cuts),
        cmocka_unit_test(the_largest_page_and_frame_0_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
