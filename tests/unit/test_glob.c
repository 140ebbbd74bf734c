#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/unit/quick.h"
#include "tests/unit/within.h"

#include "common/base/map.h"
#include "common/format/glob.h"
#include "common/format/name.h"

static bool match(const char *pattern, const char *path)
{
    struct glob *g = NULL;
    struct err e = {0};
    if (glob_new(pattern, &g, &e) < 0)
        fail_msg("%s: %s", pattern, e.msg);
    bool yes = glob_match(g, path);
    assert_null(glob_free(g));
    return yes;
}

static void a_table_of_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *path;
        bool yes;
    } row[] = {
        {"/srv/*.db", "/srv/a.db", true},
        {"/srv/*.db", "/srv/.db", false},
        {"/srv/*.db", "/srv/.a.db", false},
        {"/srv/.*.db", "/srv/.a.db", true},
        {"/srv/*.db", "/srv/x/a.db", false},
        {"/srv/*.db", "/srv/a.dbx", false},
        {"/srv/*.db", "/srvx/a.db", false},
        {"/srv/*.db", "/srv", false},
        {"/srv/*/a.db", "/srv/x/a.db", true},
        {"/srv/*/a.db", "/srv/a.db", false},
        {"/srv/*/a.db", "/srv/x/y/a.db", false},
        {"/srv/**/*.db", "/srv/a.db", true},
        {"/srv/**/*.db", "/srv/x/a.db", true},
        {"/srv/**/*.db", "/srv/x/y/z/a.db", true},
        {"/srv/**/*.db", "/srv/x/.y/a.db", false},
        {"/srv/**/.y/*.db", "/srv/x/.y/a.db", true},
        {"/srv/**/data/*.db", "/srv/a/data/data/b.db", true},
        {"/srv/**/data/**/b.db", "/srv/data/b.db", true},
        {"/srv/**/data/**/b.db", "/srv/x/b.db", false},
        {"/srv/**", "/srv/a/b", true},
        {"/srv/**", "/srv/a", true},
        {"/srv/**", "/srv/.a", false},
        {"/srv/**", "/srv", false},
        {"/**/*.db", "/a.db", true},
        {"/**/*.db", "/x/a.db", true},
        {"/*/a", "/x/a", true},
        {"/srv/a?c", "/srv/abc", true},
        {"/srv/a?c", "/srv/ac", false},
        {"/srv/a?c", "/srv/a\xc3\xa9" "c", true},
        {"/srv/a?c", "/srv/a\xff" "c", true},
        {"/srv/a??c", "/srv/a\xc3\xa9" "c", false},
        {"/srv/[a-c]x", "/srv/bx", true},
        {"/srv/[a-c]x", "/srv/dx", false},
        {"/srv/[!a-c]x", "/srv/dx", true},
        {"/srv/[^a-c]x", "/srv/ax", false},
        {"/srv/[]]x", "/srv/]x", true},
        {"/srv/[]-a]x", "/srv/_x", true},
        {"/srv/[a-]x", "/srv/-x", true},
        {"/srv/[*]", "/srv/*", true},
        {"/srv/[*]", "/srv/a", false},
        {"/srv/[[]a]", "/srv/[a]", true},
        {"/srv/[\xc3\xa0-\xc3\xbf]", "/srv/\xc3\xa9", true},
        {"/srv/[.]a", "/srv/.a", false},
        {"/srv/a*b*c", "/srv/a1b2b3c", true},
        {"/srv/a*b*c", "/srv/a1b2b3", false},
        {"/srv/a**c", "/srv/abbc", true},
        {"/srv/*", "/srv/a.db-wal", false},
        {"/srv/*", "/srv/a.db-shm", false},
        {"/srv/*", "/srv/a.db-journal", false},
        {"/srv/**/*", "/srv/.a.db-litestream/x", false},
        {"/srv/.*/*", "/srv/.a.db-litestream/x", false},
        {"/srv/*", "/srv/a.db.tmp-0123456789abcdef", false},
        {"/srv/*", "/srv/a.db.tmp-0123456789abcde", true},
        {"/srv/*", "/srv/a\nb", true},
        {"/srv/**/*.db", "/srv//a.db", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++)
        if (match(row[i].pattern, row[i].path) != row[i].yes)
            fail_msg("%s %s %s", row[i].pattern, row[i].yes ? "misses" : "takes", row[i].path);
}

static void patterns_that_are_none(void **state)
{
    (void)state;
    struct glob *g = NULL;
    struct err e = {0};
    assert_int_equal(glob_new("/srv/a[b", &g, &e), -ERR_CONFIG);
    assert_int_equal(glob_new("/srv/[]", &g, &e), -ERR_CONFIG);
    char deep[200] = "";
    for (int i = 0; i < 61; i++)
        strcat(deep, "/*");
    assert_int_equal(glob_new(deep, &g, &e), -ERR_CONFIG);
    assert_null(g);
    assert_false(glob_is("/srv/a.db"));
    assert_true(glob_is("/srv/[a]"));
}

