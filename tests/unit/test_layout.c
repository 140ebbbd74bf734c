/* Names of a replica's objects: what belongs to it, and what only looks like it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/store/layout.h"

static const enum conf_target_type types[] = {CONF_S3, CONF_FILE};

static void what_all_levels_begin_with_begins_the_keys_of_each(void **state)
{
    (void)state;
    static const char *const replicas[] = {"", "app", "a/b"};
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        for (size_t i = 0; i < ARRAY_LEN(replicas); i++) {
            cleanup_free char *all = layout_levels(types[t], replicas[i]);
            for (unsigned want = 0; want <= LTX_SNAPSHOT_LEVEL; want++) {
                cleanup_free char *key = layout_key(types[t], replicas[i], want, 7, 9);
                unsigned level = 99;
                uint64_t min = 0, max = 0;
                assert_int_equal(strncmp(key, all, strlen(all)), 0);
                assert_true(layout_parse_level(key, strlen(all), &level, &min, &max));
                assert_int_equal(level, want);
                assert_int_equal(min, 7);
                assert_int_equal(max, 9);
            }
        }
    }
}

static void what_is_of_no_level_is_not_taken_for_an_object(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "app/000",
        "app/0000",
        "app/0000/",
        "app/0000/x.ltx",
        "app/000a/0000000000000001-0000000000000001.ltx",
        "app/00000/0000000000000001-0000000000000001.ltx",
        "app/0000/0000/0000000000000001-0000000000000001.ltx",
        "app/0000/0000000000000001-0000000000000001.ltx.tmp",
    };
    cleanup_free char *all = layout_levels(CONF_S3, "app");
    unsigned level;
    uint64_t min, max;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        assert_false(layout_parse_level(keys[i], strlen(all), &level, &min, &max));
    assert_true(layout_parse_level("app/0000/0000000000000001-0000000000000001.ltx", strlen(all),
                                   &level, &min, &max)); /* the control */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_all_levels_begin_with_begins_the_keys_of_each),
        cmocka_unit_test(what_is_of_no_level_is_not_taken_for_an_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
