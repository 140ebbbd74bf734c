#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/unit/unit_harness.h"

static const char *const sight_name[] = {
    [UNIT_SEES] = "sees", [UNIT_READ_ONLY] = "read-only",
    [UNIT_EMPTY] = "empty", [UNIT_HIDDEN] = "hidden"};

static int begin(void **state)
{
    (void)state;
    static const char *const dirs[] = {"data", "data/in", "data-1", "other", "root", "root/etc"};
    const char *dir = harness_begin();
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
        harness_mkdir(dirs[i]);
    cleanup_free char *link = util_printf("%s/link", dir);
    return symlink("data", link);
}

/* @ in lines, path and by is the directory of the test */
struct row {
    const char *lines, *path;
    enum unit_sight sight;
    const char *by; /* "KEY PATH": the line that decides and the path in it; NULL: not looked at */
};

static void judge(const struct row *row, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct unit *u = harness_unit("walsupd.service", row[i].lines);
        struct unit_view *v = unit_view_new(u);
        const struct unit_line *l = NULL;
        const char *where = NULL;
        cleanup_free char *path = harness_text(row[i].path);
        cleanup_free char *by = row[i].by ? harness_text(row[i].by) : NULL;
        enum unit_sight sight = unit_look(v, path, &l, &where);
        if (sight != row[i].sight)
            fail_msg("%s: %s is %s", row[i].lines, row[i].path, sight_name[sight]);
        if (sight == UNIT_SEES)
            assert_null(l);
        cleanup_free char *found = l ? util_printf("%s %s", l->key, where) : util_strdup("nothing");
        if (by)
            assert_string_equal(found, by);
        (void)unit_view_free(v);
        (void)unit_free(u);
    }
}

static void the_deepest_rule_about_a_path_decides(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"", "@/data/x.db", UNIT_SEES, NULL},
        {"ReadOnlyPaths=@", "@/data/x.db", UNIT_READ_ONLY, "ReadOnlyPaths @"},
        {"ReadOnlyPaths=@\nReadWritePaths=@/data", "@/data/x.db", UNIT_SEES, NULL},
        {"ReadWritePaths=@/data\nReadOnlyPaths=@", "@/data/in/x.db", UNIT_SEES, NULL},
        {"ReadOnlyPaths=@\nReadWritePaths=@/data", "@/other/x.db", UNIT_READ_ONLY,
         "ReadOnlyPaths @"},
        {"ReadOnlyPaths=@/data-1 @\nReadWritePaths=@/data\nReadOnlyPaths=@/data/in",
         "@/data/in/x", UNIT_READ_ONLY,
         "ReadOnlyPaths @/data/in"},
        {"ReadOnlyPaths=@/data-1", "@/data/x.db", UNIT_SEES, NULL},
        {"ReadOnlyPaths=@/data", "@/data-1/x.db", UNIT_SEES, NULL},
        {"ReadOnlyPaths=@/data", "@/data", UNIT_READ_ONLY, "ReadOnlyPaths @/data"},
    };
    judge(row, ARRAY_LEN(row));
}

static void of_one_path_the_stricter_rule_holds_in_any_order(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"ReadOnlyPaths=@/data\nReadWritePaths=@/data", "@/data/x.db", UNIT_READ_ONLY,
         "ReadOnlyPaths @/data"},
        {"ReadWritePaths=@/data\nReadOnlyPaths=@/data", "@/data/x.db", UNIT_READ_ONLY,
         "ReadOnlyPaths @/data"},
        {"InaccessiblePaths=@/data\nReadWritePaths=@/data", "@/data/x.db", UNIT_HIDDEN,
         "InaccessiblePaths @/data"},
        {"BindReadOnlyPaths=@/data\nReadWritePaths=@/data", "@/data/x.db", UNIT_READ_ONLY,
         "BindReadOnlyPaths @/data"},
        {"ReadOnlyPaths=@ @/data\nReadWritePaths=@/data", "@/data/x.db", UNIT_READ_ONLY,
         "ReadOnlyPaths @/data"},
        {"BindPaths=@/data\nInaccessiblePaths=@/data", "@/data/x.db", UNIT_HIDDEN,
         "InaccessiblePaths @/data"},
    };
    judge(row, ARRAY_LEN(row));
}

