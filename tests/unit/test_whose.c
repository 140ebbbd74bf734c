/* Paths that one owner has made and that lead to another one's files. Needs root, to give files away. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "common/base/fsx.h"
#include "common/base/whose.h"
#include "tests/unit/skipped.h"

enum { EVE = 61001, BOB = 61002 };

static char top[64];

static char *in(const char *name)
{
    return util_printf("%s/%s", top, name);
}

static void dir_of(const char *name, uid_t uid)
{
    cleanup_free char *path = in(name);
    struct err e;
    assert_int_equal(fsx_mkdirs(path, 0755, &e), 0);
    assert_int_equal(chown(path, uid, uid), 0);
}

static void file_of(const char *name, uid_t uid)
{
    cleanup_free char *path = in(name);
    struct err e;
    assert_int_equal(fsx_publish(path, "x", 1, 0600, FSX_REPLACE | FSX_NOSYNC, &e), 0);
    assert_int_equal(chown(path, uid, uid), 0);
}

/* to: below the top, or relative if it begins with a dot */
static void link_of(const char *name, const char *to, uid_t uid)
{
    cleanup_free char *path = in(name), *absolute = in(to);
    (void)unlink(path);
    assert_int_equal(symlink(*to == '.' ? to : absolute, path), 0);
    assert_int_equal(lchown(path, uid, uid), 0);
}

static int make(void **state)
{
    (void)state;
    (void)snprintf(top, sizeof top, "/tmp/walsup-unitXXXXXX");
    if (!mkdtemp(top))
        return 1;
    dir_of("eve", EVE);
    dir_of("eve/d", EVE);
    dir_of("bob", BOB);
    file_of("eve/own.db", EVE);
    file_of("eve/d/own.db", EVE);
    file_of("bob/his.db", BOB);
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    cleanup_free char *cmd = util_printf("rm -rf '%s'", top);
    return system(cmd);
}

/* What is at its end is the file of that name, or: it is refused and the sentence has `why`. */
static void follows(const char *path, const char *to)
{
    cleanup_free char *whole = in(path), *file = in(to);
    struct stat st, want;
    struct err e = {0};
    if (whose_below(strlen(top), whole, &st, &e) < 0)
        fail_msg("%s: %s", path, e.msg);
    assert_int_equal(stat(file, &want), 0);
    assert_true(st.st_ino == want.st_ino && st.st_dev == want.st_dev);
}

static void refuses(const char *path, const char *why)
{
    cleanup_free char *whole = in(path);
    struct stat st;
    struct err e = {0};
    assert_int_equal(whose_below(strlen(top), whole, &st, &e), -ERR_PERM);
    if (!strstr(e.msg, why) || !*e.hint)
        fail_msg("%s: %s (%s)", path, e.msg, e.hint);
}

static void links_within_what_is_ones_own_are_followed(void **state)
{
    (void)state;
    follows("eve/own.db", "eve/own.db");
    link_of("eve/a.db", "eve/d/own.db", EVE);
    follows("eve/a.db", "eve/d/own.db");
    link_of("eve/b.db", "./d/../a.db", EVE);
    follows("eve/b.db", "eve/d/own.db");
    link_of("eve/e", "eve/d", EVE);
    follows("eve/e/own.db", "eve/d/own.db");
}

static void links_of_root_lead_anywhere(void **state)
{
    (void)state;
    link_of("eve/r.db", "bob/his.db", 0);
    follows("eve/r.db", "bob/his.db");
    link_of("eve/rd", "bob", 0);
    follows("eve/rd/his.db", "bob/his.db");
}

static void a_link_to_somebody_elses_file_is_refused(void **state)
{
    (void)state;
    link_of("eve/c.db", "bob/his.db", EVE);
    refuses("eve/c.db", "symbolic link of uid 61001, but belongs to uid 61002");
    link_of("eve/f", "bob", EVE);
    refuses("eve/f/his.db", "symbolic link of uid 61001, but belongs to uid 61002");
    link_of("bob/back.db", "bob/his.db", BOB);
    link_of("eve/g.db", "bob/back.db", EVE);
    refuses("eve/g.db", "symbolic links of uid 61001");
    link_of("eve/by-root.db", "eve/c.db", 0);
    refuses("eve/by-root.db", "symbolic link of uid 61001");
}

static void a_second_name_in_somebody_elses_directory_is_refused(void **state)
{
    (void)state;
    cleanup_free char *his = in("bob/his.db"), *hers = in("eve/hard.db"), *own = in("eve/own.db"), *twin = in("eve/twin.db");
    assert_int_equal(link(his, hers) | link(own, twin), 0);
    refuses("eve/hard.db", "in a directory of uid 61001, but belongs to uid 61002");
    follows("eve/twin.db", "eve/own.db");
    follows("bob/his.db", "bob/his.db");
    assert_int_equal(unlink(hers), 0);
}

static void what_is_not_there_and_a_circle(void **state)
{
    (void)state;
    struct stat st;
    struct err e = {0};
    cleanup_free char *none = in("eve/none.db"), *circle = in("eve/circle.db"), *below = in("eve/own.db/x");
    assert_int_equal(whose_below(strlen(top), none, &st, &e), -ERR_NOTFOUND);
    link_of("eve/circle.db", "eve/circle.db", EVE);
    assert_int_equal(whose_below(strlen(top), circle, &st, &e), -ERR_IO);
    assert_int_equal(whose_below(strlen(top), below, &st, &e), -ERR_NOTFOUND);
}

int main(void)
{
    if (geteuid() != 0) {
        skipped("test_whose: only root can give files to somebody else");
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(links_within_what_is_ones_own_are_followed),
        cmocka_unit_test(links_of_root_lead_anywhere),
        cmocka_unit_test(a_link_to_somebody_elses_file_is_refused),
        cmocka_unit_test(a_second_name_in_somebody_elses_directory_is_refused),
        cmocka_unit_test(what_is_not_there_and_a_circle),
    };
    return cmocka_run_group_tests(tests, make, unmake);
}