static void only_directories_that_can_hold_something_are_entered(void **state)
{
    (void)state;
    struct glob *g = NULL;
    assert_int_equal(glob_new("/srv/t/*/data/**/x*.db", &g, NULL), 0);
    assert_string_equal(glob_base(g), "/srv/t");
    glob_at at = glob_start(g), a = glob_step(g, at, "one", 3);
    assert_true(glob_below(g, a));
    assert_false(glob_below(g, glob_step(g, a, "log", 3)));
    a = glob_step(g, a, "data", 4);
    assert_true(glob_below(g, a));
    assert_false(glob_file(g, a));
    assert_true(glob_file(g, glob_step(g, a, "x.db", 4)));
    a = glob_step(g, a, "deeper", 6);
    assert_true(glob_below(g, a));
    assert_false(glob_file(g, a));
    assert_false(glob_below(g, glob_step(g, at, ".git", 4)));
    glob_free(g);
    assert_int_equal(glob_new("/*.db", &g, NULL), 0);
    assert_string_equal(glob_base(g), "/");
    assert_false(glob_below(g, glob_step(g, glob_start(g), "x", 1)));
    glob_free(g);
    /* a pattern that makes naive matchers take for ever */
    char name[256];
    memset(name, 'a', 255);
    name[255] = '\0';
    cleanup_free char *path = util_printf("/%s/%s/%s/%s", name, name, name, name);
    assert_false(match("/**/**/**/*a*a*a*a*a*a*a*a*a*b", path));
}

/* ---- names --------------------------------------------------------------------------------------- */

static void encoded(const char *rel, const char *want)
{
    cleanup_buf struct buf b = BUF_INIT, back = BUF_INIT;
    name_encode(rel, &b);
    assert_string_equal(buf_str(&b), want);
    assert_true(name_decode(want, &back));
    assert_string_equal(buf_str(&back), rel);
}

static void every_path_has_one_plain_name(void **state)
{
    (void)state;
    encoded("a.db", "a.db");
    encoded("x/y/a_B-9.db", "x/y/a_B-9.db");
    encoded("a b", "a%20b");
    encoded("a%20b", "a%2520b");
    encoded("caf\xc3\xa9", "caf%C3%A9");
    encoded("a\nb", "a%0Ab");
    encoded("\xff\xfe", "%FF%FE");
    encoded(".hidden/..x", "%2Ehidden/%2E.x");
    encoded("...", "%2E..");
    encoded("x/ltx/y", "x/%6Ctx/y");
    encoded("0003/a", "%30003/a");
    encoded("0010/2024", "0010/2024");
    encoded("generations", "%67enerations");
    static const char *const wrong[] = {"",      "/a",   "a/",   "a//b",    ".",    "..",  "a/../b",
                                        ".a",    "%2e",  "%41",  "%2",      "%",    "a%",  "%2F",
                                        "%00",   "a b",  "ltx",  "0001/x",  "a%/b", "%zz", "a/%2E",
                                        "%2E%2E"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        cleanup_buf struct buf b = BUF_INIT;
        if (name_decode(wrong[i], &b))
            fail_msg("'%s' was taken", wrong[i]);
        assert_int_equal(b.len, 0);
    }
}

static void long_components_are_cut_and_joined(void **state)
{
    (void)state;
    char rel[256];
    for (size_t n = 60; n <= 255; n++)
        for (int kind = 0; kind < 4; kind++) {
            memset(rel, kind == 0 ? 'a' : kind == 1 ? '\xc3' : kind == 2 ? '.' : '0', n);
            rel[n] = '\0';
            if (kind == 3 && n > 200)
                memcpy(rel + 197, "0007", 4); /* a piece that would be a level of the replica */
            cleanup_buf struct buf b = BUF_INIT, back = BUF_INIT;
            name_encode(rel, &b);
            const char *s = buf_str(&b);
            for (const char *p = s; *p;) {
                size_t len = strcspn(p, "/");
                assert_within(len, 1, NAME_PIECE_BYTES);
                assert_int_not_equal(*p, '.');
                p += len + (p[len] == '/');
            }
            assert_true(name_decode(s, &back));
            assert_string_equal(buf_str(&back), rel);
        }
    cleanup_buf struct buf b = BUF_INIT;
    memset(rel, 'a', 201);
    memcpy(rel + 197, "ltx", 4);
    name_encode(rel, &b);
    assert_string_equal(buf_str(&b) + 197, "%/%6Ctx");
}