static void nothing_comes_back_below_what_is_inaccessible(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"InaccessiblePaths=@/data\nReadWritePaths=@/data/in", "@/data/in/x.db", UNIT_HIDDEN,
         "InaccessiblePaths @/data"},
        {"InaccessiblePaths=@/data\nBindPaths=@/data/in", "@/data/in/x.db", UNIT_HIDDEN,
         "InaccessiblePaths @/data"},
        {"InaccessiblePaths=@/data\nTemporaryFileSystem=@/data/in", "@/data/in/x.db", UNIT_HIDDEN,
         "InaccessiblePaths @/data"},
        {"InaccessiblePaths=@/data\nInaccessiblePaths=", "@/data/x.db", UNIT_SEES, NULL},
    };
    judge(row, ARRAY_LEN(row));
}

static void an_empty_directory_has_only_what_is_bound_into_it(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"TemporaryFileSystem=@/data:ro", "@/data/x.db", UNIT_EMPTY, "TemporaryFileSystem @/data"},
        {"TemporaryFileSystem=@/data\nReadWritePaths=@/data/in", "@/data/in/x.db", UNIT_EMPTY,
         "TemporaryFileSystem @/data"},
        {"TemporaryFileSystem=@/data\nReadOnlyPaths=@/data/in", "@/data/in/x.db", UNIT_EMPTY,
         "TemporaryFileSystem @/data"},
        {"TemporaryFileSystem=@/data\nBindPaths=@/data/in", "@/data/in/x.db", UNIT_SEES, NULL},
        {"TemporaryFileSystem=@/data\nBindReadOnlyPaths=@/data/in", "@/data/in/x.db",
         UNIT_READ_ONLY,
         "BindReadOnlyPaths @/data/in"},
        {"TemporaryFileSystem=@/data\nBindPaths=@/data/in", "@/data/x.db", UNIT_EMPTY,
         "TemporaryFileSystem @/data"},
        {"ReadOnlyPaths=@\nBindPaths=@/data/in", "@/data/in/x.db", UNIT_SEES, NULL},
    };
    judge(row, ARRAY_LEN(row));
}

static void what_is_bound_elsewhere_is_seen_there_and_not_where_it_came_from(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"TemporaryFileSystem=@\nBindReadOnlyPaths=@/other:@/data", "@/data/x.db", UNIT_READ_ONLY,
         "BindReadOnlyPaths @/data"},
        {"TemporaryFileSystem=@\nBindReadOnlyPaths=@/other:@/data:rbind", "@/other/x.db",
         UNIT_EMPTY,
         "TemporaryFileSystem @"},
        {"TemporaryFileSystem=@\nBindPaths=@/other:@/nowhere", "@/nowhere/x.db", UNIT_SEES, NULL},
        {"TemporaryFileSystem=@\nBindPaths=-@/nothing:@/data", "@/data/x.db", UNIT_EMPTY,
         "TemporaryFileSystem @"},
    };
    judge(row, ARRAY_LEN(row));
}

static void links_are_followed_in_paths_and_in_rules(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"InaccessiblePaths=@/link", "@/data/x.db", UNIT_HIDDEN, "InaccessiblePaths @/data"},
        {"InaccessiblePaths=@/data", "@/link/x.db", UNIT_HIDDEN, "InaccessiblePaths @/data"},
        {"InaccessiblePaths=@/data", "@/link/not/there/x.db", UNIT_HIDDEN,
         "InaccessiblePaths @/data"},
    };
    judge(row, ARRAY_LEN(row));
}

static void protect_system_at_each_of_its_values(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"ProtectSystem=strict", "@/x", UNIT_READ_ONLY, "ProtectSystem /"},
        {"ProtectSystem=strict", "/dev/null", UNIT_SEES, NULL},
        {"ProtectSystem=strict", "/proc/self", UNIT_SEES, NULL},
        {"ProtectSystem=strict\nReadWritePaths=@", "@/x", UNIT_SEES, NULL},
        {"ProtectSystem=full", "/etc/walsup.ini", UNIT_READ_ONLY, "ProtectSystem /etc"},
        {"ProtectSystem=full", "/usr/x", UNIT_READ_ONLY, "ProtectSystem /usr"},
        {"ProtectSystem=full", "@/x", UNIT_SEES, NULL},
        {"ProtectSystem=on", "/usr/x", UNIT_READ_ONLY, "ProtectSystem /usr"},
        {"ProtectSystem=true", "/etc/walsup.ini", UNIT_SEES, NULL},
        {"ProtectSystem=no", "/usr/x", UNIT_SEES, NULL},
        {"ProtectSystem=strict\nProtectSystem=", "/usr/x", UNIT_SEES, NULL},
    };
    judge(row, ARRAY_LEN(row));
}

