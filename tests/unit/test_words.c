#include "common/format/words.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void splits(const char *text, ...)
{
    char **list = NULL;
    struct err e = {0};
    va_list ap;
    assert_int_equal(words_split(text, &list, &e), 0);
    va_start(ap, text);
    size_t n = 0;
    for (const char *want; (want = va_arg(ap, const char *)); n++) {
        assert_non_null(list[n]);
        assert_string_equal(list[n], want);
    }
    va_end(ap);
    assert_null(list[n]);
    words_free(list);
}

static void words_and_quotes(void **state)
{
    (void)state;
    splits("app", "app", NULL);
    splits("  app\t-x  y\n", "app", "-x", "y", NULL);
    splits("sh -c 'cd \"$HOME\" && ./app \\n'", "sh", "-c", "cd \"$HOME\" && ./app \\n", NULL);
    splits("a \"b \\\"c\\\" \\\\ \\d\" ''", "a", "b \"c\" \\ \\d", "", NULL);
    splits("a\\ b c'd 'e\"f\"", "a b", "cd ef", NULL);
    splits("\\'a\\\" $X *", "'a\"", "$X", "*", NULL);
}

static void what_is_no_command(void **state)
{
    (void)state;
    char **list = NULL;
    struct err e = {0};
    assert_int_equal(words_split(" \t", &list, &e), -ERR_USAGE);
    assert_string_equal(e.msg, "there is no program in it");
    assert_int_equal(words_split("app 'it", &list, &e), -ERR_USAGE);
    assert_string_equal(e.msg, "the quote before 'it' is not closed");
    assert_string_equal(e.hint, "close it, or write \\' for the character itself");
    assert_int_equal(words_split("app \\", &list, &e), -ERR_USAGE);
    assert_null(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_and_quotes),
        cmocka_unit_test(what_is_no_command),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
