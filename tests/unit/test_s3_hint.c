#include "common/store/s3_answer.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void becomes(const char *hint, const char *want)
{
    struct err e;
    (void)err_set(&e, ERR_NET, "it failed");
    (void)err_hint(&e, "%s", hint);
    assert_int_equal(s3_hint_for_url("url", &e), -ERR_NET);
    assert_string_equal(e.hint, want);
    assert_int_equal(s3_hint_for_url("url", &e), -ERR_NET); /* errors are wrapped more than once */
    assert_string_equal(e.hint, want);
    assert_string_equal(e.msg, "it failed");
}

static void hints_of_a_target_that_has_no_section(void **state)
{
    (void)state;
    becomes("if the certificate is your own, write ca-file = /path/of/its/ca.pem in [target url]; skip-verify = yes trusts anybody",
            "if the certificate is your own, append ca-file=/path/of/its/ca.pem to the url; skip-verify=yes trusts anybody");
    becomes("create the bucket a at https://h, or fix bucket = in [target url]",
            "create the bucket a at https://h, or fix the bucket in the url");
    becomes("check endpoint and bucket in [target url] and this machine's DNS", "check endpoint and bucket in the url and this machine's DNS");
    becomes("the bucket is in region eu-x: write region = eu-x in [target url]", "the bucket is in region eu-x: append region=eu-x to the url");
    becomes("if the server speaks TLS, write endpoint = https://... in [target url]",
            "if the server speaks TLS, append endpoint=https://... to the url");
    becomes("set the clock of this machine", "set the clock of this machine");
    becomes("", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(hints_of_a_target_that_has_no_section)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