static void protect_home_and_private_tmp_close_each_of_their_directories(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"ProtectHome=yes", "/home/ada/notes.db", UNIT_HIDDEN, "ProtectHome /home"},
        {"ProtectHome=1", "/root/notes.db", UNIT_HIDDEN, "ProtectHome /root"},
        {"ProtectHome=read-only", "/home/ada/notes.db", UNIT_READ_ONLY, "ProtectHome /home"},
        {"ProtectHome=read-only", "/root/notes.db", UNIT_READ_ONLY, "ProtectHome /root"},
        {"ProtectSystem=strict\nProtectHome=read-only\nReadWritePaths=/home", "/home/x",
         UNIT_READ_ONLY,
         "ProtectHome /home"},
        {"ProtectHome=tmpfs", "/home/ada/notes.db", UNIT_EMPTY, "ProtectHome /home"},
        {"ProtectHome=tmpfs", "/root/notes.db", UNIT_EMPTY, "ProtectHome /root"},
        {"ProtectHome=no", "/home/ada/notes.db", UNIT_SEES, NULL},
        {"ProtectHome=yes\nReadWritePaths=/home", "/home/ada/notes.db", UNIT_HIDDEN,
         "ProtectHome /home"},
        {"PrivateTmp=yes", "/tmp/notes.db", UNIT_EMPTY, "PrivateTmp /tmp"},
        {"PrivateTmp=yes", "@/x", UNIT_EMPTY, "PrivateTmp /var/tmp"},
        {"PrivateTmp=no", "/tmp/notes.db", UNIT_SEES, NULL},
    };
    judge(row, ARRAY_LEN(row));
}

static void a_dynamic_user_sees_the_system_read_only(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"DynamicUser=yes", "/srv/x.db", UNIT_READ_ONLY, "DynamicUser /"},
        {"DynamicUser=yes\nProtectSystem=no", "/srv/x.db", UNIT_READ_ONLY, "DynamicUser /"},
        {"DynamicUser=yes\nProtectSystem=strict", "/srv/x.db", UNIT_READ_ONLY, "ProtectSystem /"},
        {"DynamicUser=yes\nReadWritePaths=/srv", "/srv/x.db", UNIT_SEES, NULL},
        {"DynamicUser=yes\nReadWritePaths=/root", "/root/x.db", UNIT_READ_ONLY,
         "DynamicUser /root"},
        {"DynamicUser=yes\nProtectHome=yes", "/root/x.db", UNIT_HIDDEN, "ProtectHome /root"},
        {"DynamicUser=yes\nReadWritePaths=/var/tmp", "@/x.db", UNIT_EMPTY, "DynamicUser /var/tmp"},
        {"DynamicUser=no", "/srv/x.db", UNIT_SEES, NULL},
    };
    judge(row, ARRAY_LEN(row));
}

static void directories_that_systemd_makes_can_be_written(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"ProtectSystem=strict\nStateDirectory=walsup", "/var/lib/walsup/x", UNIT_SEES, NULL},
        {"ProtectSystem=strict\nStateDirectory=walsup", "/var/lib/other/x", UNIT_READ_ONLY,
         "ProtectSystem /"},
        {"ProtectSystem=strict\nStateDirectory=a b/c:d", "/var/lib/a/x", UNIT_SEES, NULL},
        {"ProtectSystem=strict\nStateDirectory=a b/c:d", "/var/lib/b/c/x", UNIT_SEES, NULL},
        {"ProtectSystem=strict\nStateDirectory=a b/c:d", "/var/lib/b/x", UNIT_READ_ONLY,
         "ProtectSystem /"},
        {"ProtectSystem=strict\nRuntimeDirectory=walsup", "/run/walsup/sock", UNIT_SEES, NULL},
        {"ProtectSystem=strict\nCacheDirectory=walsup", "/var/cache/walsup/x", UNIT_SEES, NULL},
        {"ProtectSystem=strict\nLogsDirectory=walsup", "/var/log/walsup/x", UNIT_SEES, NULL},
    };
    judge(row, ARRAY_LEN(row));
}

