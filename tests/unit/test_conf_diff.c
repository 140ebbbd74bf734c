#include "common/format/conf.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "common/base/fsx.h"

#define TARGET "[target t]\ntype = file\npath = /backup\n"
#define SECRET_TARGET(secret) \
    "[target s]\ntype = s3\nbucket = bucket\naccess-key-id = k\nsecret-access-key = " secret "\n"

static struct conf *parse(const char *text)
{
    struct conf *c = NULL;
    cleanup_buf struct buf errors = BUF_INIT;
    if (conf_parse("x.ini", text, strlen(text), &c, &errors, NULL) < 0)
        fail_msg("%s", buf_str(&errors));
    return c;
}

/* "section key from to restart" for each change */
static void expect(const char *before, const char *after, const char *const *lines)
{
    struct conf *a = parse(before), *b = parse(after);
    struct conf_change *list;
    size_t n;
    conf_diff(a, b, &list, &n);
    for (size_t i = 0; i < n; i++) {
        const struct conf_change *c = &list[i];
        cleanup_free char *line = util_printf("%s|%s|%s|%s|%d", c->section, c->key ? c->key : "-", c->from ? c->from : "-",
                                              c->to ? c->to : "-", (int)c->restart);
        if (!lines[i])
            fail_msg("one too many: %s", line);
        assert_string_equal(line, lines[i]);
    }
    assert_null(lines[n]);
    conf_diff_free(list, n);
    conf_free(a);
    conf_free(b);
}

static void what_is_the_same_is_no_change(void **state)
{
    (void)state;
    expect(TARGET, TARGET, (const char *[]){NULL});
    expect("", "", (const char *[]){NULL});
    /* order and comments are nothing, nor are two ways to write one path */
    expect(TARGET "[walsup]\nretention = 7d\nworkers = 3\n", "; x\n[walsup]\nworkers = 3\nretention = 7d\n" TARGET, (const char *[]){NULL});
    expect(TARGET "[db a]\npath = /d/a.db\ntarget = t\n", TARGET "[db a]\npath = //d/./a.db\ntarget = t\n",
           (const char *[]){NULL});
}

static void each_key_and_section_that_differs_is_one(void **state)
{
    (void)state;
    expect(TARGET "[db a]\npath = /a.db\ntarget = t\nretention = 7d\n[db gone]\npath = /g.db\ntarget = t\n",
           TARGET "[walsup]\nworkers = 8\n[db a]\npath = /a.db\ntarget = t\nretention = 14d\nsync-interval = 5s\n"
                  "[db new]\npath = /n.db\ntarget = t\n[replica a@t]\nsync-interval = 1m\n",
           (const char *[]){"walsup|-|-||0", "db a|sync-interval|-|5s|0", "db a|retention|7d|14d|0", "db gone|-||-|0", "db new|-|-||0",
                            "replica a@t|-|-||0", NULL});
    expect("[walsup]\nworkers = 3\nlog-level = info\n", "[walsup]\nworkers = 8\n",
           (const char *[]){"walsup|log-level|info|-|0", "walsup|workers|3|8|1", NULL});
}

static void a_secret_is_said_to_differ_and_not_shown(void **state)
{
    (void)state;
    expect(SECRET_TARGET("geheim1"), SECRET_TARGET("geheim2"),
           (const char *[]){"target s|secret-access-key|********|********|0", NULL});
}

static void a_configuration_is_judged_with_a_file_that_is_not_there_and_without_one_that_is(void **state)
{
    (void)state;
    char dir[] = "/tmp/walsup-conf-XXXXXX";
    struct err e = {0};
    struct conf *c = NULL;
    cleanup_buf struct buf errors = BUF_INIT;
    assert_non_null(mkdtemp(dir));
    cleanup_free char *top = util_printf("%s/walsup.ini", dir);
    cleanup_free char *a = util_printf("%s/a.inc", dir);
    cleanup_free char *b = util_printf("%s/b.inc", dir);
    cleanup_free char *text = util_printf("[walsup]\ninclude = %s/*.inc\n" TARGET, dir);
    static const char db_a[] = "[db a]\npath = /a.db\ntarget = t\n", db_b[] = "[db b]\npath = /b.db\ntarget = t\n";
    assert_int_equal(fsx_publish(top, text, strlen(text), 0600, 0, &e), 0);
    assert_int_equal(fsx_publish(a, db_a, strlen(db_a), 0600, 0, &e), 0);
    assert_int_equal(conf_load_with(top, b, db_b, &c, &errors, &e), 0);
    assert_non_null(conf_find_db(c, "a"));
    assert_string_equal(conf_find_db(c, "b")->origin.file, b);
    conf_free(c);
    assert_int_equal(conf_load_with(top, a, db_b, &c, &errors, &e), 0); /* in place of what it has */
    assert_null(conf_find_db(c, "a"));
    assert_non_null(conf_find_db(c, "b"));
    conf_free(c);
    assert_int_equal(conf_load_with(top, a, NULL, &c, &errors, &e), 0);
    assert_int_equal(c->n_dbs, 0);
    conf_free(c);
    assert_int_equal(conf_load_with(top, b, db_a, &c, &errors, &e), -ERR_CONFIG); /* twice */
    assert_non_null(strstr(buf_str(&errors), "b.inc:1: duplicate section [db a], first at "));
    assert_int_not_equal(access(b, F_OK), 0);
    assert_int_equal(fsx_unlink(a, &e) | fsx_unlink(top, &e), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void a_pattern_in_a_directory_that_is_not_there_matches_nothing(void **state)
{
    (void)state;
    char dir[] = "/tmp/walsup-conf-XXXXXX";
    struct err e = {0};
    struct conf *c = NULL;
    assert_non_null(mkdtemp(dir));
    cleanup_free char *top = util_printf("%s/walsup.ini", dir);
    cleanup_free char *text = util_printf("[walsup]\ninclude = %s/none/*.ini\n" TARGET, dir);
    assert_int_equal(fsx_publish(top, text, strlen(text), 0600, 0, &e), 0);
    assert_int_equal(conf_load(top, &c, NULL, &e), 0);
    conf_free(c);
    assert_int_equal(fsx_unlink(top, &e), 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_the_same_is_no_change),
        cmocka_unit_test(each_key_and_section_that_differs_is_one),
        cmocka_unit_test(a_secret_is_said_to_differ_and_not_shown),
        cmocka_unit_test(a_configuration_is_judged_with_a_file_that_is_not_there_and_without_one_that_is),
        cmocka_unit_test(a_pattern_in_a_directory_that_is_not_there_matches_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
