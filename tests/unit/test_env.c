#include "common/base/env.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "common/base/fsx.h"

static char *path_of(const char *text)
{
    struct err e = {0};
    char name[] = "/tmp/walsup-test-env-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    assert_int_equal(fsx_write_all(fd, text, strlen(text), &e), 0);
    (void)close(fd);
    return util_strdup(name);
}

static void a_hidden_secret_is_found_here_and_nowhere_else(void **state)
{
    (void)state;
    (void)setenv("T_HIDDEN", "abc", 1);
    const char *before = getenv("T_HIDDEN");
    env_hide("T_HIDDEN");
    assert_string_equal(before, "");
    env_hide("T_HIDDEN"); /* a second time does not forget it */
    cleanup_free char *v = env_get("T_HIDDEN");
    assert_string_equal(v, "abc");
    env_take("T_HIDDEN");
    assert_null(getenv("T_HIDDEN"));
    cleanup_free char *again = env_get("T_HIDDEN");
    assert_string_equal(again, "abc");
    assert_null(env_get("T_NEVER"));
}

static void a_file_sets_what_the_environment_does_not(void **state)
{
    (void)state;
    struct err e = {0};
    (void)setenv("T_OWN", "own", 1);
    cleanup_free char *path = path_of("# comment\n; another\n\nT_OWN=file\nT_PLAIN=a b=c \nT_QUOTED=\"x y\"\n  T_SINGLE='$z'\nT_LAST=1");
    assert_int_equal(env_load(path, &e), 0);
    (void)unlink(path);
    assert_string_equal(getenv("T_OWN"), "own");
    assert_string_equal(getenv("T_PLAIN"), "a b=c");
    assert_string_equal(getenv("T_QUOTED"), "x y");
    assert_string_equal(getenv("T_SINGLE"), "$z");
    assert_string_equal(getenv("T_LAST"), "1");
}

static void a_line_that_sets_nothing_is_named(void **state)
{
    (void)state;
    struct err e = {0};
    cleanup_free char *path = path_of("A_OK=1\nexport T_X=1\n");
    assert_int_equal(env_load(path, &e), -ERR_CONFIG);
    cleanup_free char *want = util_printf("%s:2: not NAME=VALUE", path);
    assert_string_equal(e.msg, want);
    (void)unlink(path);
    assert_int_equal(env_load(path, &e), -ERR_NOTFOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hidden_secret_is_found_here_and_nowhere_else),
        cmocka_unit_test(a_file_sets_what_the_environment_does_not),
        cmocka_unit_test(a_line_that_sets_nothing_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
