/* What a configuration takes from outside of its text: included files, who may read them, the environment. */
#include "tests/unit/conf_harness.h"

#include <sys/stat.h>

#include "common/base/fsx.h"

static void includes_and_readable_secrets(void **state)
{
    (void)state;
    char dir[] = "/tmp/walsup-conf-XXXXXX";
    struct err e = {0};
    struct conf *c = NULL;
    cleanup_buf struct buf errors = BUF_INIT;
    assert_non_null(mkdtemp(dir));
    cleanup_free char *top = util_printf("%s/walsup.ini", dir);
    cleanup_free char *inc1 = util_printf("%s/1.inc", dir);
    cleanup_free char *inc2 = util_printf("%s/2.inc", dir);
    cleanup_free char *text = util_printf("[walsup]\ninclude = %s/*.inc\n" FILE_T, dir);
    assert_int_equal(conf_load(top, &c, &errors, &e), -ERR_NOTFOUND);
    errors.len = 0;
    assert_int_equal(fsx_publish(top, text, strlen(text), 0644, 0, &e), 0);
    assert_int_equal(conf_load(top, &c, &errors, &e), 0); /* a pattern may match nothing */
    conf_free(c);
    assert_int_equal(fsx_publish(inc1, DB "f\n", strlen(DB "f\n"), 0644, 0, &e), 0);
    assert_int_equal(conf_load(top, &c, &errors, &e), 0);
    assert_int_equal(c->n_files, 2);
    assert_string_equal(c->db[0].origin.file, inc1);
    conf_free(c);
    assert_int_equal(fsx_publish(inc2, S3 "access-key-id=a\nsecret-access-key=geheim\n",
                                 strlen(S3 "access-key-id=a\nsecret-access-key=geheim\n"), 0644, 0,
                                 &e), 0);
    assert_int_equal(chmod(inc2, 0644), 0);
    assert_int_equal(conf_load(top, &c, &errors, &e), -ERR_CONFIG);
    assert_non_null(strstr(buf_str(&errors), "chmod 640"));
    assert_null(strstr(buf_str(&errors), "geheim"));
    assert_int_equal(chmod(inc2, 0640), 0);
    assert_int_equal(conf_load(top, &c, NULL, NULL), 0);
    conf_free(c);
    assert_int_equal(fsx_publish(inc2, "x\n[db a]\n", 9, 0644, FSX_REPLACE, &e), 0);
    errors.len = 0;
    assert_int_equal(conf_load(top, &c, &errors, &e), -ERR_CONFIG);
    assert_non_null(strstr(buf_str(&errors), "2.inc:2: duplicate section [db a], first at "));
    assert_int_equal(conf_load(dir, &c, &errors, &e), -ERR_CONFIG); /* a directory */
    assert_int_equal(fsx_unlink(inc1, &e) | fsx_unlink(inc2, &e) | fsx_unlink(top, &e), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void variables_of_the_environment_are_expanded_in_every_value(void **state)
{
    (void)state;
    (void)setenv("WALSUP_T_BUCKET", "litestream", 1);
    (void)setenv("WALSUP_T_DIR", "/srv/a; b", 1);
    (void)setenv("WALSUP_T_SECRET", "se#cret;x", 1);
    (void)setenv("WALSUP_T_TIME", "7s", 1);
    (void)unsetenv("WALSUP_T_NONE");
    struct conf *c = good("[walsup]\nsync-interval = ${WALSUP_T_TIME}\n[target t]\ntype = s3\nendpoint = https://s3.example.com\n"
                          "bucket = ${WALSUP_T_BUCKET}\npath = a/${WALSUP_T_BUCKET}/${WALSUP_T_TIME}\naccess-key-id = a$b$${c}$$$d\n"
                          "secret-access-key = ${WALSUP_T_SECRET}\n[db a]\npath = ${WALSUP_T_DIR}/x.db\ntarget = t\n");
    assert_string_equal(c->target[0].bucket, "litestream");
    assert_string_equal(c->target[0].path, "a/litestream/7s");
    assert_string_equal(c->target[0].access_key_id, "a$b${c}$$$d");
    assert_string_equal(secret_reveal(c->target[0].secret_access_key), "se#cret;x");
    assert_string_equal(c->db[0].path, "/srv/a; b/x.db");
    assert_int_equal(c->db[0].replica[0].sync_interval_ms, 7000);
    /* the secret is no longer where others see it, and is found again at the next reload; what is no secret stays */
    assert_string_equal(getenv("WALSUP_T_SECRET"), "");
    assert_string_equal(getenv("WALSUP_T_BUCKET"), "litestream");
    (void)conf_free(c);
    c = good(S3 "access-key-id = k\nsecret-access-key = ${WALSUP_T_SECRET}\n" DB "t\n");
    assert_string_equal(secret_reveal(c->target[0].secret_access_key), "se#cret;x");
    (void)conf_free(c);
}

static void a_variable_that_is_not_set_is_named_with_file_line_and_key(void **state)
{
    (void)state;
    (void)unsetenv("WALSUP_T_NONE");
    (void)setenv("WALSUP_T_EMPTY", "", 1);
    (void)setenv("WALSUP_T_QUOTED", "\"k\"", 1);
    (void)setenv("WALSUP_T_LINES", "a\nb", 1);
    bad(1, S3 "storage-class = x${WALSUP_T_NONE}\n" DB "t\n", "x.ini:5: storage-class: ${WALSUP_T_NONE} is not set in the "
        "environment (set WALSUP_T_NONE, for the service in /etc/walsup.env; for the text itself write $${WALSUP_T_NONE})", NULL);
    bad(1, S3 "storage-class = ${WALSUP_T_EMPTY}\n" DB "t\n", "x.ini:5: storage-class: ${WALSUP_T_EMPTY} is empty in the", NULL);
    bad(1, S3 "storage-class = ${WALSUP_T_QUOTED}\n" DB "t\n", "x.ini:5: storage-class is in quotes", NULL);
    bad(1, S3 "storage-class = ${WALSUP_T_LINES}\n" DB "t\n", "storage-class: a control character (10) comes out", NULL);
    bad(1, S3 "storage-class = ${WALSUP_T_NONE\n" DB "t\n", "x.ini:5: storage-class: '${WALSUP_T_NONE' has no closing '}'", NULL);
    bad(1, S3 "storage-class = ${9a}\n" DB "t\n", "'${9a}' does not name a variable", "write $${ for '${' itself", NULL);
    bad(1, S3 "storage-class = ${a:-b}\n" DB "t\n", "'${a:-b}' does not name a variable", NULL);
    bad(1, S3 "storage-class = ${}\n" DB "t\n", "'${}' does not name a variable", NULL);
}

static void an_included_file_may_be_named_by_a_variable(void **state)
{
    (void)state;
    char dir[] = "/tmp/walsup-test-conf-XXXXXX";
    struct conf *c = NULL;
    struct err e = {0};
    cleanup_buf struct buf errors = BUF_INIT;
    assert_non_null(mkdtemp(dir));
    (void)setenv("WALSUP_T_INCLUDE", dir, 1);
    cleanup_free char *main_file = util_printf("%s/walsup.ini", dir), *more = util_printf("%s/more.conf", dir);
    const char *text = "[walsup]\ninclude = ${WALSUP_T_INCLUDE}/*.conf\n" S3 "secret-access-key = ${WALSUP_T_KEY}\n"
                       "access-key-id = k\n";
    assert_int_equal(fsx_publish(main_file, text, strlen(text), 0644, FSX_REPLACE, &e), 0);
    assert_int_equal(fsx_publish(more, DB "t\n", strlen(DB "t\n"), 0644, FSX_REPLACE, &e), 0);
    (void)setenv("WALSUP_T_KEY", "hidden", 1);
    /* everybody may read the file: the secret is not in it */
    if (conf_load(main_file, &c, &errors, &e) < 0)
        fail_msg("refused: %s", buf_str(&errors));
    assert_int_equal(c->n_dbs, 1);
    assert_string_equal(secret_reveal(c->target[0].secret_access_key), "hidden");
    (void)conf_free(c);
    (void)unlink(main_file);
    (void)unlink(more);
    (void)rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(includes_and_readable_secrets),
        cmocka_unit_test(variables_of_the_environment_are_expanded_in_every_value),
        cmocka_unit_test(a_variable_that_is_not_set_is_named_with_file_line_and_key),
        cmocka_unit_test(an_included_file_may_be_named_by_a_variable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