static void in_a_root_of_its_own_there_is_what_lies_or_is_brought_there(void **state)
{
    (void)state;
    static const struct row row[] = {
        {"RootDirectory=@/root", "@/data/x.db", UNIT_HIDDEN, "RootDirectory /"},
        {"RootDirectory=-@/root", "@/data/x.db", UNIT_HIDDEN, "RootDirectory /"},
        {"RootDirectory=@/root", "/etc/not-there", UNIT_SEES, NULL},
        {"RootDirectory=@/root\nBindPaths=@/data", "@/data/x.db", UNIT_SEES, NULL},
        {"RootDirectory=@/root\nBindReadOnlyPaths=@/data", "@/data/x.db", UNIT_READ_ONLY,
         "BindReadOnlyPaths @/data"},
        {"RootDirectory=@/root\nReadWritePaths=@/data", "@/data/x.db", UNIT_HIDDEN,
         "RootDirectory /"},
        {"RootDirectory=@/root\nStateDirectory=walsup", "/var/lib/walsup/x", UNIT_SEES, NULL},
        {"RootDirectory=@/root\nRootDirectory=", "@/data/x.db", UNIT_SEES, NULL},
        {"RootDirectory=/", "@/data/x.db", UNIT_SEES, NULL},
    };
    judge(row, ARRAY_LEN(row));
    struct unit *u = harness_unit("walsupd.service",
                                  "RootDirectory=@/root\nBindPaths=@/data\nReadWritePaths=@/other");
    struct unit_view *v = unit_view_new(u);
    cleanup_free char *bound = harness_text("@/data/x"), *written = harness_text("@/other/x");
    assert_true(unit_brings(v, bound));
    assert_false(unit_brings(v, written));
    (void)unit_view_free(v);
    (void)unit_free(u);
}

static void the_first_path_that_is_missing_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *lines, *missing; /* NULL: nothing is */
    } row[] = {
        {"ReadWritePaths=@/data @/none @/nor-this", "@/none"},
        {"ReadWritePaths=-@/none\nReadOnlyPaths=-@/none\nInaccessiblePaths=-@/none", NULL},
        {"InaccessiblePaths=@/none", "@/none"},
        {"BindPaths=@/none:@/data", "@/none"},
        {"BindReadOnlyPaths=-@/none:@/data", NULL},
        {"BindPaths=@/data:@/none", NULL},
        {"TemporaryFileSystem=@/none", NULL},
        {"ReadWritePaths=+@/none", "@/none"},
        {"ReadWritePaths=@/none\nReadWritePaths=", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct unit *u = harness_unit("walsupd.service", row[i].lines);
        struct unit_view *v = unit_view_new(u);
        const char *path = NULL;
        const struct unit_line *l = unit_view_missing(v, &path);
        cleanup_free char *want = row[i].missing ? harness_text(row[i].missing) : NULL;
        if (!l != !want)
            fail_msg("%s: %s", row[i].lines, l ? path : "nothing is missing");
        if (want)
            assert_string_equal(path, want);
        (void)unit_view_free(v);
        (void)unit_free(u);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, harness_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_deepest_rule_about_a_path_decides),
        TEST(of_one_path_the_stricter_rule_holds_in_any_order),
        TEST(nothing_comes_back_below_what_is_inaccessible),
        TEST(an_empty_directory_has_only_what_is_bound_into_it),
        TEST(what_is_bound_elsewhere_is_seen_there_and_not_where_it_came_from),
        TEST(links_are_followed_in_paths_and_in_rules),
        TEST(protect_system_at_each_of_its_values),
        TEST(protect_home_and_private_tmp_close_each_of_their_directories),
        TEST(a_dynamic_user_sees_the_system_read_only),
        TEST(directories_that_systemd_makes_can_be_written),
        TEST(in_a_root_of_its_own_there_is_what_lies_or_is_brought_there),
        TEST(the_first_path_that_is_missing_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