static void random_paths_go_there_and_back(void **state)
{
    (void)state;
    const int rounds = quick("9 of 10 random paths") ? 2000 : 20000;
    for (int round = 0; round < rounds; round++) {
        char rel[600];
        size_t n = 1 + (size_t)util_random_below(sizeof rel - 2);
        util_random(rel, n);
        for (size_t i = 0; i < n; i++) {
            static const char often[] = "./%a0ltx";
            if (util_random_below(3) == 0)
                rel[i] = often[util_random_below(sizeof often - 1)];
            rel[i] = rel[i] ? rel[i] : 'z';
            if (rel[i] == '/' && (i == 0 || i == n - 1 || rel[i - 1] == '/'))
                rel[i] = 'x';
        }
        rel[n] = '\0';
        bool dots = false; /* "." and ".." are no names of files */
        for (const char *p = rel; *p;) {
            size_t len = strcspn(p, "/");
            dots = dots || (len <= 2 && !memcmp(p, "..", len));
            p += len + (p[len] == '/');
        }
        if (dots)
            continue;
        cleanup_free char *name = name_make("a/{section}/{path}/b", "sec", rel);
        assert_int_equal(strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                      "._-%/"),
                         strlen(name));
        cleanup_free char *back = name_split("a/{section}/{path}/b", "sec", name);
        assert_non_null(back);
        assert_string_equal(back, rel);
        cleanup_free char *dir = name_dir(name);
        assert_null(strchr(dir, '/'));
        assert_within(strlen(dir), 1, 255);
        cleanup_free char *from_dir = name_of_dir(dir);
        if (from_dir)
            assert_string_equal(from_dir, name);
        else
            assert_true(strlen(name) > 150);
    }
}

static void templates(void **state)
{
    (void)state;
    struct err e = {0};
    static const char *const good[] = {"{section}/{path}", "{path}", "x/{path}/y", "{path}/{section}",
                                       "x-{section}.d/{path}"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_int_equal(name_check(good[i], &e), 0);
    static const char *const bad[] = {"",         "{section}", "x{path}",    "{path}x", "{path}/",
                                      "/{path}",  "a//{path}", "{path}/{path}", "{name}/{path}",
                                      "a b/{path}", "%/{path}", ".x/{path}",  "a}/{path}"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (name_check(bad[i], &e) != -ERR_CONFIG)
            fail_msg("'%s' was taken", bad[i]);
    (void)name_check("{section}", &e);
    assert_non_null(strstr(e.msg, "same name"));
    cleanup_free char *name = name_make("{section}/{path}", "t", "a b/c.db");
    assert_string_equal(name, "t/a%20b/c.db");
    assert_null(name_split("{section}/{path}", "u", name));
    assert_null(name_split("{section}/{path}", "t", "t/"));
    assert_null(name_split("{section}/{path}", "t", "t"));
    cleanup_free char *p = name_prefix("x/{section}/{path}", "t"), *q = name_prefix("{path}", "t");
    assert_string_equal(p, "x/t");
    assert_string_equal(q, "");
}

static void state_directories(void **state)
{
    (void)state;
    cleanup_free char *a = name_dir("quadtask"), *b = name_dir("t/a.db"), *c = name_dir("t/l0");
    assert_string_equal(a, "quadtask"); /* as before there were patterns */
    assert_string_equal(b, "t%2Fa.db");
    assert_string_equal(c, "t%2Fl0");
    char name[700];
    memset(name, 'a', sizeof name);
    memcpy(name, "t/", 2);
    name[690] = '\0';
    cleanup_free char *d = name_dir(name);
    name[689] = 'b';
    cleanup_free char *f = name_dir(name);
    assert_string_not_equal(d, f);
    assert_null(name_of_dir(d));
}

/* ---- the map they are found by --------------------------------------------------------------------- */

static void a_map_against_an_array(void **state)
{
    (void)state;
    struct map m = MAP_INIT;
    static uint32_t key[5000];
    static bool in[5000];
    size_t n = 0;
    assert_null(map_get(&m, key, sizeof *key));
    assert_null(map_remove(&m, key, sizeof *key));
    for (uint32_t i = 0; i < ARRAY_LEN(key); i++)
        key[i] = i;
    for (int round = 0; round < 200000; round++) {
        size_t i = (size_t)util_random_below(ARRAY_LEN(key));
        if (in[i]) {
            assert_ptr_equal(map_get(&m, &key[i], sizeof *key), &key[i]);
            if (util_random_below(2)) {
                assert_ptr_equal(map_remove(&m, &key[i], sizeof *key), &key[i]);
                in[i] = false;
                n--;
            }
        } else {
            assert_null(map_get(&m, &key[i], sizeof *key));
            map_put(&m, &key[i], sizeof *key, &key[i]);
            in[i] = true;
            n++;
        }
        assert_int_equal(m.n, n);
    }
    size_t at = 0, seen = 0;
    for (uint32_t *k; (k = map_next(&m, &at)); seen++)
        assert_true(in[*k]);
    assert_int_equal(seen, n);
    map_put_str(&m, "x", &key[1]);
    map_put_str(&m, "x", &key[2]);
    assert_ptr_equal(map_get_str(&m, "x"), &key[2]);
    assert_ptr_equal(map_remove_str(&m, "x"), &key[2]);
    map_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_of_patterns),
        cmocka_unit_test(patterns_that_are_none),
        cmocka_unit_test(only_directories_that_can_hold_something_are_entered),
        cmocka_unit_test(every_path_has_one_plain_name),
        cmocka_unit_test(long_components_are_cut_and_joined),
        cmocka_unit_test(random_paths_go_there_and_back),
        cmocka_unit_test(templates),
        cmocka_unit_test(state_directories),
        cmocka_unit_test(a_map_against_an_array),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
